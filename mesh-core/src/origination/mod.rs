//! Origination of TLS: which servers outside the mesh are spoken to in TLS, and what they must prove.
//!
//! In come BackendTLSPolicies with the roots that they refer to (GEP-1897), out comes one
//! [`Origination`] for each port of a Service, or none. What cannot be resolved refuses: a policy whose
//! roots are not there, or that never could be read, lets no connection be made, in plaintext or by other
//! roots. Endpoints in the mesh stay in mutual TLS whatever a policy says. Pure.

mod shown;

use std::sync::Arc;

use inmesh_pki::tls::{self, AltName};

use crate::model::{Block, ObjectKey, PemRoots, Roots, ServiceName, Transport};

/// `gateway.networking.k8s.io/v1 BackendTLSPolicy`: what the servers behind Services prove.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendTlsPolicy {
    /// The object it was read from.
    pub key: ObjectKey,
    /// When it was created, in seconds since 1970: of two for one target the older has precedence.
    pub created: Option<i64>,
    /// What it is for.
    pub targets: Targets,
    /// The name that is sent as SNI, and that the certificate must have where `names` is empty.
    pub hostname: Arc<str>,
    /// Names of which the certificate must have one, if there are any.
    pub names: Arc<[AltName]>,
    /// What vouches for the server.
    pub vouched: Vouched,
}

/// What a policy is for, in its own namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Targets {
    /// All Services, where it cannot be read which.
    All,
    /// Services, or their ports of that name.
    Services(Vec<(ServiceName, Option<Arc<str>>)>),
}

/// What vouches for a server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Vouched {
    /// ConfigMaps that have roots, all of which must be there.
    ConfigMaps(Vec<ObjectKey>),
    /// The roots of the operating system.
    System,
    /// Nothing, which is why.
    Unusable(Arc<str>),
}

/// The roots of a `v1 ConfigMap`, under its key `ca.crt`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CaConfigMap {
    /// The object it was read from.
    pub key: ObjectKey,
    /// PEM, with a root at least.
    pub pem: Arc<[u8]>,
}

/// Finds the roots of a ConfigMap.
pub(crate) type RootsAt<'a> = &'a dyn Fn(&ObjectKey) -> Option<Arc<CaConfigMap>>;

/// TLS to the servers of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Origination {
    /// The name that is sent as SNI.
    pub hostname: Arc<str>,
    /// Names of which the certificate must have one instead, if there are any.
    pub names: Arc<[AltName]>,
    /// The roots that it is verified against.
    pub roots: Roots,
}

// === impl BackendTlsPolicy ===

impl BackendTlsPolicy {
    /// A policy of unknown age, for a server that proves itself by this name.
    pub fn new(
        key: ObjectKey,
        targets: Targets,
        hostname: impl Into<Arc<str>>,
        vouched: Vouched,
    ) -> Self {
        Self {
            key,
            created: None,
            targets,
            hostname: hostname.into(),
            names: Arc::default(),
            vouched,
        }
    }

    /// A policy that lets no connection be made to what it is for, and why.
    pub fn refusing(key: ObjectKey, targets: Targets, why: impl Into<Arc<str>>) -> Self {
        Self::new(key, targets, "", Vouched::Unusable(why.into()))
    }

    /// The same policy created at a time, in seconds since 1970.
    #[must_use]
    pub fn with_created(mut self, created: Option<i64>) -> Self {
        self.created = created;
        self
    }

    /// The same policy for servers that have one of these names instead.
    #[must_use]
    pub fn with_names(mut self, names: impl IntoIterator<Item = AltName>) -> Self {
        self.names = names.into_iter().collect();
        self
    }

    /// Whether it is for a Service or a port of it.
    pub(crate) fn is_for(&self, service: &ServiceName) -> bool {
        match &self.targets {
            Targets::All => self.key.namespace == *service.namespace(),
            Targets::Services(all) => all.iter().any(|(of, _)| of == service),
        }
    }

