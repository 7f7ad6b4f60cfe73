//! Calls of gRPC: what matches, what comes first, and what takes effect beside HTTP routes.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use crate::authorize::{DefaultAction, HttpView, RequestView};
use crate::local::Local;
use crate::model::{
    AppProtocol, Draw, Kind, Namespace, ObjectKey, Service, ServiceName, ServicePort, SourceId,
    Workload,
};
use crate::plan::{Destination, plan};
use crate::route::{
    Backend, Cors, Filter, GrpcMatch, GrpcRoute, GrpcRule, HeaderChanges, Mirror, Outcome, Parent,
    Redirect, Regex, Rewrite, Route, Rule, ValueMatch,
};
use crate::snapshot::{Change, Op, Settings, Snapshot};

fn namespace(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(&namespace("shop"), name).unwrap()
}

fn exact(text: &str) -> ValueMatch {
    ValueMatch::Exact(text.into())
}

fn regex(text: &str) -> ValueMatch {
    ValueMatch::Regex(Regex::new(text).unwrap())
}

/// A match by service and method; empty is any.
fn names(service: &str, method: &str) -> GrpcMatch {
    let mut read = GrpcMatch::new();
    if !service.is_empty() {
        read = read.service(exact(service));
    }
    if !method.is_empty() {
        read = read.method(exact(method));
    }
    read
}

fn backend(name: &str) -> Vec<Backend> {
    vec![Backend::new(service(name), 80, 1).unwrap()]
}

/// A backend is recognised by its name.
fn rule(backend_name: &str, matches: Vec<GrpcMatch>) -> GrpcRule {
    GrpcRule::to(backend(backend_name)).when(matches)
}

fn key(kind: Kind, place: &str, name: &str) -> ObjectKey {
    ObjectKey::new(kind, &namespace(place), name).unwrap()
}

fn grpc_in(place: &str, name: &str, port: Option<u16>, rules: Vec<GrpcRule>) -> GrpcRoute {
    let parents = vec![Parent::new(service("cart"), port)];
    GrpcRoute::new(key(Kind::GrpcRoute, place, name), parents, rules).unwrap()
}

fn http_in(place: &str, port: Option<u16>, to: &str) -> Op {
    let parents = vec![Parent::new(service("cart"), port)];
    let rules = vec![Rule::to(backend(to))];
    Op::put(Route::new(key(Kind::HttpRoute, place, "http"), parents, rules).unwrap())
}

/// The Service `cart` with ports 80 and 81, and these objects.
fn cart(mut more: Vec<Op>) -> Snapshot {
    let workload = Workload::new("shop", "web", "web").unwrap();
    let settings = Settings::new(workload, DefaultAction::Allow);
    let ports = vec![
        ServicePort::new("a", 80, AppProtocol::Grpc),
        ServicePort::new("b", 81, AppProtocol::Grpc),
    ];
    more.insert(0, Op::put(Service::new(service("cart"), ports)));
    Snapshot::new(settings).apply(Change::update(SourceId::new("t"), more))
}

struct Ask<'a> {
    from: &'a str,
    port: u16,
    path: &'a str,
    headers: &'a [(&'a str, &'a str)],
    kind: &'a str,
}

fn call(path: &str) -> Ask<'_> {
    Ask {
        from: "shop",
        port: 80,
        path,
        headers: &[],
        kind: "application/grpc+proto",
    }
}

