//! What is planned for a request or connection, one row each, without a socket.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::*;
use crate::authorize::{
    Action, DefaultAction, DenyReason, Operation, PathForm, Policy, PolicyRule, PolicySource,
    Provider, Step,
};
use crate::balance::{ConsistentHash, EjectPolicy, HashCookie, HashKey, Strategy};
use crate::model::{
    Host, Kind, Namespace, Service, ServicePort, Slice, SliceHost, SlicePort, SourceId, Transport,
    Workload,
};
use crate::route::{
    Backend, Filter, HeaderChanges, Match, Mirror, Parent, PathMatch, PathRewrite, Redirect,
    Respond, Rewrite, Route, Rule,
};
use crate::snapshot::{Change, Op, Settings};

type Fallible<T = ()> = Result<T, Box<dyn std::error::Error>>;

const CART: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 7));

fn shop() -> Namespace {
    Namespace::new("shop").expect("a name")
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(&shop(), name).expect("a name")
}

fn web() -> Local {
    let web = Workload::new("shop", "web", "web").expect("names");
    Local::new(web, DefaultAction::Deny)
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, &shop(), name).expect("a name")
}

/// `cart` with an HTTP and an opaque port and a virtual address, `v2` that speaks gRPC, `bare`.
fn objects() -> Vec<Op> {
    let port = ServicePort::new;
    let cart = vec![
        port("http", 80, AppProtocol::Http1),
        port("raw", 81, AppProtocol::Tcp),
    ];
    vec![
        Op::put(Service::new(service("cart"), cart).with_addresses([CART])),
        Op::put(Service::new(
            service("v2"),
            vec![port("grpc", 8080, AppProtocol::Grpc)],
        )),
        Op::put(Service::new(
            service("bare"),
            vec![port("x", 9000, AppProtocol::Detect)],
        )),
    ]
}

/// Routes of `cart`'s port 80 alone.
fn routed(rules: Vec<Rule>) -> Fallible<Op> {
    let parents = vec![Parent::new(service("cart"), Some(80))];
    let route = Route::new(key(Kind::HttpRoute, "r"), parents, rules)?;
    Ok(Op::put(route))
}

fn snapshot(more: Vec<Op>) -> Snapshot {
    let settings = Settings::of(web());
    let ops = objects().into_iter().chain(more).collect();
    Snapshot::new(settings).apply(Change::update(SourceId::new("t"), ops))
}

fn at(path: &str) -> Fallible<Vec<Match>> {
    Ok(vec![Match::path(PathMatch::literal(path, true)?)])
}

/// A GET of a path, or an opaque connection, to somewhere: in words.
fn planned(snapshot: &Snapshot, local: &Local, to: Destination<'_>, path: Option<&str>) -> String {
    let headers = HeaderMap::new();
    let http = path.map(|path| HttpView::new(&Method::GET, path, None, &headers));
    let view = http.map_or(RequestView::Tcp, RequestView::Http);
    match plan(snapshot, local, to, &view, &mut Draw::new(1), &mut ()) {
        Ok(planned) => match (planned.backend(), &http) {
            (Some(to), _) => format!("{}:{} {}", to.service, to.port, planned.protocol()),
            (None, Some(http)) => {
                let response = planned.answer("cart:8080", http).expect("an answer");
                let location = response.headers().get(LOCATION);
                let location = location.map_or("", |l| l.to_str().expect("text"));
                format!("{} {location}", response.status().as_u16())
            }
            (None, None) => "an HTTP answer".to_owned(),
        },
        Err(refused) => {
            let known = refused.service.as_ref().map(|s| s.name.to_string());
            let error = Error::from(refused);
            format!("{} {}", error.reason(), known.as_deref().unwrap_or("-"))
        }
    }
}

