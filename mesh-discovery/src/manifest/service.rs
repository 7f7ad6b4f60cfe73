//! `v1 Service`: ports, and for type ExternalName the host outside and how to reach it.
//!
//! Unknown fields are reported and not refused: a Service is written for others too.

use std::net::IpAddr;
use std::sync::Arc;

use inmesh_core::model::{
    AppProtocol, Distribution, Host, Kind, Service, ServiceName, ServicePort, Subset, check_label,
};

use super::strict::{Fields, Shape, Value};
use super::text::{host_name, port_name};
use super::transport::{self, ANNOTATIONS};
use super::{Defaults, endpoints, meta, text};

/// Fields of `spec` that are known and of no meaning here.
const IGNORED: &[(&str, Shape)] = &[
    ("allocateLoadBalancerNodePorts", Shape::Boolean),
    ("externalIPs", Shape::Texts),
    ("externalTrafficPolicy", Shape::Text),
    ("healthCheckNodePort", Shape::Integer),
    ("internalTrafficPolicy", Shape::Text),
    ("ipFamilies", Shape::Texts),
    ("ipFamilyPolicy", Shape::Text),
    ("loadBalancerClass", Shape::Text),
    ("loadBalancerIP", Shape::Text),
    ("loadBalancerSourceRanges", Shape::Texts),
    ("publishNotReadyAddresses", Shape::Boolean),
    ("sessionAffinity", Shape::Text),
    ("sessionAffinityConfig", Shape::Map),
    ("topologyKeys", Shape::Texts),
];

/// The Service of which it has those endpoints that its selector selects.
const SUBSET: &str = "inmesh.dev/subset-of";

/// The most ports of a Service.
const PORTS: usize = 1_000;

/// Declarations that are opaque on purpose.
const OPAQUE: &[&str] = &[
    "tcp",
    "tls",
    "https",
    "kubernetes.io/wss",
    "mongo",
    "mysql",
    "redis",
];

pub(super) fn read(fields: &mut Fields<'_>, file: &str, defaults: &Defaults) -> Option<Service> {
    fields.ignore(&["status"]);
    let meta = meta::read(fields, Kind::Service, defaults);
    fields.need("spec")?.object(|spec| {
        spec.ignore_typed(IGNORED);
        let (ports, kind) = (spec.nullable("ports"), spec.get("type"));
        let external_name = spec.get("externalName");
        let (address, all) = (spec.nullable("clusterIP"), spec.nullable("clusterIPs"));
        let addresses = addresses(address.as_ref(), all.as_ref(), defaults);
        let distribution = spec.get("trafficDistribution");
        let selector = match spec.nullable("selector") {
            Some(selector) => selector.texts().map(Some),
            None => Some(None),
        };
        let items = match ports {
            Some(ports) => ports.list_of_or_empty(PORTS)?,
            None => Vec::new(),
        };
        let read: Vec<_> = items.iter().filter_map(port).collect();
        // With one that was refused, what is missing may be there.
        let all = read.len() == items.len();
        let ports: Vec<_> = read.into_iter().flatten().collect();
        if all {
            check_ports(spec, &ports);
        }
        let kind = match kind {
            Some(value) => {
                value.choice(&["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"])?
            }
            None => "ClusterIP",
        };
        let distribution = match distribution {
            Some(value) => Some((read_distribution(&value)?, value)),
            None => None,
        };
        let meta = meta?;
        let name = meta.named(ServiceName::new)?;
        if kind != "ExternalName" {
            // The endpoints stand in slices, and so do these.
            meta.annotations.refuse_ours_but(&[SUBSET]);
            let subset = subset(&meta, &name, spec, &selector?.unwrap_or_default())?;
            if let Some(value) = external_name {
                value.warn("has no effect but with type ExternalName");
            }
            let ports = ports.into_iter().map(|(port, _)| port).collect();
            let mut service = Service::new(name, ports);
            service.distribution = distribution.and_then(|(distribution, _)| distribution);
            service.subset = subset;
            return Some(service.with_addresses(addresses?));
        }
        if let Some((_, value)) = distribution {
            value.warn("has no effect with type ExternalName, whose host has no place");
        }
        meta.annotations.refuse_ours_but(ANNOTATIONS);
        let Some(host) = external_name else {
            spec.missing("externalName", "is missing: type ExternalName names a host");
            return None;
        };
        let host = host.check(host_name(host.text()?))?;
        let names: Vec<&str> = ports.iter().map(|(port, _)| &*port.name).collect();
        let srv = endpoints::srv(&meta.annotations, &names);
        let transport = transport::read(
            &meta.annotations,
            spec.whole(),
            (file, defaults.unsaid),
            Some(&host),
        )?;
        let host = Host::Name {
            name: host.into(),
            srv: srv?,
        };
        let ports = ports.into_iter().map(|(port, _)| port).collect();
        Some(Service::new(name, ports).external(host, transport))
    })
}