/// Where a request is sent, or why it is not.
fn to(snapshot: &Snapshot, ask: &Ask<'_>) -> String {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_str(ask.kind).unwrap());
    for (name, value) in ask.headers {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    let view = RequestView::Http(HttpView::new(&Method::POST, ask.path, None, &headers));
    let local = Local::new(
        Workload::new(ask.from, "web", "web").unwrap(),
        DefaultAction::Allow,
    );
    let (name, port) = (&service("cart"), ask.port);
    let to = Destination::Service { name, port };
    match plan(snapshot, &local, to, &view, &mut Draw::new(1), &mut ()) {
        Ok(planned) => planned.backend().unwrap().service.to_string(),
        Err(refused) => refused.reason.to_string(),
    }
}

const NONE: &str = "no rule of the routes attached to cart.shop matches";

#[test]
fn a_call_is_matched_by_service_method_and_headers() {
    let one = |matches: GrpcMatch| {
        cart(vec![Op::put(grpc_in(
            "shop",
            "r",
            None,
            vec![rule("x", vec![matches])],
        ))])
    };
    let header = GrpcMatch::new().header(HeaderName::from_static("v"), exact("2"));
    let both = GrpcMatch::new()
        .service(regex("shop\\..*"))
        .method(regex("Get|List"));
    for (matches, path, wanted) in [
        (names("shop.Cart", "Get"), "/shop.Cart/Get", true),
        (names("shop.Cart", "Get"), "/shop.Cart/get", false),
        (names("shop.Cart", "Get"), "/shop.cart/Get", false),
        (names("shop.Cart", "Get"), "/shop.Cart/GetAll", false),
        (names("shop.Cart", "Get"), "/shop.Cart/Get/x", false),
        (names("shop.Cart", "Get"), "/shop.Cart", false),
        (names("shop.Cart", ""), "/shop.Cart/Any", true),
        (names("shop.Cart", ""), "/shop.Cart/", false),
        (names("shop.Cart", ""), "/shop.Carts/Any", false),
        (names("", "Get"), "/any.Service/Get", true),
        (names("", "Get"), "/Get", false),
        (both.clone(), "/shop.Cart/List", true),
        (both.clone(), "/shop.Cart/Lists", false),
        (both, "/xshop.Cart/Get", false),
        (GrpcMatch::new(), "/any/thing", true),
        (GrpcMatch::new(), "/", true),
        (header, "/shop.Cart/Get", false),
    ] {
        let found = to(&one(matches.clone()), &call(path));
        assert_eq!(
            found,
            if wanted { "x.shop" } else { NONE },
            "{matches:?} {path}"
        );
    }
    let header = GrpcMatch::new().header(HeaderName::from_static("v"), exact("2"));
    let snapshot = one(header.service(exact("a.B")));
    let with = |headers| {
        to(
            &snapshot,
            &Ask {
                headers,
                ..call("/a.B/C")
            },
        )
    };
    assert_eq!(with(&[("v", "1"), ("v", "2")]), "x.shop");
    assert_eq!(with(&[("v", "1")]), NONE);
}

/// A rule without matches matches every call, and nothing that is no call.
#[test]
fn a_request_that_is_no_call_has_no_route() {
    let snapshot = cart(vec![Op::put(grpc_in(
        "shop",
        "r",
        Some(80),
        vec![rule("x", vec![])],
    ))]);
    for (kind, wanted) in [
        ("application/grpc", "x.shop"),
        ("application/grpc-web+proto", "x.shop"),
        ("application/json", NONE),
    ] {
        assert_eq!(
            to(
                &snapshot,
                &Ask {
                    kind,
                    ..call("/a.B/C")
                }
            ),
            wanted,
            "{kind}"
        );
    }
    let other = Ask {
        port: 81,
        ..call("/a.B/C")
    };
    assert_eq!(
        to(&snapshot, &other),
        "cart.shop",
        "no route is attached to it"
    );
    // Attached, and nothing in it.
    let empty = cart(vec![Op::put(grpc_in("shop", "r", None, vec![]))]);
    assert_eq!(to(&empty, &call("/a.B/C")), NONE);
    let none = cart(vec![Op::put(grpc_in(
        "shop",
        "r",
        None,
        vec![GrpcRule::to(vec![])],
    ))]);
    assert_eq!(
        to(&none, &call("/a.B/C")),
        "rule 0 of GRPCRoute/shop/r has no backend with a weight"
    );
}

/// GEP-1294: of the kinds of routes of one port, on one side, one takes effect.
#[test]
fn grpc_routes_take_effect_in_the_place_of_http_routes() {
    let grpc = |place: &str, port| {
        let rules = vec![rule(&format!("grpc-{place}"), vec![names("a.B", "")])];
        Op::put(grpc_in(place, "grpc", port, rules))
    };
    let at = |from, port, path| Ask {
        from,
        port,
        ..call(path)
    };
    let both = cart(vec![grpc("shop", Some(80)), http_in("shop", None, "http")]);
    assert_eq!(to(&both, &at("shop", 80, "/a.B/C")), "grpc-shop.shop");
    assert_eq!(
        to(&both, &at("shop", 80, "/a.X/C")),
        NONE,
        "it falls to no HTTP route"
    );
    assert_eq!(to(&both, &at("shop", 81, "/a.X/C")), "http.shop");
    let status = both.status();
    let http = status
        .iter()
        .find(|s| s.object == "HTTPRoute/shop/http")
        .unwrap();
    let said: Vec<_> = http.problems.iter().map(|p| p.message.as_str()).collect();
    let conflict = |port| {
        format!(
            "has no effect at port {port}: GRPCRoute/shop/grpc is attached there (Accepted False, \
             Conflicted)"
        )
    };
    assert!(said.contains(&&*conflict(80)), "{said:?}");
    assert!(!said.contains(&&*conflict(81)), "{said:?}");
    // Routes of the caller's namespace come first, of whatever kind.
    let mixed = cart(vec![
        grpc("shop", None),
        http_in("web", None, "http-web"),
        grpc("lab", None),
    ]);
    for (from, path, wanted) in [
        ("shop", "/a.B/C", "grpc-shop.shop"),
        ("web", "/a.B/C", "http-web.shop"),
        ("lab", "/a.B/C", "grpc-lab.shop"),
        ("lab", "/a.X/C", NONE),
        ("any", "/a.B/C", "grpc-shop.shop"),
    ] {
        assert_eq!(to(&mixed, &at(from, 80, path)), wanted, "{from} {path}");
    }
    // And gRPC routes of another namespace leave the producer's HTTP routes alone.
    let other = cart(vec![http_in("shop", None, "http"), grpc("web", None)]);
    assert_eq!(to(&other, &at("shop", 80, "/a.B/C")), "http.shop");
    assert_eq!(to(&other, &at("web", 80, "/a.B/C")), "grpc-web.shop");
}

#[test]
fn what_calls_have_no_use_for_is_refused() {
    let made = |rule: GrpcRule| {
        let parents = vec![Parent::new(service("cart"), None)];
        GrpcRoute::new(key(Kind::GrpcRoute, "shop", "r"), parents, vec![rule])
    };
    let filters = |filters| made(rule("x", vec![]).with_filters(filters));
    assert!(filters(vec![Filter::Rewrite(Rewrite::new())]).is_err());
    assert!(filters(vec![Filter::Cors(std::sync::Arc::new(Cors::new()))]).is_err());
    let mirror = || Filter::Mirror(Mirror::new(service("y"), 80));
    assert!(filters(vec![mirror(); 17]).is_err());
    assert!(filters(vec![mirror(), Filter::RequestHeaders(HeaderChanges::new())]).is_ok());
    let mut redirects = rule("x", vec![]);
    redirects.rule = Rule::with(Outcome::Redirect(Redirect::new()));
    assert!(made(redirects).is_err());
    assert!(GrpcRoute::new(key(Kind::GrpcRoute, "shop", "r"), vec![], vec![]).is_err());
}

/// A rule as the oracle reads it: route, created, and for each match service, method and headers.
type Plain = (String, Option<i64>, Vec<(String, String, usize)>);

/// Characters and fields, age, route and place.
type Best<'a> = ((usize, usize, usize), i64, &'a str, usize);

