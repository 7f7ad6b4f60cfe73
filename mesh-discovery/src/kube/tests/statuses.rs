//! What is written on a route.

use serde_json::{Value as Json, json};

use super::super::status::{CONTROLLER, Written};
use super::{Event, Index, empty, listed, object, place, source};

const NOW: &str = "2026-01-31T12:00:00Z";
const LATER: &str = "2026-01-31T13:00:00Z";

fn parent(name: &str, port: u16) -> Json {
    json!({"group": "", "kind": "Service", "name": name, "port": port})
}

/// A route with these parents, one rule that leads to a backend, and what stands in its status.
fn route(parents: &[Json], backend: &str, status: &[Json]) -> Json {
    let kind = place("HTTPRoute", "gateway.networking.k8s.io");
    let spec =
        json!({"parentRefs": parents, "rules": [{"backendRefs": [{"name": backend, "port": 80}]}]});
    let mut route = object(kind, "r", "u", 3, &json!({"spec": spec}));
    route["metadata"]["generation"] = 7.into();
    route["status"] = json!({"parents": status});
    route
}

/// What is wanted for the last of several versions of a route, beside the Service `cart` with port 80.
fn wanted(versions: &[Json], now: &str) -> Result<Option<Vec<Json>>, String> {
    let mut index: Index = listed();
    let services = place("Service", "");
    let cart = json!({"spec": {"ports": [{"name": "p", "port": 80}]}});
    index.handle(
        services,
        Event::Applied(object(services, "cart", "u", 1, &cart)),
    );
    let kind = place("HTTPRoute", "gateway.networking.k8s.io");
    let mut snapshot = empty();
    for (n, version) in versions.iter().enumerate() {
        let mut version = version.clone();
        version["metadata"]["resourceVersion"] = (3 + n).to_string().into();
        index.handle(kind, Event::Applied(version));
        snapshot = snapshot.apply(index.poll().expect("it is new"));
    }
    let (key, written): (_, &Written) = index.written().next().expect("the route");
    let status = snapshot.problems(&source(), [key]);
    written.wanted(status.first(), now)
}

/// Each entry of ours: the parent, and each condition with its reason.
fn shown(parents: &[Json]) -> Vec<String> {
    let ours = parents
        .iter()
        .filter(|entry| entry["controllerName"] == CONTROLLER);
    let shown = ours.map(|entry| {
        let conditions = entry["conditions"].as_array().expect("a list").iter();
        let conditions = conditions.map(|one| {
            assert_eq!(one["observedGeneration"], 7);
            let text = |name: &str| one[name].as_str().expect("a text").to_owned();
            format!("{} {} {}", text("type"), text("status"), text("reason"))
        });
        let conditions: Vec<_> = conditions.collect();
        format!("{}: {}", entry["parentRef"]["name"], conditions.join(", "))
    });
    shown.map(|one| one.replace('"', "")).collect()
}

#[test]
fn each_parent_that_is_a_service_has_its_conditions() {
    let cart = || parent("cart", 80);
    let gateway = json!({"name": "door"});
    let nameless = json!({"group": "", "kind": "Service", "name": "cart"});
    let good = "Accepted True Accepted, ResolvedRefs True ResolvedRefs";
    let lost = "Accepted False NoMatchingParent, ResolvedRefs True ResolvedRefs";
    let dangling = "Accepted True Accepted, ResolvedRefs False BackendNotFound";
    for (parents, backend, expected) in [
        (vec![cart()], "cart", vec![format!("cart: {good}")]),
        (
            vec![gateway.clone(), cart()],
            "cart",
            vec![format!("cart: {good}")],
        ),
        (vec![cart()], "none", vec![format!("cart: {dangling}")]),
        (
            vec![gateway, parent("none", 80), nameless],
            "cart",
            vec![format!("none: {lost}"), format!("cart: {good}")],
        ),
        (
            vec![parent("cart", 81)],
            "cart",
            vec![format!("cart: {lost}")],
        ),
    ] {
        let found = wanted(&[route(&parents, backend, &[])], NOW).expect("there is a place");
        assert_eq!(
            shown(&found.expect("it is new")),
            expected,
            "{parents:?} {backend}"
        );
    }
}

