//! What is handed on as bytes, and back. Pure.
//!
//! Its version is a hash of its content, so that every replica of a control plane gives it the same. What
//! comes from a control plane is checked as a document is: a resource under another name than its own, an
//! address that may not be sent to and an invalid identity refuse it.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use inmesh_core::authorize::Selects;
use inmesh_core::model::{
    Conditions, Host, IdSet, Kind, Locality, Namespace, ObjectKey, Roots, ServiceName, Slice,
    SliceHost, SlicePort, Transport,
};
use inmesh_core::snapshot::{Fallback, Handed, Op, Problem};
use inmesh_pki::Crypto;
use prost::Message;

use super::names;
use super::proto::objects as wire;
use crate::manifest::text::host_name;
use crate::manifest::{Defaults, forbidden, parse};

/// The most hosts of an EndpointSlice (that of the API).
const MAX_HOSTS: usize = 1_000;
/// The most parts, ports and places of one.
const MAX_PARTS: usize = 1_000;

/// One resource; what is sent to many is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) name: Arc<str>,
    pub(super) version: Arc<str>,
    pub(super) body: Bytes,
}

// === impl Resource ===

impl Resource {
    fn new(key: &ObjectKey, what: wire::object::What, crypto: &Crypto) -> Self {
        let body = wire::Object { what: Some(what) }.encode_to_vec();
        Self {
            name: key.to_string().into(),
            version: HEXLOWER.encode(&crypto.fingerprint(&body)).into(),
            body: body.into(),
        }
    }

    /// An object as it is handed on; `None` where its source has no document of it.
    pub(super) fn of_object(handed: &Handed, crypto: &Crypto) -> Option<Self> {
        let what = match (&handed.document, &handed.fallback, &handed.object) {
            (_, Fallback::Deny(selects), None) => wire::object::What::Denial(denial(selects)),
            (Some(text), _, None) => wire::object::What::Refused(text.to_string()),
            (Some(text), _, Some(_)) => wire::object::What::Document(text.to_string()),
            (None, ..) => return None,
        };
        Some(Self::new(&handed.key, what, crypto))
    }

    /// A document that is staged in the place of an object.
    pub(super) fn of_document(key: &ObjectKey, text: &str, crypto: &Crypto) -> Self {
        Self::new(key, wire::object::What::Document(text.to_owned()), crypto)
    }

    /// The endpoints of an EndpointSlice, in slices without Pods.
    pub(super) fn of_slices(key: &ObjectKey, slices: &[Slice], crypto: &Crypto) -> Option<Self> {
        let endpoints = endpoints(slices)?;
        Some(Self::new(
            key,
            wire::object::What::Endpoints(endpoints),
            crypto,
        ))
    }
}

fn denial(selects: &Selects) -> wire::Denial {
    use wire::denial::Selects as To;
    let to = match selects {
        Selects::Namespace(namespace) => To::Namespace(namespace.to_string()),
        Selects::Workloads(namespace, labels) => To::Workloads(wire::Workloads {
            namespace: namespace.to_string(),
            labels: labels
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
        }),
        // What is not known here denies all.
        _ => To::All(wire::All {}),
    };
    wire::Denial {
        selects: Some(to),
        why: "the control plane cannot read it, and never could".to_owned(),
    }
}

fn endpoints(slices: &[Slice]) -> Option<wire::Endpoints> {
    let first = slices.first()?;
    let mut places: Vec<Arc<Locality>> = Vec::new();
    let parts = slices.iter().map(|slice| wire::Part {
        reached: Some(reached(&slice.transport)),
        workload: slice.workload.to_string(),
        version: slice.version.to_string(),
        labels: slice
            .labels
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect(),
        hosts: slice.hosts.iter().map(|of| host(of, &mut places)).collect(),
    });
    let parts = parts.collect();
    let place = |of: &Arc<Locality>| wire::Place {
        region: of.region.to_string(),
        zone: of.zone.to_string(),
        node: of.node.to_string(),
        hints: of.hints.iter().map(ToString::to_string).collect(),
    };
    Some(wire::Endpoints {
        service: first.service.name().to_owned(),
        ports: first
            .ports
            .iter()
            .map(|port| wire::Port {
                name: port.name.to_string(),
                port: port.port.into(),
            })
            .collect(),
        parts,
        places: places.iter().map(place).collect(),
    })
}

fn reached(transport: &Transport) -> wire::part::Reached {
    use wire::part::Reached;
    let tls = |name: &Arc<str>, roots| {
        Reached::Tls(wire::Tls {
            name: name.to_string(),
            roots: Some(roots),
        })
    };
    match transport {
        Transport::Mesh { ids } => Reached::Mesh(wire::Mesh {
            ids: ids.iter().map(ToString::to_string).collect(),
        }),
        Transport::Plain => Reached::Plain(wire::Plain {}),
        Transport::Tls { name, roots, names } if names.is_empty() => match roots {
            Roots::File(path) => tls(name, wire::tls::Roots::File(path.to_string())),
            Roots::System => tls(name, wire::tls::Roots::System(wire::System {})),
            // Those of documents come from policies, never from slices.
            _ => refusing(),
        },
        // So do names beside the first.
        _ => refusing(),
    }
}

