//! Which request is the next that may open a connection, of those to one Service's port; pure.
//!
//! 1. A connection may be opened while there are fewer than the limit. Beyond it, an endpoint that has
//!    none gets one all the same, as in Envoy: what its requests wait for would else never come.
//! 2. Other requests wait in line, up to a number; those above it are refused.
//! 3. A connection that closes makes room for the first in line or, where it was the last of its endpoint,
//!    for the first that waits for this endpoint.
//!
//! A request also leaves the line when a connection of its endpoint comes back, which the
//! [pool](super::pool) hands out.

use std::collections::{HashMap, VecDeque};

/// The connections to one Service's port, and what waits for room to open one, each with a `W` to let it
/// know.
#[derive(Debug)]
pub(super) struct Line<W> {
    open: u32,
    /// The connections of each endpoint that has any.
    each: HashMap<Pooled, u32>,
    waiting: VecDeque<Waiting<W>>,
    next: u64,
    /// An endpoint whose last connection has just closed.
    bare: Option<Pooled>,
}

/// The pool of an endpoint.
pub(super) type Pooled = u64;

/// The limits: connections, and requests that wait for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) connections: u32,
    pub(super) pending: u32,
}

/// What becomes of a request for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Asked {
    /// It opens one, which is counted.
    Open,
    /// Too many wait already.
    Overflow,
    /// It waits, under this number.
    Wait(u64),
}

#[derive(Debug)]
struct Waiting<W> {
    number: u64,
    pool: Pooled,
    waiter: W,
}

// === impl Line ===

impl<W> Line<W> {
    /// A request for an endpoint without an idle connection.
    pub(super) fn handle_request(
        &mut self,
        pool: Pooled,
        waiter: impl FnOnce() -> W,
        bounds: Bounds,
    ) -> Asked {
        let room = self.open < bounds.connections && self.waiting.is_empty();
        if room || !self.each.contains_key(&pool) {
            self.opens(pool);
            return Asked::Open;
        }
        if self.pending() >= bounds.pending as usize {
            return Asked::Overflow;
        }
        let number = self.next;
        self.next += 1;
        self.waiting.push_back(Waiting {
            number,
            pool,
            waiter: waiter(),
        });
        Asked::Wait(number)
    }

    /// A connection that nothing waits for; `needed` if nothing can be done without it. Returns whether it
    /// may be opened.
    pub(super) fn handle_extra(&mut self, pool: Pooled, needed: bool, bounds: Bounds) -> bool {
        let room = self.open < bounds.connections && self.waiting.is_empty();
        if room || needed {
            self.opens(pool);
        }
        room || needed
    }

    /// A connection has closed, or could not be opened.
    pub(super) fn handle_close(&mut self, pool: Pooled) {
        self.open = self.open.saturating_sub(1);
        if let Some(open) = self.each.get_mut(&pool) {
            *open -= 1;
            if *open == 0 {
                self.each.remove(&pool);
                self.bare = Some(pool);
            }
        }
    }

    /// A request has left the line. Returns whether it was in it.
    pub(super) fn handle_cancel(&mut self, number: u64) -> bool {
        let at = self.waiting.binary_search_by_key(&number, |w| w.number);
        at.is_ok_and(|at| self.waiting.remove(at).is_some())
    }

    /// The next that may open a connection, which is counted; asked until there is none after each event.
    pub(super) fn poll_room(&mut self, bounds: Bounds) -> Option<(Pooled, W)> {
        let bare = self.bare.take();
        let at = match bare {
            Some(bare) => self.waiting.iter().position(|w| w.pool == bare),
            None => None,
        };
        let at = at.or_else(|| (self.open < bounds.connections).then_some(0))?;
        let first = self.waiting.remove(at)?;
        self.opens(first.pool);
        Some((first.pool, first.waiter))
    }

    /// How many connections are open.
    pub(super) fn open(&self) -> u32 {
        self.open
    }

    /// How many requests wait.
    pub(super) fn pending(&self) -> usize {
        self.waiting.len()
    }

