//! What of a snapshot concerns one Service, or the workloads of one namespace: what a control plane hands
//! on to a process that calls the one and runs in the other. Pure.
//!
//! 1. A Service comes with its routes, the policies that are for it, what these refer to, and its endpoints.
//! 2. Endpoints come without Pods and Nodes: what those say of them is written on them.
//! 3. A request for it may be sent to other Services: they are named.
//! 4. Workloads are governed by the policies of their namespace and of the mesh's.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::change::{Fallback, Object};
use super::outside::Lead;
use super::pods::Places;
use super::state::{Reach, Snapshot, Version};
use crate::authorize::Selects;
use crate::model::{
    Labels, Namespace, ObjectKey, Service, ServiceName, Slice, SliceHost, Transport,
};
use crate::origination::Vouched;

/// An object as it is handed on.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Handed {
    /// The object.
    pub key: ObjectKey,
    /// The version that serves; `None` if there never was a good one, and `fallback` takes its place.
    pub object: Option<Object>,
    /// What takes the place of one that never was good.
    pub fallback: Fallback,
    /// The text that it was read from, where its source hands documents on.
    pub document: Option<Arc<str>>,
}

/// What concerns one Service.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct About {
    /// The Service, the policies that are for it, and what they refer to.
    pub objects: Vec<Handed>,
    /// Its routes, each with the other Services that it leads to. One of another namespace is for callers
    /// of that alone.
    pub routes: Vec<(Handed, BTreeSet<ServiceName>)>,
    /// Its endpoints, in slices without Pods: one of a cluster becomes as many as its Pods differ.
    pub slices: Vec<(ObjectKey, Vec<Slice>)>,
    /// The Service whose endpoints it has, where it is a subset of another.
    pub subset_of: Option<ServiceName>,
}

/// What hosts of a slice have in common.
#[derive(PartialEq)]
struct Alike<'a> {
    transport: Transport,
    workload: Arc<str>,
    version: Arc<str>,
    labels: &'a Labels,
}

// === impl Snapshot ===

impl Snapshot {
    /// What concerns a Service; `None` if nothing is of that name. There may be endpoints without the Service:
    /// a subset has them all the same.
    ///
    /// ```
    /// use inmesh_core::authorize::DefaultAction;
    /// use inmesh_core::model::{AppProtocol, Namespace, Service, ServiceName, ServicePort};
    /// use inmesh_core::model::{SourceId, Workload};
    /// use inmesh_core::snapshot::{Change, Op, Settings, Snapshot};
    /// let cart = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    /// let service = Service::new(cart.clone(), vec![ServicePort::new("", 80, AppProtocol::Http1)]);
    /// let key = service.key();
    /// let text = "{apiVersion: v1, kind: Service, ...}";
    /// let ops = vec![Op::put(service), Op::Document(key.clone(), text.into())];
    /// let snapshot = Snapshot::new(Settings::new(Workload::new("shop", "web", "web")?, DefaultAction::Deny))
    ///     .apply(Change::update(SourceId::new("me"), ops));
    /// let about = snapshot.about(&cart).expect("it is there");
    /// assert_eq!((&about.objects[0].key, about.objects[0].document.as_deref()), (&key, Some(text)));
    /// # Ok::<(), inmesh_core::model::InvalidName>(())
    /// ```
    pub fn about(&self, service: &ServiceName) -> Option<About> {
        let parts = self.parts.get(service)?;
        let mut keys: BTreeSet<ObjectKey> = parts.services.clone();
        let namespace = service.namespace();
        let mesh_wide = self.settings.mesh_namespace.iter();
        let reaches = std::iter::once(Reach::Service(service.clone()))
            .chain(
                std::iter::once(namespace)
                    .chain(mesh_wide)
                    .cloned()
                    .map(Reach::Namespace),
            )
            .chain(parts.routes.iter().cloned().map(Reach::Route));
        keys.extend(
            reaches
                .filter_map(|reach| self.traffic.get(&reach))
                .flatten()
                .cloned(),
        );
        for policy in self.tls_policies(service) {
            if let Vouched::ConfigMaps(roots) = &policy.vouched {
                keys.extend(roots.iter().cloned());
            }
            keys.insert(policy.key.clone());
        }
        let routes = self.handed(&parts.routes);
        let routes = routes.into_iter().map(|route| {
            let mut leads_to = route
                .object
                .as_ref()
                .map_or_else(BTreeSet::new, Object::leads_to);
            leads_to.remove(service);
            (route, leads_to)
        });
        let subset = self.defined(service).and_then(|own| own.subset.as_ref());
        let slices = parts.slices.iter().filter_map(|key| match self.good(key)? {
            Object::Slice(slice) => {
                let plain = self.without_pods_and_nodes(slice, !parts.subsets.is_empty());
                Some((key.clone(), plain))
            }
            _ => None,
        });
        Some(About {
            objects: self.handed(&keys),
            routes: routes.collect(),
            slices: slices.collect(),
            subset_of: subset.map(|subset| subset.of.clone()),
        })
    }

