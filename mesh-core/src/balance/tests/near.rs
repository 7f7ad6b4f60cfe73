//! What is near, what each tier takes, and that requests go there.

use super::super::spread::{Part, WHOLE, Zone, spread};
use super::super::strategy::Strategy;
use super::*;
use crate::model::{Distribution, Locality, mix};

fn at(region: &str, zone: &str, node: &str) -> Locality {
    let at = Locality::default().in_region(region).in_zone(zone);
    at.on_node(node)
}

fn placed(n: u8, place: &Locality) -> Endpoint {
    endpoint(n, true).with_locality(Arc::new(place.clone()))
}

fn prefer(levels: &[Level]) -> Nearness {
    Nearness::Prefer(Preference::new(levels.iter().copied()).unwrap())
}

/// The set of endpoints in zones, seen from a zone.
fn zones(zones: &[&str], near: &Nearness, own: &str) -> EndpointSet {
    let members = (0..)
        .zip(zones)
        .map(|(n, zone)| placed(n, &at("", zone, "")));
    EndpointSet::build(members, None).with_nearness(near, &at("", own, ""))
}

/// The name and share of each tier.
fn shares(set: &EndpointSet) -> Vec<(String, u32)> {
    let shares = set.shares().into_iter();
    shares
        .map(|tier| (tier.name.to_string(), tier.permille))
        .collect()
}

fn named(shares: &[(&str, u32)]) -> Vec<(String, u32)> {
    shares
        .iter()
        .map(|(name, share)| ((*name).into(), *share))
        .collect()
}

fn part(priority: u32, rank: usize, all: u64) -> Part {
    Part {
        priority,
        rank,
        all,
        zone: None,
        name: "".into(),
    }
}

/// The tables of Envoy's "Priority levels", healthy endpoints of a hundred in, percent out.
#[test]
fn what_is_too_much_for_the_near_is_sent_farther() {
    for (well, wanted) in [
        (&[100, 100][..], &[100, 0][..]),
        (&[72, 72], &[100, 0]),
        (&[71, 71], &[99, 1]),
        (&[50, 50], &[70, 30]),
        (&[50, 100], &[70, 30]),
        (&[25, 100], &[35, 65]),
        (&[25, 25], &[50, 50]),
        (&[0, 100], &[0, 100]),
        (&[100, 0], &[100, 0]),
        (&[5, 0], &[100, 0]),
        (&[71, 71, 100], &[99, 1, 0]),
        (&[50, 50, 100], &[70, 30, 0]),
        (&[25, 25, 100], &[35, 35, 30]),
        (&[25, 0, 100], &[35, 0, 65]),
        (&[10, 10, 10], &[33, 33, 33]),
        (&[0, 0, 0], &[0, 0, 0]),
    ] {
        let parts: Vec<_> = (0..well.len()).map(|rank| part(0, rank, 100)).collect();
        let shares = spread(&parts, well, (0, 0));
        for (share, wanted) in shares.iter().zip(wanted) {
            let percent = f64::from(*share) * 100.0 / f64::from(WHOLE);
            assert!(
                (percent - f64::from(*wanted)).abs() < 1.0,
                "{well:?}: {shares:?}"
            );
        }
    }
}

/// A later priority waits for all earlier ones, however few of them are well.
#[test]
fn a_priority_is_left_only_when_nothing_in_it_is_well() {
    let parts = [part(0, 0, 10), part(0, 1, 10), part(1, 0, 10)];
    let shares = |well: [u64; 3]| spread(&parts, &well, (0, 0));
    assert_eq!(shares([1, 0, 10]), [WHOLE, 0, 0]);
    assert_eq!(shares([0, 1, 10]), [0, WHOLE, 0]);
    assert_eq!(shares([0, 0, 1]), [0, 0, WHOLE]);
}

