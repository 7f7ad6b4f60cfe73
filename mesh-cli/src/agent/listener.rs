//! The listeners of the agent's file.

use std::net::{IpAddr, SocketAddr};

use inmesh_core::accept::proxy::TrustedProxies;
use inmesh_core::authorize::canonical_path;
use inmesh_core::model::{AppProtocol, IpBlock, Namespace, ProxyVersion, ServiceName};
use inmesh_core::runtime::{Application, InboundListener, Listen, OutboundListener, Target};
use inmesh_discovery::manifest::strict::{Fields, Value};

use super::Listener;
use super::optional::optional;

/// The most blocks of addresses of proxies.
const BLOCKS: usize = 1_000;

/// What stands of PROXY headers in a listener: whose are believed, and what the application is shown.
#[derive(Default)]
struct Proxied {
    proxies: Option<TrustedProxies>,
    to_app: Option<ProxyVersion>,
}

pub(super) fn listener(
    fields: &mut Fields<'_>,
    own: Option<&Namespace>,
    peers: Option<&'static str>,
) -> Option<Listener> {
    let whole = fields.whole().clone();
    let bind = fields.need("bind").and_then(|v| v.parsed::<SocketAddr>());
    let inbound = optional(fields, "inbound", |v| v.object(|i| inbound(i, peers)));
    let outbound = optional(fields, "outbound", |v| v.object(|o| outbound(o, own)));
    let listen = match (inbound?, outbound?) {
        (Some(inbound), None) => Listen::Inbound(inbound),
        (None, Some(outbound)) => Listen::Outbound(outbound),
        _ => {
            whole.refuse("say which way it goes: exactly one of inbound and outbound");
            return None;
        }
    };
    let bind = bind?;
    if let Listen::Outbound(to) = &listen
        && to.target == Target::OriginalAddress
        && !bind.ip().is_loopback()
    {
        whole.refuse(
            "a captured listener is bound to 127.0.0.1 or ::1, where redirected connections arrive: any \
             other address would serve clients outside this host",
        );
        return None;
    }
    Some(Listener { bind, listen })
}

fn inbound(fields: &mut Fields<'_>, peers: Option<&'static str>) -> Option<InboundListener> {
    let app = fields.need("app").and_then(|v| application(&v));
    let protocol = protocol(fields);
    let own = optional(fields, "peers", |v| v.choice(&["strict", "permissive"]));
    let proxied = optional(fields, "proxyProtocol", |v| proxied(&v, true));
    let probes = optional(fields, "probes", |v| {
        let path = |v: &Value<'_>| {
            let path = v.text()?;
            let seen = v.check(canonical_path(path))?;
            if seen == path && path.starts_with('/') && !path.contains(['?', '#']) {
                return Some(path.into());
            }
            v.refuse(
                "no GET has this path: it begins with '/', its form is canonical, without a query",
            );
            None
        };
        v.list()?.iter().map(path).collect::<Option<Vec<_>>>()
    });
    let mut inbound = InboundListener::new(app?, protocol?);
    inbound.strict = own?.or(peers)? == "strict";
    inbound.probes = probes?.unwrap_or_default();
    let proxied = proxied?.unwrap_or_default();
    (inbound.proxies, inbound.to_app) = (proxied.proxies, proxied.to_app);
    Some(inbound)
}

/// An address and port, or a loopback address alone: the application is at the port of its caller.
fn application(value: &Value<'_>) -> Option<Application> {
    let Ok(ip) = value.text()?.parse::<IpAddr>() else {
        return Some(Application::At(value.parsed::<SocketAddr>()?));
    };
    if ip.to_canonical().is_loopback() {
        return Some(Application::SamePort(ip));
    }
    value.refuse(
        "an address without a port is 127.0.0.1 or ::1: a connection to an address of this host is \
         redirected to the listener again",
    );
    None
}

fn outbound(fields: &mut Fields<'_>, own: Option<&Namespace>) -> Option<OutboundListener> {
    let whole = fields.whole().clone();
    let protocol = protocol(fields);
    let proxied = optional(fields, "proxyProtocol", |v| proxied(&v, false));
    let service = optional(fields, "service", |v| {
        v.object(|s| {
            let namespace = optional(s, "namespace", |v| v.check(Namespace::new(v.text()?)));
            let name = s.need("name");
            let port = s.need("port").and_then(|v| v.integer_in::<u16>(1, 65_535));
            let namespace = namespace?.or_else(|| own.cloned())?;
            let name = name?;
            Some((
                name.check(ServiceName::new(&namespace, name.text()?))?,
                port?,
            ))
        })
    });
    let captured = optional(fields, "captured", |v| v.boolean());
    let protocol = protocol?;
    let mut outbound = match (service?, captured?.unwrap_or(false)) {
        (Some(_), true) => {
            whole.refuse(
                "has one of service and captured: a captured connection says where it goes",
            );
            return None;
        }
        (Some((service, port)), false) => OutboundListener::to(service, port, protocol),
        (None, true) => OutboundListener::by_original_address(protocol),
        (None, false) if protocol == AppProtocol::Tcp => {
            whole.refuse("a listener of opaque bytes must name its service, or be captured");
            return None;
        }
        (None, false) => OutboundListener::by_authority(protocol),
    };
    outbound.proxies = proxied?.and_then(|proxied| proxied.proxies);
    Some(outbound)
}

fn protocol(fields: &mut Fields<'_>) -> Option<AppProtocol> {
    let known = ["http", "http2", "kubernetes.io/h2c", "grpc", "tcp"];
    let declared = optional(fields, "appProtocol", |v| v.choice(&known))?;
    Some(match declared {
        Some(declared) => AppProtocol::declared(Some(declared), ""),
        None => AppProtocol::Detect,
    })
}

/// `accept` with `from`, and `send` where there is an application behind the listener.
fn proxied(value: &Value<'_>, to_app: bool) -> Option<Proxied> {
    value.object(|fields| {
        let accept = optional(fields, "accept", |v| v.choice(&["required", "never"]));
        let listed = fields.get("from");
        let from = listed.clone().map(|v| from(&v));
        let send = match to_app {
            true => optional(fields, "send", |v| v.choice(&["V1", "V2"])),
            false => Some(None),
        };
        let (accept, send) = (accept?, send?);
        let proxies = match (accept, from, listed) {
            (Some("required"), Some(from), _) => Some(from?),
            (Some("required"), None, _) => {
                value.refuse("needs from: the addresses of the proxies whose headers are believed");
                return None;
            }
            (_, Some(_), Some(listed)) => {
                listed.refuse("belongs to `accept: required`");
                return None;
            }
            _ => None,
        };
        if accept.is_none() && send.is_none() {
            value.refuse(match to_app {
                true => "has one of accept and send, or both",
                false => "says accept",
            });
            return None;
        }
        let to_app = send.map(|version| match version {
            "V1" => ProxyVersion::V1,
            _ => ProxyVersion::V2,
        });
        Some(Proxied { proxies, to_app })
    })
}

/// The blocks of addresses of the proxies.
fn from(value: &Value<'_>) -> Option<TrustedProxies> {
    let listed = value.list_of(BLOCKS)?;
    // Each is read, for its problems.
    let read: Vec<_> = listed.iter().map(Value::parsed::<IpBlock>).collect();
    let blocks = read.into_iter().collect::<Option<Vec<_>>>()?;
    value.check(TrustedProxies::new(blocks))
}