#[test]
fn a_destination_is_a_name_an_authority_or_an_address() {
    let snapshot = snapshot(vec![]);
    let (cart, gone) = (service("cart"), service("gone"));
    let address = |ip: IpAddr, port| Destination::Address(SocketAddr::new(ip, port));
    let other = IpAddr::from([10, 96, 0, 8]);
    for (to, http, opaque) in [
        (
            Destination::Authority("cart"),
            "cart.shop:80 http",
            "cart.shop:80 http",
        ),
        (
            Destination::Authority("cart:81"),
            "cart.shop:81 tcp",
            "cart.shop:81 tcp",
        ),
        (
            Destination::Authority("bare"),
            "bare.shop:9000 detect",
            "bare.shop:9000 detect",
        ),
        (
            Destination::Authority("cart:82"),
            "no-route cart.shop",
            "no-route cart.shop",
        ),
        (
            Destination::Authority("gone"),
            "unknown-host -",
            "unknown-host -",
        ),
        (
            Destination::Service {
                name: &cart,
                port: 81,
            },
            "cart.shop:81 tcp",
            "cart.shop:81 tcp",
        ),
        (
            Destination::Service {
                name: &gone,
                port: 80,
            },
            "unknown-host -",
            "unknown-host -",
        ),
        (address(CART, 80), "cart.shop:80 http", "cart.shop:80 http"),
        (
            address(CART, 443),
            "no-route cart.shop",
            "no-route cart.shop",
        ),
        (address(other, 80), "unknown-host -", "unknown-host -"),
    ] {
        assert_eq!(planned(&snapshot, &web(), to, Some("/")), http, "{to:?}");
        assert_eq!(planned(&snapshot, &web(), to, None), opaque, "{to:?}");
    }
}

#[test]
fn an_address_follows_its_service() -> Fallible {
    let to = Destination::Address(SocketAddr::new(CART, 80));
    let before = snapshot(vec![]);
    let change = |op| before.apply(Change::update(SourceId::new("t"), vec![op]));
    let removed = change(Op::Remove(key(Kind::Service, "cart")));
    assert_eq!(
        planned(&removed, &web(), to, Some("/")),
        "unknown-host -",
        "removed"
    );
    let moved = Service::new(
        service("cart"),
        vec![ServicePort::new("http", 80, AppProtocol::Http1)],
    );
    let moved = change(Op::put(moved.with_addresses([IpAddr::from([10, 0, 0, 1])])));
    assert_eq!(
        planned(&moved, &web(), to, Some("/")),
        "unknown-host -",
        "moved"
    );
    Ok(())
}

#[test]
fn a_route_forwards_redirects_or_responds() -> Fallible {
    let to_v2 = || Backend::new(service("v2"), 8080, 1);
    let rules = vec![
        Rule::to(vec![to_v2()?]).when(at("/v2")?),
        Rule::to(vec![Backend::new(service("gone"), 1, 1)?]).when(at("/gone")?),
        Rule::to(vec![]).when(at("/none")?),
        Rule::with(Outcome::Redirect(
            Redirect::new()
                .with_status(301)?
                .with_path(PathRewrite::prefix("/new")?),
        ))
        .when(at("/old")?),
        Rule::with(Outcome::Respond(Respond::new(418, "short and stout")?)).when(at("/tea")?),
    ];
    let snapshot = snapshot(vec![routed(rules)?]);
    let cart = service("cart");
    let to = |port| Destination::Service { name: &cart, port };
    for (port, path, wanted) in [
        (80, Some("/v2/x"), "v2.shop:8080 grpc"),
        (80, Some("/gone"), "gone.shop:1 detect"),
        (80, Some("/none"), "no-backend cart.shop"),
        (80, Some("/old"), "301 http://cart/new"),
        (80, Some("/old/x"), "301 http://cart/new/x"),
        (80, Some("/tea"), "418 "),
        (80, Some("/"), "no-route cart.shop"),
        // Routes are of HTTP; the port they are not attached to has none.
        (80, None, "cart.shop:80 http"),
        (81, Some("/v2/x"), "cart.shop:81 tcp"),
    ] {
        let found = planned(&snapshot, &web(), to(port), path);
        assert_eq!(found, wanted, "{port} {path:?}");
    }
    Ok(())
}

