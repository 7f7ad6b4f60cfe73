//! `gateway.networking.k8s.io/v1 HTTPRoute`, attached to Services (GAMMA).
//!
//! A route without a Service among its parents is for gateways and is skipped. What the Gateway API
//! allows and this mesh does not do (other filters, session persistence, backends that are no
//! Services) refuses the route. Bounds and rules are those of the API's own schema, of its
//! standard channel, so that a folder takes what an API server takes, and no more.

mod cors;
mod filters;
mod matches;
mod reference;

use inmesh_core::authorize::PathForm;
use inmesh_core::model::{Kind, Namespace};
use inmesh_core::retry::RetryPolicy;
use inmesh_core::route::{Backend, Match, Outcome, Parent, PathMatch, Route, Rule, Timeouts};

use self::reference::{Within, service, target};
use super::strict::{Document, Fields, Unknown, Value};
use super::{Defaults, meta, text};

/// Why a field that the Gateway API knows is refused.
const LATER: &str = "is valid in the Gateway API, but not done yet";

/// The most matches of all rules.
const MATCHES: usize = 128;

/// Reads a route; the inner `None` is one that is for gateways.
pub(super) fn read(fields: &mut Fields<'_>, defaults: &Defaults) -> Option<Option<Route>> {
    fields.ignore(&["status"]);
    let meta = meta::read(fields, Kind::HttpRoute, defaults);
    // Without a namespace the rest is still read, for its problems.
    let namespace = meta
        .as_ref()
        .map_or(&defaults.namespace, |meta| &meta.key.namespace);
    let read = fields.need("spec")?.object(|spec| {
        let list = spec.get("parentRefs");
        let (hostnames, rules) = (spec.get("hostnames"), spec.get("rules"));
        let parents = match &list {
            Some(list) => parents(list, namespace)?,
            None => Vec::new(),
        };
        let at = list.unwrap_or_else(|| spec.whole().clone());
        if parents.is_empty() {
            at.note("names no Service, so the route is for gateways and is skipped");
            return Some(None);
        }
        if let Some(hostnames) = hostnames {
            read_hostnames(&hostnames);
        }
        let within = Within {
            namespace,
            parents: &parents,
        };
        let rules = match rules {
            Some(rules) => read_rules(&rules, within, defaults.paths)?,
            // The API's default: one rule that matches all, with no backend: 500.
            None => vec![Rule::to(Vec::new())],
        };
        Some(Some((at, parents, rules)))
    })?;
    let Some((at, parents, rules)) = read else {
        return Some(None);
    };
    let meta = meta?;
    meta.annotations.refuse_ours_but(&[]);
    let route = at.check(Route::new(meta.key, parents, rules))?;
    Some(Some(route.with_created(meta.created)))
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

fn read_hostnames(list: &Value<'_>) {
    let items = list.list_of_or_empty(16).unwrap_or_default();
    for item in &items {
        if let Some(name) = item.text()
            && !text::is_subdomain(name.strip_prefix("*.").unwrap_or(name))
        {
            item.refuse(format_args!("{name:?} is not a host name in lower case"));
        }
    }
    if !items.is_empty() {
        list.warn("has no effect on a route that is attached to a Service");
    }
}

fn parents(list: &Value<'_>, namespace: &Namespace) -> Option<Vec<Parent>> {
    let mut parents: Vec<Parent> = Vec::new();
    let mut seen: Vec<Named<'_>> = Vec::new();
    for value in list.list_of_or_empty(32)? {
        let (parent, named) = value.object(|parent| one_parent(parent, namespace))?;
        // The rule of the schema is about what is written, not about what it comes to.
        let same = |other: &&Named<'_>| {
            other.parent == named.parent
                && (other.section.is_none()
                    || named.section.is_none()
                    || other.section == named.section)
        };
        if seen.iter().any(|other| same(&other)) {
            value.refuse("stands twice: references to one parent differ by their sectionName");
        }
        seen.push(named);
        if let Some(parent) = parent
            && !parents.contains(&parent)
        {
            parents.push(parent);
        }
    }
    Some(parents)
}

/// A reference to a parent, as it is written.
struct Named<'t> {
    /// Group, kind, namespace and name.
    parent: [&'t str; 4],
    section: Option<&'t str>,
}

/// Reads a reference to a parent; the inner `None` is one that is no Service.
fn one_parent<'t>(
    parent: &mut Fields<'t>,
    namespace: &Namespace,
) -> Option<(Option<Parent>, Named<'t>)> {
    let mut text = |name: &str, otherwise: &'static str| match parent.get(name) {
        Some(value) => value.text(),
        None => Some(otherwise),
    };
    let (group, kind) = (
        text("group", "gateway.networking.k8s.io"),
        text("kind", "Gateway"),
    );
    let (of, section) = (text("namespace", ""), text("sectionName", ""));
    let port = parent.get("port");
    let name = parent.need("name")?;
    let (group, kind, section) = (group?, kind?, section?);
    let named = Named {
        parent: [group, kind, of?, name.text()?],
        section: Some(section).filter(|section| !section.is_empty()),
    };
    let port = match port {
        Some(port) => Some(port.integer_in(1, 65_535)?),
        None => None,
    };
    if !matches!((group, kind), ("" | "core", "Service")) {
        let whole = parent.whole();
        whole.note(format_args!(
            "{kind} of group {group:?} is not attached to: the mesh reads parents of kind Service, \
             group \"\""
        ));
        return Some((None, named));
    }
    let read = Parent::new(service(parent, namespace)?, port);
    // Of a Service it is the name of a port.
    let read = match named.section {
        Some(section) => read.named(section),
        None => read,
    };
    Some((Some(read), named))
}

