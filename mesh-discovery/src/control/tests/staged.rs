//! A document that is staged, and members on both sides of it.

use std::sync::Arc;

use inmesh_core::model::{Kind, ServiceName};

use super::super::names;
use super::super::proto::delta::{DeltaDiscoveryRequest as Request, Report};
use super::super::server::session::Session;
use super::super::server::staged::{Side, Staged};
use super::{CART, Plane, Process, crypto, namespace, service};
use crate::control::names::TYPE;
use crate::kube::tests::defaults;
use crate::manifest::parse;
use crate::stage::{Offer, Tally, choose};

const NAMES: [&str; 2] = ["web-1", "web-2"];

fn route(to: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: cart, namespace: shop}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, name: cart}}], rules: [{{backendRefs: [{{name: {to}, port: 80}}]}}]}}}}"
    )
}

fn other(name: &str, address: &str) -> String {
    let named = CART.replace("name: cart,", &format!("name: {name},"));
    named.replace("10.96.0.7", address)
}

/// As it is handed on.
fn text(document: &str) -> Arc<str> {
    let parsed = parse("a.yaml", document, &defaults().documents()).expect("it is YAML");
    let entry = parsed.entries.into_iter().next().expect("a document");
    entry.document.expect("it is handed on")
}

/// The route to `next` in the place of that to `one`.
fn offer(id: &str) -> Offer {
    let key = names::key("HTTPRoute/shop/cart").expect("a name");
    let (stable, document) = (text(&route("one")), text(&route("next")));
    let offer = Offer::new(id, key, &stable, &document).leads_to([service("next")]);
    offer.counts([service("cart"), service("one"), service("next")])
}

fn staged(offer: &Offer) -> Staged {
    Staged::new(Arc::new(offer.clone()), crypto())
}

fn plane(route: &str) -> Plane {
    let mut plane = Plane::new();
    plane.texts(&[
        CART,
        route,
        &other("one", "10.96.0.8"),
        &other("next", "10.96.0.9"),
    ]);
    plane
}

/// Two members with the Service, each on a stream of its own.
fn members(plane: &mut Plane) -> [Process; 2] {
    NAMES.map(|name| {
        let mut process = Process::new("shop", &["service/shop/cart"]);
        let id = "spiffe://lab.example/ns/shop/sa/web";
        process.open(Session::new(namespace("shop"), id, name));
        process.talk(plane);
        process.brought.clear();
        process
    })
}

/// Reports on what it is asked for.
fn report(process: &mut Process, requests: u64, failed: u64) {
    let id = process.watch.as_ref().expect("it is asked").id.clone();
    let took = vec![requests];
    process.session.report(Report {
        id,
        requests,
        failed,
        took,
    });
}

fn tally(staged: &Staged, members: &[Process]) -> Tally {
    let mut tally = Tally::default();
    for member in members {
        let refused = member.session.refused().get(staged.name());
        let why = refused.map(|refused| refused.problems.join("; "));
        if let Some(said) = member.session.said() {
            staged.add(&said, why.as_deref(), &mut tally);
        }
    }
    tally
}

/// The Services that a member's route leads to.
fn leads_to(process: &Process) -> Vec<ServiceName> {
    let about = process
        .snapshot
        .about(&service("cart"))
        .expect("it has the Service");
    about.routes.into_iter().flat_map(|(_, to)| to).collect()
}

