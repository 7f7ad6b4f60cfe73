//! One document in, the operation on its object out: finds the reader of the kind, and says what
//! a refusal means where the object was never good.
//!
//! A document of a kind that is not read is refused by name, so that no reader takes it for enforced.

use std::sync::Arc;

use inmesh_core::authorize::Selects;
use inmesh_core::model::{Kind, Namespace, ObjectKey};
use inmesh_core::snapshot::{Fallback, Object, Op, Problem};

use super::strict::{Document, Read, Unknown};
use super::{Defaults, Entry, StandsFor, meta, policy, route, service, slice, text};

/// Reads a document; a `List` gives its items, a skipped kind nothing.
pub(super) fn read(document: &Document, defaults: &Defaults, entries: &mut Vec<Entry>) {
    let (api_version, kind) = (document.api_version(), document.kind());
    let skip = |(a, k): &(Arc<str>, Arc<str>)| Some(&**a) == api_version && Some(&**k) == kind;
    if defaults.skip_kinds.iter().any(skip) {
        return;
    }
    if let (Some("v1"), Some("List")) = (api_version, kind)
        && let Some(items) = document.items()
    {
        for item in &items {
            read(item, defaults, entries);
        }
        let rest = document.read(Unknown::Refuse, |list| {
            list.ignore(&["items", "metadata"]);
            Some(())
        });
        if let Err(problems) = rest {
            let kind = Kind::Other("List".into());
            entries.push(refused(
                document,
                defaults,
                kind,
                Fallback::Absent,
                problems,
            ));
        }
        return;
    }
    let (group, version) = match api_version.map(|v| v.rsplit_once('/').unwrap_or(("", v))) {
        Some((group, version)) => (Some(group), Some(version)),
        None => (None, None),
    };
    let known = match (group, kind) {
        (Some("") | None, Some("Service")) => Some((Kind::Service, &["v1"][..])),
        (Some("discovery.k8s.io") | None, Some("EndpointSlice")) => {
            Some((Kind::EndpointSlice, &["v1"][..]))
        }
        (Some("gateway.networking.k8s.io") | None, Some("HTTPRoute")) => {
            Some((Kind::HttpRoute, &["v1"][..]))
        }
        (Some("security.istio.io") | None, Some("AuthorizationPolicy"))
        | (Some("security.istio.io"), None) => {
            Some((Kind::AuthorizationPolicy, &["v1", "v1beta1"][..]))
        }
        (Some("inmesh.dev"), Some("AuthorizationPolicy")) => {
            Some((Kind::AuthorizationPolicy, &["v1alpha1"][..]))
        }
        _ => None,
    };
    entries.push(match known {
        Some((kind, versions)) if version.is_some_and(|v| versions.contains(&v)) => {
            read_known(document, defaults, kind)
        }
        Some((kind, versions)) => {
            let message = match (document.kind(), api_version) {
                (None, _) => "the kind cannot be read".into(),
                (_, None) => format!("the apiVersion cannot be read; {versions:?} is"),
                (_, Some(v)) => format!("apiVersion {v} of this kind is not read; {versions:?} is"),
            };
            let fallback = fallback(document, defaults, &kind);
            let problems = vec![problem(document, message)];
            refused(document, defaults, kind, fallback, problems)
        }
        None => {
            let (name, message) = match (kind, group) {
                (None, _) => ("Unknown".into(), "the kind cannot be read".into()),
                (Some(kind), Some("") | None) => {
                    (kind.into(), format!("the kind {kind} is not read"))
                }
                (Some(kind), Some(group)) => (
                    format!("{kind}.{group}"),
                    format!("the kind {kind} of {group} is not read"),
                ),
            };
            let problems = vec![problem(document, message)];
            let kind = Kind::Other(name.chars().take(253).collect::<String>().into());
            refused(document, defaults, kind, Fallback::Absent, problems)
        }
    });
}

fn read_known(document: &Document, defaults: &Defaults, kind: Kind) -> Entry {
    let op = match kind {
        Kind::Service => put(document.read(Unknown::Warn, |f| {
            service::read(f, document.file(), defaults)
        })),
        Kind::EndpointSlice => {
            put(document.read(Unknown::Warn, |f| slice::read(f, document.file(), defaults)))
        }
        Kind::HttpRoute => put(document.read(Unknown::Refuse, |f| route::read(f, defaults))),
        _ => put(document.read(Unknown::Refuse, |f| policy::read(f, defaults))),
    };
    match op {
        Ok((key, op)) => Entry {
            key,
            line: document.line(),
            stands_for: StandsFor::Itself,
            op,
        },
        Err(problems) => {
            let fallback = fallback(document, defaults, &kind);
            refused(document, defaults, kind, fallback, problems)
        }
    }
}

/// The operation of what was read, with the key of its object.
fn put<T: Into<Object>>(
    read: Result<Read<T>, Vec<Problem>>,
) -> Result<(ObjectKey, Op), Vec<Problem>> {
    read.map(|read| {
        let object = read.value.into();
        (object.key(), Op::Put(object, read.warnings))
    })
}

/// What a document that cannot be applied means where its object was never good.
fn fallback(document: &Document, defaults: &Defaults, kind: &Kind) -> Fallback {
    if *kind != Kind::AuthorizationPolicy {
        return Fallback::Absent;
    }
    Fallback::Deny(match meta::namespace(document, defaults) {
        None => Selects::Unknown,
        Some(namespace) => match policy::selector_of(document) {
            Some(labels) => Selects::Workloads(namespace, labels),
            None => Selects::Namespace(namespace),
        },
    })
}

fn problem(document: &Document, message: String) -> Problem {
    let at = inmesh_core::snapshot::Location::new(Arc::clone(document.file()), document.line());
    Problem::refused(document.path(), message).at(at)
}

fn refused(
    document: &Document,
    defaults: &Defaults,
    kind: Kind,
    fallback: Fallback,
    problems: Vec<Problem>,
) -> Entry {
    let namespace = meta::namespace(document, defaults);
    let key = namespace.as_ref().and_then(|namespace| {
        let name = meta::name(document)?;
        ObjectKey::new(kind.clone(), namespace, name).ok()
    });
    let unread = matches!(kind, Kind::Other(_));
    let stands_for = match &key {
        Some(key) if unread => StandsFor::Name(key.namespace.clone(), Arc::clone(&key.name)),
        Some(_) => StandsFor::Itself,
        None if unread => StandsFor::Any,
        None => StandsFor::Kind(kind.clone()),
    };
    let namespace = namespace.unwrap_or_else(|| defaults.namespace.clone());
    let key = key.unwrap_or_else(|| unnamed(document, kind, &namespace));
    Entry {
        line: document.line(),
        stands_for,
        op: Op::Refuse(key.clone(), fallback, problems),
        key,
    }
}

/// A name for what has none: `<file>.<line>`, and the place in its `List`.
fn unnamed(document: &Document, kind: Kind, namespace: &Namespace) -> ObjectKey {
    let file = document.file().rsplit('/').next().unwrap_or_default();
    let place = format!("{file}.{}{}", document.line(), document.path());
    ObjectKey::new(kind, namespace, &text::object_name(&place))
        .expect("object_name makes names of objects")
}
