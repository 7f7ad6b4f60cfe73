//! `gateway.networking.k8s.io/v1 TLSRoute` and `TCPRoute`, attached to Services (GAMMA).

use inmesh_core::model::Kind;
use inmesh_core::route::{Backend, OpaqueRoute, ServerNames};

use super::super::Defaults;
use super::super::strict::{Fields, Value};
use super::attached::attached;
use super::reference::Within;
use super::rules::{name, opaque_backends};

/// The most names of a TLSRoute (Gateway API).
const NAMES: usize = 1024;
/// The version whose TLSRoutes need no names; any TLS connection meets one without.
const NAMELESS: &str = "v1alpha2";

/// The rule of a route: its backends, and the name that other documents know it by.
type OneRule<'t> = (Vec<Backend>, Option<&'t str>);

/// Reads a route; the inner `None` is one that is for gateways.
pub(in crate::manifest) fn read(
    fields: &mut Fields<'_>,
    kind: &Kind,
    version: &str,
    defaults: &Defaults,
) -> Option<Option<OpaqueRoute>> {
    let read = attached(fields, kind.clone(), &[], defaults, |list, within| {
        let Some(list) = list else {
            return Some(None);
        };
        let rules = list.list_of(1)?;
        Some(Some(rule(rules.first()?, within)?))
    })?;
    let Some(read) = read else {
        return Some(None);
    };
    let tls = *kind == Kind::TlsRoute;
    let names = match &read.hostnames {
        Some(list) => Some(names(list, version)?),
        None if tls && version != NAMELESS => {
            read.spec.refuse("names no server: hostnames is missing");
            return None;
        }
        None => None,
    };
    let Some((backends, name)) = read.rules else {
        read.spec.refuse("has no rule: rules is missing");
        return None;
    };
    let route = OpaqueRoute::new(read.meta.key, read.parents, backends);
    let mut route = read.at.check(route)?;
    if let Some(names) = names.filter(|names| !names.is_empty()) {
        route = read.at.check(route.with_names(names))?;
    }
    if let Some(name) = name {
        route = route.named(name);
    }
    Some(Some(route.with_created(read.meta.created)))
}

fn names(list: &Value<'_>, version: &str) -> Option<Vec<ServerNames>> {
    let items = match version {
        NAMELESS => list.list_of_or_empty(NAMES)?,
        _ => list.list_of(NAMES)?,
    };
    let name = |item: &Value<'_>| item.check(ServerNames::new(item.text()?));
    let names: Vec<_> = items.iter().map(name).collect();
    names.into_iter().collect()
}

fn rule<'t>(value: &Value<'t>, within: Within<'_>) -> Option<OneRule<'t>> {
    value.object(|rule| {
        let name = name(rule);
        let backends = opaque_backends(rule, within)?;
        Some((backends, name?.map(|(name, _)| name)))
    })
}
