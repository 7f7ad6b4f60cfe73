//! What rules of all kinds of routes have: a name, and backends.

use inmesh_core::model::ServiceName;
use inmesh_core::route::Backend;

use super::super::strict::{Fields, Value};
use super::super::text;
use super::filters;
use super::reference::{Within, target};

/// The most matches of all rules.
const MATCHES: usize = 128;

/// The name that other documents know a rule by, and where it stands.
pub(super) type Name<'t> = Option<(&'t str, Value<'t>)>;

/// Reads each rule of a list; no two have one name. `None` if one cannot be read.
pub(super) fn each<'t, R>(
    items: &[Value<'t>],
    read: impl Fn(&Value<'t>) -> Option<(R, Name<'t>)>,
) -> Option<Vec<R>> {
    let (mut rules, mut names) = (Vec::new(), Vec::new());
    for item in items {
        let Some((rule, name)) = read(item) else {
            continue;
        };
        if let Some((name, value)) = name {
            if names.contains(&name) {
                value.refuse(format_args!("the name {name:?} stands twice"));
            }
            names.push(name);
        }
        rules.push(rule);
    }
    (rules.len() == items.len()).then_some(rules)
}

/// Refuses more matches than a route may have.
pub(super) fn few(list: &Value<'_>, matches: usize) {
    if matches > MATCHES {
        list.refuse(format_args!(
            "its rules have {matches} matches together; {MATCHES} are allowed"
        ));
    }
}

/// Reads the name of a rule.
pub(super) fn name<'t>(rule: &mut Fields<'t>) -> Option<Name<'t>> {
    let Some(value) = rule.get("name") else {
        return Some(None);
    };
    let name = value.text()?;
    let name = value.check(text::subdomain(name))?;
    Some(Some((name, value)))
}

/// Reads the backends of a rule, and where each replaces the prefix that was matched.
pub(super) fn backends<'t>(
    rule: &mut Fields<'t>,
    within: Within<'_>,
) -> Option<Vec<(Backend, Option<Value<'t>>)>> {
    match rule.get("backendRefs") {
        Some(list) => {
            let list = list.list_of_or_empty(16)?;
            list.iter().map(|value| backend(value, within)).collect()
        }
        None => Some(Vec::new()),
    }
}

/// Reads the backends of a rule for opaque connections, which needs one.
pub(super) fn opaque_backends(rule: &mut Fields<'_>, within: Within<'_>) -> Option<Vec<Backend>> {
    let list = rule.need("backendRefs")?.list_of(16)?;
    let each = list.iter().map(|value| {
        value.object(|backend| {
            let weight = backend.get("weight");
            let target = target(backend, within.namespace);
            weighted(backend, target, weight)
        })
    });
    let each: Vec<_> = each.collect();
    each.into_iter().collect()
}

/// Reads a backend, and where it replaces the prefix that was matched.
fn backend<'t>(value: &Value<'t>, within: Within<'_>) -> Option<(Backend, Option<Value<'t>>)> {
    value.object(|backend| {
        let weight = backend.get("weight");
        let target = target(backend, within.namespace);
        let filters = filters::read_of_backend(backend, within);
        let read = weighted(backend, target, weight);
        let filters = filters?;
        Some((read?.with_filters(filters.edits), filters.prefix))
    })
}

/// A backend with its weight, 1 if none is written.
fn weighted(
    backend: &Fields<'_>,
    target: Option<(ServiceName, u16)>,
    weight: Option<Value<'_>>,
) -> Option<Backend> {
    let weight = match weight {
        Some(weight) => (weight.integer_in(0, i64::from(u32::MAX))?, Some(weight)),
        None => (1, None),
    };
    let at = weight.1.as_ref().unwrap_or_else(|| backend.whole());
    let (service, port) = target?;
    at.check(Backend::new(service, port, weight.0))
}
