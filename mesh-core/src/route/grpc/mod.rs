//! GRPCRoutes as their author writes them, checked when they are made.
//!
//! A call is a request of gRPC, `/service/method`. What happens to it is a [`Rule`], as for any request,
//! but for what gRPC has no use for: it is forwarded, and its path stays.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};

use super::filter::Filter;
use super::invalid::InvalidRoute;
use super::matching::{ValueMatch, check_header, missing_field};
use super::missed::Condition;
use super::rule::{Backend, Outcome, Parent, Route, Rule};
use crate::model::ObjectKey;

/// One set of conditions on a call; all must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrpcMatch {
    /// The service with its package; `None` is any.
    pub service: Option<ValueMatch>,
    /// The method; `None` is any.
    pub method: Option<ValueMatch>,
    /// Headers that must be there; of several values one must match.
    pub headers: Vec<(HeaderName, ValueMatch)>,
}

/// One rule of a GRPCRoute.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrpcRule {
    /// One of them must match; empty matches every call.
    pub matches: Vec<GrpcMatch>,
    /// What happens to the call. Its own matches are empty.
    pub rule: Rule,
}

/// A GRPCRoute attached to Services.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrpcRoute {
    /// The object it was read from. In its Service's namespace it is a producer route, for every
    /// caller; in another it is a consumer route, for callers of that namespace.
    pub key: ObjectKey,
    /// When it was created, in seconds since 1970; older routes win ties.
    pub created: Option<i64>,
    /// What it is attached to.
    pub parents: Vec<Parent>,
    /// Its rules.
    pub rules: Vec<GrpcRule>,
}

/// A call as conditions see it.
pub(super) struct Call<'a> {
    /// Service and method; `None` where the path is not made of the two.
    names: Option<(&'a str, &'a str)>,
    headers: &'a HeaderMap,
}

// === impl GrpcMatch ===

impl GrpcMatch {
    /// Every call.
    ///
    /// ```
    /// use inmesh_core::route::{GrpcMatch, ValueMatch};
    /// let get = GrpcMatch::new()
    ///     .service(ValueMatch::Exact("shop.Cart".into()))
    ///     .method(ValueMatch::Exact("Get".into()));
    /// assert!(get.headers.is_empty());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with a service.
    #[must_use]
    pub fn service(mut self, service: ValueMatch) -> Self {
        self.service = Some(service);
        self
    }

    /// The same with a method.
    #[must_use]
    pub fn method(mut self, method: ValueMatch) -> Self {
        self.method = Some(method);
        self
    }

    /// The same with a header. Of several conditions on one header the first counts (Gateway API).
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: ValueMatch) -> Self {
        if !self.headers.iter().any(|(n, _)| *n == name) {
            self.headers.push((name, value));
        }
        self
    }

    /// The first condition that a call does not meet.
    pub(super) fn missed(&self, call: &Call<'_>) -> Option<Condition<'_>> {
        let misses = |wanted: &&ValueMatch, name: Option<&str>| {
            !name.is_some_and(|name| wanted.matches(name))
        };
        let service = self.service.as_ref();
        if let Some(wanted) = service.filter(|w| misses(w, call.names.map(|(name, _)| name))) {
            return Some(Condition::Service(wanted));
        }
        let method = self.method.as_ref();
        if let Some(wanted) = method.filter(|w| misses(w, call.names.map(|(_, name)| name))) {
            return Some(Condition::Call(wanted));
        }
        missing_field(&self.headers, call.headers).map(Condition::Header)
    }
}

// === impl GrpcRule ===

impl GrpcRule {
    /// A rule that sends every call to the backends.
    pub fn to(backends: Vec<Backend>) -> Self {
        Self {
            matches: Vec::new(),
            rule: Rule::to(backends),
        }
    }

    /// The same for calls that match one of `matches`.
    #[must_use]
    pub fn when(mut self, matches: Vec<GrpcMatch>) -> Self {
        self.matches = matches;
        self
    }

    /// The same with filters.
    #[must_use]
    pub fn with_filters(mut self, filters: Vec<Filter>) -> Self {
        self.rule = self.rule.with_filters(filters);
        self
    }
}

// === impl GrpcRoute ===

impl GrpcRoute {
    /// A route of unknown age.
    ///
    /// ```
    /// use inmesh_core::model::{Kind, Namespace, ObjectKey, ServiceName};
    /// use inmesh_core::route::{Backend, GrpcRoute, GrpcRule, Parent};
    /// let shop = Namespace::new("shop")?;
    /// let cart = ServiceName::new(&shop, "cart")?;
    /// let rule = GrpcRule::to(vec![Backend::new(cart.clone(), 80, 1)?]);
    /// let key = ObjectKey::new(Kind::GrpcRoute, &shop, "calls")?;
    /// let route = GrpcRoute::new(key, vec![Parent::new(cart, None)], vec![rule])?;
    /// assert_eq!(route.rules.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if it has no parent, a rule does not forward or matches by a field that
    /// [`check_header`] refuses, or a filter neither changes header fields nor mirrors.
    pub fn new(
        key: ObjectKey,
        parents: Vec<Parent>,
        rules: Vec<GrpcRule>,
    ) -> Result<Self, InvalidRoute> {
        for (n, GrpcRule { rule, matches }) in rules.iter().enumerate() {
            for (name, _) in matches.iter().flat_map(|m| &m.headers) {
                check_header(name)?;
            }
            let of_backends = rule.backends().iter().flat_map(|backend| &backend.filters);
            let fits = |filter: &Filter| {
                matches!(
                    filter,
                    Filter::Mirror(_) | Filter::RequestHeaders(_) | Filter::ResponseHeaders(_)
                )
            };
            let forwards = matches!(rule.outcome, Outcome::Forward(_)) && rule.matches.is_empty();
            if !forwards || !rule.filters.iter().chain(of_backends).all(fits) {
                return Err(InvalidRoute::new(format!(
                    "rule {n} of a GRPCRoute forwards, and changes header fields or mirrors"
                )));
            }
        }
        // What else is asked of a route is asked of any.
        let all = rules.iter().map(|rule| rule.rule.clone()).collect();
        Route::new(key.clone(), parents.clone(), all)?;
        Ok(Self {
            key,
            created: None,
            parents,
            rules,
        })
    }

    /// The same route created at a time, in seconds since 1970.
    #[must_use]
    pub fn with_created(mut self, created: Option<i64>) -> Self {
        self.created = created;
        self
    }
}

// === impl Call ===

impl<'a> Call<'a> {
    /// A call by its path, in its one spelling.
    pub(super) fn new(path: &'a Cow<'a, str>, headers: &'a HeaderMap) -> Self {
        let names = path
            .strip_prefix('/')
            .and_then(|path| path.rsplit_once('/'));
        Self {
            names: names.filter(|(service, method)| !service.is_empty() && !method.is_empty()),
            headers,
        }
    }
}

#[cfg(test)]
mod tests;
