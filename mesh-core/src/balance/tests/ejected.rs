//! Which endpoints are ejected, and that never more are than may be.

use proptest::strategy::Strategy;

use super::*;

/// What happens to a set.
#[derive(Debug, Clone)]
enum Event {
    /// A request fails, in that way.
    Fails(Failure),
    /// A request is answered as it should be.
    Succeeds,
    /// A request begins that ends later, without a verdict or with a failure.
    Lasts(bool),
    /// The set has other members, each ready or not, and perhaps another limit.
    Changes(Vec<bool>, u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => prop_oneof![
            Just(Failure::Answer),
            Just(Failure::Gateway),
            Just(Failure::LocalOrigin),
        ]
        .prop_map(Event::Fails),
        2 => Just(Event::Succeeds),
        2 => any::<bool>().prop_map(Event::Lasts),
        1 => (proptest::collection::vec(any::<bool>(), 1..24), 0_u8..101)
            .prop_map(|(ready, percent)| Event::Changes(ready, percent)),
    ]
}

fn policy(percent: u8) -> EjectPolicy {
    EjectPolicy {
        percent,
        consecutive: 2,
        gateway: 2,
        local: Some(2),
        interval: secs(60),
        success_rate: Some(SuccessRate::new(500).unwrap().at(Volume::new(2, 2))),
        failure_percentage: Some(FailurePercentage::new(50).unwrap().at(Volume::new(2, 2))),
        ..EjectPolicy::default()
    }
}

fn of(ready: &[bool], policy: EjectPolicy, before: Option<&EndpointSet>) -> Arc<EndpointSet> {
    let members = (0..).zip(ready).map(|(n, ready)| endpoint(n, *ready));
    Arc::new(EndpointSet::build(members, before).with_eject(policy))
}

proptest! {
    /// Whatever happens to a set and to its members: no more than the limit is out, nothing stays in
    /// flight, and each ejected endpoint is probed again.
    #[test]
    fn the_limit_holds_for_any_sequence(
        size in 1_usize..24,
        percent in 0_u8..101,
        events in proptest::collection::vec((event(), 0_u64..40, any::<u64>()), 1..200),
    ) {
        let mut set = of(&vec![true; size], policy(percent), None);
        let mut now = secs(0);
        let mut running: Vec<(Picked, bool)> = Vec::new();
        for (event, wait, seed) in events {
            now += secs(wait);
            let mut draw = Draw::new(seed);
            if let Event::Changes(ready, percent) = &event {
                set = of(ready, policy(*percent), Some(&set));
            }
            if let Ok(mut picked) = pick(&set, now, &[], &mut draw) {
                match event {
                    Event::Fails(failure) => drop(picked.failed_by(failure, now)),
                    Event::Succeeds => drop(picked.succeeded(now)),
                    Event::Lasts(fails) => running.push((picked, fails)),
                    Event::Changes(..) => drop(picked),
                }
            }
            if running.len() > 4 {
                // Begun on a set that may have been replaced.
                let (mut picked, fails) = running.remove(0);
                if fails {
                    picked.failed(now);
                }
                picked.compare(|| now);
            }
            let limit = set.eject().allowed(set.ready_len());
            prop_assert!(set.ejected_len() <= limit, "{} of {limit}", set.ejected_len());
        }
        let states: Vec<_> = set.members().iter().map(|m| Arc::clone(&m.state)).collect();
        drop(running);
        prop_assert!(states.iter().all(|state| state.in_flight() == 0));
        now += secs(302);
        for _ in 0..set.ejected_len() {
            let mut probe = pick(&set, now, &[], &mut Draw::new(1)).unwrap();
            prop_assert!(probe.is_probe());
            prop_assert!(probe.succeeded(now));
        }
        prop_assert_eq!(set.ejected_len(), 0);
    }
}

/// The failures of a breaker, and after which of them it ejects.
fn ejects_at(policy: &EjectPolicy, failures: &[Failure]) -> Option<usize> {
    let mut breaker = Breaker::default();
    let verdicts = failures
        .iter()
        .map(|f| breaker.handle_failure(*f, policy, secs(1), true));
    let verdicts: Vec<_> = verdicts.collect();
    let out = |verdict: &Ejection| matches!(verdict, Ejection::Ejected { .. });
    verdicts.iter().position(out).map(|at| at + 1)
}

