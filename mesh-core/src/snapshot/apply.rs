//! How a change makes the next snapshot. Pure.
//!
//! 1. Each operation replaces its source's version of its object; a refused one keeps the last
//!    good version and remembers why.
//! 2. Where several sources have the same object, the first in the order of
//!    [`Settings`](super::Settings) serves.
//! 3. Only Services whose parts changed are compiled again; policies only if one changed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::change::{Change, Fallback, Object, Op};
use super::compile::{self, Beside};
use super::pods::Places;
use super::service::ServiceView;
use super::state::{Parts, Reach, Snapshot, Version};
use super::status::Problem;
use crate::model::{
    Asked, Host, Kind, Namespace, ObjectKey, Service, ServiceName, Slice, SourceId, Subset,
};
use crate::origination::BackendTlsPolicy;
use crate::traffic::{Target, TrafficPolicy};

/// What a change has touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Touched {
    /// Services that were compiled again.
    pub services: BTreeSet<ServiceName>,
    /// Services of which nothing but the endpoints has changed, unless they are among the others too.
    pub endpoints: BTreeSet<ServiceName>,
    /// The namespaces with policies that have changed: authorization, and how many requests workloads take.
    pub governed: BTreeSet<Namespace>,
    /// Whether any policy of authorization has changed.
    policies: bool,
    /// Whether any limit of what workloads take has changed.
    limits: bool,
    any: bool,
}

impl Touched {
    /// What another change has touched as well.
    pub(super) fn add(&mut self, other: &Self) {
        self.services.extend(other.services.iter().cloned());
        self.endpoints.extend(other.endpoints.iter().cloned());
        self.governed.extend(other.governed.iter().cloned());
        self.policies |= other.policies;
        self.limits |= other.limits;
        self.any |= other.any;
    }
}

impl Snapshot {
    /// The snapshot after a change. The state of every endpoint that stays is the same.
    ///
    /// ```
    /// use inmesh_core::authorize::DefaultAction;
    /// use inmesh_core::model::{AppProtocol, Namespace, Service, ServiceName, ServicePort};
    /// use inmesh_core::model::{SourceId, Workload};
    /// use inmesh_core::snapshot::{Change, Op, Settings, Snapshot};
    /// let web = Workload::new("shop", "web", "web")?;
    /// let before = Snapshot::new(Settings::new(web, DefaultAction::Deny));
    /// let cart = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    /// let http = ServicePort::new("http", 80, AppProtocol::Http1);
    /// let put = Op::put(Service::new(cart.clone(), vec![http]));
    /// let after = before.apply(Change::update(SourceId::new("me"), vec![put]));
    /// assert!(before.service(&cart).is_none() && after.service(&cart).is_some());
    /// # Ok::<(), inmesh_core::model::InvalidName>(())
    /// ```
    #[must_use]
    pub fn apply(&self, change: Change) -> Self {
        self.apply_noting(change).0
    }

    /// The same, with what the change has touched: for a control plane, which hands on no more than that.
    #[must_use]
    pub fn apply_noting(&self, change: Change) -> (Self, Touched) {
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
        next.touch_subsets(&mut touched);
        for service in &touched.services {
            next.compile_service(service, false);
        }
        for service in touched.endpoints.difference(&touched.services) {
            next.compile_service(service, true);
        }
        // A name that no Service needs (any more) is forgotten, even if a resolver still answers.
        for host in resolved {
            if next.names.get(&host).is_some_and(|n| n.services.is_empty()) {
                next.names.remove_mut(&host);
            }
        }
        if touched.policies {
            next.compile_policies();
        }
        if touched.limits {
            next.compile_limiters();
        }
        next.generation += u64::from(touched.any);
        (next, touched)
    }

    /// Performs one operation; returns the key of its object.
    fn perform(&mut self, source: &SourceId, op: Op, touched: &mut Touched) -> Option<ObjectKey> {
        let (object, problems) = match op {
            Op::Ask(service, asked) => {
                self.ask(&service, asked, true, &mut touched.services);
                return None;
            }
            Op::Forget(service, asked) => {
                self.ask(&service, asked, false, &mut touched.services);
                return None;
            }
            Op::Document(key, text) => {
                self.document(source, &key, text);
                return Some(key);
            }
            Op::Keep(key) => return Some(key),
            Op::Put(object, problems) => (object, problems),
            Op::Refuse(key, fallback, problems) => {
                self.refuse(source, &key, fallback, problems, touched);
                return Some(key);
            }
            Op::Remove(key) => {
                self.remove(source, &key, touched);
                return Some(key);
            }
            Op::Resolve(host, addresses) => {
                self.resolved(source, host, addresses, touched);
                return None;
            }
        };
        let key = object.key();
        let version = Version {
            source: source.clone(),
            good: Some(object),
            fallback: Fallback::Absent,
            refused: false,
            document: None,
            problems,
        };
        self.put(&key, version, touched);
        Some(key)
    }

