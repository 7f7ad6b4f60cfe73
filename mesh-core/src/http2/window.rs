//! The window of a whole connection: what a peer may send on all streams together, out of the budget of
//! all connections.
//!
//! The least is free, since HTTP/2 has it. More is taken from the budget before the peer is given it,
//! and goes back once it is read and not given again: what a peer has been given cannot be taken
//! back. The window follows what is unread, so that a stream whose reader pauses is not in the way of the
//! others, and runs ahead of it by a part of what the connection brings, out of one half of the budget:
//! what is given to connections that rest then makes no crowd. Where the budget is used up it
//! runs ahead by the least alone, and each stream has a window of [`CROWDED`].

use std::sync::Arc;

use super::CONNECTION_WINDOW;
use crate::budget::Budget;

/// What each connection has from its begin (RFC 9113 section 6.9.2).
pub(super) const LEAST: u32 = 65_535;
/// The window of a stream while the budget is used up: what each may hold beyond it.
pub(super) const CROWDED: u32 = 16 * 1024;
/// A connection may run ahead by so much of what it has brought in all.
const PART: usize = 4;

/// The window of a connection.
#[derive(Debug)]
pub(super) struct Window {
    budget: Arc<Budget>,
    target: usize,
    /// What is unread or may be sent; above the least it is taken from the budget.
    exposed: usize,
    /// All that was read at the last look; wraps around.
    read: usize,
    /// Whether streams have the window of a crowd.
    crowded: bool,
}

// === impl Window ===