#[test]
fn edits_know_the_prefix_that_was_matched() -> Fallible {
    let rewrite = Rewrite::new()
        .with_host("v2.lab")?
        .with_path(PathRewrite::prefix("/")?);
    let rule = Rule::to(vec![Backend::new(service("v2"), 8080, 1)?])
        .when(at("/v2")?)
        .with_filters(vec![Filter::Rewrite(rewrite)]);
    let snapshot = snapshot(vec![routed(vec![rule])?]);
    let headers = HeaderMap::new();
    let http = HttpView::new(&Method::GET, "/v2/items", Some("page=2"), &headers);
    let view = RequestView::Http(http);
    let to = Destination::Authority("cart");
    let planned = plan(&snapshot, &web(), to, &view, &mut Draw::new(1), &mut ());
    let planned = planned.map_err(Error::from)?;
    for (target, wanted, host) in [
        ("/v2/items?page=2", "/items?page=2", Some("v2.lab")),
        (
            "http://cart/v2/items?page=2",
            "http://v2.lab/items?page=2",
            None,
        ),
    ] {
        let mut request = Request::get(target).body(())?;
        planned.edit_request(&mut request);
        assert_eq!(request.uri().to_string(), wanted);
        let found = request.headers().get("host");
        assert_eq!(found.map(|h| h.to_str().expect("text")), host);
    }
    Ok(())
}

fn policy(name: &str, action: Action, rule: PolicyRule) -> Arc<Policy> {
    let key = key(Kind::AuthorizationPolicy, name);
    Arc::new(Policy::new(key, action, vec![rule]))
}

#[test]
fn an_egress_policy_decides_before_any_route() -> Fallible {
    let rules = vec![Rule::with(Outcome::Respond(Respond::new(200, "")?))];
    let snapshot = snapshot(vec![routed(rules)?]);
    let to = Destination::Authority("cart");
    let admin = Operation::builder().paths(["/admin*"]).build()?;
    let deny = policy("d", Action::Deny, PolicyRule::new(vec![], vec![admin]));
    let guarded = web().with_egress(DefaultAction::Allow, [Arc::clone(&deny)])?;
    for (path, wanted) in [
        (Some("/"), "200 "),
        (Some("/admin/x"), "denied cart.shop"),
        // An L7 rule on opaque bytes denies.
        (None, "denied cart.shop"),
    ] {
        assert_eq!(planned(&snapshot, &guarded, to, path), wanted, "{path:?}");
    }
    let closed = web().with_egress(DefaultAction::Deny, [])?;
    assert_eq!(
        planned(&snapshot, &closed, to, Some("/")),
        "denied cart.shop"
    );
    // The source of an egress policy is unknown: it never allows.
    let own = PolicySource::builder().namespaces(["shop"]).build()?;
    let allow = policy("a", Action::Allow, PolicyRule::new(vec![own], vec![]));
    let own = web().with_egress(DefaultAction::Allow, [allow])?;
    assert_eq!(planned(&snapshot, &own, to, Some("/")), "denied cart.shop");
    let custom = policy(
        "c",
        Action::Custom(Provider::new("opa")),
        PolicyRule::default(),
    );
    assert!(web().with_egress(DefaultAction::Allow, [custom]).is_err());
    Ok(())
}

/// Where `%5C` is decoded no request has one, so a route with it is about what requests have.
#[test]
fn a_route_is_about_paths_as_requests_come() -> Fallible {
    let to_v2 = || Backend::new(service("v2"), 8080, 1);
    let exact =
        |path| Ok::<_, route::InvalidRoute>(vec![Match::path(PathMatch::literal(path, false)?)]);
    let rules = || -> Fallible<_> {
        Ok(vec![
            Rule::to(vec![to_v2()?]).when(exact("/a%5Cb")?),
            Rule::to(vec![to_v2()?]).when(at("/p%5Cq%5C")?),
        ])
    };
    let both = PathForm::default().decode_slashes(true).merge_slashes(true);
    for (form, matching, other) in [
        (
            PathForm::default(),
            ["/a%5Cb", "/p%5Cq%5C/x"],
            ["/a/b", "/p/q/x"],
        ),
        (both, ["/a/b", "/p/q/x"], ["/a", "/p/qx"]),
    ] {
        let mut settings = Settings::of(web());
        settings.paths = form;
        let ops = objects().into_iter().chain([routed(rules()?)?]).collect();
        let snapshot = Snapshot::new(settings).apply(Change::update(SourceId::new("t"), ops));
        let to = Destination::Authority("cart");
        for path in matching {
            let found = planned(&snapshot, &web(), to, Some(path));
            assert!(
                found.starts_with("v2.shop:8080"),
                "{form:?} {path}: {found}"
            );
        }
        for path in other {
            let found = planned(&snapshot, &web(), to, Some(path));
            assert!(
                !found.starts_with("v2.shop:8080"),
                "{form:?} {path}: {found}"
            );
        }
    }
    Ok(())
}

