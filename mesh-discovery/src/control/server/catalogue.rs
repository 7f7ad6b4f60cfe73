//! A snapshot in, resources and what belongs together out. Pure.
//!
//! What was encoded is kept until the Service or the policies change that it belongs to, so a change costs
//! what it touches, however many subscribers there are.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use inmesh_core::discover::Wanted;
use inmesh_core::model::{Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::snapshot::{Snapshot, Touched};
use inmesh_pki::Crypto;

use super::super::resource::Resource;

/// What is handed on, from the snapshot of the moment.
pub(in crate::control) struct Catalogue {
    snapshot: Arc<Snapshot>,
    crypto: Crypto,
    /// `None` is a name of which there is nothing.
    services: HashMap<ServiceName, Option<Arc<OfService>>>,
    governed: HashMap<Namespace, Arc<[Arc<Resource>]>>,
}

/// What concerns a Service.
#[derive(Debug)]
pub(in crate::control) struct OfService {
    /// The Service itself, which stands for all of it where a subscription is answered; `None` where there
    /// are endpoints of its name and no Service.
    pub(in crate::control) itself: Option<Arc<Resource>>,
    /// Policies, what they refer to, endpoints.
    pub(in crate::control) others: Vec<Arc<Resource>>,
    pub(in crate::control) routes: Vec<OfRoute>,
    pub(in crate::control) subset_of: Option<ServiceName>,
}

/// A route of a Service.
#[derive(Debug)]
pub(in crate::control) struct OfRoute {
    /// Where it is not that of the Service, it is for callers of this namespace alone.
    pub(in crate::control) namespace: Namespace,
    pub(in crate::control) resource: Arc<Resource>,
    pub(in crate::control) leads_to: BTreeSet<ServiceName>,
}

// === impl Catalogue ===

impl Catalogue {
    pub(in crate::control) fn new(snapshot: Arc<Snapshot>, crypto: Crypto) -> Self {
        Self {
            snapshot,
            crypto,
            services: HashMap::new(),
            governed: HashMap::new(),
        }
    }

    /// The generation of the snapshot.
    pub(in crate::control) fn generation(&self) -> u64 {
        self.snapshot.generation()
    }

    /// Takes over a newer snapshot in place of one, which is returned; `touched` is what has changed, if
    /// that is known.
    pub(in crate::control) fn replace(
        &mut self,
        snapshot: Arc<Snapshot>,
        touched: Option<&Touched>,
    ) -> Arc<Snapshot> {
        let before = std::mem::replace(&mut self.snapshot, snapshot);
        let Some(touched) = touched else {
            self.services.clear();
            self.governed.clear();
            return before;
        };
        for service in touched.services.iter().chain(&touched.endpoints) {
            self.services.remove(service);
        }
        // Those of the mesh's namespace govern all others, and so may one that cannot be read.
        if !touched.governed.is_empty() {
            self.governed.clear();
        }
        before
    }

    /// All Services.
    pub(in crate::control) fn all(&self) -> BTreeSet<ServiceName> {
        self.snapshot
            .services()
            .map(|view| view.name.clone())
            .collect()
    }

    /// The Service that something leads to, as a caller of a namespace asks for it.
    pub(in crate::control) fn leads_to(
        &self,
        wanted: &Wanted,
        namespace: &Namespace,
    ) -> Option<ServiceName> {
        match wanted {
            Wanted::Address(address) => self.snapshot.owner_of(*address).cloned(),
            Wanted::Host(host) => self.snapshot.leads_to(host, namespace),
            Wanted::Service(service) => Some(service.clone()),
            _ => None,
        }
    }

    /// What concerns a Service; `None` if nothing is of that name.
    pub(in crate::control) fn of_service(
        &mut self,
        service: &ServiceName,
    ) -> Option<Arc<OfService>> {
        if let Some(known) = self.services.get(service) {
            return known.clone();
        }
        let made = self.make(service).map(Arc::new);
        self.services.insert(service.clone(), made.clone());
        made
    }

    fn make(&self, service: &ServiceName) -> Option<OfService> {
        let about = self.snapshot.about(service)?;
        let crypto = &self.crypto;
        let is_service = |key: &ObjectKey| matches!(key.kind, Kind::Service | Kind::ServiceEntry);
        let (mut itself, mut others) = (None, Vec::new());
        for handed in &about.objects {
            let Some(resource) = Resource::of_object(handed, crypto).map(Arc::new) else {
                continue;
            };
            match itself {
                None if is_service(&handed.key) => itself = Some(resource),
                _ => others.push(resource),
            }
        }
        let slices = about.slices.iter();
        let slices = slices.filter_map(|(key, slices)| Resource::of_slices(key, slices, crypto));
        others.extend(slices.map(Arc::new));
        let routes = about.routes.into_iter().filter_map(|(handed, leads_to)| {
            Some(OfRoute {
                namespace: handed.key.namespace.clone(),
                resource: Resource::of_object(&handed, crypto)?.into(),
                leads_to,
            })
        });
        Some(OfService {
            itself,
            others,
            routes: routes.collect(),
            subset_of: about.subset_of,
        })
    }

    /// The policies that may govern workloads of a namespace.
    pub(in crate::control) fn governing(&mut self, namespace: &Namespace) -> Arc<[Arc<Resource>]> {
        if let Some(known) = self.governed.get(namespace) {
            return Arc::clone(known);
        }
        let handed = self.snapshot.governing(namespace);
        let all = handed
            .iter()
            .filter_map(|of| Resource::of_object(of, &self.crypto));
        let all: Arc<[_]> = all.map(Arc::new).collect();
        self.governed.insert(namespace.clone(), Arc::clone(&all));
        all
    }

    /// Forgets what was encoded of Services and namespaces that no subscriber has any more.
    pub(in crate::control) fn keep(
        &mut self,
        service: impl Fn(&ServiceName) -> bool,
        namespace: impl Fn(&Namespace) -> bool,
    ) {
        self.services.retain(|of, _| service(of));
        self.governed.retain(|of, _| namespace(of));
    }
}
