//! Precedence and matching, one table for each.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use super::*;
use crate::authorize::{DefaultAction, HttpView, RequestView, Step, Trace};
use crate::balance::HashKey;
use crate::local::Local;
use crate::model::{
    AppProtocol, Draw, Kind, Namespace, ObjectKey, Service, ServiceName, ServicePort, SourceId,
    Workload,
};
use crate::plan::{Destination, Planned, Refusal, plan};
use crate::snapshot::{Change, Op, Settings, Snapshot};
use crate::traffic::TrafficSplit;

fn namespace(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(&namespace("shop"), name).unwrap()
}

/// A backend is recognised by its name.
fn rule(backend: &str, matches: Vec<Match>) -> Rule {
    Rule::to(vec![Backend::new(service(backend), 80, 1).unwrap()]).when(matches)
}

fn exact(path: &str) -> Match {
    Match::path(PathMatch::literal(path, false).unwrap())
}

fn prefix(path: &str) -> Match {
    Match::path(PathMatch::literal(path, true).unwrap())
}

fn regex(pattern: &str) -> Match {
    Match::path(PathMatch::Regex(Regex::new(pattern).unwrap()))
}

fn value(text: &str) -> ValueMatch {
    ValueMatch::Exact(text.into())
}

fn name(text: &str) -> HeaderName {
    text.parse().unwrap()
}

fn route_in(place: &str, route: &str, port: Option<u16>, rules: Vec<Rule>) -> Route {
    let key = ObjectKey::new(Kind::HttpRoute, &namespace(place), route).unwrap();
    Route::new(key, vec![Parent::new(service("cart"), port)], rules).unwrap()
}

fn route(route: &str, rules: Vec<Rule>) -> Route {
    route_in("shop", route, None, rules)
}

/// The Service `cart` with ports 80 and 81 and these routes.
fn cart(routes: Vec<Route>) -> Snapshot {
    let workload = Workload::new("shop", "web", "web").unwrap();
    let settings = Settings::new(workload, DefaultAction::Allow);
    let ports = vec![
        ServicePort::new("a", 80, AppProtocol::Http1),
        ServicePort::new("b", 81, AppProtocol::Http1),
    ];
    let mut ops = vec![Op::put(Service::new(service("cart"), ports))];
    ops.extend(routes.into_iter().map(Op::put));
    Snapshot::new(settings).apply(Change::update(SourceId::new("t"), ops))
}

struct Ask<'a> {
    from: &'a str,
    port: u16,
    method: Method,
    target: &'a str,
    headers: &'a [(&'a str, &'a str)],
}

fn get(target: &str) -> Ask<'_> {
    Ask {
        from: "shop",
        port: 80,
        method: Method::GET,
        target,
        headers: &[],
    }
}

fn ask(snapshot: &Snapshot, ask: &Ask<'_>, trace: &mut impl Trace) -> Result<Planned, NoRoute> {
    let mut headers = HeaderMap::new();
    for (n, v) in ask.headers {
        headers.append(name(n), HeaderValue::from_str(v).unwrap());
    }
    let (path, query) = match ask.target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (ask.target, None),
    };
    let http = RequestView::Http(HttpView::new(&ask.method, path, query, &headers));
    let caller = Workload::new(ask.from, "web", "web").unwrap();
    let local = Local::new(caller, DefaultAction::Allow);
    let (cart, port) = (service("cart"), ask.port);
    let to = Destination::Service { name: &cart, port };
    plan(snapshot, &local, to, &http, &mut Draw::new(1), trace).map_err(|refused| {
        match refused.reason {
            Refusal::NoRoute(none) => none,
            other => panic!("{other}"),
        }
    })
}

/// The backend's name, or the status.
fn to(snapshot: &Snapshot, asked: &Ask<'_>) -> String {
    match ask(snapshot, asked, &mut ()) {
        Ok(planned) => planned.backend().unwrap().service.name().to_owned(),
        Err(none) => crate::error::Error::from(none)
            .reason()
            .status()
            .as_str()
            .to_owned(),
    }
}

