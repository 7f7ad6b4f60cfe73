//! When the next attempt of a race begins, when the race has ended, and that it never sends too much.

use proptest::prelude::*;

use super::super::*;
use super::answered;

const SECOND: Duration = Duration::from_secs(1);
const DELAY: Duration = Duration::from_millis(50);

fn policy(attempts: u32, delay: Duration) -> HedgePolicy {
    let policy = HedgePolicy::new(attempts, delay).unwrap();
    policy.on_status(503).unwrap().on_grpc(14).unwrap()
}

/// All that a further attempt needs, at a moment.
fn chance<'a>(policy: &'a HedgePolicy, budget: &'a RetryBudget, now: Duration) -> Chance<'a> {
    Chance {
        policy,
        budget: (budget, &BudgetPolicy::DEFAULT),
        now,
        left: Duration::MAX,
        body: BodySeen::Whole,
        overload: false,
    }
}

fn due(race: &mut Race, chance: &Chance<'_>) -> Due<()> {
    race.handle_due(chance, || Some(()))
}

#[test]
fn each_attempt_begins_a_delay_after_the_one_before_up_to_the_limit() {
    let budget = RetryBudget::default();
    for (attempts, delay) in [(2, DELAY), (5, DELAY), (3, Duration::ZERO)] {
        let policy = policy(attempts, delay);
        let mut race = Race::new(&policy, SECOND);
        let mut now = SECOND;
        for nth in 2..=attempts {
            now += delay;
            assert_eq!(race.due(), Some(now), "{nth}");
            if !delay.is_zero() {
                let early = chance(&policy, &budget, now - Duration::from_nanos(1));
                assert_eq!(due(&mut race, &early), Due::Later);
            }
            let chance = chance(&policy, &budget, now);
            assert_eq!(due(&mut race, &chance), Due::Begin(()));
            assert_eq!(race.open(), nth);
        }
        assert_eq!(race.due(), None);
        let later = chance(&policy, &budget, 10 * SECOND);
        assert_eq!(due(&mut race, &later), Due::Later);
    }
}

#[test]
fn a_further_attempt_is_refused_for_good_without_what_it_needs() {
    let (policy, budget) = (policy(5, DELAY), RetryBudget::default());
    let begin = || Race::new(&policy, Duration::ZERO);
    let whole = chance(&policy, &budget, DELAY);
    let (short, gone, overload) = (
        Chance {
            left: Duration::from_micros(999),
            ..whole
        },
        Chance {
            body: BodySeen::Gone,
            ..whole
        },
        Chance {
            overload: true,
            ..whole
        },
    );
    let none = BudgetPolicy::new(0, SECOND, 0, SECOND).unwrap();
    let poor = Chance {
        budget: (&budget, &none),
        ..whole
    };
    for (chance, why, no_retry) in [
        (short, Refused::Deadline, Some(NoRetry::Spent)),
        (gone, Refused::Body, None),
        (overload, Refused::Overload, Some(NoRetry::Overload)),
        (poor, Refused::Budget, Some(NoRetry::Budget)),
    ] {
        let mut race = begin();
        assert_eq!(due(&mut race, &chance), Due::Refused(why));
        assert_eq!((race.due(), race.open()), (None, 1));
        assert_eq!(race.no_retry(), no_retry, "{why:?}");
        // Nor with all it needs, later.
        assert_eq!(due(&mut race, &whole), Due::Later);
    }
    let mut race = begin();
    let none = race.handle_due(&whole, || None::<()>);
    assert_eq!(none, Due::Refused(Refused::NoEndpoint));
    // What was refused took nothing: the free repeats of the second are all there.
    let taken = (0..100).filter(|_| budget.poll_repeat(&BudgetPolicy::DEFAULT, DELAY));
    assert_eq!(taken.count(), 10);
}

#[test]
fn a_body_that_is_on_its_way_is_waited_for_as_long_as_an_attempt_reads_it() {
    let budget = RetryBudget::default();
    for (delay, look) in [(DELAY, DELAY), (Duration::ZERO, Duration::from_millis(10))] {
        let policy = policy(2, delay);
        let mut race = Race::new(&policy, Duration::ZERO);
        let coming = Chance {
            body: BodySeen::Coming,
            ..chance(&policy, &budget, delay)
        };
        assert_eq!(due(&mut race, &coming), Due::Later);
        assert_eq!(race.due(), Some(delay + look));
        let mut other = race;
        let there = chance(&policy, &budget, delay + look);
        assert_eq!(due(&mut other, &there), Due::Begin(()));
        let lost = AttemptOutcome::Lost(Fault::Endpoint);
        assert_eq!(race.handle_outcome(lost, &coming), Step::Wait);
        assert_eq!(due(&mut race, &coming), Due::Refused(Refused::Body));
    }
}

