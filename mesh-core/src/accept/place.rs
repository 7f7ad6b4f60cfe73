//! The place that a connection takes: among those of its listener, of its caller, of all sockets.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use inmesh_pki::id::SpiffeId;
use inmesh_pki::serve;
use tokio::sync::OwnedSemaphorePermit;

/// The place of a caller's connection among those of its listener, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    /// Held, not looked at: the place at the listener, and the socket of all there may be.
    _held: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
    open: Arc<AtomicUsize>,
}

/// The place of a connection among those of one address, or of one ID once it has proven that: at its
/// listener, and among the sockets of all.
#[derive(Debug, Clone)]
pub(crate) struct Share(Arc<Mutex<[serve::Place; 2]>>);

// === impl Place ===

impl Place {
    /// The connection is one of the `open` ones.
    pub(super) fn new(
        permit: OwnedSemaphorePermit,
        socket: Option<OwnedSemaphorePermit>,
        open: &Arc<AtomicUsize>,
    ) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self {
            _held: (permit, socket),
            open: Arc::clone(open),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Share ===

impl Share {
    /// A share for a connection from `address`, unless that has as many as it may have.
    pub(crate) fn of(address: IpAddr, places: [&serve::Places; 2]) -> Option<Self> {
        let [listener, all] = places.map(|places| places.take(address));
        Some(Self(Arc::new(Mutex::new([listener?, all?]))))
    }

    /// Counts the connection under the address for which a proxy has passed it on. Returns false where that
    /// has as many as it may have.
    pub(crate) fn pass_to(&self, address: IpAddr) -> bool {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.iter_mut().all(|place| place.pass_to(address))
    }

    /// Counts the connection under its ID instead of its address. Returns false where that ID has as
    /// many as it may have.
    pub(crate) fn prove(&self, id: &SpiffeId) -> bool {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.iter_mut().all(|place| place.prove(id))
    }
}