/// The same call explains: the policies and rules that were looked at, those that lost too.
#[test]
fn a_trace_sees_policy_and_route() -> Fallible {
    #[derive(Default)]
    struct Seen(Vec<String>);
    impl Trace for Seen {
        fn saw(&mut self, step: Step<'_>) {
            self.0.push(match step {
                Step::Policy { policy, rule } => format!("{} {rule:?}", policy.key.name),
                Step::Rule { rule, matched, .. } => format!("rule {rule} {matched}"),
            });
        }
    }
    let to_v2 = || Backend::new(service("v2"), 8080, 1);
    let rules = vec![
        Rule::to(vec![to_v2()?]).when(at("/a/b")?),
        Rule::to(vec![to_v2()?]).when(at("/a")?),
    ];
    let snapshot = snapshot(vec![routed(rules)?]);
    let admin = Operation::builder().paths(["/admin*"]).build()?;
    let deny = policy("deny", Action::Deny, PolicyRule::new(vec![], vec![admin]));
    let local = web().with_egress(DefaultAction::Allow, [deny])?;
    let headers = HeaderMap::new();
    let view = RequestView::Http(HttpView::new(&Method::GET, "/a", None, &headers));
    let (mut seen, to) = (Seen::default(), Destination::Authority("cart"));
    let planned = plan(&snapshot, &local, to, &view, &mut Draw::new(1), &mut seen);
    assert_eq!(planned.map_err(Error::from)?.route().map(|r| r.1), Some(1));
    assert_eq!(seen.0, ["deny None", "rule 0 false", "rule 1 true"]);
    Ok(())
}

#[test]
fn a_consistent_hash_takes_its_key_from_the_request() -> Fallible {
    let user = HeaderName::from_static("x-user");
    let mut settings = Settings::of(web());
    let strategy = Strategy::ConsistentHash(ConsistentHash::by(HashKey::Header(user.clone())));
    settings.traffic = Arc::new(Traffic::built(strategy, EjectPolicy::default()));
    let snapshot = Snapshot::new(settings).apply(Change::update(SourceId::new("t"), objects()));
    let choice = |value: Option<&'static str>| {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(user.clone(), HeaderValue::from_static(value));
        }
        let view = RequestView::Http(HttpView::new(&Method::GET, "/", None, &headers));
        let to = Destination::Authority("cart");
        let planned = plan(&snapshot, &web(), to, &view, &mut Draw::new(1), &mut ());
        planned
            .ok()
            .and_then(|p| p.backend().map(|b| b.choice))
            .expect("a backend")
    };
    assert_eq!(choice(Some("ada")), choice(Some("ada")));
    assert_ne!(choice(Some("ada")), choice(Some("bob")));
    assert_eq!(choice(None), Choice::LeastRequest);
    Ok(())
}

