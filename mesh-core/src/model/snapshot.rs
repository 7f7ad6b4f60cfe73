//! The one immutable view, and how a change makes the next one. Pure.
//!
//! 1. Each operation replaces its source's version of its object; a refused one keeps the last
//!    good version and remembers why.
//! 2. Of several sources that speak of one object the first in the order of [`Settings`] serves.
//! 3. Only Services whose parts changed are compiled again; policies only if one changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use rpds::{HashTrieMapSync, HashTrieSetSync};

use super::change::{Change, Fallback, Op, Selects};
use super::compile;
use super::endpoint::Host;
use super::index::Index;
use super::status::Problem;
use super::{
    Kind, Namespace, ObjectKey, Service, ServiceName, ServiceView, Slice, SourceId, Workload,
};
use crate::authorize::{DefaultAction, Policy, WorkloadPolicy};
use crate::route::Route;

/// What does not change while the process runs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// The workload that this process serves; its policies are compiled.
    pub workload: Workload,
    /// What happens where no ALLOW policy selects the workload.
    pub default_action: DefaultAction,
    /// The namespace whose policies govern every namespace, if there is one.
    pub mesh_namespace: Option<Namespace>,
    /// Sources in order of precedence; those not named come after, by name.
    pub sources: Vec<SourceId>,
}

/// Where a request is meant to go: a Service, found by its name, and one of its ports.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Destination {
    /// The Service.
    pub service: Arc<ServiceView>,
    /// The port's number on the Service.
    pub port: u16,
}

/// One immutable view of everything: Services with routes and endpoints, and the policy of the
/// local workload. Cheap to clone; [`apply`](Self::apply) shares what did not change.
#[derive(Debug, Clone)]
pub struct Snapshot {
    settings: Arc<Settings>,
    generation: u64,
    refusals: u64,
    pub(super) objects: HashTrieMapSync<ObjectKey, Arc<Object>>,
    by_source: HashTrieMapSync<SourceId, HashTrieSetSync<ObjectKey>>,
    parts: HashTrieMapSync<ServiceName, Arc<Parts>>,
    services: Index,
    named: HashTrieMapSync<Host, Named>,
    policies: HashTrieSetSync<ObjectKey>,
    policy: Arc<WorkloadPolicy>,
    blocked: Arc<[ObjectKey]>,
}

/// The versions of one object, by precedence of their sources.
#[derive(Debug, Clone, Default)]
pub(super) struct Object {
    pub(super) versions: Vec<Version>,
}

/// What one source said of one object.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub(super) source: SourceId,
    pub(super) good: Option<Good>,
    /// What happens where `good` is not there.
    fallback: Fallback,
    /// Whether `good` is the newest.
    pub(super) refused: bool,
    pub(super) problems: Vec<Problem>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Good {
    Policy(Arc<Policy>),
    Route(Arc<Route>),
    Service(Arc<Service>),
    Slice(Arc<Slice>),
}

/// What belongs to one Service.
#[derive(Debug, Clone, Default)]
struct Parts {
    slices: BTreeSet<ObjectKey>,
    routes: BTreeSet<ObjectKey>,
    /// The names that its endpoints need.
    hosts: BTreeSet<Host>,
}

/// A name to resolve: its addresses and the Services that need it.
#[derive(Debug, Clone, Default)]
struct Named {
    addresses: Option<compile::Addresses>,
    services: BTreeSet<ServiceName>,
}

/// What a change has touched so far.
#[derive(Default)]
struct Touched {
    services: BTreeSet<ServiceName>,
    policies: bool,
    any: bool,
}

// === impl Settings ===

impl Settings {
    /// Settings of a workload without a mesh-wide namespace or an order of sources.
    pub fn new(workload: Workload, default_action: DefaultAction) -> Self {
        Self {
            workload,
            default_action,
            mesh_namespace: None,
            sources: Vec::new(),
        }
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// The snapshot of a process that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        let policy = WorkloadPolicy::empty(settings.default_action);
        Self {
            settings: Arc::new(settings),
            generation: 0,
            refusals: 0,
            objects: HashTrieMapSync::new_sync(),
            by_source: HashTrieMapSync::new_sync(),
            parts: HashTrieMapSync::new_sync(),
            services: Index::default(),
            named: HashTrieMapSync::new_sync(),
            policies: HashTrieSetSync::new_sync(),
            policy: Arc::new(policy),
            blocked: Arc::new([]),
        }
    }

