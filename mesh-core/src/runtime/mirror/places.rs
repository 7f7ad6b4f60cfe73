//! What the copies of all requests may have together.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// What copies may keep of bodies, in bytes; a body may have 64 KiB of it.
const ROOM: usize = 8 << 20;

/// Places for copies, and room for bodies that are kept for them.
pub(in crate::runtime) struct Mirrors {
    pub(super) places: Arc<Semaphore>,
    pub(super) room: Arc<Semaphore>,
}

// === impl Mirrors ===

impl Mirrors {
    /// So many copies at once.
    pub(in crate::runtime) fn new(places: usize) -> Self {
        let places = places.min(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(places)),
            room: Arc::new(Semaphore::new(ROOM)),
        }
    }
}
