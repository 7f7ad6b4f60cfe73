//! What a source pushes: an atomic batch of operations on its objects.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::status::Problem;
use crate::authorize::{Policy, Selects};
use crate::model::{
    Asked, Host, HostAddress, MeshNamespace, Node, ObjectKey, Pod, Service, ServiceName, Slice,
    SourceId,
};
use crate::origination::{BackendTlsPolicy, CaConfigMap};
use crate::route::{GrpcRoute, OpaqueRoute, Parent, Route, Rule};
use crate::traffic::TrafficPolicy;

/// A configuration object, checked when it was made.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Object {
    /// A BackendTLSPolicy.
    BackendTls(Arc<BackendTlsPolicy>),
    /// A ConfigMap with roots.
    CaConfigMap(Arc<CaConfigMap>),
    /// A GRPCRoute.
    GrpcRoute(Arc<GrpcRoute>),
    /// A Namespace.
    Namespace(Arc<MeshNamespace>),
    /// A Node.
    Node(Arc<Node>),
    /// A TLSRoute or TCPRoute.
    OpaqueRoute(Arc<OpaqueRoute>),
    /// A Pod.
    Pod(Arc<Pod>),
    /// An AuthorizationPolicy.
    Policy(Arc<Policy>),
    /// An HTTPRoute.
    Route(Arc<Route>),
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    Slice(Arc<Slice>),
    /// A TrafficPolicy.
    Traffic(Arc<TrafficPolicy>),
}

/// What takes the place of a refused object that never had a good version.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fallback {
    /// Nothing: its Service stays as it was without it.
    Absent,
    /// For a policy: what it selects is denied.
    Deny(Selects),
    /// For a BackendTLSPolicy: one that lets no connection be made to what it is for.
    Refuse(Arc<BackendTlsPolicy>),
}

/// One operation of a change.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Op {
    /// A host outside the mesh is asked for that no document lists: its endpoints are needed.
    Ask(ServiceName, Asked),
    /// The text of the document that an object was read from, after the operation that puts or refuses
    /// it: for a control plane, which hands it on. What serves does not change with it.
    Document(ObjectKey, Arc<str>),
    /// Such a host is needed no longer.
    Forget(ServiceName, Asked),
    /// The object stays as it is, although its newest version could not be read.
    Keep(ObjectKey),
    /// Puts an object in place of the source's one of the same key, with the problems that did not
    /// prevent it.
    Put(Object, Vec<Problem>),
    /// The newest version of an object cannot be applied. Its last good version stays.
    Refuse(ObjectKey, Fallback, Vec<Problem>),
    /// Removes an object.
    Remove(ObjectKey),
    /// The addresses of a name, as a resolver found them; empty removes its endpoints.
    Resolve(Host, Arc<[HostAddress]>),
}

/// An atomic batch: all of it is in one snapshot, or nothing of it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Change {
    /// The source that pushes it.
    pub source: SourceId,
    /// Whether these are all objects of the source: those that are not mentioned are removed.
    pub replace: bool,
    /// The operations, in order.
    pub ops: Vec<Op>,
}

// === impl Object ===

