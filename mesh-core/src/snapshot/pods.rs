//! Pods and nodes beside slices: which slices change with one, and what a host is by its Pod. Pure.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::change::Object;
use super::compile::Member;
use super::state::Snapshot;
use super::status::Problem;
use crate::model::{
    Labels, Locality, MeshNamespace, Node, ObjectKey, Pod, Reached, ServiceName, Slice, SliceHost,
    Subset, Transport,
};

/// The places that were made, so that endpoints at one place share it.
#[derive(Default)]
pub(super) struct Places(RefCell<HashMap<Arc<Locality>, Arc<Locality>>>);

impl Snapshot {
    /// What a host of a slice is; `None` where only its Pod could say it, which is not known.
    ///
    /// What is written on the slice has precedence over what Pods say.
    pub(super) fn member(
        &self,
        slice: &Slice,
        host: &SliceHost,
        places: &Places,
    ) -> Option<Member> {
        let pod = self.pod_of(host);
        let transport = match (slice.as_pods_say && host.pod.is_some(), pod) {
            (false, _) => slice.transport.clone(),
            (true, pod) => self.transport_to(pod?),
        };
        let first = |of: &Arc<str>, or: Option<&Arc<str>>| match or {
            Some(or) if of.is_empty() => Arc::clone(or),
            _ => Arc::clone(of),
        };
        Some(Member {
            transport,
            workload: first(&slice.workload, pod.map(|pod| &pod.workload)),
            version: first(&slice.version, pod.map(|pod| &pod.version)),
            locality: self.place(&host.locality, places),
        })
    }

    /// A place with what its node says of it.
    fn place(&self, at: &Arc<Locality>, places: &Places) -> Arc<Locality> {
        let known = self.nodes.is_empty() || !at.region.is_empty() && !at.zone.is_empty();
        let node = if known {
            None
        } else {
            self.nodes.get(&at.node)
        };
        let Some(node) = node else {
            return Arc::clone(at);
        };
        let mut places = places.0.borrow_mut();
        let made = places.entry(Arc::clone(at)).or_insert_with(|| {
            let mut made = Locality::clone(at);
            for (of, said) in [
                (&mut made.region, &node.region),
                (&mut made.zone, &node.zone),
            ] {
                if of.is_empty() {
                    *of = Arc::clone(said);
                }
            }
            Arc::new(made)
        });
        Arc::clone(made)
    }

    /// Notes a Pod, a namespace or a node that comes or goes; returns the Services that may change.
    pub(super) fn follow(&mut self, object: &Object, present: bool) -> BTreeSet<ServiceName> {
        match object {
            Object::Namespace(namespace) => self.follow_namespace(namespace, present),
            Object::Node(node) => {
                self.follow_node(node, present);
                self.services_on_node(&node.key.name)
            }
            object => self.services_of_pod(&object.key()),
        }
    }

    /// The Pod that a host is, where it is known.
    fn pod_of(&self, host: &SliceHost) -> Option<&Arc<Pod>> {
        let named = host.pod.as_ref()?;
        match self.good(&named.key)? {
            Object::Pod(pod) if pod.is(named) => Some(pod),
            _ => None,
        }
    }

    /// Notes which Pods have come to the hosts of a slice, and which have gone.
    pub(super) fn follow_pods(&mut self, key: &ObjectKey, was: Option<&Slice>, is: Option<&Slice>) {
        let pods = |slice: Option<&Slice>| -> BTreeSet<ObjectKey> {
            let hosts = slice.map_or(&[][..], |slice| &slice.hosts);
            let pods = hosts.iter().filter_map(|host| host.pod.as_ref());
            pods.map(|pod| pod.key.clone()).collect()
        };
        // Mostly one of many has changed.
        let (was, is) = (pods(was), pods(is));
        for pod in was.symmetric_difference(&is) {
            let mut slices = self.pods.get(pod).cloned().unwrap_or_default();
            match is.contains(pod) {
                true => slices.insert(key.clone()),
                false => slices.remove(key),
            };
            match slices.is_empty() {
                true => {
                    self.pods.remove_mut(pod);
                }
                false => self.pods.insert_mut(pod.clone(), slices),
            }
        }
    }

    /// How bytes travel to a Pod. A namespace that is not known may be in the mesh.
    fn transport_to(&self, pod: &Pod) -> Transport {
        match &pod.reached {
            Reached::As(transport) => transport.clone(),
            Reached::AsNamespaceSays(ids) => {
                match self.namespaces.get(pod.key.namespace.as_str()) {
                    Some(false) => Transport::Plain,
                    Some(true) | None => Transport::Mesh { ids: ids.clone() },
                }
            }
        }
    }