    /// The snapshot after a change. The state of every endpoint that stays is the same.
    #[must_use]
    pub fn apply(&self, change: Change) -> Self {
        let mut next = self.clone();
        let mut touched = Touched::default();
        let mut gone = if change.replace {
            self.by_source.get(&change.source).cloned()
        } else {
            None
        };
        let mut resolved = Vec::new();
        for op in change.ops {
            if let Op::Resolve(host, _) = &op {
                resolved.push(host.clone());
            }
            let key = next.perform(&change.source, op, &mut touched);
            if let (Some(gone), Some(key)) = (&mut gone, key) {
                gone.remove_mut(&key);
            }
        }
        for key in gone.iter().flatten() {
            next.remove(&change.source, key, &mut touched);
        }
        for service in &touched.services {
            next.compile_service(service);
        }
        // A name that nobody wants (any more) is forgotten, whoever still resolves it.
        for host in resolved {
            if next.named.get(&host).is_some_and(|n| n.services.is_empty()) {
                next.named.remove_mut(&host);
            }
        }
        if touched.policies {
            next.compile_policies();
        }
        next.generation += u64::from(touched.any);
        next
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

    /// The compiled policy of the local workload.
    pub fn policy(&self) -> &Arc<WorkloadPolicy> {
        &self.policy
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

    /// Every host name that wants addresses.
    pub fn names(&self) -> impl Iterator<Item = &Host> {
        self.named
            .iter()
            .filter(|(_, named)| !named.services.is_empty())
            .map(|(host, _)| host)
    }

    /// Every host name that wants addresses, with those that were found for it; `None` where a
    /// resolver has said nothing of it yet.
    pub fn resolutions(&self) -> impl Iterator<Item = (&Host, Option<&compile::Addresses>)> {
        self.named
            .iter()
            .filter(|(_, named)| !named.services.is_empty())
            .map(|(host, named)| (host, named.addresses.as_ref()))
    }

    /// The destination that an authority names: `cart`, `cart:8080`, `cart.shop`,
    /// `cart.shop.svc` or `cart.shop.svc.cluster.local`, in any case, a trailing dot or not.
    ///
    /// Without a namespace it is `namespace`. Without a port it is `default_port`, or the only
    /// port of a Service that has one. `None` where no Service has the name.
    pub fn resolve(
        &self,
        authority: &str,
        namespace: &Namespace,
        default_port: u16,
    ) -> Option<Destination> {
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
        let mut labels = host.splitn(4, '.');
        let name = labels.next()?;
        let namespace = labels.next().unwrap_or(namespace.as_str());
        if !matches!(labels.next(), None | Some("svc")) {
            return None;
        }
        if !matches!(labels.next(), None | Some("cluster.local")) {
            return None;
        }
        let service = self.find(namespace, name)?;
        let port = match (port, &*service.endpoints) {
            (Some(port), _) => port,
            (None, [(only, _)]) => *only,
            (None, _) => default_port,
        };
        Some(Destination {
            service: service.clone(),
            port,
        })
    }

    fn find(&self, namespace: &str, name: &str) -> Option<&Arc<ServiceView>> {
        let hash = ServiceName::hash_of(namespace, name);
        self.services.find(hash, |s| s.is(namespace, name))
    }

    /// Does what one operation says; returns the object it speaks of.
    fn perform(&mut self, source: &SourceId, op: Op, touched: &mut Touched) -> Option<ObjectKey> {
        let (key, good, problems) = match op {
            Op::Keep(key) => return Some(key),
            Op::PutPolicy(policy, problems) => (policy.key.clone(), Good::Policy(policy), problems),
            Op::PutRoute(route, problems) => (route.key.clone(), Good::Route(route), problems),
            Op::PutService(service, problems) => {
                (service_key(&service.name), Good::Service(service), problems)
            }
            Op::PutSlice(slice, problems) => (slice.key.clone(), Good::Slice(slice), problems),
            Op::Refuse(key, fallback, problems) => {
                self.refuse(source, &key, fallback, problems, touched);
                return Some(key);
            }
            Op::Remove(key) => {
                self.remove(source, &key, touched);
                return Some(key);
            }
            Op::Resolve(host, addresses) => {
                self.resolved(host, addresses, touched);
                return None;
            }
        };
        let version = Version {
            source: source.clone(),
            good: Some(good),
            fallback: Fallback::Absent,
            refused: false,
            problems,
        };
        self.put(&key, version, touched);
        Some(key)
    }

    fn refuse(
        &mut self,
        source: &SourceId,
        key: &ObjectKey,
        fallback: Fallback,
        problems: Vec<Problem>,
        touched: &mut Touched,
    ) {
        let before = self
            .objects
            .get(key)
            .and_then(|o| o.versions.iter().find(|v| v.source == *source));
        if before.is_none_or(|v| !v.refused || v.problems != problems) {
            self.refusals += 1;
        }
        let version = Version {
            source: source.clone(),
            good: before.and_then(|v| v.good.clone()),
            fallback,
            refused: true,
            problems,
        };
        self.put(key, version, touched);
    }

    fn put(&mut self, key: &ObjectKey, version: Version, touched: &mut Touched) {
        let source = version.source.clone();
        let before = self.objects.get(key);
        let mut object = before.map(|o| (**o).clone()).unwrap_or_default();
        let old = object.winner().cloned();
        object.versions.retain(|v| v.source != source);
        object.versions.push(version);
        let rank = |v: &Version| {
            let listed = self.settings.sources.iter().position(|s| *s == v.source);
            (listed.unwrap_or(usize::MAX), v.source.clone())
        };
        object.versions.sort_by_cached_key(rank);
        let new = object.winner().cloned();
        self.objects.insert_mut(key.clone(), Arc::new(object));
        let mut said = self.by_source.get(&source).cloned().unwrap_or_default();
        if !said.contains(key) {
            said.insert_mut(key.clone());
            self.by_source.insert_mut(source, said);
        }
        self.replaced(key, old, new, touched);
    }

    fn remove(&mut self, source: &SourceId, key: &ObjectKey, touched: &mut Touched) {
        let Some(before) = self.objects.get(key) else {
            return;
        };
        let mut object = (**before).clone();
        let old = object.winner().cloned();
        object.versions.retain(|v| v.source != *source);
        let new = object.winner().cloned();
        if object.versions.is_empty() {
            self.objects.remove_mut(key);
        } else {
            self.objects.insert_mut(key.clone(), Arc::new(object));
        }
        if let Some(mut said) = self.by_source.get(source).cloned() {
            said.remove_mut(key);
            self.by_source.insert_mut(source.clone(), said);
        }
        self.replaced(key, old, new, touched);
    }

    /// Notes what must be compiled again because `new` serves in place of `old`.
    fn replaced(
        &mut self,
        key: &ObjectKey,
        old: Option<Version>,
        new: Option<Version>,
        touched: &mut Touched,
    ) {
        // What is left out has no effect, like what is not there: the configuration that serves
        // does not change by it.
        let effect = |v: &Option<Version>| match v {
            Some(v) if v.good.is_some() => Some((v.good.clone(), None)),
            Some(v) if v.fallback != Fallback::Absent => Some((None, Some(v.fallback.clone()))),
            _ => None,
        };
        let new_effect = effect(&new);
        if effect(&old) == new_effect {
            return;
        }
        touched.any = true;
        if key.kind == Kind::AuthorizationPolicy {
            touched.policies = true;
            if new_effect.is_some() {
                self.policies.insert_mut(key.clone());
            } else {
                self.policies.remove_mut(key);
            }
        }
        for (version, present) in [(&old, false), (&new, true)] {
            match version.as_ref().and_then(|v| v.good.as_ref()) {
                Some(Good::Service(service)) => {
                    touched.services.insert(service.name.clone());
                }
                Some(Good::Slice(slice)) => {
                    self.part(&slice.service, |p| set(&mut p.slices, key, present));
                    touched.services.insert(slice.service.clone());
                }
                Some(Good::Route(route)) => {
                    for parent in &route.parents {
                        self.part(&parent.service, |p| set(&mut p.routes, key, present));
                        touched.services.insert(parent.service.clone());
                    }
                }
                Some(Good::Policy(_)) | None => {}
            }
        }
    }

    fn part(&mut self, service: &ServiceName, change: impl FnOnce(&mut Parts)) {
        let mut parts = self
            .parts
            .get(service)
            .map(|p| (**p).clone())
            .unwrap_or_default();
        change(&mut parts);
        if parts.slices.is_empty() && parts.routes.is_empty() && parts.hosts.is_empty() {
            self.parts.remove_mut(service);
        } else {
            self.parts.insert_mut(service.clone(), Arc::new(parts));
        }
    }

    fn resolved(&mut self, host: Host, addresses: compile::Addresses, touched: &mut Touched) {
        let mut named = self.named.get(&host).cloned().unwrap_or_default();
        if named.addresses.as_ref() == Some(&addresses) {
            return;
        }
        named.addresses = Some(addresses);
        touched.any |= !named.services.is_empty();
        touched.services.extend(named.services.iter().cloned());
        self.named.insert_mut(host, named);
    }

    fn compile_service(&mut self, name: &ServiceName) {
        let before = self.service(name).cloned();
        let key = service_key(name);
        let service = self.good(&key).and_then(|good| match good {
            Good::Service(service) => Some(service.clone()),
            _ => None,
        });
        let parts = self.parts.get(name).cloned().unwrap_or_default();
        let slices: Vec<_> = parts
            .slices
            .iter()
            .filter_map(|key| match self.good(key) {
                Some(Good::Slice(slice)) => Some(slice.clone()),
                _ => None,
            })
            .collect();
        self.want_names(name, &compile::hosts(service.as_deref(), &slices));
        match service {
            None => self.services.remove(name),
            Some(service) => {
                let routes: Vec<_> = parts
                    .routes
                    .iter()
                    .filter_map(|key| match self.good(key) {
                        Some(Good::Route(route)) => Some(route.clone()),
                        _ => None,
                    })
                    .collect();
                let addresses = |host: &Host| self.named.get(host)?.addresses.clone();
                let view = compile::view(&service, &slices, &routes, &addresses, before.as_deref());
                self.services.insert(Arc::new(view));
            }
        }
    }

    /// Keeps the index of who needs which host name.
    fn want_names(&mut self, service: &ServiceName, hosts: &BTreeSet<Host>) {
        let had = match self.parts.get(service) {
            Some(parts) if parts.hosts == *hosts => return,
            Some(parts) => parts.hosts.difference(hosts).cloned().collect(),
            None if hosts.is_empty() => return,
            None => BTreeSet::new(),
        };
        self.part(service, |p| p.hosts.clone_from(hosts));
        for host in had {
            if let Some(mut named) = self.named.get(&host).cloned() {
                named.services.remove(service);
                if named.services.is_empty() {
                    self.named.remove_mut(&host);
                } else {
                    self.named.insert_mut(host, named);
                }
            }
        }
        for host in hosts {
            let mut named = self.named.get(host).cloned().unwrap_or_default();
            if named.services.insert(service.clone()) {
                self.named.insert_mut(host.clone(), named);
            }
        }
    }

    fn compile_policies(&mut self) {
        let settings = self.settings.clone();
        let covers = |s: &Selects| s.covers(&settings.workload, settings.mesh_namespace.as_ref());
        let (mut good, mut broken, mut blocked) = (Vec::new(), Vec::new(), Vec::new());
        for key in self.policies.iter() {
            let Some(version) = self.objects.get(key).and_then(|o| o.winner()) else {
                continue;
            };
            match (&version.good, &version.fallback) {
                (Some(Good::Policy(policy)), _) if covers(&policy.selects()) => {
                    good.push(policy.clone());
                }
                (None, Fallback::Deny(selects)) if covers(selects) => {
                    broken.push(key.clone());
                    if *selects == Selects::Unknown {
                        blocked.push(key.clone());
                    }
                }
                _ => {}
            }
        }
        broken.sort();
        self.policy = Arc::new(WorkloadPolicy::compile(
            settings.default_action,
            good,
            broken,
        ));
        self.blocked = blocked.into();
    }

    fn good(&self, key: &ObjectKey) -> Option<&Good> {
        self.objects.get(key)?.winner()?.good.as_ref()
    }
}

fn set(of: &mut BTreeSet<ObjectKey>, key: &ObjectKey, present: bool) {
    if present {
        of.insert(key.clone());
    } else {
        of.remove(key);
    }
}

fn service_key(name: &ServiceName) -> ObjectKey {
    ObjectKey {
        kind: Kind::Service,
        namespace: name.namespace().clone(),
        name: name.name().into(),
    }
}

// === impl Object ===

impl Object {
    /// The version that serves: the first with a good one, else the first.
    fn winner(&self) -> Option<&Version> {
        self.versions
            .iter()
            .find(|v| v.good.is_some())
            .or_else(|| self.versions.first())
    }
}