#[test]
fn what_is_refused_says_why_and_what_serves() {
    let good = route(&[parent("cart", 80)], "cart", &[]);
    let mut bad = good.clone();
    bad["spec"]["rules"][0]["matches"] =
        json!([{"path": {"type": "RegularExpression", "value": "["}}]);
    let refused = "cart: Accepted False UnsupportedValue, ResolvedRefs True ResolvedRefs";
    let found = |versions: &[Json]| {
        wanted(versions, NOW)
            .expect("there is a place")
            .expect("it is new")
    };
    assert_eq!(shown(&found(&[bad.clone()])), [refused]);
    let again = found(&[good.clone(), bad.clone()]);
    assert_eq!(shown(&again), [refused]);
    let message = again[0]["conditions"][0]["message"]
        .as_str()
        .expect("a text");
    assert!(
        message.contains("spec.rules[0].matches[0].path"),
        "{message}"
    );
    // One of two rules is valid: the version before serves as a whole.
    bad["spec"]["rules"] = json!([bad["spec"]["rules"][0], good["spec"]["rules"][0]]);
    let partial = "cart: Accepted True Accepted, ResolvedRefs True ResolvedRefs, \
                   PartiallyInvalid True UnsupportedValue";
    let fallen = found(&[good, bad]);
    assert_eq!(shown(&fallen), [partial]);
    let message = fallen[0]["conditions"][2]["message"]
        .as_str()
        .expect("a text");
    assert!(message.starts_with("Fall Back"), "{message}");
}

#[test]
fn others_keep_their_entries_and_conditions_their_times() {
    let other = json!({
        "parentRef": parent("cart", 80), "controllerName": "example.com/other",
        "conditions": [{"type": "Accepted", "status": "False"}],
    });
    let first = route(&[parent("cart", 80)], "none", std::slice::from_ref(&other));
    let written = wanted(&[first], NOW)
        .expect("there is a place")
        .expect("it is new");
    assert_eq!(written[0], other);
    // Once it is written, nothing is.
    let again = route(&[parent("cart", 80)], "none", &written);
    assert_eq!(wanted(&[again], LATER), Ok(None));
    // One condition changes, and its time alone.
    let mended = route(&[parent("cart", 80)], "cart", &written);
    let mended = wanted(&[mended], LATER)
        .expect("there is a place")
        .expect("it is new");
    let times: Vec<_> = { mended[1]["conditions"].as_array().into_iter().flatten() }
        .map(|one| one["lastTransitionTime"].as_str().expect("a text"))
        .collect();
    assert_eq!(times, [NOW, LATER]);
    // A parent that has gone takes its entry with it.
    let moved = route(&[parent("none", 80)], "cart", &mended);
    let moved = wanted(&[moved], LATER)
        .expect("there is a place")
        .expect("it is new");
    assert_eq!((moved.len(), &moved[0]), (2, &other));
    assert_eq!(moved[1]["parentRef"]["name"], "none");
}

#[test]
fn a_status_without_a_place_is_left_to_others() {
    let other = |n: usize| json!({"parentRef": {"name": format!("p{n}")}, "controllerName": "example.com/o"});
    let others: Vec<_> = (0..32).map(other).collect();
    let why = wanted(&[route(&[parent("cart", 80)], "cart", &others)], NOW);
    assert!(why.is_err_and(|why| why.contains("32 entries")));
    let fits = wanted(&[route(&[parent("cart", 80)], "cart", &others[1..])], NOW);
    assert_eq!(
        fits.expect("there is a place").map(|all| all.len()),
        Some(32)
    );
}