    /// Notes a namespace that comes or goes; returns the Services that it may change.
    fn follow_namespace(
        &mut self,
        namespace: &MeshNamespace,
        present: bool,
    ) -> BTreeSet<ServiceName> {
        let name = &namespace.key.name;
        match present {
            true => self
                .namespaces
                .insert_mut(Arc::clone(name), namespace.in_mesh),
            false => {
                self.namespaces.remove_mut(name);
            }
        }
        let all = self
            .parts
            .keys()
            .filter(|of| of.namespace().as_str() == &**name);
        all.cloned().collect()
    }

    /// Notes a node that comes or goes.
    fn follow_node(&mut self, node: &Arc<Node>, present: bool) {
        match present {
            true => self
                .nodes
                .insert_mut(Arc::clone(&node.key.name), Arc::clone(node)),
            false => {
                self.nodes.remove_mut(&node.key.name);
            }
        }
    }

    /// The Services that have a Pod among their hosts.
    fn services_of_pod(&self, pod: &ObjectKey) -> BTreeSet<ServiceName> {
        let slices = self.pods.get(pod).into_iter().flatten();
        let slices = slices.filter_map(|key| self.good_slice(key));
        slices.map(|slice| slice.service.clone()).collect()
    }

    /// The Services that have a host on a node. It looks at all slices: a node moves rarely.
    fn services_on_node(&self, node: &str) -> BTreeSet<ServiceName> {
        let slices = self.parts.values().flat_map(|parts| &parts.slices);
        let slices = slices.filter_map(|key| self.good_slice(key));
        let on = |slice: &&Arc<Slice>| slice.hosts.iter().any(|host| *host.locality.node == *node);
        slices
            .filter(on)
            .map(|slice| slice.service.clone())
            .collect()
    }

    /// What a subset has of a slice of another Service: hosts whose Pods have its labels; all or none
    /// of those that are no known Pods, by the labels of the slice.
    pub(super) fn selected(&self, slice: &Arc<Slice>, subset: &Subset) -> Option<Arc<Slice>> {
        let whole = subset.selects(&slice.labels);
        if slice.hosts.iter().all(|host| host.pod.is_none()) {
            return whole.then(|| Arc::clone(slice));
        }
        let selects = |host: &&SliceHost| match self.pod_of(host) {
            Some(pod) => subset.selects(&pod.labels),
            None => whole,
        };
        let hosts: Vec<_> = slice.hosts.iter().filter(selects).cloned().collect();
        (!hosts.is_empty()).then(|| {
            let mut part = Slice::clone(slice);
            part.hosts = hosts;
            Arc::new(part)
        })
    }

    /// That hosts of a slice take no request, since their Pods are not known.
    pub(super) fn without_pods(&self, slice: &Slice) -> Option<Problem> {
        let lacks = |host: &&SliceHost| host.pod.is_some() && self.pod_of(host).is_none();
        let mut lacking = slice.hosts.iter().filter(lacks);
        let first = lacking.next().filter(|_| slice.as_pods_say)?;
        let pod = &first.pod.as_ref()?.key;
        let message = match lacking.count() {
            0 => format!("{pod} is not known, so it takes no request"),
            more => format!("{pod} and {more} more are not known, so they take no request"),
        };
        Some(Problem::warning("endpoints", message))
    }

    /// The labels by which a subset selects a host: of its Pod, where that is known.
    pub(super) fn labels_of<'a>(&'a self, slice: &'a Slice, host: &SliceHost) -> &'a Labels {
        self.pod_of(host).map_or(&slice.labels, |pod| &pod.labels)
    }