    /// How near it is to a port: for the port itself, for its Service, for all.
    fn level(&self, service: &ServiceName, port: &str) -> Option<u8> {
        match &self.targets {
            Targets::All => self.is_for(service).then_some(2),
            Targets::Services(all) => {
                let levels = all.iter().filter(|(of, _)| of == service);
                let level = |section: &Option<Arc<str>>| match section.as_deref() {
                    None => Some(1),
                    Some(section) => (section == port).then_some(0),
                };
                levels.filter_map(|(_, section)| level(section)).min()
            }
        }
    }

    fn origination(&self, roots: RootsAt<'_>) -> Origination {
        let roots = match &self.vouched {
            Vouched::System => Roots::System,
            Vouched::Unusable(why) => Roots::Unusable(Arc::clone(why)),
            Vouched::ConfigMaps(keys) => gathered(keys, roots),
        };
        Origination {
            hostname: Arc::clone(&self.hostname),
            names: Arc::clone(&self.names),
            roots,
        }
    }
}

/// The roots of all of these; none where one of them is missing.
fn gathered(keys: &[ObjectKey], roots: RootsAt<'_>) -> Roots {
    let (mut shown, mut pem) = (String::new(), Vec::new());
    for key in keys {
        let Some(found) = roots(key) else {
            return Roots::Unusable(format!("{key} with a key ca.crt does not exist").into());
        };
        if !shown.is_empty() {
            shown.push_str(", ");
            pem.push(b'\n');
        }
        shown.push_str(&key.to_string());
        pem.extend_from_slice(&found.pem);
    }
    Roots::Documents(Arc::new(PemRoots::new(shown, pem)))
}

/// What serves a port: of the policies for it the one for the port before those for its Service, then the
/// oldest, then the first by name.
pub(crate) fn of_port(
    policies: &[Arc<BackendTlsPolicy>],
    (service, port): (&ServiceName, &str),
    roots: RootsAt<'_>,
) -> Option<Block<Arc<Origination>>> {
    let policy = chosen(policies, service, port)?;
    let value = Arc::new(policy.origination(roots));
    Some(Block::of(value, &policy.key))
}

/// The policy that has precedence at a port.
pub(crate) fn chosen<'p>(
    policies: &'p [Arc<BackendTlsPolicy>],
    service: &ServiceName,
    port: &str,
) -> Option<&'p Arc<BackendTlsPolicy>> {
    let ranked = policies.iter().filter_map(|policy| {
        let age = policy.created.unwrap_or(i64::MAX);
        Some(((policy.level(service, port)?, age, &policy.key), policy))
    });
    ranked
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, policy)| policy)
}

// === impl Targets ===

impl Targets {
    /// The Services that are named.
    pub(crate) fn services(&self) -> &[(ServiceName, Option<Arc<str>>)] {
        match self {
            Self::All => &[],
            Self::Services(all) => all,
        }
    }
}

// === impl Vouched ===

impl Vouched {
    /// The ConfigMaps that are referred to.
    pub(crate) fn config_maps(&self) -> &[ObjectKey] {
        match self {
            Self::ConfigMaps(keys) => keys,
            Self::System | Self::Unusable(_) => &[],
        }
    }
}

// === impl CaConfigMap ===

impl CaConfigMap {
    /// The roots of a ConfigMap.
    ///
    /// # Errors
    ///
    /// Why they cannot be used: one is not a certificate, or there is none.
    pub fn new(key: ObjectKey, pem: &[u8]) -> Result<Self, String> {
        tls::check_web_roots(pem)?;
        let pem = pem.into();
        Ok(Self { key, pem })
    }
}

// === impl Origination ===

impl Origination {
    /// How bytes travel to an endpoint that a document reaches in this transport.
    pub(crate) fn of(&self, transport: &Transport) -> Transport {
        match transport {
            Transport::Mesh { .. } => transport.clone(),
            Transport::Plain | Transport::Tls { .. } => Transport::Tls {
                name: Arc::clone(&self.hostname),
                roots: self.roots.clone(),
                names: Arc::clone(&self.names),
            },
        }
    }
}
