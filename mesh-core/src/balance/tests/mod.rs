//! The choice, the breaker and both together, in simulated time.

mod checked;
mod ejected;
mod hashed;
#[cfg(feature = "runtime")]
mod kept;
mod limited;
mod measured;
mod near;
mod shares;
mod turns;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::balance::EndpointSet;
use crate::model::{Conditions, Draw, Endpoint, Transport};

struct Loads(Vec<Option<u32>>);

impl LoadView for Loads {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn availability(&self, index: usize) -> Availability {
        match self.0[index] {
            Some(_) => Availability::Ready,
            None => Availability::Out,
        }
    }

    fn load(&self, index: usize, _: Duration) -> u64 {
        u64::from(self.0[index].unwrap_or_default())
    }

    fn name_hash(&self, index: usize) -> u64 {
        u64::try_from(index).unwrap()
    }
}

/// By least request.
fn pick(
    set: &Arc<EndpointSet>,
    now: Duration,
    tried: &[Arc<EndpointState>],
    draw: &mut Draw,
) -> Result<Picked, NoEndpoint> {
    super::pick(set, Choice::LeastRequest, now, tried, draw)
}

fn p2c(view: &impl LoadView, draw: &mut Draw) -> Option<usize> {
    super::p2c(view, secs(0), draw)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn endpoint(n: u8, ready: bool) -> Endpoint {
    let mut endpoint = Endpoint::new(([10, 0, 0, n], 80).into(), Transport::Plain);
    endpoint.conditions = Conditions::new(Some(ready), None, None);
    endpoint
}

fn set(n: u8) -> Arc<EndpointSet> {
    Arc::new(EndpointSet::build((0..n).map(|n| endpoint(n, true)), None))
}

fn ejecting(n: u8, policy: EjectPolicy) -> Arc<EndpointSet> {
    let set = EndpointSet::build((0..n).map(|n| endpoint(n, true)), None);
    Arc::new(set.with_eject(policy))
}

/// One address in two slices: what can take more stays, whatever the order, with its state.
#[test]
fn an_address_that_is_ready_anywhere_is_ready() {
    let conditions =
        |ready, terminating| Conditions::new(Some(ready), Some(true), Some(terminating));
    let of = |conditions: Conditions, version: &str| Endpoint {
        conditions,
        version: version.into(),
        ..endpoint(1, true)
    };
    let (ready, terminating) = (conditions(true, false), conditions(false, true));
    let gone = Conditions::new(Some(false), Some(false), Some(true));
    let idle = Endpoint {
        weight: 0,
        ..of(ready, "idle")
    };
    for (better, worse) in [
        (of(ready, "new"), of(terminating, "old")),
        (of(ready, "new"), of(gone, "old")),
        (of(terminating, "new"), of(gone, "old")),
        (of(ready, "new"), of(conditions(true, true), "old")),
        (of(terminating, "new"), idle),
    ] {
        for pair in [[&better, &worse], [&worse, &better]] {
            let all = || {
                pair.map(Clone::clone)
                    .into_iter()
                    .chain([endpoint(2, false)])
            };
            let before = EndpointSet::build(all(), None);
            let set = EndpointSet::build(all(), Some(&before));
            let versions: Vec<_> = set.ready().map(|m| &*m.endpoint.version).collect();
            assert_eq!(versions, ["new"], "{pair:?}");
            assert_eq!(set.members().len(), 2);
            assert!(Arc::ptr_eq(
                &set.members()[0].state,
                &before.members()[0].state
            ));
        }
    }
    // Of equals the first stays.
    let set = EndpointSet::build([of(ready, "a"), of(ready, "b")], None);
    assert_eq!(&*set.members()[0].endpoint.version, "a");
}

/// The endpoint of this number, however long the draw takes.
fn pick_nth(set: &Arc<EndpointSet>, n: usize, now: Duration) -> Picked {
    let mut draw = Draw::new(7);
    let wanted = set.members()[n].endpoint.address();
    for _ in 0..10_000 {
        let picked = pick(set, now, &[], &mut draw).unwrap();
        if picked.member().endpoint.address() == wanted {
            return picked;
        }
    }
    panic!("never picked {wanted}");
}

fn fail_until_out(
    set: &Arc<EndpointSet>,
    n: usize,
    policy: &EjectPolicy,
    now: Duration,
) -> Duration {
    for _ in 1..policy.consecutive {
        assert_eq!(pick_nth(set, n, now).failed(now), Ejection::Kept);
    }
    match pick_nth(set, n, now).failed(now) {
        Ejection::Ejected { until } => until,
        Ejection::Kept => panic!("kept"),
    }
}

#[test]
fn two_choices_prefer_the_lighter() {
    let (mut draw, mut hits) = (Draw::new(1), [0_u32; 3]);
    for _ in 0..30_000 {
        hits[p2c(&Loads(vec![Some(1), Some(5), Some(9)]), &mut draw).unwrap()] += 1;
    }
    // Of three pairs the first wins two, the second one, the last none.
    assert!(
        hits[0].abs_diff(20_000) < 500 && hits[1].abs_diff(10_000) < 500,
        "{hits:?}"
    );
    assert_eq!(hits[2], 0);
    let (mut draw, mut hits) = (Draw::new(1), [0_u32; 4]);
    for _ in 0..40_000 {
        hits[p2c(&Loads(vec![Some(0); 4]), &mut draw).unwrap()] += 1;
    }
    assert!(hits.iter().all(|h| h.abs_diff(10_000) < 500), "{hits:?}");
}

proptest! {
    #[test]
    fn what_is_out_is_never_chosen_and_what_is_ready_is_found(
        loads in proptest::collection::vec(proptest::option::of(0_u32..9), 0..12),
        seed: u64,
    ) {
        let view = Loads(loads);
        match p2c(&view, &mut Draw::new(seed)) {
            Some(chosen) => prop_assert!(view.0[chosen].is_some()),
            None => prop_assert!(view.0.iter().all(Option::is_none)),
        }
    }
}

#[test]
fn the_nth_ejection_is_n_times_as_long_up_to_the_longest() {
    let policy = EjectPolicy::default();
    let mut breaker = Breaker::default();
    let mut now = secs(1);
    for n in 1..4 {
        assert_eq!(
            breaker.handle_failure(Failure::Answer, &policy, now, true),
            Ejection::Kept
        );
        assert_eq!(breaker.failures(), n);
    }
    assert!(!breaker.handle_success(now), "it was never out");
    assert_eq!(breaker.failures(), 0, "in a row");
    for _ in 0..4 {
        assert_eq!(
            breaker.handle_failure(Failure::Answer, &policy, now, true),
            Ejection::Kept
        );
    }
    let mut verdict = breaker.handle_failure(Failure::Answer, &policy, now, true);
    for n in 1_u64..=12 {
        let until = now + secs(30 * n).min(secs(300));
        assert_eq!(verdict, Ejection::Ejected { until });
        assert!(!breaker.poll_probe(until - Duration::from_nanos(1)));
        // Stragglers prove nothing, either way.
        assert!(!breaker.handle_success(now));
        assert_eq!(
            breaker.handle_failure(Failure::Answer, &policy, now, true),
            Ejection::Kept
        );
        now = until;
        assert!(breaker.poll_probe(now));
        assert!(!breaker.poll_probe(now), "one probe at a time");
        verdict = breaker.handle_failure(Failure::Answer, &policy, now, true);
    }
}

#[test]
fn a_probe_brings_it_back_and_time_forgives() {
    let policy = EjectPolicy::default();
    let mut breaker = Breaker::default();
    let mut now = secs(0);
    let eject = |breaker: &mut Breaker, now| loop {
        if let Ejection::Ejected { until } =
            breaker.handle_failure(Failure::Answer, &policy, now, true)
        {
            return until;
        }
    };
    let until = eject(&mut breaker, now);
    assert!(breaker.poll_probe(until));
    breaker.handle_cancel();
    assert!(
        breaker.poll_probe(until),
        "a cancelled probe is followed by another"
    );
    assert!(breaker.handle_success(until));
    assert_eq!(breaker.ejected_until(), None);
    now = until + secs(1);
    assert_eq!(
        eject(&mut breaker, now),
        now + secs(60),
        "soon after: longer"
    );
    now += secs(60);
    assert!(breaker.poll_probe(now) && breaker.handle_success(now));
    now += secs(61);
    assert_eq!(
        eject(&mut breaker, now),
        now + secs(30),
        "healthy for as long: as at first"
    );
}

#[test]
fn ejection_can_be_turned_off() {
    let policy = EjectPolicy {
        consecutive: 0,
        ..EjectPolicy::default()
    };
    let mut breaker = Breaker::default();
    for _ in 0..1_000 {
        assert_eq!(
            breaker.handle_failure(Failure::Answer, &policy, secs(0), true),
            Ejection::Kept
        );
    }
}

#[test]
fn one_alone_is_never_ejected() {
    let set = set(1);
    for _ in 0..100 {
        assert_eq!(pick_nth(&set, 0, secs(0)).failed(secs(0)), Ejection::Kept);
    }
    assert_eq!(set.members()[0].state.in_flight(), 0);
}

#[test]
fn an_ejected_endpoint_gets_one_probe_and_nothing_else() {
    let (policy, set) = (EjectPolicy::default(), set(3));
    let until = fail_until_out(&set, 0, &policy, secs(0));
    let mut draw = Draw::new(3);
    for _ in 0..100 {
        let picked = pick(&set, until - Duration::from_millis(1), &[], &mut draw).unwrap();
        assert_ne!(
            picked.member().endpoint.address(),
            set.members()[0].endpoint.address()
        );
    }
    let mut probe = pick(&set, until, &[], &mut draw).unwrap();
    assert!(probe.is_probe() && probe.member().endpoint.address().ip().to_string() == "10.0.0.0");
    for _ in 0..100 {
        assert!(!pick(&set, until, &[], &mut draw).unwrap().is_probe());
    }
    assert!(probe.succeeded(until));
    drop(probe);
    assert!(!set.members()[0].state.is_ejected());
    drop(pick_nth(&set, 0, until));
    assert!(set.members().iter().all(|m| m.state.in_flight() == 0));
}

#[test]
fn a_probe_that_is_dropped_is_followed_by_another() {
    let (policy, set) = (EjectPolicy::default(), set(2));
    let until = fail_until_out(&set, 0, &policy, secs(0));
    let mut draw = Draw::new(3);
    for _ in 0..3 {
        let probe = pick(&set, until, &[], &mut draw).unwrap();
        assert!(probe.is_probe());
        // While it is on its way, others look and find nothing due.
        assert!(!pick(&set, until, &[], &mut draw).unwrap().is_probe());
        drop(probe);
    }
    let mut probe = pick(&set, until, &[], &mut draw).unwrap();
    let Ejection::Ejected { until: later } = probe.failed(until) else {
        panic!("a failed probe ejects again");
    };
    assert_eq!(later, until + secs(60));
    assert!(pick(&set, later, &[], &mut draw).unwrap().is_probe());
}

/// It was not ready when its probe was due, and is ready later.
#[test]
fn an_endpoint_that_was_away_when_its_probe_was_due_comes_back() {
    let (policy, first) = (EjectPolicy::default(), set(3));
    let until = fail_until_out(&first, 0, &policy, secs(0));
    let away = [endpoint(0, false), endpoint(1, true), endpoint(2, true)];
    let away = Arc::new(EndpointSet::build(away, Some(&first)));
    let mut draw = Draw::new(3);
    assert!(!pick(&away, until, &[], &mut draw).unwrap().is_probe());
    let again = Arc::new(EndpointSet::build(
        (0..3).map(|n| endpoint(n, true)),
        Some(&away),
    ));
    assert!(again.members()[0].state.is_ejected());
    assert!(
        pick(&again, until + secs(1), &[], &mut draw)
            .unwrap()
            .is_probe()
    );
}

#[test]
fn a_set_that_shrinks_to_what_was_ejected_still_serves() {
    let (policy, two) = (EjectPolicy::default(), set(2));
    let until = fail_until_out(&two, 0, &policy, secs(0));
    let one = Arc::new(EndpointSet::build([endpoint(0, true)], Some(&two)));
    let mut draw = Draw::new(3);
    let picked = pick(&one, until - secs(1), &[], &mut draw).unwrap();
    assert!(!picked.is_probe());
    let tried = [Arc::clone(&picked.member().state)];
    let none = pick(&one, until - secs(1), &tried, &mut draw);
    assert_eq!(none.unwrap_err(), NoEndpoint::AllOut);
    assert_eq!(
        pick(&set(0), secs(0), &[], &mut draw).unwrap_err(),
        NoEndpoint::NoneReady
    );
}

/// Loads, weights and availability of endpoints.
struct Weighed(Vec<(u64, u32, bool)>);

impl LoadView for Weighed {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn availability(&self, index: usize) -> Availability {
        if self.0[index].2 {
            Availability::Ready
        } else {
            Availability::Out
        }
    }

    fn load(&self, index: usize, _: Duration) -> u64 {
        self.0[index].0
    }

    fn weight(&self, index: usize) -> u32 {
        self.0[index].1
    }

    fn name_hash(&self, index: usize) -> u64 {
        crate::model::mix(u64::try_from(index).unwrap())
    }
}

fn weighed(n: u8, weight: u32, priority: u32) -> Endpoint {
    endpoint(n, true)
        .with_weight(weight)
        .with_priority(priority)
}

#[test]
fn an_idle_set_is_shared_by_weight() {
    let set = Arc::new(EndpointSet::build(
        [weighed(0, 1, 0), weighed(1, 3, 0), weighed(2, 0, 0)],
        None,
    ));
    assert_eq!(set.ready_len(), 2, "a weight of 0 takes none");
    let (mut draw, mut hits) = (Draw::new(5), [0_u32; 3]);
    for _ in 0..40_000 {
        let picked = pick(&set, secs(0), &[], &mut draw).unwrap();
        let SocketAddr::V4(address) = picked.member().endpoint.address() else {
            unreachable!()
        };
        hits[usize::from(address.ip().octets()[3])] += 1;
    }
    // Two draws by weight, of which the first is taken while both are idle.
    assert!(
        hits[0].abs_diff(10_000) < 600 && hits[1].abs_diff(30_000) < 600,
        "{hits:?}"
    );
    assert_eq!(hits[2], 0);
}

#[test]
fn load_counts_for_its_weight() {
    // 9 in flight of weight 10 are less than 1 of weight 1.
    let view = Weighed(vec![(1, 1, true), (9, 10, true)]);
    let mut draw = Draw::new(1);
    for _ in 0..1_000 {
        assert_eq!(super::p2c(&view, secs(0), &mut draw), Some(1));
    }
}

#[test]
fn a_tier_is_used_while_it_offers_an_endpoint() {
    let policy = EjectPolicy {
        consecutive: 1,
        percent: 100,
        ..EjectPolicy::default()
    };
    let set = EndpointSet::build([weighed(0, 1, 7), weighed(1, 1, 2), weighed(2, 1, 2)], None);
    let set = Arc::new(set.with_eject(policy));
    let mut draw = Draw::new(9);
    let mut tier = |tried: &[Arc<EndpointState>]| {
        let picked = pick(&set, secs(0), tried, &mut draw);
        picked.map(|picked| picked.member().endpoint.priority)
    };
    for _ in 0..100 {
        assert_eq!(tier(&[]), Ok(2));
    }
    // Both of the first tier were tried: the next one.
    let tried: Vec<_> = set.members()[1..]
        .iter()
        .map(|m| Arc::clone(&m.state))
        .collect();
    assert_eq!(tier(&tried), Ok(7));
    // Both are ejected: the next one, and the first again once all are.
    for n in [1, 2] {
        pick_nth(&set, n, secs(0)).failed(secs(0));
    }
    for _ in 0..100 {
        assert_eq!(tier(&[]), Ok(7));
    }
    pick_nth(&set, 0, secs(0)).failed(secs(0));
    for _ in 0..100 {
        assert_eq!(tier(&[]), Ok(2));
    }
}

proptest! {
    /// A key stays where it is while endpoints that it does not lead to come and leave.
    #[test]
    fn a_key_moves_only_with_its_endpoint(
        key: u64,
        weights in proptest::collection::vec(1_u32..9, 2..12),
        gone in 0_usize..12,
    ) {
        let all = |out: Option<usize>| {
            let view = weights.iter().enumerate();
            Weighed(view.map(|(n, weight)| (0, *weight, Some(n) != out)).collect())
        };
        let before = consistent_hash(&all(None), key).unwrap();
        let gone = gone % weights.len();
        let after = consistent_hash(&all(Some(gone)), key).unwrap();
        if gone == before {
            prop_assert!(after != gone);
        } else {
            prop_assert_eq!(after, before);
        }
    }
}

#[test]
fn keys_are_shared_by_weight() {
    let view = Weighed(vec![(0, 1, true), (0, 3, true)]);
    let mut hits = [0_u32; 2];
    for key in 0..40_000 {
        let key = crate::model::mix(key);
        hits[consistent_hash(&view, key).unwrap()] += 1;
    }
    assert!(
        hits[0].abs_diff(10_000) < 600 && hits[1].abs_diff(30_000) < 600,
        "{hits:?}"
    );
}

/// The same key leads to the same endpoint in every process: these are its choices.
#[test]
fn a_hash_is_the_same_everywhere() {
    let set = Arc::new(EndpointSet::build((0..5).map(|n| endpoint(n, true)), None));
    let chosen = |key| {
        let picked = super::pick(&set, Choice::Hash(key), secs(0), &[], &mut Draw::new(key));
        picked.unwrap().member().endpoint.address().to_string()
    };
    let first: Vec<_> = (0..4).map(chosen).collect();
    assert_eq!(first, (0..4).map(chosen).collect::<Vec<_>>());
    let distinct: std::collections::BTreeSet<_> = (0..100).map(chosen).collect();
    assert_eq!(distinct.len(), 5);
}