#[test]
fn how_near_an_endpoint_is() {
    let own = at("north", "n1", "a");
    let all = [Level::Region, Level::Zone, Level::Node];
    for (levels, of, wanted) in [
        (&all[..], at("north", "n1", "a"), "node"),
        (&all, at("north", "n1", "b"), "zone"),
        (&all, at("north", "n2", "b"), "region"),
        (&all, at("south", "s1", "b"), "elsewhere"),
        // A zone of that name of another region is another zone.
        (&all, at("south", "n1", "b"), "elsewhere"),
        // What is not known is known by what is finer.
        (&all, at("", "n1", "b"), "zone"),
        (&all, at("", "", "a"), "node"),
        (&all, at("", "n2", "b"), "elsewhere"),
        (&all, at("north", "", ""), "region"),
        (&all, at("", "", ""), "elsewhere"),
        (&all[..2], at("north", "n1", "a"), "zone"),
        (&all[1..], at("north", "n2", "b"), "elsewhere"),
        (
            &[Level::Zone, Level::Region],
            at("north", "n2", "b"),
            "elsewhere",
        ),
    ] {
        let Nearness::Prefer(by) = prefer(levels) else {
            unreachable!()
        };
        let name = by.name(by.rank(&own, &of, false));
        assert_eq!(&*name, wanted, "{levels:?} {of:?}");
    }
    let Nearness::Prefer(by) = Nearness::from(Distribution::SameZone) else {
        unreachable!()
    };
    assert_eq!(by.levels(), &all[..2]);
    let Nearness::Prefer(by) = Nearness::from(Distribution::SameNode) else {
        unreachable!()
    };
    assert_eq!(by.levels(), &all);
}

/// Kubernetes says with hints for which zones an endpoint is meant, if it says so of each and one is for
/// this zone.
#[test]
fn hints_say_which_zone_an_endpoint_is_for() {
    let hinted = |n, zone: &str, hints: &[&str]| {
        let hints = hints.iter().map(|hint| Arc::from(*hint));
        placed(n, &at("", zone, "").for_zones(hints))
    };
    for (first, second, wanted) in [
        (("a", &["b"][..]), ("b", &["a"][..]), &[("zone", 1)][..]),
        (("a", &["a", "b"]), ("b", &["a", "b"]), &[]),
        // Not each has some, or none is for this zone: the zones that they are in count.
        (("a", &["b"]), ("b", &[]), &[("zone", 0)]),
        (("a", &["c"]), ("b", &["c"]), &[("zone", 0)]),
    ] {
        let members = [hinted(0, first.0, first.1), hinted(1, second.0, second.1)];
        let set = EndpointSet::build(members, None);
        let set = set.with_nearness(&prefer(&[Level::Zone]), &at("", "a", ""));
        let tiers = set.tier_of();
        let near = set
            .shares()
            .into_iter()
            .enumerate()
            .filter(|(_, tier)| &*tier.name == "zone");
        let near = near.map(|(nth, _)| tiers.iter().position(|of| *of == Some(nth)));
        let wanted: Vec<_> = wanted.iter().map(|(_, place)| Some(*place)).collect();
        assert_eq!(near.collect::<Vec<_>>(), wanted, "{first:?} {second:?}");
    }
}

/// Nothing is prepared, and nothing drawn, where near endpoints are not preferred or all are alike.
#[test]
fn what_sets_nothing_apart_is_as_nothing() {
    let zone = prefer(&[Level::Zone]);
    let few = Nearness::ZoneAware(ZoneAware::new(4));
    for (members, near, own) in [
        (&["a", "b", "b"][..], &Nearness::Anywhere, "a"),
        (&["a", "a"], &zone, "a"),
        (&["b", "c"], &zone, "a"),
        (&["a", "b"], &zone, ""),
        (&["a", "b", "b"], &few, "a"),
        (&["a", "b", "b", "b"], &few, ""),
        (&[], &zone, "a"),
    ] {
        let set = zones(members, near, own);
        assert!(set.spread().is_none(), "{members:?} {near:?}");
        assert_eq!(set.shares(), []);
        let tiers: Vec<_> = set.tiers().map(|tier| tier.len()).collect();
        let wanted = if members.is_empty() {
            vec![]
        } else {
            vec![members.len()]
        };
        assert!(tiers == wanted || members.is_empty(), "{tiers:?}");
    }
}