/// A transport by which no server is the right one.
fn refusing() -> wire::part::Reached {
    wire::part::Reached::Mesh(wire::Mesh { ids: Vec::new() })
}

fn host(of: &SliceHost, places: &mut Vec<Arc<Locality>>) -> wire::Host {
    let place = match of.locality.is_unknown() && of.locality.hints.is_empty() {
        true => 0,
        false => match places.iter().position(|place| *place == of.locality) {
            Some(nth) => nth + 1,
            None => {
                places.push(Arc::clone(&of.locality));
                places.len()
            }
        },
    };
    wire::Host {
        host: Some(match &of.host {
            Host::Name { name, srv } => wire::host::Host::Name(wire::Name {
                name: name.to_string(),
                srv: srv.as_ref().map(ToString::to_string),
            }),
            Host::Address(IpAddr::V4(v4)) => wire::host::Host::Address(v4.octets().to_vec()),
            Host::Address(IpAddr::V6(v6)) => wire::host::Host::Address(v6.octets().to_vec()),
            // A kind of host that is not known here is not resolved either.
            _ => wire::host::Host::Address(Vec::new()),
        }),
        not_ready: !of.conditions.ready,
        not_serving: !of.conditions.serving,
        terminating: of.conditions.terminating,
        place: u32::try_from(place).unwrap_or(0),
        weight: (of.weight != 1).then_some(of.weight),
        priority: of.priority,
    }
}

// === and back ===

/// The operations that a resource is, and whether it stands for a policy that the control plane itself cannot
/// read: such a one is taken as it is.
///
/// # Errors
///
/// Why it is refused as a whole: what there was of it stays.
pub(super) fn read(
    name: &str,
    body: &[u8],
    defaults: &Defaults,
) -> Result<(Vec<Op>, bool), Problem> {
    let refused = |why: String| Problem::refused("", why);
    let key = names::key(name).map_err(|e| refused(e.to_string()))?;
    let object = wire::Object::decode(body).map_err(|e| refused(e.to_string()))?;
    match object.what {
        Some(wire::object::What::Document(text)) => {
            Ok((read_document(name, &key, &text, defaults)?, false))
        }
        Some(wire::object::What::Endpoints(endpoints)) => {
            if key.kind != Kind::EndpointSlice {
                return Err(refused(format!("{key} is no EndpointSlice")));
            }
            let read = read_endpoints(&key, endpoints, defaults);
            Ok((read.map_err(refused)?, false))
        }
        Some(wire::object::What::Denial(denial)) => {
            if key.kind != Kind::AuthorizationPolicy {
                return Err(refused(format!("{key} is no AuthorizationPolicy")));
            }
            let problem = refused(denial.why.chars().take(512).collect());
            let deny = Fallback::Deny(read_selects(denial.selects));
            // What it was before this does not serve on: it is another object by now.
            let ops = vec![
                Op::Remove(key.clone()),
                Op::Refuse(key, deny, vec![problem]),
            ];
            Ok((ops, true))
        }
        Some(wire::object::What::Refused(text)) => {
            let mut ops = vec![Op::Remove(key.clone())];
            ops.extend(read_document(name, &key, &text, defaults)?);
            Ok((ops, true))
        }
        // One of a later version.
        None => Err(refused("it is of a kind that is not known here".into())),
    }
}

fn read_document(
    name: &str,
    key: &ObjectKey,
    text: &str,
    defaults: &Defaults,
) -> Result<Vec<Op>, Problem> {
    let parsed = parse(name, text, defaults).map_err(|e| without_place(e.problem()))?;
    let mut ops = Vec::with_capacity(1);
    for entry in parsed.entries {
        if entry.key != *key {
            let why = format!("it holds {} under the name of {key}", entry.key);
            return Err(Problem::refused("metadata.name", why));
        }
        ops.push(entry.op);
    }
    for op in &mut ops {
        if let Op::Put(_, problems) | Op::Refuse(_, _, problems) = op {
            for problem in problems {
                problem.location = None;
            }
        }
    }
    Ok(ops)
}

/// A resource is named; it stands on no line.
fn without_place(mut problem: Problem) -> Problem {
    problem.location = None;
    problem
}

fn read_selects(selects: Option<wire::denial::Selects>) -> Selects {
    use wire::denial::Selects as To;
    // What cannot be read denies all.
    let namespace = |name: &str| Namespace::new(name).ok();
    match selects {
        Some(To::Namespace(name)) => namespace(&name).map_or(Selects::Unknown, Selects::Namespace),
        Some(To::Workloads(of)) => match namespace(&of.namespace) {
            Some(namespace) => {
                let labels = of.labels.iter();
                let labels = labels.map(|(k, v)| (k.as_str().into(), v.as_str().into()));
                Selects::Workloads(namespace, labels.collect())
            }
            None => Selects::Unknown,
        },
        Some(To::All(_)) | None => Selects::Unknown,
    }
}

