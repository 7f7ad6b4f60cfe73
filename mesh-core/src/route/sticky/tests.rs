//! Users stay where they are, but for those that must move.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use super::*;
use crate::authorize::{DefaultAction, HttpView, RequestView};
use crate::balance::{ConsistentHash, HashCookie, HashKey, Strategy as Balancing};
use crate::local::Local;
use crate::model::{
    AppProtocol, Kind, Namespace, ObjectKey, Service, ServicePort, SourceId, Workload,
};
use crate::plan::{Destination, Planned, plan};
use crate::route::{Backend, Parent, Route, Rule};
use crate::snapshot::{Change, Op, Settings, Snapshot};
use crate::traffic::{Blocks, Target, TrafficPolicy};

/// How many users a case has.
const USERS: u32 = 2_000;

/// The hash of the nth user's name; `of` sets the users of one case apart.
fn user(of: u64, n: u32) -> u64 {
    mix_bytes(format!("user-{of:x}-{n}").as_bytes())
}

/// Backends by name and weight. Names are hashed as names of targets are.
fn parts(weights: &[u32]) -> Vec<(u64, u32)> {
    let named = weights.iter().enumerate();
    named
        .map(|(n, weight)| (mix_bytes(format!("v{n}.shop:80/1").as_bytes()), *weight))
        .collect()
}

fn shares(weights: &[u32]) -> Vec<f64> {
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    #[expect(clippy::cast_precision_loss, reason = "a sum of a few small weights")]
    let share = |weight: &u32| f64::from(*weight) / total as f64;
    weights.iter().map(share).collect()
}

/// Whether so many of `of` users are what a share predicts: within six standard deviations of a binomial
/// distribution, which a right share misses in one of 10^9 cases, and ten users besides, since shares of a
/// few users are not spread as a normal distribution is.
fn fits(met: u32, of: u32, share: f64) -> bool {
    let (met, of) = (f64::from(met), f64::from(of));
    let wanted = of * share;
    (met - wanted).abs() <= 6.0 * (wanted * (1.0 - share)).max(0.0).sqrt() + 10.0
}

/// Where each user moves from and to.
fn moves(of: u64, before: &[u32], after: &[u32]) -> Vec<(usize, usize)> {
    let (old, new) = (parts(before), parts(after));
    let moves = (0..USERS).filter_map(|n| {
        let key = user(of, n);
        let (from, to) = (stay(key, old.clone())?, stay(key, new.clone())?);
        (from != to).then_some((from, to))
    });
    moves.collect()
}

fn count<T>(of: &[T]) -> u32 {
    u32::try_from(of.len()).unwrap()
}

#[test]
fn a_share_is_that_of_the_weights() {
    let of = 100_000;
    for weights in [
        &[90, 10][..],
        &[1, 1, 1],
        &[999_999, 1],
        &[0, 3, 0, 1],
        &[5],
        &[1_000_000, 1_000_000, 500_000, 1],
    ] {
        let (backends, mut met) = (parts(weights), vec![0; weights.len()]);
        for n in 0..of {
            met[stay(user(1, n), backends.clone()).unwrap()] += 1;
        }
        for (met, share) in met.iter().zip(shares(weights)) {
            assert!(fits(*met, of, share), "{weights:?}: {met} of {of}");
            assert!(share > 0.0 || *met == 0, "{weights:?}");
        }
    }
    assert_eq!(stay(1, parts(&[0, 0])), None);
    assert_eq!(stay(1, []), None);
}

