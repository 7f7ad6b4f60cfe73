//! What a change makes of a snapshot.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::authorize::{Action, DefaultAction, Policy, PolicyRule, RequestView, Selects, decide};
use crate::balance::EndpointSet;
use crate::identify::Peer;
use crate::model::{
    AppProtocol, Conditions, Endpoint, Few, Host, HostAddress, Kind, Namespace, ObjectKey, Roots,
    Service, ServiceName, ServicePort, Slice, SliceHost, SlicePort, SourceId, Subset, Text,
    Transport, Workload,
};
use crate::retry::RetryPolicy;
use crate::route::{Backend, Parent, Route};
use crate::traffic::{Blocks, Target, TrafficPolicy};

fn ns(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

fn name(name: &str) -> ServiceName {
    ServiceName::new(&ns("shop"), name).unwrap()
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, &ns("shop"), name).unwrap()
}

fn source(name: &str) -> SourceId {
    SourceId::new(name)
}

fn empty() -> Snapshot {
    let workload = Workload::new("shop", "web", "web")
        .unwrap()
        .label("app", "web");
    let mut settings = Settings::new(workload, DefaultAction::Allow);
    settings.sources = vec![source("first"), source("second")];
    settings.mesh_namespace = Some(ns("mesh"));
    Snapshot::new(settings)
}

fn service(of: &str, ports: &[u16]) -> Op {
    let ports = ports
        .iter()
        .map(|p| ServicePort::new(&format!("p{p}"), *p, AppProtocol::Http1));
    Op::put(Service::new(name(of), ports.collect()))
}

/// A slice of plain endpoints `10.0.0.x` behind the port `p80`.
fn slice(of: &str, slice: &str, last: &[u8]) -> Op {
    let hosts = last
        .iter()
        .map(|n| SliceHost::new(Host::Address(IpAddr::from([10, 0, 0, *n]))));
    Op::put(Slice::new(
        key(Kind::EndpointSlice, slice),
        name(of),
        vec![SlicePort::new("p80", 8_080)],
        hosts.collect(),
        Transport::Plain,
    ))
}

/// The names of slices do not decide which of two statements about an address counts.
#[test]
fn an_address_that_terminates_in_another_slice_serves() {
    let drained = |named: &str| {
        let host = SliceHost::new(Host::Address(IpAddr::from([10, 0, 0, 1])));
        let gone = Conditions::new(Some(false), Some(true), Some(true));
        Op::put(Slice::new(
            key(Kind::EndpointSlice, named),
            name("cart"),
            vec![SlicePort::new("p80", 8_080)],
            vec![host.with_conditions(gone)],
            Transport::Plain,
        ))
    };
    for (ready, terminating) in [("a", "b"), ("b", "a")] {
        let ops = vec![
            service("cart", &[80]),
            slice("cart", ready, &[1, 2]),
            drained(terminating),
        ];
        let set = set(&empty().apply(update(ops)), "cart");
        assert_eq!(set.ready_len(), 2, "{ready} {terminating}");
    }
}

fn route(of: &str, to: &str) -> Op {
    let rule = crate::route::Rule::to(vec![Backend::new(name(to), 80, 1).unwrap()]);
    let parents = vec![Parent::new(name(of), None)];
    let route = Route::new(key(Kind::HttpRoute, of), parents, vec![rule]).unwrap();
    Op::put(route)
}

fn policy(named: &str, action: Action) -> Op {
    let policy = Policy::new(
        key(Kind::AuthorizationPolicy, named),
        action,
        vec![PolicyRule::default()],
    );
    Op::put(policy)
}

fn update(ops: Vec<Op>) -> Change {
    Change::update(source("first"), ops)
}

fn set(snapshot: &Snapshot, of: &str) -> Arc<EndpointSet> {
    Arc::clone(snapshot.service(&name(of)).unwrap().endpoints(80).unwrap())
}

fn addresses(snapshot: &Snapshot, of: &str) -> Vec<String> {
    set(snapshot, of)
        .members()
        .iter()
        .map(|m| m.endpoint.address().to_string())
        .collect()
}

fn permitted(snapshot: &Snapshot) -> bool {
    let peer = Peer::Unauthenticated;
    decide(snapshot.policy(), &peer, &RequestView::Tcp, &mut ())
        .permit()
        .is_ok()
}

fn refused(kind: Kind, named: &str, fallback: Fallback) -> Op {
    Op::Refuse(
        key(kind, named),
        fallback,
        vec![Problem::refused("spec", "bad")],
    )
}

#[test]
fn an_endpoint_that_stays_keeps_its_state() {
    let one = empty().apply(update(vec![
        service("cart", &[80]),
        slice("cart", "a", &[1, 2]),
    ]));
    let kept = Arc::clone(&set(&one, "cart").members()[1].state);
    assert!(kept.enter(1));
    let two = one.apply(update(vec![
        slice("cart", "a", &[2, 3]),
        slice("cart", "b", &[1]),
    ]));
    assert_eq!(
        addresses(&two, "cart"),
        ["10.0.0.2:8080", "10.0.0.3:8080", "10.0.0.1:8080"]
    );
    let after = set(&two, "cart");
    assert!(Arc::ptr_eq(&after.members()[0].state, &kept));
    assert_eq!(after.members()[0].state.in_flight(), 1);
    // Another transport is another endpoint: it takes nothing from the old one.
    let Op::Put(Object::Slice(mut tls), _) = slice("cart", "a", &[2]) else {
        unreachable!()
    };
    Arc::make_mut(&mut tls).transport = Transport::tls("x", Roots::System);
    let three = two.apply(update(vec![Op::put(tls)]));
    assert!(!Arc::ptr_eq(&set(&three, "cart").members()[0].state, &kept));
}