    /// Notes the document of an object; that of a good version stays while a newer one is refused.
    fn document(&mut self, source: &SourceId, key: &ObjectKey, text: Arc<str>) {
        let Some(versions) = self.objects.get(key) else {
            return;
        };
        let mut versions = (**versions).clone();
        let own = versions.0.iter_mut().find(|v| v.source == *source);
        if let Some(own) = own.filter(|own| !own.refused || own.good.is_none()) {
            own.document = Some(text);
            self.objects.insert_mut(key.clone(), Arc::new(versions));
        }
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
            .and_then(|o| o.0.iter().find(|v| v.source == *source));
        if before.is_none_or(|v| !v.refused || v.problems != problems) {
            self.refusals += 1;
        }
        let version = Version {
            source: source.clone(),
            good: before.and_then(|v| v.good.clone()),
            document: before
                .filter(|v| v.good.is_some())
                .and_then(|v| v.document.clone()),
            fallback,
            refused: true,
            problems,
        };
        self.put(key, version, touched);
    }

    fn put(&mut self, key: &ObjectKey, version: Version, touched: &mut Touched) {
        let source = version.source.clone();
        let before = self.objects.get(key);
        let mut versions = before.map(|o| (**o).clone()).unwrap_or_default();
        let old = versions.winner().cloned();
        versions.0.retain(|v| v.source != source);
        versions.0.push(version);
        let rank = |v: &Version| {
            let listed = self.settings.sources.iter().position(|s| *s == v.source);
            (listed.unwrap_or(usize::MAX), v.source.clone())
        };
        versions.0.sort_by_cached_key(rank);
        let new = versions.winner().cloned();
        self.objects.insert_mut(key.clone(), Arc::new(versions));
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
        let mut versions = (**before).clone();
        let old = versions.winner().cloned();
        versions.0.retain(|v| v.source != *source);
        let new = versions.winner().cloned();
        if versions.0.is_empty() {
            self.objects.remove_mut(key);
        } else {
            self.objects.insert_mut(key.clone(), Arc::new(versions));
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
        // What is left out has no effect, like what is not there.
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
            touched.governed.insert(key.namespace.clone());
            if new_effect.is_some() {
                self.policies.insert_mut(key.clone());
            } else {
                self.policies.remove_mut(key);
            }
        }
        // A slice is mostly replaced by another of its Service.
        let slice = |version: &Option<Version>| match version.as_ref()?.good.as_ref()? {
            Object::Slice(slice) => Some(Arc::clone(slice)),
            _ => None,
        };
        let (was, is) = (slice(&old), slice(&new));
        let of = |slice: &Option<Arc<Slice>>| slice.as_ref().map(|slice| slice.service.clone());
        let stays = was.is_some() && of(&was) == of(&is);
        self.follow_pods(key, was.as_deref(), is.as_deref());
        for (version, present) in [(&old, false), (&new, true)] {
            if let Some(version) = version {
                self.originates(key, version, present, &mut touched.services);
            }
            match version.as_ref().and_then(|v| v.good.as_ref()) {
                Some(Object::Service(service)) => {
                    self.part(&service.name, |p| set(&mut p.services, key, present));
                    for address in &service.addresses {
                        self.address(*address, &service.name, present);
                    }
                    if let Some(outside) = &service.outside {
                        self.leads(&outside.hosts, &service.name, present);
                    }
                    if let Some(Subset { of, .. }) = &service.subset {
                        self.part(of, |p| set(&mut p.subsets, key, present));
                        touched.endpoints.insert(of.clone());
                    }
                    touched.services.insert(service.name.clone());
                }
                Some(Object::Slice(slice)) => {
                    if !stays {
                        self.part(&slice.service, |p| set(&mut p.slices, key, present));
                    }
                    touched.endpoints.insert(slice.service.clone());
                }
                Some(object @ (Object::Namespace(_) | Object::Node(_) | Object::Pod(_))) => {
                    touched.endpoints.extend(self.follow(object, present));
                }
                // Routes, like policies, govern their own cluster.
                Some(
                    route @ (Object::GrpcRoute(_) | Object::OpaqueRoute(_) | Object::Route(_)),
                ) if key.cluster.is_none() => {
                    for parent in route.parents() {
                        self.part(&parent.service, |p| set(&mut p.routes, key, present));
                        touched.services.insert(parent.service.clone());
                    }
                }
                Some(Object::Traffic(policy)) if key.cluster.is_none() => {
                    self.reaches(policy, present, touched);
                }
                _ => {}
            }
        }
    }