/// The precedence as the Gateway API's prose has it, over all matches that match, without any order.
fn oracle(rules: &[Plain], (service, method): (&str, &str), headers: usize) -> Option<usize> {
    let mut best: Option<Best<'_>> = None;
    for (n, (route, created, matches)) in rules.iter().enumerate() {
        for (s, m, h) in matches {
            let matched = (s.is_empty() || s == service) && (m.is_empty() || m == method);
            if !matched || *h > headers {
                continue;
            }
            let now = (
                (s.len(), m.len(), *h),
                created.unwrap_or(i64::MAX),
                route.as_str(),
                n,
            );
            let better = match &best {
                None => true,
                Some(best) if now.0 != best.0 => now.0 > best.0,
                Some(best) if now.1 != best.1 => now.1 < best.1,
                Some(best) if now.2 != best.2 => now.2 < best.2,
                Some(best) => now.3 < best.3,
            };
            if better {
                best = Some(now);
            }
        }
    }
    best.map(|(.., n)| n)
}

proptest! {
    #[test]
    fn precedence_is_that_of_the_prose(
        rules in prop::collection::vec(
            ("[ab]", prop::option::of(0..2_i64), prop::collection::vec(("(|S|SS|T)", "(|M|MM)", 0..3_usize), 1..3)),
            1..6,
        ),
        service in "(S|SS|T)",
        method in "(M|MM)",
        headers in 0..3_usize,
    ) {
        let mut rules = rules;
        // A route has one age.
        let ages: Vec<_> = ["a", "b"].iter().map(|r| rules.iter().find(|x| x.0 == *r).and_then(|x| x.1)).collect();
        for rule in &mut rules {
            rule.1 = ages[usize::from(rule.0 == "b")];
        }
        rules.sort_by(|x, y| x.0.cmp(&y.0));
        let field = |n: usize| HeaderName::from_bytes(format!("h{n}").as_bytes()).unwrap();
        let ops = ["b", "a"].iter().map(|route| {
            let of = rules.iter().enumerate().filter(|(_, rule)| rule.0 == *route);
            let made = of.map(|(n, (_, _, matches))| {
                let matches = matches.iter().map(|(s, m, h)| {
                    (0..*h).fold(names(s, m), |made, n| made.header(field(n), exact("1")))
                });
                rule(&format!("x{n}"), matches.collect())
            });
            let created = ages[usize::from(*route == "b")];
            Op::put(grpc_in("shop", route, None, made.collect()).with_created(created))
        });
        let snapshot = cart(ops.collect());
        let sent = [("h0", "1"), ("h1", "1")];
        let path = format!("/{service}/{method}");
        let found = to(&snapshot, &Ask { headers: &sent[..headers], ..call(&path) });
        let wanted = oracle(&rules, (&service, &method), headers);
        prop_assert_eq!(found, wanted.map_or_else(|| NONE.to_owned(), |n| format!("x{n}.shop")));
    }
}
