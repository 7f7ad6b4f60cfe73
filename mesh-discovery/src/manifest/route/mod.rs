//! `gateway.networking.k8s.io/v1 HTTPRoute`, attached to Services (GAMMA).
//!
//! What the Gateway API allows and this mesh does not do (other filters, retries, session
//! persistence, backends that are no Services) refuses the route. Bounds are those of the API's
//! own schema, so that a folder takes what an API server takes.

mod filters;
mod matches;

use inmesh_core::model::{Kind, Namespace, ServiceName};
use inmesh_core::route::{Backend, Parent, Route, Rule, Timeouts};

use super::strict::{Fields, Value};
use super::{Defaults, meta, text};

/// Why a field that the Gateway API knows is refused.
const LATER: &str = "is valid in the Gateway API, but not done yet";

pub(super) fn read(fields: &mut Fields<'_>, defaults: &Defaults) -> Option<Route> {
    fields.ignore(&["status"]);
    let meta = meta::read(fields, Kind::HttpRoute, defaults);
    // Without a namespace the rest is still read, for its problems.
    let namespace = meta
        .as_ref()
        .map_or(&defaults.namespace, |meta| &meta.key.namespace);
    let (at, parents, rules) = fields.need("spec")?.object(|spec| {
        if let Some(hostnames) = spec.get("hostnames") {
            hostnames.warn("has no effect on a route that is attached to a Service");
        }
        let list = spec.need("parentRefs")?;
        let parents = parents(&list, namespace);
        let rules = match spec.get("rules") {
            Some(rules) => rules
                .list_of(16)?
                .iter()
                .map(|r| rule(r, namespace))
                .collect::<Option<_>>()?,
            // The API's default: one rule that matches all, with no backend: 500.
            None => vec![Rule::to(Vec::new())],
        };
        Some((list, parents?, rules))
    })?;
    let meta = meta?;
    meta.annotations.refuse_ours_but(&[]);
    let route = at.check(Route::new(meta.key, parents, rules))?;
    Some(route.with_created(meta.created))
}

fn parents(list: &Value<'_>, namespace: &Namespace) -> Option<Vec<Parent>> {
    let mut parents: Vec<Parent> = Vec::new();
    for value in list.list_of(32)? {
        let parent = value.object(|parent| {
            let group = match parent.get("group") {
                Some(group) => group.text()?,
                None => "gateway.networking.k8s.io",
            };
            let kind = match parent.get("kind") {
                Some(kind) => kind.text()?,
                None => "Gateway",
            };
            if !matches!((group, kind), ("" | "core", "Service")) {
                parent.ignore(&["name", "namespace", "port", "sectionName"]);
                let message =
                    "is not attached to: the mesh reads parents of kind Service, group \"\"";
                parent
                    .whole()
                    .warn(format_args!("{kind} of group {group:?} {message}"));
                return Some(None);
            }
            parent.refuse_all(
                &["sectionName"],
                "names a listener, which a Service has not",
            );
            let service = service(parent, namespace);
            let port = match parent.get("port") {
                Some(port) => Some(port.integer_in(1, 65_535)?),
                None => None,
            };
            Some(Some(Parent::new(service?, port)))
        })?;
        match parent {
            Some(parent) if parents.contains(&parent) => value.refuse("stands twice"),
            Some(parent) => parents.push(parent),
            None => {}
        }
    }
    if parents.is_empty() {
        list.refuse("names no Service, so no request of the mesh would see the route");
        return None;
    }
    Some(parents)
}

/// `name` and `namespace` of a reference to a Service.
fn service(fields: &mut Fields<'_>, namespace: &Namespace) -> Option<ServiceName> {
    let namespace = match fields.get("namespace") {
        Some(value) => value.check(Namespace::new(value.text()?).map_err(text::invalid_name))?,
        None => namespace.clone(),
    };
    let name = fields.need("name")?;
    name.check(ServiceName::new(&namespace, name.text()?).map_err(text::invalid_name))
}

fn rule(value: &Value<'_>, namespace: &Namespace) -> Option<Rule> {
    value.object(|rule| {
        // A name is for other documents to refer to.
        rule.ignore(&["name"]);
        rule.refuse_all(&["retry", "sessionPersistence"], LATER);
        let matches = match rule.get("matches") {
            Some(list) => list.list_of(64)?.iter().map(matches::read).collect(),
            None => Some(Vec::new()),
        };
        let filters = filters::read(rule);
        let backends: Option<Vec<_>> = match rule.get("backendRefs") {
            Some(list) => list
                .list_of(16)?
                .iter()
                .map(|b| backend(b, namespace))
                .collect(),
            None => Some(Vec::new()),
        };
        let timeouts = match rule.get("timeouts") {
            Some(value) => timeouts(&value)?,
            None => Timeouts::default(),
        };
        let read = Rule::to(backends?).when(matches?);
        Some(read.with_filters(filters?).with_timeouts(timeouts))
    })
}

fn backend(value: &Value<'_>, namespace: &Namespace) -> Option<Backend> {
    value.object(|backend| {
        let group = match backend.get("group") {
            Some(group) => group.text()?,
            None => "",
        };
        let kind = match backend.get("kind") {
            Some(kind) => kind.text()?,
            None => "Service",
        };
        if !matches!((group, kind), ("" | "core", "Service")) {
            let message = "a backend is of kind Service, group \"\"";
            backend
                .whole()
                .refuse(format_args!("{kind} of group {group:?}: {message}"));
            return None;
        }
        let service = service(backend, namespace);
        let port = backend
            .need("port")
            .and_then(|port| port.integer_in(1, 65_535));
        let weight = match backend.get("weight") {
            Some(weight) => (weight.integer_in(0, i64::from(u32::MAX))?, Some(weight)),
            None => (1, None),
        };
        let filters = filters::read(backend);
        let at = weight.1.as_ref().unwrap_or_else(|| backend.whole());
        let read = at.check(Backend::new(service?, port?, weight.0))?;
        Some(read.with_filters(filters?))
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