/// A parent may name its port; one that the Service has not is not attached to.
#[test]
fn a_parent_attaches_to_the_port_that_it_names() {
    let parent = |port| Parent::new(service("cart"), port);
    // A port of the Service is at 80 (`a`) or 81 (`b`); where a route is attached it leads away.
    for (parent, at_80, at_81) in [
        (parent(None), "away", "away"),
        (parent(None).named("a"), "away", "cart"),
        (parent(None).named("b"), "cart", "away"),
        (parent(Some(81)).named("b"), "cart", "away"),
        (parent(Some(80)).named("b"), "cart", "cart"),
        (parent(None).named("c"), "cart", "cart"),
    ] {
        let key = ObjectKey::new(Kind::HttpRoute, &Namespace::new("shop").unwrap(), "r").unwrap();
        let rule = Rule::to(vec![Backend::new(service("away"), 80, 1).unwrap()]);
        let route = Route::new(key, vec![parent.clone()], vec![rule]).unwrap();
        let snapshot = cart(vec![route]);
        for (port, wanted) in [(80, at_80), (81, at_81)] {
            let asked = Ask { port, ..get("/") };
            assert_eq!(to(&snapshot, &asked), wanted, "{parent:?} {port}");
        }
        let dangles = parent.port_name.as_deref() == Some("c");
        let status = snapshot.status();
        let warned = status.iter().flat_map(|s| &s.problems);
        let warned = warned
            .filter(|p| p.message.contains("no port named"))
            .count();
        assert_eq!(warned, usize::from(dangles), "{parent:?}");
    }
}

/// Routes match the path as it stands, in its one spelling.
#[test]
fn a_path_is_matched_as_it_stands_in_any_spelling() {
    let exact = |path: &str| PathMatch::literal(path, false).unwrap();
    let prefix = |path: &str| PathMatch::literal(path, true).unwrap();
    for (path, target, matched) in [
        (exact("/ü"), "/%c3%bc", true),
        (exact("/%C3%BC"), "/ü", true),
        (exact("/a%3Ab"), "/a:b", true),
        (exact("/ab"), "/%61b", true),
        (exact("/a/b"), "/a%2Fb", false),
        (exact("/a/b"), "/a//b", false),
        (prefix("/a"), "/a%2Fb", false),
        (prefix("/a"), "/a//b", true),
        (prefix("/ü"), "/%C3%BC/x", true),
        (
            PathMatch::Regex(Regex::new("/a%2F.*").unwrap()),
            "/a%2Fb",
            true,
        ),
        (PathMatch::Regex(Regex::new("/%C3%BC").unwrap()), "/ü", true),
    ] {
        let key = ObjectKey::new(Kind::HttpRoute, &Namespace::new("shop").unwrap(), "r").unwrap();
        let rule = Rule::to(vec![Backend::new(service("away"), 80, 1).unwrap()]);
        let rule = rule.when(vec![Match::path(path.clone())]);
        let parents = vec![Parent::new(service("cart"), None)];
        let snapshot = cart(vec![Route::new(key, parents, vec![rule]).unwrap()]);
        let wanted = if matched { "away" } else { "404" };
        assert_eq!(to(&snapshot, &get(target)), wanted, "{path:?} {target}");
    }
    // What the Gateway API does not take, or no request has.
    for path in [
        "//a", "/a/../b", "/a%2fb", "/%61", "/a?b", "/a#b", "/a\\b", "a", "/a%",
    ] {
        assert!(PathMatch::literal(path, true).is_err(), "{path}");
    }
}

/// The order of the Gateway API (HTTPRouteRule), one step after the other.
#[test]
fn the_most_specific_match_wins() {
    let post = |m: Match| m.method(Method::GET);
    let with = |m: Match, n: &str| m.header(name(n), value("1"));
    let asking = |m: Match, n: &str| m.query(n, value("1"));
    // Written from the weakest to the strongest: each beats all before it.
    let ladder = vec![
        rule("r0", vec![regex("/a/.*")]),
        rule("r1", vec![regex("/a/b.*|/nothing")]),
        rule("r2", vec![prefix("/")]),
        rule("r3", vec![prefix("/a")]),
        rule("r4", vec![prefix("/a/b")]),
        rule("r5", vec![asking(prefix("/a/b"), "q")]),
        rule("r6", vec![asking(asking(prefix("/a/b"), "q"), "r")]),
        rule("r7", vec![with(prefix("/a/b"), "x-a")]),
        rule("r8", vec![with(with(prefix("/a/b"), "x-a"), "x-b")]),
        rule("r9", vec![post(prefix("/a/b"))]),
        rule("r10", vec![exact("/a/b")]),
        rule("r11", vec![post(exact("/a/b"))]),
    ];
    let asked = Ask {
        headers: &[("x-a", "1"), ("x-b", "1")],
        ..get("/a/b?q=1&r=1")
    };
    for strongest in 0..ladder.len() {
        for other in 0..=strongest {
            let rules = vec![ladder[other].clone(), ladder[strongest].clone()];
            let reversed = rules.iter().rev().cloned().collect();
            let wanted = format!("r{strongest}");
            let view = cart(vec![route("x", rules)]);
            assert_eq!(to(&view, &asked), wanted, "{other}");
            let view = cart(vec![route("x", reversed)]);
            assert_eq!(to(&view, &asked), wanted, "{other}, written last");
        }
    }
}

