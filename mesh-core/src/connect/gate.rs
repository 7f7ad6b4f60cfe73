//! The connections of one local workload to one Service's port: which request may open one.
//!
//! The [`Line`] decides; this counts the sockets that are open, wakes those that wait, and lets idle
//! connections of other endpoints go while a request waits for room.
//!
//! Where servers are sent PROXY headers there is a pool for each caller, of which there may be thousands. So
//! none is looked at each time: those that are gone are swept out once they may be half of all, and while
//! requests wait a search for an idle connection begins where the last one has ended, since none is kept
//! idle meanwhile.
//!
//! No wake-up is lost: a request is in line before it looks for an idle connection, and a connection that
//! comes back asks [`is_waited`](Gate::is_waited) under the lock under which idle ones are looked for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::oneshot;

use super::by_local::ByLocal;
use super::line::{self, Bounds, Line, Pooled};
use crate::balance::{EndpointSet, PortState};
use crate::error::{Error, Reason};
use crate::local::Local;
use crate::retry::Reuse;

/// The fewest pools among which those that are gone are looked for.
const SWEEP: usize = 16;

/// Where the connections of a local workload to a port are counted.
pub(crate) struct Gate {
    port: Weak<PortState>,
    state: Mutex<State>,
    /// Whether a request waits.
    waited: AtomicBool,
    /// Requests and connections that were refused.
    overflows: AtomicU64,
}

/// The idle connections of an endpoint.
pub(super) trait Idle: Send + Sync {
    /// Whether there are any.
    fn has_idle(&self) -> bool;
    /// Closes one; says whether there was any.
    fn let_go(&self) -> bool;
}

#[derive(Default)]
struct State {
    line: Line<oneshot::Sender<Place>>,
    /// By their numbers, which grow.
    pools: BTreeMap<Pooled, Weak<dyn Idle>>,
    next: Pooled,
    /// How many pools there are when those that are gone are next swept out.
    sweep: usize,
    /// The pools below have no idle connection since a request waits.
    searched: Pooled,
    /// Whether no pool has had one.
    barren: bool,
    /// How many pools were looked at.
    #[cfg(test)]
    looked: usize,
}

/// A connection that is counted, as long as this is held: by its socket.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Arc<Gate>,
    pool: Pooled,
}

/// What becomes of a request for a connection.
pub(super) enum Asked {
    Open(Place),
    /// As many wait already.
    Overflow,
    Wait(Ticket),
}

/// A place in line. Dropping it leaves the line, and passes on the place of a connection that was given.
pub(super) struct Ticket {
    gate: Arc<Gate>,
    number: u64,
    pub(super) room: oneshot::Receiver<Place>,
}

/// The connections of a local workload to a port, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) open: u32,
    pub(crate) pending: usize,
    pub(crate) overflows: u64,
}

// === impl Gate ===

impl Gate {
    /// That of a local workload and a port.
    pub(super) fn of(port: &Arc<PortState>, local: &Arc<Local>) -> Arc<Self> {
        let make = || {
            Arc::new(Self {
                port: Arc::downgrade(port),
                ..Self::without_limit()
            })
        };
        // No other type is ever put into the slot; if one were, each endpoint would be counted alone.
        match port.slot(ByLocal::<Self>::default) {
            Some(all) => all.get_or_insert(local, make),
            None => make(),
        }
    }

    pub(super) fn without_limit() -> Self {
        Self {
            port: Weak::new(),
            state: Mutex::default(),
            waited: AtomicBool::new(false),
            overflows: AtomicU64::new(0),
        }
    }

    /// Lets go of that of a local workload.
    pub(super) fn forget(port: &PortState, local: &Arc<Local>) {
        if let Some(all) = port.kept::<ByLocal<Self>>() {
            all.forget(local);
        }
    }

    /// What is counted for each local workload that has had connections to the endpoints of a set.
    pub(crate) fn counts(set: &EndpointSet) -> Vec<(Arc<Local>, Counted)> {
        let all = set.port().kept::<ByLocal<Self>>();
        let all = all.map(ByLocal::all).unwrap_or_default();
        let counted = all.into_iter().map(|(local, gate)| (local, gate.counted()));
        counted.collect()
    }

    fn counted(&self) -> Counted {
        let state = self.lock();
        Counted {
            open: state.line.open(),
            pending: state.line.pending(),
            overflows: self.overflows.load(Ordering::Relaxed),
        }
    }

