//! The table of one Service, compiled from the routes that are attached to it.
//!
//! It is sorted once by the precedence of the Gateway API (HTTPRouteRule, "Proxy or Load Balancer
//! routing configuration"), so that the first entry that matches is the answer.

use std::cmp::Reverse;
use std::sync::Arc;

use super::{Backend, HeaderChanges, Match, Route, Timeouts};
use crate::model::{Namespace, ObjectKey, ServiceName};

/// The routes of one Service, sorted by precedence.
///
/// A request walks conditions, then reads weights and names of one rule's targets. These lie in two
/// slices, each of them one step from the Service; what few rules have is elsewhere.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    /// Matches of consumer routes, with the namespace whose callers they are for.
    pub(super) consumers: Box<[(Namespace, Entry)]>,
    /// Matches of producer routes.
    pub(super) producers: Box<[Entry]>,
    /// The targets of all rules, one rule after the other.
    pub(super) targets: Box<[Target]>,
    pub(super) rules: Box<[RuleView]>,
}

/// One match of one rule.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) port: Option<u16>,
    /// `None` matches every request.
    pub(super) when: Option<Match>,
    /// The rule's place.
    pub(super) rule: usize,
    /// The places of its targets.
    pub(super) targets: (usize, usize),
}

/// A rule with the name of its route.
#[derive(Debug, Clone)]
pub(super) struct RuleView {
    pub(super) route: ObjectKey,
    pub(super) index: usize,
    pub(super) timeouts: Timeouts,
    pub(super) changes: Option<Box<Changes>>,
}

/// A backend with what few have put aside.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) service: ServiceName,
    pub(super) port: u16,
    pub(super) weight: u32,
    pub(super) changes: Option<Box<Changes>>,
}

/// Header changes of which at least one is not empty.
#[derive(Debug, Clone)]
pub(super) struct Changes {
    pub(super) request: HeaderChanges,
    pub(super) response: HeaderChanges,
}

// === impl RouteTable ===

impl RouteTable {
    /// Builds the table of one Service from the routes attached to it. Precedence:
    ///
    /// 1. the path: exact, then the longest prefix, then regular expressions (longest first);
    /// 2. a match on the method;
    /// 3. the most header matches; 4. the most query parameter matches;
    /// 5. the oldest route; 6. the route first by namespace and name; 7. the rule written first.
    pub fn build<'a>(
        service: &ServiceName,
        routes: impl IntoIterator<Item = &'a Arc<Route>>,
    ) -> Self {
        let mut keyed = Vec::new();
        let (mut rules, mut targets) = (Vec::new(), Vec::new());
        for route in routes {
            let here = || route.parents.iter().filter(|p| p.service == *service);
            for (index, rule) in route.rules.iter().enumerate() {
                let first = targets.len();
                targets.extend(rule.backends.iter().map(|b| Target::of(b, service)));
                for parent in here() {
                    let entry = |when: Option<&Match>| Entry {
                        port: parent.port,
                        when: when.filter(|when| !when.is_everything()).cloned(),
                        rule: rules.len(),
                        targets: (first, targets.len()),
                    };
                    let mut add = |when| {
                        keyed.push((precedence(route, index, when), entry(when)));
                    };
                    match rule.matches.as_slice() {
                        [] => add(None),
                        some => some.iter().for_each(|when| add(Some(when))),
                    }
                }
                rules.push(RuleView {
                    route: route.key.clone(),
                    index,
                    timeouts: rule.timeouts,
                    changes: Changes::of(&rule.request, &rule.response),
                });
            }
        }
        keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
        let (mut consumers, mut producers) = (Vec::new(), Vec::new());
        for (_, entry) in keyed {
            let from = &rules[entry.rule].route.namespace;
            if from == service.namespace() {
                producers.push(entry);
            } else {
                consumers.push((from.clone(), entry));
            }
        }
        Self {
            consumers: consumers.into(),
            producers: producers.into(),
            rules: rules.into(),
            targets: targets.into(),
        }
    }

    /// Whether no route is attached, so that requests go to the Service itself.
    pub fn is_empty(&self) -> bool {
        self.consumers.is_empty() && self.producers.is_empty()
    }
}

// === impl Target ===

impl Target {
    /// The target of a rule of the Service `own`.
    fn of(backend: &Backend, own: &ServiceName) -> Self {
        // Equal names that share their texts are compared without a look at them.
        let to = Some(&backend.service).filter(|to| *to != own);
        Self {
            service: to.unwrap_or(own).clone(),
            port: backend.port,
            weight: backend.weight,
            changes: Changes::of(&backend.request, &backend.response),
        }
    }
}

// === impl Changes ===

impl Changes {
    fn of(request: &HeaderChanges, response: &HeaderChanges) -> Option<Box<Self>> {
        let changes = || Self {
            request: request.clone(),
            response: response.clone(),
        };
        (!request.is_empty() || !response.is_empty()).then(|| changes().into())
    }
}

type Precedence = (
    (u8, Reverse<usize>),
    Reverse<bool>,
    Reverse<usize>,
    Reverse<usize>,
    i64,
    ObjectKey,
    usize,
);

fn precedence(route: &Route, rule: usize, when: Option<&Match>) -> Precedence {
    // No match at all is `PathPrefix: /` (Gateway API's default).
    let path = when.map_or((1, Reverse(1)), |m| m.path.precedence());
    (
        path,
        Reverse(when.is_some_and(|m| m.method.is_some())),
        Reverse(when.map_or(0, |m| m.headers.len())),
        Reverse(when.map_or(0, |m| m.query.len())),
        route.created.unwrap_or(i64::MAX),
        route.key.clone(),
        rule,
    )
}
