//! The one immutable view, and what is read from it. Pure.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::ptr;
use std::sync::Arc;

use rpds::{HashTrieMapSync, HashTrieSetSync};

use super::change::{Fallback, Object};
use super::compile;
use super::index::Index;
use super::service::ServiceView;
use super::settings::Settings;
use super::status::Problem;
use crate::authorize::{Denied, PathForm, Policy, RequestView, Verdict, WorkloadPolicy, decide};
use crate::identify::Peer;
use crate::limit::{Adaptive, Limiter};
use crate::local::Local;
use crate::model::{Asked, Host, Namespace, Node, ObjectKey, ServiceName, SourceId};

/// A port of a Service that a name or an address leads to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Resolved {
    /// The Service.
    pub service: Arc<ServiceView>,
    /// The port's number on the Service.
    pub port: u16,
}

/// One immutable view of everything: Services with routes and endpoints, and the policies of the
/// local workloads. Cheap to clone; [`apply`](Self::apply) shares what did not change.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(super) settings: Arc<Settings>,
    pub(super) generation: u64,
    pub(super) refusals: u64,
    pub(super) objects: HashTrieMapSync<ObjectKey, Arc<Versions>>,
    pub(super) by_source: HashTrieMapSync<SourceId, HashTrieSetSync<ObjectKey>>,
    pub(super) parts: HashTrieMapSync<ServiceName, Arc<Parts>>,
    pub(super) services: Index,
    pub(super) addresses: HashTrieMapSync<IpAddr, BTreeSet<ServiceName>>,
    pub(super) names: HashTrieMapSync<Host, Name>,
    /// The slices that have a Pod among their hosts.
    pub(super) pods: HashTrieMapSync<ObjectKey, BTreeSet<ObjectKey>>,
    /// The namespaces that are known, and whether their Pods are in the mesh.
    pub(super) namespaces: HashTrieMapSync<Arc<str>, bool>,
    /// Nodes by their names.
    pub(super) nodes: HashTrieMapSync<Arc<str>, Arc<Node>>,
    /// The Services that hosts outside the mesh lead to, by their patterns.
    pub(super) hosts: HashTrieMapSync<Arc<str>, BTreeSet<ServiceName>>,
    /// The hosts that were asked for and no document lists.
    pub(super) asked: HashTrieMapSync<ServiceName, BTreeSet<Asked>>,
    pub(super) policies: HashTrieSetSync<ObjectKey>,
    /// BackendTLSPolicies by their namespaces.
    pub(super) tls: HashTrieMapSync<Namespace, BTreeSet<ObjectKey>>,
    /// TrafficPolicies by what they are for.
    pub(super) traffic: HashTrieMapSync<Reach, BTreeSet<ObjectKey>>,
    /// TrafficPolicies that say how many requests workloads take.
    pub(super) limits: HashTrieSetSync<ObjectKey>,
    /// The local workloads that have such a limit.
    pub(super) limiters: HashTrieMapSync<ByAddress, Arc<Limiter>>,
    /// Those whose requests at once are limited.
    pub(super) adaptive: HashTrieMapSync<ByAddress, Arc<Adaptive>>,
    /// The policy of the first local workload, and those of the others.
    pub(super) policy: Arc<WorkloadPolicy>,
    pub(super) others: HashTrieMapSync<ByAddress, Arc<WorkloadPolicy>>,
    pub(super) blocked: Arc<[ObjectKey]>,
}

/// The versions of one object, by precedence of their sources.
#[derive(Debug, Clone, Default)]
pub(super) struct Versions(pub(super) Vec<Version>);

/// One source's version of one object.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub(super) source: SourceId,
    /// The newest good version, if there was one.
    pub(super) good: Option<Object>,
    /// What takes its place if there was none.
    pub(super) fallback: Fallback,
    /// Whether the newest version was refused, so that `good` is an older one.
    pub(super) refused: bool,
    /// The document that `good` was read from, or the refused one if there is no good one; where its
    /// source hands documents on.
    pub(super) document: Option<Arc<str>>,
    pub(super) problems: Vec<Problem>,
}

/// The objects that make up one Service.
#[derive(Debug, Clone, Default)]
pub(super) struct Parts {
    /// One for each cluster; the local one sorts first.
    pub(super) services: BTreeSet<ObjectKey>,
    pub(super) slices: BTreeSet<ObjectKey>,
    pub(super) routes: BTreeSet<ObjectKey>,
    /// The Services that have endpoints of it.
    pub(super) subsets: BTreeSet<ObjectKey>,
    /// The names that its endpoints need.
    pub(super) hosts: BTreeSet<Host>,
}