    fn opens(&mut self, pool: Pooled) {
        self.open += 1;
        *self.each.entry(pool).or_default() += 1;
    }
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        Self {
            open: 0,
            each: HashMap::new(),
            waiting: VecDeque::new(),
            next: 0,
            bare: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bounds(connections: u32, pending: u32) -> Bounds {
        Bounds {
            connections,
            pending,
        }
    }

    fn ask(line: &mut Line<u64>, pool: Pooled, of: Bounds) -> Asked {
        line.handle_request(pool, || 0, of)
    }

    #[test]
    fn requests_open_then_wait_in_turn_then_are_refused() {
        let (mut line, of) = (Line::default(), bounds(2, 2));
        assert_eq!(ask(&mut line, 1, of), Asked::Open);
        assert_eq!(ask(&mut line, 1, of), Asked::Open);
        assert_eq!(ask(&mut line, 1, of), Asked::Wait(0));
        assert_eq!(ask(&mut line, 1, of), Asked::Wait(1));
        assert_eq!(ask(&mut line, 1, of), Asked::Overflow);
        // An endpoint without a connection gets one.
        assert_eq!(ask(&mut line, 2, of), Asked::Open);
        assert_eq!(ask(&mut line, 2, of), Asked::Overflow);
        assert_eq!((line.open(), line.pending()), (3, 2));
        // It was above the limit.
        line.handle_close(2);
        assert_eq!(line.poll_room(of), None);
        line.handle_close(1);
        assert_eq!(line.poll_room(of), Some((1, 0)));
        assert_eq!(line.poll_room(of), None);
        assert!(line.handle_cancel(1) && !line.handle_cancel(1) && !line.handle_cancel(0));
        assert_eq!(line.pending(), 0);
    }

    #[test]
    fn the_last_connection_of_an_endpoint_makes_room_for_those_that_wait_for_it() {
        let (mut line, of) = (Line::default(), bounds(1, 9));
        assert_eq!(line.handle_request(1, || 10, of), Asked::Open);
        assert_eq!(line.handle_request(2, || 20, of), Asked::Open);
        assert_eq!(line.handle_request(1, || 11, of), Asked::Wait(0));
        assert_eq!(line.handle_request(2, || 21, of), Asked::Wait(1));
        line.handle_close(2);
        assert_eq!(line.poll_room(of), Some((2, 21)));
        assert_eq!(line.poll_room(of), None);
        assert!(!line.handle_extra(3, false, of) && line.handle_extra(3, true, of));
        // A limit that is raised lets in those that wait, before those that come.
        let more = bounds(9, 9);
        assert!(!line.handle_extra(3, false, more));
        assert_eq!(line.poll_room(more), Some((1, 11)));
        assert!(line.handle_extra(3, false, more));
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Ask(u8),
        Extra(u8, bool),
        /// One of the open connections closes.
        Close(usize),
        /// One that waits gives up, or gets a connection that came back.
        Leave(usize),
        Limit(u8),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => (0..4_u8).prop_map(Event::Ask),
            1 => (0..4_u8, any::<bool>()).prop_map(|(pool, needed)| Event::Extra(pool, needed)),
            4 => any::<usize>().prop_map(Event::Close),
            2 => any::<usize>().prop_map(Event::Leave),
            1 => (1..5_u8).prop_map(Event::Limit),
        ]
    }

    proptest! {
        /// Whatever happens: while there is room nothing waits; what waits for an endpoint has a connection
        /// of it to wait for; of one endpoint's requests the first is served first; no more wait than may;
        /// nothing is lost, and once all has closed, nothing waits.
        #[test]
        fn no_request_waits_for_what_never_comes(
            events in proptest::collection::vec(event(), 0..200), pending in 1..6_u32,
        ) {
            let mut of = bounds(2, pending);
            let mut line = Line::default();
            let (mut open, mut waiting, mut serial) = (Vec::<u64>::new(), Vec::<(u64, u64, u64)>::new(), 0);
            let drained = (0..400).map(|_| Event::Close(0));
            for event in events.into_iter().chain(drained) {
                match event {
                    Event::Ask(pool) => {
                        serial += 1;
                        let pool = u64::from(pool);
                        match line.handle_request(pool, || serial, of) {
                            Asked::Open => {
                                prop_assert!(
                                    !open.contains(&pool) || (open.len() as u32) < of.connections
                                );
                                open.push(pool);
                            }
                            Asked::Overflow => prop_assert_eq!(waiting.len() as u32, pending),
                            Asked::Wait(number) => waiting.push((number, pool, serial)),
                        }
                    }
                    Event::Extra(pool, needed) => {
                        if line.handle_extra(pool.into(), needed, of) {
                            open.push(pool.into());
                        }
                    }
                    Event::Close(nth) if !open.is_empty() => {
                        line.handle_close(open.remove(nth % open.len()));
                    }
                    Event::Leave(nth) if !waiting.is_empty() => {
                        let (number, ..) = waiting.remove(nth % waiting.len());
                        prop_assert!(line.handle_cancel(number));
                    }
                    Event::Limit(most) => of.connections = most.into(),
                    Event::Close(_) | Event::Leave(_) => {}
                }
                while let Some((pool, serial)) = line.poll_room(of) {
                    let first = waiting.iter().position(|w| w.1 == pool);
                    let Some(first) = first else {
                        return Err(TestCaseError::fail("it does not wait"));
                    };
                    prop_assert_eq!(waiting.remove(first).2, serial);
                    open.push(pool);
                }
                prop_assert_eq!((line.open() as usize, line.pending()), (open.len(), waiting.len()));
                prop_assert!(waiting.is_empty() || open.len() as u32 >= of.connections);
                prop_assert!(waiting.iter().all(|w| open.contains(&w.1)));
                prop_assert!(waiting.len() as u32 <= pending);
            }
            prop_assert!(open.is_empty() && waiting.is_empty());
        }
    }
}
