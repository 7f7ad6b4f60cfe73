//! Which route an opaque connection meets, against the prose of the Gateway API.

use std::sync::Arc;

use http::{HeaderMap, Method};

use super::*;
use crate::authorize::{HttpView, Permit, RequestView};
use crate::model::{Draw, Namespace, ServiceName};
use crate::route::{GrpcRoute, GrpcRule, Inherited, NoRoute, RouteTable, RoutedAs, decide};

type Fallible<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn namespace(name: &str) -> Namespace {
    Namespace::new(name).expect("a name")
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(&namespace("shop"), name).expect("a name")
}

/// A route of `edge` to a backend of its own name; `at` is its port.
fn route(
    kind: Kind,
    of: &str,
    name: &str,
    at: Option<u16>,
    names: &[&str],
) -> Fallible<OpaqueRoute> {
    let key = ObjectKey::new(kind, &namespace(of), name)?;
    let to = vec![Backend::new(service(name), 443, 1)?];
    let route = OpaqueRoute::new(key, vec![Parent::new(service("edge"), at)], to)?;
    if names.is_empty() {
        return Ok(route);
    }
    let names = names.iter().map(|name| ServerNames::new(name));
    Ok(route.with_names(names.collect::<Result<_, _>>()?)?)
}

fn tls(name: &str, names: &[&str]) -> Fallible<OpaqueRoute> {
    route(Kind::TlsRoute, "shop", name, None, names)
}

fn tcp(name: &str) -> Fallible<OpaqueRoute> {
    route(Kind::TcpRoute, "shop", name, None, &[])
}

/// A table of `edge` with routes of opaque connections, HTTPRoutes and GRPCRoutes.
fn table(opaque: Vec<OpaqueRoute>, http: &[Arc<Route>], grpc: &[Arc<GrpcRoute>]) -> RouteTable {
    let none = |_: &ObjectKey, _: Option<&str>| Inherited::default();
    let opaque: Vec<_> = opaque.into_iter().map(Arc::new).collect();
    RouteTable::build(&service("edge"), &[], http, &none)
        .with_grpc(&[], grpc, &none)
        .with_opaque(&[], &opaque)
}

/// What a connection of a workload meets: the route's name, or why it meets none.
fn met(table: &RouteTable, (port, caller): (u16, &str), view: &RequestView<'_>) -> String {
    let permit = Permit::probe(
        &["/"],
        &RequestView::Http(HttpView::new(&Method::GET, "/", None, &HeaderMap::new())),
    );
    let (caller, permit) = (namespace(caller), permit.expect("a probe"));
    match decide(
        table,
        port,
        &caller,
        &permit,
        view,
        &mut Draw::new(1),
        &mut (),
    ) {
        Ok(None) => "itself".into(),
        Ok(Some(matched)) => matched
            .route(table)
            .map_or_else(String::new, |(key, _)| key.name.to_string()),
        Err(NoRoute::NoMatch { .. }) => "no match".into(),
        Err(NoRoute::NoBackend { .. }) => "no backend".into(),
        Err(NoRoute::NoPort { .. }) => "no port".into(),
    }
}

fn to(server: &str) -> RequestView<'_> {
    RequestView::Tls {
        server: Some(server),
    }
}

const HERE: (u16, &str) = (443, "shop");

