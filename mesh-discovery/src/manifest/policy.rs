//! `AuthorizationPolicy`, in Istio's words: selector, action, rules.
//!
//! What is valid in Istio and not evaluated here refuses the policy: a condition that is skipped
//! would allow what its author denied.

use std::sync::Arc;

use inmesh_core::authorize::{Action, InvalidPolicy, Operation, Policy, PolicyRule, PolicySource};
use inmesh_core::model::{Kind, check_label};

use super::strict::{Document, Fields, Unknown, Value};
use super::{Defaults, meta};

/// Why a field that Istio knows is refused.
const LATER: &str = "is valid in Istio, but not evaluated yet";

/// The most rules of a policy (Istio's schema).
const RULES: usize = 512;

type Labels = Vec<(Arc<str>, Arc<str>)>;

pub(super) fn read(fields: &mut Fields<'_>, defaults: &Defaults) -> Option<Policy> {
    fields.ignore(&["status"]);
    let meta = meta::read(fields, Kind::AuthorizationPolicy, defaults);
    let (selector, action, rules) = match fields.get("spec") {
        Some(spec) => spec.object(|spec| read_spec(spec, defaults))?,
        // As `spec: {}`: an ALLOW policy without rules, which denies all.
        None => (Vec::new(), Action::Allow, Vec::new()),
    };
    let meta = meta?;
    meta.annotations.refuse_ours_but(meta::OF_STAGES);
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
    let read = document.read_object(Unknown::Refuse, |fields| {
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

fn read_spec(
    spec: &mut Fields<'_>,
    defaults: &Defaults,
) -> Option<(Labels, Action, Vec<PolicyRule>)> {
    spec.refuse_all(&["targetRef", "provider"], LATER);
    spec.refuse_items("targetRefs", LATER);
    let selector = selector(spec);
    let (action, list) = (spec.get("action"), spec.get("rules"));
    let action = match action {
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
    let rules = match &list {
        Some(list) => {
            let rule = |value: &Value<'_>| rule(value, &action, defaults);
            let list = list.list_of_or_empty(RULES)?;
            list.iter().filter_map(rule).collect()
        }
        None => Vec::new(),
    };
    // Rules that were refused are no absent ones.
    let none = list.as_ref().is_none_or(|list| list.len() == Some(0));
    if action == Action::Deny && none {
        let at = list.as_ref().unwrap_or_else(|| spec.whole());
        at.warn("a DENY policy without rules denies nothing");
    }
    Some((selector?, action, rules))
}

/// The labels that a selector asks for.
pub(super) fn selector(spec: &mut Fields<'_>) -> Option<Labels> {
    let Some(selector) = spec.get("selector") else {
        return Some(Vec::new());
    };
    selector.object(|selector| {
        let Some(labels) = selector.get("matchLabels") else {
            return Some(Vec::new());
        };
        let mut read = Vec::new();
        for (label, value) in labels.entries()? {
            let text = value.text()?;
            if text.contains('*') || label.contains('*') {
                value.refuse("a selector has no wildcards");
                return None;
            }
            value.check(check_label(label, text))?;
            read.push((label.into(), text.into()));
        }
        Some(read)
    })
}

fn rule(value: &Value<'_>, action: &Action, defaults: &Defaults) -> Option<PolicyRule> {
    value.object(|rule| {
        rule.refuse_items("when", LATER);
        parts(rule, action, defaults)
    })
}

/// `from` and `to` of a rule that permits nothing.
pub(super) fn conditions(rule: &mut Fields<'_>, defaults: &Defaults) -> Option<PolicyRule> {
    parts(rule, &Action::Deny, defaults)
}

fn parts(rule: &mut Fields<'_>, action: &Action, defaults: &Defaults) -> Option<PolicyRule> {
    let (from, to) = (rule.get("from"), rule.get("to"));
    let from = match from {
        Some(list) => each(&list, "source", |fields| source(fields, defaults)),
        None => Some(Vec::new()),
    };
    let to = match to {
        Some(list) => each(&list, "operation", |o| operation(o, action, defaults)),
        None => Some(Vec::new()),
    };
    Some(PolicyRule::new(from?, to?))
}

/// Reads a list of `{<name>: {...}}`. All of it or nothing, so that no part goes missing.
fn each<T>(
    list: &Value<'_>,
    name: &str,
    read: impl Fn(&mut Fields<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let items = list.list()?;
    let item = |item: &Value<'_>| item.object(|item| item.need(name)?.object(&read));
    items.iter().map(item).collect()
}

fn source(fields: &mut Fields<'_>, defaults: &Defaults) -> Option<PolicySource> {
    fields.refuse_all(
        &[
            "ipBlocks",
            "notIpBlocks",
            "notRemoteIpBlocks",
            "notRequestPrincipals",
            "notServiceAccounts",
            "remoteIpBlocks",
            "requestPrincipals",
            "serviceAccounts",
        ],
        LATER,
    );
    let names = [
        "principals",
        "notPrincipals",
        "namespaces",
        "notNamespaces",
        "trustDomains",
        "notTrustDomains",
    ];
    let (source, lists) = lists(fields, names, |[a, b, c, d, e, f]| {
        let source = PolicySource::builder().principals(a).not_principals(b);
        let source = source.namespaces(c).not_namespaces(d);
        source.trust_domains(e).not_trust_domains(f).build()
    })?;
    warn_of_others(&source, &lists, defaults);
    Some(source)
}

/// Warns where a condition means something else for peers of other trust domains. Where they may come, and
/// none is known, what only denies more is a note.
fn warn_of_others(source: &PolicySource, lists: &[Vec<Value<'_>>; 6], defaults: &Defaults) {
    let others = &defaults.federated;
    let by_domain = !(source.trust_domains.is_empty() && source.not_trust_domains.is_empty());
    let [principals, not_principals, namespaces, not_namespaces, ..] = lists;
    let known = by_domain || !others.is_empty();
    if known || defaults.may_federate {
        const OWN: &str = "namespaces are those of the workload's own trust domain: by this no peer \
                           of another is allowed, and every one is denied";
        for value in namespaces.first().into_iter().chain(not_namespaces.first()) {
            if known {
                value.warn(OWN);
            } else {
                value.note(OWN);
            }
        }
    }
    if by_domain || (others.is_empty() && !defaults.may_federate) {
        return;
    }
    let open = principals.iter().zip(&source.principals);
    let open = open
        .filter(|(_, pattern)| pattern.is_open())
        .map(|(v, _)| v);
    let not = not_principals.first().filter(|_| principals.is_empty());
    for value in open.chain(not) {
        let others = match others[..] {
            [] => "any trust domain whose bundle the Workload API brings".to_owned(),
            _ => others.join(", "),
        };
        value.warn(format_args!("also matches peers of {others}"));
    }
}

fn operation(fields: &mut Fields<'_>, action: &Action, defaults: &Defaults) -> Option<Operation> {
    fields.refuse_all(&["hosts", "notHosts", "notPorts", "ports"], LATER);
    let names = ["methods", "notMethods", "paths", "notPaths"];
    let ((operation, seen), lists) = lists(fields, names, |[a, b, c, d]| {
        let operation = Operation::builder().methods(a).not_methods(b);
        let operation = operation.paths(c).not_paths(d).build()?;
        let seen = operation.in_form(defaults.paths)?;
        Ok((operation, seen))
    })?;
    if *action == Action::Allow
        && let Some((nth, reading)) = seen.unread()
        && let Some(value) = lists[2].get(nth)
    {
        value.refuse(format_args!(
            "permits no request: servers may read it as {reading:?}, which no path here allows"
        ));
        return None;
    }
    Some(operation)
}

/// Reads the lists of texts of a source or operation and makes it of them.
fn lists<'t, T, const N: usize>(
    fields: &mut Fields<'t>,
    names: [&str; N],
    make: impl Fn([&[&str]; N]) -> Result<T, InvalidPolicy>,
) -> Option<(T, [Vec<Value<'t>>; N])> {
    let mut lists = [const { Vec::<Value<'t>>::new() }; N];
    let mut texts = [const { Vec::<&'t str>::new() }; N];
    let found = names.map(|name| fields.get(name));
    for ((list, values), texts) in found.into_iter().zip(&mut lists).zip(&mut texts) {
        if let Some(list) = list {
            *values = list.list()?;
            *texts = values.iter().map(Value::text).collect::<Option<_>>()?;
        }
    }
    match make(std::array::from_fn(|n| &*texts[n])) {
        Ok(made) => Some((made, lists)),
        Err(e) => {
            blame(fields, &lists, &texts, &make, &e);
            None
        }
    }
}

/// Reports an error at each item that causes one.
fn blame<T, const N: usize>(
    fields: &Fields<'_>,
    lists: &[Vec<Value<'_>>; N],
    texts: &[Vec<&str>; N],
    make: &impl Fn([&[&str]; N]) -> Result<T, InvalidPolicy>,
    error: &InvalidPolicy,
) {
    let mut found = false;
    for (nth, (values, texts)) in lists.iter().zip(texts).enumerate() {
        for (value, text) in values.iter().zip(texts) {
            let item = [*text];
            let mut alone: [&[&str]; N] = [&[]; N];
            alone[nth] = &item;
            if let Err(e) = make(alone) {
                value.refuse(e.message);
                found = true;
            }
        }
    }
    // What is empty because its fields were refused is not called empty.
    let read = texts.iter().any(|texts| !texts.is_empty());
    if !found && (read || fields.is_empty()) {
        fields.whole().refuse(&error.message);
    }
}
