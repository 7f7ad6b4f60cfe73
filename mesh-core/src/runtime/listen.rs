//! What the listeners of an agent do, either way.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::accept::proxy::TrustedProxies;
use crate::model::{AppProtocol, ProxyVersion, ServiceName};

/// A listener of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listen {
    /// From the mesh to the application.
    Inbound(InboundListener),
    /// From applications to Services.
    Outbound(OutboundListener),
}

/// A listener for applications that call Services.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboundListener {
    /// What leads to the Service.
    pub target: Target,
    /// What applications speak on it.
    pub protocol: AppProtocol,
    /// The proxies in front of it, where each connection begins with a PROXY header.
    pub proxies: Option<TrustedProxies>,
}

/// What leads from a connection to the Service that it is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// The authority of each request.
    Authority,
    /// The address that the application connected to, before the connection was redirected here.
    OriginalAddress,
    /// Always this Service and port.
    Service(ServiceName, u16),
}

/// A listener in front of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboundListener {
    /// Where the application listens.
    pub app: Application,
    /// What it speaks.
    pub protocol: AppProtocol,
    /// Whether plaintext is refused. If it is not, a plaintext peer has no identity.
    pub strict: bool,
    /// Paths of which a GET is permitted to every client.
    pub probes: Vec<Arc<str>>,
    /// The proxies in front of it, where each connection begins with a PROXY header.
    pub proxies: Option<TrustedProxies>,
    /// How each connection to the application begins with the address of its caller, if it does.
    pub to_app: Option<ProxyVersion>,
    /// Ports of this process itself, at which no application is looked for where the caller's port says
    /// where it is.
    pub own_ports: Vec<u16>,
}

/// Where an application listens, as a function of the address that its caller connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Application {
    /// Always at this address.
    At(SocketAddr),
    /// At this IP address, at the port that the caller connected to, which is the one before a redirection
    /// (`mesh capture`). A caller that would be led back to the listener is refused.
    SamePort(IpAddr),
}

// === impl Listen ===

/// As an operator reads it, e.g. `inbound to 127.0.0.1:8080, http, strict peers`.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inbound(to) => write!(f, "inbound {to}"),
            Self::Outbound(to) => write!(f, "outbound {to}"),
        }
    }
}

// === impl Target ===

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority => f.write_str("by authority"),
            Self::OriginalAddress => f.write_str("by original address"),
            Self::Service(name, port) => write!(f, "to {name}:{port}"),
        }
    }
}

// === impl OutboundListener ===

impl OutboundListener {
    /// A listener whose requests go where their authority says.
    ///
    /// ```
    /// use inmesh_core::model::AppProtocol;
    /// use inmesh_core::runtime::{OutboundListener, Target};
    /// let listener = OutboundListener::by_authority(AppProtocol::Detect);
    /// assert_eq!(listener.target, Target::Authority);
    /// ```
    pub fn by_authority(protocol: AppProtocol) -> Self {
        Self::leading(Target::Authority, protocol)
    }

    /// A listener whose connections go to the Service that has the address which the application
    /// connected to.
    pub fn by_original_address(protocol: AppProtocol) -> Self {
        Self::leading(Target::OriginalAddress, protocol)
    }

    /// A listener for one port of a Service.
    pub fn to(service: ServiceName, port: u16, protocol: AppProtocol) -> Self {
        Self::leading(Target::Service(service, port), protocol)
    }

    /// The same listener behind proxies: each connection comes from one of them and begins with a PROXY
    /// header. The address that this names is that of the caller; where it leads stays as it is.
    #[must_use]
    pub fn behind(mut self, proxies: TrustedProxies) -> Self {
        self.proxies = Some(proxies);
        self
    }

    fn leading(target: Target, protocol: AppProtocol) -> Self {
        Self {
            target,
            protocol,
            proxies: None,
        }
    }
}

impl fmt::Display for OutboundListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.target, self.protocol)?;
        shown(f, self.proxies.as_ref())
    }
}

// === impl InboundListener ===

