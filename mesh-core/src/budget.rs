//! The bytes of bodies that all connections of a runtime hold together.
//!
//! In come the parts of bodies as connections read them, out they go as they came, each counted until
//! its last byte is written or dropped, wherever it waits: for its reader, in an HTTP library, for the
//! peer's window. Once as much is held as may be, each body reads ahead no more: it has one part on its
//! way at a time. So no body waits for another's reader, and what is held beyond the budget is a part
//! for each body.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use crate::wake::{Noted, Task};

/// Parts below this size are not counted: to count one costs an allocation.
pub(crate) const SMALL: usize = 4 * 1024;

/// The budget of a runtime.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    most: usize,
}

/// What one body has on its way.
#[derive(Debug, Default)]
struct Way {
    bytes: AtomicUsize,
    /// What it may have on its way beyond the budget before it takes another part.
    allowance: usize,
    reader: Task,
}

/// Counts the parts of one body. It is small, since bodies are moved often.
#[derive(Debug)]
pub(crate) struct Meter {
    budget: Arc<Budget>,
    /// Made for the first part that is counted, or for an allowance.
    way: Option<Box<(Arc<Way>, Noted)>>,
}

/// A part that is counted as long as it is somewhere.
struct Counted {
    part: Bytes,
    budget: Arc<Budget>,
    way: Arc<Way>,
}

// === impl Budget ===

impl Budget {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        let used = AtomicUsize::new(0);
        Arc::new(Self { used, most })
    }

    /// Whether as much is held as may be.
    pub(crate) fn is_used_up(&self) -> bool {
        self.used() >= self.most
    }

    /// Ready once more may be written to a connection. While as much is held as may be, what was written
    /// has to leave first: TLS holds up to a record of it, and does not count.
    pub(crate) fn poll_room<W: AsyncWrite>(
        &self,
        connection: Pin<&mut W>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        match self.is_used_up() {
            true => connection.poll_flush(cx),
            false => Poll::Ready(Ok(())),
        }
    }

    /// Whether a quarter of it is free.
    pub(crate) fn is_roomy(&self) -> bool {
        self.used() <= self.most - self.most / 4
    }

    /// The bytes that are held, or that a peer may send.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes so much if it is there in the first half.
    pub(crate) fn try_take(&self, bytes: usize) -> bool {
        let half = self.most / 2;
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= half);
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        self.used.fetch_update(set, get, more).is_ok()
    }

    /// Takes so much, whether it is there or not.
    pub(crate) fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives back what was taken.
    pub(crate) fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

// === impl Way ===

impl Way {
    fn new(allowance: usize) -> Arc<Self> {
        Arc::new(Self {
            allowance,
            ..Self::default()
        })
    }
}

// === impl Meter ===

impl Meter {
    /// What reads the body keeps up to `allowance` bytes of it for itself, and may not be waited for.
    pub(crate) fn new(budget: &Arc<Budget>, allowance: usize) -> Self {
        let way = (allowance > 0).then(|| Box::new((Way::new(allowance), Noted::default())));
        Self {
            budget: Arc::clone(budget),
            way,
        }
    }

    /// Ready once the body may read on.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((way, noted)) = self.way.as_deref_mut() else {
            return Poll::Ready(());
        };
        if !self.budget.is_used_up() {
            return Poll::Ready(());
        }
        noted.note(cx, &way.reader);
        match way.bytes.load(Ordering::Acquire) <= way.allowance {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Makes a part one that is counted.
    pub(crate) fn count(&mut self, part: &mut Bytes) {
        if part.len() < SMALL {
            return;
        }
        let way = self.way.get_or_insert_with(Box::default);
        let way = Arc::clone(&way.0);
        let counted = match self.budget.is_used_up() {
            // A part may keep a buffer of several times its size.
            true => Bytes::copy_from_slice(part),
            false => std::mem::take(part),
        };
        self.budget.take(counted.len());
        way.bytes.fetch_add(counted.len(), Ordering::Relaxed);
        *part = Bytes::from_owner(Counted {
            part: counted,
            budget: Arc::clone(&self.budget),
            way,
        });
    }
}

// === impl Counted ===

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.part
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let bytes = self.part.len();
        self.budget.give(bytes);
        let before = self.way.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if before - bytes <= self.way.allowance {
            self.way.reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::task;

    use super::*;

    /// A part of so many bytes, counted.
    fn counted(meter: &mut Meter, bytes: usize) -> Bytes {
        let mut part = vec![0; bytes].into();
        meter.count(&mut part);
        part
    }

    #[test]
    fn a_body_reads_ahead_within_the_budget_and_a_part_at_a_time_beyond_it() {
        let budget = Budget::new(3 * SMALL);
        let (mut one, mut other) = (Meter::new(&budget, 0), Meter::new(&budget, 0));
        let small = counted(&mut one, SMALL - 1);
        assert_eq!((small.len(), budget.used()), (SMALL - 1, 0), "not counted");
        let mut held: Vec<_> = (0..3).map(|_| counted(&mut one, SMALL)).collect();
        assert!(budget.is_used_up());
        // One that holds nothing is not held up by one that does.
        let mut next = task::spawn(());
        assert!(next.enter(|cx, _| other.poll_ready(cx)).is_ready());
        let others = counted(&mut other, SMALL);
        assert!(next.enter(|cx, _| other.poll_ready(cx)).is_pending());
        drop(others.slice(1..));
        assert!(!next.is_woken(), "a slice of it is still somewhere");
        drop(others);
        assert!(next.is_woken());
        assert!(next.enter(|cx, _| other.poll_ready(cx)).is_ready());
        // The first has to wait until all of its own has gone, or there is room again.
        assert!(next.enter(|cx, _| one.poll_ready(cx)).is_pending());
        held.pop();
        assert!(next.enter(|cx, _| one.poll_ready(cx)).is_ready());
        drop(held);
        assert_eq!(budget.used(), 0);
    }

    /// As an upload is kept that may have to be sent again.
    #[test]
    fn what_its_reader_keeps_does_not_hold_it_up() {
        let budget = Budget::new(0);
        let mut meter = Meter::new(&budget, SMALL);
        let kept = counted(&mut meter, SMALL);
        let mut next = task::spawn(());
        assert!(next.enter(|cx, _| meter.poll_ready(cx)).is_ready());
        let more = counted(&mut meter, SMALL);
        assert!(next.enter(|cx, _| meter.poll_ready(cx)).is_pending());
        drop(more);
        assert!(next.is_woken());
        assert!(next.enter(|cx, _| meter.poll_ready(cx)).is_ready());
        drop(kept);
    }

    #[test]
    fn what_is_taken_is_given_back() {
        let budget = Budget::new(20);
        assert!(budget.try_take(7) && !budget.try_take(4) && budget.try_take(3));
        assert!(!budget.try_take(usize::MAX) && budget.is_roomy());
        budget.take(10);
        assert!(budget.is_used_up() && !budget.is_roomy());
        budget.give(20);
        assert_eq!(budget.used(), 0);
    }
}