/// One that is not ready weighs on its zone, one that ends does not: another takes its place.
#[test]
fn the_share_is_of_what_might_be_ready() {
    let mut members: Vec<_> = (0..6)
        .map(|n| placed(n, &at("", if n < 4 { "a" } else { "b" }, "")))
        .collect();
    let zone = prefer(&[Level::Zone]);
    let seen = |members: &[Endpoint]| {
        let set = EndpointSet::build(members.to_vec(), None);
        shares(&set.with_nearness(&zone, &at("", "a", "")))
    };
    assert_eq!(seen(&members), named(&[("zone", 1_000), ("elsewhere", 0)]));
    for member in &mut members[1..4] {
        member.conditions = Conditions::new(Some(false), None, None);
    }
    assert_eq!(seen(&members), named(&[("zone", 350), ("elsewhere", 650)]));
    for member in &mut members[1..4] {
        member.conditions = Conditions::new(Some(false), Some(true), Some(true));
    }
    assert_eq!(seen(&members), named(&[("zone", 1_000), ("elsewhere", 0)]));
    members[1].weight = 9;
    members[1].conditions = Conditions::new(Some(false), None, None);
    assert_eq!(
        seen(&members),
        named(&[("zone", 140), ("elsewhere", 860)]),
        "by weight"
    );
}

/// Ejection moves the share at once, and so does the return.
#[test]
fn the_share_follows_ejections() {
    let policy = EjectPolicy {
        consecutive: 1,
        percent: 100,
        ..EjectPolicy::default()
    };
    let members = ["a", "a", "b", "b", "b"];
    let set = zones(&members, &prefer(&[Level::Zone]), "a").with_eject(policy);
    let (set, mut draw) = (Arc::new(set), Draw::new(1));
    let whole = named(&[("zone", 1_000), ("elsewhere", 0)]);
    assert_eq!(shares(&set), whole);
    let mut picked = pick(&set, secs(0), &[], &mut draw).unwrap();
    let Ejection::Ejected { until } = picked.failed(secs(0)) else {
        panic!("kept")
    };
    drop(picked);
    assert_eq!(shares(&set), named(&[("zone", 700), ("elsewhere", 300)]));
    // A set that takes over has what the one before has, and so has the newest alone from then on.
    let again = (0..)
        .zip(members)
        .map(|(n, zone)| placed(n, &at("", zone, "")));
    let next = EndpointSet::build(again, Some(&set)).with_eject(policy);
    let next = Arc::new(next.with_nearness(&prefer(&[Level::Zone]), &at("", "a", "")));
    assert_eq!(shares(&next), named(&[("zone", 700), ("elsewhere", 300)]));
    assert!(pick(&next, secs(0), &[], &mut draw).is_ok());
    let mut probe = pick(&set, until, &[], &mut draw).unwrap();
    assert!(probe.is_probe() && probe.succeeded(until));
    assert_eq!(shares(&next), whole);
}

/// Where all are ejected they are used as if none were, the near ones first.
#[test]
fn in_a_panic_the_near_come_first() {
    let policy = EjectPolicy {
        consecutive: 1,
        percent: 100,
        ..EjectPolicy::default()
    };
    let set = zones(&["a", "b"], &prefer(&[Level::Zone]), "a").with_eject(policy);
    let (set, mut draw) = (Arc::new(set), Draw::new(1));
    for _ in 0..2 {
        let mut picked = pick(&set, secs(0), &[], &mut draw).unwrap();
        picked.failed(secs(0));
    }
    assert_eq!(set.ejected_len(), 2);
    assert_eq!(shares(&set), named(&[("zone", 1_000), ("elsewhere", 0)]));
    let picked = pick(&set, secs(0), &[], &mut draw).unwrap();
    assert_eq!(&*picked.member().endpoint.locality.zone, "a");
}

