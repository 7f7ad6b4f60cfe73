//! Endpoints: where a request may go, over which transport, and which identities may answer.
//!
//! An [`Endpoint`] is configuration and immutable; what is known of it while it runs is kept by
//! [`balance`](crate::balance).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;

use inmesh_pki::id::SpiffeId;
use inmesh_pki::tls::AltName;

use super::draw::mix;
use super::{Few, Locality, ProxyVersion};

/// What sets the number that names an endpoint in a session apart from the one that keys are hashed by.
const SESSION: u64 = 0xd6e8_feb8_6659_fd93;

/// The SPIFFE IDs that may serve an endpoint. Empty refuses every server.
///
/// ```
/// use inmesh_core::model::IdSet;
///
/// let cart = "spiffe://lab.example/ns/shop/sa/cart".parse()?;
/// let other = "spiffe://lab.example/ns/shop/sa/web".parse()?;
/// let ids = IdSet::new([cart]);
/// assert!(!ids.contains(&other) && !ids.is_empty());
/// # Ok::<_, inmesh_core::pki::id::IdError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdSet(Arc<[SpiffeId]>);

/// Where the roots come from that vouch for a server outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Roots {
    /// PEM of documents.
    Documents(Arc<PemRoots>),
    /// A PEM file, named by its path.
    File(Arc<str>),
    /// The trust store of the operating system.
    System,
    /// None can be used, which is why: no connection is made.
    Unusable(Arc<str>),
}

/// Roots that stand in documents.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PemRoots {
    /// The documents, as an operator reads them.
    pub from: Arc<str>,
    /// Their PEM.
    pub pem: Arc<[u8]>,
}

/// As an operator reads it: the path of the file, the documents, or whose store it is.
impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Documents(roots) => f.write_str(&roots.from),
            Self::File(path) => f.write_str(path),
            Self::System => f.write_str("the operating system's trust store"),
            Self::Unusable(why) => write!(f, "none: {why}"),
        }
    }
}

/// How bytes travel to an endpoint. Nothing ever falls back from one to another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// Mutual TLS 1.3 between SPIFFE identities; the server must be one of `ids`.
    Mesh {
        /// The identities that may serve the endpoint.
        ids: IdSet,
    },
    /// No encryption. Only where it is written.
    Plain,
    /// TLS to a host outside the mesh, verified by its name.
    Tls {
        /// The name on the server's certificate, sent as SNI.
        name: Arc<str>,
        /// The roots that it is verified against.
        roots: Roots,
        /// Names of which the certificate must have one instead of `name`, if there are any.
        names: Arc<[AltName]>,
    },
}

/// The host of an endpoint as a document names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name that a resolver source turns into addresses and keeps fresh.
    Name {
        /// The host name, without a trailing dot.
        name: Arc<str>,
        /// The SRV prefix to ask for, e.g. `_http._tcp`; `None` asks for A and AAAA.
        srv: Option<Arc<str>>,
    },
}

/// The address or the name, with its SRV prefix.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { name, srv: None } => f.write_str(name),
            Self::Name {
                name,
                srv: Some(srv),
            } => write!(f, "{srv}.{name}"),
        }
    }
}

/// An address of a host name, as a resolver found it.
///
/// ```
/// use inmesh_core::model::HostAddress;
/// let found = HostAddress::new([10, 0, 0, 1].into()).at_port(443).with_weight(3);
/// assert_eq!((found.port, found.weight), (Some(443), 3));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct HostAddress {
    /// The address.
    pub ip: IpAddr,
    /// The port, where SRV gave one.
    pub port: Option<u16>,
    /// Its share of requests relative to the other addresses of the name; 1 without SRV.
    pub weight: u32,
}

/// The three conditions of an endpoint as EndpointSlice knows them.
///
/// ```
/// use inmesh_core::model::Conditions;
///
/// let drained = Conditions::new(Some(false), None, Some(true));
/// assert!(!drained.serving && drained.terminating);
/// assert!(Conditions::default().ready);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conditions {
    /// It may receive new requests.
    pub ready: bool,
    /// It still serves, perhaps while it terminates.
    pub serving: bool,
    /// It is going away.
    pub terminating: bool,
}

/// One place that a request may go to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// Its addresses, preferred first; more than one only for the two families of one host.
    pub addresses: Few<SocketAddr>,
    /// How bytes travel there.
    pub transport: Transport,
    /// Whether it takes requests.
    pub conditions: Conditions,
    /// How each connection to it begins with the address of the caller, if it does. The transport comes
    /// after that.
    pub proxy_protocol: Option<ProxyVersion>,
    /// The workload behind it, for metrics and logs; empty where it is not known.
    pub workload: Arc<str>,
    /// Its version label, for metrics and logs; empty where it is not known.
    pub version: Arc<str>,
    /// Where it is.
    pub locality: Arc<Locality>,
    /// Its share of requests relative to the other endpoints of its tier; 0 takes none.
    pub weight: u32,
    /// Its tier: a higher number is used only while all lower ones have no endpoint to offer.
    pub priority: u32,
}