    fn good_slice(&self, key: &ObjectKey) -> Option<&Arc<Slice>> {
        match self.good(key)? {
            Object::Slice(slice) => Some(slice),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::authorize::DefaultAction;
    use crate::model::{
        AppProtocol, Host, IdSet, Kind, Namespace, PodRef, Service, ServicePort, SlicePort,
        SourceId, Workload,
    };
    use crate::snapshot::{Change, Op, Settings};

    fn shop() -> Namespace {
        Namespace::new("shop").unwrap()
    }

    fn key(kind: Kind, name: &str) -> ObjectKey {
        ObjectKey::new(kind, &shop(), name).unwrap()
    }

    fn name(name: &str) -> ServiceName {
        ServiceName::new(&shop(), name).unwrap()
    }

    fn ids(of: &str) -> IdSet {
        IdSet::new([format!("spiffe://lab.example/ns/shop/sa/{of}")
            .parse()
            .unwrap()])
    }

    fn empty() -> Snapshot {
        let web = Workload::new("shop", "web", "web").unwrap();
        Snapshot::new(Settings::new(web, DefaultAction::Allow))
    }

    fn service(of: &str) -> Service {
        Service::new(
            name(of),
            vec![ServicePort::new("p", 80, AppProtocol::Http1)],
        )
    }

    fn subset() -> Op {
        let labels = [("version".into(), "v2".into())];
        Op::put(service("next").with_subset(Subset::new(name("cart"), labels)))
    }

    /// A slice whose hosts are Pods, each on the node of its number.
    fn slice(pods: &[(u8, &str)]) -> Op {
        let host = |(n, uid): &(u8, &str)| {
            let pod = PodRef::new(key(Kind::Pod, &format!("cart-{n}")), uid);
            SliceHost::new(Host::Address(IpAddr::from([10, 0, 0, *n])))
                .with_pod(pod)
                .with_locality(Arc::new(Locality::default().on_node(&format!("n{n}"))))
        };
        let slice = Slice::new(
            key(Kind::EndpointSlice, "cart-a"),
            name("cart"),
            vec![SlicePort::new("p", 8_080)],
            pods.iter().map(host).collect(),
            Transport::Mesh {
                ids: IdSet::new([]),
            },
        );
        Op::put(slice.as_pods_say())
    }

    fn pod(n: u8, uid: &str, version: &str, reached: Reached) -> Op {
        let pod = Pod::new(key(Kind::Pod, &format!("cart-{n}")), reached).with_uid(uid);
        let labels = [("version".into(), version.into())];
        Op::put(pod.workload("cart", version).with_labels(labels))
    }

    fn node(n: u8, region: &str) -> Op {
        let key = ObjectKey::cluster_wide(Kind::Node, &format!("n{n}")).unwrap();
        Op::put(Node::new(key, region, "z"))
    }

    fn namespace(in_mesh: bool) -> Op {
        let key = ObjectKey::cluster_wide(Kind::Namespace, "shop").unwrap();
        Op::put(MeshNamespace::new(key, in_mesh))
    }

    fn apply(snapshot: &Snapshot, ops: Vec<Op>) -> Snapshot {
        snapshot.apply(Change::update(SourceId::new("me"), ops))
    }

    /// Each endpoint: its last number, transport, version and place.
    fn endpoints(snapshot: &Snapshot, of: &str) -> Vec<String> {
        let Some(view) = snapshot.service(&name(of)) else {
            return Vec::new();
        };
        let members = view.endpoints(80).unwrap().members();
        let shown = members.iter().map(|member| {
            let one = &member.endpoint;
            let how = match &one.transport {
                Transport::Plain => "plain".to_owned(),
                Transport::Mesh { ids } => ids
                    .to_string()
                    .replace("spiffe://lab.example/ns/shop/sa/", ""),
                Transport::Tls { .. } => "tls".to_owned(),
            };
            let (at, place) = (one.address(), &one.locality);
            format!("{at} {how} {} {}/{}", one.version, place.region, place.zone)
        });
        shown.collect()
    }

    #[test]
    fn an_endpoint_is_what_its_pod_namespace_and_node_say() {
        let said = || Reached::As(Transport::Mesh { ids: ids("cart") });
        let unsaid = || Reached::AsNamespaceSays(ids("cart"));
        let base = apply(
            &empty(),
            vec![Op::put(service("cart")), slice(&[(1, "u1")])],
        );
        assert_eq!(endpoints(&base, "cart"), [""; 0], "its Pod is not known");
        let status = base.status();
        let of_slice = status
            .iter()
            .find(|one| one.object.contains("cart-a"))
            .unwrap();
        assert!(
            of_slice.problems[0]
                .message
                .contains("Pod/shop/cart-1 is not known")
        );

        let mesh = "10.0.0.1:8080 cart v1 /".to_owned();
        let plain = "10.0.0.1:8080 plain v1 /".to_owned();
        for (case, ops, wanted) in [
            (
                "a Pod says it",
                vec![pod(1, "u1", "v1", said())],
                Some(&mesh),
            ),
            (
                "an unknown uid is any",
                vec![pod(1, "", "v1", said())],
                Some(&mesh),
            ),
            (
                "another of its name",
                vec![pod(1, "u2", "v1", said())],
                None,
            ),
            (
                "the namespace is not known",
                vec![pod(1, "u1", "v1", unsaid())],
                Some(&mesh),
            ),
            (
                "the namespace is in the mesh",
                vec![pod(1, "u1", "v1", unsaid()), namespace(true)],
                Some(&mesh),
            ),
            (
                "the namespace is not",
                vec![pod(1, "u1", "v1", unsaid()), namespace(false)],
                Some(&plain),
            ),
            (
                "the Pod has precedence",
                vec![pod(1, "u1", "v1", said()), namespace(false)],
                Some(&mesh),
            ),
        ] {
            let wanted: Vec<_> = wanted.into_iter().cloned().collect();
            assert_eq!(endpoints(&apply(&base, ops), "cart"), wanted, "{case}");
        }
        let placed = apply(&base, vec![pod(1, "u1", "v1", said()), node(1, "north")]);
        assert_eq!(
            endpoints(&placed, "cart"),
            ["10.0.0.1:8080 cart v1 north/z"]
        );
        let moved = apply(&placed, vec![node(1, "south"), pod(1, "u1", "v2", said())]);
        assert_eq!(endpoints(&moved, "cart"), ["10.0.0.1:8080 cart v2 south/z"]);
        let gone = apply(&moved, vec![Op::Remove(key(Kind::Pod, "cart-1"))]);
        assert_eq!(endpoints(&gone, "cart"), [""; 0]);
    }

    #[test]
    fn an_endpoint_keeps_its_state_while_its_pod_changes_nothing_of_it() {
        let said = || Reached::As(Transport::Plain);
        let ops = vec![
            Op::put(service("cart")),
            slice(&[(1, "")]),
            pod(1, "", "v1", said()),
        ];
        let before = apply(&empty(), ops);
        let after = apply(&before, vec![pod(1, "", "v1", said())]);
        assert_eq!(before.generation(), after.generation());
        let state = |of: &Snapshot| {
            let view = of.service(&name("cart")).unwrap();
            Arc::clone(&view.endpoints(80).unwrap().members()[0].state)
        };
        let other = apply(&after, vec![node(1, "north")]);
        assert!(Arc::ptr_eq(&state(&before), &state(&other)));
    }

    proptest! {
        /// However it came about, endpoints are what the last version of each object says.
        #[test]
        fn the_order_of_pods_and_slices_does_not_matter(
            ops in proptest::collection::vec((0_u8..6, 1_u8..4, 0_u8..4), 1..50),
        ) {
            let mut snapshot = empty();
            let mut last = std::collections::BTreeMap::new();
            for (what, which, how) in ops {
                let (version, uid) = (if how % 2 == 0 { "v1" } else { "v2" }, "");
                let pod_key = key(Kind::Pod, &format!("cart-{which}"));
                let (of, op) = match (what, how) {
                    (0, 0) => ("cart", Op::Remove(key(Kind::Service, "cart"))),
                    (0, 1) => ("next", Op::Remove(key(Kind::Service, "next"))),
                    (0, 2) => ("next", subset()),
                    (0, _) => ("cart", Op::put(service("cart"))),
                    (1, 0) => ("slice", Op::Remove(key(Kind::EndpointSlice, "cart-a"))),
                    (1, 1) => ("slice", slice(&[(which, uid)])),
                    (1, _) => ("slice", slice(&[(1, uid), (2, "u2"), (3, uid)])),
                    (2, 0) => ("pod", Op::Remove(pod_key)),
                    (2 | 3, 3) => ("pod", pod(which, "u2", version, Reached::AsNamespaceSays(ids("a")))),
                    (2 | 3, _) => ("pod", pod(which, "", version, Reached::As(Transport::Plain))),
                    (4, 0) => ("node", Op::Remove(ObjectKey::cluster_wide(Kind::Node, &format!("n{which}")).unwrap())),
                    (4, _) => ("node", node(which, version)),
                    (_, 0) => ("namespace", Op::Remove(ObjectKey::cluster_wide(Kind::Namespace, "shop").unwrap())),
                    (_, _) => ("namespace", namespace(how == 1)),
                };
                let which = if matches!(of, "pod" | "node") { which } else { 0 };
                last.insert((of, which), op.clone());
                snapshot = apply(&snapshot, vec![op]);
            }
            let at_once = apply(&empty(), last.into_values().collect());
            for of in ["cart", "next"] {
                prop_assert_eq!(endpoints(&snapshot, of), endpoints(&at_once, of));
            }
            let indexed = |of: &Snapshot| {
                let pods: std::collections::BTreeMap<_, _> =
                    of.pods.iter().map(|(pod, slices)| (pod.clone(), slices.clone())).collect();
                pods
            };
            prop_assert_eq!(indexed(&snapshot), indexed(&at_once));
        }
    }
}