/// Outcomes of the first of two attempts while none else is under way: whether the race ends, and when the
/// next one begins.
#[test]
fn an_answer_ends_the_race_unless_its_code_is_listed() {
    let hinted = |status, hint| {
        let answer = Answer::new(StatusCode::from_u16(status).unwrap(), None);
        AttemptOutcome::Answered(answer.with_hint(hint))
    };
    let (ms, never) = (Duration::from_millis, Hint::Never);
    let after = |wait| Hint::After(wait);
    let policy = policy(2, DELAY).on_status(429).unwrap();
    let policy = policy.on_grpc(8).unwrap();
    let budget = RetryBudget::default();
    let unseen = AttemptOutcome::Unanswered(Fault::Endpoint, Seen::Never);
    for (outcome, next) in [
        (answered(200, None), None),
        (answered(404, None), None),
        (answered(500, None), None),
        (hinted(200, after(ms(1))), None),
        (answered(503, None), Some(ms(0))),
        (answered(200, Some(14)), Some(ms(0))),
        (answered(200, Some(13)), None),
        (answered(200, Some(8)), None),
        (answered(429, None), None),
        (hinted(429, after(ms(300))), Some(ms(300))),
        (hinted(503, after(ms(300))), Some(ms(300))),
        (hinted(503, after(ms(1_001))), None),
        (hinted(503, never), None),
        (AttemptOutcome::Late, Some(ms(0))),
        (AttemptOutcome::Lost(Fault::Endpoint), Some(ms(0))),
        (AttemptOutcome::Lost(Fault::Connection), Some(ms(0))),
        (AttemptOutcome::Lost(Fault::Crowd), None),
        (AttemptOutcome::Lost(Fault::Caller), None),
        (unseen, Some(ms(0))),
    ] {
        let mut race = Race::new(&policy, Duration::ZERO);
        let now = ms(20);
        let step = race.handle_outcome(outcome, &chance(&policy, &budget, now));
        let wanted = match next {
            None => Step::Finish,
            Some(_) => Step::Wait,
        };
        assert_eq!(step, wanted, "{outcome:?}");
        if let Some(wait) = next {
            assert_eq!(race.due(), Some(now + wait), "{outcome:?}");
        }
    }
}

#[test]
fn other_attempts_are_waited_for_and_a_pause_holds_for_all() {
    let (policy, budget) = (policy(3, DELAY), RetryBudget::default());
    let mut race = Race::new(&policy, Duration::ZERO);
    let at = |now| chance(&policy, &budget, now);
    assert_eq!(due(&mut race, &at(DELAY)), Due::Begin(()));
    let paused = Answer::new(StatusCode::SERVICE_UNAVAILABLE, None);
    let paused = paused.with_hint(Hint::After(SECOND / 2));
    let paused = AttemptOutcome::Answered(paused);
    assert_eq!(race.handle_outcome(paused, &at(DELAY)), Step::Wait);
    assert_eq!(race.due(), Some(DELAY + SECOND / 2));
    // A failure that asks for nothing does not bring it forward.
    let failed = answered(503, None);
    assert_eq!(race.handle_outcome(failed, &at(2 * DELAY)), Step::Wait);
    assert_eq!(race.due(), Some(DELAY + SECOND / 2));
    assert_eq!(race.no_retry(), Some(NoRetry::Spent));
    // One that asks for more time than is left ends it.
    let mut race = Race::new(&policy, Duration::ZERO);
    let short = Chance {
        left: SECOND / 2,
        ..at(DELAY)
    };
    assert_eq!(race.handle_outcome(paused, &short), Step::Finish);
    // One that asks for no other ends it as well, once the others have failed.
    let mut race = Race::new(&policy, Duration::ZERO);
    assert_eq!(due(&mut race, &at(DELAY)), Due::Begin(()));
    let never = Answer::new(StatusCode::SERVICE_UNAVAILABLE, None).with_hint(Hint::Never);
    let never = AttemptOutcome::Answered(never);
    assert_eq!(race.handle_outcome(never, &at(DELAY)), Step::Wait);
    assert_eq!(race.due(), None);
    assert_eq!(race.handle_outcome(failed, &at(DELAY)), Step::Finish);
}