#[test]
fn ties_go_to_the_oldest_then_the_first_by_name_then_the_first_written() {
    let one = |backend: &str| vec![rule(backend, vec![prefix("/")])];
    let aged = |mut r: Route, created| {
        r.created = created;
        r
    };
    for (routes, wanted) in [
        (
            vec![
                aged(route("a", one("young")), Some(2)),
                aged(route("b", one("old")), Some(1)),
            ],
            "old",
        ),
        (
            vec![
                route("a", one("ageless")),
                aged(route("b", one("old")), Some(9)),
            ],
            "old",
        ),
        (vec![route("b", one("b")), route("a", one("a"))], "a"),
        (
            vec![
                aged(route("b", one("b")), Some(1)),
                aged(route("a", one("a")), Some(1)),
            ],
            "a",
        ),
        (
            vec![route("a", [one("first"), one("second")].concat())],
            "first",
        ),
    ] {
        assert_eq!(to(&cart(routes), &get("/")), wanted);
    }
}

#[test]
fn paths_match_whole_or_by_segment() {
    for (condition, matching, other) in [
        (exact("/a"), &["/a"][..], &["/a/", "/ab", "/", "/A"][..]),
        (prefix("/a"), &["/a", "/a/", "/a/b"], &["/ab", "/", "/A"]),
        (prefix("/a/"), &["/a", "/a/", "/a/b"], &["/ab"]),
        (prefix("/"), &["/", "/a", "*"], &[]),
        (
            regex("/a[0-9]+"),
            &["/a1", "/a12"],
            &["/a", "/a1/b", "x/a1"],
        ),
        (regex("/a|/b"), &["/a", "/b"], &["/ab", "/a/", "/c"]),
        (regex("/a$|/b"), &["/a", "/b"], &["/bb"]),
    ] {
        let view = cart(vec![route("x", vec![rule("hit", vec![condition])])]);
        for path in matching {
            assert_eq!(to(&view, &get(path)), "hit", "{path}");
        }
        for path in other {
            assert_eq!(to(&view, &get(path)), "404", "{path}");
        }
    }
}

#[test]
fn headers_and_query_parameters_match_by_value() {
    let re = |p: &str| ValueMatch::Regex(Regex::new(p).unwrap());
    let conditions = prefix("/")
        .header(name("x-user"), value("ann"))
        .header(name("x-user"), value("the first counts"))
        .query("v", re("[0-9]+"));
    let view = cart(vec![route("x", vec![rule("hit", vec![conditions])])]);
    for (target, headers, wanted) in [
        ("/?v=1", &[("x-user", "ann")][..], "hit"),
        ("/?v=1", &[("x-user", "bob"), ("x-user", "ann")], "hit"),
        ("/?v=1", &[("x-user", "Ann")], "404"),
        ("/?v=1", &[], "404"),
        ("/", &[("x-user", "ann")], "404"),
        ("/?v=1a", &[("x-user", "ann")], "404"),
        ("/?v=a&v=1", &[("x-user", "ann")], "404"),
        ("/?v=1&v=a", &[("x-user", "ann")], "hit"),
        ("/?%76=%31", &[("x-user", "ann")], "hit"),
    ] {
        assert_eq!(
            to(
                &view,
                &Ask {
                    headers,
                    ..get(target)
                }
            ),
            wanted,
            "{target} {headers:?}"
        );
    }
}

