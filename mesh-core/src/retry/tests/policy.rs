//! What a policy has sent again, and what the budget pays for.

use proptest::prelude::*;

use super::super::*;
use super::answered;

const BUDGET: &BudgetPolicy = &BudgetPolicy::DEFAULT;
const SECOND: Duration = Duration::from_secs(1);

fn policy(repeats: u32) -> RetryPolicy {
    RetryPolicy::new(repeats).on_status(503).unwrap()
}

/// A request of a method, kept or not, with all the time there is.
fn repeat<'a>(policy: &'a RetryPolicy, budget: &'a RetryBudget) -> Repeat<'a> {
    Repeat {
        policy,
        budget: (budget, BUDGET),
        now: SECOND,
        left: Duration::MAX,
        idempotent: false,
        kept: true,
    }
}

fn repeats(outcome: AttemptOutcome, repeat: &Repeat<'_>) -> bool {
    let next = Attempts::at_any().handle_outcome(outcome, Some(repeat), &mut Draw::new(1));
    next != Next::Finish
}

#[test]
fn what_was_answered_is_repeated_as_the_policy_covers_it() {
    let budget = RetryBudget::default();
    let grpc = policy(1).on_grpc(14).unwrap();
    for (outcome, wanted) in [
        (answered(503, None), true),
        (answered(502, None), false),
        (answered(200, None), false),
        (answered(200, Some(14)), true),
        (answered(200, Some(13)), false),
        (answered(200, Some(255)), false),
        (AttemptOutcome::Lost(Fault::Caller), false),
    ] {
        assert_eq!(
            repeats(outcome, &repeat(&grpc, &budget)),
            wanted,
            "{outcome:?}"
        );
    }
}

/// What a server may have acted on is repeated if the method is idempotent or the author says so.
#[test]
fn what_was_lost_or_late_is_repeated_where_that_is_safe_or_asked_for() {
    let budget = RetryBudget::default();
    let asked = |status| policy(1).on_status(status).unwrap();
    let lost = [Fault::Connection, Fault::Endpoint].map(AttemptOutcome::Lost);
    for (outcomes, status) in [(&lost[..], 502), (&[AttemptOutcome::Late], 504)] {
        for outcome in outcomes {
            let not_asked = policy(1);
            let mut plain = repeat(&not_asked, &budget);
            assert!(!repeats(*outcome, &plain), "{outcome:?}");
            plain.idempotent = true;
            assert!(repeats(*outcome, &plain), "{outcome:?}");
            assert!(
                repeats(*outcome, &repeat(&asked(status), &budget)),
                "{outcome:?}"
            );
        }
    }
}

#[test]
fn what_is_not_kept_is_repeated_only_if_it_surely_reached_no_server() {
    let (policy, budget) = (policy(1), RetryBudget::default());
    let gone = Repeat {
        kept: false,
        ..repeat(&policy, &budget)
    };
    assert!(!repeats(answered(503, None), &gone));
    let unseen = AttemptOutcome::Unanswered(Fault::Endpoint, Seen::Never);
    assert!(repeats(unseen, &gone));
}

#[test]
fn the_number_of_repeats_holds_for_all_kinds_together() {
    let budget = RetryBudget::default();
    let unseen = AttemptOutcome::Unanswered(Fault::Endpoint, Seen::Never);
    for most in [0, 1, 2, 5] {
        let policy = policy(most);
        let repeat = repeat(&policy, &budget);
        let mut attempts = Attempts::at_any();
        let made = [unseen, answered(503, None)]
            .iter()
            .cycle()
            .take_while(|outcome| {
                let next = attempts.handle_outcome(**outcome, Some(&repeat), &mut Draw::new(1));
                next != Next::Finish
            })
            .count();
        assert_eq!(made, most as usize);
    }
}

#[test]
fn a_server_that_asks_for_a_pause_or_for_none_is_heeded() {
    let (policy, budget) = (policy(1), RetryBudget::default());
    let repeat = repeat(&policy, &budget);
    let next = |hint| {
        let answer = Answer::new(StatusCode::SERVICE_UNAVAILABLE, None).with_hint(hint);
        let outcome = AttemptOutcome::Answered(answer);
        Attempts::at_any().handle_outcome(outcome, Some(&repeat), &mut Draw::new(1))
    };
    assert_eq!(next(Hint::Never), Next::Finish);
    assert_eq!(
        next(Hint::After(PATIENCE + Duration::from_millis(1))),
        Next::Finish
    );
    let wait = PATIENCE;
    assert_eq!(
        next(Hint::After(PATIENCE)),
        Next::Retry { avoid: true, wait }
    );
}

#[test]
fn nothing_is_repeated_that_the_time_of_the_request_does_not_last_for() {
    let (policy, budget) = (policy(1), RetryBudget::default());
    let late = Repeat {
        left: Duration::ZERO,
        ..repeat(&policy, &budget)
    };
    assert!(!repeats(answered(503, None), &late));
    // It has paid nothing.
    let ten = (0..10).filter(|_| repeats(answered(503, None), &repeat(&policy, &budget)));
    assert_eq!(ten.count(), 10);
    assert!(!repeats(answered(503, None), &repeat(&policy, &budget)));
}