fn read_endpoints(
    key: &ObjectKey,
    of: wire::Endpoints,
    defaults: &Defaults,
) -> Result<Vec<Op>, String> {
    let service = ServiceName::new(&key.namespace, &of.service).map_err(|e| e.to_string())?;
    let hosts: usize = of.parts.iter().map(|part| part.hosts.len()).sum();
    let most = [hosts, of.parts.len(), of.ports.len(), of.places.len()]
        .into_iter()
        .max();
    if hosts > MAX_HOSTS || most.unwrap_or_default() > MAX_PARTS {
        return Err(format!(
            "it has more than {MAX_HOSTS} hosts, parts, ports or places"
        ));
    }
    let port = |port: &wire::Port| {
        let number = u16::try_from(port.port).ok().filter(|number| *number > 0);
        let number = number.ok_or_else(|| format!("{} is no port", port.port))?;
        Ok(SlicePort::new(&port.name, number))
    };
    let ports: Vec<_> = of.ports.iter().map(port).collect::<Result<_, String>>()?;
    let place = |place: &wire::Place| {
        let hints = place.hints.iter().map(|zone| zone.as_str().into());
        let at = Locality::default()
            .in_region(&place.region)
            .in_zone(&place.zone);
        Arc::new(at.on_node(&place.node).for_zones(hints))
    };
    let places: Vec<_> = of.places.iter().map(place).collect();
    let mut ops = Vec::with_capacity(of.parts.len());
    for (nth, part) in of.parts.into_iter().enumerate() {
        let hosts = part
            .hosts
            .iter()
            .map(|host| read_host(host, &places, defaults));
        let hosts = hosts.collect::<Result<Vec<_>, String>>()?;
        let labels = part.labels.iter();
        let labels = labels.map(|(k, v)| (k.as_str().into(), v.as_str().into()));
        let transport = read_reached(part.reached)?;
        let slice = Slice::new(
            part_key(key, nth),
            service.clone(),
            ports.clone(),
            hosts,
            transport,
        )
        .workload(&part.workload, &part.version)
        .with_labels(labels);
        ops.push(Op::put(slice));
    }
    Ok(ops)
}

/// The key of a part: that of its slice for the first. None of the others is one of a document.
fn part_key(of: &ObjectKey, nth: usize) -> ObjectKey {
    if nth == 0 {
        return of.clone();
    }
    let kind = Kind::Other(format!("EndpointSlice part {}", nth + 1).into());
    ObjectKey::new(kind, &of.namespace, &of.name).expect("the name is that of a key")
}

fn read_reached(reached: Option<wire::part::Reached>) -> Result<Transport, String> {
    use wire::part::Reached;
    match reached {
        Some(Reached::Mesh(mesh)) => {
            let ids = mesh.ids.iter().map(|id| id.parse());
            let ids = ids.collect::<Result<Vec<_>, _>>();
            let ids = IdSet::new(ids.map_err(|e: inmesh_pki::id::IdError| e.to_string())?);
            Ok(Transport::Mesh { ids })
        }
        Some(Reached::Plain(_)) => Ok(Transport::Plain),
        Some(Reached::Tls(tls)) => Ok(Transport::Tls {
            name: tls.name.into(),
            roots: match tls.roots {
                Some(wire::tls::Roots::File(path)) => Roots::File(path.into()),
                Some(wire::tls::Roots::System(_)) => Roots::System,
                None => return Err("nothing vouches for its servers".to_owned()),
            },
            names: Arc::default(),
        }),
        // Nothing ever falls back to plaintext.
        None => Err("it does not say how its hosts are reached".to_owned()),
    }
}

fn read_host(
    host: &wire::Host,
    places: &[Arc<Locality>],
    defaults: &Defaults,
) -> Result<SliceHost, String> {
    let at = match &host.host {
        Some(wire::host::Host::Address(octets)) => {
            let ip = match (
                <[u8; 4]>::try_from(&**octets),
                <[u8; 16]>::try_from(&**octets),
            ) {
                (Ok(v4), _) => IpAddr::from(v4),
                (_, Ok(v6)) => IpAddr::from(v6),
                _ => return Err("an address has 4 bytes, or 16".to_owned()),
            };
            if let Some(why) = forbidden(ip, defaults.allow_loopback) {
                return Err(format!("{ip} {why}"));
            }
            Host::Address(ip)
        }
        Some(wire::host::Host::Name(name)) => {
            let of = host_name(&name.name)?;
            Host::Name {
                name: of.into(),
                srv: name.srv.as_deref().map(Into::into),
            }
        }
        None => return Err("a host has neither an address nor a name".to_owned()),
    };
    let mut read = SliceHost::new(at)
        .with_conditions(Conditions::new(
            Some(!host.not_ready),
            Some(!host.not_serving),
            Some(host.terminating),
        ))
        .with_weight(host.weight.unwrap_or(1))
        .with_priority(host.priority);
    if host.place > 0 {
        let nth = usize::try_from(host.place).unwrap_or(usize::MAX) - 1;
        let place = places
            .get(nth)
            .ok_or("a host is at a place that is not listed")?;
        read = read.with_locality(Arc::clone(place));
    }
    Ok(read)
}