/// The cookie of an answer leads where the request went; an answer of the route itself sets none.
#[test]
fn a_cookie_is_handed_out_with_the_answer_of_an_endpoint() -> Fallible {
    let hour = Some(Duration::from_secs(3_600));
    let cookie = HashCookie::new("stay", Some("/"), hour)?;
    let mut settings = Settings::of(web());
    let strategy = Strategy::ConsistentHash(ConsistentHash::by(HashKey::Cookie(cookie)));
    settings.traffic = Arc::new(Traffic::built(strategy, EjectPolicy::default()));
    let snapshot = Snapshot::new(settings).apply(Change::update(SourceId::new("t"), objects()));
    let planned = |headers: &HeaderMap| {
        let view = RequestView::Http(HttpView::new(&Method::GET, "/", None, headers));
        let to = Destination::Authority("cart");
        plan(&snapshot, &web(), to, &view, &mut Draw::new(1), &mut ()).map_err(Error::from)
    };
    let choice = |planned: &Planned| planned.backend().map(|b| b.choice);
    let first = planned(&HeaderMap::new())?;
    let mut answer = HeaderMap::new();
    answer.append("set-cookie", HeaderValue::from_static("own=1"));
    first.edit_response(&mut answer);
    let all: Vec<_> = answer.get_all("set-cookie").iter().collect();
    let [own, set] = all[..] else {
        panic!("{all:?}");
    };
    assert_eq!(own, "own=1");
    let pair = set.to_str()?.split(';').next().unwrap_or_default();
    let mut headers = HeaderMap::new();
    headers.insert("cookie", HeaderValue::from_str(pair)?);
    let again = planned(&headers)?;
    assert_eq!(choice(&again), choice(&first));
    let mut answer = HeaderMap::new();
    again.edit_response(&mut answer);
    assert!(answer.is_empty(), "it has one: {answer:?}");
    Ok(())
}

/// What a snapshot does not serve is denied, whatever its default.
#[test]
fn a_workload_is_served_from_its_registration_to_its_retirement() {
    let before = snapshot(vec![]);
    let other = Workload::new("bank", "till", "till").expect("names");
    let other = Arc::new(Local::new(other, DefaultAction::Allow));
    let verdict = |snapshot: &Snapshot| {
        let verdict = snapshot.authorize(&other, &Peer::Unauthenticated, &RequestView::Tcp);
        verdict.permit().err().map(|denied| denied.reason)
    };
    assert_eq!(verdict(&before), Some(DenyReason::NoPolicy));
    let serving = before.serve(&other);
    assert_eq!(verdict(&serving), None);
    // A policy of its namespace governs it, one of another does not.
    let in_bank = |namespace: &str| {
        let namespace = Namespace::new(namespace).expect("a name");
        let key = ObjectKey::new(Kind::AuthorizationPolicy, &namespace, "d").expect("a name");
        let deny = Policy::new(key, Action::Deny, vec![PolicyRule::default()]);
        Change::update(SourceId::new("t"), vec![Op::put(deny)])
    };
    assert_eq!(verdict(&serving.apply(in_bank("shop"))), None);
    let denied = serving.apply(in_bank("bank"));
    assert_eq!(verdict(&denied), Some(DenyReason::Matched));
    assert_eq!(verdict(&denied.retire(&other)), Some(DenyReason::NoPolicy));
}