#[test]
fn a_change_that_says_nothing_new_changes_nothing() {
    let all = || {
        vec![
            service("cart", &[80]),
            slice("cart", "a", &[1]),
            route("cart", "cart"),
            policy("p", Action::Allow),
            refused(Kind::HttpRoute, "bad", Fallback::Absent),
        ]
    };
    let one = empty().apply(update(all()));
    assert_eq!((one.generation(), one.refusals()), (1, 1));
    for change in [
        update(all()),
        Change::replace(source("first"), all()),
        update(vec![]),
    ] {
        let two = one.apply(change);
        assert_eq!((two.generation(), two.refusals()), (1, 1));
        let views = [&one, &two].map(|s| Arc::clone(s.service(&name("cart")).unwrap()));
        assert!(Arc::ptr_eq(&views[0], &views[1]), "nothing was compiled");
        assert!(Arc::ptr_eq(one.policy(), two.policy()));
    }
    // A Service that did not change is shared when another does.
    let two = one.apply(update(vec![service("other", &[80])]));
    let views = [&one, &two].map(|s| Arc::clone(s.service(&name("cart")).unwrap()));
    assert!(Arc::ptr_eq(&views[0], &views[1]));
}

#[test]
fn a_replacement_removes_what_it_does_not_mention_of_its_own() {
    let one = empty()
        .apply(update(vec![
            service("cart", &[80]),
            service("gone", &[80]),
            slice("cart", "a", &[1]),
        ]))
        .apply(Change::update(
            source("second"),
            vec![service("other", &[80])],
        ));
    let kept = key(Kind::EndpointSlice, "a");
    let two = one.apply(Change::replace(
        source("first"),
        vec![service("cart", &[80]), Op::Keep(kept)],
    ));
    assert!(two.service(&name("gone")).is_none());
    assert!(two.service(&name("other")).is_some());
    assert_eq!(addresses(&two, "cart"), ["10.0.0.1:8080"]);
    let three = two.apply(Change::replace(source("first"), vec![]));
    assert_eq!(three.services().count(), 1);
    assert_eq!(three.status().len(), 1);
}

#[test]
fn a_refused_object_serves_as_it_last_was_good() {
    let one = empty().apply(update(vec![service("cart", &[80]), route("cart", "v1")]));
    let bad = || refused(Kind::HttpRoute, "cart", Fallback::Absent);
    let two = one.apply(update(vec![bad()]));
    assert_eq!((two.generation(), two.refusals()), (1, 1));
    assert!(!two.service(&name("cart")).unwrap().routes.is_empty());
    let status = two
        .status()
        .into_iter()
        .find(|s| s.object.starts_with("HTTPRoute"))
        .unwrap();
    assert_eq!(status.serving, Serving::LastGood);
    assert_eq!(status.problems[0].to_string(), "spec: bad");
    // A replacement that refuses it mentions it.
    let three = two.apply(Change::replace(
        source("first"),
        vec![service("cart", &[80]), bad()],
    ));
    assert!(!three.service(&name("cart")).unwrap().routes.is_empty());
    let four = three.apply(update(vec![route("cart", "v1")]));
    assert_eq!(four.status()[0].serving, Serving::Current);
    let five = four.apply(update(vec![Op::Remove(key(Kind::HttpRoute, "cart"))]));
    assert!(five.service(&name("cart")).unwrap().routes.is_empty());
    // Never good: the Service is as it would be without it.
    let six = five.apply(update(vec![bad()]));
    assert!(six.service(&name("cart")).unwrap().routes.is_empty());
    assert_eq!(six.status()[0].serving, Serving::Nothing);
}

#[test]
fn a_refusal_that_changes_nothing_that_serves_is_no_generation() {
    let one = empty().apply(update(vec![service("cart", &[80])]));
    let file = || refused(Kind::Other("File".into()), "cart.yaml", Fallback::Absent);
    let two = one.apply(update(vec![file()]));
    assert_eq!(one.generation(), two.generation());
    assert_eq!(one.refusals() + 1, two.refusals());
    let mended = two.apply(Change::replace(
        source("first"),
        vec![service("cart", &[80])],
    ));
    assert_eq!(mended.generation(), two.generation());
    assert_eq!(mended.status().len(), 1, "{:?}", mended.status());
}

/// What a change is logged as.
fn difference(before: &Snapshot, change: Change) -> Difference {
    let mentioned = Mentioned::by(&change, before);
    Difference::between(before, &before.apply(change), mentioned)
}

