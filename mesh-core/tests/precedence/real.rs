//! The real table: the routes as objects of a snapshot, and a request planned.

use std::collections::HashMap;
use std::error::Error;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use inmesh_core::Local;
use inmesh_core::authorize::{DefaultAction, HttpView, RequestView};
use inmesh_core::model::{
    AppProtocol, Draw, Kind, Namespace, ObjectKey, Service, ServiceName, ServicePort, SourceId,
    Workload,
};
use inmesh_core::plan::{Destination, Refusal, plan};
use inmesh_core::route::{
    Backend, GrpcMatch, GrpcRoute, GrpcRule, Match, NoRoute, OpaqueRoute, Parent, PathMatch, Regex,
    Route, Rule, ServerNames, ValueMatch,
};
use inmesh_core::snapshot::{Change, Op, Settings, Snapshot};

use super::Met;
use super::table::{self, Ask, PATTERNS, PathType, RouteKind, Speaks, Table, Text};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// The patterns, compiled once.
pub(crate) type Patterns = HashMap<&'static str, Regex>;

pub(crate) fn patterns() -> Fallible<Patterns> {
    let each = PATTERNS
        .iter()
        .map(|(text, _)| Ok((*text, Regex::new(text)?)));
    each.collect()
}

pub(crate) struct Real {
    snapshot: Snapshot,
    cart: ServiceName,
}

impl Real {
    pub(crate) fn of(table: &Table, patterns: &Patterns) -> Fallible<Self> {
        let cart = service("cart")?;
        let ports = vec![
            ServicePort::new("a", 80, AppProtocol::Http1),
            ServicePort::new("b", 81, AppProtocol::Http1),
        ];
        let mut ops = vec![Op::put(Service::new(cart.clone(), ports))];
        for route in &table.routes {
            ops.push(put(route, patterns)?);
        }
        let settings = Settings::new(Workload::new("shop", "web", "web")?, DefaultAction::Allow);
        let snapshot = Snapshot::new(settings).apply(Change::update(SourceId::new("t"), ops));
        Ok(Self { snapshot, cart })
    }

    pub(crate) fn met(&self, ask: &Ask) -> Fallible<Met> {
        let mut headers = HeaderMap::new();
        for (name, value) in &ask.headers {
            let (name, value) = (name.parse::<HeaderName>()?, HeaderValue::from_static(value));
            headers.append(name, value);
        }
        if ask.speaks == Speaks::Grpc {
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        }
        let method: Method = ask.method.parse()?;
        let view = match ask.speaks {
            Speaks::Grpc | Speaks::Http => {
                RequestView::Http(HttpView::new(&method, ask.path, ask.query, &headers))
            }
            Speaks::Tcp => RequestView::Tcp,
            Speaks::Tls(server) => RequestView::Tls { server },
        };
        let caller = Workload::new(ask.namespace, "web", "web")?;
        let local = Local::new(caller, DefaultAction::Allow);
        let to = Destination::Service {
            name: &self.cart,
            port: ask.port,
        };
        match plan(
            &self.snapshot,
            &local,
            to,
            &view,
            &mut Draw::new(0),
            &mut (),
        ) {
            Ok(planned) => Ok(match planned.route() {
                Some((route, rule)) => Met::Rule(route.to_string(), rule),
                None => Met::Itself,
            }),
            Err(refused) => match refused.reason {
                Refusal::NoRoute(NoRoute::NoMatch { .. }) => Ok(Met::Nothing),
                other => Err(other.into()),
            },
        }
    }
}

fn service(name: &str) -> Fallible<ServiceName> {
    Ok(ServiceName::new(&Namespace::new("shop")?, name)?)
}

fn put(route: &table::Route, patterns: &Patterns) -> Fallible<Op> {
    let backends = vec![Backend::new(service("cart")?, 80, 1)?];
    let parents = route.parents.iter().map(|parent| {
        let to = Parent::new(service(parent.service)?, parent.port);
        Ok(match parent.section {
            Some(section) => to.named(section),
            None => to,
        })
    });
    let parents = parents.collect::<Fallible<Vec<_>>>()?;
    let namespace = Namespace::new(route.namespace)?;
    if matches!(route.kind, RouteKind::Tcp | RouteKind::Tls) {
        let kind = match route.kind {
            RouteKind::Tls => Kind::TlsRoute,
            _ => Kind::TcpRoute,
        };
        let key = ObjectKey::new(kind, &namespace, route.name)?;
        let made = OpaqueRoute::new(key, parents, backends)?.with_created(route.created);
        let names = route.hostnames.iter().map(|name| ServerNames::new(name));
        return Ok(Op::put(match route.hostnames[..] {
            [] => made,
            _ => made.with_names(names.collect::<Result<_, _>>()?)?,
        }));
    }
    if route.kind == RouteKind::Grpc {
        let rules = route.rules.iter().map(|matches| {
            let matches = matches
                .iter()
                .map(|of| call(of, patterns))
                .collect::<Fallible<_>>()?;
            Ok(GrpcRule::to(backends.clone()).when(matches))
        });
        let key = ObjectKey::new(Kind::GrpcRoute, &namespace, route.name)?;
        let made = GrpcRoute::new(key, parents, rules.collect::<Fallible<_>>()?)?;
        return Ok(Op::put(made.with_created(route.created)));
    }
    let rules = route.rules.iter().map(|matches| {
        let matches = matches
            .iter()
            .map(|of| conditions(of, patterns))
            .collect::<Fallible<_>>()?;
        Ok(Rule::to(backends.clone()).when(matches))
    });
    let key = ObjectKey::new(Kind::HttpRoute, &namespace, route.name)?;
    let made = Route::new(key, parents, rules.collect::<Fallible<_>>()?)?;
    Ok(Op::put(made.with_created(route.created)))
}

fn text(text: &Text, patterns: &Patterns) -> Fallible<ValueMatch> {
    Ok(match text {
        Text::Exact(exact) => ValueMatch::Exact((*exact).into()),
        Text::Regex(pattern) => ValueMatch::Regex(patterns[pattern].clone()),
    })
}

fn conditions(of: &table::Match, patterns: &Patterns) -> Fallible<Match> {
    // As the reader of documents has it, where a match names no path.
    let (kind, path) = of.path.unwrap_or((PathType::Prefix, "/"));
    let mut made = Match::path(match kind {
        PathType::Exact => PathMatch::literal(path, false)?,
        PathType::Prefix => PathMatch::literal(path, true)?,
        PathType::Regex => PathMatch::Regex(patterns[path].clone()),
    });
    if let Some(method) = of.method {
        made = made.method(method.parse()?);
    }
    for (name, value) in &of.headers {
        made = made.header(name.parse()?, text(value, patterns)?);
    }
    for (name, value) in &of.query {
        made = made.query(name, text(value, patterns)?);
    }
    Ok(made)
}

fn call(of: &table::Match, patterns: &Patterns) -> Fallible<GrpcMatch> {
    let mut made = GrpcMatch::new();
    if let Some(call) = &of.call {
        if let Some(service) = &call.service {
            made = made.service(text(service, patterns)?);
        }
        if let Some(method) = &call.method {
            made = made.method(text(method, patterns)?);
        }
    }
    for (name, value) in &of.headers {
        made = made.header(name.parse()?, text(value, patterns)?);
    }
    Ok(made)
}
