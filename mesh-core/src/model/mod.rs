//! What the mesh knows: names, endpoints, one immutable [`Snapshot`], and the [`Change`]s to it.
//!
//! In come changes from sources; out comes a whole new snapshot, swapped once. Unchanged parts are
//! shared with the one before, so a change costs what changed. What cannot be built is refused for
//! its object alone: the last good one serves, and the reason is kept in the object's status.

mod change;
mod compile;
mod draw;
mod endpoint;
mod few;
mod index;
mod names;
mod report;
mod service;
mod snapshot;
mod status;
mod store;
mod text;

pub use change::{Change, Fallback, Op, Selects};
pub use draw::Draw;
pub use endpoint::{
    Conditions, Endpoint, EndpointSet, EndpointState, Host, IdSet, Member, Roots, Transport,
};
pub use few::Few;
pub use names::{InvalidName, Kind, Namespace, ObjectKey, ServiceName, SourceId, Workload};
pub use service::{AppProtocol, Service, ServicePort, ServiceView, Slice, SlicePort};
pub use snapshot::{Destination, Settings, Snapshot};
pub use status::{Location, ObjectStatus, Problem, Serving, Severity};
pub use store::{SnapshotReader, SnapshotWriter, snapshot};
pub use text::Text;

#[cfg(test)]
mod tests;
