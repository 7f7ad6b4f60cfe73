//! Pods, and the nodes and namespaces they are in: what is known of the process behind an endpoint.
//!
//! A slice that Kubernetes writes says neither which identity may answer nor in which region its
//! endpoints are. Its Pods, their namespaces and their nodes do.

use std::sync::Arc;

use super::{IdSet, Labels, ObjectKey, Transport};

/// `v1 Pod`: the process behind an endpoint.
///
/// ```
/// use inmesh_core::model::{IdSet, Kind, Namespace, ObjectKey, Pod, PodRef, Reached, Transport};
/// let key = ObjectKey::new(Kind::Pod, &Namespace::new("shop")?, "cart-7f9c-x2x4z")?;
/// let ids = IdSet::new(["spiffe://lab.example/ns/shop/sa/cart".parse()?]);
/// let pod = Pod::new(key.clone(), Reached::As(Transport::Mesh { ids })).workload("cart", "v2").with_uid("1");
/// assert!(pod.is(&PodRef::new(key.clone(), "1")) && !pod.is(&PodRef::new(key, "2")));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pod {
    /// The object it was read from.
    pub key: ObjectKey,
    /// What tells it from another of its name that came before or after it; empty where that is not
    /// known.
    pub uid: Arc<str>,
    /// How bytes travel to it, and which identities may answer.
    pub reached: Reached,
    /// The workload that it is of, for metrics and logs; may be empty.
    pub workload: Arc<str>,
    /// Its version label, for metrics and logs; may be empty.
    pub version: Arc<str>,
    /// All of its labels, by which a [`Subset`](super::Subset) selects it.
    pub labels: Labels,
}

/// How a Pod is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reached {
    /// As it says itself.
    As(Transport),
    /// It says nothing. Where its namespace is in the mesh, or is not known, one of these identities must
    /// answer; else it is reached in plaintext.
    AsNamespaceSays(IdSet),
}

/// The Pod that an endpoint of a slice is (`targetRef`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PodRef {
    /// The Pod.
    pub key: ObjectKey,
    /// Which of those that had its name, one after another; empty is any.
    pub uid: Arc<str>,
}

/// `v1 Namespace`: whether its Pods are in the mesh.
///
/// ```
/// use inmesh_core::model::{Kind, MeshNamespace, ObjectKey};
/// let shop = MeshNamespace::new(ObjectKey::cluster_wide(Kind::Namespace, "shop")?, true);
/// assert_eq!(shop.key.to_string(), "Namespace/shop");
/// # Ok::<(), inmesh_core::model::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MeshNamespace {
    /// The object it was read from.
    pub key: ObjectKey,
    /// Whether Pods that say nothing themselves are in the mesh.
    pub in_mesh: bool,
}

/// `v1 Node`: where Pods run.
///
/// ```
/// use inmesh_core::model::{Kind, Node, ObjectKey};
/// let node = Node::new(ObjectKey::cluster_wide(Kind::Node, "n1")?, "north", "north-1");
/// assert_eq!((node.key.to_string().as_str(), &*node.zone), ("Node/n1", "north-1"));
/// # Ok::<(), inmesh_core::model::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// The object it was read from.
    pub key: ObjectKey,
    /// Its region (`topology.kubernetes.io/region`); may be empty.
    pub region: Arc<str>,
    /// Its zone (`topology.kubernetes.io/zone`); may be empty.
    pub zone: Arc<str>,
}

// === impl Pod ===

impl Pod {
    /// A Pod without labels, of a workload that is not known.
    pub fn new(key: ObjectKey, reached: Reached) -> Self {
        Self {
            key,
            uid: Arc::default(),
            reached,
            workload: Arc::default(),
            version: Arc::default(),
            labels: Labels::new(),
        }
    }

    /// The same Pod with what tells it from others of its name.
    #[must_use]
    pub fn with_uid(mut self, uid: &str) -> Self {
        self.uid = uid.into();
        self
    }

    /// The same Pod with labels.
    #[must_use]
    pub fn with_labels(mut self, labels: impl IntoIterator<Item = (Arc<str>, Arc<str>)>) -> Self {
        self.labels = labels.into_iter().collect();
        self
    }

    /// Names the workload that it is of and its version, for metrics and logs.
    #[must_use]
    pub fn workload(mut self, name: &str, version: &str) -> Self {
        self.workload = name.into();
        self.version = version.into();
        self
    }

    /// Whether it is the one that an endpoint refers to.
    pub fn is(&self, named: &PodRef) -> bool {
        let same = named.uid.is_empty() || self.uid.is_empty() || named.uid == self.uid;
        same && named.key == self.key
    }
}

// === impl PodRef ===

impl PodRef {
    /// Refers to a Pod.
    pub fn new(key: ObjectKey, uid: &str) -> Self {
        Self {
            key,
            uid: uid.into(),
        }
    }
}

// === impl MeshNamespace ===

impl MeshNamespace {
    /// A namespace whose Pods are in the mesh, or not.
    pub fn new(key: ObjectKey, in_mesh: bool) -> Self {
        Self { key, in_mesh }
    }
}

// === impl Node ===

impl Node {
    /// A node at a place. What is not known is empty.
    pub fn new(key: ObjectKey, region: &str, zone: &str) -> Self {
        Self {
            key,
            region: region.into(),
            zone: zone.into(),
        }
    }
}