    /// Notes what a TrafficPolicy is for, or is for no longer.
    fn reaches(&mut self, policy: &TrafficPolicy, present: bool, touched: &mut Touched) {
        if policy.blocks.limits_workloads() {
            touched.limits = true;
            touched.governed.insert(policy.key.namespace.clone());
            match present {
                true => self.limits.insert_mut(policy.key.clone()),
                false => {
                    self.limits.remove_mut(&policy.key);
                }
            }
        }
        for reach in reach_of(policy) {
            let mut policies = self.traffic.get(&reach).cloned().unwrap_or_default();
            set(&mut policies, &policy.key, present);
            match &reach {
                Reach::Service(service) => {
                    touched.services.insert(service.clone());
                }
                Reach::Route(route) => {
                    let parents = match self.good(route) {
                        Some(Object::Route(route)) => &*route.parents,
                        Some(Object::GrpcRoute(route)) => &*route.parents,
                        _ => &[],
                    };
                    let parents = parents.iter().map(|p| p.service.clone());
                    touched.services.extend(parents);
                }
                Reach::Namespace(namespace) => {
                    let mesh_wide = self.settings.mesh_namespace.as_ref() == Some(namespace);
                    let reached = self.services().map(|service| &service.name);
                    let reached = reached.filter(|s| mesh_wide || s.namespace() == namespace);
                    touched.services.extend(reached.cloned());
                }
            }
            if policies.is_empty() {
                self.traffic.remove_mut(&reach);
            } else {
                self.traffic.insert_mut(reach, policies);
            }
        }
    }

    /// The TrafficPolicies that may reach a Service or one of its routes.
    fn traffic_of(
        &self,
        service: &ServiceName,
        routes: &BTreeSet<ObjectKey>,
    ) -> Vec<Arc<TrafficPolicy>> {
        if self.traffic.is_empty() {
            return Vec::new();
        }
        let namespaces = std::iter::once(service.namespace());
        let namespaces = namespaces.chain(&self.settings.mesh_namespace).cloned();
        let reaches = std::iter::once(Reach::Service(service.clone()))
            .chain(namespaces.map(Reach::Namespace))
            .chain(routes.iter().cloned().map(Reach::Route));
        let keys: BTreeSet<_> = reaches
            .filter_map(|reach| self.traffic.get(&reach))
            .flatten()
            .collect();
        let good = keys.into_iter().filter_map(|key| match self.good(key) {
            Some(Object::Traffic(policy)) => Some(Arc::clone(policy)),
            _ => None,
        });
        good.collect()
    }

    fn part(&mut self, service: &ServiceName, change: impl FnOnce(&mut Parts)) {
        let mut parts = self
            .parts
            .get(service)
            .map(|p| (**p).clone())
            .unwrap_or_default();
        change(&mut parts);
        if parts.is_empty() {
            self.parts.remove_mut(service);
        } else {
            self.parts.insert_mut(service.clone(), Arc::new(parts));
        }
    }

    fn resolved(
        &mut self,
        source: &SourceId,
        host: Host,
        addresses: compile::Addresses,
        touched: &mut Touched,
    ) {
        let mut name = self.names.get(&host).cloned().unwrap_or_default();
        if name.addresses.as_ref() == Some(&addresses) {
            return;
        }
        name.addresses = Some(addresses);
        name.source = Some(source.clone());
        touched.any |= !name.services.is_empty();
        touched.endpoints.extend(name.services.iter().cloned());
        self.names.insert_mut(host, name);
    }

    /// Notes that a Service has a virtual address, or has it no longer.
    fn address(&mut self, address: IpAddr, service: &ServiceName, present: bool) {
        let mut services = self.addresses.get(&address).cloned().unwrap_or_default();
        if present {
            services.insert(service.clone());
        } else {
            services.remove(service);
        }
        if services.is_empty() {
            self.addresses.remove_mut(&address);
        } else {
            self.addresses.insert_mut(address, services);
        }
    }

    /// What has endpoints of a Service changes with it.
    fn touch_subsets(&self, touched: &mut Touched) {
        let all = touched.services.iter().chain(&touched.endpoints);
        let parts = all.filter_map(|of| self.parts.get(of));
        let subsets = parts.flat_map(|parts| &parts.subsets);
        let names = subsets.filter_map(|key| match self.good(key) {
            Some(Object::Service(service)) => Some(service.name.clone()),
            _ => None,
        });
        let names: Vec<_> = names.collect();
        touched.endpoints.extend(names);
    }

    /// The slices of a Service, and those of another that are its own too.
    fn slices_of(&self, parts: &Parts, subset: Option<&Subset>) -> Vec<Arc<Slice>> {
        let good = |key: &ObjectKey| match self.good(key) {
            Some(Object::Slice(slice)) => Some(Arc::clone(slice)),
            _ => None,
        };
        let mut slices: Vec<_> = parts.slices.iter().filter_map(good).collect();
        if let Some(subset) = subset
            && let Some(of) = self.parts.get(&subset.of)
        {
            let others = of.slices.iter().filter_map(good);
            slices.extend(others.filter_map(|slice| self.selected(&slice, subset)));
        }
        slices
    }

