//! `discovery.k8s.io/v1 EndpointSlice`: hosts, ports, transport and the identities that may answer.
//!
//! Each address is an endpoint of its own, at the zone and node of its entry and in the slice's region. Bounds are those of the API. The slice's port is where the endpoint listens; for a
//! mesh endpoint that is the inbound agent.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use inmesh_core::model::{
    Conditions, Host, IdSet, Kind, Locality, Namespace, ObjectKey, PodRef, ServiceName, Slice,
    SliceHost, SlicePort, Transport, check_label,
};

use super::strict::{Fields, Shape, Value};
use super::text::{host_name, port_name};
use super::transport::{self, ANNOTATIONS};
use super::{Defaults, Unsaid, endpoints, meta, service, text};

/// The label that names the Service.
const SERVICE: &str = "kubernetes.io/service-name";
/// Labels that name the workload, first come first served.
pub(super) const WORKLOAD: &[&str] = &["app.kubernetes.io/name", "app"];
/// Labels that name its version.
pub(super) const VERSION: &[&str] = &["app.kubernetes.io/version", "version"];
/// The region of all endpoints of a slice, which Kubernetes does not write into it.
const REGION: &str = "inmesh.dev/region";
/// The most zones that an endpoint is meant for, as Kubernetes has it.
const ZONES: usize = 8;
/// The most ports of a slice.
const PORTS: usize = 1_000;
/// Fields of an endpoint that are known and of no meaning here.
const IGNORED: &[(&str, Shape)] = &[
    ("deprecatedTopology", Shape::TextMap),
    ("hostname", Shape::Text),
];

pub(super) fn read(fields: &mut Fields<'_>, file: &str, defaults: &Defaults) -> Option<Slice> {
    let meta = meta::read(fields, Kind::EndpointSlice, defaults);
    let ports = fields.nullable("ports");
    let family = fields.need("addressType");
    let list = fields.nullable("endpoints");
    let ports = match ports {
        Some(ports) => read_ports(&ports)?,
        None => Vec::new(),
    };
    let names: Vec<&str> = ports.iter().map(|port| &*port.name).collect();
    let family = family?.choice(&["IPv4", "IPv6", "FQDN"])?;
    let meta = meta?;
    meta.annotations
        .refuse_ours_but(&[ANNOTATIONS, &[REGION]].concat());
    let region = match meta.annotations.find(REGION) {
        Some(region) => Some(label_value(region)?),
        None => None,
    };
    let mut places = Places::of(region.unwrap_or_default());
    let srv = match endpoints::srv(&meta.annotations, &names) {
        Some(Some(_)) if family != "FQDN" => {
            fields
                .whole()
                .refuse("inmesh.dev/dns needs addressType FQDN");
            None
        }
        srv => srv,
    };
    let host = |value: &Value<'_>| match family {
        "FQDN" => {
            let name = value.check(host_name(value.text()?))?;
            Some(Host::Name {
                name: name.into(),
                srv: srv.clone().flatten(),
            })
        }
        family => endpoints::address(value, family == "IPv6", defaults.allow_loopback),
    };
    let hosts = match list {
        Some(list) => {
            let namespace = meta.key.namespace.clone();
            let mut read = |value: &Value<'_>| endpoint(value, &host, &mut places, &namespace);
            list.list_of_or_empty(1_000)?
                .iter()
                .filter_map(&mut read)
                .flatten()
                .collect()
        }
        None => Vec::new(),
    };
    let hosts: Vec<SliceHost> = hosts;
    let pods = !transport::is_said(&meta.annotations) && hosts.iter().any(|h| h.pod.is_some());
    let transport = match (pods, defaults.unsaid) {
        // Hosts that are no Pods answer by no identity.
        (true, Unsaid::Refused) => Some(Transport::Mesh {
            ids: IdSet::new([]),
        }),
        _ => transport::read(
            &meta.annotations,
            fields.whole(),
            (file, defaults.unsaid),
            only_name(&hosts),
        ),
    };
    let service = service_name(fields, &meta);
    let workload = meta.labels.first(WORKLOAD)?;
    let version = meta.labels.first(VERSION)?;
    srv?;
    let labels = meta.labels.all();
    let slice = Slice::new(meta.key, service?, ports, hosts, transport?);
    let slice = slice.workload(workload, version).with_labels(labels);
    Some(if pods { slice.as_pods_say() } else { slice })
}