/// The steps of a rollout: each moves its share to the new version, and nothing back.
#[test]
fn a_canary_takes_over_step_by_step() {
    let steps = [0, 1, 5, 10, 20, 50, 80, 100];
    for (before, after) in steps.iter().zip(&steps[1..]) {
        let (before, after) = ([100 - before, *before], [100 - after, *after]);
        let moved = moves(7, &before, &after);
        assert!(moved.iter().all(|moved| *moved == (0, 1)), "{after:?}");
        let share = shares(&after)[1] - shares(&before)[1];
        assert!(fits(count(&moved), USERS, share), "{after:?}");
    }
    // A third one takes its share of each of the others.
    let moved = moves(7, &[80, 20, 0], &[80, 20, 25]);
    assert!(moved.iter().all(|(_, to)| *to == 2));
    for (from, share) in [(0, 0.8 * 0.2), (1, 0.2 * 0.2)] {
        let of: Vec<_> = moved.iter().filter(|moved| moved.0 == from).collect();
        assert!(fits(count(&of), USERS, share), "{from}");
    }
}

proptest! {
    /// One backend grows or shrinks, comes or leaves: the users that move all go to it, or all come from it. That
    /// is exact for each user; how many they are is their share, within the bounds of [`fits`].
    #[test]
    fn the_share_that_must_move_moves_and_no_other(
        mut weights in proptest::collection::vec(0_u32..1_000, 1..6),
        least in 1_u32..1_000,
        (place, weight) in (0_usize..6, 0_u32..2_000),
        of: u64,
    ) {
        let place = place % weights.len();
        // Both have another backend to move from or to.
        weights.insert(place, least);
        let place = (place + 1) % weights.len();
        let mut after = weights.clone();
        after[place] = weight;
        let moved = moves(of, &weights, &after);
        let grows = weight > weights[place];
        let end = |moved: &(usize, usize)| if grows { moved.1 } else { moved.0 };
        let whole = moved.iter().all(|moved| end(moved) == place);
        prop_assert!(whole, "{moved:?}");
        let needed = (shares(&after)[place] - shares(&weights)[place]).abs();
        prop_assert!(fits(count(&moved), USERS, needed), "{} for {needed}", moved.len());
    }

    /// Any change: a user that moves goes where the ratio of the two weights has grown, exactly; how many they are is
    /// what the module says, and within its bound.
    #[test]
    fn a_user_moves_only_where_a_weight_has_grown_against_the_other(
        pairs in proptest::collection::vec((0_u32..1_000, 0_u32..1_000), 1..6),
        least in (1_u32..1_000, 1_u32..1_000),
        of: u64,
    ) {
        let (before, after): (Vec<_>, Vec<_>) = pairs.into_iter().chain([least]).unzip();
        let moved = moves(of, &before, &after);
        for (from, to) in &moved {
            let ratio = |of: &[u32], a: usize, b: usize| u64::from(of[a]) * u64::from(after[b]);
            prop_assert!(ratio(&before, *to, *from) < u64::from(after[*to]) * u64::from(before[*from]));
        }
        let (p, q) = (shares(&before), shares(&after));
        let must: f64 = p.iter().zip(&q).map(|(p, q)| (p - q).max(0.0)).sum();
        let stays: f64 = (0..p.len())
            .filter(|i| p[*i] > 0.0 && q[*i] > 0.0)
            .map(|i| {
                let races = p.iter().zip(&q).map(|(pj, qj)| (pj / p[i]).max(qj / q[i]));
                1.0 / races.sum::<f64>()
            })
            .sum();
        let moves = 1.0 - stays;
        prop_assert!(moves >= must - 1e-9 && moves <= 2.0 * must / (1.0 + must) + 1e-9);
        prop_assert!(fits(count(&moved), USERS, moves), "{} for {moves}", moved.len());
    }

    /// What a backend is called counts, and where it stands does not.
    #[test]
    fn the_order_of_backends_does_not_matter(
        weights in proptest::collection::vec(0_u32..1_000, 1..6),
        turn in 0_usize..6,
        key: u64,
    ) {
        let old = parts(&weights);
        let mut new = old.clone();
        new.rotate_left(turn % weights.len());
        let name = |parts: &[(u64, u32)]| stay(key, parts.to_vec()).map(|n| parts[n].0);
        prop_assert_eq!(name(&old), name(&new));
    }
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(&Namespace::new("shop").unwrap(), name).unwrap()
}

