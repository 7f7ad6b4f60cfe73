//! What a route of any kind is attached to.

use inmesh_core::model::{Kind, Namespace};
use inmesh_core::route::Parent;

use super::super::meta::{self, Meta};
use super::super::strict::{Fields, Value};
use super::super::{Defaults, text};
use super::reference::{self, LATER, Within, checked, service};

/// A route that is attached to Services.
pub(super) struct Attached<'t, R> {
    pub(super) meta: Meta<'t>,
    /// Where its parents stand.
    pub(super) at: Value<'t>,
    pub(super) spec: Value<'t>,
    /// The names of servers that a TLSRoute is for.
    pub(super) hostnames: Option<Value<'t>>,
    pub(super) parents: Vec<Parent>,
    pub(super) rules: R,
}

/// Reads a route but for its rules, which `rules` reads; `filters` are the kinds that they may have. The
/// inner `None` is one that is for gateways.
pub(super) fn attached<'t, R>(
    fields: &mut Fields<'t>,
    kind: Kind,
    filters: &'static [&'static str],
    defaults: &Defaults,
    rules: impl FnOnce(Option<Value<'t>>, Within<'_>) -> Option<R>,
) -> Option<Option<Attached<'t, R>>> {
    fields.ignore(&["status"]);
    let meta = meta::read(fields, kind.clone(), defaults);
    // Without a namespace the rest is still read, for its problems.
    let namespace = meta
        .as_ref()
        .map_or(&defaults.namespace, |meta| &meta.key.namespace);
    let read = fields.need("spec")?.object(|spec| {
        let list = spec.get("parentRefs");
        let hostnames = match kind {
            Kind::TcpRoute => None,
            _ => spec.get("hostnames"),
        };
        let (listed, whole) = (spec.get("rules"), spec.whole().clone());
        let parents = match &list {
            Some(list) => parents(list, namespace)?,
            None => Vec::new(),
        };
        let at = list.unwrap_or_else(|| whole.clone());
        if parents.is_empty() {
            at.note("names no Service, so the route is for gateways and is skipped");
            return Some(None);
        }
        // Experimental, and of gateways.
        spec.refuse_all(&["useDefaultGateways"], LATER);
        if let Some(hostnames) = hostnames.as_ref().filter(|_| kind != Kind::TlsRoute) {
            read_hostnames(hostnames);
        }
        let within = Within {
            namespace,
            parents: &parents,
            filters,
        };
        let rules = rules(listed, within)?;
        Some(Some((at, whole, hostnames, parents, rules)))
    })?;
    let Some((at, spec, hostnames, parents, rules)) = read else {
        return Some(None);
    };
    let meta = meta?;
    meta.annotations.refuse_ours_but(meta::OF_STAGES);
    Some(Some(Attached {
        meta,
        at,
        spec,
        hostnames,
        parents,
        rules,
    }))
}

fn read_hostnames(list: &Value<'_>) {
    let items = list.list_of_or_empty(16).unwrap_or_default();
    for item in &items {
        if let Some(name) = item.text()
            && !text::is_subdomain(name.strip_prefix("*.").unwrap_or(name))
        {
            item.refuse(format_args!("{name:?} is not a host name in lower case"));
        }
    }
    if !items.is_empty() {
        list.warn("has no effect on a route that is attached to a Service");
    }
}

fn parents(list: &Value<'_>, namespace: &Namespace) -> Option<Vec<Parent>> {
    let mut parents: Vec<Parent> = Vec::new();
    let mut seen: Vec<Named<'_>> = Vec::new();
    for value in list.list_of_or_empty(32)? {
        let (parent, named) = value.object(|parent| one_parent(parent, namespace))?;
        // The rule of the schema is about what is written, not about what it comes to.
        let same = |other: &&Named<'_>| {
            other.parent == named.parent
                && (other.section.is_none()
                    || named.section.is_none()
                    || other.section == named.section)
        };
        if seen.iter().any(|other| same(&other)) {
            value.refuse("stands twice: references to one parent differ by their sectionName");
        }
        seen.push(named);
        if let Some(parent) = parent
            && !parents.contains(&parent)
        {
            parents.push(parent);
        }
    }
    Some(parents)
}

/// A reference to a parent, as it is written.
struct Named<'t> {
    /// Group, kind, namespace and name.
    parent: [&'t str; 4],
    section: Option<&'t str>,
}

/// Reads a reference to a parent; the inner `None` is one that is no Service.
fn one_parent<'t>(
    parent: &mut Fields<'t>,
    namespace: &Namespace,
) -> Option<(Option<Parent>, Named<'t>)> {
    let (group, kind) = (
        checked(
            parent.get("group"),
            "gateway.networking.k8s.io",
            reference::group,
        ),
        checked(parent.get("kind"), "Gateway", reference::kind),
    );
    let of = checked(parent.get("namespace"), "", |name| {
        Namespace::new(name).map(drop).map_err(text::invalid_name)
    });
    let section = checked(parent.get("sectionName"), "", |name| {
        text::subdomain(name).map(drop)
    });
    let port = parent.get("port");
    let name = parent.need("name")?;
    let (group, kind, section) = (group?, kind?, section?);
    let named = Named {
        parent: [group, kind, of?, reference::name(&name)?],
        section: Some(section).filter(|section| !section.is_empty()),
    };
    let port = match port {
        Some(port) => Some(port.integer_in(1, 65_535)?),
        None => None,
    };
    if !matches!((group, kind), ("" | "core", "Service")) {
        let whole = parent.whole();
        whole.note(format_args!(
            "{kind} of group {group:?} is not attached to: the mesh reads parents of kind Service, \
             group \"\""
        ));
        return Some((None, named));
    }
    let read = Parent::new(service(parent, namespace)?, port);
    // Of a Service it is the name of a port.
    let read = match named.section {
        Some(section) => read.named(section),
        None => read,
    };
    Some((Some(read), named))
}