    /// The number of a pool that is new.
    pub(super) fn next(&self) -> Pooled {
        let mut state = self.lock();
        state.next += 1;
        state.next
    }

    /// A pool is there.
    pub(super) fn join(&self, number: Pooled, pool: Weak<dyn Idle>) {
        let mut state = self.lock();
        state.join(number, pool);
    }

    /// Whether a request waits for room, so that no connection is kept idle. Asked under the lock of the
    /// idle ones.
    pub(super) fn is_waited(&self) -> bool {
        self.waited.load(Ordering::Relaxed)
    }

    /// A request of HTTP/1.1 for an endpoint that has no idle connection for it.
    pub(super) fn ask(self: &Arc<Self>, pool: Pooled, reuse: Reuse) -> Asked {
        let bounds = self.bounds();
        let mut state = self.settled(bounds);
        let (sender, room) = oneshot::channel();
        match state.line.handle_request(pool, || sender, bounds) {
            line::Asked::Open => Asked::Open(self.place(pool)),
            line::Asked::Overflow => {
                self.overflows.fetch_add(1, Ordering::Relaxed);
                Asked::Overflow
            }
            line::Asked::Wait(number) => {
                self.waited.store(true, Ordering::Relaxed);
                if !state.barren {
                    state.let_go(pool, reuse);
                }
                Asked::Wait(Ticket {
                    gate: Arc::clone(self),
                    number,
                    room,
                })
            }
        }
    }

    /// A connection of HTTP/2, for which nothing waits: at the limit, others are shared.
    pub(super) fn ask_shared(self: &Arc<Self>, pool: Pooled) -> Option<Place> {
        let bounds = self.bounds();
        let mut state = self.settled(bounds);
        let opens = state.line.handle_extra(pool, false, bounds);
        opens.then(|| self.place(pool))
    }

    /// A connection of HTTP/2 to an endpoint that has none to share: it is opened, also above the limit.
    pub(super) fn ask_needed(self: &Arc<Self>, pool: Pooled) -> Place {
        let bounds = self.bounds();
        self.settled(bounds).line.handle_extra(pool, true, bounds);
        self.place(pool)
    }

    /// A connection of opaque bytes, which is refused at the limit.
    pub(super) fn ask_opaque(self: &Arc<Self>, pool: Pooled) -> Result<Place, Error> {
        self.ask_shared(pool).ok_or_else(|| {
            self.overflows.fetch_add(1, Ordering::Relaxed);
            self.overflowed()
        })
    }

    /// Why a request or connection is refused.
    pub(super) fn overflowed(&self) -> Error {
        let Bounds {
            connections,
            pending,
        } = self.bounds();
        let detail = format!(
            "{connections} connections are open to the endpoints, as many as may be, and {pending} requests \
             may wait for one"
        );
        Error::new(Reason::ConnectionOverflow, detail)
    }

    fn bounds(&self) -> Bounds {
        let limits = self.port.upgrade().map(|port| port.limits());
        let (connections, pending) = limits.unwrap_or((u32::MAX, u32::MAX));
        Bounds {
            connections,
            pending,
        }
    }

    fn place(self: &Arc<Self>, pool: Pooled) -> Place {
        Place {
            gate: Arc::clone(self),
            pool,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state once all have what they are due, also where the limits have changed.
    fn settled(self: &Arc<Self>, bounds: Bounds) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while let Some((pool, waiter)) = state.line.poll_room(bounds) {
            // Its task may have left meanwhile: the place is then passed on, without the lock.
            if let Err(place) = waiter.send(self.place(pool)) {
                drop(state);
                drop(place);
                state = self.lock();
            }
        }
        if state.line.pending() == 0 {
            (state.barren, state.searched) = (false, 0);
            self.waited.store(false, Ordering::Relaxed);
        }
        state
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let waited = self.is_waited();
        f.debug_struct("Gate")
            .field("waited", &waited)
            .finish_non_exhaustive()
    }
}

// === impl State ===

impl State {
    /// A pool is there.
    fn join(&mut self, number: Pooled, pool: Weak<dyn Idle>) {
        if self.pools.len() >= self.sweep {
            self.look(self.pools.len());
            self.pools.retain(|_, pool| pool.strong_count() > 0);
            self.sweep = (2 * self.pools.len()).max(SWEEP);
        }
        self.pools.insert(number, pool);
    }

