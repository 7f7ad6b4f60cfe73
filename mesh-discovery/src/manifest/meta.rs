//! `metadata`: the object's key, and the labels and annotations that mean something here.

use std::sync::Arc;

use inmesh_core::model::{InvalidName, Kind, Namespace, ObjectKey};

use super::strict::{Document, Fields, Peek, Shape, Value};
use super::{Defaults, text};
use crate::layout::{PREVIOUS, STAGE};

/// Our annotations; one that its reader does not know is refused.
const OURS: &str = "inmesh.dev/";
/// Those of objects that can be staged. They are no part of what the object says: a control plane reads them by
/// itself.
pub(super) const OF_STAGES: &[&str] = &[STAGE, PREVIOUS];

/// Fields of `metadata` that are known and of no meaning here.
const IGNORED: &[(&str, Shape)] = &[
    ("deletionGracePeriodSeconds", Shape::Integer),
    ("deletionTimestamp", Shape::Text),
    ("finalizers", Shape::Texts),
    ("generateName", Shape::Text),
    ("generation", Shape::Integer),
    ("managedFields", Shape::List),
    ("resourceVersion", Shape::Text),
    ("selfLink", Shape::Text),
];
/// The same, but for Pods.
const OF_PODS: &[(&str, Shape)] = &[("ownerReferences", Shape::List), ("uid", Shape::Text)];

/// What `metadata` says.
#[derive(Debug)]
pub(super) struct Meta<'t> {
    pub(super) key: ObjectKey,
    /// Seconds since 1970.
    pub(super) created: Option<i64>,
    pub(super) labels: Texts<'t>,
    pub(super) annotations: Texts<'t>,
    name: Value<'t>,
}

/// Labels or annotations; all are texts.
#[derive(Debug, Default)]
pub(super) struct Texts<'t>(Vec<(&'t str, Value<'t>)>);

/// Reads `metadata` of an object of a kind.
pub(super) fn read<'t>(
    fields: &mut Fields<'t>,
    kind: Kind,
    defaults: &Defaults,
) -> Option<Meta<'t>> {
    read_with(fields, kind, defaults, |meta| meta.ignore_typed(OF_PODS))
}

/// The same; `more` reads what else the kind has there.
pub(super) fn read_with<'t>(
    fields: &mut Fields<'t>,
    kind: Kind,
    defaults: &Defaults,
    more: impl FnOnce(&mut Fields<'t>),
) -> Option<Meta<'t>> {
    fields.need("metadata")?.object(|meta| {
        meta.ignore_typed(IGNORED);
        more(meta);
        let texts = |value: Option<Value<'t>>| match value {
            Some(value) => value.texts().map(Texts),
            None => Some(Texts::default()),
        };
        let labels = texts(meta.nullable("labels"));
        let annotations = texts(meta.nullable("annotations"));
        let created = meta
            .nullable("creationTimestamp")
            .and_then(|value| value.check(text::timestamp(value.text()?)));
        let namespace = match meta.get("namespace") {
            Some(value) => value
                .text()
                .and_then(|name| value.check(Namespace::new(name).map_err(text::invalid_name))),
            None => Some(defaults.namespace.clone()),
        };
        let name = meta.need("name");
        let (name, namespace) = (name?, namespace?);
        let key = key(kind, &namespace, name.text()?).map_err(text::invalid_name);
        Some(Meta {
            key: name.check(key)?,
            created,
            labels: labels?,
            annotations: annotations?,
            name,
        })
    })
}

/// The key of an object; that of the whole cluster has no namespace.
pub(super) fn key(kind: Kind, namespace: &Namespace, name: &str) -> Result<ObjectKey, InvalidName> {
    match kind {
        Kind::Namespace | Kind::Node => ObjectKey::cluster_wide(kind, name),
        kind => ObjectKey::new(kind, namespace, name),
    }
}

/// The namespace of a document, where it can be read.
pub(super) fn namespace(document: &Document, defaults: &Defaults) -> Option<Namespace> {
    match document.peek(&["metadata", "namespace"]) {
        Peek::Absent => match document.peek(&["metadata"]) {
            // `metadata` is there, as a mapping.
            Peek::Other => Some(defaults.namespace.clone()),
            Peek::Absent | Peek::Text(_) => None,
        },
        Peek::Text(name) => Namespace::new(name).ok(),
        Peek::Other => None,
    }
}

/// The name of a document, where it can be read.
pub(super) fn name(document: &Document) -> Option<&str> {
    match document.peek(&["metadata", "name"]) {
        Peek::Text(name) => Some(name),
        Peek::Absent | Peek::Other => None,
    }
}

// === impl Meta ===

impl Meta<'_> {
    /// A name made from the object's; the problem is reported at `metadata.name`.
    pub(super) fn named<T>(
        &self,
        make: impl FnOnce(&Namespace, &str) -> Result<T, InvalidName>,
    ) -> Option<T> {
        let made = make(&self.key.namespace, &self.key.name);
        self.name.check(made.map_err(text::invalid_name))
    }
}

// === impl Texts ===

impl<'t> Texts<'t> {
    /// The entry of a key.
    pub(super) fn find(&self, key: &str) -> Option<&Value<'t>> {
        self.0
            .iter()
            .find(|(k, _)| *k == key)
            .map(|(_, value)| value)
    }

    /// All entries.
    pub(super) fn all(&self) -> impl Iterator<Item = (Arc<str>, Arc<str>)> {
        let entries = self.0.iter();
        entries.filter_map(|(key, value)| Some(((*key).into(), value.text()?.into())))
    }

    /// The first of the keys that is there, as a text; empty where none is.
    pub(super) fn first(&self, keys: &[&str]) -> Option<&'t str> {
        match keys.iter().find_map(|key| self.find(key)) {
            Some(value) => value.text(),
            None => Some(""),
        }
    }

    /// Refuses annotations of ours but the ones that the kind knows: they would have no effect.
    pub(super) fn refuse_ours_but(&self, known: &[&str]) {
        for (key, value) in &self.0 {
            if key.starts_with(OURS) && !known.contains(key) {
                value.refuse("has no meaning on this object");
            }
        }
    }
}
