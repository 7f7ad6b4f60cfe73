//! Names as Kubernetes knows them, checked once when they are made and cheap to clone after.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use foldhash::quality::RandomState;
use inmesh_pki::id::{SpiffeId, TrustDomain};

/// A name that is no DNS label or subdomain as Kubernetes wants it (RFC 1123).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {name:?} is not a valid name: {why}")]
#[non_exhaustive]
pub struct InvalidName {
    /// What the name was meant to name, e.g. `namespace`.
    pub what: &'static str,
    /// The name as given, cut at 64 characters.
    pub name: String,
    /// The rule that it breaks.
    pub why: &'static str,
}

/// The name of the Service that stands for all hosts.
const PASSTHROUGH: &str = "PassthroughCluster";

/// Labels by their keys.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// A Kubernetes namespace: a DNS label of at most 63 characters.
///
/// ```
/// use inmesh_core::model::Namespace;
/// assert_eq!(Namespace::new("shop")?.as_str(), "shop");
/// assert!(Namespace::new("Shop").is_err());
/// # Ok::<(), inmesh_core::model::InvalidName>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(Arc<str>);

/// A Service by namespace and name.
#[derive(Clone, Eq, PartialOrd, Ord)]
pub struct ServiceName {
    namespace: Namespace,
    name: Arc<str>,
    /// Made once, so that a look-up need not read the texts first.
    hash: u64,
}

/// The kinds of configuration objects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// `security.istio.io/v1 AuthorizationPolicy`, also in our own group.
    AuthorizationPolicy,
    /// `gateway.networking.k8s.io/v1 BackendTLSPolicy`.
    BackendTlsPolicy,
    /// `v1 ConfigMap`, with roots of hosts outside the mesh.
    ConfigMap,
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice,
    /// `gateway.networking.k8s.io/v1 GRPCRoute`.
    GrpcRoute,
    /// `gateway.networking.k8s.io/v1 HTTPRoute`.
    HttpRoute,
    /// `v1 Namespace`.
    Namespace,
    /// `v1 Node`.
    Node,
    /// A kind that is only reported, never applied.
    Other(Arc<str>),
    /// `v1 Pod`.
    Pod,
    /// `v1 Service`.
    Service,
    /// `inmesh.dev/v1alpha1 ServiceEntry`.
    ServiceEntry,
    /// `gateway.networking.k8s.io/v1 TCPRoute`.
    TcpRoute,
    /// `gateway.networking.k8s.io/v1 TLSRoute`.
    TlsRoute,
    /// `inmesh.dev/v1alpha1 TrafficPolicy`.
    TrafficPolicy,
}

/// A cluster by its name in the fleet (a DNS label).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(Arc<str>);

/// One configuration object: kind, namespace, name and the cluster it comes from. Objects of
/// different clusters never stand in for one another.
///
/// A record of each request has some: a clone is one counter.
///
/// ```
/// use inmesh_core::model::{Kind, Namespace, ObjectKey};
/// let key = ObjectKey::new(Kind::HttpRoute, &Namespace::new("shop")?, "cart")?;
/// assert_eq!((key.namespace.as_str(), &*key.name), ("shop", "cart"));
/// # Ok::<(), inmesh_core::model::InvalidName>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(Arc<KeyParts>);

/// What an [`ObjectKey`] is made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct KeyParts {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; that of an object of the whole cluster has an empty name.
    pub namespace: Namespace,
    /// Its name in the namespace.
    pub name: Arc<str>,
    /// The cluster that it comes from; `None` is the local one.
    pub cluster: Option<ClusterName>,
}

/// A source of configuration, for example `file:/etc/mesh`. Where several sources have the same
/// object, one of them has precedence.
///
/// ```
/// use inmesh_core::model::SourceId;
/// assert_eq!(SourceId::new("file:/etc/mesh").to_string(), "file:/etc/mesh");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(Arc<str>);

/// A workload that this process serves: policies select it, and metrics carry its name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Workload {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name, usually that of the Deployment.
    pub name: Arc<str>,
    /// Labels that policies select by; `app` and `version` name it in metrics.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Its service account: the last part of its SPIFFE ID.
    pub service_account: Arc<str>,
}

// === impl Namespace ===

impl Namespace {
    /// Parses a namespace.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if it is empty, longer than 63 characters or not a DNS label (RFC 1123).
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        check("namespace", name, 63, false)?;
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Maps keyed by namespace are asked by text.
impl std::borrow::Borrow<str> for Namespace {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

// === impl ServiceName ===

impl ServiceName {
    /// Parses a Service's name in a namespace.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if `name` is not a DNS label (RFC 1123) of at most 63 characters.
    pub fn new(namespace: &Namespace, name: &str) -> Result<Self, InvalidName> {
        check("service", name, 63, false)?;
        Ok(Self {
            namespace: namespace.clone(),
            name: name.into(),
            hash: Self::hash_of(namespace.as_str(), name),
        })
    }