#[test]
fn a_policy_that_was_never_good_denies_what_it_selects() {
    let labels = |app: &str| vec![("app".into(), app.into())];
    for (selects, denies, blocks) in [
        (Selects::Workloads(ns("shop"), labels("web")), true, false),
        (Selects::Workloads(ns("shop"), labels("cart")), false, false),
        (Selects::Workloads(ns("bank"), vec![]), false, false),
        (Selects::Namespace(ns("shop")), true, false),
        (Selects::Namespace(ns("bank")), false, false),
        (Selects::Namespace(ns("mesh")), true, false),
        (Selects::Unknown, true, true),
    ] {
        let bad = || {
            let fallback = Fallback::Deny(selects.clone());
            refused(Kind::AuthorizationPolicy, "p", fallback)
        };
        let one = empty().apply(update(vec![bad()]));
        assert_eq!(!permitted(&one), denies, "{selects:?}");
        assert_eq!(one.blocked().len(), usize::from(blocks), "{selects:?}");
        let change = update(vec![bad()]);
        let said = difference(&empty(), change).to_string();
        assert_eq!(
            said,
            "denying because they are refused: AuthorizationPolicy/shop/p"
        );
        let change = update(vec![Op::Remove(key(Kind::AuthorizationPolicy, "p"))]);
        let said = difference(&one, change).to_string();
        assert_eq!(said, "no longer denying: AuthorizationPolicy/shop/p");
        // Mended, and then refused again, it is as it was mended.
        let two = one.apply(update(vec![policy("p", Action::Allow)]));
        assert!(permitted(&two) && two.blocked().is_empty());
        let three = two.apply(update(vec![bad()]));
        assert!(
            permitted(&three) && three.blocked().is_empty(),
            "{selects:?}"
        );
        let four = one.apply(update(vec![Op::Remove(key(
            Kind::AuthorizationPolicy,
            "p",
        ))]));
        assert!(permitted(&four) && four.blocked().is_empty());
    }
}

#[test]
fn of_two_sources_the_first_serves_and_a_good_version_before_a_refused_one() {
    let say =
        |from: &str, ports: &[u16]| Change::update(source(from), vec![service("cart", ports)]);
    let ports = |s: &Snapshot| s.service(&name("cart")).map(|v| v.ports[0].port);
    let one = empty().apply(say("third", &[3])).apply(say("second", &[2]));
    assert_eq!(ports(&one), Some(2), "one that is not listed comes last");
    let two = one.apply(say("first", &[1]));
    assert_eq!(ports(&two), Some(1));
    assert!(two.status().iter().any(|s| {
        s.problems
            .iter()
            .any(|p| p.message == "shadowed by first, which has precedence")
    }));
    let remove = |from| Change::update(source(from), vec![Op::Remove(key(Kind::Service, "cart"))]);
    assert_eq!(ports(&two.apply(remove("second"))), Some(1));
    assert_eq!(ports(&two.apply(remove("first"))), Some(2));
    let bad = refused(Kind::Service, "cart", Fallback::Absent);
    let three = empty().apply(update(vec![bad])).apply(say("second", &[2]));
    assert_eq!(ports(&three), Some(2));
    let none = two
        .apply(remove("first"))
        .apply(remove("second"))
        .apply(remove("third"));
    assert_eq!(ports(&none), None);
}

/// The condition of a route that is refused for some of its rules is that of what serves.
#[test]
fn a_route_falls_back_to_a_version_that_was_applied() {
    let refuse = || {
        let note = Problem::note("spec.rules", "other rules are valid");
        let key = key(Kind::HttpRoute, "cart");
        Op::Refuse(
            key,
            Fallback::Absent,
            vec![Problem::refused("", "bad"), note],
        )
    };
    let said = |snapshot: &Snapshot| {
        let problems = snapshot.status().into_iter().flat_map(|one| one.problems);
        let mut messages = problems.map(|problem| problem.message);
        messages.find(|message| message.starts_with("other rules"))
    };
    let never = empty().apply(update(vec![service("cart", &[80]), refuse()]));
    assert_eq!(said(&never).as_deref(), Some("other rules are valid"));
    let before = update(vec![service("cart", &[80]), route("cart", "cart")]);
    let after = empty().apply(before).apply(update(vec![refuse()]));
    let said = said(&after).unwrap();
    assert!(
        said.contains("Fall Back") && said.contains("(PartiallyInvalid True)"),
        "{said}"
    );
}

#[test]
fn a_slice_may_move_to_another_service_and_a_service_come_after_its_slices() {
    let one = empty().apply(update(vec![
        slice("cart", "a", &[1]),
        route("cart", "cart"),
    ]));
    assert!(one.services().next().is_none());
    let warned = |s: &Snapshot| s.status().iter().map(|o| o.problems.len()).sum::<usize>();
    assert!(warned(&one) > 0, "it dangles");
    let two = one.apply(update(vec![
        service("cart", &[80]),
        service("other", &[80]),
    ]));
    assert_eq!(addresses(&two, "cart"), ["10.0.0.1:8080"]);
    assert_eq!(warned(&two), 0);
    let three = two.apply(update(vec![slice("other", "a", &[1])]));
    assert_eq!(addresses(&three, "cart"), [""; 0]);
    assert_eq!(addresses(&three, "other"), ["10.0.0.1:8080"]);
}

