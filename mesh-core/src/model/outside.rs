//! Hosts outside the mesh, by the names that callers ask for.
//!
//! A [`Service`](super::Service) may be found by the names of hosts besides its own: those that its author
//! lists, or all names under a domain. [`Outside`] says where such a request goes.

use std::fmt;
use std::sync::Arc;

use super::names::{InvalidName, invalid, is_subdomain};
use super::{Host, SliceHost, Transport};

/// A host, or all hosts under a domain: `api.example.com`, `*.example.com`.
///
/// ```
/// use inmesh_core::model::HostPattern;
/// let all = HostPattern::new("*.example.com")?;
/// assert!(all.matches("a.example.com") && all.matches("a.b.example.com"));
/// assert!(!all.matches("example.com") && !all.matches("an-example.com"));
/// # Ok::<(), inmesh_core::model::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern(Arc<str>);

/// What a Service outside the mesh is found by, and where a request to it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outside {
    /// The hosts that lead to it.
    pub hosts: Vec<HostPattern>,
    /// Where such a request goes.
    pub resolution: Resolution,
    /// What each port of the Service is there, in its order.
    pub ports: Vec<OutsidePort>,
}

/// Where a request to an outside host goes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolution {
    /// To the address that the name which is asked for has, found out once it is asked for.
    Dynamic,
    /// To these hosts, whatever name is asked for.
    Listed(Vec<SliceHost>),
    /// To the address that the caller has connected to, of a connection that was redirected here.
    Original,
}

/// A port of a Service outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutsidePort {
    /// Its number on the Service.
    pub port: u16,
    /// Its number on the host.
    pub target: u16,
    /// How bytes travel to it.
    pub transport: Transport,
}

/// A host that a request asks for and no document lists, with the port of the Service and of the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Asked {
    /// The name, or the address that the caller has connected to.
    pub host: Host,
    /// The port's number on the Service.
    pub port: u16,
    /// The port's number on the host.
    pub target: u16,
}

// === impl HostPattern ===

impl HostPattern {
    /// Parses a pattern in lower case.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if it is no host name of RFC 1123, but for a first label `*`.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        match is_subdomain(name) {
            true => Ok(Self(text.into())),
            false => Err(invalid(
                "host",
                text,
                "it must be a host name in lower case, or *. and a domain",
            )),
        }
    }

    /// The pattern as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for all hosts under a domain.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// Whether a host in lower case is meant.
    pub fn matches(&self, host: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => *self.0 == *host,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Outside ===

impl Outside {
    /// Hosts with the ports that they have.
    pub fn new(hosts: Vec<HostPattern>, resolution: Resolution, ports: Vec<OutsidePort>) -> Self {
        Self {
            hosts,
            resolution,
            ports,
        }
    }

    /// What a port of the Service is there.
    pub fn port(&self, port: u16) -> Option<&OutsidePort> {
        self.ports.iter().find(|of| of.port == port)
    }
}

// === impl OutsidePort ===

impl OutsidePort {
    /// A port that has the same number there.
    pub fn new(port: u16, transport: Transport) -> Self {
        Self {
            port,
            target: port,
            transport,
        }
    }

    /// The same with another number there.
    #[must_use]
    pub fn at(mut self, target: u16) -> Self {
        self.target = target;
        self
    }
}

// === impl Asked ===

/// The host with the port that it has there.
impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.host, self.target)
    }
}