#[test]
fn those_that_are_chosen_have_what_is_staged_and_the_others_see_no_change() {
    let mut plane = plane(&route("one"));
    let mut both = members(&mut plane);
    // Members are asked first, and say so.
    let open = staged(&offer("a1"));
    for process in &mut both {
        process.talk_of(&mut plane, Some(&open));
        assert!(
            process.brought.is_empty(),
            "nothing is sent before they are chosen"
        );
        let watch = process.watch.clone().expect("it is asked");
        assert_eq!(
            (&*watch.object, watch.every_millis),
            ("HTTPRoute/shop/cart", 1_000)
        );
        assert_eq!(watch.services, ["cart.shop", "next.shop", "one.shop"]);
    }
    assert_eq!(tally(&open, &both).members, 0);
    both.iter_mut().for_each(|process| report(process, 9, 9));
    let found = tally(&open, &both);
    assert_eq!(
        (found.members, found.canary.members, found.rest.members),
        (2, 0, 0)
    );
    // Half of them, of whatever order.
    let chosen =
        choose((found.members, found.others), &found.lowest, 50).expect("there are others");
    let runs = staged(&offer("a1").to(chosen.bound));
    both.sort_by_key(|process| process.session.said().expect("it has reported").mark);
    for process in &mut both {
        process.talk_of(&mut plane, Some(&runs));
    }
    assert_eq!(
        both[0].brought,
        ["HTTPRoute/shop/cart", "Service/shop/next"]
    );
    assert!(both[1].brought.is_empty(), "{:?}", both[1].brought);
    assert_eq!(
        (leads_to(&both[0]), leads_to(&both[1])),
        (vec![service("next")], vec![service("one")])
    );
    // What was counted before does not count.
    assert_eq!(tally(&runs, &both).members, 0);
    report(&mut both[0], 20, 5);
    report(&mut both[1], 30, 0);
    let found = tally(&runs, &both);
    assert_eq!(
        (
            found.canary.requests,
            found.canary.failed,
            found.rest.requests
        ),
        (20, 5, 30)
    );
    assert_eq!(
        tally(&staged(&offer("b2").to(chosen.bound)), &both).members,
        0,
        "of another stage"
    );
    // Promoted: the others have it, and those that had it are sent nothing again.
    both.iter_mut().for_each(|process| process.brought.clear());
    plane.texts(&[
        CART,
        &route("next"),
        &other("one", "10.96.0.8"),
        &other("next", "10.96.0.9"),
    ]);
    for process in &mut both {
        process.talk(&mut plane);
        assert_eq!(
            (leads_to(process), process.watch.clone()),
            (vec![service("next")], None)
        );
    }
    assert!(both[0].brought.is_empty(), "{:?}", both[0].brought);
    assert_eq!(
        both[1].brought,
        ["HTTPRoute/shop/cart", "Service/shop/next"]
    );
}

#[test]
fn members_of_one_namespace_can_be_chosen_alone() {
    let mut plane = plane(&route("one"));
    let [shop, mut till] = members(&mut plane);
    let id = "spiffe://lab.example/ns/till/sa/web";
    till.open(Session::new(namespace("till"), id, "web-2"));
    till.talk(&mut plane);
    let mut both = [shop, till];
    let of_shop = offer("a1").of_namespace(namespace("shop"));
    let open = staged(&of_shop);
    for process in &mut both {
        process.talk_of(&mut plane, Some(&open));
        report(process, 1, 0);
    }
    let found = tally(&open, &both);
    assert_eq!((found.members, found.others), (1, 1));
    let chosen = choose((found.members, found.others), &found.lowest, 100);
    let runs = staged(&of_shop.to(chosen.expect("there are others").bound));
    for (process, to) in both.iter_mut().zip(["next", "one"]) {
        process.talk_of(&mut plane, Some(&runs));
        assert_eq!(leads_to(process), [service(to)]);
        report(process, 1, 0);
    }
    let found = tally(&runs, &both);
    assert_eq!((found.canary.members, found.rest.members), (1, 1));
}

/// Of a Service that a member has because a route leads there, and of all of a namespace.
#[test]
fn what_is_for_a_service_behind_a_route_is_staged_too() {
    let traffic = |timeout: &str, targets: &str| {
        format!(
            "{{apiVersion: inmesh.dev/v1alpha1, kind: TrafficPolicy, metadata: {{name: t, namespace: shop}}, \
             spec: {{{targets}timeouts: {{request: {timeout}}}}}}}"
        )
    };
    for targets in ["targetRefs: [{group: '', kind: Service, name: one}], ", ""] {
        let mut plane = Plane::new();
        let (now, then) = (traffic("1s", targets), traffic("2s", targets));
        plane.texts(&[
            CART,
            &route("one"),
            &now,
            &other("one", "10.96.0.8"),
            &other("next", "10.96.0.9"),
        ]);
        let [mut process, _] = members(&mut plane);
        let key = names::key("TrafficPolicy/shop/t").expect("a name");
        // As if it led to a Service that has the policy as well.
        let offer = Offer::new("a1", key, &text(&now), &text(&then)).leads_to([service("next")]);
        let runs = staged(&offer.to(u64::MAX));
        process.talk_of(&mut plane, Some(&runs));
        assert_eq!(
            process.brought,
            ["Service/shop/next", "TrafficPolicy/shop/t"],
            "{targets}"
        );
        let about = process
            .snapshot
            .about(&service("one"))
            .expect("it is there");
        let of = about
            .objects
            .iter()
            .find(|of| of.key.kind == Kind::TrafficPolicy);
        let shown = format!("{:?}", of.expect("the policy").object);
        assert!(shown.contains("2s"), "{shown}");
    }
}

