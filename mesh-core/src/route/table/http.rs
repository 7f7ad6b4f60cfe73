//! The HTTP routes of one Service.
//!
//! They are sorted once by the precedence of the Gateway API (HTTPRouteRule, "Proxy or Load Balancer
//! routing configuration"), so that the first entry that matches is the answer.

use std::cmp::Reverse;
use std::sync::Arc;

use http::HeaderName;

use super::gate::Gate;
use crate::model::{Block, Namespace, ObjectKey, ServiceName, ServicePort};
use crate::retry::{HedgePolicy, RetryPolicy};
use crate::route::filter::Filter;
use crate::route::matching::Match;
use crate::route::rule::{Backend, Inherited, Outcome, Route, Rule, Timeouts};
use crate::route::sticky::Sticky;
use crate::traffic::{FaultInjection, SessionPersistence};

/// The place of conditions that match every request. No table comes near so many entries.
const EVERYTHING: u32 = u32::MAX;

/// The matches of a Service's routes, sorted by precedence.
///
/// A request walks entries, then reads weights and names of one rule's targets. These lie in two
/// slices, each of them one step from the Service; conditions are read where a gate is open, and what
/// few rules have is elsewhere. What each request reads comes first.
#[derive(Debug, Clone, Default)]
#[repr(C)]
pub(in crate::route) struct HttpTable {
    /// Matches of consumer routes, with the namespace whose callers they are for.
    pub(in crate::route) consumers: Arc<[(Namespace, Entry)]>,
    /// Matches of producer routes.
    pub(in crate::route) producers: Arc<[Entry]>,
    /// The targets of all rules, one rule after the other.
    pub(in crate::route) targets: Arc<[Target]>,
    /// The headers that the gates of entries are about.
    pub(in crate::route) fields: Arc<[HeaderName]>,
    conditions: Arc<[Match]>,
    pub(in crate::route) rules: Arc<[RuleView]>,
}

/// One match of one rule: a line of the cache.
#[derive(Debug, Clone)]
pub(in crate::route) struct Entry {
    pub(in crate::route) gate: Gate,
    pub(in crate::route) port: Option<u16>,
    /// The place of its conditions; out of range if it matches every request.
    when: u32,
    /// The rule's place.
    pub(in crate::route) rule: usize,
    /// The places of its targets; empty if it does not forward.
    pub(in crate::route) targets: (usize, usize),
    /// Whether the rule or a backend mirrors.
    pub(in crate::route) mirrors: bool,
    /// Whether the rule or a backend answers preflights.
    pub(in crate::route) cors: bool,
    /// Whether a policy for the rule has faults made.
    pub(in crate::route) faulty: bool,
    /// Whether users stay in parts of the split, or sessions with backends.
    pub(in crate::route) sticky: bool,
}

/// A rule with the name of its route.
#[derive(Debug, Clone)]
pub(in crate::route) struct RuleView {
    pub(in crate::route) route: ObjectKey,
    pub(in crate::route) index: usize,
    /// Its own, or those of the policies for it.
    pub(in crate::route) timeouts: Option<Block<Timeouts>>,
    /// Those of the policies, of which a rule cannot say all.
    pub(in crate::route) of_policy: Option<Box<Block<Timeouts>>>,
    pub(in crate::route) retry: Option<Block<Arc<RetryPolicy>>>,
    pub(in crate::route) hedge: Option<Box<Block<Arc<HedgePolicy>>>>,
    pub(in crate::route) fault: Option<Block<Arc<FaultInjection>>>,
    pub(in crate::route) session: Option<Block<Arc<SessionPersistence>>>,
    /// What keeps users in their parts of the split, if so.
    pub(in crate::route) sticky: Option<Box<Sticky>>,
    pub(in crate::route) filters: Box<[Filter]>,
    /// What it answers; `None` if it forwards.
    pub(in crate::route) answer: Option<Box<Outcome>>,
}

/// A backend with what few have put aside.
#[derive(Debug, Clone)]
pub(in crate::route) struct Target {
    pub(in crate::route) service: ServiceName,
    pub(in crate::route) port: u16,
    pub(in crate::route) weight: u32,
    pub(in crate::route) filters: Box<[Filter]>,
}

// === impl HttpTable ===