fn key(kind: Kind) -> ObjectKey {
    ObjectKey::new(kind, service("cart").namespace(), "cart").unwrap()
}

/// `cart` with a route to `v1` and `v2` by these weights, whose users stay by a key; and more objects.
fn world(weights: [u32; 2], by: HashKey, more: Vec<Op>) -> Snapshot {
    let port = || vec![ServicePort::new("http", 80, AppProtocol::Http1)];
    let mut ops: Vec<_> = ["cart", "v1", "v2"]
        .map(|name| Op::put(Service::new(service(name), port())))
        .into();
    let to = |name, weight| Backend::new(service(name), 80, weight).unwrap();
    let rule = Rule::to(vec![to("v1", weights[0]), to("v2", weights[1])]);
    let parents = vec![Parent::new(service("cart"), None)];
    let route = Route::new(key(Kind::HttpRoute), parents, vec![rule]).unwrap();
    let blocks = Blocks {
        split: Some(TrafficSplit::by(by).unwrap().into()),
        ..Blocks::default()
    };
    let target = Target::Route(key(Kind::HttpRoute), None);
    let policy = TrafficPolicy::new(key(Kind::TrafficPolicy), vec![target], blocks).unwrap();
    ops.extend([Op::put(route), Op::put(policy)]);
    ops.extend(more);
    let web = Workload::new("shop", "web", "web").unwrap();
    let settings = Settings::new(web, DefaultAction::Allow);
    Snapshot::new(settings).apply(Change::update(SourceId::new("t"), ops))
}

fn ask(snapshot: &Snapshot, headers: &HeaderMap, query: Option<&str>, seed: u64) -> Planned {
    let http = HttpView::new(&Method::GET, "/", query, headers);
    let web = Workload::new("shop", "web", "web").unwrap();
    let local = Local::new(web, DefaultAction::Allow);
    let (to, view) = (Destination::Authority("cart"), RequestView::Http(http));
    plan(snapshot, &local, to, &view, &mut Draw::new(seed), &mut ()).unwrap()
}

fn to(planned: &Planned) -> String {
    planned.backend().unwrap().service.name().to_owned()
}

fn with(name: HeaderName, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
}

