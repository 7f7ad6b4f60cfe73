//! The gRPC routes of one Service.
//!
//! They are sorted once by the precedence of the Gateway API (GRPCRouteRule, `matches`), so that the
//! first entry that matches is the answer. Where one is attached, HTTP routes of the same port and of the
//! same side, producer or consumer, have no effect (GEP-1294, "Route types").

use std::cmp::Reverse;
use std::sync::Arc;

use super::http::{RuleView, Target};
use crate::model::{Namespace, ObjectKey, ServiceName, ServicePort};
use crate::route::grpc::{GrpcMatch, GrpcRoute};
use crate::route::matching::ValueMatch;
use crate::route::rule::Inherited;

/// The matches of a Service's gRPC routes, sorted by precedence.
#[derive(Debug, Clone, Default)]
pub(in crate::route) struct GrpcTable {
    /// Each route with the ports that it is attached to.
    attached: Box<[(ObjectKey, Option<u16>)]>,
    pub(in crate::route) entries: Box<[GrpcEntry]>,
    /// The targets of all rules, one rule after the other.
    pub(in crate::route) targets: Box<[Target]>,
    pub(in crate::route) rules: Box<[RuleView]>,
}

/// One match of one rule.
#[derive(Debug, Clone)]
pub(in crate::route) struct GrpcEntry {
    pub(in crate::route) port: Option<u16>,
    /// `None` matches every call.
    pub(in crate::route) when: Option<GrpcMatch>,
    /// The rule's place.
    pub(in crate::route) rule: usize,
    /// The places of its targets.
    pub(in crate::route) targets: (usize, usize),
    /// Whether the rule or a backend mirrors.
    pub(in crate::route) mirrors: bool,
    /// Whether a policy for the rule has faults made.
    pub(in crate::route) faulty: bool,
    /// Whether users stay in parts of the split, or sessions with backends.
    pub(in crate::route) sticky: bool,
}

// === impl GrpcTable ===

impl GrpcTable {
    /// Builds the table. Precedence:
    ///
    /// 1. the most characters of the service, then of the method; 2. the most header matches;
    /// 3. the oldest route; 4. the route first by namespace and name; 5. the rule written first.
    pub(in crate::route) fn build<'a>(
        service: &ServiceName,
        ports: &[ServicePort],
        routes: impl IntoIterator<Item = &'a Arc<GrpcRoute>>,
        inherit: &impl Fn(&ObjectKey, Option<&str>) -> Inherited,
    ) -> Self {
        let mut keyed = Vec::new();
        let (mut attached, mut rules, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for route in routes {
            let parents = route.parents.iter().filter(|p| p.service == *service);
            let here: Vec<_> = parents
                .filter_map(|parent| parent.attaches_to(ports))
                .collect();
            attached.extend(here.iter().map(|port| (route.key.clone(), *port)));
            for (index, rule) in route.rules.iter().enumerate() {
                let inherited = inherit(&route.key, rule.rule.name.as_deref());
                let first = targets.len();
                let backends = rule.rule.backends().iter();
                targets.extend(backends.map(|backend| Target::of(backend, service)));
                let whens: Vec<_> = match rule.matches.as_slice() {
                    [] => vec![None],
                    some => some.iter().map(Some).collect(),
                };
                for port in &here {
                    keyed.extend(whens.iter().map(|when| {
                        let entry = GrpcEntry {
                            port: *port,
                            when: when.cloned(),
                            rule: rules.len(),
                            targets: (first, targets.len()),
                            mirrors: rule.rule.mirrors().next().is_some(),
                            faulty: inherited.fault.is_some(),
                            sticky: inherited.split.is_some() || inherited.session.is_some(),
                        };
                        (precedence(route, index, *when), entry)
                    }));
                }
                let (of, own) = (
                    (&route.key, index),
                    targets.get(first..).unwrap_or_default(),
                );
                rules.push(RuleView::of(of, &rule.rule, own, inherited));
            }
        }
        keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self {
            attached: attached.into(),
            entries: keyed.into_iter().map(|(_, entry)| entry).collect(),
            targets: targets.into(),
            rules: rules.into(),
        }
    }

    pub(in crate::route) fn is_empty(&self) -> bool {
        self.attached.is_empty()
    }

    /// A route of a namespace that is attached to a port; `None` of a port is any.
    pub(in crate::route) fn attached(
        &self,
        of: &Namespace,
        port: Option<u16>,
    ) -> Option<&ObjectKey> {
        let here = |at: &Option<u16>| at.is_none() || port.is_none() || *at == port;
        let mut all = self.attached.iter();
        let found = all.find(|(key, at)| key.namespace == *of && here(at));
        found.map(|(key, _)| key)
    }

    /// The namespace that the route of an entry is of.
    pub(in crate::route) fn namespace(&self, entry: &GrpcEntry) -> Option<&Namespace> {
        self.rules.get(entry.rule).map(|rule| &rule.route.namespace)
    }
}

type Precedence = (
    Reverse<usize>,
    Reverse<usize>,
    Reverse<usize>,
    i64,
    ObjectKey,
    usize,
);

fn precedence(route: &GrpcRoute, rule: usize, when: Option<&GrpcMatch>) -> Precedence {
    let characters = |name: Option<&ValueMatch>| Reverse(name.map_or(0, ValueMatch::characters));
    (
        characters(when.and_then(|when| when.service.as_ref())),
        characters(when.and_then(|when| when.method.as_ref())),
        Reverse(when.map_or(0, |when| when.headers.len())),
        route.created.unwrap_or(i64::MAX),
        route.key.clone(),
        rule,
    )
}
