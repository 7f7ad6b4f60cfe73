//! The listeners of a runtime while they are served: for status and metrics.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::accept::Listener;
use crate::telemetry::Direction;

/// A listener that is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ListenerStatus {
    /// Where it listens.
    pub address: SocketAddr,
    /// `inbound` or `outbound`.
    pub direction: &'static str,
    /// The workload that it is of, as `namespace/name`.
    pub workload: String,
    /// Where its connections lead and what they speak, for a person.
    pub leads: String,
    /// Whether nothing is declared for it, and its application was seen to speak first: callers need not
    /// be waited for if it is declared.
    pub server_first: bool,
    /// Connections that are open.
    pub connections: usize,
}

/// The listeners of one runtime.
#[derive(Debug, Clone, Default)]
pub(super) struct Listening(Arc<Mutex<Vec<Served>>>);

/// A listener, how many of its connections are open, and whether its application speaks first.
type Served = (ListenerStatus, Arc<AtomicUsize>, Arc<AtomicBool>);

/// A listener is served until this is dropped.
#[must_use]
pub(super) struct Listed {
    all: Listening,
    open: Arc<AtomicUsize>,
}

// === impl Listening ===

impl Listening {
    /// Lists a listener for as long as what is returned lives; one without an address is closed
    /// already.
    pub(super) fn list(
        &self,
        listener: &Listener,
        direction: Direction,
        workload: String,
        leads: String,
        first: Arc<AtomicBool>,
    ) -> Option<Listed> {
        let open = listener.open();
        let status = ListenerStatus {
            address: listener.address().ok()?,
            direction: direction.as_str(),
            workload,
            leads,
            server_first: false,
            connections: 0,
        };
        self.all().push((status, Arc::clone(&open), first));
        Some(Listed {
            all: self.clone(),
            open,
        })
    }

    /// Whether one may be what listens at an address.
    pub(super) fn may_be_at(&self, address: SocketAddr) -> bool {
        let all = self.all();
        let mut all = all.iter().map(|(status, ..)| status.address);
        all.any(|at| {
            at.port() == address.port() && (at.ip() == address.ip() || at.ip().is_unspecified())
        })
    }

    /// All that are served, in the order in which they came.
    pub(super) fn status(&self) -> Vec<ListenerStatus> {
        let all = self.all();
        let now = all.iter().map(|(status, open, first)| ListenerStatus {
            connections: open.load(Ordering::Relaxed),
            server_first: first.load(Ordering::Relaxed),
            ..status.clone()
        });
        now.collect()
    }

    fn all(&self) -> MutexGuard<'_, Vec<Served>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.all
            .all()
            .retain(|(_, open, _)| !Arc::ptr_eq(open, &self.open));
    }
}
