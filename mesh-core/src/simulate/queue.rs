//! What is to come, in order of time; what was put in first comes first among equals.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// What is to come, in order of time.
#[derive(Debug)]
pub(super) struct Queue<T> {
    heap: BinaryHeap<Entry<T>>,
    put: u64,
}

#[derive(Debug)]
struct Entry<T> {
    /// Nanoseconds since the begin.
    at: u64,
    nth: u64,
    what: T,
}

// === impl Queue ===

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            put: 0,
        }
    }

    pub(super) fn put(&mut self, at: u64, what: T) {
        let nth = self.put;
        self.put += 1;
        self.heap.push(Entry { at, nth, what });
    }

    /// The next, and when it is.
    pub(super) fn next(&mut self) -> Option<(u64, T)> {
        self.heap.pop().map(|entry| (entry.at, entry.what))
    }
}

// === impl Entry ===

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first.
        (other.at, other.nth).cmp(&(self.at, self.nth))
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}
