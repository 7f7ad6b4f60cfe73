//! Services: a name, its ports, and the slices of endpoints that stand behind it.

use std::fmt;
use std::sync::Arc;

use super::{Conditions, EndpointSet, Few, Host, ObjectKey, ServiceName, Text, Transport};
use crate::route::RouteTable;

/// What a port speaks, as declared; nothing is guessed where it is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AppProtocol {
    /// Not declared: the first bytes decide, and a timeout means opaque.
    Detect,
    /// gRPC, which is HTTP/2 with trailers.
    Grpc,
    /// HTTP/1.1, with upgrades.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Bytes that nobody looks into.
    Tcp,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServicePort {
    /// Its name; empty where a Service has a single, nameless port.
    pub name: Arc<str>,
    /// Its number on the Service, which routes and clients use.
    pub port: u16,
    /// What it speaks.
    pub protocol: AppProtocol,
}

/// A Service as a source declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Where it stands outside (type ExternalName): the host, and how to reach it.
    pub external: Option<(Host, Transport)>,
}

/// One port of an EndpointSlice: where the endpoints (for mesh endpoints: their agents) listen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlicePort {
    /// The name of the Service's port that it stands for.
    pub name: Arc<str>,
    /// Where the endpoint listens.
    pub port: u16,
}

/// Endpoints of one Service that share ports, transport and identities.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Slice {
    /// The object it was read from.
    pub key: ObjectKey,
    /// The Service it belongs to.
    pub service: ServiceName,
    /// Its ports.
    pub ports: Vec<SlicePort>,
    /// Hosts and their conditions.
    pub hosts: Vec<(Host, Conditions)>,
    /// How bytes travel to each of them.
    pub transport: Transport,
    /// The workload behind it, for metrics; may be empty.
    pub workload: Arc<str>,
    /// Its version label, for metrics; may be empty.
    pub version: Arc<str>,
}

/// Everything that a request to a Service needs, compiled: a part of a snapshot.
#[derive(Debug)]
#[non_exhaustive]
pub struct ServiceView {
    /// Its name.
    pub name: ServiceName,
    /// `name.namespace`, where a look-up can compare it without another step.
    pub(super) key: Text,
    /// Its host name, `name.namespace.svc.cluster.local`, as metrics and logs carry it.
    pub host: Arc<str>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// The routes attached to it, in order of precedence.
    pub routes: RouteTable,
    pub(crate) endpoints: Few<(u16, Arc<EndpointSet>)>,
}

// === impl AppProtocol ===

impl AppProtocol {
    /// What a Service's port declares (Kubernetes `appProtocol`, else the prefix of its name, as
    /// Istio reads it). Unknown declarations are opaque bytes; no declaration means detection.
    ///
    /// ```
    /// use inmesh_core::model::AppProtocol;
    /// assert_eq!(AppProtocol::declared(Some("kubernetes.io/h2c"), "x"), AppProtocol::Http2);
    /// assert_eq!(AppProtocol::declared(None, "grpc-web"), AppProtocol::Grpc);
    /// assert_eq!(AppProtocol::declared(None, "metrics"), AppProtocol::Detect);
    /// ```
    pub fn declared(app_protocol: Option<&str>, port_name: &str) -> Self {
        let by_prefix = port_name.split('-').next().unwrap_or_default();
        match app_protocol.unwrap_or(by_prefix) {
            "grpc" => Self::Grpc,
            "http" | "kubernetes.io/ws" => Self::Http1,
            "http2" | "h2c" | "kubernetes.io/h2c" => Self::Http2,
            "tcp" | "tls" | "https" | "kubernetes.io/wss" | "mongo" | "mysql" | "redis" => {
                Self::Tcp
            }
            _ if app_protocol.is_some() => Self::Tcp,
            _ => Self::Detect,
        }
    }

    /// Whether HTTP is declared, in any version.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Grpc | Self::Http1 | Self::Http2)
    }

    /// Whether requests are looked at, or may be once detected.
    pub fn may_be_http(self) -> bool {
        self != Self::Tcp
    }
}

impl fmt::Display for AppProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detect => "detect",
            Self::Grpc => "grpc",
            Self::Http1 => "http",
            Self::Http2 => "http2",
            Self::Tcp => "tcp",
        })
    }
}

// === impl ServicePort ===

impl ServicePort {
    /// A port of a Service.
    pub fn new(name: &str, port: u16, protocol: AppProtocol) -> Self {
        Self {
            name: name.into(),
            port,
            protocol,
        }
    }
}

// === impl Service ===

impl Service {
    /// A Service with the given ports whose endpoints come in slices.
    pub fn new(name: ServiceName, ports: Vec<ServicePort>) -> Self {
        Self {
            name,
            ports,
            external: None,
        }
    }

    /// The same Service standing outside: type ExternalName.
    #[must_use]
    pub fn external(mut self, host: Host, transport: Transport) -> Self {
        self.external = Some((host, transport));
        self
    }
}

// === impl SlicePort ===

impl SlicePort {
    /// A port of a slice.
    pub fn new(name: &str, port: u16) -> Self {
        Self {
            name: name.into(),
            port,
        }
    }
}

// === impl Slice ===

impl Slice {
    /// A slice of endpoints.
    pub fn new(
        key: ObjectKey,
        service: ServiceName,
        ports: Vec<SlicePort>,
        hosts: Vec<(Host, Conditions)>,
        transport: Transport,
    ) -> Self {
        Self {
            key,
            service,
            ports,
            hosts,
            transport,
            workload: "".into(),
            version: "".into(),
        }
    }

    /// Names the workload behind it and its version, for metrics and logs.
    #[must_use]
    pub fn workload(mut self, name: &str, version: &str) -> Self {
        self.workload = name.into();
        self.version = version.into();
        self
    }
}

// === impl ServiceView ===

impl ServiceView {
    /// Whether it is the Service of that name.
    pub(super) fn is(&self, namespace: &str, name: &str) -> bool {
        let rest = self.key.as_bytes().strip_prefix(name.as_bytes());
        let rest = rest.and_then(|rest| rest.strip_prefix(b"."));
        rest == Some(namespace.as_bytes())
    }

    /// The port of that number.
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == port)
    }

    /// The endpoints behind a port; `None` where the Service has no such port.
    pub fn endpoints(&self, port: u16) -> Option<&Arc<EndpointSet>> {
        self.endpoints
            .iter()
            .find(|(p, _)| *p == port)
            .map(|(_, set)| set)
    }
}