#[test]
fn names_are_host_names_with_a_wildcard_label_before_them_or_not() {
    for good in ["a", "a.example.com", "*.example.com", "*.com", "0-9.a"] {
        let names = ServerNames::new(good).expect(good);
        assert_eq!(names.to_string(), good);
    }
    let long = format!("*.{}", "a.".repeat(126));
    for bad in [
        "", "*", "*.", "a.*.com", "**.com", "*a.com", "A.com", "a..b", ".a", "a.", "10.0.0.1",
        &long,
    ] {
        assert!(ServerNames::new(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_longest_name_without_a_wildcard_comes_first_then_the_longest() -> Fallible {
    let table = table(
        vec![
            tls("any", &[])?,
            tls("com", &["*.com"])?,
            tls("example", &["*.example.com", "example.org"])?,
            tls("exact", &["a.example.com"])?,
            tcp("tcp")?,
        ],
        &[],
        &[],
    );
    for (server, wanted) in [
        ("a.example.com", "exact"),
        ("b.example.com", "example"),
        ("a.b.example.com", "example"),
        ("example.com", "com"),
        ("example.org", "example"),
        ("a.example.org", "any"),
        ("xexample.com", "com"),
        ("com", "any"),
    ] {
        assert_eq!(met(&table, HERE, &to(server)), wanted, "{server}");
    }
    assert_eq!(met(&table, HERE, &RequestView::Tls { server: None }), "any");
    // What is no TLS meets no TLSRoute, and the TCPRoute has no effect beside one.
    assert_eq!(met(&table, HERE, &RequestView::Tcp), "no match");
    assert_eq!(
        table.routed_as(443, &namespace("shop")),
        Some(RoutedAs::Tls)
    );
    Ok(())
}

#[test]
fn a_name_that_no_route_has_meets_none() -> Fallible {
    let table = table(vec![tls("a", &["a.com"])?], &[], &[]);
    for view in [
        to("b.com"),
        RequestView::Tls { server: None },
        RequestView::Tcp,
    ] {
        assert_eq!(met(&table, HERE, &view), "no match", "{view:?}");
    }
    Ok(())
}

#[test]
fn ties_go_to_the_older_route_then_to_the_first_name() -> Fallible {
    for kind in [Kind::TlsRoute, Kind::TcpRoute] {
        let names: &[&str] = match kind {
            Kind::TlsRoute => &["a.com"],
            _ => &[],
        };
        let of = |name, created| -> Fallible<OpaqueRoute> {
            Ok(route(kind.clone(), "shop", name, None, names)?.with_created(created))
        };
        for (routes, wanted) in [
            ([of("a", Some(9))?, of("b", Some(5))?], "b"),
            ([of("a", Some(5))?, of("b", Some(5))?], "a"),
            ([of("b", None)?, of("a", None)?], "a"),
            ([of("a", None)?, of("b", Some(5))?], "b"),
        ] {
            let table = table(routes.to_vec(), &[], &[]);
            assert_eq!(met(&table, HERE, &to("a.com")), wanted, "{kind}");
        }
    }
    Ok(())
}

#[test]
fn routes_are_for_their_port_and_consumers_before_producers() -> Fallible {
    let of = |of, name, at| route(Kind::TcpRoute, of, name, at, &[]);
    let table = table(
        vec![
            of("shop", "all", None)?,
            of("web", "mine", Some(443))?,
            route(Kind::TlsRoute, "shop", "tls", Some(444), &["a.com"])?,
        ],
        &[],
        &[],
    );
    for (at, view, wanted) in [
        ((443, "shop"), RequestView::Tcp, "all"),
        ((443, "web"), RequestView::Tcp, "mine"),
        ((445, "web"), RequestView::Tcp, "all"),
        ((444, "shop"), to("a.com"), "tls"),
        ((444, "shop"), RequestView::Tcp, "no match"),
    ] {
        assert_eq!(met(&table, at, &view), wanted, "{at:?}");
    }
    Ok(())
}

/// GRPCRoutes, then HTTPRoutes, then TLSRoutes, then TCPRoutes, at each port and on each side.
#[test]
fn routes_of_requests_come_before_those_of_connections() -> Fallible {
    let parents = |at| vec![Parent::new(service("edge"), at)];
    let to_it = || Backend::new(service("x"), 80, 1);
    let key = |kind, of: &str, name| ObjectKey::new(kind, &namespace(of), name);
    let http = |of, at| -> Fallible<Arc<Route>> {
        let rules = vec![Rule::to(vec![to_it()?])];
        Ok(Arc::new(Route::new(
            key(Kind::HttpRoute, of, "http")?,
            parents(at),
            rules,
        )?))
    };
    let grpc = |of, at| -> Fallible<Arc<GrpcRoute>> {
        let rules = vec![GrpcRule::to(vec![to_it()?])];
        Ok(Arc::new(GrpcRoute::new(
            key(Kind::GrpcRoute, of, "grpc")?,
            parents(at),
            rules,
        )?))
    };
    let opaque =
        || -> Fallible<Vec<OpaqueRoute>> { Ok(vec![tls("tls", &["a.com"])?, tcp("tcp")?]) };
    let headers = HeaderMap::new();
    let get = RequestView::Http(HttpView::new(&Method::GET, "/", None, &headers));
    let tables = [
        (table(opaque()?, &[http("shop", Some(443))?], &[]), "http"),
        (
            table(opaque()?, &[], &[grpc("shop", Some(443))?]),
            "no match",
        ),
        (table(opaque()?, &[http("web", None)?], &[]), "no match"),
    ];
    for (nth, (table, wanted)) in tables.iter().enumerate() {
        assert_eq!(met(table, HERE, &get), *wanted, "{nth}");
        let of_requests = nth < 2;
        let bytes = if of_requests { "itself" } else { "tls" };
        assert_eq!(met(table, HERE, &to("a.com")), bytes, "{nth}");
        assert_eq!(
            table.routed_as(443, &namespace("shop")).is_none(),
            of_requests
        );
    }
    // Elsewhere, and for others, they have effect.
    assert_eq!(met(&tables[0].0, (444, "shop"), &to("a.com")), "tls");
    assert_eq!(met(&tables[2].0, (443, "web"), &to("a.com")), "itself");
    assert_eq!(met(&tables[2].0, (443, "web"), &get), "http");
    // A request is routed as its connection would be.
    let alone = table(vec![tcp("tcp")?], &[], &[]);
    assert_eq!(met(&alone, HERE, &get), "tcp");
    Ok(())
}

#[test]
fn shares_are_drawn_by_weight_and_none_is_no_backend() -> Fallible {
    let with = |weights: &[u32]| -> Fallible<RouteTable> {
        let to = weights.iter().enumerate();
        let to = to.map(|(n, weight)| Backend::new(service(&format!("v{n}")), 443, *weight));
        let key = ObjectKey::new(Kind::TcpRoute, &namespace("shop"), "r")?;
        let parents = vec![Parent::new(service("edge"), None)];
        let route = OpaqueRoute::new(key, parents, to.collect::<Result<_, _>>()?)?;
        Ok(table(vec![route], &[], &[]))
    };
    assert_eq!(met(&with(&[0, 0])?, HERE, &RequestView::Tcp), "no backend");
    let table = with(&[3, 0, 1])?;
    let permit = Permit::probe(
        &["/"],
        &RequestView::Http(HttpView::new(&Method::GET, "/", None, &HeaderMap::new())),
    );
    let permit = permit.ok_or("a probe")?;
    let (mut draw, mut seen) = (Draw::new(7), [0_u32; 3]);
    for _ in 0..4_000 {
        let own = namespace("shop");
        let matched = decide(
            &table,
            443,
            &own,
            &permit,
            &RequestView::Tcp,
            &mut draw,
            &mut (),
        )?;
        let matched = matched.ok_or("it matches")?;
        let (to, _) = matched.backend(&table).ok_or("it forwards")?;
        let nth: usize = to.name()[1..].parse()?;
        seen[nth] += 1;
        assert_eq!(matched.split(&table).len(), 3);
    }
    assert!(seen[1] == 0 && (850..1_150).contains(&seen[2]), "{seen:?}");
    Ok(())
}

#[test]
fn what_is_no_route_of_connections_is_refused() -> Fallible {
    let key = |kind| ObjectKey::new(kind, &namespace("shop"), "r");
    let parents = || vec![Parent::new(service("edge"), None)];
    let backend = Backend::new(service("x"), 1, 1)?;
    let new = OpaqueRoute::new;
    assert!(new(key(Kind::HttpRoute)?, parents(), vec![backend.clone()]).is_err());
    assert!(new(key(Kind::TcpRoute)?, vec![], vec![backend.clone()]).is_err());
    assert!(new(key(Kind::TcpRoute)?, parents(), vec![]).is_err());
    let tcp = new(key(Kind::TcpRoute)?, parents(), vec![backend.clone()])?;
    assert!(tcp.with_names(vec![ServerNames::new("a.com")?]).is_err());
    let tls = new(key(Kind::TlsRoute)?, parents(), vec![backend])?;
    assert!(tls.with_names(vec![]).is_err());
    Ok(())
}
