//! `v1 ConfigMap` with roots under its key `ca.crt`, as a BackendTLSPolicy refers to it.
//!
//! Any other ConfigMap is for other programs. One that was good keeps its roots where an edit of it
//! cannot be read, as a file of roots does.

use inmesh_core::model::Kind;
use inmesh_core::origination::CaConfigMap;

use super::strict::{Document, Fields, Peek, Shape};
use super::{Defaults, meta};

/// The key of the roots.
const KEY: &str = "ca.crt";

/// Whether a document has roots.
pub(super) fn has_roots(document: &Document) -> bool {
    !matches!(document.peek(&["data", KEY]), Peek::Absent)
}

/// Reads the roots of one that has them.
pub(super) fn read(fields: &mut Fields<'_>, defaults: &Defaults) -> Option<CaConfigMap> {
    fields.ignore_typed(&[("binaryData", Shape::Map), ("immutable", Shape::Boolean)]);
    let meta = meta::read(fields, Kind::ConfigMap, defaults);
    let (at, pem) = fields.need("data")?.object(|data| {
        let pem = data.need(KEY)?;
        // The other keys are for other programs.
        data.ignore_all();
        Some((pem.clone(), pem.text()?))
    })?;
    at.check(CaConfigMap::new(meta?.key, pem.as_bytes()))
}