// === impl IdSet ===

impl IdSet {
    /// A set of IDs; duplicates are dropped.
    pub fn new(ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        let mut ids: Vec<_> = ids.into_iter().collect();
        ids.sort();
        ids.dedup();
        Self(ids.into())
    }

    /// Whether `id` is in the set.
    pub fn contains(&self, id: &SpiffeId) -> bool {
        self.0.binary_search(id).is_ok()
    }

    /// The IDs in order.
    pub fn iter(&self) -> impl Iterator<Item = &SpiffeId> {
        self.0.iter()
    }

    /// Whether it is empty, so that no server is accepted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for IdSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.0.iter().map(|id| format!("{id}")))
            .finish()
    }
}

/// The IDs with commas between.
impl fmt::Display for IdSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, id) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{id}")?;
        }
        Ok(())
    }
}

// === impl PemRoots ===

impl PemRoots {
    /// The PEM of documents.
    pub fn new(from: impl Into<Arc<str>>, pem: impl Into<Arc<[u8]>>) -> Self {
        Self {
            from: from.into(),
            pem: pem.into(),
        }
    }
}

// === impl Transport ===

impl Transport {
    /// TLS to a host outside the mesh that proves itself by this name.
    ///
    /// ```
    /// use inmesh_core::model::{Roots, Transport};
    /// assert_eq!(Transport::tls("api.example.com", Roots::System).as_str(), "tls");
    /// ```
    pub fn tls(name: impl Into<Arc<str>>, roots: Roots) -> Self {
        Self::Tls {
            name: name.into(),
            roots,
            names: Arc::default(),
        }
    }

    /// Its name in documents, logs and metrics: `mesh`, `plain` or `tls`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Mesh { .. } => "mesh",
            Self::Plain => "plain",
            Self::Tls { .. } => "tls",
        }
    }
}

// === impl HostAddress ===

impl HostAddress {
    /// An address of A or AAAA.
    pub fn new(ip: IpAddr) -> Self {
        Self {
            ip,
            port: None,
            weight: 1,
        }
    }

    /// The same with a port of its own.
    #[must_use]
    pub fn at_port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The same with a weight.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }
}

// === impl Conditions ===

impl Conditions {
    /// Conditions as an EndpointSlice gives them; absent `ready` means ready, absent `serving`
    /// means as `ready`, absent `terminating` means no (Kubernetes API, EndpointConditions).
    pub fn new(ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> Self {
        let ready = ready.unwrap_or(true);
        Self {
            ready,
            serving: serving.unwrap_or(ready),
            terminating: terminating.unwrap_or(false),
        }
    }
}

/// Ready.
impl Default for Conditions {
    fn default() -> Self {
        Self::new(None, None, None)
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// A ready endpoint at one address.
    ///
    /// ```
    /// use inmesh_core::model::{Endpoint, Transport};
    /// let endpoint = Endpoint::new(([10, 0, 0, 1], 80).into(), Transport::Plain).with_weight(3);
    /// assert_eq!((endpoint.address().port(), endpoint.weight), (80, 3));
    /// ```
    pub fn new(address: SocketAddr, transport: Transport) -> Self {
        Self {
            addresses: address.into(),
            transport,
            conditions: Conditions::default(),
            proxy_protocol: None,
            workload: Arc::default(),
            version: Arc::default(),
            locality: Locality::unknown(),
            weight: 1,
            priority: 0,
        }
    }

    /// The same endpoint at a place.
    #[must_use]
    pub fn with_locality(mut self, locality: Arc<Locality>) -> Self {
        self.locality = locality;
        self
    }

    /// The same endpoint, to which each connection begins with a PROXY header.
    #[must_use]
    pub fn with_proxy_protocol(mut self, version: Option<ProxyVersion>) -> Self {
        self.proxy_protocol = version;
        self
    }

    /// The same endpoint with a weight.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// The same endpoint in a tier.
    #[must_use]
    pub fn with_priority(mut self, priority: u32) -> Self {
        self.priority = priority;
        self
    }

    /// The preferred address; the unspecified one of an empty list, which no source makes.
    pub fn address(&self) -> SocketAddr {
        self.addresses
            .first()
            .copied()
            .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// What makes it the same endpoint in another set.
    pub(crate) fn place(&self) -> (&[SocketAddr], &Transport, Option<ProxyVersion>) {
        (&self.addresses, &self.transport, self.proxy_protocol)
    }

    /// The number that names it in the token of a session, the same in every process.
    pub(crate) fn session_id(&self) -> NonZeroU64 {
        NonZeroU64::new(mix(self.name_hash() ^ SESSION)).unwrap_or(NonZeroU64::MIN)
    }

    /// A hash of its preferred address, the same in every process.
    pub(crate) fn name_hash(&self) -> u64 {
        let address = self.address();
        let ip = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let [high, low] = [0, 64].map(|at| {
            u64::try_from((ip.to_bits() >> at) & u128::from(u64::MAX)).unwrap_or_default()
        });
        mix(mix(high ^ u64::from(address.port())) ^ low)
    }
}
