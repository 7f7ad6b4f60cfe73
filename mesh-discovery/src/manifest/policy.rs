//! `AuthorizationPolicy`, in Istio's words: selector, action, rules.
//!
//! What is valid in Istio and not evaluated here refuses the policy: a condition that is skipped
//! would allow what its author denied.

use std::sync::Arc;

use inmesh_core::authorize::{Action, InvalidPolicy, Operation, Policy, PolicyRule, PolicySource};
use inmesh_core::model::Kind;

use super::strict::{Document, Fields, Unknown, Value};
use super::{Defaults, meta};

/// Why a field that Istio knows is refused.
const LATER: &str = "is valid in Istio, but not evaluated yet";

type Labels = Vec<(Arc<str>, Arc<str>)>;

pub(super) fn read(fields: &mut Fields<'_>, defaults: &Defaults) -> Option<Policy> {
    fields.ignore(&["status"]);
    let meta = meta::read(fields, Kind::AuthorizationPolicy, defaults);
    let (selector, action, rules) = match fields.get("spec") {
        Some(spec) => spec.object(read_spec)?,
        // As `spec: {}`: an ALLOW policy without rules, which denies all.
        None => (Vec::new(), Action::Allow, Vec::new()),
    };
    let meta = meta?;
    meta.annotations.refuse_ours_but(&[]);
    let policy = Policy::new(meta.key, action, rules);
    Some(
        selector
            .iter()
            .fold(policy, |policy, (label, value)| policy.select(label, value)),
    )
}

/// What the selector of a document selects, whatever else is wrong with it; `None` where the
/// selector itself cannot be read.
pub(super) fn selector_of(document: &Document) -> Option<Labels> {
    let read = document.read(Unknown::Refuse, |fields| {
        // Only the selector is judged.
        fields.ignore_all();
        match fields.get("spec") {
            Some(spec) => spec.object(|spec| {
                spec.ignore_all();
                selector(spec)
            }),
            None => Some(Vec::new()),
        }
    });
    read.ok().map(|read| read.value)
}

fn read_spec(spec: &mut Fields<'_>) -> Option<(Labels, Action, Vec<PolicyRule>)> {
    spec.refuse_all(&["targetRef", "targetRefs", "provider"], LATER);
    let selector = selector(spec);
    let action = match spec.get("action") {
        Some(value) => match value.choice(&["ALLOW", "DENY", "AUDIT", "CUSTOM"])? {
            "ALLOW" => Action::Allow,
            "DENY" => Action::Deny,
            _ => {
                value.refuse(LATER);
                return None;
            }
        },
        None => Action::Allow,
    };
    let list = spec.get("rules");
    let rules = match &list {
        Some(list) => list.list_or_empty()?.iter().filter_map(rule).collect(),
        None => Vec::new(),
    };
    if action == Action::Deny && rules.is_empty() {
        let at = list.as_ref().unwrap_or_else(|| spec.whole());
        at.warn("a DENY policy without rules denies nothing");
    }
    Some((selector?, action, rules))
}

fn selector(spec: &mut Fields<'_>) -> Option<Labels> {
    let Some(selector) = spec.get("selector") else {
        // A null selector was reported; it is not an absent one.
        return (!spec.has("selector")).then(Vec::new);
    };
    selector.object(|selector| {
        let Some(labels) = selector.get("matchLabels") else {
            return (!selector.has("matchLabels")).then(Vec::new);
        };
        let mut read = Vec::new();
        for (label, value) in labels.entries()? {
            let text = value.text()?;
            if text.contains('*') || label.contains('*') {
                value.refuse("a selector has no wildcards");
                return None;
            }
            read.push((label.into(), text.into()));
        }
        Some(read)
    })
}

fn rule(value: &Value<'_>) -> Option<PolicyRule> {
    value.object(|rule| {
        rule.refuse_all(&["when"], LATER);
        let from = match rule.get("from") {
            Some(list) => each(&list, "source", source)?,
            None => Vec::new(),
        };
        let to = match rule.get("to") {
            Some(list) => each(&list, "operation", operation)?,
            None => Vec::new(),
        };
        Some(PolicyRule::new(from, to))
    })
}

/// Reads a list of `{<name>: {...}}`. All of it or nothing, so that no part goes missing.
fn each<T>(list: &Value<'_>, name: &str, read: fn(&mut Fields<'_>) -> Option<T>) -> Option<Vec<T>> {
    let items = list.list()?;
    let item = |item: &Value<'_>| item.object(|item| item.need(name)?.object(read));
    items.iter().map(item).collect()
}

fn source(fields: &mut Fields<'_>) -> Option<PolicySource> {
    fields.refuse_all(
        &[
            "ipBlocks",
            "notIpBlocks",
            "notRemoteIpBlocks",
            "notRequestPrincipals",
            "notServiceAccounts",
            "notTrustDomains",
            "remoteIpBlocks",
            "requestPrincipals",
            "serviceAccounts",
            "trustDomains",
        ],
        LATER,
    );
    let names = ["principals", "notPrincipals", "namespaces", "notNamespaces"];
    four(fields, names, |[a, b, c, d]| {
        let source = PolicySource::builder().principals(a).not_principals(b);
        source.namespaces(c).not_namespaces(d).build()
    })
}

fn operation(fields: &mut Fields<'_>) -> Option<Operation> {
    fields.refuse_all(&["hosts", "notHosts", "notPorts", "ports"], LATER);
    let names = ["methods", "notMethods", "paths", "notPaths"];
    four(fields, names, |[a, b, c, d]| {
        let operation = Operation::builder().methods(a).not_methods(b);
        operation.paths(c).not_paths(d).build()
    })
}

/// Reads the four lists of texts of a source or operation and makes it of them.
fn four<'t, T>(
    fields: &mut Fields<'t>,
    names: [&str; 4],
    make: impl Fn([&[&str]; 4]) -> Result<T, InvalidPolicy>,
) -> Option<T> {
    let mut lists: [Vec<Value<'t>>; 4] = Default::default();
    let mut texts: [Vec<&'t str>; 4] = Default::default();
    for ((name, values), texts) in names.iter().zip(&mut lists).zip(&mut texts) {
        if let Some(list) = fields.get(name) {
            *values = list.list()?;
            *texts = values.iter().map(Value::text).collect::<Option<_>>()?;
        }
    }
    fields.asked_all();
    let [a, b, c, d] = &texts;
    match make([a, b, c, d]) {
        Ok(made) => Some(made),
        Err(e) => {
            blame(fields, &lists, &texts, &make, &e);
            None
        }
    }
}

/// Reports an error at the one item that causes it, where one does alone.
fn blame<T>(
    fields: &Fields<'_>,
    lists: &[Vec<Value<'_>>; 4],
    texts: &[Vec<&str>; 4],
    make: &impl Fn([&[&str]; 4]) -> Result<T, InvalidPolicy>,
    error: &InvalidPolicy,
) {
    for (nth, (values, texts)) in lists.iter().zip(texts).enumerate() {
        for (value, text) in values.iter().zip(texts) {
            let item = [*text];
            let mut alone: [&[&str]; 4] = [&[]; 4];
            alone[nth] = &item;
            if let Err(e) = make(alone) {
                value.refuse(e.message);
                return;
            }
        }
    }
    fields.whole().refuse(&error.message);
}