    /// The Service that stands for all hosts that no document names, as Istio calls it in metrics. No
    /// document has such a name.
    pub(crate) fn passthrough(namespace: &Namespace) -> Self {
        Self {
            namespace: namespace.clone(),
            name: PASSTHROUGH.into(),
            hash: Self::hash_of(namespace.as_str(), PASSTHROUGH),
        }
    }

    /// Whether it is that one.
    #[cfg(feature = "runtime")]
    pub(crate) fn is_passthrough(&self) -> bool {
        *self.name == *PASSTHROUGH
    }

    /// A reference to an object that is no Service, such as a ServiceImport. No Service has this name, so that
    /// a backend of it is one that does not exist.
    ///
    /// ```
    /// use inmesh_core::model::{Namespace, ServiceName};
    /// let shop = Namespace::new("shop")?;
    /// let store = ServiceName::foreign(&shop, "multicluster.x-k8s.io", "ServiceImport", "store");
    /// assert_eq!(store.to_string(), "ServiceImport.multicluster.x-k8s.io/store.shop");
    /// # Ok::<(), inmesh_core::model::InvalidName>(())
    /// ```
    pub fn foreign(namespace: &Namespace, group: &str, kind: &str, name: &str) -> Self {
        let dot = if group.is_empty() { "" } else { "." };
        // The slash is what no name of a Service has.
        let name = format!("{kind}{dot}{group}/{name}")
            .escape_debug()
            .to_string();
        Self {
            namespace: namespace.clone(),
            hash: Self::hash_of(namespace.as_str(), &name),
            name: name.into(),
        }
    }

    /// Whether it refers to an object that is no Service.
    pub(crate) fn is_foreign(&self) -> bool {
        self.name.contains('/')
    }

    /// That there is no Service of the name.
    pub(crate) fn absent(&self) -> String {
        match self.is_foreign() {
            true => format!("{self} is no Service"),
            false => format!("Service {self} does not exist"),
        }
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its name within the namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hash of a name with these texts, the same throughout this process. Each process has a seed of
    /// its own, so that a client that may create Services cannot search for names whose hashes agree.
    pub(crate) fn hash_of(namespace: &str, name: &str) -> u64 {
        static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::default);
        SEED.hash_one((namespace, name))
    }

    /// The hash of its texts.
    pub(crate) fn hash64(&self) -> u64 {
        self.hash
    }

    /// The same name with another hash: as if texts had been found that have it.
    #[cfg(test)]
    pub(crate) fn hashed(self, hash: u64) -> Self {
        Self { hash, ..self }
    }
}

/// Names that share their texts are compared without a look at them.
impl PartialEq for ServiceName {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Arc<str>, b: &Arc<str>| Arc::ptr_eq(a, b) || a == b;
        self.hash == other.hash
            && same(&self.name, &other.name)
            && same(&self.namespace.0, &other.namespace.0)
    }
}

/// As a key of other maps it is its hash already.
impl Hash for ServiceName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// `name.namespace`, as a Kubernetes host name begins.
impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Kind ===

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::ConfigMap => "ConfigMap",
            Self::EndpointSlice => "EndpointSlice",
            Self::GrpcRoute => "GRPCRoute",
            Self::HttpRoute => "HTTPRoute",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Other(kind) => kind,
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::ServiceEntry => "ServiceEntry",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TrafficPolicy => "TrafficPolicy",
        })
    }
}

// === impl ObjectKey ===

impl ObjectKey {
    /// Names an object.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if `name` is not a DNS subdomain (RFC 1123) of at most 253 characters.
    pub fn new(kind: Kind, namespace: &Namespace, name: &str) -> Result<Self, InvalidName> {
        check("object", name, 253, true)?;
        Ok(Self::of(kind, namespace.clone(), name.into()))
    }

    /// Names an object of the whole cluster, which is in no namespace.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn cluster_wide(kind: Kind, name: &str) -> Result<Self, InvalidName> {
        check("object", name, 253, true)?;
        Ok(Self::of(kind, Namespace(Arc::default()), name.into()))
    }

    /// The key of a Service.
    pub fn of_service(service: &ServiceName) -> Self {
        Self::named(Kind::Service, service)
    }

    /// The key of what is known by the name of a Service.
    pub(crate) fn named(kind: Kind, service: &ServiceName) -> Self {
        let name = Arc::clone(&service.name);
        Self::of(kind, service.namespace.clone(), name)
    }

    fn of(kind: Kind, namespace: Namespace, name: Arc<str>) -> Self {
        Self(Arc::new(KeyParts {
            kind,
            namespace,
            name,
            cluster: None,
        }))
    }

    /// The same object of another cluster.
    ///
    /// ```
    /// use inmesh_core::model::{ClusterName, Kind, Namespace, ObjectKey};
    /// let key = ObjectKey::new(Kind::EndpointSlice, &Namespace::new("shop")?, "cart-1")?;
    /// let east = key.clone().in_cluster(ClusterName::new("east")?);
    /// assert_ne!(key, east);
    /// assert_eq!(east.to_string(), "EndpointSlice/shop/cart-1@east");
    /// # Ok::<(), inmesh_core::model::InvalidName>(())
    /// ```
    #[must_use]
    pub fn in_cluster(mut self, cluster: ClusterName) -> Self {
        Arc::make_mut(&mut self.0).cluster = Some(cluster);
        self
    }
}

