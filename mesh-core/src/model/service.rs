//! Services: a name, its ports, and the slices of endpoints that stand behind it.

use std::net::IpAddr;
use std::sync::Arc;

use super::{
    AppProtocol, ClusterName, Host, Kind, Labels, ObjectKey, Outside, ServiceName, SliceHost,
    Transport,
};

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
    /// The cluster that it comes from; `None` is the local one.
    pub cluster: Option<ClusterName>,
    /// Its virtual addresses (`clusterIPs`); a connection to one of them is meant for it.
    pub addresses: Vec<IpAddr>,
    /// Its host outside the mesh and how to reach it (type ExternalName).
    pub external: Option<(Host, Transport)>,
    /// The hosts outside the mesh that lead to it (kind ServiceEntry).
    pub outside: Option<Outside>,
    /// Which of its endpoints are preferred, where it says so.
    pub distribution: Option<Distribution>,
    /// The endpoints of another Service that are its endpoints too.
    pub subset: Option<Subset>,
}

/// Endpoints of a Service: those of slices that have all of these labels.
///
/// ```
/// use inmesh_core::model::{Namespace, ServiceName, Subset};
/// let cart = ServiceName::new(&Namespace::new("shop")?, "cart")?;
/// let next = Subset::new(cart, [("version".into(), "v2".into())]);
/// assert!(next.selects(&[("app".into(), "cart".into()), ("version".into(), "v2".into())].into()));
/// # Ok::<(), inmesh_core::model::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subset {
    /// The Service that has the slices.
    pub of: ServiceName,
    /// The labels.
    pub labels: Labels,
}