impl Object {
    /// Its key.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::BackendTls(policy) => policy.key.clone(),
            Self::CaConfigMap(roots) => roots.key.clone(),
            Self::GrpcRoute(route) => route.key.clone(),
            Self::Namespace(namespace) => namespace.key.clone(),
            Self::Node(node) => node.key.clone(),
            Self::OpaqueRoute(route) => route.key.clone(),
            Self::Pod(pod) => pod.key.clone(),
            Self::Policy(policy) => policy.key.clone(),
            Self::Route(route) => route.key.clone(),
            Self::Service(service) => service.key(),
            Self::Slice(slice) => slice.key.clone(),
            Self::Traffic(policy) => policy.key.clone(),
        }
    }

    /// What it is attached to, if it is a route.
    pub fn parents(&self) -> &[Parent] {
        match self {
            Self::GrpcRoute(route) => &route.parents,
            Self::OpaqueRoute(route) => &route.parents,
            Self::Route(route) => &route.parents,
            _ => &[],
        }
    }

    /// Its rules, if it is a route.
    pub fn rules(&self) -> Vec<&Rule> {
        match self {
            Self::GrpcRoute(route) => route.rules.iter().map(|rule| &rule.rule).collect(),
            Self::OpaqueRoute(route) => vec![&route.rule],
            Self::Route(route) => route.rules.iter().collect(),
            _ => Vec::new(),
        }
    }

    /// The Services that it sends requests or copies of them to, if it is a route.
    ///
    /// ```
    /// use inmesh_core::model::{AppProtocol, Namespace, Service, ServiceName, ServicePort};
    /// use inmesh_core::snapshot::Object;
    /// let cart = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    /// let service = Service::new(cart, vec![ServicePort::new("", 80, AppProtocol::Http1)]);
    /// assert!(Object::from(service).leads_to().is_empty());
    /// # Ok::<(), inmesh_core::model::InvalidName>(())
    /// ```
    pub fn leads_to(&self) -> BTreeSet<ServiceName> {
        let mut to = BTreeSet::new();
        for rule in self.rules() {
            let backends = rule.backends().iter();
            to.extend(backends.map(|backend| backend.service.clone()));
            to.extend(
                rule.mirrors()
                    .map(|(_, _, mirror)| mirror.service().clone()),
            );
        }
        to
    }
}

macro_rules! from {
    ($($of:ident),*) => {
        $(
            impl From<Arc<$of>> for Object {
                fn from(object: Arc<$of>) -> Self {
                    Self::$of(object)
                }
            }

            impl From<$of> for Object {
                fn from(object: $of) -> Self {
                    Self::$of(Arc::new(object))
                }
            }
        )*
    };
}
from!(
    CaConfigMap,
    GrpcRoute,
    Node,
    OpaqueRoute,
    Pod,
    Policy,
    Route,
    Service,
    Slice
);

impl From<MeshNamespace> for Object {
    fn from(namespace: MeshNamespace) -> Self {
        Self::Namespace(Arc::new(namespace))
    }
}

impl From<BackendTlsPolicy> for Object {
    fn from(policy: BackendTlsPolicy) -> Self {
        Self::BackendTls(Arc::new(policy))
    }
}

impl From<TrafficPolicy> for Object {
    fn from(policy: TrafficPolicy) -> Self {
        Self::Traffic(Arc::new(policy))
    }
}

// === impl Op ===

impl Op {
    /// Puts an object without problems.
    ///
    /// ```
    /// use inmesh_core::model::{AppProtocol, Namespace, Service, ServiceName, ServicePort};
    /// use inmesh_core::snapshot::Op;
    /// let cart = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    /// let http = ServicePort::new("http", 80, AppProtocol::Http1);
    /// let op = Op::put(Service::new(cart, vec![http]));
    /// assert!(matches!(op, Op::Put(..)));
    /// # Ok::<(), inmesh_core::model::InvalidName>(())
    /// ```
    pub fn put(object: impl Into<Object>) -> Self {
        Self::Put(object.into(), Vec::new())
    }
}

// === impl Change ===

impl Change {
    /// A change to some objects of a source.
    ///
    /// ```
    /// use inmesh_core::model::SourceId;
    /// use inmesh_core::snapshot::Change;
    /// assert!(!Change::update(SourceId::new("me"), vec![]).replace);
    /// ```
    pub fn update(source: SourceId, ops: Vec<Op>) -> Self {
        Self {
            source,
            replace: false,
            ops,
        }
    }

    /// All objects of a source: those that are not mentioned are removed.
    pub fn replace(source: SourceId, ops: Vec<Op>) -> Self {
        Self {
            replace: true,
            ..Self::update(source, ops)
        }
    }
}
