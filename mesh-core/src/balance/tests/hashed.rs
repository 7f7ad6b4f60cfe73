//! Keys and the tables that lead from them to endpoints.

use std::net::IpAddr;

use http::header::COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::super::strategy::Strategy;
use super::super::table::{Named, Table};
use super::*;
use crate::model::mix;

const KEYS: u64 = 1_000;

fn maglev() -> HashTable {
    HashTable::Maglev(TableSize::default())
}

fn ring() -> HashTable {
    HashTable::Ring(RingSize::default())
}

fn by(key: HashKey, table: HashTable) -> Strategy {
    Strategy::ConsistentHash(ConsistentHash::by(key).through(table))
}

fn hashing(
    members: impl IntoIterator<Item = Endpoint>,
    table: HashTable,
    before: Option<&EndpointSet>,
) -> Arc<EndpointSet> {
    let strategy = by(HashKey::SourceIp, table);
    Arc::new(EndpointSet::build(members, before).with_strategy(&strategy))
}

fn leads(set: &Arc<EndpointSet>, key: u64) -> SocketAddr {
    let picked = super::super::pick(set, Choice::Hash(key), secs(0), &[], &mut Draw::new(1));
    picked.unwrap().member().endpoint.address()
}

/// Members whose names and weights are those, and which of them may be chosen.
struct Hashed<'a>(&'a [Named], &'a [bool]);

impl LoadView for Hashed<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn availability(&self, index: usize) -> Availability {
        match self.1.get(index) {
            Some(false) => Availability::Out,
            _ => Availability::Ready,
        }
    }

    fn load(&self, _: usize, _: Duration) -> u64 {
        0
    }

    fn name_hash(&self, index: usize) -> u64 {
        self.0[index].0
    }
}

fn header(name: &'static str, value: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.append(
        HeaderName::from_static(name),
        HeaderValue::from_static(value),
    );
    headers
}

#[test]
fn a_key_is_read_from_where_it_is_said_to_be() {
    let choice = |key: &HashKey, headers: &HeaderMap, query: Option<&str>| {
        let shown = Shown {
            headers: Some(headers),
            query,
        };
        let strategy = by(key.clone(), HashTable::Rendezvous);
        let (choice, issued) = strategy.choice(shown, &mut Draw::new(1));
        assert_eq!(issued, None);
        choice
    };
    let none = HeaderMap::new();
    let user = HashKey::Header(HeaderName::from_static("x-user"));
    let ada = choice(&user, &header("x-user", "ada"), None);
    assert_ne!(ada, Choice::LeastRequest);
    assert_ne!(ada, choice(&user, &header("x-user", "bob"), None));
    assert_eq!(choice(&user, &none, None), Choice::LeastRequest);
    // The same value leads to the same place, wherever it stands.
    let cookie = HashKey::Cookie(HashCookie::new("user", None, None).unwrap());
    for (text, found) in [
        ("user=ada", true),
        ("a=1; user=ada; b=2", true),
        ("a=1;user=ada", true),
        ("user=bob; user=ada", false),
        ("xuser=ada", false),
        ("user2=ada; userx=ada", false),
        ("user", false),
    ] {
        let chosen = choice(&cookie, &header("cookie", text), None);
        assert_eq!(chosen == ada, found, "{text}");
    }
    // Two fields, as HTTP/2 may have them.
    let mut headers = header("cookie", "a=1");
    headers.append(COOKIE, HeaderValue::from_static("user=ada"));
    assert_eq!(choice(&cookie, &headers, None), ada);
    let query = HashKey::QueryParameter("user".into());
    for (text, found) in [
        ("user=ada", true),
        ("a=1&user=ada&user=bob", true),
        ("user=bob&user=ada", false),
        ("User=ada", false),
        ("xuser=ada", false),
    ] {
        assert_eq!(choice(&query, &none, Some(text)) == ada, found, "{text}");
    }
    let empty = choice(&query, &none, Some("user"));
    assert_eq!(empty, choice(&query, &none, Some("user=")));
    assert_ne!(empty, Choice::LeastRequest);
    assert_eq!(choice(&query, &none, None), Choice::LeastRequest);
}