impl Window {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            target: LEAST as usize,
            exposed: LEAST as usize,
            read: 0,
            crowded: false,
        }
    }

    /// Whether too much is unread, on this connection or on all. A crowd ends only at some distance
    /// below that, so that windows do not change with each part.
    pub(super) fn is_crowded(&self, unread: usize) -> bool {
        let much = CONNECTION_WINDOW as usize / 2;
        match self.crowded {
            false => self.budget.is_used_up() || unread >= much,
            true => !self.budget.is_roomy() || unread >= much / 2,
        }
    }

    /// Has `set` give streams the window of a crowd, or `usual` again. Returns whether it did; it cannot
    /// while the peer has not confirmed the last one.
    pub(super) fn crowd(
        &mut self,
        unread: usize,
        usual: u32,
        set: impl FnOnce(u32) -> bool,
    ) -> bool {
        let crowded = self.is_crowded(unread);
        let size = if crowded { CROWDED } else { usual };
        if crowded == self.crowded || !set(size) {
            return false;
        }
        self.crowded = crowded;
        true
    }

    /// Takes how much has come in all, how much of it is unread, and the window of a stream. Returns the
    /// new window if it changes. Called before the library looks what to open again, so that a
    /// smaller one counts for what was just read.
    pub(super) fn handle(&mut self, came: usize, unread: usize, stream: u32) -> Option<u32> {
        let read = came.wrapping_sub(unread);
        let news = read.wrapping_sub(self.read);
        self.read = read;
        let before = self.target;
        self.fit(came, unread, stream);
        let gone = news.min(self.exposed.saturating_sub(self.target));
        self.exposed -= gone;
        self.budget.give(gone);
        (self.target != before).then_some(u32::try_from(self.target).ok()?)
    }

    fn fit(&mut self, came: usize, unread: usize, stream: u32) {
        let (least, most) = (LEAST as usize, CONNECTION_WINDOW as usize);
        let ahead = match self.budget.is_used_up() {
            true => least,
            false => (came / PART).clamp(least, (2 * stream as usize).max(least)),
        };
        let wanted = (unread + ahead).clamp(least, most);
        let blocked = unread + least / 2 > self.target;
        if wanted <= self.target / 2 {
            self.target = wanted;
        }
        if wanted <= self.target || !(blocked || wanted / 2 >= self.target) {
            return;
        }
        if self.budget.try_take(wanted.saturating_sub(self.exposed)) {
            self.target = wanted;
        } else if blocked {
            // What others send on this connection has room, whatever is left of the budget.
            let room = (unread + least).min(most).max(self.target);
            self.budget.take(room.saturating_sub(self.exposed));
            self.target = room;
        }
        self.exposed = self.exposed.max(self.target);
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.budget.give(self.exposed - LEAST as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;
    const STREAM: u32 = 128 * 1024;

    #[test]
    fn it_follows_what_is_unread_and_runs_ahead_as_far_as_the_budget_goes() {
        let budget = Budget::new(1024 * KIB);
        let mut window = Window::new(&budget);
        assert_eq!(window.handle(16 * KIB, 0, STREAM), None, "little has come");
        let came = 2 * 1024 * KIB;
        let most = window.handle(came, 0, STREAM);
        assert_eq!(most, Some(256 * 1024), "twice the window of a stream");
        // What is unread is no longer room for others.
        let wider = window.handle(came + 250 * KIB, 250 * KIB, STREAM);
        assert_eq!(wider, Some(506 * 1024));
        let used = 506 * KIB - LEAST as usize;
        assert_eq!(budget.used(), used);
        // Beyond a half of the budget it does not run ahead, beyond all of it there is room for others.
        let mut other = Window::new(&budget);
        let past = other.handle(600 * KIB, 600 * KIB, STREAM);
        assert_eq!(past, Some(600 * 1024 + LEAST));
        assert!(budget.is_used_up());
        // What is read then is not given again.
        assert_eq!(other.handle(600 * KIB, 0, STREAM), Some(LEAST));
        assert_eq!(budget.used(), used);
        drop(other);
        drop(window);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_was_given_counts_until_it_is_read() {
        let budget = Budget::new(512 * KIB);
        let mut window = Window::new(&budget);
        let came = 8 * 1024 * KIB;
        assert_eq!(window.handle(came, 0, STREAM), Some(256 * 1024));
        budget.take(512 * KIB - budget.used());
        assert_eq!(window.handle(came, 0, STREAM), Some(LEAST));
        assert_eq!(budget.used(), 512 * KIB, "the peer may send it still");
        let came = came + 100 * KIB;
        let follows = window.handle(came, 100 * KIB, STREAM);
        let target = 100 * KIB + LEAST as usize;
        assert_eq!(
            follows.map(|size| size as usize),
            Some(target),
            "of what it has"
        );
        assert_eq!(budget.used(), 512 * KIB);
        assert_eq!(window.handle(came, 0, STREAM), Some(LEAST));
        assert_eq!(budget.used(), 412 * KIB, "what was read is not given again");
    }

    #[test]
    fn the_least_is_free_and_the_count_wraps_around() {
        let budget = Budget::new(0);
        let mut window = Window::new(&budget);
        for came in [0, 100 * KIB, usize::MAX, 50 * KIB] {
            assert_eq!(window.handle(came, 0, STREAM), None);
        }
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_crowd_has_small_streams_until_it_is_none() {
        let budget = Budget::new(8);
        let mut window = Window::new(&budget);
        assert!(!window.crowd(0, STREAM, |_| panic!("it is as usual")));
        budget.take(8);
        let unconfirmed = window.crowd(0, STREAM, |_| false);
        assert!(!unconfirmed, "it is tried again");
        assert!(window.crowd(0, STREAM, |size| size == CROWDED));
        assert!(!window.crowd(0, STREAM, |_| panic!("it is")));
        budget.give(1);
        assert!(!window.crowd(0, STREAM, |_| panic!("there is little room")));
        budget.give(1);
        assert!(window.crowd(0, STREAM, |size| size == STREAM));
        let much = CONNECTION_WINDOW as usize / 2;
        let alone = window.crowd(much, STREAM, |size| size == CROWDED);
        assert!(alone, "much is unread on this one");
    }
}