/// Requests go where the shares say, whatever the strategy; those that met an endpoint of the zone go on.
#[test]
fn requests_go_where_the_shares_say() {
    let near = prefer(&[Level::Zone]);
    let mut members: Vec<_> = (0..8)
        .map(|n| placed(n, &at("", if n < 4 { "a" } else { "b" }, "")))
        .collect();
    for member in &mut members[..2] {
        member.conditions = Conditions::new(Some(false), None, None);
    }
    let by = ConsistentHash::by(HashKey::SourceIp);
    for table in [
        HashTable::Rendezvous,
        HashTable::Maglev(TableSize::default()),
    ] {
        let set = EndpointSet::build(members.clone(), None);
        // The order of both does not matter.
        let strategy = Strategy::ConsistentHash(by.clone().through(table));
        let set = match table {
            HashTable::Rendezvous => set
                .with_strategy(&strategy)
                .with_nearness(&near, &at("", "a", "")),
            _ => {
                let set = set.with_strategy(&strategy);
                let set = set.with_nearness(&near, &at("", "a", ""));
                assert!(set.table(1).is_some());
                set
            }
        };
        let (set, mut draw) = (Arc::new(set), Draw::new(7));
        assert_eq!(shares(&set), named(&[("zone", 700), ("elsewhere", 300)]));
        let mut chosen = |choice: &dyn Fn(u64) -> Choice| {
            let mut local = 0_u32;
            for n in 0..4_000 {
                let picked = crate::balance::pick(&set, choice(n), secs(0), &[], &mut draw);
                local += u32::from(&*picked.unwrap().member().endpoint.locality.zone == "a");
            }
            f64::from(local) / 4_000.0
        };
        for choice in [
            &(|n| Choice::Hash(mix(n))) as &dyn Fn(u64) -> Choice,
            &|_| Choice::LeastRequest,
            &|_| Choice::PeakEwma,
            &|_| Choice::Random,
            &|_| Choice::RoundRobin,
        ] {
            let local = chosen(choice);
            assert!((local - 0.7).abs() < 0.04, "{local} {:?}", choice(0));
        }
        // A key stays.
        let to = |draw: &mut Draw| {
            let picked = crate::balance::pick(&set, Choice::Hash(5), secs(0), &[], draw).unwrap();
            picked.member().endpoint.address()
        };
        let first = to(&mut draw);
        assert!((0..20).all(|_| to(&mut draw) == first));
        // Both of the zone were tried.
        let tried: Vec<_> = set.members()[..4]
            .iter()
            .map(|m| Arc::clone(&m.state))
            .collect();
        for _ in 0..20 {
            let picked = pick(&set, secs(0), &tried, &mut draw).unwrap();
            assert_eq!(&*picked.member().endpoint.locality.zone, "b");
        }
    }
}

/// The own zone keeps what is its part; the rest goes to zones that have more endpoints than callers.
#[test]
fn zones_are_kept_even() {
    let callers = |callers: &[(&str, u32)]| {
        let callers = callers.iter().map(|(zone, n)| (Arc::from(*zone), *n));
        ZoneAware::new(1).with_callers(callers).unwrap()
    };
    for (members, by, own, wanted) in [
        // As many endpoints as callers: nothing leaves its zone.
        (
            &["a", "a", "b", "b"][..],
            ZoneAware::new(1),
            "a",
            &[("a", 1_000), ("b", 0)][..],
        ),
        // A third of the endpoints for a half of the callers: a third is sent away.
        (
            &["a", "b", "b"],
            ZoneAware::new(1),
            "a",
            &[("a", 666), ("b", 333)],
        ),
        (
            &["a", "b", "b"],
            ZoneAware::new(1),
            "b",
            &[("b", 1_000), ("a", 0)],
        ),
        // What is sent away goes where there are more than needed.
        (
            &["a", "b", "b", "c", "c", "c"],
            ZoneAware::new(1),
            "a",
            &[("a", 500), ("b", 0), ("c", 500)],
        ),
        // None in the own zone.
        (
            &["b", "b", "c", "c"],
            ZoneAware::new(1),
            "a",
            &[("b", 500), ("c", 500)],
        ),
        (
            &["a", "b", "b"],
            callers(&[("a", 1), ("b", 2)]),
            "a",
            &[("a", 1_000), ("b", 0)],
        ),
        (
            &["a", "b", "b"],
            callers(&[("a", 2), ("b", 1)]),
            "a",
            &[("a", 500), ("b", 500)],
        ),
        (
            &["a", "b", "b"],
            callers(&[("b", 1)]),
            "a",
            &[("a", 1_000), ("b", 0)],
        ),
        // Endpoints of no known zone have no callers of their own.
        (
            &["a", "", ""],
            ZoneAware::new(1),
            "a",
            &[("a", 333), ("unknown", 666)],
        ),
    ] {
        let set = zones(members, &Nearness::ZoneAware(by.clone()), own);
        let found = shares(&set);
        let close = found
            .iter()
            .zip(wanted)
            .all(|((name, share), (wanted, of))| name == wanted && share.abs_diff(*of) <= 1);
        assert!(
            close && found.len() == wanted.len(),
            "{members:?} {by:?} {own}: {found:?}"
        );
    }
    // Another region takes what this one cannot.
    let members = (0..8).map(|n| {
        let region = if n < 4 { "north" } else { "south" };
        let mut endpoint = placed(n, &at(region, ["a", "b"][usize::from(n % 2)], ""));
        endpoint.conditions = Conditions::new(Some(n > 1), None, None);
        endpoint
    });
    let by = Nearness::ZoneAware(ZoneAware::new(1));
    let set = EndpointSet::build(members, None).with_nearness(&by, &at("north", "a", ""));
    assert_eq!(
        shares(&set),
        named(&[("a", 700), ("b", 0), ("elsewhere", 300)])
    );
}