    /// The policies that may govern workloads of a namespace: authorization, and how many requests they
    /// take. Those that deny because they cannot be read are among them.
    pub fn governing(&self, namespace: &Namespace) -> Vec<Handed> {
        let mesh_wide = self.settings.mesh_namespace.as_ref();
        let reaches = |of: &Namespace| of == namespace || Some(of) == mesh_wide;
        let denies_all = |key: &ObjectKey| {
            let version = self.objects.get(key).and_then(|all| all.winner());
            version
                .is_some_and(|v| v.good.is_none() && v.fallback == Fallback::Deny(Selects::Unknown))
        };
        let policies = self
            .policies
            .iter()
            .filter(|key| reaches(&key.namespace) || denies_all(key));
        let limits = self.limits.iter().filter(|key| reaches(&key.namespace));
        let keys: BTreeSet<_> = policies.chain(limits).cloned().collect();
        self.handed(&keys)
    }

    /// The Service that a host or an address leads to, as a caller in a namespace asks for it.
    pub fn leads_to(&self, host: &str, namespace: &Namespace) -> Option<ServiceName> {
        let of_mesh = self.resolve(host, namespace, 0);
        let lead = Lead {
            host,
            port: None,
            original: None,
        };
        let found = of_mesh.or_else(|| Some(self.outside(lead, namespace, 0)?.0));
        found.map(|found| found.service.name.clone())
    }

    /// A Service as its document defines it.
    pub fn defined(&self, service: &ServiceName) -> Option<&Arc<Service>> {
        let key = self.parts.get(service)?.services.first()?;
        match self.good(key)? {
            Object::Service(service) => Some(service),
            _ => None,
        }
    }

    /// The Service that has a virtual address.
    pub fn owner_of(&self, address: IpAddr) -> Option<&ServiceName> {
        self.addresses.get(&address)?.first()
    }

    /// Objects of this cluster that have an effect.
    fn handed(&self, keys: &BTreeSet<ObjectKey>) -> Vec<Handed> {
        let keys = keys.iter().filter(|key| key.cluster.is_none());
        let handed = keys.filter_map(|key| {
            let version = self.objects.get(key)?.winner()?;
            (version.good.is_some() || version.denies()).then(|| hand(key, version))
        });
        handed.collect()
    }

    /// A slice whose hosts have on them what their Pods and Nodes say. Hosts whose Pods are not known are
    /// left out: they take no request. The labels of Pods count where subsets select by them; they differ
    /// more than all else.
    fn without_pods_and_nodes(&self, slice: &Arc<Slice>, by_labels: bool) -> Vec<Slice> {
        let places = Places::default();
        let mut alike: Vec<(Alike<'_>, Vec<SliceHost>)> = Vec::new();
        for host in &slice.hosts {
            let Some(member) = self.member(slice, host, &places) else {
                continue;
            };
            let mut plain = host.clone().with_locality(member.locality);
            plain.pod = None;
            let is = Alike {
                transport: member.transport,
                workload: member.workload,
                version: member.version,
                labels: match by_labels {
                    true => self.labels_of(slice, host),
                    false => &slice.labels,
                },
            };
            match alike.iter_mut().find(|(of, _)| *of == is) {
                Some((_, hosts)) => hosts.push(plain),
                None => alike.push((is, vec![plain])),
            }
        }
        let part = |is: Option<Alike<'_>>, hosts| {
            let mut part = Slice::clone(slice);
            part.as_pods_say = false;
            part.hosts = hosts;
            if let Some(is) = is {
                part.labels = is.labels.clone();
                part.transport = is.transport;
                part.workload = is.workload;
                part.version = is.version;
            }
            part
        };
        if alike.is_empty() {
            // Its ports are known although nothing is behind them.
            return vec![part(None, Vec::new())];
        }
        let all = alike.into_iter();
        all.map(|(is, hosts)| part(Some(is), hosts)).collect()
    }
}

fn hand(key: &ObjectKey, version: &Version) -> Handed {
    Handed {
        key: key.clone(),
        object: version.good.clone(),
        fallback: version.fallback.clone(),
        document: version.document.clone(),
    }
}
