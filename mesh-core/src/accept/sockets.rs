//! The sockets of a runtime: one half for callers, one for endpoints.
//!
//! A process that is out of descriptors answers no probe, reads no key and finds no name. So what
//! strangers can cause is bounded below that, for all listeners together, and the rest of the
//! descriptors is for what must go on. Neither half takes from the other: callers that hold all of
//! theirs can still be served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// The sockets that there may be.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) callers: Half,
    pub(crate) endpoints: Half,
}

/// The sockets of one side.
#[derive(Debug)]
pub(crate) struct Half {
    free: Arc<Semaphore>,
    all: usize,
    /// How often all were in use when one was asked for.
    missed: AtomicU64,
}

// === impl Sockets ===

impl Sockets {
    /// `sockets` is how many there may be in all; each side has one at least.
    pub(crate) fn new(sockets: usize) -> Self {
        let callers = (sockets / 2).max(1);
        Self {
            callers: Half::new(callers),
            endpoints: Half::new(sockets.saturating_sub(callers).max(1)),
        }
    }
}

// === impl Half ===

impl Half {
    fn new(all: usize) -> Self {
        let all = all.min(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(all)),
            all,
            missed: AtomicU64::new(0),
        }
    }

    /// A permit for one more, held until that socket is closed; waits while all are in use.
    pub(crate) async fn take(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => return permit,
            Err(TryAcquireError::NoPermits) => {
                self.missed.fetch_add(1, Ordering::Relaxed);
            }
            Err(TryAcquireError::Closed) => {}
        }
        match Arc::clone(&self.free).acquire_owned().await {
            Ok(permit) => permit,
            // It is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether all are in use.
    pub(crate) fn is_used_up(&self) -> bool {
        self.free.available_permits() == 0
    }

    /// How many are in use.
    pub(crate) fn open(&self) -> usize {
        self.all.saturating_sub(self.free.available_permits())
    }

    /// How many there may be.
    pub(crate) fn most(&self) -> usize {
        self.all
    }

    /// How often all were in use when one was asked for.
    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    #[test]
    fn neither_side_takes_what_is_the_others() {
        let sockets = Sockets::new(5);
        assert_eq!((sockets.callers.most(), sockets.endpoints.most()), (2, 3));
        let take = |half: &Half| assert_ready!(task::spawn(half.take()).poll());
        let mut held: Vec<_> = (0..2).map(|_| take(&sockets.callers)).collect();
        assert!(sockets.callers.is_used_up() && !sockets.endpoints.is_used_up());
        let mut next = task::spawn(sockets.callers.take());
        assert_pending!(next.poll());
        let _others: Vec<_> = (0..3).map(|_| take(&sockets.endpoints)).collect();
        assert_eq!((sockets.callers.open(), sockets.callers.missed()), (2, 1));
        assert_eq!(
            (sockets.endpoints.open(), sockets.endpoints.missed()),
            (3, 0)
        );
        held.pop();
        assert!(next.is_woken());
        drop(assert_ready!(next.poll()));
        assert_eq!(sockets.callers.open(), 1);
    }

    #[test]
    fn there_is_a_socket_for_each_side_at_least() {
        for few in [0, 1, 2] {
            let sockets = Sockets::new(few);
            assert_eq!((sockets.callers.most(), sockets.endpoints.most()), (1, 1));
        }
    }
}
