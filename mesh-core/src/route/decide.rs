//! The decision, pure: the table of a Service, the caller and the request in, what matched out.

use http::Method;

use super::filter::{FILTERS, Filter, MIRRORED, asked_for, is_preflight};
use super::grpc::Call;
use super::matched::{Matched, Place};
use super::matching::{Match, missing_field};
use super::missed::Condition;
use super::split::split;
use super::table::RouteTable;
use super::table::gate::Knock;
use super::table::grpc::GrpcTable;
use super::table::http::{Entry, HttpTable, RuleView, Target};
use super::table::opaque::{OpaqueTable, OpaqueWhen};
use crate::authorize::{HttpView, Missed, Permit, RequestView, Step, Trace};
use crate::balance::Shown;
use crate::error::{Error, Reason, is_grpc};
use crate::model::{Draw, Namespace, ObjectKey, ServiceName};
use crate::traffic::{SessionScope, nth_of_name};

/// Why there is no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoRoute {
    /// A rule matched whose backends have no weight between them: 500.
    #[error("rule {rule} of {route} has no backend with a weight")]
    NoBackend {
        /// The route.
        route: ObjectKey,
        /// The rule, counted from 0.
        rule: usize,
    },
    /// Routes are attached and none matches: 404.
    #[error("no rule of the routes attached to {service} matches")]
    NoMatch {
        /// The Service.
        service: ServiceName,
    },
    /// The Service has no such port: 404.
    #[error("{service} has no port {port}")]
    NoPort {
        /// The Service.
        service: ServiceName,
        /// The port asked for.
        port: u16,
    },
}

/// Decides which rule of a Service's routes a request meets.
///
/// 1. Consumer routes (of the caller's namespace) that are attached to the port are used if there
///    are any; else producer routes (of the Service's namespace).
///    Among these gRPC routes are used if there are any, else HTTP routes, else TLSRoutes, else TCPRoutes.
///    What asks for TLS is met by no plain request.
/// 2. The first entry by precedence that matches is taken; if there are entries and none matches,
///    there is no route.
/// 3. The backend of a rule that forwards is drawn by weight, or is the one that the user's key leads to
///    where a policy keeps users in their parts, or the one of the session that the request shows.
/// 4. A preflight is answered by the rule, else by the backend, that says which origins it allows. It
///    matches by the method that it asks for.
/// 5. Each mirror of the rule and of the backend is drawn by its share, but for a request that is a copy
///    itself.
///
/// `None` is the Service itself: no route is attached to the port, or the connection is opaque and those
/// that are attached are routes of requests. The permit is proof that the request was authorized.
///
/// # Errors
///
/// [`NoRoute`] says what is missing.
pub fn decide(
    table: &RouteTable,
    port: u16,
    caller: &Namespace,
    _permit: &Permit,
    request: &RequestView<'_>,
    draw: &mut Draw,
    trace: &mut impl Trace,
) -> Result<Option<Matched>, NoRoute> {
    if let Some((of, side)) = table.opaque_side(port, caller) {
        return opaque_route(of, table, (port, side), request, draw, trace).map(Some);
    }
    match request {
        RequestView::Http(http) if !table.is_empty() => match grpc_side(table, port, caller) {
            Some((of, side)) => grpc_route(of, table, (port, side), http, draw, trace).map(Some),
            None => http_route(table, port, caller, http, draw, trace),
        },
        _ => Ok(None),
    }
}

/// The gRPC routes, and the namespace of those that decide; `None` if none do.
fn grpc_side<'a>(
    table: &'a RouteTable,
    port: u16,
    caller: &'a Namespace,
) -> Option<(&'a GrpcTable, &'a Namespace)> {
    let of = table.grpc.as_deref()?;
    let own = table.service.namespace();
    if caller != own && of.attached(caller, Some(port)).is_some() {
        return Some((of, caller));
    }
    let mut consumers = table.http.consumers.iter();
    if consumers.any(|(from, entry)| from == caller && entry.is_at(port)) {
        return None;
    }
    of.attached(own, Some(port)).map(|_| (of, own))
}