#[test]
fn an_authority_names_a_service_in_each_of_its_forms() {
    let snapshot = empty().apply(update(vec![
        service("cart", &[8_000]),
        service("two", &[80, 81]),
    ]));
    for (authority, from, wanted) in [
        ("cart", "shop", Some(8_000)),
        ("cart:9", "shop", Some(9)),
        ("cart.shop", "bank", Some(8_000)),
        ("cart.shop.svc", "bank", Some(8_000)),
        ("cart.shop.svc.cluster.local", "bank", Some(8_000)),
        ("CART.Shop.SVC.cluster.LOCAL.:80", "bank", Some(80)),
        ("cart.", "shop", Some(8_000)),
        ("two", "shop", Some(80)),
        ("two:81", "shop", Some(81)),
        ("cart", "bank", None),
        ("cart.bank", "shop", None),
        ("cart.shop.pod", "shop", None),
        ("cart.shop.svc.example.org", "shop", None),
        ("cart.shop.svc.cluster.local.evil", "shop", None),
        ("cart..", "shop", None),
        ("cart:", "shop", None),
        ("cart:+80", "shop", None),
        ("cart:65536", "shop", None),
        ("cart:80:80", "shop", None),
        ("[::1]:80", "shop", None),
        ("10.0.0.1", "shop", None),
        ("", "shop", None),
        (":80", "shop", None),
        (".", "shop", None),
    ] {
        let found = snapshot.resolve(authority, &ns(from), 80).map(|d| d.port);
        assert_eq!(found, wanted, "{authority} from {from}");
    }
}

fn named(host: &str) -> Host {
    Host::Name {
        name: host.into(),
        srv: None,
    }
}

fn resolve(host: &str, ips: &[&str]) -> Op {
    let ips = ips.iter().map(|ip| HostAddress::new(ip.parse().unwrap()));
    Op::Resolve(named(host), ips.collect())
}

#[test]
fn a_name_is_wanted_until_nobody_needs_it_and_pairs_both_families() {
    let Op::Put(Object::Service(outside), _) = service("out", &[80]) else {
        unreachable!()
    };
    let outside = Arc::unwrap_or_clone(outside).external(named("example.org"), Transport::Plain);
    let put = || Op::put(outside.clone());
    let one = empty().apply(update(vec![put()]));
    assert_eq!(one.names().collect::<Vec<_>>(), [&named("example.org")]);
    assert_eq!(addresses(&one, "out"), [""; 0]);
    let two = one.apply(update(vec![resolve(
        "example.org",
        &["10.0.0.1", "10.0.0.2", "2001:db8::1"],
    )]));
    let found: Vec<_> = set(&two, "out")
        .members()
        .iter()
        .map(|m| m.endpoint.addresses.to_vec())
        .collect();
    let at = |ip: &str| std::net::SocketAddr::new(ip.parse().unwrap(), 80);
    assert_eq!(
        found,
        [
            vec![at("2001:db8::1"), at("10.0.0.1")],
            vec![at("2001:db8::1"), at("10.0.0.2")],
        ]
    );
    // The same answer again changes nothing, an empty one drains.
    let same = two.apply(update(vec![resolve(
        "example.org",
        &["10.0.0.1", "10.0.0.2", "2001:db8::1"],
    )]));
    assert_eq!(same.generation(), two.generation());
    let drained = two.apply(update(vec![resolve("example.org", &[])]));
    assert_eq!(addresses(&drained, "out"), [""; 0]);
    // No Service needs it any more, whatever a resolver still answers.
    let gone = two.apply(update(vec![Op::Remove(key(Kind::Service, "out"))]));
    assert_eq!(gone.names().count(), 0);
    let late = gone.apply(update(vec![resolve("example.org", &["10.0.0.9"])]));
    assert_eq!(late.generation(), gone.generation());
    assert_eq!(
        addresses(&late.apply(update(vec![put()])), "out"),
        [""; 0],
        "it was forgotten"
    );
    // In one change the order does not matter.
    let both = empty().apply(update(vec![resolve("example.org", &["10.0.0.9"]), put()]));
    assert_eq!(addresses(&both, "out"), ["10.0.0.9:80"]);
    // A port of SRV wins.
    let srv = Op::Resolve(
        named("example.org"),
        Arc::new([HostAddress::new("10.0.0.9".parse().unwrap()).at_port(443)]),
    );
    assert_eq!(
        addresses(&both.apply(update(vec![srv])), "out"),
        ["10.0.0.9:443"]
    );
}

