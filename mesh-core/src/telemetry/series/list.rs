//! A list that only grows, and is read without a lock: a reader writes nothing that other threads read.

use std::sync::OnceLock;

/// The list. It is short: each look-up walks it from its begin.
pub(super) struct List<T>(OnceLock<Box<Link<T>>>);

struct Link<T> {
    value: T,
    rest: List<T>,
}

// === impl List ===

impl<T> List<T> {
    /// The first value that `is` is true of; made and added at the end if it is absent.
    pub(super) fn get_or_add(&self, is: impl Fn(&T) -> bool, make: impl Fn() -> T) -> &T {
        let mut at = self;
        loop {
            // Another thread may add its own first, which is then looked at as all are.
            let link = at.0.get_or_init(|| {
                let (value, rest) = (make(), Self::default());
                Box::new(Link { value, rest })
            });
            if is(&link.value) {
                return &link.value;
            }
            at = &link.rest;
        }
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}