#[test]
fn consumer_routes_override_those_of_the_producer_for_their_namespace_alone() {
    let view = cart(vec![
        route("x", vec![rule("producer", vec![])]),
        route_in(
            "bank",
            "x",
            None,
            vec![rule("consumer", vec![prefix("/a")])],
        ),
    ]);
    for (from, target, wanted) in [
        ("shop", "/a", "producer"),
        ("other", "/a", "producer"),
        ("bank", "/a", "consumer"),
        // Their routes are all there is: nothing is mixed.
        ("bank", "/b", "404"),
    ] {
        assert_eq!(
            to(
                &view,
                &Ask {
                    from,
                    ..get(target)
                }
            ),
            wanted,
            "{from} {target}"
        );
    }
}

#[test]
fn a_route_may_be_attached_to_one_port() {
    let view = cart(vec![route_in(
        "shop",
        "x",
        Some(80),
        vec![rule("hit", vec![prefix("/a")])],
    )]);
    for (port, target, wanted) in [
        (80, "/a", "hit"),
        (80, "/b", "404"),
        (81, "/a", "cart"),
        (82, "/a", "404"),
    ] {
        assert_eq!(
            to(
                &view,
                &Ask {
                    port,
                    ..get(target)
                }
            ),
            wanted,
            "{port} {target}"
        );
    }
}

#[test]
fn without_routes_the_service_itself_answers() {
    let view = cart(vec![]);
    let matched = ask(&view, &get("/"), &mut ()).unwrap();
    assert_eq!(
        (
            matched.backend().map(|b| (b.service, b.port)),
            matched.route()
        ),
        (Some((&service("cart"), 80)), None)
    );
}

/// Over HTTP/2 it is the authority, so that such a condition would hold for one version and not the other.
#[test]
fn no_condition_is_on_the_field_host() {
    for (text, fits) in [("host", false), ("HOST", false), ("x-host", true)] {
        let name = name(text);
        let met = prefix("/").header(name.clone(), value("cart"));
        let rule = Rule::to(Vec::new()).when(vec![met]);
        let key = || ObjectKey::new(Kind::HttpRoute, &namespace("shop"), "x").unwrap();
        let parents = || vec![Parent::new(service("cart"), None)];
        assert_eq!(
            Route::new(key(), parents(), vec![rule]).is_ok(),
            fits,
            "{name}"
        );
        let calls = GrpcMatch::new().header(name.clone(), value("cart"));
        let rule = GrpcRule::to(Vec::new()).when(vec![calls]);
        assert_eq!(
            GrpcRoute::new(key(), parents(), vec![rule]).is_ok(),
            fits,
            "{name}"
        );
        assert_eq!(HashKey::header(name.clone()).is_ok(), fits, "{name}");
        let split = TrafficSplit::by(HashKey::Header(name.clone()));
        assert_eq!(split.is_ok(), fits, "{name}");
    }
}

#[test]
fn a_rule_without_weight_is_a_500_and_a_dangling_backend_is_decided_on() {
    let none = Rule::to(vec![Backend::new(service("v1"), 80, 0).unwrap()]);
    for rules in [vec![Rule::to(vec![])], vec![none]] {
        assert_eq!(to(&cart(vec![route("x", rules)]), &get("/")), "500");
    }
    let view = cart(vec![route("x", vec![rule("not-there", vec![])])]);
    assert_eq!(
        to(&view, &get("/")),
        "not-there",
        "the balancer answers for it"
    );
}

#[test]
fn a_trace_sees_the_rules_that_lost() {
    struct Seen(Vec<(usize, bool)>);
    impl Trace for Seen {
        fn saw(&mut self, step: Step<'_>) {
            if let Step::Rule { rule, matched, .. } = step {
                self.0.push((rule, matched));
            }
        }
    }
    let rules = vec![rule("a", vec![prefix("/")]), rule("b", vec![exact("/x")])];
    let view = cart(vec![route("x", rules)]);
    let mut seen = Seen(Vec::new());
    let _matched = ask(&view, &get("/y"), &mut seen);
    assert_eq!(seen.0, [(1, false), (0, true)]);
}

