//! `v1 Node`: the region and the zone of what runs on it, by its labels.

use inmesh_core::model::{Kind, Node};

use super::strict::Fields;
use super::{Defaults, meta};

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) fn read(fields: &mut Fields<'_>, defaults: &Defaults) -> Option<Node> {
    fields.ignore(&["spec", "status"]);
    let meta = meta::read(fields, Kind::Node, defaults)?;
    let (region, zone) = (meta.labels.first(&[REGION])?, meta.labels.first(&[ZONE])?);
    Some(Node::new(meta.key.clone(), region, zone))
}