/// A subset has what its labels select of the slices of another Service, whatever comes first, and follows
/// them.
#[test]
fn a_subset_follows_the_slices_that_it_selects() {
    let labelled = |id: &str, hosts: &[u8], version: &str| {
        let Op::Put(Object::Slice(slice), _) = slice("cart", id, hosts) else {
            unreachable!()
        };
        let labels = [
            ("app".into(), "cart".into()),
            ("version".into(), version.into()),
        ];
        Op::put(Slice::clone(&slice).with_labels(labels))
    };
    let subset = |of: &str, version: &str| {
        let Op::Put(Object::Service(next), _) = service("next", &[80]) else {
            unreachable!()
        };
        let subset = Subset::new(name(of), [("version".into(), version.into())]);
        Op::put(Service::clone(&next).with_subset(subset))
    };
    let ports = |snapshot: &Snapshot, of: &str| addresses(snapshot, of);
    let ops = || {
        let slices = [labelled("a", &[1], "v1"), labelled("b", &[2], "v2")];
        [service("cart", &[80]), subset("cart", "v2")]
            .into_iter()
            .chain(slices)
    };
    let all = empty().apply(update(ops().collect()));
    assert_eq!(ports(&all, "next").len(), 1);
    assert_eq!(ports(&all, "cart").len(), 2);
    assert_eq!(ports(&all, "next")[0], ports(&all, "cart")[1]);
    let backwards: Vec<_> = ops().collect();
    let backwards = backwards.into_iter().rev();
    let late = backwards.fold(empty(), |snapshot, op| snapshot.apply(update(vec![op])));
    assert_eq!(ports(&late, "next"), ports(&all, "next"));
    // The other Service's slices change, and the labels that are asked for.
    let more = all.apply(update(vec![labelled("a", &[1, 3], "v2")]));
    assert_eq!(ports(&more, "next").len(), 3);
    let less = more.apply(update(vec![Op::Remove(key(Kind::EndpointSlice, "b"))]));
    assert_eq!(ports(&less, "next").len(), 2);
    let other = less.apply(update(vec![subset("cart", "v1")]));
    assert_eq!(ports(&other, "next"), [""; 0]);
    let warned = |snapshot: &Snapshot| {
        let status = snapshot.status();
        let next = status
            .iter()
            .find(|of| of.object == "Service/shop/next")
            .unwrap();
        next.problems
            .iter()
            .map(|p| p.message.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(warned(&less), [""; 0]);
    assert!(warned(&other)[0].contains("has the labels of the selector"));
    let away = other.apply(update(vec![subset("none", "v1")]));
    assert!(
        warned(&away)[0].contains("Service none.shop does not exist"),
        "{:?}",
        warned(&away)
    );
    // What it leaves does not reach it any longer.
    let gone = more.apply(update(vec![subset("none", "v2")]));
    let still = gone.apply(update(vec![labelled("a", &[1, 3, 4], "v2")]));
    assert_eq!(ports(&still, "next"), [""; 0]);
    let removed = more.apply(update(vec![Op::Remove(key(Kind::Service, "next"))]));
    let removed = removed.apply(update(vec![labelled("a", &[1], "v2")]));
    assert!(removed.service(&name("next")).is_none());
}

/// A weight of SRV is the endpoint's, and one that changes moves nothing else.
#[test]
fn a_weight_of_srv_is_that_of_its_endpoint() {
    let (host, cart) = (named("example.org"), service("out", &[80]));
    let Op::Put(Object::Service(outside), _) = cart else {
        unreachable!()
    };
    let outside = Service::clone(&outside).external(host.clone(), Transport::Plain);
    let resolve = |weights: [u32; 2]| {
        let found = (1_u8..).zip(weights).map(|(n, weight)| {
            HostAddress::new([10, 0, 0, n].into())
                .at_port(443)
                .with_weight(weight)
        });
        Op::Resolve(host.clone(), found.collect())
    };
    let weights = |snapshot: &Snapshot| -> Vec<u32> {
        let set = set(snapshot, "out");
        set.members().iter().map(|m| m.endpoint.weight).collect()
    };
    let one = empty().apply(update(vec![Op::put(outside), resolve([180, 60])]));
    assert_eq!(weights(&one), [180, 60]);
    let two = one.apply(update(vec![resolve([60, 60])]));
    assert_eq!(weights(&two), [60, 60]);
    let [before, after] = [one, two].map(|s| Arc::clone(&set(&s, "out").members()[0].state));
    assert!(Arc::ptr_eq(&before, &after));
}

#[test]
fn endpoints_that_end_serve_only_where_none_is_ready() {
    let with = |conditions: &[Conditions]| {
        let Op::Put(Object::Slice(mut slice), _) = slice("cart", "a", &[1, 2, 3]) else {
            unreachable!()
        };
        for (host, conditions) in Arc::make_mut(&mut slice).hosts.iter_mut().zip(conditions) {
            host.conditions = *conditions;
        }
        let ops = vec![service("cart", &[80]), Op::put(slice)];
        set(&empty().apply(update(ops)), "cart")
    };
    let ready = Conditions::default();
    let not = Conditions::new(Some(false), None, None);
    let ending = Conditions::new(Some(false), Some(true), Some(true));
    for (conditions, expected) in [
        ([ready, not, ending], 1),
        ([ready, ready, ready], 3),
        ([not, not, ending], 1),
        ([not, not, not], 0),
    ] {
        assert_eq!(with(&conditions).ready_len(), expected);
    }
}

#[tokio::test]
async fn readers_hear_of_each_swap_and_of_the_end() {
    let (mut writer, mut reader) = snapshot(empty());
    writer.apply(update(vec![service("cart", &[80])]));
    assert!(reader.changed().await);
    assert_eq!(reader.peek().generation(), 1);
    assert_eq!(reader.load().services().count(), 1);
    drop(writer);
    assert!(!reader.changed().await);
}

proptest! {
    /// However it came about, a snapshot says what the last version of each object says.
    #[test]
    fn the_order_of_changes_does_not_matter(
        ops in proptest::collection::vec((0_u8..5, 0_u8..3, 0_u8..4), 1..60),
    ) {
        let mut snapshot = empty();
        let mut last = std::collections::BTreeMap::new();
        for (what, which, how) in ops {
            let op = match (what, how) {
                (0, 0) => Op::Remove(key(Kind::Service, &format!("s{which}"))),
                (0, _) => service(&format!("s{which}"), &[80]),
                (1, 0) => Op::Remove(key(Kind::EndpointSlice, &format!("e{which}"))),
                (1, n) => slice(&format!("s{}", n - 1), &format!("e{which}"), &[which, 9]),
                (2, 0) => Op::Remove(key(Kind::HttpRoute, &format!("s{which}"))),
                (2, n) => route(&format!("s{which}"), &format!("s{}", n - 1)),
                (3, 0) => Op::Remove(key(Kind::TrafficPolicy, &format!("t{which}"))),
                (3, n) => {
                    let to = Target::Service(name(&format!("s{}", n - 1)), None);
                    let targets = if n == 3 { vec![] } else { vec![to] };
                    traffic(key(Kind::TrafficPolicy, &format!("t{which}")), targets, u32::from(which))
                }
                (_, 0) => Op::Remove(key(Kind::AuthorizationPolicy, &format!("p{which}"))),
                (_, 1) => policy(&format!("p{which}"), Action::Deny),
                (_, _) => policy(&format!("p{which}"), Action::Allow),
            };
            last.insert((what, which), op.clone());
            snapshot = snapshot.apply(update(vec![op]));
        }
        let at_once = empty().apply(update(last.into_values().collect()));
        prop_assert_eq!(snapshot.services().count(), at_once.services().count());
        for view in at_once.services() {
            let of = view.name.name();
            prop_assert_eq!(addresses(&snapshot, of), addresses(&at_once, of));
            let all = |snapshot: &Snapshot| {
                let view = snapshot.service(&view.name).unwrap();
                (format!("{:?}", view.routes), view.traffic(80).cloned(), view.ports.to_vec())
            };
            prop_assert_eq!(all(&snapshot), all(&at_once));
        }
        prop_assert_eq!(permitted(&snapshot), permitted(&at_once));
        prop_assert_eq!(snapshot.status().len(), at_once.status().len());
    }
}

#[test]
fn a_text_is_the_same_short_or_long() {
    // Around the longest that lies in its place, with letters of several bytes.
    for text in ["", "/", "/items", "/\u{e4}\u{1f600}"] {
        for len in [0, 36, 37, 38, 39, 255, 256, 300] {
            let text = format!("{text}{}", "x".repeat(len));
            let made = Text::from(text.as_str());
            assert_eq!((made.as_str(), made.as_bytes()), (&*text, text.as_bytes()));
            assert_eq!(made, Text::from(text.as_str()));
            assert_ne!(made, Text::from(format!("{text}y").as_str()));
            assert_eq!(format!("{made:?} {made}"), format!("{text:?} {text}"));
        }
    }
}

#[test]
fn a_few_are_a_list_of_any_length() {
    for len in 0..5_u8 {
        let few: Few<u8> = (0..len).collect();
        assert_eq!(*few, *(0..len).collect::<Vec<_>>());
    }
    assert_eq!(Few::from(7), [7].into_iter().collect());
    assert_eq!(Few::<u8>::default(), [].into_iter().collect());
}

#[test]
fn a_service_is_found_by_its_whole_name_alone() {
    let long = "a".repeat(63);
    let one = empty().apply(update(vec![service("cart", &[80]), service(&long, &[80])]));
    let find = |authority: &str| one.resolve(authority, &ns("shop"), 80).map(|to| to.service);
    for there in ["cart", "cart.shop", &long, &format!("{long}.shop.svc")] {
        assert!(find(there).is_some(), "{there}");
    }
    for absent in [
        "car",
        "cart2",
        "cart.sho",
        "cart.shopp",
        "cart.",
        "cart.bank",
        ".shop",
        "",
    ] {
        let wanted = absent == "cart.";
        assert_eq!(find(absent).is_some(), wanted, "{absent}");
    }
}

#[test]
fn a_set_counts_those_that_may_be_chosen_from() {
    // Ready or not, in each place of three: the list of places is there only where it is needed.
    for mask in 0..8_u8 {
        let ready = |n: u8| mask & (1 << n) != 0;
        let endpoints = (0..3).map(|n| {
            let address = std::net::SocketAddr::from(([10, 0, 0, n], 80));
            let mut endpoint = Endpoint::new(address, Transport::Plain);
            endpoint.conditions = Conditions::new(Some(ready(n)), None, None);
            endpoint
        });
        let set = EndpointSet::build(endpoints, None);
        let wanted: Vec<_> = (0..3).filter(|n| ready(*n)).map(usize::from).collect();
        let found: Vec<_> = set.ready().collect();
        assert_eq!(found.len(), wanted.len());
        assert_eq!(set.ready_len(), wanted.len());
        for (n, place) in wanted.iter().enumerate() {
            let (found, wanted) = (found[n], &set.members()[*place]);
            assert!(Arc::ptr_eq(&found.state, &wanted.state));
        }
    }
}

#[test]
fn an_endpoint_named_twice_is_one() {
    let address = std::net::SocketAddr::from(([10, 0, 0, 1], 80));
    let twice = || [0, 1].map(|_| Endpoint::new(address, Transport::Plain));
    let one = EndpointSet::build(twice(), None);
    let two = EndpointSet::build(twice(), Some(&one));
    assert_eq!((one.members().len(), two.members().len()), (1, 1));
    assert!(Arc::ptr_eq(
        &one.members()[0].state,
        &two.members()[0].state
    ));
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u8, u64),
    Remove(u8, u64),
}

fn step() -> impl Strategy<Value = Step> {
    // Few names and hashes, of which many agree in their low or in all bits.
    let hash = prop_oneof![0..4_u64, (0..4_u64).prop_map(|n| n << 60), any::<u64>()];
    let hash = prop_oneof![3 => (0..3_u64).prop_map(|n| n << 5), 1 => hash];
    (0..6_u8, hash, any::<bool>()).prop_map(|(n, hash, insert)| match insert {
        true => Step::Insert(n, hash),
        false => Step::Remove(n, hash),
    })
}

proptest! {
    /// The index does what a plain map does, whatever hashes agree, and each version stays.
    #[test]
    fn the_index_is_a_map_and_its_versions_stay(steps in prop::collection::vec(step(), 0..60)) {
        let named = |n: u8, hash| name(&format!("s{n}")).hashed(hash);
        let view = |name: &ServiceName| {
            let of = Arc::new(Service::new(name.clone(), vec![]));
            let parts = compile::CompileInput {
                traffic: &[],
                tls: &[],
                roots: &|_| None,
                service: &of,
                asked: &Default::default(),
                slices: &[],
                routes: &[],
                grpc_routes: &[],
                opaque_routes: &[],
            };
            let snapshot = empty();
            Arc::new(compile::view(
                snapshot.settings(),
                &parts,
                &compile::Beside {
                    addresses: &|_| None,
                    member: &|slice, host| snapshot.member(slice, host, &pods::Places::default()),
                },
                None,
            ))
        };
        let mut index = index::Index::default();
        let mut plain = std::collections::BTreeMap::new();
        let mut versions = vec![(index.clone(), plain.clone())];
        for step in steps {
            match step {
                Step::Insert(n, hash) => {
                    let name = named(n, hash);
                    let view = view(&name);
                    index.insert(Arc::clone(&view));
                    plain.insert(name, view);
                }
                Step::Remove(n, hash) => {
                    index.remove(&named(n, hash));
                    plain.remove(&named(n, hash));
                }
            }
            versions.push((index.clone(), plain.clone()));
        }
        for (index, plain) in versions {
            let mut all: Vec<_> = index.iter().map(|v| v.name.clone()).collect();
            all.sort();
            prop_assert_eq!(all, plain.keys().cloned().collect::<Vec<_>>());
            for (name, view) in &plain {
                let found = index.find(name.hash64(), |s| s.name == *name);
                prop_assert!(found.is_some_and(|found| Arc::ptr_eq(found, view)));
            }
            prop_assert!(index.find(7, |s| s.name.name() == "absent").is_none());
            // Only equal hashes share a leaf, and what was removed leaves no trace.
            let hashes: std::collections::BTreeSet<_> = plain.keys().map(|n| n.hash64()).collect();
            prop_assert_eq!(index.shape().len(), hashes.len().max(1));
            let mut fresh = index::Index::default();
            plain.values().cloned().for_each(|view| fresh.insert(view));
            prop_assert_eq!(index.shape(), fresh.shape());
        }
    }
}

/// A TrafficPolicy with that many repeats.
fn traffic(named: ObjectKey, targets: Vec<Target>, repeats: u32) -> Op {
    let blocks = Blocks {
        retry: Some(RetryPolicy::new(repeats).into()),
        ..Blocks::default()
    };
    Op::put(TrafficPolicy::new(named, targets, blocks).unwrap())
}

fn repeats(snapshot: &Snapshot, of: &str) -> Option<u32> {
    let traffic = snapshot.service(&name(of))?.traffic(80)?;
    Some(traffic.retry.as_ref()?.value.repeats())
}

/// Whatever comes first, and for what is there already.
#[test]
fn a_traffic_policy_reaches_what_it_is_for_in_any_order() {
    let of_mesh = || {
        let key = ObjectKey::new(Kind::TrafficPolicy, &ns("mesh"), "all").unwrap();
        traffic(key, vec![], 1)
    };
    let of_shop = || traffic(key(Kind::TrafficPolicy, "all"), vec![], 2);
    let cart = Target::Service(name("cart"), None);
    let of_cart = || traffic(key(Kind::TrafficPolicy, "cart"), vec![cart.clone()], 3);
    let ops: [&dyn Fn() -> Op; 5] = [
        &of_mesh,
        &of_shop,
        &of_cart,
        &|| service("cart", &[80]),
        &|| service("other", &[80]),
    ];
    for first in 0..ops.len() {
        let order = (0..ops.len()).map(|n| ops[(first + n) % ops.len()]());
        let snapshot = order.fold(empty(), |snapshot, op| snapshot.apply(update(vec![op])));
        assert_eq!(repeats(&snapshot, "cart"), Some(3), "{first}");
        assert_eq!(repeats(&snapshot, "other"), Some(2), "{first}");
        // The farther one serves as the nearer goes, and at last what the process was built with.
        let removed = |snapshot: &Snapshot, key| snapshot.apply(update(vec![Op::Remove(key)]));
        let snapshot = removed(&snapshot, key(Kind::TrafficPolicy, "cart"));
        assert_eq!(repeats(&snapshot, "cart"), Some(2), "{first}");
        let snapshot = removed(&snapshot, key(Kind::TrafficPolicy, "all"));
        assert_eq!(repeats(&snapshot, "cart"), Some(1), "{first}");
        let all = ObjectKey::new(Kind::TrafficPolicy, &ns("mesh"), "all").unwrap();
        let snapshot = removed(&snapshot, all);
        assert_eq!(repeats(&snapshot, "cart"), None, "{first}");
        let traffic = snapshot.service(&name("cart")).unwrap().traffic(80);
        assert!(Arc::ptr_eq(traffic.unwrap(), &snapshot.settings().traffic));
        assert!(snapshot.traffic.is_empty());
    }
}

#[test]
fn a_policy_for_a_route_is_that_of_its_rules() {
    let to_route = vec![Target::Route(key(Kind::HttpRoute, "cart"), None)];
    let policy = || traffic(key(Kind::TrafficPolicy, "slow"), to_route.clone(), 7);
    let ops: [&dyn Fn() -> Op; 3] = [&policy, &|| route("cart", "cart"), &|| {
        service("cart", &[80])
    }];
    for first in 0..ops.len() {
        let order = (0..ops.len()).map(|n| ops[(first + n) % ops.len()]());
        let snapshot = order.fold(empty(), |snapshot, op| snapshot.apply(update(vec![op])));
        let shown = serde_json::to_value(&snapshot.service(&name("cart")).unwrap().routes).unwrap();
        assert_eq!(shown[0]["retry"]["attempts"], 7, "{first}");
        assert_eq!(shown[0]["retry"]["from"], "TrafficPolicy/shop/slow");
        assert_eq!(repeats(&snapshot, "cart"), None, "{first}");
    }
}

/// The budget of repeats outlives a change of the Service, as the health of its endpoints does.
#[test]
fn the_budget_of_a_service_stays() {
    let one = empty().apply(update(vec![service("cart", &[80])]));
    let budget = Arc::clone(&one.service(&name("cart")).unwrap().retries);
    let two = one.apply(update(vec![service("cart", &[80, 81])]));
    assert!(Arc::ptr_eq(
        &budget,
        &two.service(&name("cart")).unwrap().retries
    ));
}

/// A policy whose target is not there says so, until it is.
#[test]
fn a_traffic_policy_says_which_target_is_not_there() {
    let port = |name: &str| Some(Arc::from(name));
    let of = key(Kind::HttpRoute, "cart");
    let targets = vec![
        Target::Service(name("cart"), None),
        Target::Service(name("cart"), port("grpc")),
        Target::Route(of.clone(), None),
        Target::Route(of, port("slow")),
    ];
    let policy = || traffic(key(Kind::TrafficPolicy, "cart"), targets.clone(), 1);
    let lacking = |ops: Vec<Op>| -> Vec<String> {
        let snapshot = empty().apply(update(ops));
        let status = snapshot.status();
        let policy = status
            .iter()
            .filter(|s| s.object.starts_with("TrafficPolicy/"));
        let problems = policy.flat_map(|s| &s.problems);
        problems.map(|p| p.to_string()).collect()
    };
    let end = "(Accepted False, TargetNotFound)";
    let said = |all: &[&str]| -> Vec<String> { all.iter().map(|t| format!("{t} {end}")).collect() };
    let absent = [
        "spec.targetRefs[0]: Service cart.shop does not exist",
        "spec.targetRefs[1]: Service cart.shop does not exist",
        "spec.targetRefs[2]: HTTPRoute/shop/cart does not exist, or is refused",
        "spec.targetRefs[3]: HTTPRoute/shop/cart does not exist, or is refused",
    ];
    assert_eq!(lacking(vec![policy()]), said(&absent));
    let there = vec![policy(), service("cart", &[80]), route("cart", "cart")];
    let parts = [
        "spec.targetRefs[1]: Service cart.shop has no port named \"grpc\"",
        "spec.targetRefs[3]: HTTPRoute/shop/cart has no rule named \"slow\"",
    ];
    assert_eq!(lacking(there), said(&parts));
}
