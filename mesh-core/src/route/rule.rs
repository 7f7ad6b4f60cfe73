//! Routes as their author writes them, checked when they are made.
//!
//! A rule has conditions, filters and one [`Outcome`]. What is out of bounds, or could never have
//! an effect, is refused here.

use std::sync::Arc;
use std::time::Duration;

use inmesh_pki::clock::Span;

use super::filter::{FILTERS, Filter, Mirror, Redirect, Respond};
use super::invalid::InvalidRoute;
use super::matching::{Match, PathMatch, check_header};
use crate::authorize::PathForm;
use crate::model::{Block, ObjectKey, ServiceName, ServicePort};
use crate::retry::{HedgePolicy, RetryPolicy};
use crate::traffic::{FaultInjection, SessionPersistence, TrafficSplit};

/// The largest weight that the Gateway API allows.
const WEIGHT_MAX: u32 = 1_000_000;

/// One target of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backend {
    /// The Service.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// Its share relative to the other backends' weights.
    pub weight: u32,
    /// Edits of requests that this backend is chosen for, after the rule's, and of its answers,
    /// before the rule's.
    pub filters: Vec<Filter>,
}

/// What happens to a request that a rule matches.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It is sent to one of these backends, drawn by weight.
    Forward(Vec<Backend>),
    /// It is answered with another location.
    Redirect(Redirect),
    /// It is answered.
    Respond(Respond),
}

/// Time limits of a rule (GEP-1742). `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// From the request's arrival to the response's head, all attempts included.
    pub request: Option<Duration>,
    /// The same for one attempt.
    pub backend_request: Option<Duration>,
    /// How long no byte of the request or of its answer may come, from the first attempt to the end of the
    /// answer. A rule cannot say it: it is that of the policies that reach it.
    pub stream_idle: Option<Duration>,
}

/// One rule: conditions, edits and an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rule {
    /// One of them must match; empty matches every path.
    pub matches: Vec<Match>,
    /// Edits of requests, in this order, and of answers.
    pub filters: Vec<Filter>,
    /// What happens to the request.
    pub outcome: Outcome,
    /// The name that policies know it by.
    pub name: Option<Arc<str>>,
    /// Its time limits; `None` are those of the policies that reach it.
    pub timeouts: Option<Timeouts>,
    /// What is sent again; `None` is as the policies that reach it say, and else what surely no server
    /// has looked at.
    pub retry: Option<Arc<RetryPolicy>>,
}

/// What a rule has of the policies for it or its route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inherited {
    /// Time limits.
    pub timeouts: Option<Block<Timeouts>>,
    /// What is sent again.
    pub retry: Option<Block<Arc<RetryPolicy>>>,
    /// What is sent to several endpoints at once; `None` where a nearer policy has a `retry`.
    pub hedge: Option<Box<Block<Arc<HedgePolicy>>>>,
    /// Faults that are made on purpose.
    pub fault: Option<Block<Arc<FaultInjection>>>,
    /// How clients stay with one endpoint of one backend, if they do.
    pub session: Option<Block<Arc<SessionPersistence>>>,
    /// How each user stays in one part of the split, if so.
    pub split: Option<Block<Arc<TrafficSplit>>>,
}

/// A Service that a route is attached to, all its ports or one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parent {
    /// The Service.
    pub service: ServiceName,
    /// The port; `None` is all.
    pub port: Option<u16>,
    /// The port's name (Gateway API, `sectionName`); `None` is any.
    pub port_name: Option<Arc<str>>,
}

/// An HTTPRoute attached to Services.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// The object it was read from. In its Service's namespace it is a producer route, for every
    /// caller; in another it is a consumer route, for callers of that namespace.
    pub key: ObjectKey,
    /// When it was created, in seconds since 1970; older routes win ties.
    pub created: Option<i64>,
    /// What it is attached to.
    pub parents: Vec<Parent>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

// === impl Backend ===

impl Backend {
    /// A backend with a weight.
    ///
    /// ```
    /// use inmesh_core::model::{Namespace, ServiceName};
    /// use inmesh_core::route::Backend;
    /// let cart = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    /// assert!(Backend::new(cart.clone(), 80, 90).is_ok());
    /// assert!(Backend::new(cart, 80, 1_000_001).is_err());
    /// # Ok::<(), inmesh_core::model::InvalidName>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if the weight is above 1,000,000 (Gateway API, BackendRef).
    pub fn new(service: ServiceName, port: u16, weight: u32) -> Result<Self, InvalidRoute> {
        if weight > WEIGHT_MAX {
            return Err(InvalidRoute::new(format!(
                "the weight {weight} is above {WEIGHT_MAX}"
            )));
        }
        Ok(Self {
            service,
            port,
            weight,
            filters: Vec::new(),
        })
    }

