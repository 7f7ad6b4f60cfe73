//! Routes of the Gateway API, attached to Services (GAMMA): here HTTPRoute, in [`grpc`] GRPCRoute, in [`opaque`]
//! TLSRoute and TCPRoute.
//!
//! A route without a Service among its parents is for gateways and is skipped. What the Gateway API
//! allows and this mesh does not do (other filters, backends that are no
//! Services) refuses the route. Bounds and rules are those of the API's own schema, of its
//! standard channel, so that a folder takes what an API server takes, and no more.

mod attached;
mod cors;
mod filters;
pub(super) mod grpc;
mod matches;
pub(super) mod opaque;
mod reference;
mod rules;

use inmesh_core::authorize::PathForm;
use inmesh_core::model::Kind;
use inmesh_core::route::{Match, Outcome, PathMatch, Route, Rule};

use self::attached::attached;
use self::filters::HTTP;
use self::reference::{ELSEWHERE, Within};
use self::rules::{Name, backends, each, few, name};
use super::strict::{Document, Fields, Unknown, Value};
use super::{Defaults, retry};

/// Reads a route; the inner `None` is one that is for gateways.
pub(super) fn read(fields: &mut Fields<'_>, defaults: &Defaults) -> Option<Option<Route>> {
    let read = attached(fields, Kind::HttpRoute, HTTP, defaults, |list, within| {
        let Some(list) = list else {
            // The API's default: one rule that matches all, with no backend: 500.
            return Some(vec![Rule::to(Vec::new())]);
        };
        let form = defaults.paths;
        let rules = each(&list.list_of(16)?, |value| rule(value, within, form))?;
        few(&list, rules.iter().map(|rule| rule.matches.len()).sum());
        Some(rules)
    })?;
    let Some(read) = read else {
        return Some(None);
    };
    let route = Route::new(read.meta.key, read.parents, read.rules);
    Some(Some(read.at.check(route)?.with_created(read.meta.created)))
}

/// Whether a route of any kind is attached to a Service, or may be.
pub(super) fn names_a_service(document: &Document) -> bool {
    let read = document.read_object(Unknown::Refuse, |fields| {
        fields.ignore_all();
        fields.need("spec")?.object(|spec| {
            spec.ignore_all();
            let Some(list) = spec.get("parentRefs") else {
                return Some(false);
            };
            let service = |value: &Value<'_>| {
                value.object(|parent| {
                    parent.ignore_all();
                    let kind = parent.get("kind");
                    Some(kind.is_some_and(|kind| kind.text() != Some("Gateway")))
                })
            };
            let services: Option<Vec<bool>> = list.list_or_empty()?.iter().map(service).collect();
            Some(services?.contains(&true))
        })
    });
    read.map_or(true, |read| read.value)
}

/// Reads a rule, and the name that other documents know it by.
fn rule<'t>(value: &Value<'t>, within: Within<'_>, form: PathForm) -> Option<(Rule, Name<'t>)> {
    value.object(|rule| {
        rule.refuse_all(&["sessionPersistence"], ELSEWHERE);
        let name = name(rule);
        let again = match rule.get("retry") {
            Some(value) => retry::read(&value).map(Some),
            None => Some(None),
        };
        let listed = rule.get("matches");
        let matches: Option<Vec<_>> = match &listed {
            Some(list) => list
                .list_of_or_empty(64)
                .and_then(|list| list.iter().map(|m| matches::read(m, form)).collect()),
            None => Some(Vec::new()),
        };
        let filters = filters::read(rule, within);
        let backends = backends(rule, within);
        let timeouts = match rule.get("timeouts") {
            Some(value) => retry::timeouts(&value).map(Some),
            None => Some(None),
        };
        let (filters, matches) = (filters?, matches?);
        let (backends, places): (Vec<_>, Vec<_>) = backends?.into_iter().unzip();
        let replaced = filters.prefix.iter().chain(places.iter().flatten());
        if listed.is_some() && !is_one_prefix(&matches) {
            for at in replaced {
                at.refuse("replaces a prefix, so the rule has one match, of type PathPrefix");
            }
        }
        let outcome = match filters.redirect {
            None => Outcome::Forward(backends),
            Some((at, redirect)) => {
                if !backends.is_empty() {
                    at.refuse("a rule redirects or has backendRefs, not both");
                }
                Outcome::Redirect(redirect)
            }
        };
        let mut read = Rule::with(outcome).when(matches);
        if let Some(again) = again? {
            read = read.with_retry(again);
        }
        if let Some(timeouts) = timeouts? {
            read = read.with_timeouts(timeouts);
        }
        let name = name?;
        if let Some((name, _)) = &name {
            read = read.named(name);
        }
        Some((read.with_filters(filters.edits), name))
    })
}

/// Whether they are the one that a prefix can be replaced of.
fn is_one_prefix(matches: &[Match]) -> bool {
    matches!(matches, [one] if matches!(one.path, PathMatch::Prefix(_)))
}