/// A set of parts: of each its priority, rank, all and well.
fn parts() -> impl proptest::strategy::Strategy<Value = Vec<(u32, usize, u64, u64)>> {
    proptest::collection::vec((0_u32..3, 0_usize..3, 0_u64..50, 0_u64..50), 0..9)
}

proptest! {
    /// All requests go somewhere if anything is well, none to a tier without one that is; and the near
    /// take no less when more of them are well.
    #[test]
    fn shares_are_whole_and_of_the_well(mut of in parts()) {
        of.sort_by_key(|(priority, rank, ..)| (*priority, *rank));
        of.dedup_by_key(|(priority, rank, ..)| (*priority, *rank));
        let made: Vec<_> = of.iter().map(|(p, r, all, well)| part(*p, *r, all + well)).collect();
        let well: Vec<_> = of.iter().map(|(.., well)| *well).collect();
        let shares = spread(&made, &well, (0, 0));
        let sum: u32 = shares.iter().sum();
        prop_assert_eq!(sum, if well.iter().any(|well| *well > 0) { WHOLE } else { 0 });
        prop_assert!(shares.iter().zip(&well).all(|(share, well)| *share == 0 || *well > 0));
        if let Some(first) = of.iter().position(|(.., all, _)| *all > 0) {
            let mut more = well.clone();
            more[first] += 1;
            let better = spread(&made, &more, (0, 0));
            let nearest = made[..first].iter().all(|part| part.priority != made[first].priority);
            let same = well[..first].iter().all(|well| *well == 0) && nearest;
            prop_assert!(!same || better[first] + 1 >= shares[first], "{:?} {:?}", shares, better);
        }
    }

    /// Where each caller does what its zone says, each zone takes its part of all requests: what it has of
    /// the endpoints.
    #[test]
    fn zones_take_their_part_together(
        of in proptest::collection::vec((0_u64..40, 0_u64..40), 2..8),
    ) {
        let (endpoints, callers): (Vec<u64>, Vec<u64>) = of.iter().copied().unzip();
        let (all, total): (u64, u64) = (endpoints.iter().sum(), callers.iter().sum());
        prop_assume!(all > 0 && total > 0);
        let mut taken = vec![0.0; of.len()];
        for (own, count) in callers.iter().enumerate().filter(|(_, count)| **count > 0) {
            let zone = |n: usize| Zone { own: n == own, callers: callers[n] };
            let parts = (0..of.len()).map(|n| Part { zone: Some(zone(n)), ..part(0, 0, endpoints[n]) });
            let shares = spread(&parts.collect::<Vec<_>>(), &endpoints, (*count, total));
            prop_assert_eq!(shares.iter().sum::<u32>(), WHOLE);
            for (taken, share) in taken.iter_mut().zip(shares) {
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                let count = *count as f64;
                *taken += count * f64::from(share) / f64::from(WHOLE);
            }
        }
        for (taken, endpoints) in taken.iter().zip(&endpoints) {
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let part = (*endpoints * total) as f64 / all as f64;
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let rounding = 1e-3 * total as f64;
            prop_assert!((taken - part).abs() <= rounding, "{taken} of {part}");
        }
    }
}
