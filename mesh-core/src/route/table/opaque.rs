//! The routes of one Service for opaque connections.
//!
//! They are sorted once by the precedence of the Gateway API (TLSRoute, `hostnames`; "Route types" of
//! GEP-1294), so that the first entry that matches is the answer. They have no effect at a port where routes
//! of requests are attached on the same side, producer or consumer; nor has a TCPRoute where a TLSRoute is.

use std::cmp::Reverse;
use std::sync::Arc;

use super::http::{RuleView, Target};
use crate::model::{Kind, Namespace, ObjectKey, ServiceName, ServicePort};
use crate::route::opaque::{OpaqueRoute, ServerNames};
use crate::route::rule::Inherited;

/// The rules of a Service's TLSRoutes and TCPRoutes, sorted by precedence.
#[derive(Debug, Clone, Default)]
pub(in crate::route) struct OpaqueTable {
    pub(in crate::route) entries: Box<[OpaqueEntry]>,
    /// The targets of all rules, one rule after the other.
    pub(in crate::route) targets: Box<[Target]>,
    pub(in crate::route) rules: Box<[RuleView]>,
}

/// One name of one route at one of its ports.
#[derive(Debug, Clone)]
pub(in crate::route) struct OpaqueEntry {
    pub(in crate::route) port: Option<u16>,
    pub(in crate::route) when: OpaqueWhen,
    /// The rule's place.
    pub(in crate::route) rule: usize,
    /// The places of its targets.
    pub(in crate::route) targets: (usize, usize),
}

/// What a connection has to be.
#[derive(Debug, Clone)]
pub(in crate::route) enum OpaqueWhen {
    /// Anything: a TCPRoute's.
    Any,
    /// One of TLS, that names such a server if there is a name here.
    Tls(Option<ServerNames>),
}

// === impl OpaqueTable ===

impl OpaqueTable {
    /// Builds the table. Precedence:
    ///
    /// 1. TLSRoutes before TCPRoutes; 2. the most characters of a name without a wildcard, then of any;
    /// 3. the oldest route; 4. the route first by namespace and name.
    pub(in crate::route) fn build<'a>(
        service: &ServiceName,
        ports: &[ServicePort],
        routes: impl IntoIterator<Item = &'a Arc<OpaqueRoute>>,
    ) -> Self {
        let mut keyed = Vec::new();
        let (mut rules, mut targets) = (Vec::new(), Vec::new());
        for route in routes {
            let first = targets.len();
            let backends = route.rule.backends().iter();
            targets.extend(backends.map(|backend| Target::of(backend, service)));
            let parents = route.parents.iter().filter(|p| p.service == *service);
            for port in parents.filter_map(|parent| parent.attaches_to(ports)) {
                let mut add = |when: OpaqueWhen| {
                    let key = precedence(route, &when);
                    let entry = OpaqueEntry {
                        port,
                        when,
                        rule: rules.len(),
                        targets: (first, targets.len()),
                    };
                    keyed.push((key, entry));
                };
                match (&route.key.kind, &route.names[..]) {
                    (Kind::TlsRoute, []) => add(OpaqueWhen::Tls(None)),
                    (Kind::TlsRoute, names) => names
                        .iter()
                        .for_each(|name| add(OpaqueWhen::Tls(Some(name.clone())))),
                    _ => add(OpaqueWhen::Any),
                }
            }
            let of_none = Inherited::default();
            rules.push(RuleView::of((&route.key, 0), &route.rule, &[], of_none));
        }
        keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self {
            entries: keyed.into_iter().map(|(_, entry)| entry).collect(),
            targets: targets.into(),
            rules: rules.into(),
        }
    }

    pub(in crate::route) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries of a namespace's routes at a port, those that have an effect: of one kind. `None` of a
    /// port is any.
    pub(in crate::route) fn attached(
        &self,
        of: &Namespace,
        port: Option<u16>,
    ) -> impl Iterator<Item = &OpaqueEntry> {
        let here = move |at: Option<u16>| at.is_none() || port.is_none() || at == port;
        let all = self.entries.iter();
        let mut all = all
            .filter(move |entry| here(entry.port) && self.route(entry).namespace == *of)
            .peekable();
        let tls = all.peek().is_some_and(|entry| entry.when.is_tls());
        all.take_while(move |entry| entry.when.is_tls() == tls)
    }

    /// The route of an entry.
    pub(in crate::route) fn route(&self, entry: &OpaqueEntry) -> &ObjectKey {
        &self.rules[entry.rule].route
    }
}

// === impl OpaqueWhen ===

impl OpaqueWhen {
    pub(in crate::route) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

type Precedence = (bool, (bool, Reverse<usize>), i64, ObjectKey);

fn precedence(route: &OpaqueRoute, when: &OpaqueWhen) -> Precedence {
    let by_name = match when {
        OpaqueWhen::Tls(Some(names)) => names.precedence(),
        OpaqueWhen::Tls(None) | OpaqueWhen::Any => (true, Reverse(0)),
    };
    (
        !when.is_tls(),
        by_name,
        route.created.unwrap_or(i64::MAX),
        route.key.clone(),
    )
}
