//! The traces in which a hop below has done what may be done, for the answers of this hop that fail
//! because of it. An application makes an answer of its own of a failure below; its trace is all that
//! joins the two.
//!
//! A fixed table that forgets: what is overwritten or older than a few seconds is not known, and then a
//! repeat is paid for by the budget of the hop above.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The traces that are remembered: those of a second of 4,000 failures. 32 KiB.
const TRACES: usize = 4_096;
/// How long one is, in seconds: longer than an application takes to fail because of another.
const SECONDS: u64 = 10;
/// The bits of a slot that hold when, in seconds; the others tell traces apart.
const TIME: u32 = 24;

/// The traces.
pub(super) struct Spent {
    slots: Box<[AtomicU64]>,
    /// Whether one was ever noted: most processes need not look.
    any: AtomicBool,
    /// Callers choose trace ids: none can choose one that is taken for another's.
    hash: RandomState,
}

// === impl Spent ===

impl Spent {
    pub(super) fn new() -> Self {
        Self {
            slots: (0..TRACES).map(|_| AtomicU64::new(0)).collect(),
            any: AtomicBool::new(false),
            hash: RandomState::new(),
        }
    }

    /// Whether any may be known.
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// A request of this trace has failed for good, at a moment since the begin of the process.
    #[cold]
    pub(super) fn note(&self, trace: u128, now: Duration) {
        let (slot, mark) = self.of(trace);
        slot.store(mark | seconds(now), Ordering::Relaxed);
        self.any.store(true, Ordering::Relaxed);
    }

    /// Whether one has, a short time ago.
    #[cold]
    pub(super) fn has(&self, trace: u128, now: Duration) -> bool {
        let (slot, mark) = self.of(trace);
        let noted = slot.load(Ordering::Relaxed);
        let age = seconds(now).wrapping_sub(noted) & ((1 << TIME) - 1);
        noted != 0 && noted >> TIME == mark >> TIME && age <= SECONDS
    }

    /// The slot of a trace, and what tells it apart there.
    fn of(&self, trace: u128) -> (&AtomicU64, u64) {
        let hash = self.hash.hash_one(trace);
        // The slot is of the lower bits, the mark of the upper ones.
        let at = usize::try_from(hash % TRACES as u64).unwrap_or_default();
        (&self.slots[at], hash >> TIME << TIME)
    }
}

/// From 1, so that 0 is a slot that was never used.
fn seconds(now: Duration) -> u64 {
    (now.as_secs() + 1) & ((1 << TIME) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_trace_is_known_for_a_while_and_no_other_is() {
        let spent = Spent::new();
        assert!(!spent.any());
        for now in [Duration::ZERO, 100 * SECOND, SECOND * (1 << TIME)] {
            assert!(!spent.has(7, now));
            spent.note(7, now);
            assert!(spent.any());
            assert!(spent.has(7, now));
            assert!(spent.has(7, now + 10 * SECOND));
            assert!(!spent.has(7, now + 11 * SECOND));
            let others = (8..10_000).filter(|other| spent.has(*other, now));
            assert_eq!(others.count(), 0);
        }
    }

    #[test]
    fn many_traces_take_no_more_room() {
        let spent = Spent::new();
        for trace in 0..100_000 {
            spent.note(trace, SECOND);
            assert!(spent.has(trace, SECOND));
        }
        let known = (0..100_000).filter(|trace| spent.has(*trace, SECOND));
        assert!(known.count() <= TRACES);
    }
}