/// What a TrafficPolicy is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Reach {
    /// All Services of a namespace; those of the mesh's namespace for all others too.
    Namespace(Namespace),
    Route(ObjectKey),
    Service(ServiceName),
}

/// A name to resolve: its addresses and the Services that need it.
#[derive(Debug, Clone, Default)]
pub(super) struct Name {
    pub(super) addresses: Option<compile::Addresses>,
    /// The resolver that has found them.
    pub(super) source: Option<SourceId>,
    pub(super) services: BTreeSet<ServiceName>,
}

/// A local workload, compared by its address: the map that holds it keeps it alive.
#[derive(Debug, Clone)]
pub(super) struct ByAddress(pub(super) Arc<Local>);

/// The label before the first dot, and what stands after that.
fn first_label(host: &str) -> (&str, Option<&str>) {
    // Names are short: a search that is made for long texts takes longer to begin.
    match host.bytes().position(|b| b == b'.') {
        Some(dot) => (&host[..dot], Some(&host[dot + 1..])),
        None => (host, None),
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// The snapshot of a process whose sources have pushed nothing yet.
    ///
    /// ```
    /// use inmesh_core::authorize::DefaultAction;
    /// use inmesh_core::model::Workload;
    /// use inmesh_core::snapshot::{Settings, Snapshot};
    /// let settings = Settings::new(Workload::new("shop", "web", "web")?, DefaultAction::Deny);
    /// assert_eq!(Snapshot::new(settings).services().count(), 0);
    /// # Ok::<(), inmesh_core::model::InvalidName>(())
    /// ```
    pub fn new(mut settings: Settings) -> Self {
        if settings.paths != PathForm::default() {
            settings.local = Arc::new(Local::clone(&settings.local).in_form(settings.paths));
        }
        let policy = WorkloadPolicy::empty(settings.local.default_action());
        let empty = Self {
            settings: Arc::new(settings),
            generation: 0,
            refusals: 0,
            objects: HashTrieMapSync::new_sync(),
            by_source: HashTrieMapSync::new_sync(),
            parts: HashTrieMapSync::new_sync(),
            services: Index::default(),
            addresses: HashTrieMapSync::new_sync(),
            names: HashTrieMapSync::new_sync(),
            pods: HashTrieMapSync::new_sync(),
            namespaces: HashTrieMapSync::new_sync(),
            nodes: HashTrieMapSync::new_sync(),
            hosts: HashTrieMapSync::new_sync(),
            asked: HashTrieMapSync::new_sync(),
            policies: HashTrieSetSync::new_sync(),
            tls: HashTrieMapSync::new_sync(),
            traffic: HashTrieMapSync::new_sync(),
            limits: HashTrieSetSync::new_sync(),
            limiters: HashTrieMapSync::new_sync(),
            adaptive: HashTrieMapSync::new_sync(),
            policy: Arc::new(policy),
            others: HashTrieMapSync::new_sync(),
            blocked: Arc::new([]),
        };
        empty.with_passthrough()
    }

    /// Whether a TrafficPolicy asks for checks of endpoints.
    #[cfg(any(feature = "runtime", feature = "simulate"))]
    pub(crate) fn has_checks(&self) -> bool {
        let keys = self.traffic.values().flatten();
        let mut policies = keys.filter_map(|key| self.good(key));
        policies.any(|object| match object {
            Object::Traffic(policy) => policy.blocks.check.is_some(),
            _ => false,
        })
    }

    /// How often the configuration that serves has changed.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How often a new version of an object was refused.
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    /// What does not change.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The compiled policy of the first local workload.
    pub fn policy(&self) -> &Arc<WorkloadPolicy> {
        &self.policy
    }

    /// The local workloads, the first one first.
    pub fn locals(&self) -> impl Iterator<Item = &Arc<Local>> {
        let others = self.others.keys().map(|local| &local.0);
        std::iter::once(&self.settings.local).chain(others)
    }

    /// The compiled policy of a local workload; `None` if the snapshot does not serve it, in which
    /// case every request to it is to be denied.
    pub fn policy_of(&self, local: &Arc<Local>) -> Option<&Arc<WorkloadPolicy>> {
        if Arc::ptr_eq(local, &self.settings.local) {
            Some(&self.policy)
        } else {
            self.others.get(&ByAddress(Arc::clone(local)))
        }
    }

    /// Decides by the policy of a local workload whether a request to it is permitted.
    pub(crate) fn authorize(
        &self,
        local: &Arc<Local>,
        peer: &Peer,
        request: &RequestView<'_>,
    ) -> Verdict {
        match self.policy_of(local) {
            Some(policy) => decide(policy, peer, request, &mut ()),
            None => Denied::no_policy().into(),
        }
    }

    /// Objects that keep the process from being ready: policies of which not even the namespace
    /// can be read.
    pub fn blocked(&self) -> &[ObjectKey] {
        &self.blocked
    }

    /// A Service by its name.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<ServiceView>> {
        self.services.find(name.hash64(), |s| s.name == *name)
    }

    /// Every Service, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceView>> {
        self.services.iter()
    }

    /// Every host name that needs addresses.
    pub fn names(&self) -> impl Iterator<Item = &Host> {
        self.resolutions().map(|(host, _)| host)
    }

    /// Every host name that needs addresses, with those that were found for it; `None` until a
    /// resolver has answered.
    pub fn resolutions(&self) -> impl Iterator<Item = (&Host, Option<&compile::Addresses>)> {
        self.names
            .iter()
            .filter(|(_, name)| !name.services.is_empty())
            .map(|(host, name)| (host, name.addresses.as_ref()))
    }

    /// The Service that an authority names: `cart`, `cart:8080`, `cart.shop`, `cart.shop.svc` or
    /// `cart.shop.svc.` with the cluster domain after it, in any case, a trailing dot or not.
    ///
    /// Without a namespace it is `namespace`. Without a port it is `default_port`, or the only
    /// port of a Service that has one. `None` if no Service has the name.
    pub fn resolve(
        &self,
        authority: &str,
        namespace: &Namespace,
        default_port: u16,
    ) -> Option<Resolved> {
        let (host, port) = match authority.rsplit_once(':') {
            Some((_, port)) if !port.bytes().all(|b| b.is_ascii_digit()) => return None,
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (authority, None),
        };
        let lower;
        let host = if host.bytes().any(|b| b.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            lower.as_str()
        } else {
            host
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let (name, rest) = first_label(host);
        let (namespace, rest) = rest.map_or((namespace.as_str(), None), first_label);
        let (svc, domain) = rest.map_or(("svc", None), first_label);
        if svc != "svc" || domain.is_some_and(|domain| *domain != *self.settings.cluster_domain) {
            return None;
        }
        let hash = ServiceName::hash_of(namespace, name);
        let service = self.services.find(hash, |s| s.is(namespace, name))?;
        let port = match (port, &*service.endpoints) {
            (Some(port), _) => port,
            (None, [only]) => only.port,
            (None, _) => default_port,
        };
        Some(Resolved {
            service: Arc::clone(service),
            port,
        })
    }

    /// The Service that has a virtual address; of several the first by name. `None` if there is
    /// none.
    pub fn at_address(&self, address: IpAddr) -> Option<&Arc<ServiceView>> {
        self.service(self.addresses.get(&address)?.first()?)
    }

    /// The policies that serve, whatever they select, in no order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies
            .iter()
            .filter_map(|key| match self.good(key)? {
                Object::Policy(policy) => Some(policy),
                _ => None,
            })
    }

    /// The policies that may select workloads of a namespace, in no order.
    pub(crate) fn policies_in(&self, namespace: &Namespace) -> impl Iterator<Item = &Arc<Policy>> {
        let mesh_wide = self.settings.mesh_namespace.as_ref();
        let reaches = move |of: &Namespace| of == namespace || Some(of) == mesh_wide;
        self.policies()
            .filter(move |policy| policy.key.cluster.is_none() && reaches(&policy.key.namespace))
    }

    pub(super) fn good(&self, key: &ObjectKey) -> Option<&Object> {
        self.objects.get(key)?.winner()?.good.as_ref()
    }
}

// === impl Versions ===

impl Versions {
    /// The version that serves: the first with a good one, else the first.
    pub(super) fn winner(&self) -> Option<&Version> {
        self.0
            .iter()
            .find(|v| v.good.is_some())
            .or_else(|| self.0.first())
    }
}

// === impl Version ===

impl Version {
    /// Whether it denies what it selects because it never was good.
    pub(super) fn denies(&self) -> bool {
        let denies = matches!(self.fallback, Fallback::Deny(_) | Fallback::Refuse(_));
        self.good.is_none() && denies
    }
}

// === impl ByAddress ===

impl PartialEq for ByAddress {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for ByAddress {}

impl Hash for ByAddress {
    fn hash<H: Hasher>(&self, state: &mut H) {
        ptr::hash(Arc::as_ptr(&self.0), state);
    }
}
