//! The decision, pure: the table of a Service, the caller and the request in, a backend out.

use std::sync::Arc;

use super::table::{Entry, Match};
use super::{RuleView, Timeouts, split};
use crate::authorize::{HttpView, Permit, RequestView, Step, Trace};
use crate::model::{Draw, Namespace, ObjectKey, ServiceName, ServiceView};

/// Where a request goes, and what happens to it on the way.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RouteMatch {
    to: To,
}

#[derive(Debug, Clone)]
enum To {
    /// The rule, and which of its backends was drawn.
    Backend(Arc<RuleView>, usize),
    /// No route is attached: the Service itself.
    Own(ServiceName, u16),
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
    service: &ServiceView,
    port: u16,
    caller: &Namespace,
    _permit: &Permit,
    request: &RequestView<'_>,
    draw: &mut Draw,
    trace: &mut impl Trace,
) -> Result<RouteMatch, NoRoute> {
    if service.port(port).is_none() {
        return Err(NoRoute::NoPort {
            service: service.name.clone(),
            port,
        });
    }
    let own = || RouteMatch {
        to: To::Own(service.name.clone(), port),
    };
    let http = match request {
        RequestView::Http(http) if !service.routes.is_empty() => http,
        _ => return Ok(own()),
    };
    let here = |e: &&Entry| e.port.is_none_or(|p| p == port);
    let consumer = |e: &&Entry| e.consumer.as_ref() == Some(caller);
    let entries = || service.routes.entries.iter().filter(here);
    let found = if entries().any(|e| consumer(&e)) {
        first(entries().filter(consumer), http, trace)
    } else {
        let mut producers = entries().filter(|e| e.consumer.is_none()).peekable();
        if producers.peek().is_none() {
            return Ok(own());
        }
        first(producers, http, trace)
    };
    let Some(entry) = found else {
        return Err(NoRoute::NoMatch {
            service: service.name.clone(),
        });
    };
    let backends = &entry.rule.backends;
    match split(backends.iter().map(|b| b.weight), draw) {
        Some(drawn) => Ok(RouteMatch {
            to: To::Backend(entry.rule.clone(), drawn),
        }),
        None => Err(NoRoute::NoBackend {
            route: entry.rule.route.clone(),
            rule: entry.rule.index,
        }),
    }
}

fn first<'t>(
    mut entries: impl Iterator<Item = &'t Entry>,
    http: &HttpView<'_>,
    trace: &mut impl Trace,
) -> Option<&'t Entry> {
    entries.find(|entry| {
        let matched = entry.when.as_ref().is_none_or(|when| matches(when, http));
        trace.saw(Step::Rule {
            route: &entry.rule.route,
            rule: entry.rule.index,
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
        match &self.to {
            To::Backend(view, drawn) => &view.backends[*drawn].service,
            To::Own(service, _) => service,
        }
    }

    /// The backend's port.
    pub fn port(&self) -> u16 {
        match &self.to {
            To::Backend(view, drawn) => view.backends[*drawn].port,
            To::Own(_, port) => *port,
        }
    }

    /// The route whose rule matched, and which rule, counted from 0; `None` where no route is
    /// attached.
    pub fn route(&self) -> Option<(&ObjectKey, usize)> {
        match &self.to {
            To::Backend(view, _) => Some((&view.route, view.index)),
            To::Own(..) => None,
        }
    }

    /// The time limits.
    pub fn timeouts(&self) -> Timeouts {
        match &self.to {
            To::Backend(view, _) => view.timeouts,
            To::Own(..) => Timeouts::default(),
        }
    }

    /// Changes the request's header as the rule and then the backend say.
    pub fn change_request(&self, headers: &mut http::HeaderMap) {
        if let To::Backend(view, drawn) = &self.to {
            view.request.apply(headers);
            view.backends[*drawn].request.apply(headers);
        }
    }

    /// Changes the response's header as the backend and then the rule say.
    pub fn change_response(&self, headers: &mut http::HeaderMap) {
        if let To::Backend(view, drawn) = &self.to {
            view.backends[*drawn].response.apply(headers);
            view.response.apply(headers);
        }
    }
}
