//! Health of live endpoints: breakers behind atomics, so that the common case takes no lock.
//!
//! A pick reads one atomic of the set and one or two of endpoints. Locks are taken when an
//! endpoint fails, and when one that had failed succeeds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Breaker;
use crate::model::Draw;

/// `SetHealth::next_probe` while no endpoint is ejected.
const NEVER: u64 = u64::MAX;

/// One endpoint's health.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Health {
    /// Mirrors of the breaker for readers without the lock; first, because they are read most.
    ejected: AtomicBool,
    blemished: AtomicBool,
    breaker: Mutex<Breaker>,
}

/// What a set as a whole remembers of its ejections.
#[derive(Debug)]
pub(super) struct SetHealth {
    /// When the first ejected endpoint may be probed, in milliseconds, or `NEVER`.
    next_probe: AtomicU64,
    /// Until when an endpoint takes less than its share by its own word, in milliseconds.
    shed: AtomicU64,
    /// Whether the set has endpoints whose age has not begun.
    fresh: AtomicBool,
    /// The turns of round robin; 0 before the first.
    turns: AtomicU64,
    /// Held while it is decided whether there is room for one more ejection, and while
    /// `next_probe` is set from the breakers, so that neither is decided on stale state.
    ejecting: Mutex<()>,
}

pub(super) fn millis(at: Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(NEVER - 1)
}

/// Turns of round robin that nothing takes; 0 is before the first.
pub(super) struct Ahead(u64);

// === impl Health ===

impl Health {
    pub(super) fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    /// Whether it is ejected or has failed since its last success.
    pub(super) fn is_blemished(&self) -> bool {
        self.blemished.load(Ordering::Relaxed)
    }

    /// Changes the breaker and updates its mirrors.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut breaker);
        let out = breaker.ejected_until().is_some();
        self.ejected.store(out, Ordering::Relaxed);
        self.blemished
            .store(out || breaker.failures() > 0, Ordering::Relaxed);
        result
    }
}

// === impl Ahead ===

impl Ahead {
    pub(super) fn next(&mut self, draw: &mut Draw) -> u64 {
        let turn = match self.0 {
            0 => draw.bits() >> 1,
            next => next,
        };
        self.0 = turn.wrapping_add(1);
        turn
    }
}

// === impl SetHealth ===

impl SetHealth {
    /// Whether an ejected endpoint may be due for its probe.
    pub(super) fn may_probe(&self, now: Duration) -> bool {
        self.next_probe.load(Ordering::Relaxed) <= millis(now)
    }

    /// Whether an endpoint may take less than its share by its own word.
    pub(super) fn sheds(&self, now: Duration) -> bool {
        let until = self.shed.load(Ordering::Relaxed);
        until != 0 && until > millis(now)
    }

    /// An endpoint takes less until then.
    pub(super) fn shed_until(&self, until: u64) {
        self.shed.fetch_max(until, Ordering::Relaxed);
    }

    /// The set has endpoints that are new, as far as it knows.
    pub(super) fn is_fresh(&self) {
        self.fresh.store(true, Ordering::Relaxed);
    }

    /// Whether it had; it has none from here on.
    pub(super) fn take_fresh(&self) -> bool {
        self.fresh.load(Ordering::Relaxed) && self.fresh.swap(false, Ordering::Relaxed)
    }

    /// The next turn of round robin. The first is drawn, so that not all callers begin at one endpoint.
    pub(super) fn turn(&self, draw: &mut Draw) -> u64 {
        match self.turns.fetch_add(1, Ordering::Relaxed) {
            0 => {
                // Below half of the range, so that it does not come round to 0.
                let first = draw.bits() >> 1;
                self.turns.fetch_add(first, Ordering::Relaxed);
                first
            }
            turn => turn,
        }
    }

    /// The turns that would come, which are not taken.
    pub(super) fn turns_ahead(&self) -> Ahead {
        Ahead(self.turns.load(Ordering::Relaxed))
    }

    /// Excludes other ejections and changes of the next probe.
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.ejecting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets when the next probe is due, `None` for never. The caller holds the lock.
    pub(super) fn rearm(&self, at: Option<Duration>) {
        self.next_probe
            .store(at.map_or(NEVER, millis), Ordering::Relaxed);
    }

    /// Brings the next probe forward to a moment. The caller holds the lock.
    pub(super) fn probe_by(&self, at: Duration) {
        self.next_probe.fetch_min(millis(at), Ordering::Relaxed);
    }
}

impl Default for SetHealth {
    fn default() -> Self {
        Self {
            next_probe: AtomicU64::new(NEVER),
            shed: AtomicU64::new(0),
            fresh: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            ejecting: Mutex::new(()),
        }
    }
}
