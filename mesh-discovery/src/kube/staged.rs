//! What an API server has of an object with something staged in its place, and how that is changed. Pure.

use std::sync::Arc;

use inmesh_core::model::Namespace;
use inmesh_core::snapshot::Op;
use serde_json::{Value as Json, json};

use super::kinds::{GATEWAY, OURS, Watched};
use crate::layout::{PREVIOUS, STAGE, pointer};
use crate::manifest::{Defaults, parse_json};
use crate::stage::plan::Step;
use crate::stage::{Offer, Offered, Stage, offer};

/// The kinds of which objects can be staged.
const STAGED: &[(&str, &str)] = &[
    (GATEWAY, "GRPCRoute"),
    (GATEWAY, "HTTPRoute"),
    (OURS, "AuthorizationPolicy"),
    (OURS, "TrafficPolicy"),
];
/// The longest `spec` that is kept for a rollback, in bytes: both annotations have room beside each other.
pub(super) const LONGEST: usize = 96 * 1_024;

/// An object with something staged in its place.
#[derive(Debug)]
pub(super) struct Staged {
    /// Where it is.
    pub(super) path: String,
    /// The version of the object that a change is made of.
    pub(super) version: String,
    pub(super) generation: i64,
    pub(super) stage: Stage,
    /// What is handed on, or why it cannot be.
    pub(super) offer: Result<Arc<Offer>, String>,
    spec: Json,
}

/// The object as it was read, and as it is handed on.
pub(super) struct Stable<'a> {
    pub(super) called: &'a str,
    pub(super) op: &'a Op,
    pub(super) document: Option<&'a Arc<str>>,
}

/// Whether an object of a kind can be staged.
pub(super) fn is_staged(kind: &Watched) -> bool {
    STAGED.contains(&(kind.group, kind.kind))
}

// === impl Staged ===

impl Staged {
    /// Of an object, where something is staged in its place and has not ended. `refuses` says why what is staged
    /// cannot be beside other objects.
    ///
    /// # Errors
    ///
    /// Why its annotation has no effect.
    pub(super) fn of(
        kind: &Watched,
        object: &Json,
        stable: &Stable<'_>,
        defaults: &Defaults,
        refuses: impl FnOnce(&Op) -> Option<String>,
    ) -> Result<Option<Self>, String> {
        let meta = &object["metadata"];
        let Some(text) = meta["annotations"][STAGE].as_str() else {
            return Ok(None);
        };
        if !is_staged(kind) {
            return Err("no object of its kind can be staged".into());
        }
        let stage = Stage::read(text).map_err(|e| e.to_string())?;
        let Some(spec) = stage.spec.as_ref().filter(|_| stage.lives()) else {
            return Ok(None);
        };
        let words = |of: &Json| of.as_str().unwrap_or_default().to_owned();
        let version = words(&object["apiVersion"]);
        let version = version.rsplit('/').next().unwrap_or_default();
        let (before, plural) = kind.path_in(version);
        let (namespace, name) = (words(&meta["namespace"]), words(&meta["name"]));
        let now = object.get("spec").cloned().unwrap_or_else(|| json!({}));
        let mut offer = offered(object, spec, stable, &stage.id, defaults, refuses);
        if now.to_string().len() > LONGEST {
            offer = Err(format!("its spec is larger than {LONGEST} bytes"));
        }
        if let (Some(name), Ok(of)) = (&stage.namespace, &mut offer) {
            match Namespace::new(name) {
                Ok(namespace) => of.namespace = Some(namespace),
                Err(e) => offer = Err(format!("its namespace: {e}")),
            }
        }
        let bound = stage.running.map(|running| running.bound);
        Ok(Some(Self {
            path: format!("{before}/{namespace}/{plural}/{name}"),
            version: words(&meta["resourceVersion"]),
            generation: meta["generation"].as_i64().unwrap_or(0),
            offer: offer.map(|mut offer| {
                offer.bound = bound;
                Arc::new(offer)
            }),
            spec: now,
            stage,
        }))
    }

    /// The change of the object that a step is, as a JSON patch, if it is one.
    pub(super) fn patch(&self, step: &Step) -> Option<Json> {
        let (stage, promotes) = match step {
            Step::Note(stage) => (stage, false),
            Step::Promote(stage) => (stage, true),
            Step::Wait => return None,
        };
        let add = |path: &str, value: Json| json!({"op": "add", "path": path, "value": value});
        let seen =
            json!({"op": "test", "path": "/metadata/resourceVersion", "value": self.version});
        let text = stage.write().ok()?;
        let mut patch = vec![seen, add(&pointer(STAGE), text.into())];
        if promotes {
            patch.push(add(&pointer(PREVIOUS), self.spec.to_string().into()));
            patch.push(add("/spec", self.stage.spec.clone()?));
        }
        Some(patch.into())
    }
}

/// What is handed on of `spec` in the place of an object.
fn offered(
    object: &Json,
    spec: &Json,
    stable: &Stable<'_>,
    id: &str,
    defaults: &Defaults,
    refuses: impl FnOnce(&Op) -> Option<String>,
) -> Result<Offer, String> {
    let mut staged = object.clone();
    staged["spec"] = spec.clone();
    let parsed = parse_json(stable.called, &staged, defaults).map_err(|e| e.to_string())?;
    let entry = parsed.entries.into_iter().next();
    let entry = entry.ok_or("it says nothing to the mesh")?;
    if let Some(why) = refuses(&entry.op) {
        return Err(why);
    }
    let now = Offered {
        op: stable.op,
        document: stable.document,
    };
    let staged = Offered {
        op: &entry.op,
        document: entry.document.as_ref(),
    };
    offer(id, &now, &staged)
}