#[test]
fn waits_grow_up_to_ten_times_their_base() {
    let base = Duration::from_millis(40);
    let policy = policy(9).with_backoff(base);
    for (nth, most) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (100, 10)] {
        let waits: Vec<_> = (0..1_000)
            .map(|seed| policy.wait(nth, &mut Draw::new(seed)))
            .collect();
        assert!(waits.iter().all(|wait| *wait <= base * most), "{nth}");
        assert!(
            waits.iter().any(|wait| *wait > base * most * 9 / 10),
            "{nth}"
        );
        assert!(waits.iter().any(|wait| *wait < base * most / 10), "{nth}");
    }
}

#[test]
fn values_out_of_bounds_are_refused() {
    let ok = RetryPolicy::new(1);
    for status in [0, 200, 399, 600, 1_000] {
        assert!(ok.clone().on_status(status).is_err(), "{status}");
    }
    for code in [0, 17, 255] {
        assert!(ok.clone().on_grpc(code).is_err(), "{code}");
    }
    for (percent, interval, free, free_interval) in [
        (101, SECOND, 1, SECOND),
        (1, SECOND / 2, 1, SECOND),
        (1, SECOND, 1_000_001, SECOND),
        (1, SECOND, 1, SECOND * 3_601),
    ] {
        assert!(BudgetPolicy::new(percent, interval, free, free_interval).is_err());
    }
}

#[test]
fn what_was_put_aside_is_gone_after_the_interval() {
    let policy = BudgetPolicy::new(100, 10 * SECOND, 0, SECOND).unwrap();
    let budget = RetryBudget::default();
    (0..3).for_each(|_| budget.handle_request(&policy, SECOND));
    assert!(budget.poll_repeat(&policy, SECOND));
    assert!(budget.poll_repeat(&policy, 10 * SECOND));
    assert!(!budget.poll_repeat(&policy, 11 * SECOND));
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Request,
    Repeat,
    Pause(u16),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        5 => Just(Event::Request),
        5 => Just(Event::Repeat),
        1 => (0_u16..3_000).prop_map(Event::Pause),
    ];
    proptest::collection::vec(event, 1..400)
}

proptest! {
    /// In any span of the interval no more than the percentage of the requests of two intervals, and the
    /// free ones; over the whole never more than the percentage of all requests, and the free ones.
    #[test]
    fn repeats_stay_within_the_budget(events in events(), percent in 0_u8..=100, free in 0_u32..5) {
        let policy = BudgetPolicy::new(percent, 10 * SECOND, free, SECOND).unwrap();
        let budget = RetryBudget::default();
        let mut now = Duration::ZERO;
        let (mut requests, mut repeats) = (0_u64, 0_u64);
        for event in events {
            match event {
                Event::Request => {
                    budget.handle_request(&policy, now);
                    requests += 1;
                }
                Event::Repeat => repeats += u64::from(budget.poll_repeat(&policy, now)),
                Event::Pause(millis) => now += Duration::from_millis(millis.into()),
            }
            let free = u64::from(free) * (now.as_secs() + 1);
            prop_assert!(repeats * 100 <= requests * u64::from(percent) + free * 100);
        }
    }
}

/// What a failed answer says to the hop above.
#[test]
fn a_failure_that_is_not_repeated_says_why() {
    let (empty, full) = (RetryBudget::default(), RetryBudget::default());
    while empty.poll_repeat(BUDGET, SECOND) {}
    let none = policy(0);
    let one = policy(1);
    let hinted = |hint| {
        let failed = Answer::new(StatusCode::SERVICE_UNAVAILABLE, None);
        AttemptOutcome::Answered(failed.with_hint(hint))
    };
    let plain = repeat(&one, &full);
    let refused = AttemptOutcome::Unanswered(Fault::Endpoint, Seen::Never);
    for (why, repeat, outcomes) in [
        (None, &plain, vec![answered(200, None)]),
        (None, &plain, vec![answered(500, None)]),
        (None, &repeat(&none, &full), vec![answered(503, None)]),
        (None, &repeat(&none, &full), vec![refused]),
        (
            None,
            &Repeat {
                kept: false,
                ..plain
            },
            vec![answered(503, None)],
        ),
        (
            Some(NoRetry::Budget),
            &repeat(&one, &empty),
            vec![answered(503, None)],
        ),
        (Some(NoRetry::Overload), &plain, vec![hinted(Hint::Never)]),
        (
            Some(NoRetry::Overload),
            &plain,
            vec![hinted(Hint::After(2 * SECOND))],
        ),
        (
            Some(NoRetry::Spent),
            &Repeat {
                left: Duration::ZERO,
                ..plain
            },
            vec![answered(503, None)],
        ),
        (Some(NoRetry::Spent), &plain, vec![answered(503, None); 2]),
        (
            Some(NoRetry::Spent),
            &plain,
            vec![answered(503, None), answered(500, None)],
        ),
        (Some(NoRetry::Spent), &plain, vec![refused; 2]),
    ] {
        let (mut attempts, mut draw) = (Attempts::at_any(), Draw::new(1));
        let ends = outcomes.len() - 1;
        for (nth, outcome) in outcomes.iter().enumerate() {
            let next = attempts.handle_outcome(*outcome, Some(repeat), &mut draw);
            assert_eq!(next == Next::Finish, nth == ends, "{outcomes:?}");
        }
        assert_eq!(attempts.no_retry(), why, "{outcomes:?}");
    }
    // The application behind an agent is one: a stale connection is no repeat of a hop.
    let mut attempts = Attempts::at_one();
    let stale = AttemptOutcome::Unanswered(Fault::Connection, Seen::Never);
    for outcome in [stale, refused] {
        let _next = attempts.handle_outcome(outcome, None, &mut Draw::new(1));
        assert_eq!(attempts.no_retry(), None);
    }
}
