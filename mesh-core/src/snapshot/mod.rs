//! What the mesh knows, as one immutable [`Snapshot`], and the [`Change`]s that make the next one.
//!
//! In come changes from sources; out comes a whole new snapshot, swapped once. Unchanged parts are
//! shared with the one before, so a change costs what changed. What cannot be built is refused for
//! its object alone: the last good one serves, and the reason is kept in the object's status.

mod about;
mod apply;
mod asked;
mod change;
#[cfg(any(feature = "runtime", feature = "simulate"))]
mod checked;
mod compile;
mod difference;
mod index;
mod limiters;
mod originate;
mod outside;
mod pods;
mod policies;
mod report;
mod service;
mod settings;
mod slices;
mod state;
mod status;
mod store;

pub use about::{About, Handed};
pub use apply::Touched;
pub use change::{Change, Fallback, Object, Op};
#[cfg(any(feature = "runtime", feature = "simulate"))]
pub(crate) use checked::Checkable;
pub use difference::{Difference, Mentioned};
pub(crate) use outside::Lead;
pub(crate) use service::PortView;
pub use service::ServiceView;
pub use settings::{OutboundTrafficPolicy, Settings};
pub use state::{Resolved, Snapshot};
pub use status::{Condition, ConditionKind, Location, ObjectStatus, Problem, Serving, Severity};
pub use store::{Followed, Pinned, SnapshotReader, SnapshotWriter, snapshot};

#[cfg(test)]
mod tests;
