//! References to Services: as the parent of a route, its backend, or what it mirrors to; and what all
//! readers of routes share.

use inmesh_core::model::{Namespace, ServiceName};
use inmesh_core::route::Parent;

use super::super::strict::Fields;
use super::super::text;

/// Why a field that the Gateway API knows is refused.
pub(super) const LATER: &str = "is valid in the Gateway API, but not done yet";
/// Why an experimental field of a rule is refused whose block a policy has.
pub(super) const ELSEWHERE: &str = "is read in a TrafficPolicy for the rule, not in the rule";

/// What a reference inside a route is read against.
#[derive(Clone, Copy)]
pub(super) struct Within<'a> {
    /// The route's namespace.
    pub(super) namespace: &'a Namespace,
    /// Its parents.
    pub(super) parents: &'a [Parent],
    /// The filters that its rules may have.
    pub(super) filters: &'static [&'static str],
}

/// `name` and `namespace` of a reference to a Service.
pub(super) fn service(fields: &mut Fields<'_>, namespace: &Namespace) -> Option<ServiceName> {
    let (of, name) = (fields.get("namespace"), fields.need("name"));
    let namespace = match of {
        Some(value) => value.check(Namespace::new(value.text()?).map_err(text::invalid_name))?,
        None => namespace.clone(),
    };
    let name = name?;
    name.check(ServiceName::new(&namespace, name.text()?).map_err(text::invalid_name))
}

/// A port of a Service that requests are sent to.
pub(super) fn target(fields: &mut Fields<'_>, namespace: &Namespace) -> Option<(ServiceName, u16)> {
    let mut text = |name: &str, otherwise: &'static str| match fields.get(name) {
        Some(value) => value.text(),
        None => Some(otherwise),
    };
    let (group, kind) = (text("group", ""), text("kind", "Service"));
    let port = fields.get("port");
    let service = service(fields, namespace);
    let (group, kind) = (group?, kind?);
    if !matches!((group, kind), ("" | "core", "Service")) {
        let message = "a backend is of kind Service, group \"\"";
        fields
            .whole()
            .refuse(format_args!("{kind} of group {group:?}: {message}"));
        return None;
    }
    if !fields.has("port") {
        fields.missing("port", "is missing");
    }
    let port = port.and_then(|port| port.integer_in(1, 65_535));
    Some((service?, port?))
}
