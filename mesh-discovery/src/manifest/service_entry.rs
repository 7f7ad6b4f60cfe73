//! `inmesh.dev/v1alpha1 ServiceEntry`: hosts outside the mesh by their own names, in Istio's words.
//!
//! It becomes a Service of the same name, which is found by its hosts too. Strict, as all of ours: what
//! Istio knows and is not evaluated here refuses it. How bytes travel is written, and never assumed: TLS
//! that is the application's own stays, for anything else the annotation says it.

use inmesh_core::model::{
    AppProtocol, Host, HostPattern, Kind, Outside, OutsidePort, Resolution, Service, ServiceName,
    ServicePort, SliceHost, Transport,
};

use super::strict::{Fields, Shape, Value};
use super::text::{host_name, port_name};
use super::transport::{self, ANNOTATIONS, DNS};
use super::{Defaults, Unsaid, endpoints, meta, text};

/// The most hosts, addresses, ports and endpoints (Istio's schema has 256 hosts and endpoints).
const HOSTS: usize = 256;
const ADDRESSES: usize = 256;
const PORTS: usize = 256;
const ENDPOINTS: usize = 256;
/// Why a field of Istio's is refused.
const UNUSED: &str = "is valid in Istio, but not evaluated here";
/// What is read of `location` and `resolution`.
const RESOLUTIONS: &[&str] = &["NONE", "STATIC", "DNS", "DYNAMIC_DNS"];

/// Reads an entry.
pub(super) fn read(fields: &mut Fields<'_>, file: &str, defaults: &Defaults) -> Option<Service> {
    fields.ignore(&["status"]);
    let meta = meta::read(fields, Kind::ServiceEntry, defaults);
    let spec = fields.need("spec")?;
    spec.object(|spec| {
        spec.refuse_all(&["workloadSelector"], UNUSED);
        spec.refuse_items(
            "exportTo",
            "is not evaluated here: an entry is for all namespaces",
        );
        spec.refuse_items(
            "subjectAltNames",
            "is not evaluated here: a BackendTLSPolicy says what a server proves",
        );
        let location = spec.get("location");
        let (hosts, addresses) = (spec.need("hosts"), spec.get("addresses"));
        let (ports, resolution) = (spec.need("ports"), spec.get("resolution"));
        let listed = spec.get("endpoints");
        if let Some(location) = location
            && location.choice(&["MESH_EXTERNAL", "MESH_INTERNAL"])? == "MESH_INTERNAL"
        {
            location.refuse("is not read here: what is in the mesh is a Service with slices");
        }
        let hosts = hosts.and_then(|list| read_hosts(&list));
        let resolution = match &resolution {
            Some(value) => value.choice(RESOLUTIONS)?,
            None => "NONE",
        };
        let addresses = match &addresses {
            Some(list) => read_addresses(list, defaults)?,
            None => Vec::new(),
        };
        let meta = meta?;
        meta.annotations.refuse_ours_but(ANNOTATIONS);
        if let Some(dns) = meta.annotations.find(DNS) {
            dns.refuse("has no meaning on this object");
        }
        let ports = ports.and_then(|list| read_ports(&list));
        let (hosts, ports) = (hosts?, ports?);
        let resolution = read_resolution(spec, resolution, &hosts, listed.as_ref(), defaults)?;
        let only = match &hosts[..] {
            [one] if !one.is_wildcard() => Some(one.as_str()),
            _ => None,
        };
        let dynamic = matches!(resolution, Resolution::Dynamic);
        let of_ports = transports(&ports, &meta, spec.whole(), (file, only, dynamic))?;
        let name = meta.named(ServiceName::new)?;
        let of_service = ports.iter().map(|(port, ..)| port.clone()).collect();
        let outside = Outside::new(hosts, resolution, of_ports);
        let service = Service::new(name, of_service).with_addresses(addresses);
        Some(service.outside(outside))
    })
}

/// A port of the Service, its number on the host, and whether its bytes are TLS of the application.
type Port = (ServicePort, u16, bool);

fn read_hosts(list: &Value<'_>) -> Option<Vec<HostPattern>> {
    let mut read: Vec<HostPattern> = Vec::new();
    for value in &list.list_of(HOSTS)? {
        let text = value.text()?;
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(domain) => ("*.", domain),
            None => ("", text),
        };
        let name = value.check(host_name(name))?;
        if !name.contains('.') {
            value.refuse("has no dot: a host outside the mesh is named in full");
            return None;
        }
        let pattern = HostPattern::new(&format!("{wildcard}{name}")).map_err(text::invalid_name);
        let pattern = value.check(pattern)?;
        if read.contains(&pattern) {
            value.refuse("stands twice");
        }
        read.push(pattern);
    }
    Some(read)
}

fn read_addresses(list: &Value<'_>, defaults: &Defaults) -> Option<Vec<std::net::IpAddr>> {
    let mut read = Vec::new();
    for value in &list.list_of_or_empty(ADDRESSES)? {
        if value.text()?.contains('/') {
            value
                .refuse("is a range of addresses, which is not evaluated here: write each address");
            return None;
        }
        read.push(address(value, defaults)?);
    }
    Some(read)
}

fn address(value: &Value<'_>, defaults: &Defaults) -> Option<std::net::IpAddr> {
    let v6 = value.text()?.contains(':');
    match endpoints::address(value, v6, defaults.allow_loopback)? {
        Host::Address(address) => Some(address),
        _ => None,
    }
}