    /// The same backend with filters.
    #[must_use]
    pub fn with_filters(mut self, filters: Vec<Filter>) -> Self {
        self.filters = filters;
        self
    }
}

// === impl Timeouts ===

impl Timeouts {
    /// Limits on the request and on each attempt; zero is no limit (GEP-1742).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use inmesh_core::route::Timeouts;
    /// let seconds = |n| Some(Duration::from_secs(n));
    /// assert_eq!(Timeouts::new(seconds(0), None)?.request, None);
    /// assert!(Timeouts::new(seconds(1), seconds(2)).is_err());
    /// # Ok::<(), inmesh_core::route::InvalidRoute>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if an attempt is given more time than the request.
    pub fn new(
        request: Option<Duration>,
        backend_request: Option<Duration>,
    ) -> Result<Self, InvalidRoute> {
        let limit = |d: Option<Duration>| d.filter(|d| !d.is_zero());
        let (request, backend_request) = (limit(request), limit(backend_request));
        match (request, backend_request) {
            (Some(all), Some(one)) if one > all => Err(InvalidRoute::new(format!(
                "backendRequest ({}) is longer than request ({})",
                Span(one),
                Span(all)
            ))),
            _ => Ok(Self {
                request,
                backend_request,
                stream_idle: None,
            }),
        }
    }

    /// The same with a limit on a stream at rest; zero is no limit.
    #[must_use]
    pub fn with_stream_idle(mut self, limit: Option<Duration>) -> Self {
        self.stream_idle = limit.filter(|limit| !limit.is_zero());
        self
    }
}

// === impl Rule ===

impl Rule {
    /// A rule that sends every request to the backends.
    ///
    /// ```
    /// use inmesh_core::model::{Namespace, ServiceName};
    /// use inmesh_core::route::{Backend, Match, PathMatch, Rule};
    /// let cart = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    /// let items = Match::path(PathMatch::literal("/items", true)?);
    /// let rule = Rule::to(vec![Backend::new(cart, 80, 1)?]).when(vec![items]);
    /// assert_eq!(rule.backends().len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to(backends: Vec<Backend>) -> Self {
        Self::with(Outcome::Forward(backends))
    }

    /// A rule with an outcome for every request.
    pub fn with(outcome: Outcome) -> Self {
        Self {
            matches: Vec::new(),
            filters: Vec::new(),
            outcome,
            name: None,
            timeouts: None,
            retry: None,
        }
    }

    /// The same for requests that match one of `matches`.
    #[must_use]
    pub fn when(mut self, matches: Vec<Match>) -> Self {
        self.matches = matches;
        self
    }

    /// The same with filters.
    #[must_use]
    pub fn with_filters(mut self, filters: Vec<Filter>) -> Self {
        self.filters = filters;
        self
    }

    /// The same with time limits.
    #[must_use]
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = Some(timeouts);
        self
    }

    /// The same with a name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The same with what is sent again.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = Some(Arc::new(retry));
        self
    }

    /// The backends that it forwards to; empty for any other outcome.
    pub fn backends(&self) -> &[Backend] {
        match &self.outcome {
            Outcome::Forward(backends) => backends,
            Outcome::Redirect(_) | Outcome::Respond(_) => &[],
        }
    }

    /// The mirrors of it and its backends: where each stands among filters, the first number being that
    /// of a backend.
    pub fn mirrors(&self) -> impl Iterator<Item = (Option<usize>, usize, &Mirror)> {
        let of_backends = self.backends().iter().enumerate();
        let of_backends = of_backends.map(|(b, backend)| (Some(b), &backend.filters));
        let lists = std::iter::once((None, &self.filters)).chain(of_backends);
        lists.flat_map(|(backend, filters)| {
            let mirrors = filters.iter().map(Filter::mirror).enumerate();
            mirrors.filter_map(move |(n, mirror)| Some((backend, n, mirror?)))
        })
    }

    /// Whether it or a backend of it answers preflights.
    pub(super) fn has_cors(&self) -> bool {
        let of_backends = self.backends().iter().flat_map(|b| &b.filters);
        let mut filters = self.filters.iter().chain(of_backends);
        filters.any(|filter| filter.cors().is_some())
    }

    /// Whether something in it replaces the prefix that was matched.
    fn needs_prefix(&self) -> bool {
        let of_backends = self.backends().iter().flat_map(|b| &b.filters);
        let mut filters = self.filters.iter().chain(of_backends);
        filters.any(Filter::needs_prefix)
            || matches!(&self.outcome, Outcome::Redirect(redirect) if redirect.needs_prefix())
    }
}