fn read_rules(list: &Value<'_>, within: Within<'_>, form: PathForm) -> Option<Vec<Rule>> {
    let items = list.list_of(16)?;
    let (mut rules, mut names, mut matches) = (Vec::new(), Vec::new(), 0);
    for item in &items {
        let read = rule(item, within, form);
        if let Some((rule, name)) = read {
            if let Some((name, value)) = name {
                if names.contains(&name) {
                    value.refuse(format_args!("the name {name:?} stands twice"));
                }
                names.push(name);
            }
            matches += rule.matches.len();
            rules.push(rule);
        }
    }
    if matches > MATCHES {
        list.refuse(format_args!(
            "its rules have {matches} matches together; {MATCHES} are allowed"
        ));
    }
    (rules.len() == items.len()).then_some(rules)
}

type Name<'t> = Option<(&'t str, Value<'t>)>;

/// Reads a rule, and the name that other documents know it by.
fn rule<'t>(value: &Value<'t>, within: Within<'_>, form: PathForm) -> Option<(Rule, Name<'t>)> {
    value.object(|rule| {
        rule.refuse_all(&["sessionPersistence"], LATER);
        let name = match rule.get("name") {
            Some(value) => {
                let name = value.text();
                let name = name.and_then(|name| value.check(text::subdomain(name)));
                name.map(|name| Some((name, value)))
            }
            None => Some(None),
        };
        let retry = match rule.get("retry") {
            Some(value) => read_retry(&value).map(Some),
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
        let backends: Option<Vec<_>> = match rule.get("backendRefs") {
            Some(list) => list
                .list_of_or_empty(16)
                .and_then(|list| list.iter().map(|b| backend(b, within)).collect()),
            None => Some(Vec::new()),
        };
        let timeouts = match rule.get("timeouts") {
            Some(value) => timeouts(&value),
            None => Some(Timeouts::default()),
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
        if let Some(retry) = retry? {
            read = read.with_retry(retry);
        }
        let read = read.with_filters(filters.edits).with_timeouts(timeouts?);
        Some((read, name?))
    })
}

/// Whether they are the one that a prefix can be replaced of.
fn is_one_prefix(matches: &[Match]) -> bool {
    matches!(matches, [one] if matches!(one.path, PathMatch::Prefix(_)))
}

/// The Gateway API's default where there is a retry.
const REPEATS: u32 = 1;

fn read_retry(value: &Value<'_>) -> Option<RetryPolicy> {
    value.object(|retry| {
        let (attempts, backoff) = (retry.get("attempts"), retry.get("backoff"));
        let codes = retry.get("codes");
        let repeats = match attempts {
            Some(attempts) => attempts.integer_in::<u32>(0, i64::from(u32::MAX))?,
            None => REPEATS,
        };
        let mut policy = RetryPolicy::new(repeats);
        if let Some(backoff) = backoff {
            policy = policy.with_backoff(backoff.check(text::duration(backoff.text()?))?);
        }
        let mut seen = Vec::new();
        for code in codes
            .map(|c| c.list_or_empty())
            .unwrap_or(Some(Vec::new()))?
        {
            let number = code.integer_in::<u16>(400, 599)?;
            if seen.contains(&number) {
                code.refuse(format_args!("{number} stands twice"));
            }
            seen.push(number);
            policy = code.check(policy.on_status(number))?;
        }
        Some(policy)
    })
}

/// Reads a backend, and where it replaces the prefix that was matched.
fn backend<'t>(value: &Value<'t>, within: Within<'_>) -> Option<(Backend, Option<Value<'t>>)> {
    value.object(|backend| {
        let weight = backend.get("weight");
        let target = target(backend, within.namespace);
        let filters = filters::read(backend, within);
        let weight = match weight {
            Some(weight) => (weight.integer_in(0, i64::from(u32::MAX))?, Some(weight)),
            None => (1, None),
        };
        let at = weight.1.as_ref().unwrap_or_else(|| backend.whole());
        let filters = filters?;
        if let Some((at, _)) = filters.redirect {
            at.refuse("a rule redirects, a backend does not: requests are sent to it");
        }
        let (service, port) = target?;
        let read = at.check(Backend::new(service, port, weight.0))?;
        Some((read.with_filters(filters.edits), filters.prefix))
    })
}

fn timeouts(value: &Value<'_>) -> Option<Timeouts> {
    value.object(|fields| {
        let mut limit = |name| match fields.get(name) {
            Some(value) => value.check(text::duration(value.text()?)).map(Some),
            None => Some(None),
        };
        let (request, backend) = (limit("request"), limit("backendRequest"));
        value.check(Timeouts::new(request?, backend?))
    })
}