    /// Lets one idle connection go, so that a request for an endpoint may open one.
    fn let_go(&mut self, pool: Pooled, reuse: Reuse) {
        let own = self.pools.get(&pool).and_then(Weak::upgrade);
        let keeps = own.as_ref().is_some_and(|own| own.has_idle());
        let mut looked = 0;
        let mut others = self.pools.range(self.searched..);
        let found = others.find(|(number, other)| {
            looked += 1;
            let other = other.upgrade().filter(|_| **number != pool);
            other.is_some_and(|other| other.let_go())
        });
        let found = found.map(|(number, _)| *number);
        self.look(looked);
        // The one that was found may have more, and the request's own was passed over.
        let end = found.unwrap_or_else(|| self.next.saturating_add(1));
        self.searched = match keeps {
            true => end.min(self.searched.max(pool)),
            false => end,
        };
        if found.is_some() {
            return;
        }
        let found = match reuse {
            // It is taken at once.
            Reuse::Allowed => keeps,
            Reuse::Forbidden => own.is_some_and(|own| own.let_go()),
        };
        self.barren = !found;
    }

    /// Counts pools that are looked at, for tests.
    fn look(&mut self, _pools: usize) {
        #[cfg(test)]
        {
            self.looked += _pools;
        }
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.lock().line.handle_close(self.pool);
        drop(self.gate.settled(self.gate.bounds()));
    }
}

// === impl Ticket ===

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.lock().line.handle_cancel(self.number);
        drop(self.gate.settled(self.gate.bounds()));
        // A place that was given meanwhile is dropped with the receiver, and passed on.
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_ready, task};

    use super::*;
    use crate::balance::{Choice, RequestLimits, pick};
    use crate::model::{Draw, Endpoint, Transport};

    /// Idle connections that can be let go of.
    struct Rests(AtomicU64);

    impl Idle for Rests {
        fn has_idle(&self) -> bool {
            self.0.load(Ordering::Relaxed) > 0
        }

        fn let_go(&self) -> bool {
            let less = |n: u64| n.checked_sub(1);
            let relaxed = Ordering::Relaxed;
            self.0.fetch_update(relaxed, relaxed, less).is_ok()
        }
    }

    /// A gate with these limits, and what keeps them.
    fn gate(connections: u32, pending: u32) -> (Arc<Gate>, Arc<EndpointSet>) {
        let limits = RequestLimits::default().with_connections(connections, pending);
        let endpoint = Endpoint::new(([10, 0, 0, 1], 80).into(), Transport::Plain);
        let set = EndpointSet::build([endpoint], None).with_limits(limits.unwrap());
        let set = Arc::new(set);
        let now = std::time::Duration::ZERO;
        let picked = pick(&set, Choice::Random, now, &[], &mut Draw::new(1)).unwrap();
        let port = Arc::clone(picked.member().state.port());
        let gate = Gate {
            port: Arc::downgrade(&port),
            ..Gate::without_limit()
        };
        (Arc::new(gate), set)
    }

    fn opened(asked: Asked) -> Place {
        match asked {
            Asked::Open(place) => place,
            _ => panic!("no room"),
        }
    }

    fn waits(asked: Asked) -> Ticket {
        match asked {
            Asked::Wait(ticket) => ticket,
            _ => panic!("it does not wait"),
        }
    }

    #[test]
    fn a_place_is_passed_on_in_turn_whatever_becomes_of_those_that_wait() {
        let (gate, _set) = gate(1, 3);
        let ask = || gate.ask(1, Reuse::Allowed);
        let first = opened(ask());
        let [gone, mut second, mut third] = [ask(), ask(), ask()].map(waits);
        assert!(matches!(ask(), Asked::Overflow) && gate.is_waited());
        drop(gone);
        drop(first);
        let place = assert_ready!(task::spawn(&mut second.room).poll()).unwrap();
        assert!(third.room.try_recv().is_err());
        drop(place);
        // It was given to one that leaves without looking.
        let fourth = waits(ask());
        assert!(gate.ask_opaque(1).is_err());
        drop(third);
        drop(fourth);
        assert!(!gate.is_waited());
        let counted = gate.counted();
        assert_eq!(
            (counted.open, counted.pending, counted.overflows),
            (0, 0, 2)
        );
        drop(gate.ask_opaque(1).unwrap());
    }

    #[test]
    fn idle_connections_make_room_for_another_endpoint() {
        let (gate, _set) = gate(3, 9);
        let pools = [2, 0].map(|n| Arc::new(Rests(AtomicU64::new(n))));
        let numbers = pools.each_ref().map(|pool| {
            let number = gate.next();
            gate.join(number, Arc::downgrade(pool) as Weak<dyn Idle>);
            number
        });
        let mut rested: Vec<_> = (0..2)
            .map(|_| opened(gate.ask(numbers[0], Reuse::Allowed)))
            .collect();
        let _busy = opened(gate.ask(numbers[1], Reuse::Allowed));
        let mut ticket = waits(gate.ask(numbers[1], Reuse::Allowed));
        assert_eq!(pools[0].0.load(Ordering::Relaxed), 1);
        // The connection that was let go has closed.
        rested.pop();
        let _place = ticket.room.try_recv().unwrap();
        drop(ticket);
        // One that may use no idle connection has its own endpoint's closed.
        pools[0].0.store(0, Ordering::Relaxed);
        pools[1].0.store(1, Ordering::Relaxed);
        let _allowed = waits(gate.ask(numbers[1], Reuse::Allowed));
        assert!(pools[1].has_idle());
        let _fresh = waits(gate.ask(numbers[1], Reuse::Forbidden));
        assert!(!pools[1].has_idle());
    }

    /// As where each caller has a pool of its own.
    fn joined(gate: &Gate, idle: u64) -> (Pooled, Arc<Rests>) {
        let (number, pool) = (gate.next(), Arc::new(Rests(AtomicU64::new(idle))));
        gate.join(number, Arc::downgrade(&pool) as Weak<dyn Idle>);
        (number, pool)
    }

    #[test]
    fn pools_that_come_and_go_cost_their_number_and_leave_nothing() {
        const MANY: usize = 10_000;
        let (gate, _set) = gate(1, 1);
        let looked = || gate.lock().looked;
        let pools: Vec<_> = (0..MANY).map(|_| joined(&gate, 0)).collect();
        assert!(looked() <= 2 * MANY, "{}", looked());
        assert_eq!(gate.lock().pools.len(), MANY, "all are there");
        drop(pools);
        // Each goes before the next comes.
        let before = looked();
        for _ in 0..4 * MANY {
            joined(&gate, 0);
        }
        assert!(looked() - before <= 8 * MANY, "{}", looked() - before);
        assert!(gate.lock().pools.len() <= SWEEP);
    }

    #[test]
    fn requests_that_wait_look_at_each_pool_once() {
        const MANY: usize = 1_000;
        let (gate, _set) = gate(1, u32::MAX);
        let own = joined(&gate, 0).0;
        let pools: Vec<_> = (0..MANY).map(|_| joined(&gate, 0)).collect();
        let busy = opened(gate.ask(own, Reuse::Allowed));
        // The last three have two each.
        let rests: Vec<_> = pools[MANY - 3..].iter().map(|(_, pool)| pool).collect();
        for pool in &rests {
            pool.0.store(2, Ordering::Relaxed);
        }
        let before = gate.lock().looked;
        let left = || rests.iter().map(|pool| pool.0.load(Ordering::Relaxed));
        let mut tickets = Vec::new();
        for wanted in (0..6).rev() {
            tickets.push(waits(gate.ask(own, Reuse::Allowed)));
            assert_eq!(left().sum::<u64>(), wanted);
        }
        for _ in 0..MANY {
            tickets.push(waits(gate.ask(own, Reuse::Allowed)));
        }
        let looked = gate.lock().looked - before;
        assert!(looked <= MANY + 10, "{looked}");
        // Once none waits it begins anew.
        drop(tickets);
        pools[0].1.0.store(1, Ordering::Relaxed);
        let _ticket = waits(gate.ask(own, Reuse::Allowed));
        assert!(!pools[0].1.has_idle());
        drop(busy);
    }

    /// What is passed over since it is the request's own is found by the next of another.
    #[test]
    fn the_idle_connection_of_one_pool_is_let_go_for_another() {
        let (gate, _set) = gate(2, 9);
        let [one, two] = [joined(&gate, 1), joined(&gate, 0)];
        let _busy = [one.0, two.0].map(|pool| opened(gate.ask(pool, Reuse::Allowed)));
        let _first = waits(gate.ask(one.0, Reuse::Allowed));
        assert!(one.1.has_idle(), "it takes its own");
        let _second = waits(gate.ask(two.0, Reuse::Allowed));
        assert!(!one.1.has_idle());
    }
}