fn cookies(planned: &Planned) -> Vec<String> {
    let mut headers = HeaderMap::new();
    planned.edit_response(&mut headers);
    let all = headers.get_all(SET_COOKIE).iter();
    all.map(|cookie| cookie.to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn each_key_leads_to_one_backend_whatever_is_drawn() {
    let user = HeaderName::from_static("x-user");
    let header = || HashKey::Header(user.clone());
    let cookie = || HashKey::Cookie(HashCookie::new("user", None, None).unwrap());
    let query = || HashKey::QueryParameter("user".into());
    let mut met = BTreeMap::new();
    for n in 0..50 {
        let value = format!("u{n}");
        let none = HeaderMap::new();
        let keyed = [
            (header(), with(user.clone(), &value), None),
            (cookie(), with(COOKIE, &format!("a=b; user={value}")), None),
            (query(), none, Some(format!("a=b&user={value}"))),
        ];
        let places = keyed.map(|(by, headers, query)| {
            let world = world([50, 50], by, Vec::new());
            let one = |seed| to(&ask(&world, &headers, query.as_deref(), seed));
            let place = one(0);
            assert!((1..20).all(|seed| one(seed) == place), "{value}");
            place
        });
        // The value counts, and not where it stands.
        assert_eq!(places[0], places[1]);
        assert_eq!(places[0], places[2]);
        *met.entry(places[0].clone()).or_insert(0) += 1;
    }
    assert_eq!(met.len(), 2, "{met:?}");
    // Without the key it is drawn, and nothing is handed out.
    for by in [header(), cookie(), query()] {
        let world = world([50, 50], by, Vec::new());
        let drawn: Vec<_> = (0..20)
            .map(|seed| ask(&world, &HeaderMap::new(), None, seed))
            .collect();
        for name in ["v1", "v2"] {
            assert!(drawn.iter().any(|planned| to(planned) == name));
        }
        assert!(drawn.iter().all(|planned| cookies(planned).is_empty()));
    }
}

/// The value of the cookie that an answer sets, by its text.
fn value(cookie: &str) -> &str {
    cookie
        .split(';')
        .next()
        .unwrap()
        .trim_start_matches("user=")
}

#[test]
fn a_cookie_that_is_handed_out_leads_where_the_request_went() {
    let hour = Some(std::time::Duration::from_secs(3_600));
    let by = || HashKey::Cookie(HashCookie::new("user", Some("/"), hour).unwrap());
    let (old, new) = (
        world([50, 50], by(), Vec::new()),
        world([0, 100], by(), Vec::new()),
    );
    let mut met = BTreeMap::new();
    for seed in 0..50 {
        let first = ask(&old, &HeaderMap::new(), None, seed);
        let cookies = cookies(&first);
        let [cookie] = &cookies[..] else {
            panic!("{cookies:?}");
        };
        assert!(cookie.ends_with("; Max-Age=3600; Path=/; HttpOnly"));
        let again = with(COOKIE, &format!("user={}", value(cookie)));
        let second = ask(&old, &again, None, seed + 1_000);
        assert_eq!(to(&first), to(&second));
        assert!(self::cookies(&second).is_empty());
        assert_eq!(to(&ask(&new, &again, None, 1)), "v2");
        *met.entry(to(&first)).or_insert(0) += 1;
    }
    assert_eq!(met.len(), 2, "{met:?}");
}

/// A Service whose endpoints are chosen by the same cookie: one value serves both.
#[test]
fn one_cookie_serves_the_split_and_the_endpoint() {
    let cookie = |name| {
        let hour = Some(std::time::Duration::from_secs(3_600));
        HashKey::Cookie(HashCookie::new(name, None, hour).unwrap())
    };
    for (of_endpoints, handed) in [("user", 1), ("other", 2)] {
        let blocks = Blocks {
            strategy: Some(Balancing::ConsistentHash(ConsistentHash::by(cookie(
                of_endpoints,
            )))),
            ..Blocks::default()
        };
        let all = ObjectKey::new(Kind::TrafficPolicy, service("v1").namespace(), "all").unwrap();
        let policy = Op::put(TrafficPolicy::new(all, Vec::new(), blocks).unwrap());
        let world = world([1, 1], cookie("user"), vec![policy]);
        let first = ask(&world, &HeaderMap::new(), None, 3);
        let cookies = cookies(&first);
        assert_eq!(cookies.len(), handed, "{cookies:?}");
        let back: Vec<_> = cookies
            .iter()
            .map(|cookie| cookie.split(';').next().unwrap())
            .collect();
        let second = ask(&world, &with(COOKIE, &back.join("; ")), None, 4);
        assert_eq!(first.backend(), second.backend(), "{of_endpoints}");
    }
}

/// Backends of one name differ in their filters: each has its part.
#[test]
fn equal_names_have_parts_of_their_own() {
    let of = Block::built(Arc::new(
        TrafficSplit::by(HashKey::QueryParameter("u".into())).unwrap(),
    ));
    let cart = service("cart");
    let sticky = Sticky::new(of, [(&cart, 80), (&cart, 80), (&cart, 81)].into_iter());
    let mut met = [0; 3];
    for n in 0..3_000 {
        let query = format!("u={n}");
        let shown = Shown {
            headers: None,
            query: Some(&query),
        };
        let place = sticky.choose([1, 1, 1].into_iter(), shown, &mut Draw::new(1));
        met[place.unwrap()] += 1;
    }
    assert!(
        met.iter().all(|met| fits(*met, 3_000, 1.0 / 3.0)),
        "{met:?}"
    );
}
