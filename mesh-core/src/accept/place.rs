//! The place that a connection takes at its listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::OwnedSemaphorePermit;

/// The place of a connection among those of its listener, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    /// Held, not looked at.
    _permit: OwnedSemaphorePermit,
    open: Arc<AtomicUsize>,
}

// === impl Place ===

impl Place {
    /// The connection is one of the `open` ones.
    pub(super) fn new(permit: OwnedSemaphorePermit, open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self {
            _permit: permit,
            open: Arc::clone(open),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}
