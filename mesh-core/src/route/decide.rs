//! The decision, pure: the table of a Service, the caller and the request in, a backend out.

use std::sync::Arc;

use super::table::{Entry, RuleView, Target};
use super::{Match, RouteTable, Timeouts, split};
use crate::authorize::{HttpView, Permit, RequestView, Step, Trace};
use crate::model::{Draw, Namespace, ObjectKey, ServiceName, ServiceView};

/// Where a request goes, and what happens to it on the way.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RouteMatch {
    /// The Service that was asked for; its table holds what was drawn.
    service: Arc<ServiceView>,
    port: u16,
    /// The places of the rule and of the target; `None` is the Service itself, without a route.
    drawn: Option<(usize, usize)>,
}

/// No route: the status and the reason.
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

/// Decides where a request to a Service goes.
///
/// 1. Consumer routes (of the caller's namespace) that are attached to the port are used where
///    there are any; else producer routes (of the Service's namespace).
/// 2. The first entry by precedence that matches is taken; where there are entries and none
///    matches, there is no route.
/// 3. Its backend is drawn by weight. Without any entry, and for opaque connections, the Service
///    itself is the backend.
///
/// The permit is proof that the request was authorized.
///
/// # Errors
/// [`NoRoute`] says what is missing.
pub fn decide(
    service: &Arc<ServiceView>,
    port: u16,
    caller: &Namespace,
    _permit: &Permit,
    request: &RequestView<'_>,
    draw: &mut Draw,
    trace: &mut impl Trace,
) -> Result<RouteMatch, NoRoute> {
    let Some(endpoints) = service.endpoints(port) else {
        return Err(NoRoute::NoPort {
            service: service.name.clone(),
            port,
        });
    };
    // Nearly every request ends there.
    endpoints.touch();
    let to = |drawn| RouteMatch {
        service: service.clone(),
        port,
        drawn,
    };
    let table = &service.routes;
    let http = match request {
        RequestView::Http(http) if !table.is_empty() => http,
        _ => return Ok(to(None)),
    };
    let here = |e: &&Entry| e.port.is_none_or(|p| p == port);
    let consumers = || {
        let own = table.consumers.iter().filter(|(of, _)| of == caller);
        own.map(|(_, entry)| entry).filter(here)
    };
    let producers = || table.producers.iter().filter(here);
    let found = if consumers().next().is_some() {
        first(table, consumers(), http, trace)
    } else if producers().next().is_some() {
        first(table, producers(), http, trace)
    } else {
        return Ok(to(None));
    };
    let Some(entry) = found else {
        return Err(NoRoute::NoMatch {
            service: service.name.clone(),
        });
    };
    let (start, end) = entry.targets;
    match split(table.targets[start..end].iter().map(|t| t.weight), draw) {
        Some(nth) => Ok(to(Some((entry.rule, start + nth)))),
        None => Err(NoRoute::NoBackend {
            route: table.rules[entry.rule].route.clone(),
            rule: table.rules[entry.rule].index,
        }),
    }
}

fn first<'t>(
    table: &RouteTable,
    mut entries: impl Iterator<Item = &'t Entry>,
    http: &HttpView<'_>,
    trace: &mut impl Trace,
) -> Option<&'t Entry> {
    entries.find(|entry| {
        let matched = entry.when.as_ref().is_none_or(|when| matches(when, http));
        trace.saw(Step::Rule {
            route: &table.rules[entry.rule].route,
            rule: table.rules[entry.rule].index,
            matched,
        });
        matched
    })
}

fn matches(when: &Match, http: &HttpView<'_>) -> bool {
    when.method.as_ref().is_none_or(|m| m == http.method)
        && when.path.matches(http.path)
        && when.headers.iter().all(|(name, wanted)| {
            http.headers
                .get_all(name)
                .iter()
                .any(|value| value.to_str().is_ok_and(|value| wanted.matches(value)))
        })
        && when.query.iter().all(|(name, wanted)| {
            form_urlencoded::parse(http.query.unwrap_or_default().as_bytes())
                .find(|(n, _)| *n == **name)
                .is_some_and(|(_, value)| wanted.matches(&value))
        })
}

// === impl RouteMatch ===

impl RouteMatch {
    /// The backend's Service.
    pub fn service(&self) -> &ServiceName {
        self.target().map_or(&self.service.name, |t| &t.service)
    }

    /// The backend's port.
    pub fn port(&self) -> u16 {
        self.target().map_or(self.port, |t| t.port)
    }

    /// The route whose rule matched, and which rule, counted from 0; `None` where no route is
    /// attached.
    pub fn route(&self) -> Option<(&ObjectKey, usize)> {
        self.rule().map(|rule| (&rule.route, rule.index))
    }

    /// The time limits.
    pub fn timeouts(&self) -> Timeouts {
        self.rule().map(|rule| rule.timeouts).unwrap_or_default()
    }

    /// Changes the request's header as the rule and then the backend say.
    pub fn change_request(&self, headers: &mut http::HeaderMap) {
        let rule = self.rule().and_then(|r| r.changes.as_ref());
        let target = self.target().and_then(|t| t.changes.as_ref());
        for changes in rule.into_iter().chain(target) {
            changes.request.apply(headers);
        }
    }

    /// Changes the response's header as the backend and then the rule say.
    pub fn change_response(&self, headers: &mut http::HeaderMap) {
        let rule = self.rule().and_then(|r| r.changes.as_ref());
        let target = self.target().and_then(|t| t.changes.as_ref());
        for changes in target.into_iter().chain(rule) {
            changes.response.apply(headers);
        }
    }

    fn rule(&self) -> Option<&RuleView> {
        let (rule, _) = self.drawn?;
        self.service.routes.rules.get(rule)
    }

    fn target(&self) -> Option<&Target> {
        let (_, target) = self.drawn?;
        self.service.routes.targets.get(target)
    }
}