#[test]
fn header_changes_are_made_by_the_rule_then_the_backend() {
    let set = |to: &'static str| {
        let value = HeaderValue::from_static(to);
        HeaderChanges::new().set(name("x-set"), value).unwrap()
    };
    let changes = set("rule")
        .add(name("x-add"), HeaderValue::from_static("rule"))
        .and_then(|changes| changes.remove(name("x-gone")))
        .unwrap();
    let backend = Backend::new(service("v1"), 80, 1)
        .unwrap()
        .with_filters(vec![
            Filter::RequestHeaders(set("backend")),
            Filter::ResponseHeaders(set("backend")),
        ]);
    let rule = Rule::to(vec![backend]).with_filters(vec![
        Filter::RequestHeaders(changes),
        Filter::ResponseHeaders(set("rule")),
    ]);
    let view = cart(vec![route("x", vec![rule])]);
    let matched = ask(&view, &get("/"), &mut ()).unwrap();
    let mut request = http::Request::new(());
    let headers = request.headers_mut();
    for (n, v) in [
        ("x-set", "caller"),
        ("x-add", "caller"),
        ("x-gone", "caller"),
    ] {
        headers.insert(name(n), HeaderValue::from_static(v));
    }
    matched.edit_request(&mut request);
    let headers = request.headers_mut();
    assert_eq!(
        headers.get_all("x-set").iter().collect::<Vec<_>>(),
        ["backend"]
    );
    assert_eq!(
        headers.get_all("x-add").iter().collect::<Vec<_>>(),
        ["caller", "rule"]
    );
    assert!(!headers.contains_key("x-gone"));
    matched.edit_response(headers);
    assert_eq!(headers["x-set"], "rule");
}

#[test]
fn what_cannot_match_or_is_out_of_bounds_is_refused() {
    for path in [
        "a", "", "/a//b", "/a/../b", "/a?b", "/a#b", "/%2f", "/%00", "/a/./b",
    ] {
        assert!(PathMatch::literal(path, false).is_err(), "{path}");
        assert!(PathMatch::literal(path, true).is_err(), "{path}");
    }
    // RE2-like, bounded (D7), and not able to leave its anchors.
    for pattern in [
        "(a{1000}){1000}",
        "(",
        ")|(",
        "(?=a)",
        r"(a)\1",
        &"a".repeat(1_025),
    ] {
        assert!(Regex::new(pattern).is_err(), "{pattern}");
    }
    assert!(Backend::new(service("a"), 80, 1_000_001).is_err());
    let seconds = |n| Some(std::time::Duration::from_secs(n));
    assert!(Timeouts::new(seconds(1), seconds(2)).is_err());
    assert!(
        Timeouts::new(seconds(0), seconds(2)).is_ok(),
        "zero is no limit"
    );
    let key = ObjectKey::new(Kind::HttpRoute, &namespace("shop"), "x").unwrap();
    assert!(Route::new(key, vec![], vec![]).is_err());
}

#[test]
fn a_list_has_so_many_filters_at_most() {
    let filters = |n| vec![Filter::Mirror(Mirror::new(service("next"), 80)); n];
    let made = |of_rule, of_backend| {
        let backend = Backend::new(service("cart"), 80, 1).unwrap();
        let rule = Rule::to(vec![backend.with_filters(filters(of_backend))]);
        let key = ObjectKey::new(Kind::HttpRoute, &namespace("shop"), "r").unwrap();
        let parents = vec![Parent::new(service("cart"), None)];
        Route::new(key, parents, vec![rule.with_filters(filters(of_rule))])
    };
    assert!(made(17, 0).is_err() && made(0, 17).is_err());
    let route = made(16, 16).unwrap();
    let planned = ask(&cart(vec![route]), &get("/"), &mut ()).unwrap();
    assert_eq!(planned.mirrors().len(), 32);
}

#[test]
fn a_split_is_as_wide_as_its_weights() {
    for weights in [[90, 10, 0], [1, 1, 1], [0, 0, 7], [1_000_000, 1, 0]] {
        let mut draw = Draw::new(42);
        let mut hits = [0_u64; 3];
        let runs = 100_000;
        for _ in 0..runs {
            hits[split(weights, &mut draw).unwrap()] += 1;
        }
        let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        for (hit, weight) in hits.iter().zip(weights) {
            let wanted = runs * u64::from(weight) / total;
            assert!(hit.abs_diff(wanted) < runs / 100, "{weights:?}: {hits:?}");
            assert!(weight > 0 || *hit == 0, "{weights:?}: {hits:?}");
        }
    }
}