#[test]
fn a_callers_address_is_a_key_in_both_of_its_forms() {
    let strategy = by(HashKey::SourceIp, HashTable::Rendezvous);
    let (choice, _) = strategy.choice(Shown::default(), &mut Draw::new(1));
    let of = |ip: &str| choice.of(Some(ip.parse::<IpAddr>().unwrap()));
    assert!(matches!(of("10.0.0.1"), Choice::Hash(_)));
    assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
    assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    assert_ne!(of("2001:db8::1"), of("2001:db8::2"));
    assert_eq!(choice.of(None), Choice::LeastRequest);
    // Others do not look at it.
    let ip = Some([10, 0, 0, 1].into());
    assert_eq!(Choice::RoundRobin.of(ip), Choice::RoundRobin);
    assert_eq!(Choice::Hash(5).of(ip), Choice::Hash(5));
}

#[test]
fn a_request_without_its_cookie_is_given_one_that_leads_to_the_same_place() {
    let hour = Some(secs(3_600));
    for (path, ttl, attributes) in [
        (Some("/shop"), hour, "; Max-Age=3600; Path=/shop; HttpOnly"),
        (
            None,
            Some(Duration::from_millis(5)),
            "; Max-Age=1; HttpOnly",
        ),
        (Some("/"), Some(secs(0)), "; Path=/; HttpOnly"),
    ] {
        let cookie = HashCookie::new("stay", path, ttl).unwrap();
        let strategy = by(HashKey::Cookie(cookie), HashTable::Rendezvous);
        let none = HeaderMap::new();
        let shown = |headers| Shown {
            headers: Some(headers),
            query: None,
        };
        let (first, issued) = strategy.choice(shown(&none), &mut Draw::new(7));
        let set = strategy.set_cookie(issued.unwrap()).unwrap();
        let set = set.to_str().unwrap();
        let (pair, rest) = set.split_at(set.find(';').unwrap());
        assert_eq!(rest, attributes);
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_str(pair).unwrap());
        let again = strategy.choice(shown(&headers), &mut Draw::new(8));
        assert_eq!(again, (first, None));
        // Another caller is given another.
        assert_ne!(strategy.choice(shown(&none), &mut Draw::new(8)).0, first);
        // Opaque bytes have no cookie.
        let (tcp, issued) = strategy.choice(Shown::default(), &mut Draw::new(1));
        assert_eq!((tcp, issued), (Choice::LeastRequest, None));
    }
}

#[test]
fn what_no_table_or_cookie_can_be_is_refused() {
    for (slots, good) in [
        (0, false),
        (1, false),
        (2, true),
        (4, false),
        (65_537, true),
    ] {
        assert_eq!(TableSize::new(slots).is_ok(), good, "{slots}");
    }
    assert!(TableSize::new(655_373).is_ok() && TableSize::new(655_379).is_err());
    for (points, good) in [(0, false), (1, true), (65_536, true), (65_537, false)] {
        assert_eq!(RingSize::new(points).is_ok(), good, "{points}");
    }
    for (name, path, good) in [
        ("a", None, true),
        ("__Host-a", Some("/"), true),
        ("", None, false),
        ("a b", None, false),
        ("a;b", None, false),
        ("a\r\nb", None, false),
        ("a", Some("shop"), false),
        ("a", Some("/a;Domain=x"), false),
        ("a", Some("/a\r\n"), false),
    ] {
        assert_eq!(
            HashCookie::new(name, path, None).is_ok(),
            good,
            "{name} {path:?}"
        );
    }
}

