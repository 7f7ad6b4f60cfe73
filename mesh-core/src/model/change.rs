//! What a source says: an atomic batch of operations under its name.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Host, Namespace, ObjectKey, Problem, Service, Slice, SourceId};
use crate::authorize::Policy;
use crate::route::Route;

/// Workloads that a refused policy would have selected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selects {
    /// Every workload of the namespace: the selector cannot be read.
    Namespace(Namespace),
    /// Not even the namespace can be read: nothing is ready until it is mended.
    Unknown,
    /// Workloads of the namespace with all these labels.
    Workloads(Namespace, Vec<(Arc<str>, Arc<str>)>),
}

/// What happens where a refused object was never good.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fallback {
    /// It is left out: its Service stays as it was without it.
    Absent,
    /// A policy: what it selects is denied.
    Deny(Selects),
}

/// One operation of a change.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Op {
    /// The object stays as it is, although nothing new could be read of it.
    Keep(ObjectKey),
    /// Puts a policy in place of one of the same key.
    PutPolicy(Arc<Policy>, Vec<Problem>),
    /// Puts a route in place of one of the same key.
    PutRoute(Arc<Route>, Vec<Problem>),
    /// Puts a Service in place of one of the same name.
    PutService(Arc<Service>, Vec<Problem>),
    /// Puts a slice of endpoints in place of one of the same key.
    PutSlice(Arc<Slice>, Vec<Problem>),
    /// The newest version of an object cannot be applied. Its last good version stays.
    Refuse(ObjectKey, Fallback, Vec<Problem>),
    /// Removes an object.
    Remove(ObjectKey),
    /// The addresses of a name, as a resolver found them; empty drains it.
    Resolve(Host, Arc<[(IpAddr, Option<u16>)]>),
}

/// An atomic batch: all of it is in one snapshot, or none.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Change {
    /// Who says so.
    pub source: SourceId,
    /// Whether this is all that the source has to say: what it does not mention is removed.
    pub replace: bool,
    /// The operations, in order.
    pub ops: Vec<Op>,
}

// === impl Change ===

impl Change {
    /// A change to what the source said before.
    pub fn update(source: SourceId, ops: Vec<Op>) -> Self {
        Self {
            source,
            replace: false,
            ops,
        }
    }

    /// All that the source has to say: its objects that are not mentioned are removed.
    pub fn replace(source: SourceId, ops: Vec<Op>) -> Self {
        Self {
            replace: true,
            ..Self::update(source, ops)
        }
    }
}
