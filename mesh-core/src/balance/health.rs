//! Health of live endpoints: breakers behind atomics, so that the common case takes no lock.
//!
//! A pick reads one atomic of the set and one or two of endpoints. Locks are taken when an
//! endpoint fails, and when one that had failed succeeds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::Breaker;
use super::limits::{InFlight, PortState};
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
    /// Whether checks have found that it does not serve.
    unwell: AtomicBool,
    breaker: Mutex<Breaker>,
}

/// What a set of type `T`, and those that replace it, remember of their ejections.
#[derive(Debug)]
pub(super) struct SetHealth<T> {
    /// When the first ejected endpoint may be probed, in milliseconds, or `NEVER`.
    next_probe: AtomicU64,
    /// Until when an endpoint takes less than its share by its own word, in milliseconds.
    shed: AtomicU64,
    /// The serial of the newest set that a request was balanced over.
    seen: AtomicU64,
    /// When the endpoints are compared next, in milliseconds.
    comparison: AtomicU64,
    /// The requests in flight to all endpoints, where they are limited.
    inflight: InFlight,
    /// The turns of round robin; 0 before the first.
    turns: AtomicU64,
    /// What bounds the connections, and counts them.
    port: Arc<PortState>,
    /// The newest set. Held while it is decided whether there is room for one more ejection, and while
    /// `next_probe` is set from the breakers, so that neither is decided on stale state.
    ejecting: Mutex<Weak<T>>,
}

/// Turns of round robin that nothing takes; 0 is before the first.
pub(super) struct Ahead(u64);

pub(super) fn millis(at: Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(NEVER - 1)
}

// === impl Health ===

impl Health {
    pub(super) fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    /// Whether it is ejected or has failed since its last success.
    pub(super) fn is_blemished(&self) -> bool {
        self.blemished.load(Ordering::Relaxed)
    }

    /// Whether checks have found that it does not serve.
    pub(super) fn is_unwell(&self) -> bool {
        self.unwell.load(Ordering::Relaxed)
    }

    /// Notes what checks have found.
    pub(super) fn set_unwell(&self, unwell: bool) {
        self.with(|_| self.unwell.store(unwell, Ordering::Relaxed));
    }

    /// Changes the breaker and updates its mirrors.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut breaker);
        let out = breaker.ejected_until().is_some();
        let unwell = self.unwell.load(Ordering::Relaxed);
        self.ejected.store(out || unwell, Ordering::Relaxed);
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

impl<T> SetHealth<T> {
    /// Counts one more request, if there may be one.
    pub(super) fn enter(&self, most: u32) -> bool {
        self.inflight.enter(most)
    }

    pub(super) fn leave(&self) {
        self.inflight.leave();
    }

    /// What bounds the connections, and counts them.
    pub(super) fn port(&self) -> &Arc<PortState> {
        &self.port
    }

    /// The requests in flight to all endpoints, where they are limited.
    pub(super) fn in_flight(&self) -> u32 {
        self.inflight.count()
    }

    /// Whether an endpoint may be ejected.
    pub(super) fn may_be_out(&self) -> bool {
        self.next_probe.load(Ordering::Relaxed) != NEVER
    }

    /// Whether an ejected endpoint may be due for its probe.
    pub(super) fn may_probe(&self, now: Duration) -> bool {
        let next = self.next_probe.load(Ordering::Relaxed);
        next != NEVER && next <= millis(now)
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

    /// Whether a set of this serial is newer than all that requests were balanced over.
    pub(super) fn is_new(&self, serial: u64) -> bool {
        self.seen.load(Ordering::Relaxed) < serial
    }

    /// Notes the newest set. Returns whether it is. The caller holds the lock.
    pub(super) fn note(&self, newest: &mut Weak<T>, set: &Arc<T>, serial: u64) -> bool {
        let new = self.seen.fetch_max(serial, Ordering::Relaxed) < serial;
        if new {
            *newest = Arc::downgrade(set);
        }
        new
    }

    /// Whether an interval has ended, and if so whether only just: what was counted in a longer time
    /// says nothing. One caller alone learns of it.
    pub(super) fn poll_comparison(&self, now: Duration, interval: Duration) -> Option<bool> {
        let (at, relaxed) = (self.comparison.load(Ordering::Relaxed), Ordering::Relaxed);
        let (now, next) = (millis(now), millis(now.saturating_add(interval)));
        if now < at {
            return None;
        }
        let taken = self.comparison.compare_exchange(at, next, relaxed, relaxed);
        // The first interval begins with the first answer.
        taken.ok().map(|_| at != 0 && now - at < next - now)
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
    pub(super) fn lock(&self) -> MutexGuard<'_, Weak<T>> {
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

impl<T> Default for SetHealth<T> {
    fn default() -> Self {
        Self {
            next_probe: AtomicU64::new(NEVER),
            shed: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            comparison: AtomicU64::new(0),
            inflight: InFlight::default(),
            turns: AtomicU64::new(0),
            port: Arc::default(),
            ejecting: Mutex::new(Weak::new()),
        }
    }
}