// === impl Parent ===

impl Parent {
    /// All ports of a Service, or one.
    ///
    /// ```
    /// use inmesh_core::model::{Namespace, ServiceName};
    /// use inmesh_core::route::Parent;
    /// let cart = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    /// assert_eq!(Parent::new(cart, Some(80)).port, Some(80));
    /// # Ok::<(), inmesh_core::model::InvalidName>(())
    /// ```
    pub fn new(service: ServiceName, port: Option<u16>) -> Self {
        Self {
            service,
            port,
            port_name: None,
        }
    }

    /// The same for the port of a name. While the Service has none, the route is not attached to it.
    #[must_use]
    pub fn named(mut self, port: &str) -> Self {
        self.port_name = Some(port.into());
        self
    }

    /// The port of a Service that it attaches to, the inner `None` being all; `None` if there is no
    /// such port.
    pub(crate) fn attaches_to(&self, ports: &[ServicePort]) -> Option<Option<u16>> {
        let Some(name) = &self.port_name else {
            return Some(self.port);
        };
        let named = ports.iter().find(|port| port.name == *name)?;
        let agrees = self.port.is_none_or(|port| port == named.port);
        agrees.then_some(Some(named.port))
    }
}

// === impl Route ===

impl Route {
    /// A route of unknown age.
    ///
    /// ```
    /// use inmesh_core::model::{Kind, Namespace, ObjectKey, ServiceName};
    /// use inmesh_core::route::{Backend, Parent, Route, Rule};
    /// let shop = Namespace::new("shop")?;
    /// let (cart, next) = (ServiceName::new(&shop, "cart")?, ServiceName::new(&shop, "cart-v2")?);
    /// let rule = Rule::to(vec![Backend::new(cart.clone(), 80, 9)?, Backend::new(next, 80, 1)?]);
    /// let key = ObjectKey::new(Kind::HttpRoute, &shop, "canary")?;
    /// let route = Route::new(key, vec![Parent::new(cart, None)], vec![rule])?;
    /// assert_eq!(route.rules.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if it has no parent, a rule replaces a prefix and matches by something else or
    /// matches by a field that [`check_header`] refuses, or a rule or backend has more than 16 filters.
    pub fn new(
        key: ObjectKey,
        parents: Vec<Parent>,
        rules: Vec<Rule>,
    ) -> Result<Self, InvalidRoute> {
        if parents.is_empty() {
            return Err(InvalidRoute::new(
                "a mesh route names a Service as its parent",
            ));
        }
        for (n, rule) in rules.iter().enumerate() {
            for (name, _) in rule.matches.iter().flat_map(|m| &m.headers) {
                check_header(name)?;
            }
            let of_backends = rule.backends().iter().map(|backend| &backend.filters);
            if of_backends
                .chain([&rule.filters])
                .any(|f| f.len() > FILTERS)
            {
                return Err(InvalidRoute::new(format!(
                    "rule {n} has a list of more than {FILTERS} filters"
                )));
            }
            let by_prefix = |m: &Match| matches!(m.path, PathMatch::Prefix(_));
            if rule.needs_prefix() && !rule.matches.iter().all(by_prefix) {
                return Err(InvalidRoute::new(format!(
                    "rule {n} replaces a prefix, so all its matches must be of type PathPrefix"
                )));
            }
        }
        Ok(Self {
            key,
            created: None,
            parents,
            rules,
        })
    }

    /// The same route for requests whose paths come in a form.
    pub(crate) fn in_form(&self, form: PathForm) -> Self {
        let mut seen = self.clone();
        for rule in &mut seen.rules {
            rule.matches = rule.matches.iter().map(|m| m.in_form(form)).collect();
        }
        seen
    }

    /// The same route created at a time, in seconds since 1970.
    #[must_use]
    pub fn with_created(mut self, created: Option<i64>) -> Self {
        self.created = created;
        self
    }
}