fn read_ports(list: &Value<'_>) -> Option<Vec<Port>> {
    let mut read: Vec<Port> = Vec::new();
    for value in &list.list_of(PORTS)? {
        let port = value.object(|port| {
            let (number, protocol) = (port.need("number"), port.need("protocol"));
            let (name, target) = (port.need("name"), port.get("targetPort"));
            let name = name?;
            let name = name.check(port_name(name.text()?))?;
            let number: u16 = number?.integer_in(1, 65_535)?;
            let target = match target {
                Some(target) => target.integer_in(1, 65_535)?,
                None => number,
            };
            let names = ["HTTP", "HTTPS", "GRPC", "HTTP2", "TCP", "TLS"];
            let (protocol, own_tls) = match protocol?.choice(&names)? {
                "HTTP" => (AppProtocol::Http1, false),
                "GRPC" | "HTTP2" => (AppProtocol::Http2, false),
                "TCP" => (AppProtocol::Tcp, false),
                _ => (AppProtocol::Tcp, true),
            };
            Some((ServicePort::new(name, number, protocol), target, own_tls))
        })?;
        let earlier = read.iter().map(|(earlier, ..)| earlier);
        let mut earlier = earlier.filter(|e| e.port == port.0.port || e.name == port.0.name);
        if earlier.next().is_some() {
            value.refuse("its name or number stands twice");
        }
        read.push(port);
    }
    Some(read)
}

/// Where a request goes, as far as the hosts let it.
fn read_resolution(
    spec: &Fields<'_>,
    resolution: &str,
    hosts: &[HostPattern],
    listed: Option<&Value<'_>>,
    defaults: &Defaults,
) -> Option<Resolution> {
    let listed = listed.filter(|list| list.len() != Some(0));
    if let (Some(list), "NONE" | "DYNAMIC_DNS") = (listed, resolution) {
        list.refuse(format_args!(
            "has no effect with the resolution {resolution}"
        ));
        return None;
    }
    match (resolution, listed) {
        ("NONE", _) => Some(Resolution::Original),
        ("DYNAMIC_DNS", _) => Some(Resolution::Dynamic),
        ("STATIC", None) => {
            spec.missing("endpoints", "is missing: the resolution STATIC sends to it");
            None
        }
        (resolution, Some(list)) => {
            let dns = resolution == "DNS";
            let items = list.list_of(ENDPOINTS)?;
            let read = items.iter().map(|value| endpoint(value, dns, defaults));
            read.collect::<Option<Vec<_>>>().map(Resolution::Listed)
        }
        (_, None) => match hosts {
            [one] if !one.is_wildcard() => Some(Resolution::Listed(vec![named(one.as_str())])),
            _ => {
                spec.missing(
                    "endpoints",
                    "is missing: the resolution DNS sends to it, or to the only host. For several \
                     hosts or a wildcard write DYNAMIC_DNS, which resolves the name that is asked for",
                );
                None
            }
        },
    }
}

fn named(name: &str) -> SliceHost {
    SliceHost::new(Host::Name {
        name: name.into(),
        srv: None,
    })
}

fn endpoint(value: &Value<'_>, dns: bool, defaults: &Defaults) -> Option<SliceHost> {
    value.object(|endpoint| {
        endpoint.ignore_typed(&[("labels", Shape::TextMap)]);
        endpoint.refuse_all(&["locality", "network", "ports", "serviceAccount"], UNUSED);
        let (at, weight) = (endpoint.need("address"), endpoint.get("weight"));
        let at = at?;
        let is_name = at.text()?.parse::<std::net::IpAddr>().is_err();
        let host = match dns && is_name {
            true => named(&at.check(host_name(at.text()?))?),
            false => SliceHost::new(Host::Address(address(&at, defaults)?)),
        };
        match weight {
            Some(weight) => Some(host.with_weight(weight.integer_in(1, 1_000_000)?)),
            None => Some(host),
        }
    })
}

/// How bytes travel to each port. With names that are found out later, that which is asked for is the one
/// on the certificate.
fn transports(
    ports: &[Port],
    meta: &meta::Meta<'_>,
    at: &Value<'_>,
    (file, only, dynamic): (&str, Option<&str>, bool),
) -> Option<Vec<OutsidePort>> {
    let annotations = &meta.annotations;
    let said = match annotations.find(transport::TRANSPORT) {
        Some(value) => {
            let name = value.choice(&["mesh", "plain", "tls"])?;
            if name == "mesh" {
                value.refuse("what is outside the mesh is reached in tls or plain");
                return None;
            }
            let asked = only.or_else(|| dynamic.then_some(""));
            Some(transport::read(
                annotations,
                at,
                (file, Unsaid::Refused),
                asked,
            )?)
        }
        None => {
            let keys = [transport::IDS, transport::CA, transport::SERVER_NAME];
            for value in keys.iter().filter_map(|key| annotations.find(key)) {
                value.refuse("has no effect without inmesh.dev/transport");
            }
            None
        }
    };
    if said.is_none() && ports.iter().any(|(.., own_tls)| !own_tls) {
        at.refuse(
            "how bytes travel to ports that are not HTTPS or TLS is not known: write the annotation \
             inmesh.dev/transport: tls, with inmesh.dev/ca, or plain",
        );
        return None;
    }
    let port = |(port, target, own_tls): &Port| {
        let transport = match &said {
            Some(said) if !own_tls => said.clone(),
            _ => Transport::Plain,
        };
        OutsidePort::new(port.port, transport).at(*target)
    };
    Some(ports.iter().map(port).collect())
}