/// Objects of other clusters add endpoints to a Service, stand in for it where the local cluster
/// has none, and govern nothing.
#[test]
fn clusters_share_names_and_no_keys() -> Fallible {
    use crate::model::ClusterName;
    let east = ClusterName::new("east")?;
    let slice = |name: &str, last: u8| {
        Slice::new(
            key(Kind::EndpointSlice, name),
            service("cart"),
            vec![SlicePort::new("http", 8080)],
            vec![SliceHost::new(Host::Address([10, 0, 0, last].into()))],
            Transport::Plain,
        )
    };
    let mut far = slice("a", 2);
    far.key = far.key.in_cluster(east.clone());
    let both = snapshot(vec![Op::put(slice("a", 1)), Op::put(far.clone())]);
    let members = |snapshot: &Snapshot| {
        let service = snapshot.service(&service("cart"))?;
        Some(service.endpoints(80)?.members().len())
    };
    assert_eq!(members(&both), Some(2));
    let change = |op| both.apply(Change::update(SourceId::new("t"), vec![op]));
    assert_eq!(members(&change(Op::Remove(far.key.clone()))), Some(1));
    let port = vec![ServicePort::new("http", 80, AppProtocol::Grpc)];
    let theirs = Service::new(service("cart"), port).in_cluster(east.clone());
    let shadow = change(Op::put(theirs));
    let to = Destination::Authority("cart:80");
    assert_eq!(planned(&shadow, &web(), to, None), "cart.shop:80 http");
    let alone = shadow.apply(Change::update(
        SourceId::new("t"),
        vec![Op::Remove(key(Kind::Service, "cart"))],
    ));
    assert_eq!(planned(&alone, &web(), to, None), "cart.shop:80 grpc");
    let mut deny = Policy::new(
        key(Kind::AuthorizationPolicy, "d"),
        Action::Deny,
        vec![PolicyRule::default()],
    );
    deny.key = deny.key.in_cluster(east);
    let governed = change(Op::put(deny));
    let local = &governed.settings().local;
    let verdict = governed.authorize(local, &Peer::Unauthenticated, &RequestView::Tcp);
    let denied = verdict.permit().err().map(|denied| denied.reason);
    assert_eq!(denied, Some(DenyReason::Default), "not by the policy");
    Ok(())
}

#[test]
fn the_cluster_domain_is_a_setting() {
    let mut settings = Settings::of(web());
    settings.cluster_domain = "corp.lab".into();
    let snapshot = Snapshot::new(settings).apply(Change::update(SourceId::new("t"), objects()));
    for (authority, wanted) in [
        ("cart.shop.svc.corp.lab", "cart.shop:80 http"),
        ("cart.shop.svc.cluster.local", "unknown-host -"),
    ] {
        let to = Destination::Authority(authority);
        assert_eq!(planned(&snapshot, &web(), to, None), wanted);
    }
    let host = &snapshot.service(&service("cart")).expect("there").host;
    assert_eq!(&**host, "cart.shop.svc.corp.lab");
}

/// What a request is mirrored to, by seed: a header field or none is sent with it.
fn mirrored(snapshot: &Snapshot, seed: u64, field: Option<&'static str>) -> Vec<String> {
    let mut headers = HeaderMap::new();
    headers.extend(field.map(|f| (HeaderName::from_static(f), HeaderValue::from_static("1"))));
    let view = RequestView::Http(HttpView::new(&Method::GET, "/a", None, &headers));
    let to = Destination::Authority("cart");
    let mut draw = Draw::new(seed);
    let planned = plan(snapshot, &web(), to, &view, &mut draw, &mut ()).expect("a plan");
    let mirrors = planned.mirrors().iter().map(|mirror| {
        let to = mirror.backend().expect("a backend");
        format!("{}:{} {}", to.service, to.port, mirror.protocol())
    });
    mirrors.collect()
}

#[test]
fn mirrors_are_drawn_each_by_its_share() -> Fallible {
    let to = |name: &str, port| Mirror::new(service(name), port);
    let of_backend = vec![Filter::Mirror(to("bare", 9000).with_share(1, 4)?)];
    let (never, gone) = (to("v2", 8080).with_share(0, 1)?, to("gone", 1));
    let rule = Rule::to(vec![
        Backend::new(service("cart"), 80, 1)?.with_filters(of_backend),
        Backend::new(service("cart"), 80, 1)?,
    ]);
    let rule = rule.with_filters(vec![
        Filter::Mirror(to("v2", 8080)),
        Filter::Mirror(never),
        Filter::Mirror(gone),
    ]);
    let snapshot = snapshot(vec![routed(vec![rule])?]);
    let mut of_backend = 0;
    for seed in 0..8_000 {
        let found = mirrored(&snapshot, seed, None);
        assert_eq!(
            found,
            mirrored(&snapshot, seed, None),
            "the draw alone decides"
        );
        assert_eq!(found[..2], ["v2.shop:8080 grpc", "gone.shop:1 detect"]);
        of_backend += found[2..]
            .iter()
            .filter(|to| *to == "bare.shop:9000 detect")
            .count();
    }
    // Half of the requests go to the backend, a quarter of these is mirrored by it.
    assert!((900..1_100).contains(&of_backend), "{of_backend}");
    // A copy is not copied again.
    assert_eq!(mirrored(&snapshot, 1, Some("x-mesh-mirrored")), [""; 0]);
    assert_eq!(mirrored(&snapshot, 1, Some("x-mesh-other")).len(), 2);
    Ok(())
}