fn service_name(fields: &Fields<'_>, meta: &meta::Meta<'_>) -> Option<ServiceName> {
    let Some(label) = meta.labels.find(SERVICE) else {
        fields
            .whole()
            .refuse(format_args!("the label {SERVICE} is missing"));
        return None;
    };
    let name = ServiceName::new(&meta.key.namespace, label.text()?);
    label.check(name.map_err(text::invalid_name))
}

/// The host name of all hosts, where it is one and the same.
fn only_name(hosts: &[SliceHost]) -> Option<&str> {
    let mut names = hosts.iter().map(|host| match &host.host {
        Host::Name { name, .. } => Some(&**name),
        _ => None,
    });
    let first = names.next()??;
    names.all(|name| name == Some(first)).then_some(first)
}

/// Reads the ports that are not skipped, no two of one name.
fn read_ports(list: &Value<'_>) -> Option<Vec<SlicePort>> {
    let mut ports: Vec<SlicePort> = Vec::new();
    for value in list.list_of_or_empty(PORTS)? {
        let Some(Some(port)) = port(&value) else {
            continue;
        };
        if ports.iter().any(|p| p.name == port.name) {
            value.refuse(format_args!("the name {:?} stands twice", port.name));
        }
        ports.push(port);
    }
    Some(ports)
}

/// Reads a port; the inner `None` is one that is skipped.
fn port(value: &Value<'_>) -> Option<Option<SlicePort>> {
    value.object(|port| {
        // What a port speaks is declared on the Service.
        port.ignore_typed(&[("appProtocol", Shape::Text)]);
        let name = match port.nullable("name").map(|name| (name.text(), name)) {
            Some((Some(""), _)) | None => Some(""),
            Some((text, name)) => text.and_then(|text| name.check(port_name(text))),
        };
        let number = port.get("port");
        let tcp = service::is_tcp(port);
        let Some(number) = number else {
            port.whole()
                .warn("has no number, which means any port; it is skipped");
            return Some(None);
        };
        let number = number.integer_in(1, 65_535);
        if !tcp? {
            return Some(None);
        }
        Some(Some(SlicePort::new(name?, number?)))
    })
}