impl Deref for ObjectKey {
    type Target = KeyParts;

    fn deref(&self) -> &KeyParts {
        &self.0
    }
}

/// As its parts.
impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// `Kind/namespace/name`, or `Kind/name` of the whole cluster's, with `@cluster` after it for another
/// cluster's.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{}/{}", self.kind, self.name)?,
            namespace => write!(f, "{}/{namespace}/{}", self.kind, self.name)?,
        }
        match &self.cluster {
            Some(cluster) => write!(f, "@{cluster}"),
            None => Ok(()),
        }
    }
}

// === impl ClusterName ===

impl ClusterName {
    /// Parses a cluster's name.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if it is not a DNS label (RFC 1123) of at most 63 characters.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        check("cluster", name, 63, false)?;
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl SourceId ===

impl SourceId {
    /// Names a source; any text that an operator will recognise in a log.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Workload ===

impl Workload {
    /// A workload without labels.
    ///
    /// ```
    /// use inmesh_core::model::Workload;
    /// let cart = Workload::new("shop", "cart", "cart")?.label("version", "v2");
    /// assert_eq!(cart.labels["version"].as_ref(), "v2");
    /// # Ok::<(), inmesh_core::model::InvalidName>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if one of the names is not a DNS label or subdomain.
    pub fn new(namespace: &str, name: &str, service_account: &str) -> Result<Self, InvalidName> {
        check("workload", name, 253, true)?;
        check("service account", service_account, 253, true)?;
        Ok(Self {
            namespace: Namespace::new(namespace)?,
            name: name.into(),
            labels: BTreeMap::new(),
            service_account: service_account.into(),
        })
    }

    /// Adds a label, replacing one of the same key.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// The SPIFFE ID of this workload in a trust domain, in Istio's shape
    /// `spiffe://<td>/ns/<namespace>/sa/<service account>`.
    ///
    /// # Errors
    ///
    /// The rule of the SPIFFE ID specification that the names break; names that
    /// [`new`](Self::new) accepted can only break the limit of 2,048 bytes.
    pub fn spiffe_id(&self, domain: &TrustDomain) -> Result<SpiffeId, inmesh_pki::id::IdError> {
        SpiffeId::for_workload(domain, self.namespace.as_str(), &self.service_account)
    }
}

/// `namespace/name`.
impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Checks a label as Kubernetes wants it: a key of up to 63 letters, digits and `-_.`, which may have
/// a DNS subdomain and a `/` before it, and a value of that kind, which may be empty.
///
/// ```
/// use inmesh_core::model::check_label;
/// assert!(check_label("app.kubernetes.io/name", "cart").is_ok());
/// assert!(check_label("app", "cart ").is_err(), "no workload has it");
/// ```
///
/// # Errors
///
/// [`InvalidName`] if no workload of Kubernetes can have it.
pub fn check_label(key: &str, value: &str) -> Result<(), InvalidName> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix {
        check("prefix of a label", prefix, 253, true)?;
    }
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let fits = |text: &str| {
        let ends = [text.bytes().next(), text.bytes().last()];
        text.bytes().all(inner) && ends.iter().flatten().all(u8::is_ascii_alphanumeric)
    };
    let refuse = |what, name: &str, why| {
        Err(InvalidName {
            what,
            name: name.chars().take(64).collect(),
            why,
        })
    };
    const WHY: &str =
        "it must be letters, digits and '-_.', and begin and end with a letter or digit";
    for (what, text) in [("key of a label", name), ("value of a label", value)] {
        if text.len() > 63 {
            return refuse(what, text, "it is too long");
        }
        if !fits(text) {
            return refuse(what, text, WHY);
        }
    }
    if name.is_empty() {
        return refuse("key of a label", key, "it is empty");
    }
    Ok(())
}

/// Whether it is labels of RFC 1123 with dots between, in lower case.
pub(crate) fn is_subdomain(name: &str) -> bool {
    check("host", name, 253, true).is_ok()
}

/// RFC 1123 as Kubernetes reads it: lower case letters, digits and `-` (and `.` in a subdomain),
/// each label beginning and ending with a letter or digit.
fn check(
    what: &'static str,
    name: &str,
    longest: usize,
    subdomain: bool,
) -> Result<(), InvalidName> {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > longest {
        "it is too long"
    } else if subdomain && !name.split('.').all(label) {
        "it must be labels of lower case letters, digits and '-' with '.' between"
    } else if !subdomain && !label(name) {
        "it must be lower case letters, digits and '-', and begin and end with no '-'"
    } else {
        return Ok(());
    };
    Err(invalid(what, name, why))
}

/// A name that breaks a rule.
pub(super) fn invalid(what: &'static str, name: &str, why: &'static str) -> InvalidName {
    InvalidName {
        what,
        name: name.chars().take(64).collect(),
        why,
    }
}