impl fmt::Display for InboundListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peers = if self.strict { "strict" } else { "permissive" };
        write!(f, "to {}, {}, {peers} peers", self.app, self.protocol)?;
        shown(f, self.proxies.as_ref())?;
        match self.to_app {
            Some(version) => write!(f, ", PROXY {version} to it"),
            None => Ok(()),
        }
    }
}

/// The proxies in front of a listener.
fn shown(f: &mut fmt::Formatter<'_>, proxies: Option<&TrustedProxies>) -> fmt::Result {
    match proxies {
        Some(proxies) => write!(f, ", PROXY headers from {proxies}"),
        None => Ok(()),
    }
}

impl InboundListener {
    /// A strict listener in front of an application.
    ///
    /// ```
    /// use inmesh_core::model::AppProtocol;
    /// use inmesh_core::runtime::InboundListener;
    /// let app = std::net::SocketAddr::from(([127, 0, 0, 1], 8080));
    /// assert!(InboundListener::new(app, AppProtocol::Http1).strict);
    /// ```
    pub fn new(app: impl Into<Application>, protocol: AppProtocol) -> Self {
        Self {
            app: app.into(),
            protocol,
            strict: true,
            probes: Vec::new(),
            proxies: None,
            to_app: None,
            own_ports: Vec::new(),
        }
    }

    /// The same listener that knows the ports of this process itself: a caller that connected to one of
    /// them is refused where its port says where the application is ([`Application::SamePort`]), since what
    /// listens there on loopback is meant for this host alone.
    ///
    /// ```
    /// use inmesh_core::model::AppProtocol;
    /// use inmesh_core::runtime::{Application, InboundListener};
    /// let app = Application::SamePort(std::net::Ipv4Addr::LOCALHOST.into());
    /// let listener = InboundListener::new(app, AppProtocol::Detect).beside([15_000]);
    /// assert_eq!(listener.own_ports, [15_000]);
    /// ```
    #[must_use]
    pub fn beside(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.own_ports = ports.into_iter().collect();
        self
    }

    /// The same listener that serves plaintext peers too, without an identity.
    #[must_use]
    pub fn permissive(mut self) -> Self {
        self.strict = false;
        self
    }

    /// The same listener behind proxies: each connection comes from one of them and begins with a PROXY
    /// header. The address that this names is that of the caller; its identity is proven by TLS, which
    /// comes after the header.
    ///
    /// ```
    /// use inmesh_core::accept::proxy::TrustedProxies;
    /// use inmesh_core::model::AppProtocol;
    /// use inmesh_core::runtime::InboundListener;
    /// let app = std::net::SocketAddr::from(([127, 0, 0, 1], 8080));
    /// let proxies = TrustedProxies::new(["10.0.0.0/8".parse()?])?;
    /// let listener = InboundListener::new(app, AppProtocol::Http1).behind(proxies);
    /// assert!(listener.to_string().ends_with(", PROXY headers from 10.0.0.0/8"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn behind(mut self, proxies: TrustedProxies) -> Self {
        self.proxies = Some(proxies);
        self
    }

    /// The same listener whose connections to the application begin with a PROXY header, which names the
    /// caller. Each of them is for one connection of a caller.
    #[must_use]
    pub fn announcing(mut self, version: ProxyVersion) -> Self {
        self.to_app = Some(version);
        self
    }

    /// The same listener with paths of which a GET is permitted to every client.
    #[must_use]
    pub fn with_probes<'a>(mut self, paths: impl IntoIterator<Item = &'a str>) -> Self {
        self.probes = paths.into_iter().map(Into::into).collect();
        self
    }
}

// === impl Application ===

impl Application {
    /// The application's address for a caller that connected to `original`.
    pub fn address(self, original: SocketAddr) -> SocketAddr {
        match self {
            Self::At(address) => address,
            Self::SamePort(ip) => SocketAddr::new(ip, original.port()),
        }
    }
}

impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::SamePort(ip) => write!(f, "{ip} at the same port"),
        }
    }
}

impl From<SocketAddr> for Application {
    fn from(address: SocketAddr) -> Self {
        Self::At(address)
    }
}