/// A table is made once for its members: a set with the same has the same, a set with others has not.
#[test]
fn a_table_is_made_anew_only_for_other_members() {
    for table in [maglev(), ring()] {
        let first = hashing((0..5).map(|n| endpoint(n, true)), table, None);
        let shared = |set: &EndpointSet| {
            let (a, b) = (first.table(0).unwrap(), set.table(0).unwrap());
            std::ptr::eq(a, b)
        };
        let again = hashing((0..5).map(|n| endpoint(n, true)), table, Some(&first));
        assert!(shared(&again));
        // One that is not ready was in no table.
        let more = (0..6).map(|n| endpoint(n, n < 5));
        assert!(shared(&hashing(more, table, Some(&first))));
        let fewer = hashing((0..4).map(|n| endpoint(n, true)), table, Some(&first));
        assert!(!shared(&fewer));
        let heavier = (0..5).map(|n| weighed(n, 1 + u32::from(n == 0), 0));
        assert!(!shared(&hashing(heavier, table, Some(&first))));
        let plain = EndpointSet::build((0..5).map(|n| endpoint(n, true)), Some(&first));
        assert!(
            plain
                .with_strategy(&Strategy::LeastRequest)
                .table(0)
                .is_none()
        );
    }
}

/// Each tier has its own table, and an ejected endpoint leaves its keys alone.
#[test]
fn keys_of_an_ejected_endpoint_move_and_come_back() {
    let policy = EjectPolicy {
        consecutive: 1,
        ..EjectPolicy::default()
    };
    for table in [maglev(), ring(), HashTable::Rendezvous] {
        let members = (0..6).map(|n| weighed(n, 1, u32::from(n == 5)));
        let set = EndpointSet::build(members, None).with_eject(policy);
        let set = Arc::new(set.with_strategy(&by(HashKey::SourceIp, table)));
        let before: Vec<_> = (0..500).map(|key| leads(&set, key)).collect();
        let out = set.members()[2].endpoint.address();
        assert!(before.contains(&out) && before.iter().all(|at| at.ip().to_string() != "10.0.0.5"));
        pick_nth(&set, 2, secs(0)).failed(secs(0));
        for (key, before) in (0..).zip(&before) {
            let now = leads(&set, key);
            assert!(now != out && (now == *before || *before == out), "{key}");
        }
        let probe = super::super::pick(&set, Choice::Hash(0), secs(30), &[], &mut Draw::new(1));
        assert!(probe.unwrap().succeeded(secs(30)));
        let after: Vec<_> = (0..500).map(|key| leads(&set, key)).collect();
        assert_eq!(before, after);
    }
}

#[test]
fn the_same_members_in_another_order_have_the_same_keys() {
    for table in [ring(), HashTable::Rendezvous] {
        let first = hashing((0..7).map(|n| endpoint(n, true)), table, None);
        let other = hashing((0..7).rev().map(|n| endpoint(n, true)), table, None);
        for key in 0..KEYS {
            assert_eq!(leads(&first, key), leads(&other, key));
        }
    }
}

/// The share of each place in a table.
fn shares(table: &Table, named: &[Named]) -> Vec<f64> {
    let mut hits = vec![0.0; named.len()];
    let mut last = 0;
    match table {
        Table::Maglev(slots) => {
            for place in slots {
                hits[*place as usize] += 1.0;
            }
        }
        Table::Ring(points) => {
            for (at, place) in points {
                hits[*place as usize] += f64::from(u32::try_from((at - last) >> 32).unwrap());
                last = *at;
            }
            hits[points[0].1 as usize] +=
                f64::from(u32::try_from((u64::MAX - last) >> 32).unwrap());
        }
    }
    let sum: f64 = hits.iter().sum();
    hits.iter().map(|hits| hits / sum).collect()
}

fn named(names: u64, weights: &[u32]) -> Vec<Named> {
    (0..)
        .zip(weights)
        .map(|(n, weight)| (mix(names ^ mix(n)), *weight))
        .collect()
}

