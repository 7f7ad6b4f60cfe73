//! `v1 Namespace`: whether its Pods are in the mesh, by the label `inmesh.dev/inject`.

use inmesh_core::model::{Kind, MeshNamespace};

use super::strict::Fields;
use super::{Defaults, meta};
use crate::layout::INJECT;

pub(super) fn read(fields: &mut Fields<'_>, defaults: &Defaults) -> Option<MeshNamespace> {
    fields.ignore(&["spec", "status"]);
    let meta = meta::read(fields, Kind::Namespace, defaults)?;
    let in_mesh = match meta.labels.find(INJECT) {
        Some(label) => label.choice(&["enabled", "disabled"])? == "enabled",
        None => false,
    };
    Some(MeshNamespace::new(meta.key.clone(), in_mesh))
}