#[test]
fn failures_are_counted_by_their_kind() {
    use Failure::{Answer as A, Gateway as G, LocalOrigin as L};
    let of = |consecutive, gateway, local| EjectPolicy {
        consecutive,
        gateway,
        local,
        ..EjectPolicy::default()
    };
    for (policy, failures, wanted) in [
        (of(3, 0, None), [A, G, L, A], Some(3)),
        (of(0, 0, None), [A, G, L, A], None),
        // Answers of its own are no gateway errors, and end their row.
        (of(0, 3, None), [G, L, G, A], Some(3)),
        (of(0, 3, None), [G, G, A, G], None),
        (of(0, 3, None), [A, A, A, A], None),
        // Apart: what is of local origin counts as that alone.
        (of(3, 0, Some(2)), [L, L, A, A], Some(2)),
        (of(3, 0, Some(2)), [L, A, L, A], None),
        (of(3, 0, Some(0)), [L, L, L, L], None),
        (of(3, 3, Some(0)), [L, A, G, A], Some(4)),
        (of(5, 2, Some(9)), [G, L, G, A], Some(3)),
    ] {
        assert_eq!(
            ejects_at(&policy, &failures),
            wanted,
            "{policy:?} {failures:?}"
        );
    }
    // A success ends every row.
    let policy = of(2, 2, Some(2));
    let mut breaker = Breaker::default();
    for failure in [A, G, L, A, G, L] {
        let verdict = breaker.handle_failure(failure, &policy, secs(1), true);
        assert_eq!(verdict, Ejection::Kept);
        assert!(!breaker.handle_success(secs(1)));
    }
}

fn tally(successes: u32, failures: u32) -> Tally {
    Tally {
        successes,
        failures,
    }
}

#[test]
fn the_one_far_below_the_others_is_an_outlier() {
    let by_rate = Some(SuccessRate::new(1_900).unwrap());
    let well = tally(100, 0);
    for (tallies, wanted) in [
        (vec![well; 6], vec![]),
        (vec![well, well, well, well, well, tally(80, 20)], vec![5]),
        // Four and one: the deviation is too large for it to be 1.9 of them below.
        (vec![well, well, well, tally(80, 20), well], vec![3]),
        (vec![tally(80, 20); 6], vec![]),
        // Too few endpoints, or requests.
        (vec![well, well, well, tally(0, 100)], vec![]),
        (vec![well, well, well, well, well, tally(0, 99)], vec![]),
        (
            vec![well, well, well, well, tally(9, 9), tally(9, 9)],
            vec![],
        ),
        (vec![], vec![]),
    ] {
        assert_eq!(outliers(by_rate, None, &tallies), wanted, "{tallies:?}");
    }
    assert_eq!(
        by_rate.map(|by| (by.factor(), by.volume())),
        Some((1_900, Volume::new(5, 100)))
    );
}

#[test]
fn one_that_fails_more_than_its_share_is_an_outlier() {
    let of = |threshold| Some(FailurePercentage::new(threshold).unwrap());
    let well = tally(50, 0);
    for (threshold, bad, wanted) in [
        (85, tally(7, 43), vec![4]),
        (85, tally(15, 85), vec![]),
        (85, tally(14, 86), vec![4]),
        (85, tally(0, 49), vec![]),
        (0, tally(99, 1), vec![4]),
        (100, tally(0, 100), vec![]),
    ] {
        let tallies = [well, well, well, well, bad];
        assert_eq!(
            outliers(None, of(threshold), &tallies),
            wanted,
            "{threshold} {bad:?}"
        );
    }
    // The worst first, and none twice.
    let tallies = [
        tally(10, 90),
        well,
        well,
        tally(0, 100),
        well,
        well,
        well,
        well,
    ];
    let by_rate = Some(SuccessRate::new(100).unwrap().at(Volume::new(5, 50)));
    assert_eq!(outliers(by_rate, of(50), &tallies), [3, 0]);
    assert!(FailurePercentage::new(101).is_err());
    assert!(SuccessRate::new(0).is_err() && SuccessRate::new(10_001).is_err());
    assert_eq!(Volume::new(0, 0), Volume::new(1, 1));
}