/// A small table, so that many can be made.
fn small() -> HashTable {
    HashTable::Maglev(TableSize::new(1_021).unwrap())
}

proptest! {
    /// Maglev: equal ones differ by one slot (Eisenbud et al., 2016, section 3.4). With weights the last
    /// round may end before each had the turns that it is worth: three, and what its share of a round
    /// for each is.
    #[test]
    fn maglev_shares_by_weight(names: u64, weights in proptest::collection::vec(1_u32..9, 1..24)) {
        let named = named(names, &weights);
        let Table::Maglev(slots) = Table::of(small(), &named) else { unreachable!() };
        let sum: u32 = weights.iter().sum();
        let count = u32::try_from(named.len()).unwrap();
        let mut hits = vec![0_u32; named.len()];
        slots.iter().for_each(|place| hits[*place as usize] += 1);
        for (hits, weight) in hits.iter().zip(&weights) {
            let exact = 1_021.0 * f64::from(*weight) / f64::from(sum);
            let round = f64::from(*weight) * f64::from(count) / f64::from(sum);
            let off = (f64::from(*hits) - exact).abs();
            prop_assert!(off <= 3.0 + round, "{hits} of {exact}");
        }
        if weights.iter().all(|weight| *weight == weights[0]) {
            let (least, most) = (hits.iter().min(), hits.iter().max());
            prop_assert!(most.unwrap() - least.unwrap() <= 1);
        }
    }

    /// A ring of k points for an endpoint gives it its share within a deviation of 1 / sqrt(k), here up
    /// to seven of them (Karger et al., 1997).
    #[test]
    fn a_ring_shares_by_its_points(names: u64, n in 1_usize..24) {
        let named = named(names, &vec![1; n]);
        let mean = 1.0 / f64::from(u32::try_from(n).unwrap());
        let points = (1_024.0 * mean).floor();
        for share in shares(&Table::of(ring(), &named), &named) {
            prop_assert!((share - mean).abs() <= mean * 7.0 / points.sqrt(), "{share} of {mean}");
        }
    }

    /// Of n endpoints one leaves: its keys move, a share of 1 / n. Of the others' keys some move too,
    /// twice as many at most: a ring has more points for each then, and Maglev's turns shift.
    #[test]
    fn one_that_leaves_moves_little_else(names: u64, n in 2_usize..24, gone in 0_usize..24) {
        let gone = gone % n;
        let all = named(names, &vec![1; n]);
        let mut rest = all.clone();
        rest.remove(gone);
        for kind in [ring(), small()] {
            let (before, after) = (Table::of(kind, &all), Table::of(kind, &rest));
            let mut moved = 0_u32;
            for key in 0..500_u64 {
                let a = before.choose(&Hashed(&all, &[]), key).unwrap();
                let b = after.choose(&Hashed(&rest, &[]), key).unwrap();
                if a != gone && all[a] != rest[b] {
                    moved += 1;
                }
            }
            // Six deviations of what is counted among 500 keys.
            let share = 500.0 / f64::from(u32::try_from(n).unwrap());
            prop_assert!(f64::from(moved) <= 2.0 * share + 6.0 * share.sqrt(), "{moved} of 500, {n}");
        }
    }

    /// What is out is never chosen, what is ready is found, and no key of another moves.
    #[test]
    fn a_table_finds_what_is_ready(
        names: u64,
        ready in proptest::collection::vec(any::<bool>(), 1..24),
        key: u64,
    ) {
        let named = named(names, &vec![1; ready.len()]);
        for kind in [ring(), small()] {
            let table = Table::of(kind, &named);
            let all = table.choose(&Hashed(&named, &[]), key).unwrap();
            match table.choose(&Hashed(&named, &ready), key) {
                Some(chosen) => {
                    prop_assert!(ready[chosen]);
                    prop_assert!(chosen == all || !ready[all]);
                }
                None => prop_assert!(!ready.contains(&true)),
            }
        }
    }
}