    /// Compiles a Service again, or no more of it than its endpoints.
    fn compile_service(&mut self, name: &ServiceName, endpoints: bool) {
        let before = self.service(name).cloned();
        let parts = self.parts.get(name).cloned().unwrap_or_default();
        // The local cluster's Service, else the first by the cluster's name.
        let mut services = parts.services.iter().filter_map(|key| self.good(key));
        let service = services.find_map(|object| match object {
            Object::Service(service) => Some(Arc::clone(service)),
            _ => None,
        });
        let subset = service.as_ref().and_then(|service| service.subset.as_ref());
        let slices = self.slices_of(&parts, subset);
        let asked = self.asked_of(name, service.as_deref());
        self.need_names(name, &compile::hosts(service.as_deref(), &slices, &asked));
        let Some(service) = service else {
            return self.services.remove(name);
        };
        let places = Places::default();
        let beside = Beside {
            addresses: &|host| self.names.get(host)?.addresses.clone(),
            member: &|slice, host| self.member(slice, host, &places),
        };
        let tls = self.tls_policies(name);
        let view = match before {
            // What is spoken to endpoints by a policy depends on all of them, and hosts that are asked for
            // have endpoints of their own.
            Some(before) if endpoints && tls.is_empty() && service.outside.is_none() => {
                compile::moved(&self.settings, (&service, &slices), &beside, &before)
            }
            before => {
                let of = (&service, &*slices, &asked);
                self.compile_whole(of, (&parts, &tls), &beside, before)
            }
        };
        self.services.insert(Arc::new(view));
    }

    fn compile_whole(
        &self,
        (service, slices, asked): (&Arc<Service>, &[Arc<Slice>], &BTreeSet<Asked>),
        (parts, tls): (&Parts, &[Arc<BackendTlsPolicy>]),
        beside: &Beside<'_>,
        before: Option<Arc<ServiceView>>,
    ) -> ServiceView {
        let (mut routes, mut grpc_routes, mut opaque_routes) = (vec![], vec![], vec![]);
        for object in parts.routes.iter().filter_map(|key| self.good(key)) {
            match object {
                Object::GrpcRoute(route) => grpc_routes.push(Arc::clone(route)),
                Object::OpaqueRoute(route) => opaque_routes.push(Arc::clone(route)),
                Object::Route(route) => routes.push(Arc::clone(route)),
                _ => {}
            }
        }
        let input = compile::CompileInput {
            service,
            asked,
            slices,
            routes: &routes,
            grpc_routes: &grpc_routes,
            opaque_routes: &opaque_routes,
            traffic: &self.traffic_of(&service.name, &parts.routes),
            tls,
            roots: &|key| self.roots_at(key),
        };
        compile::view(&self.settings, &input, beside, before.as_deref())
    }

    /// Keeps the index of the host names that Services need.
    fn need_names(&mut self, service: &ServiceName, hosts: &BTreeSet<Host>) {
        let had = match self.parts.get(service) {
            Some(parts) if parts.hosts == *hosts => return,
            Some(parts) => parts.hosts.difference(hosts).cloned().collect(),
            None if hosts.is_empty() => return,
            None => BTreeSet::new(),
        };
        self.part(service, |p| p.hosts.clone_from(hosts));
        for host in had {
            if let Some(mut name) = self.names.get(&host).cloned() {
                name.services.remove(service);
                if name.services.is_empty() {
                    self.names.remove_mut(&host);
                } else {
                    self.names.insert_mut(host, name);
                }
            }
        }
        for host in hosts {
            let mut name = self.names.get(host).cloned().unwrap_or_default();
            if name.services.insert(service.clone()) {
                self.names.insert_mut(host.clone(), name);
            }
        }
    }
}

fn reach_of(policy: &TrafficPolicy) -> BTreeSet<Reach> {
    if policy.targets.is_empty() {
        return BTreeSet::from([Reach::Namespace(policy.key.namespace.clone())]);
    }
    let targets = policy.targets.iter().filter_map(|target| match target {
        Target::Service(service, _) => Some(Reach::Service(service.clone())),
        Target::Route(route, _) => Some(Reach::Route(route.clone())),
        Target::Workloads(_) => None,
    });
    targets.collect()
}

pub(super) fn set(of: &mut BTreeSet<ObjectKey>, key: &ObjectKey, present: bool) {
    if present {
        of.insert(key.clone());
    } else {
        of.remove(key);
    }
}

// === impl Parts ===

impl Parts {
    fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.slices.is_empty()
            && self.routes.is_empty()
            && self.subsets.is_empty()
            && self.hosts.is_empty()
    }
}
