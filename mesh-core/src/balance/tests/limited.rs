//! How many requests are in flight at once.

use super::*;

fn limited(n: u8, endpoint: u32, service: Option<u32>) -> Arc<EndpointSet> {
    let limits = RequestLimits::new(endpoint, service).unwrap();
    let set = EndpointSet::build((0..n).map(|n| super::endpoint(n, true)), None);
    Arc::new(set.with_limits(limits))
}

fn choices() -> [Choice; 6] {
    [
        Choice::Hash(7),
        Choice::LeastRequest,
        Choice::PeakEwma,
        Choice::Random,
        Choice::RoundRobin,
        Choice::SourceIp,
    ]
}

#[test]
fn what_is_above_the_limits_is_refused_until_one_ends() {
    for choice in choices() {
        for (endpoint, service, most) in
            [(2, None, 6), (2, Some(5), 5), (2, Some(9), 6), (1, None, 3)]
        {
            let set = limited(3, endpoint, service);
            let mut draw = Draw::new(1);
            let mut one = || super::super::pick(&set, choice, secs(1), &[], &mut draw);
            let mut running: Vec<_> = (0..most).map(|_| one().unwrap()).collect();
            assert_eq!(
                one().unwrap_err(),
                NoEndpoint::Full,
                "{choice:?} {endpoint} {service:?}"
            );
            assert_eq!(
                one().unwrap_err(),
                NoEndpoint::Full,
                "a refusal counts for nothing"
            );
            assert!(
                set.members()
                    .iter()
                    .all(|m| m.state.in_flight() <= endpoint)
            );
            running.pop();
            running.push(one().unwrap());
            assert_eq!(one().unwrap_err(), NoEndpoint::Full);
            drop(running);
            assert!(set.members().iter().all(|m| m.state.in_flight() == 0));
            drop(one().unwrap());
        }
    }
}

/// The count is the Service's: it stays where a set is built anew.
#[test]
fn a_set_that_is_replaced_has_the_same_count() {
    let set = limited(3, 9, Some(4));
    let mut draw = Draw::new(1);
    let running: Vec<_> = (0..4)
        .map(|_| pick(&set, secs(1), &[], &mut draw).unwrap())
        .collect();
    let limits = RequestLimits::new(9, Some(4)).unwrap();
    let again = EndpointSet::build((0..5).map(|n| endpoint(n, true)), Some(&set));
    let again = Arc::new(again.with_limits(limits));
    assert_eq!(
        pick(&again, secs(1), &[], &mut draw).unwrap_err(),
        NoEndpoint::Full
    );
    drop(running);
    assert!(pick(&again, secs(1), &[], &mut draw).is_ok());
    // One that began without a limit is not taken off a count that it is not in.
    let free = Arc::new(EndpointSet::build(
        (0..5).map(|n| endpoint(n, true)),
        Some(&again),
    ));
    let begun = pick(&free, secs(1), &[], &mut draw).unwrap();
    let limited = EndpointSet::build((0..5).map(|n| endpoint(n, true)), Some(&free));
    let limited = Arc::new(limited.with_limits(RequestLimits::new(9, Some(1)).unwrap()));
    let one = pick(&limited, secs(1), &[], &mut draw).unwrap();
    drop(begun);
    assert_eq!(
        pick(&limited, secs(1), &[], &mut draw).unwrap_err(),
        NoEndpoint::Full
    );
    drop(one);
    assert!(pick(&limited, secs(1), &[], &mut draw).is_ok());
}

#[test]
fn full_is_told_from_tried_and_ejected() {
    let set = limited(2, 1, None);
    let mut draw = Draw::new(1);
    let held = pick(&set, secs(1), &[], &mut draw).unwrap();
    let all: Vec<_> = set.members().iter().map(|m| Arc::clone(&m.state)).collect();
    assert_eq!(
        pick(&set, secs(1), &all, &mut draw).unwrap_err(),
        NoEndpoint::AllOut
    );
    let other = pick(&set, secs(1), &[], &mut draw).unwrap();
    assert!(!Arc::ptr_eq(&other.member().state, &held.member().state));
    let tried = [Arc::clone(&held.member().state)];
    assert_eq!(
        pick(&set, secs(1), &tried, &mut draw).unwrap_err(),
        NoEndpoint::Full
    );
    // The next tier takes what the first has no room for.
    let members = [weighed(0, 1, 0), weighed(1, 1, 1)];
    let set = EndpointSet::build(members, None).with_limits(RequestLimits::new(1, None).unwrap());
    let set = Arc::new(set);
    let first = pick(&set, secs(1), &[], &mut draw).unwrap();
    let second = pick(&set, secs(1), &[], &mut draw).unwrap();
    assert_eq!(
        [first, second].map(|p| p.member().endpoint.priority),
        [0, 1]
    );
}

/// A probe for which there is no room is not lost: the next request may be it.
#[test]
fn a_probe_waits_for_room() {
    let policy = EjectPolicy {
        consecutive: 1,
        ..EjectPolicy::default()
    };
    let set = EndpointSet::build((0..2).map(|n| endpoint(n, true)), None).with_eject(policy);
    let set = Arc::new(set.with_limits(RequestLimits::new(2, None).unwrap()));
    let (tried, mut draw) = ([Arc::clone(&set.members()[1].state)], Draw::new(1));
    let mut first = || pick(&set, secs(0), &tried, &mut draw).unwrap();
    let (held, mut failing) = (first(), first());
    let Ejection::Ejected { until } = failing.failed(secs(0)) else {
        panic!("kept");
    };
    assert!(!pick(&set, until, &[], &mut draw).unwrap().is_probe());
    drop(failing);
    let probe = pick(&set, until, &[], &mut draw).unwrap();
    assert!(probe.is_probe());
    drop((held, probe));
}

#[test]
fn a_limit_of_nothing_is_refused() {
    assert!(RequestLimits::new(0, None).is_err() && RequestLimits::new(1, Some(0)).is_err());
    assert_eq!(
        RequestLimits::default(),
        RequestLimits::new(1_024, None).unwrap()
    );
}

/// What would be refused is foreseen, and a probe without room too.
#[test]
fn a_limit_is_foreseen() {
    let sees = |set: &EndpointSet, now| {
        let seen = foresee(set, Choice::LeastRequest, now, &mut Draw::new(1));
        seen.map(|member| member.endpoint.address())
    };
    for limits in [(9, Some(2)), (1, None)] {
        let limits = RequestLimits::new(limits.0, limits.1).unwrap();
        let set = EndpointSet::build((0..2).map(|n| endpoint(n, true)), None).with_limits(limits);
        let (set, mut draw) = (Arc::new(set), Draw::new(1));
        let mut next = || pick(&set, secs(0), &[], &mut draw).unwrap();
        let held = [next(), next()];
        assert_eq!(sees(&set, secs(0)), Err(NoEndpoint::Full));
        drop(held);
        assert!(sees(&set, secs(0)).is_ok());
    }
}