proptest! {
    #[test]
    fn a_split_never_chooses_a_backend_without_weight(
        weights in proptest::collection::vec(0_u32..3, 0..6),
        seed: u64,
    ) {
        match split(weights.iter().copied(), &mut Draw::new(seed)) {
            Some(chosen) => prop_assert!(weights[chosen] > 0),
            None => prop_assert!(weights.iter().all(|w| *w == 0)),
        }
    }

    /// Segment by segment is what `PathPrefix` says.
    #[test]
    fn a_prefix_is_whole_segments(path in "(/[ab]{1,2}){1,4}", wanted in "(/[ab]{1,2}){1,3}") {
        let segments = |p: &str| p.split('/').map(str::to_owned).collect::<Vec<_>>();
        let expected = segments(&path).starts_with(&segments(&wanted));
        let view = cart(vec![route("x", vec![rule("hit", vec![prefix(&wanted)])])]);
        prop_assert_eq!(to(&view, &get(&path)) == "hit", expected);
    }
}

/// A preflight is answered by the rule of the method that it asks for, and sent to no server.
#[test]
fn a_preflight_meets_the_rule_of_the_request_to_come() {
    let cors = |origin: &str| Filter::Cors(Arc::new(Cors::new().allow_origin(origin).unwrap()));
    let at = |path: &str, method: Method| vec![prefix(path).method(method)];
    let of_backend = Backend::new(service("c"), 80, 1).unwrap();
    let of_backend = Rule::to(vec![of_backend.with_filters(vec![cors("http://c")])]);
    let rules = vec![
        rule("a", at("/a", Method::PUT)).with_filters(vec![cors("http://a")]),
        rule("b", at("/a", Method::DELETE)),
        of_backend.when(vec![prefix("/c")]),
        rule("d", vec![prefix("/d")]),
        Rule::to(Vec::new())
            .when(vec![prefix("/e")])
            .with_filters(vec![cors("http://e")]),
    ];
    let snapshot = cart(vec![route("r", rules)]);
    let answered = |path, method: Method, headers: &[(&str, &str)]| {
        let ask_it = Ask {
            method,
            headers,
            ..get(path)
        };
        let planned = match ask(&snapshot, &ask_it, &mut ()) {
            Ok(planned) => planned,
            Err(none) => return none.to_string(),
        };
        if let Some(to) = planned.backend() {
            return to.service.to_string();
        }
        let mut fields = HeaderMap::new();
        for (n, v) in headers {
            fields.append(name(n), HeaderValue::from_str(v).unwrap());
        }
        let view = HttpView::new(&ask_it.method, path, None, &fields);
        let answer = planned.answer("cart", &view).unwrap();
        let allowed = answer.headers().get("access-control-allow-origin");
        format!("{} {allowed:?}", answer.status().as_u16())
    };
    let wish = |method| ("access-control-request-method", method);
    let options = || Method::OPTIONS;
    for (path, method, headers, wanted) in [
        (
            "/a",
            options(),
            vec![("origin", "http://a"), wish("PUT")],
            "204 Some(\"http://a\")",
        ),
        (
            "/a",
            options(),
            vec![("origin", "http://x"), wish("PUT")],
            "204 None",
        ),
        (
            "/a",
            options(),
            vec![("origin", "http://a"), wish("DELETE")],
            "no rule of the routes attached to cart.shop matches",
        ),
        (
            "/a",
            options(),
            vec![wish("PUT")],
            "no rule of the routes attached to cart.shop matches",
        ),
        (
            "/a",
            Method::PUT,
            vec![("origin", "http://a"), wish("PUT")],
            "a.shop",
        ),
        (
            "/c",
            options(),
            vec![("origin", "http://c"), wish("GET")],
            "204 Some(\"http://c\")",
        ),
        ("/c", options(), vec![("origin", "http://c")], "c.shop"),
        (
            "/d",
            options(),
            vec![("origin", "http://a"), wish("PUT")],
            "d.shop",
        ),
        (
            "/e",
            options(),
            vec![("origin", "http://e"), wish("PUT")],
            "204 Some(\"http://e\")",
        ),
    ] {
        assert_eq!(
            answered(path, method, &headers),
            wanted,
            "{path} {headers:?}"
        );
    }
}
