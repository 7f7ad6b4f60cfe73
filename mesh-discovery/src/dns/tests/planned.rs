//! The plan, by table and by property.

use std::time::Duration;

use proptest::prelude::*;

use inmesh_core::model::HostAddress;

use super::super::plan::{Effect, Families, Outcome, Plan};
use super::{address, addresses};

/// A step: when the look-up ends, in ms; what it comes to; what is published, if anything; when
/// the next one is due, in ms.
type Step<'a> = (u64, Outcome, Option<&'a [&'a str]>, u64);

#[track_caller]
fn check(steps: &[Step<'_>]) {
    let mut plan = Plan::new(Duration::ZERO);
    assert_eq!(plan.next(), Duration::ZERO);
    for (n, (at, outcome, published, next)) in steps.iter().enumerate() {
        let effect = plan.handle_outcome(Duration::from_millis(*at), outcome.clone());
        let wanted = match published {
            Some(texts) => Effect::Publish(addresses(texts).into()),
            None => Effect::Keep,
        };
        assert_eq!(effect, wanted, "step {n}");
        assert_eq!(plan.next(), Duration::from_millis(*next), "step {n}");
    }
}

fn answer(texts: &[&str], ttl: u64) -> Outcome {
    Outcome::Answer {
        addresses: addresses(texts),
        ttl: Duration::from_secs(ttl),
    }
}

fn part(texts: &[&str], ttl: u64, families: Families) -> Outcome {
    Outcome::Failure {
        found: addresses(texts),
        ttl: Some(Duration::from_secs(ttl)),
        families,
    }
}

fn fell_back(passed: usize, outcome: Outcome) -> Outcome {
    let outcome = Box::new(outcome);
    Outcome::FellBack { passed, outcome }
}

const A: &[&str] = &["10.0.0.1"];
const B: &[&str] = &["10.0.0.2"];
const GONE: Outcome = Outcome::NxDomain;

#[test]
fn ttls_are_clamped() {
    check(&[
        (0, answer(A, 30), Some(A), 30_000),
        (30_000, answer(A, 0), None, 31_000),
        (31_000, answer(B, 86_400), Some(B), 331_000),
    ]);
}

#[test]
fn answers_are_sorted_and_bounded() {
    check(&[
        (
            0,
            answer(&["10.0.0.2", "10.0.0.1", "10.0.0.2"], 5),
            Some(&["10.0.0.1", "10.0.0.2"]),
            5_000,
        ),
        (5_000, answer(&["10.0.0.1", "10.0.0.2"], 5), None, 10_000),
    ]);
    let many = (0..1_000_u32)
        .map(|n| HostAddress::new(n.to_be_bytes().into()))
        .collect();
    let mut plan = Plan::new(Duration::ZERO);
    let ttl = Duration::from_secs(5);
    let effect = plan.handle_outcome(
        Duration::ZERO,
        Outcome::Answer {
            addresses: many,
            ttl,
        },
    );
    assert!(matches!(effect, Effect::Publish(some) if some.len() == 256));
}

#[test]
fn failures_keep_and_back_off() {
    let fail = Outcome::unknown;
    check(&[
        (0, answer(A, 5), Some(A), 5_000),
        (7_000, fail(), None, 8_000),
        (8_000, fail(), None, 10_000),
        (10_000, fail(), None, 14_000),
        (14_000, fail(), None, 22_000),
        (22_000, fail(), None, 38_000),
        (38_000, fail(), None, 68_000),
        (68_000, fail(), None, 98_000),
        (98_000, answer(A, 5), None, 103_000),
        (103_000, fail(), None, 104_000),
    ]);
}

#[test]
fn a_name_that_is_gone_twice_is_drained() {
    check(&[
        (0, answer(A, 5), Some(A), 5_000),
        (5_000, GONE, None, 10_000),
        (10_000, GONE, Some(&[]), 15_000),
        (15_000, GONE, None, 25_000),
        (25_000, GONE, None, 45_000),
        (45_000, GONE, None, 75_000),
        (75_000, answer(A, 5), Some(A), 80_000),
    ]);
}

#[test]
fn gone_once_or_gone_again_too_soon_drains_nothing() {
    // An answer in between forgets it.
    check(&[
        (0, answer(A, 5), Some(A), 5_000),
        (5_000, GONE, None, 10_000),
        (10_000, answer(A, 5), None, 15_000),
        (15_000, GONE, None, 20_000),
        (20_000, answer(B, 5), Some(B), 25_000),
    ]);
    // Too soon, for every caller.
    check(&[
        (0, answer(A, 5), Some(A), 5_000),
        (5_000, GONE, None, 10_000),
        (9_999, GONE, None, 14_999),
        (14_999, GONE, Some(&[]), 24_998),
    ]);
    // A failure in between says nothing either way.
    check(&[
        (0, answer(A, 5), Some(A), 5_000),
        (5_000, GONE, None, 10_000),
        (10_000, Outcome::unknown(), None, 11_000),
        (11_000, GONE, Some(&[]), 17_000),
    ]);
    // No address in either family is as good as no name.
    check(&[
        (0, answer(A, 5), Some(A), 5_000),
        (5_000, answer(&[], 60), None, 10_000),
        (10_000, GONE, Some(&[]), 15_000),
    ]);
}

#[test]
fn one_family_that_fails_keeps_its_addresses() {
    let both = &["10.0.0.1", "2001:db8::1"];
    check(&[
        (0, answer(both, 60), Some(both), 60_000),
        // IPv4 has changed, IPv6 is not known.
        (
            60_000,
            part(B, 60, Families::V6),
            Some(&["10.0.0.2", "2001:db8::1"]),
            61_000,
        ),
        (
            61_000,
            part(&["2001:db8::2"], 60, Families::V4),
            Some(&["10.0.0.2", "2001:db8::2"]),
            63_000,
        ),
        (63_000, part(B, 1, Families::Both), None, 64_000),
        (64_000, answer(B, 60), Some(B), 124_000),
    ]);
    // Where nothing was known, a part is better than nothing.
    check(&[(0, part(A, 60, Families::Both), Some(A), 1_000)]);
    check(&[
        (0, answer(A, 1), Some(A), 1_000),
        (1_000, GONE, None, 6_000),
        (6_000, GONE, Some(&[]), 11_000),
        (11_000, part(A, 60, Families::Both), Some(A), 12_000),
    ]);
}

/// What was published last is of the group that comes first, or of one behind it.
#[test]
fn targets_that_are_gone_twice_give_way_to_those_behind_them() {
    let back = |texts: &[&str]| fell_back(1, answer(texts, 60));
    check(&[
        (0, answer(A, 5), Some(A), 5_000),
        (5_000, back(B), None, 10_000),
        (10_000, back(B), Some(B), 70_000),
        // They are what serves now, and change as they like; a third group waits its turn.
        (70_000, back(&["10.0.0.3"]), Some(&["10.0.0.3"]), 130_000),
        (130_000, fell_back(2, answer(A, 60)), None, 135_000),
        (135_000, fell_back(2, answer(A, 60)), Some(A), 195_000),
        // A record that precedes it comes back at once.
        (195_000, back(B), Some(B), 255_000),
        (255_000, answer(A, 5), Some(A), 260_000),
    ]);
    // Once is a mistake; too soon is once; a failure says nothing.
    check(&[
        (0, answer(A, 5), Some(A), 5_000),
        (5_000, back(B), None, 10_000),
        (10_000, answer(A, 5), None, 15_000),
        (15_000, back(B), None, 20_000),
        (19_999, back(B), None, 24_999),
        (20_500, Outcome::unknown(), None, 21_500),
        (21_500, back(B), Some(B), 81_500),
    ]);
    // Gone is gone, whether others come behind or not.
    check(&[
        (0, answer(A, 5), Some(A), 5_000),
        (5_000, GONE, None, 10_000),
        (10_000, back(B), Some(B), 70_000),
        (70_000, GONE, None, 75_000),
        (75_000, GONE, Some(&[]), 80_000),
        // Where no host serves, none has to give way.
        (80_000, back(B), Some(B), 140_000),
    ]);
    check(&[(0, back(B), Some(B), 60_000)]);
    // Of those behind only a part is known: it is better than what is gone, and not mixed with it.
    let both = &["10.0.0.1", "2001:db8::1"];
    let half = |texts: &[&str], families| fell_back(1, part(texts, 60, families));
    for families in [Families::V6, Families::Both] {
        check(&[
            (0, answer(both, 5), Some(both), 5_000),
            (5_000, half(B, families), None, 10_000),
            (10_000, fell_back(1, Outcome::unknown()), None, 11_000),
            (11_000, half(B, families), Some(B), 13_000),
        ]);
    }
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    let some = prop::collection::vec((0..4_u8, any::<bool>()), 0..4).prop_map(|list| {
        let text = |(n, v6): &(u8, bool)| {
            if *v6 {
                format!("2001:db8::{n}")
            } else {
                format!("10.0.0.{n}")
            }
        };
        list.iter()
            .map(|one| address(&text(one)))
            .collect::<Vec<_>>()
    });
    let ttl = (0..1_000_u64).prop_map(Duration::from_secs);
    let families = prop_oneof![Just(Families::Both), Just(Families::V4), Just(Families::V6)];
    let outcome = prop_oneof![
        (some.clone(), ttl.clone()).prop_map(|(addresses, ttl)| Outcome::Answer { addresses, ttl }),
        (some, prop::option::of(ttl), families).prop_map(|(found, ttl, families)| {
            Outcome::Failure {
                found,
                ttl,
                families,
            }
        }),
        Just(Outcome::NxDomain),
    ];
    (0..3_usize, outcome).prop_map(|(passed, outcome)| match passed {
        0 => outcome,
        _ => fell_back(passed, outcome),
    })
}

proptest! {
    /// Whatever comes: at most one look-up a second, at least one in 300 s, and endpoints are
    /// drained only by answers that say so twice, 5 s apart.
    #[test]
    fn rates_and_drains_are_bounded(outcomes in prop::collection::vec((any_outcome(), 0..3_000_u64), 1..60)) {
        let mut plan = Plan::new(Duration::ZERO);
        let mut gone_since = None;
        let mut some = false;
        for (outcome, late) in outcomes {
            let now = plan.next() + Duration::from_millis(late);
            let gone = match &outcome {
                Outcome::NxDomain | Outcome::FellBack { .. } => true,
                Outcome::Answer { addresses, .. } => addresses.is_empty(),
                _ => false,
            };
            if gone {
                gone_since.get_or_insert(now);
            }
            let effect = plan.handle_outcome(now, outcome);
            if let Effect::Publish(addresses) = effect {
                if addresses.is_empty() {
                    prop_assert!(gone && now - gone_since.expect("it is gone") >= Duration::from_secs(5));
                } else {
                    gone_since = None;
                }
                some = !addresses.is_empty();
            } else if !gone && some {
                // An answer that changes nothing is an answer too.
                prop_assert!(plan.last().is_some_and(|last| !last.is_empty()));
            }
            let wait = plan.next() - now;
            prop_assert!(wait >= Duration::from_secs(1) && wait <= Duration::from_secs(300));
            prop_assert!(plan.last().is_none_or(|last| last.is_sorted()));
        }
    }
}

/// Two targets of SRV at one place count for both; a change of weight alone is a change.
#[test]
fn weights_are_published() {
    let at = |weight| {
        HostAddress::new([10, 0, 0, 1].into())
            .at_port(80)
            .with_weight(weight)
    };
    let mut plan = Plan::new(Duration::ZERO);
    for (found, wanted) in [
        (vec![at(60)], Effect::Publish([at(60)].into())),
        (vec![at(60), at(120)], Effect::Publish([at(180)].into())),
        (vec![at(180)], Effect::Keep),
        (vec![at(60)], Effect::Publish([at(60)].into())),
    ] {
        let ttl = Duration::from_secs(5);
        let outcome = Outcome::Answer {
            addresses: found,
            ttl,
        };
        assert_eq!(plan.handle_outcome(Duration::ZERO, outcome), wanted);
    }
}