#[test]
fn what_is_taken_back_is_as_before() {
    let mut plane = plane(&route("one"));
    let mut both = members(&mut plane);
    // All of them, which no stage is for.
    let runs = staged(&offer("a1").to(u64::MAX));
    for process in &mut both {
        process.talk_of(&mut plane, Some(&runs));
        assert_eq!(leads_to(process), [service("next")]);
        process.talk(&mut plane);
        assert_eq!(leads_to(process), [service("one")]);
        assert!(process.watch.is_none() && process.session.said().is_none());
    }
}

#[test]
fn nothing_takes_the_place_of_another_version() {
    // Changed since, or of a source with precedence: that is what a member has.
    let mut plane = plane(&route("cart"));
    let mut both = members(&mut plane);
    let runs = staged(&offer("a1").to(u64::MAX));
    for process in &mut both {
        process.talk_of(&mut plane, Some(&runs));
        assert!(process.brought.is_empty() && process.watch.is_none());
    }
    // And a member without the object has nothing of it.
    let mut apart = Process::new("shop", &["service/shop/next"]);
    apart.talk_of(&mut plane, Some(&runs));
    assert_eq!((apart.brought.len(), apart.watch), (1, None));
}

#[test]
fn a_member_that_does_not_count_is_on_no_side() {
    let mut plane = plane(&route("one"));
    let mut early = Process::new("shop", &["service/shop/cart"]);
    early.next.as_mut().expect("its first request").counts = false;
    let runs = staged(&offer("a1").to(u64::MAX));
    early.talk_of(&mut plane, Some(&runs));
    assert_eq!(leads_to(&early), [service("one")]);
    assert_eq!(early.watch, None);
}

#[test]
fn a_report_acknowledges_nothing() {
    let mut plane = plane(&route("one"));
    let [mut process, _] = members(&mut plane);
    let runs = staged(&offer("a1").to(u64::MAX));
    let response = process.session.poll(&mut plane.catalogue, Some((&runs, 2)));
    let response = response.expect("it is new");
    process
        .session
        .handle(Request {
            type_url: TYPE.into(),
            ..Request::default()
        })
        .expect("it is in order");
    process.session.report(Report {
        id: "a1/canary".into(),
        ..Report::default()
    });
    assert!(process.session.waits());
    let _acknowledged = process.take(response);
    assert!(
        process
            .session
            .said()
            .is_some_and(|said| runs.side(said.mark) == Side::Canary)
    );
    // More bounds than there are, and what it was not asked for.
    process.session.report(Report {
        id: "a1/rest".into(),
        requests: 7,
        ..Report::default()
    });
    let long = Report {
        id: "a1/canary".into(),
        took: vec![1; 9_999],
        ..Report::default()
    };
    process.session.report(long);
    assert!(
        process
            .session
            .said()
            .is_some_and(|said| said.report.took.len() == 64 && said.report.requests == 0)
    );
}

#[test]
fn a_member_that_refuses_it_is_heard() {
    let mut plane = plane(&route("one"));
    let mut both = members(&mut plane);
    let mut bad = offer("a1").to(u64::MAX);
    bad.document = bad.document.replace("\"rules\"", "\"rulers\"").into();
    let bad = staged(&bad);
    for process in &mut both {
        process.talk_of(&mut plane, Some(&bad));
        assert_eq!(process.refused, ["HTTPRoute/shop/cart"]);
        assert_eq!(
            leads_to(process),
            [service("one")],
            "the last good one serves"
        );
        report(process, 1, 0);
    }
    let found = tally(&bad, &both);
    assert_eq!(found.refused.len(), 2);
    assert!(found.refused[0].contains("rulers"), "{found:?}");
}