/// The route of a connection, or of a request as of a connection that has no TLS.
#[cold]
fn opaque_route(
    of: &OpaqueTable,
    table: &RouteTable,
    (port, side): (u16, &Namespace),
    request: &RequestView<'_>,
    draw: &mut Draw,
    trace: &mut impl Trace,
) -> Result<Matched, NoRoute> {
    let entry = of.attached(side, Some(port)).find(|entry| {
        let missed = match (&entry.when, request) {
            (OpaqueWhen::Any, _) | (OpaqueWhen::Tls(None), RequestView::Tls { .. }) => None,
            (OpaqueWhen::Tls(Some(names)), RequestView::Tls { server }) => {
                let met = server.is_some_and(|server| names.matches(server));
                (!met).then_some(Condition::Server(names))
            }
            (OpaqueWhen::Tls(_), RequestView::Http(_) | RequestView::Tcp) => Some(Condition::Tls),
        };
        trace.saw(Step::Rule {
            route: of.route(entry),
            rule: 0,
            matched: missed.is_none(),
            missed: missed.as_ref().map(|condition| Missed(condition)),
        });
        missed.is_none()
    });
    let entry = entry.ok_or_else(|| NoRoute::NoMatch {
        service: table.service.clone(),
    })?;
    let (start, end) = entry.targets;
    let weights = of.targets[start..end].iter().map(|t| t.weight);
    let target = split(weights, draw).ok_or_else(|| NoRoute::NoBackend {
        route: of.route(entry).clone(),
        rule: 0,
    })?;
    Ok(Matched {
        entry: Place::Opaque,
        rule: entry.rule,
        target: Some(start + target),
        mirrors: 0,
        cors: false,
        faulty: false,
        preflight: false,
        sticky: false,
    })
}

fn grpc_route(
    of: &GrpcTable,
    table: &RouteTable,
    (port, side): (u16, &Namespace),
    http: &HttpView<'_>,
    draw: &mut Draw,
    trace: &mut impl Trace,
) -> Result<Matched, NoRoute> {
    let path = http.spelling();
    let call = Call::new(&path, http.headers);
    let entry = of.entries.iter().find(|entry| {
        let here = entry.port.is_none_or(|p| p == port) && of.namespace(entry) == Some(side);
        if !here {
            return false;
        }
        let missed = match is_grpc(http.headers) {
            true => entry.when.as_ref().and_then(|when| when.missed(&call)),
            false => Some(Condition::Grpc),
        };
        trace.saw(Step::Rule {
            route: &of.rules[entry.rule].route,
            rule: of.rules[entry.rule].index,
            matched: missed.is_none(),
            missed: missed.as_ref().map(|condition| Missed(condition)),
        });
        missed.is_none()
    });
    let entry = entry.ok_or_else(|| NoRoute::NoMatch {
        service: table.service.clone(),
    })?;
    let (start, end) = entry.targets;
    let (rule, targets) = (&of.rules[entry.rule], &of.targets[start..end]);
    let target = match entry.sticky {
        false => split(targets.iter().map(|t| t.weight), draw),
        true => kept(rule, targets, http, draw),
    };
    let target = target.ok_or_else(|| NoRoute::NoBackend {
        route: rule.route.clone(),
        rule: rule.index,
    })?;
    let target = start + target;
    let copied = entry.mirrors && !http.headers.contains_key(MIRRORED);
    Ok(Matched {
        entry: Place::Grpc,
        rule: entry.rule,
        target: Some(target),
        mirrors: match copied {
            true => drawn(&rule.filters, &of.targets[target].filters, draw),
            false => 0,
        },
        cors: false,
        preflight: false,
        faulty: entry.faulty,
        sticky: entry.sticky,
    })
}

/// The target that a session or a user is kept at. A session stays also where a weight is 0 (GEP-1619,
/// "Traffic Splitting").
#[cold]
fn kept(
    rule: &RuleView,
    targets: &[Target],
    http: &HttpView<'_>,
    draw: &mut Draw,
) -> Option<usize> {
    let shown = Shown {
        headers: Some(http.headers),
        query: http.query,
    };
    let led = rule.session.as_ref().filter(|_| http.heeds_sessions());
    let led = led.and_then(|session| {
        let scope = SessionScope::of_rule((&rule.route, rule.index));
        let names = targets.iter().map(|target| (&target.service, target.port));
        let of = |backend| {
            let mut places = names.clone().enumerate();
            places.position(|(place, (service, port))| {
                scope.backend(service, port, nth_of_name(names.clone(), place)) == backend
            })
        };
        let is_of = |backend| of(backend).is_some();
        of(session.value.shown(scope, http.headers, is_of)?.backend)
    });
    let weights = targets.iter().map(|target| target.weight);
    led.or_else(|| match &rule.sticky {
        Some(sticky) => sticky.choose(weights, shown, draw),
        None => split(weights, draw),
    })
}

