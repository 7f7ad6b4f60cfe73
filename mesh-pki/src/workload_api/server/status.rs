//! What is open and what was refused in, counts out, for metrics and for people. Nothing of it says
//! which process was refused: that is in the log.

use std::sync::Arc;

use crate::status::StatusWriter;

/// How a server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ServerStatus {
    /// Connections that are open.
    pub connections: usize,
    /// Streams that are open, on all connections.
    pub streams: usize,
    /// What was refused since it began to serve.
    pub refusals: Refusals,
}

/// Connections and calls that were refused, by the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Refusals {
    /// Calls of processes that match no entry.
    pub no_entry: u64,
    /// Calls without the security metadata (S35).
    pub no_metadata: u64,
    /// Calls for an ID that the caller does not have.
    pub other_id: u64,
    /// Connections that were one too many, in all or of their user.
    pub too_many: u64,
    /// Connections whose process the kernel does not identify.
    pub unknown_caller: u64,
}

impl Refusals {
    /// Each reason, and how often it was one.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        [
            ("no-entry", self.no_entry),
            ("no-metadata", self.no_metadata),
            ("other-id", self.other_id),
            ("too-many", self.too_many),
            ("unknown-caller", self.unknown_caller),
        ]
        .into_iter()
    }
}

/// The counts, shared by all connections.
#[derive(Debug, Clone)]
pub(super) struct ServerCounts(Arc<StatusWriter<ServerStatus>>);

/// One open thing that is counted, for as long as it lives.
pub(super) struct Open {
    counts: ServerCounts,
    what: What,
}

/// Where an open thing is counted.
type What = fn(&mut ServerStatus) -> &mut usize;

impl ServerCounts {
    pub(super) fn new(status: StatusWriter<ServerStatus>) -> Self {
        Self(Arc::new(status))
    }

    pub(super) fn reader(&self) -> crate::status::StatusReader<ServerStatus> {
        self.0.reader()
    }

    pub(super) fn refused(&self, why: fn(&mut Refusals) -> &mut u64) {
        self.0.update(|status| *why(&mut status.refusals) += 1);
    }

    pub(super) fn open(&self, what: What) -> Open {
        self.0.update(|status| *what(status) += 1);
        Open {
            counts: self.clone(),
            what,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counts.0.update(|status| {
            let open = (self.what)(status);
            *open = open.saturating_sub(1);
        });
    }
}