#[test]
fn when_the_time_of_the_request_ends_so_does_the_race() {
    let (policy, budget) = (policy(2, DELAY), RetryBudget::default());
    let mut race = Race::new(&policy, Duration::ZERO);
    let mut at = chance(&policy, &budget, DELAY);
    assert_eq!(due(&mut race, &at), Due::Begin(()));
    at.left = Duration::ZERO;
    let late = AttemptOutcome::Lost(Fault::Crowd);
    assert_eq!(race.handle_outcome(late, &at), Step::Finish);
}

#[test]
fn what_may_do_harm_twice_is_admitted_by_its_policy_alone() {
    let (plain, calls) = (policy(2, DELAY), policy(2, DELAY).with_grpc());
    use http::Method;
    for (method, grpc, policy, wanted) in [
        (Method::GET, false, &plain, Ok(())),
        (Method::HEAD, false, &plain, Ok(())),
        (Method::OPTIONS, false, &plain, Ok(())),
        (Method::PUT, false, &plain, Ok(())),
        (Method::DELETE, false, &plain, Ok(())),
        (Method::POST, false, &plain, Err(Unhedged::Method)),
        (Method::POST, false, &calls, Err(Unhedged::Method)),
        (Method::PATCH, false, &calls, Err(Unhedged::Method)),
        (Method::CONNECT, false, &calls, Err(Unhedged::Method)),
        (Method::POST, true, &plain, Err(Unhedged::Grpc)),
        (Method::POST, true, &calls, Ok(())),
    ] {
        assert_eq!(policy.admits(&method, grpc), wanted, "{method} {grpc}");
    }
    for attempts in [0, 1, 6] {
        assert!(HedgePolicy::new(attempts, DELAY).is_err());
    }
    assert!(HedgePolicy::new(2, 3_601 * SECOND).is_err());
}

/// What may happen to a race.
#[derive(Debug, Clone, Copy)]
enum Event {
    Ends(u8),
    Passes(u16),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0_u8..7).prop_map(Event::Ends),
        (0_u16..200).prop_map(Event::Passes),
    ]
}

fn outcome(kind: u8) -> AttemptOutcome {
    let hinted = |hint| {
        let answer = Answer::new(StatusCode::SERVICE_UNAVAILABLE, None);
        AttemptOutcome::Answered(answer.with_hint(hint))
    };
    match kind {
        0 => answered(503, None),
        1 => AttemptOutcome::Late,
        2 => AttemptOutcome::Lost(Fault::Endpoint),
        3 => AttemptOutcome::Lost(Fault::Crowd),
        4 => hinted(Hint::After(Duration::from_millis(70))),
        5 => hinted(Hint::Never),
        _ => AttemptOutcome::Unanswered(Fault::Endpoint, Seen::Maybe),
    }
}

proptest! {
    /// Many requests of one backend, one after the other: none has more attempts than its policy says, all
    /// together no more than the budget, and each race ends.
    #[test]
    fn attempts_stay_within_the_limit_and_the_budget(
        races in proptest::collection::vec((2_u32..6, 0_u16..80, proptest::collection::vec(event(), 0..12)), 1..40),
        percent in 0_u8..=100,
        free in 0_u32..4,
    ) {
        let of = BudgetPolicy::new(percent, 3_600 * SECOND, free, 3_600 * SECOND).unwrap();
        let (budget, mut now, mut further) = (RetryBudget::default(), SECOND, 0_u64);
        let requests = races.len() as u64;
        for (attempts, delay, events) in races {
            let policy = policy(attempts, Duration::from_millis(delay.into()));
            budget.handle_request(&of, now);
            let (mut race, mut begun, mut ended) = (Race::new(&policy, now), 1_u32, false);
            // What is still under way at the end fails.
            let ends = (0..12).map(|_| Event::Ends(0));
            for event in events.into_iter().chain(ends) {
                let at = |now| Chance { budget: (&budget, &of), ..chance(&policy, &budget, now) };
                if let Event::Passes(millis) = event {
                    now += Duration::from_millis(millis.into());
                }
                while let Due::Begin(()) = due(&mut race, &at(now)) {
                    begun += 1;
                    further += 1;
                }
                prop_assert!(begun <= attempts);
                prop_assert!(race.open() <= begun);
                if race.open() == 0 && race.due().is_none() {
                    ended = true;
                    break;
                }
                if let Event::Ends(kind) = event {
                    if race.open() == 0 {
                        // A pause that a server has asked for.
                        now = race.due().unwrap_or(now).max(now);
                    } else if race.handle_outcome(outcome(kind), &at(now)) == Step::Finish {
                        ended = true;
                        break;
                    }
                }
            }
            prop_assert!(ended, "{race:?}");
        }
        prop_assert!(further <= requests * u64::from(percent) / 100 + u64::from(free) + 1);
    }
}
