//! Events of an API server in, a snapshot out.

mod faults;
pub(crate) mod same;
mod scripted;
mod staged;
mod statuses;

use inmesh_core::authorize::DefaultAction;
use inmesh_core::model::{Namespace, SourceId, Workload};
use inmesh_core::snapshot::{Settings, Snapshot};
use serde_json::{Value as Json, json};

use super::index::{Event, Index};
use super::kinds::KINDS;
use crate::manifest::{Defaults, Unsaid};

pub(crate) fn defaults() -> Defaults {
    Defaults::new(Namespace::new("shop").expect("a name"))
        .trust_domain("lab.example".parse().expect("a trust domain"))
        .unsaid(Unsaid::Plain)
}

pub(crate) fn source() -> SourceId {
    SourceId::new("kubernetes")
}

pub(crate) fn empty() -> Snapshot {
    let web = Workload::new("shop", "web", "web").expect("a name");
    Snapshot::new(Settings::new(web.label("app", "web"), DefaultAction::Allow))
}

/// The place of a kind.
fn place(kind: &str, group: &str) -> usize {
    let found = KINDS
        .iter()
        .position(|k| k.kind == kind && k.group == group);
    found.expect("it is watched")
}

/// An index to which every kind has been listed, as empty.
fn listed() -> Index {
    let mut index = Index::new(source(), defaults());
    for kind in 0..KINDS.len() {
        index.handle(kind, Event::ListBegun);
        index.handle(kind, Event::ListDone);
    }
    index
}

/// An object as an API server has it.
pub(crate) fn object(kind: usize, name: &str, uid: &str, version: u64, rest: &Json) -> Json {
    let watched = &KINDS[kind];
    let mut object = json!({
        "apiVersion": watched.api_version(watched.versions[0]), "kind": watched.kind,
        "metadata": {
            "name": name, "uid": uid, "resourceVersion": version.to_string(),
            "managedFields": [{"manager": "a"}],
        },
    });
    if !matches!(watched.kind, "Namespace" | "Node") {
        object["metadata"]["namespace"] = "shop".into();
    }
    let more = rest.as_object().into_iter().flatten();
    for (name, value) in more {
        match (name.as_str(), value) {
            ("labels" | "annotations", _) => object["metadata"][name] = value.clone(),
            _ => object[name] = value.clone(),
        }
    }
    object
}