/// One of six fails a fifth of its requests, never twice in a row; it is found at the end of the interval.
#[test]
fn endpoints_are_compared_once_in_an_interval() {
    let policy = EjectPolicy {
        success_rate: Some(SuccessRate::new(1_900).unwrap()),
        ..EjectPolicy::default()
    };
    let set = ejecting(6, policy);
    let round = |now: Duration| {
        for n in 0..6 {
            for request in 0..100 {
                let mut picked = pick_nth(&set, n, now);
                if n == 2 && request % 5 == 0 {
                    picked.failed(now);
                } else {
                    picked.succeeded(now);
                }
                drop(picked);
            }
        }
    };
    let compare = |now: Duration| {
        let found = pick(&set, now, &[], &mut Draw::new(1))
            .unwrap()
            .compare(|| now);
        found
            .iter()
            .map(|(m, until)| (m.endpoint.address(), *until))
            .collect::<Vec<_>>()
    };
    assert_eq!(compare(secs(1)), []);
    round(secs(2));
    assert_eq!(compare(secs(10)), [], "the interval has not ended");
    let bad = set.members()[2].endpoint.address();
    assert_eq!(compare(secs(11)), [(bad, secs(41))]);
    assert!(set.members()[2].state.is_ejected());
    assert_eq!(compare(secs(21)), [], "nothing was counted since");
    // What was counted in a longer time than an interval is forgotten.
    let mut probe = pick(&set, secs(41), &[], &mut Draw::new(1)).unwrap();
    assert!(probe.is_probe() && probe.succeeded(secs(41)));
    drop(probe);
    assert_eq!(compare(secs(41)), []);
    round(secs(42));
    assert_eq!(compare(secs(100)), []);
    // Without a policy that compares, no clock is read.
    let picked = pick(&super::set(2), secs(0), &[], &mut Draw::new(1)).unwrap();
    assert!(picked.compare(|| panic!("a clock is read")).is_empty());
}

#[test]
fn below_the_panic_threshold_all_are_used() {
    let of = |panic_percent| EjectPolicy {
        consecutive: 1,
        percent: 100,
        panic_percent,
        ..EjectPolicy::default()
    };
    let used = |set: &Arc<EndpointSet>| {
        let mut draw = Draw::new(3);
        let picked = (0..200).map(|_| pick(set, secs(1), &[], &mut draw).unwrap());
        let at: std::collections::BTreeSet<_> =
            picked.map(|p| p.member().endpoint.address()).collect();
        at.len()
    };
    for (panic_percent, panics_at) in [(0, 4), (50, 3), (51, 2), (100, 1)] {
        let set = ejecting(4, of(panic_percent));
        for out in 1..=4 {
            set.members()[out - 1]
                .state
                .health
                .with(|b| b.handle_failure(Failure::Answer, set.eject(), secs(1), true));
            set.health().probe_by(secs(31));
            let panics = out >= panics_at;
            assert_eq!(set.is_panicking(), panics, "{out} of 4 at {panic_percent}");
            assert_eq!(
                used(&set),
                if panics { 4 } else { 4 - out },
                "{out} at {panic_percent}"
            );
        }
    }
    assert!(!ejecting(4, of(100)).is_panicking());
    assert!(!EndpointSet::default().is_panicking());
}

/// A set that shrinks keeps as many ejected as it may have, those that are out for longest.
#[test]
fn a_set_that_shrinks_has_fewer_ejected() {
    let policy = EjectPolicy {
        consecutive: 1,
        percent: 50,
        ..EjectPolicy::default()
    };
    let set = of(&[true; 6], policy, None);
    for n in 0..3 {
        let now = secs(n.try_into().unwrap());
        assert_ne!(pick_nth(&set, n, now).failed(now), Ejection::Kept);
    }
    // A request that began on the larger set fails when the smaller one is there.
    let mut late = pick_nth(&set, 3, secs(3));
    let small = of(&[true, true, true, true], policy, Some(&set));
    drop(pick(&small, secs(4), &[], &mut Draw::new(1)));
    let out = |set: &EndpointSet| -> Vec<_> {
        set.members().iter().map(|m| m.state.is_ejected()).collect()
    };
    assert_eq!(out(&small), [false, true, true, false]);
    assert_eq!(late.failed(secs(4)), Ejection::Kept);
    // One that is ready again counts again.
    let away = of(&[true, true, true, false, true, true], policy, Some(&small));
    drop(pick(&away, secs(4), &[], &mut Draw::new(1)));
    assert_eq!(away.ejected_len(), 2);
}