fn endpoint(
    value: &Value<'_>,
    host: &impl Fn(&Value<'_>) -> Option<Host>,
    places: &mut Places,
    namespace: &Namespace,
) -> Option<Vec<SliceHost>> {
    value.object(|endpoint| {
        endpoint.ignore_typed(IGNORED);
        let pod = match endpoint.nullable("targetRef") {
            Some(target) => pod(&target, namespace),
            None => Some(None),
        };
        let conditions = match endpoint.nullable("conditions") {
            Some(value) => conditions(&value),
            None => Some(Conditions::default()),
        };
        let addresses = endpoint.need("addresses");
        let mut name = |name| match endpoint.nullable(name) {
            Some(value) => value.text(),
            None => Some(""),
        };
        let (zone, node) = (name("zone"), name("nodeName"));
        let hints = match endpoint.nullable("hints") {
            Some(hints) => for_zones(&hints),
            None => Some(Vec::new()),
        };
        let (conditions, locality) = (conditions?, places.at(zone?, node?, hints?));
        let addresses = addresses?.list_of(100)?;
        let hosts = addresses.iter().filter_map(host);
        let pod = pod?;
        let made = |host| {
            let mut made = SliceHost::new(host)
                .with_conditions(conditions)
                .with_locality(Arc::clone(&locality));
            made.pod.clone_from(&pod);
            made
        };
        Some(hosts.map(made).collect())
    })
}

/// The Pod that an endpoint is; the inner `None` is something else.
fn pod(value: &Value<'_>, namespace: &Namespace) -> Option<Option<PodRef>> {
    value.object(|target| {
        target.ignore_typed(&[
            ("apiVersion", Shape::Text),
            ("fieldPath", Shape::Text),
            ("resourceVersion", Shape::Text),
        ]);
        let mut text = |name| match target.nullable(name) {
            Some(value) => Some((value.text()?, Some(value))),
            None => Some(("", None)),
        };
        let (kind, of, uid, name) = (text("kind"), text("namespace"), text("uid"), text("name"));
        let ((kind, _), (of, _), (uid, _), (name, at)) = (kind?, of?, uid?, name?);
        let here = of.is_empty() || of == namespace.as_str();
        let Some(at) = at.filter(|_| kind == "Pod" && here && !name.is_empty()) else {
            return Some(None);
        };
        let key = ObjectKey::new(Kind::Pod, namespace, name).map_err(text::invalid_name);
        Some(Some(PodRef::new(at.check(key)?, uid)))
    })
}

/// The zones that an endpoint is meant for.
fn for_zones<'t>(value: &Value<'t>) -> Option<Vec<&'t str>> {
    value.object(|hints| {
        // A node is compared with `nodeName`, which is the same where it counts.
        hints.ignore_typed(&[("forNodes", Shape::List)]);
        let zones = match hints.nullable("forZones") {
            Some(zones) => zones.list_of_or_empty(ZONES)?,
            None => Vec::new(),
        };
        let name = |zone: &Value<'t>| zone.object(|zone| label_value(&zone.need("name")?));
        zones.iter().map(name).collect()
    })
}

/// A text that is the value of a label and not empty.
fn label_value<'t>(value: &Value<'t>) -> Option<&'t str> {
    let text = value.text()?;
    if text.is_empty() {
        value.refuse("is empty");
        return None;
    }
    let checked = check_label("topology.kubernetes.io/zone", text);
    value.check(checked.map_err(text::invalid_name))?;
    Some(text)
}

fn conditions(value: &Value<'_>) -> Option<Conditions> {
    value.object(|fields| {
        let mut condition = |name| match fields.nullable(name) {
            Some(value) => value.boolean().map(Some),
            None => Some(None),
        };
        let (ready, serving) = (condition("ready"), condition("serving"));
        let terminating = condition("terminating");
        Some(Conditions::new(ready?, serving?, terminating?))
    })
}

/// The places of a slice's endpoints, of which many are alike: one for each.
struct Places {
    region: Arc<str>,
    names: HashMap<String, Arc<str>>,
    known: HashSet<Arc<Locality>>,
}

// === impl Places ===

impl Places {
    fn of(region: &str) -> Self {
        Self {
            region: region.into(),
            names: HashMap::new(),
            known: HashSet::new(),
        }
    }

    fn at(&mut self, zone: &str, node: &str, hints: Vec<&str>) -> Arc<Locality> {
        let mut shared = |name: &str| {
            let known = self.names.get(name).map(Arc::clone);
            known.unwrap_or_else(|| {
                let new: Arc<str> = name.into();
                self.names.insert(name.into(), Arc::clone(&new));
                new
            })
        };
        let (zone, node) = (shared(zone), shared(node));
        let mut new = Locality::default().for_zones(hints.into_iter().map(shared));
        (new.zone, new.node) = (zone, node);
        new.region = Arc::clone(&self.region);
        if let Some(known) = self.known.get(&new) {
            return Arc::clone(known);
        }
        let new = Arc::new(new);
        self.known.insert(Arc::clone(&new));
        new
    }
}