impl HttpTable {
    /// Builds the table. Precedence:
    ///
    /// 1. the path: exact, then the longest prefix, then regular expressions (longest first);
    /// 2. a match on the method;
    /// 3. the most header matches; 4. the most query parameter matches;
    /// 5. the oldest route; 6. the route first by namespace and name; 7. the rule written first.
    pub(in crate::route) fn build<'a>(
        service: &ServiceName,
        ports: &[ServicePort],
        routes: impl IntoIterator<Item = &'a Arc<Route>>,
        inherit: &impl Fn(&ObjectKey, Option<&str>) -> Inherited,
    ) -> Self {
        let mut keyed = Vec::new();
        let (mut rules, mut targets) = (Vec::new(), Vec::new());
        let (mut fields, mut conditions) = (Vec::new(), Vec::new());
        for route in routes {
            let here = || {
                let parents = route.parents.iter().filter(|p| p.service == *service);
                parents.filter_map(|parent| parent.attaches_to(ports))
            };
            for (index, rule) in route.rules.iter().enumerate() {
                let inherited = inherit(&route.key, rule.name.as_deref());
                let first = targets.len();
                targets.extend(rule.backends().iter().map(|b| Target::of(b, service)));
                for port in here() {
                    let mut entry = |when: Option<&Match>| Entry {
                        gate: Gate::of(when, &mut fields),
                        port,
                        when: match when.filter(|when| !when.is_everything()) {
                            Some(when) => push(&mut conditions, when),
                            None => EVERYTHING,
                        },
                        rule: rules.len(),
                        targets: (first, targets.len()),
                        mirrors: rule.mirrors().next().is_some(),
                        cors: rule.has_cors(),
                        faulty: inherited.fault.is_some(),
                        sticky: inherited.split.is_some() || inherited.session.is_some(),
                    };
                    let mut add = |when| {
                        keyed.push((precedence(route, index, when), entry(when)));
                    };
                    match rule.matches.as_slice() {
                        [] => add(None),
                        some => some.iter().for_each(|when| add(Some(when))),
                    }
                }
                let own = targets.get(first..).unwrap_or_default();
                rules.push(RuleView::of((&route.key, index), rule, own, inherited));
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
            fields: fields.into(),
            conditions: conditions.into(),
        }
    }

    /// The conditions of an entry; `None` if it matches every request.
    #[inline]
    pub(in crate::route) fn when(&self, entry: &Entry) -> Option<&Match> {
        self.conditions.get(usize::try_from(entry.when).ok()?)
    }

    /// A route of a namespace to the Service `own` that is attached to a port; `None` of a port is any.
    pub(in crate::route) fn attached(
        &self,
        own: &ServiceName,
        of: &Namespace,
        port: Option<u16>,
    ) -> Option<&ObjectKey> {
        let here = |entry: &&Entry| entry.port.is_none() || port.is_none() || entry.port == port;
        let consumers = self.consumers.iter().filter(|(from, _)| from == of);
        let producers = match own.namespace() == of {
            true => &*self.producers,
            false => &[],
        };
        let all = consumers.map(|(_, entry)| entry).chain(producers);
        let found = { all }.find(here)?;
        self.rules.get(found.rule).map(|rule| &rule.route)
    }

    pub(in crate::route) fn is_empty(&self) -> bool {
        self.consumers.is_empty() && self.producers.is_empty()
    }
}

// === impl Entry ===

impl Entry {
    /// Whether its route is attached to a port.
    #[inline]
    pub(in crate::route) fn is_at(&self, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
    }
}

// === impl RuleView ===

impl RuleView {
    /// A rule of a route, its place there and its targets. What it does not say itself it has of policies.
    pub(super) fn of(
        (route, index): (&ObjectKey, usize),
        rule: &Rule,
        targets: &[Target],
        inherited: Inherited,
    ) -> Self {
        let named = targets.iter().map(|target| (&target.service, target.port));
        let timeouts = rule.timeouts.map(|timeouts| Block::of(timeouts, route));
        let retry = rule.retry.clone().map(|retry| Block::of(retry, route));
        Self {
            route: route.clone(),
            index,
            of_policy: inherited.timeouts.clone().map(Box::new),
            timeouts: timeouts.or(inherited.timeouts),
            // What a rule says itself comes before what policies say of it.
            hedge: inherited.hedge.filter(|_| retry.is_none()),
            retry: retry.or(inherited.retry),
            fault: inherited.fault,
            session: inherited.session,
            sticky: inherited.split.map(|by| Box::new(Sticky::new(by, named))),
            filters: rule.filters.clone().into(),
            answer: match &rule.outcome {
                Outcome::Forward(_) => None,
                answer => Some(Box::new(answer.clone())),
            },
        }
    }
}

// === impl Target ===

impl Target {
    /// The target of a rule of the Service `own`.
    pub(super) fn of(backend: &Backend, own: &ServiceName) -> Self {
        // Equal names that share their texts are compared without a look at them.
        let to = Some(&backend.service).filter(|to| *to != own);
        Self {
            service: to.unwrap_or(own).clone(),
            port: backend.port,
            weight: backend.weight,
            filters: backend.filters.clone().into(),
        }
    }
}

/// Adds conditions; says where they are.
fn push(conditions: &mut Vec<Match>, when: &Match) -> u32 {
    conditions.push(when.clone());
    u32::try_from(conditions.len() - 1).unwrap_or(EVERYTHING)
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