/// Which endpoints a Service prefers (`trafficDistribution`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Distribution {
    /// Those of the caller's node, then of its zone.
    SameNode,
    /// Those of the caller's zone (`PreferClose` is its older name).
    SameZone,
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
///
/// ```
/// use inmesh_core::model::{
///     Host, IdSet, Kind, Locality, Namespace, ObjectKey, ServiceName, Slice, SliceHost, SlicePort,
///     Transport,
/// };
///
/// let shop = Namespace::new("shop")?;
/// let service = ServiceName::new(&shop, "cart")?;
/// let key = ObjectKey::new(Kind::EndpointSlice, &shop, "cart-1")?;
/// let ids = IdSet::new(["spiffe://lab.example/ns/shop/sa/cart".parse()?]);
/// let host = SliceHost::new(Host::Address("10.1.2.3".parse()?));
/// let host = host.with_locality(Locality::default().in_zone("a").into()).with_weight(3);
/// let transport = Transport::Mesh { ids };
/// let slice = Slice::new(key, service, vec![SlicePort::new("http", 8443)], vec![host], transport)
///     .workload("cart", "v2");
/// assert_eq!(slice.hosts[0].weight, 3);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Slice {
    /// The object it was read from.
    pub key: ObjectKey,
    /// The Service it belongs to.
    pub service: ServiceName,
    /// Its ports.
    pub ports: Vec<SlicePort>,
    /// Its hosts.
    pub hosts: Vec<SliceHost>,
    /// How bytes travel to each of them.
    pub transport: Transport,
    /// Whether a host that is a Pod is reached as its Pod says instead, once that is known.
    pub as_pods_say: bool,
    /// The workload behind it, for metrics; may be empty.
    pub workload: Arc<str>,
    /// Its version label, for metrics; may be empty.
    pub version: Arc<str>,
    /// All of its labels, by which a [`Subset`] selects it.
    pub labels: Labels,
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
    ///
    /// ```
    /// use inmesh_core::model::{AppProtocol, Namespace, Service, ServiceName, ServicePort};
    /// let cart = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    /// let cart = Service::new(cart, vec![ServicePort::new("http", 80, AppProtocol::Http1)]);
    /// assert_eq!(cart.key().to_string(), "Service/shop/cart");
    /// # Ok::<(), inmesh_core::model::InvalidName>(())
    /// ```
    pub fn new(name: ServiceName, ports: Vec<ServicePort>) -> Self {
        Self {
            name,
            ports,
            cluster: None,
            addresses: Vec::new(),
            external: None,
            outside: None,
            distribution: None,
            subset: None,
        }
    }

    /// Its key as an object.
    pub fn key(&self) -> ObjectKey {
        let kind = match self.outside {
            Some(_) => Kind::ServiceEntry,
            None => Kind::Service,
        };
        let key = ObjectKey::named(kind, &self.name);
        match &self.cluster {
            Some(cluster) => key.in_cluster(cluster.clone()),
            None => key,
        }
    }

    /// The same Service of another cluster.
    #[must_use]
    pub fn in_cluster(mut self, cluster: ClusterName) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// The same Service with virtual addresses (`clusterIPs`).
    #[must_use]
    pub fn with_addresses(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.addresses = addresses.into_iter().collect();
        self
    }

    /// The same Service whose endpoints are preferred by where they are.
    #[must_use]
    pub fn with_distribution(mut self, distribution: Distribution) -> Self {
        self.distribution = Some(distribution);
        self
    }

    /// The same Service with endpoints of another.
    #[must_use]
    pub fn with_subset(mut self, subset: Subset) -> Self {
        self.subset = Some(subset);
        self
    }

    /// The same Service outside the mesh: type ExternalName.
    #[must_use]
    pub fn external(mut self, host: Host, transport: Transport) -> Self {
        self.external = Some((host, transport));
        self
    }

    /// The same Service for hosts outside the mesh: kind ServiceEntry.
    ///
    /// ```
    /// use inmesh_core::model::{
    ///     AppProtocol, HostPattern, Namespace, Outside, OutsidePort, Resolution, Service, ServiceName,
    ///     ServicePort, Transport,
    /// };
    /// let name = ServiceName::new(&Namespace::new("shop")?, "pay")?;
    /// let port = OutsidePort::new(443, Transport::Plain);
    /// let hosts = vec![HostPattern::new("*.example.com")?];
    /// let pay = Service::new(name, vec![ServicePort::new("tls", 443, AppProtocol::Tcp)])
    ///     .outside(Outside::new(hosts, Resolution::Dynamic, vec![port]));
    /// assert_eq!(pay.key().to_string(), "ServiceEntry/shop/pay");
    /// # Ok::<(), inmesh_core::model::InvalidName>(())
    /// ```
    #[must_use]
    pub fn outside(mut self, outside: Outside) -> Self {
        self.outside = Some(outside);
        self
    }
}

// === impl Subset ===

impl Subset {
    /// Those of a Service's slices with these labels.
    pub fn new(of: ServiceName, labels: impl IntoIterator<Item = (Arc<str>, Arc<str>)>) -> Self {
        let labels = labels.into_iter().collect();
        Self { of, labels }
    }

    /// Whether a slice with such labels is one of them.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
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
        hosts: Vec<SliceHost>,
        transport: Transport,
    ) -> Self {
        Self {
            key,
            service,
            ports,
            hosts,
            transport,
            as_pods_say: false,
            workload: "".into(),
            version: "".into(),
            labels: Labels::new(),
        }
    }

    /// The same slice where Pods say how their hosts are reached. A host whose Pod is not known takes
    /// no request.
    #[must_use]
    pub fn as_pods_say(mut self) -> Self {
        self.as_pods_say = true;
        self
    }

    /// The same slice with labels.
    #[must_use]
    pub fn with_labels(mut self, labels: impl IntoIterator<Item = (Arc<str>, Arc<str>)>) -> Self {
        self.labels = labels.into_iter().collect();
        self
    }

    /// Names the workload behind it and its version, for metrics and logs.
    #[must_use]
    pub fn workload(mut self, name: &str, version: &str) -> Self {
        self.workload = name.into();
        self.version = version.into();
        self
    }
}