/// Virtual addresses; `None` (as a text) and the empty text are none.
fn addresses(
    first: Option<&Value<'_>>,
    all: Option<&Value<'_>>,
    defaults: &Defaults,
) -> Option<Vec<IpAddr>> {
    let mut found = Vec::new();
    let all = match all {
        Some(all) => all.list_of_or_empty(2)?,
        None => Vec::new(),
    };
    for value in first.into_iter().chain(&all) {
        let text = value.text()?;
        if matches!(text, "" | "None") {
            continue;
        }
        let address = text.parse::<IpAddr>();
        let address = value.check(address.map_err(|_| format!("{text:?} is no address")))?;
        if let Some(why) = endpoints::forbidden(address, defaults.allow_loopback) {
            value.refuse(format_args!("{address} {why}"));
            return None;
        }
        if !found.contains(&address) {
            found.push(address);
        }
    }
    Some(found)
}

/// The endpoints of another Service that the selector selects, if one is named.
fn subset(
    meta: &meta::Meta<'_>,
    name: &ServiceName,
    spec: &Fields<'_>,
    selector: &[(&str, Value<'_>)],
) -> Option<Option<Subset>> {
    let Some(of) = meta.annotations.find(SUBSET) else {
        return Some(None);
    };
    let other = ServiceName::new(name.namespace(), of.text()?).map_err(text::invalid_name);
    let other = of.check(other)?;
    if other == *name {
        of.refuse("is the Service itself");
    }
    if selector.is_empty() {
        spec.missing(
            "selector",
            format_args!("is missing: it says which endpoints of {other} are meant"),
        );
    }
    let mut labels: Vec<(Arc<str>, Arc<str>)> = Vec::new();
    for (label, value) in selector {
        let text = value.text()?;
        value.check(check_label(label, text).map_err(text::invalid_name))?;
        labels.push(((*label).into(), text.into()));
    }
    Some(Some(Subset::new(other, labels)))
}

/// Reads a preference; the inner `None` is one that is not known here.
fn read_distribution(value: &Value<'_>) -> Option<Option<Distribution>> {
    Some(match value.text()? {
        "PreferClose" | "PreferSameZone" => Some(Distribution::SameZone),
        "PreferSameNode" => Some(Distribution::SameNode),
        // An API server lets others through, for other implementations.
        text => {
            value.warn(format_args!("{text:?} is not known and has no effect"));
            None
        }
    })
}

/// Reads a port; the inner `None` is one that is skipped.
fn port<'t>(value: &Value<'t>) -> Option<Option<(ServicePort, Value<'t>)>> {
    value.object(|port| {
        port.ignore_typed(&[
            ("nodePort", Shape::Integer),
            ("targetPort", Shape::IntegerOrText),
        ]);
        let name = match port.nullable("name").map(|name| (name.text(), name)) {
            Some((Some(""), _)) | None => Some(""),
            Some((text, name)) => text.and_then(|text| name.check(port_name(text))),
        };
        let (number, app_protocol) = (port.need("port"), port.nullable("appProtocol"));
        let tcp = is_tcp(port);
        let (name, number) = (name?, number?.integer_in(1, 65_535));
        let app_protocol = match app_protocol {
            Some(value) => Some((value.text()?, value)),
            None => None,
        };
        if !tcp? {
            return Some(None);
        }
        let protocol = AppProtocol::declared(app_protocol.as_ref().map(|(text, _)| *text), name);
        if let Some((text, value)) = app_protocol
            && protocol == AppProtocol::Tcp
            && !OPAQUE.contains(&text)
        {
            value.warn(format_args!(
                "{text:?} is not known; its bytes are not looked into"
            ));
        }
        let read = ServicePort::new(name, number?, protocol);
        Some(Some((read, port.whole().clone())))
    })
}

/// Whether the port is TCP; others are skipped.
pub(super) fn is_tcp(port: &mut Fields<'_>) -> Option<bool> {
    let Some(protocol) = port.nullable("protocol") else {
        return Some(true);
    };
    let tcp = protocol.choice(&["TCP", "UDP", "SCTP"])? == "TCP";
    if !tcp {
        protocol.note("the mesh forwards TCP only; the port is skipped");
    }
    Some(tcp)
}

fn check_ports(spec: &Fields<'_>, ports: &[(ServicePort, Value<'_>)]) {
    if ports.is_empty() {
        spec.whole()
            .warn("it has no TCP port, so nothing can be sent to it");
    }
    for (n, (port, value)) in ports.iter().enumerate() {
        if port.name.is_empty() && ports.len() > 1 {
            value.refuse("has no name, which it needs where there are several ports");
        }
        let earlier = || ports.iter().take(n).map(|(earlier, _)| earlier);
        if earlier().any(|e| e.port == port.port) {
            value.refuse(format_args!("the port {} stands twice", port.port));
        } else if !port.name.is_empty() && earlier().any(|e| e.name == port.name) {
            value.refuse(format_args!("the name {:?} stands twice", port.name));
        }
    }
}