/// A copy is the request as the filters before its mirror have left it.
#[test]
fn a_copy_is_edited_as_far_as_its_mirror_stands() -> Fallible {
    let mark = |value: &'static str| {
        let changes = HeaderChanges::new();
        let changes = changes.add(
            HeaderName::from_static("x-by"),
            HeaderValue::from_static(value),
        );
        Ok::<_, route::InvalidRoute>(Filter::RequestHeaders(changes?))
    };
    let mirror = || Filter::Mirror(Mirror::new(service("v2"), 8080));
    let rewrite = Rewrite::new().with_path(PathRewrite::prefix("/new")?);
    let of_backend = vec![mirror(), mark("backend")?, mirror()];
    let rule = Rule::to(vec![
        Backend::new(service("cart"), 80, 1)?.with_filters(of_backend),
    ]);
    let rule = rule.when(at("/a")?).with_filters(vec![
        mirror(),
        mark("rule")?,
        mirror(),
        Filter::Rewrite(rewrite),
    ]);
    let snapshot = snapshot(vec![routed(vec![rule])?]);
    let request = || Request::get("http://cart/a/b").header("expect", "100-continue");
    let live = request().body(())?;
    let view = RequestView::Http(HttpView::of(&live));
    let to = Destination::Authority("cart");
    let planned = plan(&snapshot, &web(), to, &view, &mut Draw::new(1), &mut ()).expect("a plan");
    let found: Vec<_> = planned
        .mirrors()
        .iter()
        .map(|mirror| {
            let mut copy = request().body(()).expect("a request");
            mirror.edit(&mut copy);
            assert_eq!(copy.headers()["x-mesh-mirrored"], "1");
            assert!(
                !copy.headers().contains_key("expect"),
                "its body comes at once"
            );
            let by: Vec<_> = copy.headers().get_all("x-by").iter().collect();
            format!("{} {by:?}", copy.uri().path())
        })
        .collect();
    assert_eq!(
        found,
        [
            "/a/b []",
            "/a/b [\"rule\"]",
            "/new/b [\"rule\"]",
            "/new/b [\"rule\", \"backend\"]",
        ]
    );
    Ok(())
}

/// What the egress policy permits of a request it may deny of its copy.
#[test]
fn the_egress_policy_is_asked_about_each_copy() -> Fallible {
    let mirror = || Filter::Mirror(Mirror::new(service("v2"), 8080));
    let rewrite = Rewrite::new().with_path(PathRewrite::full("/closed")?);
    let rule = Rule::to(vec![Backend::new(service("cart"), 80, 1)?]);
    let rule = rule.with_filters(vec![mirror(), Filter::Rewrite(rewrite), mirror()]);
    let snapshot = snapshot(vec![routed(vec![rule])?]);
    let closed = Operation::builder().paths(["/closed"]).build()?;
    let deny = policy("out", Action::Deny, PolicyRule::new(vec![], vec![closed]));
    let local = web().with_egress(DefaultAction::Allow, [deny])?;
    let live = Request::get("http://cart/a").body(())?;
    let view = RequestView::Http(HttpView::of(&live));
    let to = Destination::Authority("cart");
    let planned = plan(&snapshot, &local, to, &view, &mut Draw::new(1), &mut ()).expect("a plan");
    let permitted: Vec<_> = planned
        .mirrors()
        .iter()
        .map(|mirror| {
            let mut copy = live.clone();
            mirror.edit(&mut copy);
            mirror
                .permit(&local, &copy)
                .map(|_| ())
                .map_err(|denied| denied.reason)
        })
        .collect();
    assert_eq!(permitted, [Ok(()), Err(DenyReason::Matched)]);
    Ok(())
}
