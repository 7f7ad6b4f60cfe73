//! References to Services: as the parent of a route, its backend, or what it mirrors to; and what all
//! readers of routes share.

use inmesh_core::model::{Namespace, ServiceName};
use inmesh_core::route::Parent;

use super::super::strict::{Fields, Value};
use super::super::text;
use super::matches::field_value;

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

/// The longest name of an object, and of a group, in characters (Gateway API).
const NAME_CHARS: usize = 253;
/// The longest kind, in characters (Gateway API).
const KIND_CHARS: usize = 63;
/// The port of a backend that is no Service and names none.
const NO_PORT: u16 = 0;

/// A port of a Service that requests are sent to. An object of another kind is one that no Service is: what is
/// sent there is answered as for a backend that does not exist (`ResolvedRefs`, `InvalidKind`).
pub(super) fn target(fields: &mut Fields<'_>, namespace: &Namespace) -> Option<(ServiceName, u16)> {
    let (group, kind) = (
        checked(fields.get("group"), "", group),
        checked(fields.get("kind"), "Service", kind),
    );
    let port = fields.get("port");
    let (of, name) = (fields.get("namespace"), fields.need("name"));
    let (group, kind, name) = (group?, kind?, name?);
    let namespace = match of {
        Some(value) => value.check(Namespace::new(value.text()?).map_err(text::invalid_name))?,
        None => namespace.clone(),
    };
    if !matches!((group, kind), ("" | "core", "Service")) {
        let port = port.map_or(Some(NO_PORT), |port| port.integer_in(1, 65_535));
        let name = self::name(&name)?;
        return Some((ServiceName::foreign(&namespace, group, kind, name), port?));
    }
    if !fields.has("port") {
        fields.missing("port", "is missing");
    }
    let service = ServiceName::new(&namespace, name.text()?).map_err(text::invalid_name);
    let port = port.and_then(|port| port.integer_in(1, 65_535));
    Some((name.check(service)?, port?))
}

/// A text that fits, or what stands for one that is left out.
pub(super) fn checked<'t>(
    value: Option<Value<'t>>,
    otherwise: &'static str,
    fits: fn(&str) -> Result<(), String>,
) -> Option<&'t str> {
    let Some(value) = value else {
        return Some(otherwise);
    };
    let text = value.text()?;
    value.check(fits(text))?;
    Some(text)
}

/// The name of an object of any kind, as the schema has it.
pub(super) fn name<'t>(value: &Value<'t>) -> Option<&'t str> {
    value.check(field_value(value.text()?, NAME_CHARS))
}

/// A group as the schema has it.
pub(super) fn group(group: &str) -> Result<(), String> {
    match group.is_empty() || (text::is_subdomain(group) && group.len() <= NAME_CHARS) {
        true => Ok(()),
        false => Err(format!("{group:?} is no group")),
    }
}

/// A kind as the schema has it.
pub(super) fn kind(kind: &str) -> Result<(), String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let fits = kind.starts_with(|c: char| c.is_ascii_alphabetic())
        && kind.bytes().all(inner)
        && !kind.ends_with('-')
        && kind.len() <= KIND_CHARS;
    match fits {
        true => Ok(()),
        false => Err(format!("{kind:?} is no kind")),
    }
}