fn http_route(
    table: &RouteTable,
    port: u16,
    caller: &Namespace,
    http: &HttpView<'_>,
    draw: &mut Draw,
    trace: &mut impl Trace,
) -> Result<Option<Matched>, NoRoute> {
    let of = &table.http;
    let path = http.spelling();
    let mut knock = Knock::at(&of.fields, &path, http.headers);
    let (mut attached, mut found) = (false, None);
    for (n, (from, entry)) in of.consumers.iter().enumerate() {
        if from == caller && entry.is_at(port) {
            attached = true;
            if meets((of, port), entry, &mut knock, (http, &path), trace) {
                found = Some((Place::Consumer(n), entry));
                break;
            }
        }
    }
    // Producer routes are for callers without consumer routes.
    if !attached {
        let first = first_met((of, port), &mut knock, (http, &path), trace);
        found = first.map(|(n, entry)| (Place::Producer(n), entry));
        attached = found.is_some() || of.producers.iter().any(|entry| entry.is_at(port));
    }
    let (place, entry) = match found {
        Some(found) => found,
        None if attached => {
            return Err(NoRoute::NoMatch {
                service: table.service.clone(),
            });
        }
        None => return Ok(None),
    };
    let (start, end) = entry.targets;
    let (rule, targets) = (&of.rules[entry.rule], &of.targets[start..end]);
    let target = match entry.sticky {
        false => split(targets.iter().map(|t| t.weight), draw),
        true => kept(rule, targets, http, draw),
    };
    let target = target.map(|nth| start + nth);
    let mut matched = Matched {
        entry: place,
        rule: entry.rule,
        target,
        mirrors: 0,
        cors: entry.cors,
        preflight: false,
        faulty: entry.faulty,
        sticky: entry.sticky,
    };
    if entry.cors && is_preflight(http.method, http.headers) && matched.cors(table).is_some() {
        matched.preflight = true;
        return Ok(Some(matched));
    }
    if target.is_none() && rule.answer.is_none() {
        return Err(NoRoute::NoBackend {
            route: rule.route.clone(),
            rule: rule.index,
        });
    }
    matched.mirrors = match target.and_then(|target| of.targets.get(target)) {
        Some(target) if entry.mirrors && !http.headers.contains_key(MIRRORED) => {
            drawn(&rule.filters, &target.filters, draw)
        }
        _ => 0,
    };
    Ok(Some(matched))
}

/// The mirrors that take a copy of a request, a bit for each.
fn drawn(of_rule: &[Filter], of_target: &[Filter], draw: &mut Draw) -> u32 {
    let places = (0..).zip(of_rule).chain((FILTERS..).zip(of_target));
    places.fold(0, |bits, (place, filter)| match filter.mirror() {
        Some(mirror) if mirror.is_drawn(draw) => bits | 1 << place,
        _ => bits,
    })
}

/// The first of the producers' entries that a request to a port meets, with its place. Apart, so that the
/// walk over many entries keeps what it needs in registers.
#[inline(never)]
fn first_met<'t, T: Trace>(
    (table, port): (&'t HttpTable, u16),
    knock: &mut Knock<'_>,
    (http, path): (&HttpView<'_>, &str),
    trace: &mut T,
) -> Option<(usize, &'t Entry)> {
    let mut entries = table.producers.iter().enumerate();
    entries.find(|(_, entry)| meets((table, port), entry, knock, (http, path), trace))
}

/// Whether a request to a port meets an entry. Its gate comes first: most are shut.
#[inline]
fn meets<T: Trace>(
    (table, port): (&HttpTable, u16),
    entry: &Entry,
    knock: &mut Knock<'_>,
    (http, path): (&HttpView<'_>, &str),
    trace: &mut T,
) -> bool {
    let shut = knock.is_shut(&entry.gate);
    if shut && !T::WATCHES {
        return false;
    }
    if !entry.is_at(port) {
        return false;
    }
    let when = table.when(entry);
    let missed = when.and_then(|when| missed(when, http, path, entry.cors));
    let matched = missed.is_none() && !shut;
    trace.saw(Step::Rule {
        route: &table.rules[entry.rule].route,
        rule: table.rules[entry.rule].index,
        matched,
        missed: missed.as_ref().map(|condition| Missed(condition)),
    });
    matched
}

/// The first condition that a request does not meet.
fn missed<'m>(
    when: &'m Match,
    http: &HttpView<'_>,
    path: &str,
    cors: bool,
) -> Option<Condition<'m>> {
    let asks = |method: &Method| {
        let is_asked_for = || asked_for(http.headers) == Some(method.as_str());
        cors && is_preflight(http.method, http.headers) && is_asked_for()
    };
    let method = when.method.as_ref();
    if let Some(method) = method.filter(|m| *m != http.method && !asks(m)) {
        return Some(Condition::Method(method));
    }
    if !when.path.matches(path) {
        return Some(Condition::Path(&when.path));
    }
    if let Some(name) = missing_field(&when.headers, http.headers) {
        return Some(Condition::Header(name));
    }
    let query = when.query.iter().find(|(name, wanted)| {
        !form_urlencoded::parse(http.query.unwrap_or_default().as_bytes())
            .find(|(n, _)| *n == **name)
            .is_some_and(|(_, value)| wanted.matches(&value))
    });
    query.map(|(name, _)| Condition::Query(name))
}

// === impl NoRoute ===

impl From<NoRoute> for Error {
    fn from(none: NoRoute) -> Self {
        let reason = match &none {
            NoRoute::NoBackend { .. } => Reason::NoBackend,
            NoRoute::NoMatch { .. } | NoRoute::NoPort { .. } => Reason::NoRoute,
        };
        Self::new(reason, none.to_string())
    }
}
