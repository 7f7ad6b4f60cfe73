//! The connections of one endpoint.
//!
//! In: connections that are free again, and requests that need one. Out: for HTTP/1.1 the
//! connection that was used last and is surely ready, else room to open one or, whichever comes
//! first, one that is returned; for HTTP/2 a connection with a stream to spare. It refuses to open
//! more than [`OPENINGS`] at once, and to keep a connection that has ended, expired or idled too
//! long.

use std::collections::VecDeque;
use std::hint::cold_path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::Instant;

use super::connection::{Http1, Http2};
use super::gate::{self, Gate, Place, Ticket};
use super::line::Pooled;
use super::rest::Rest;
use crate::error::Reason;
use crate::retry::Reuse;

/// HTTP/2 connections to one endpoint. Above it, streams wait for others to end.
const CONNECTIONS: usize = 16;
/// HTTP/1.1 connections that are opened to one endpoint at once. Where handshakes are what keeps
/// an endpoint busy, more of them only make each take longer, and bring still more.
pub(super) const OPENINGS: usize = 64;

/// The connections of one endpoint.
pub(super) struct Pool {
    h1: Mutex<Idle>,
    /// Room to open HTTP/1.1 connections.
    room: Semaphore,
    pub(super) h2: Mutex<Vec<Arc<Http2>>>,
    /// Held while an HTTP/2 connection is opened, so that a burst opens one.
    pub(super) opening: tokio::sync::Mutex<Opening>,
    /// How many openings have failed.
    pub(super) failed: AtomicUsize,
    idle_max: usize,
    /// Whether the server has answered with more fields than a parser has room for without memory of
    /// its own. Connections that are opened from then on have that.
    many_fields: AtomicBool,
    /// Whether the server speaks HTTP/1.1 where it was offered HTTP/2.
    http1: AtomicBool,
    /// How long the server leaves a connection at rest, as far as it is known.
    rest: Arc<Rest>,
    /// Where its connections are counted, and its number there.
    gate: Arc<Gate>,
    number: Pooled,
}

/// Why the last HTTP/2 connection could not be opened, for the requests that waited for it.
#[derive(Default)]
pub(super) struct Opening(pub(super) Option<(Reason, String)>);

/// Idle HTTP/1.1 connections, and the wait queue for them, in the order of its numbers. While a
/// waiter could use an idle connection, the list is empty.
#[derive(Default)]
struct Idle {
    kept: Vec<Http1>,
    waiting: VecDeque<(u64, oneshot::Sender<Http1>)>,
    next: u64,
}

/// A slot in the wait queue. Dropping it removes the waiter and returns any connection already
/// handed to it.
struct Slot<'p> {
    pool: &'p Arc<Pool>,
    number: u64,
    back: oneshot::Receiver<Http1>,
}

/// What a request in line gets.
pub(super) enum Turn {
    /// A connection that was returned.
    Back(Http1),
    /// Leave to open one.
    Open(Place),
}

/// What a request without an idle connection gets.
pub(super) enum Room<'p> {
    /// Leave to open one, held until it is open.
    Open(Option<SemaphorePermit<'p>>),
    /// A connection that was returned.
    Back(Http1),
}

// === impl Pool ===

impl Pool {
    /// The pool of an endpoint whose connections are counted at a gate.
    pub(super) fn behind(gate: Arc<Gate>, idle_max: usize) -> Arc<Self> {
        let pool = Arc::new(Self::new(gate, idle_max));
        let this = Arc::downgrade(&pool) as Weak<dyn gate::Idle>;
        pool.gate.join(pool.number, this);
        pool
    }

    fn new(gate: Arc<Gate>, idle_max: usize) -> Self {
        Self {
            number: gate.next(),
            gate,
            h1: Mutex::default(),
            room: Semaphore::new(OPENINGS),
            h2: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            failed: AtomicUsize::new(0),
            idle_max,
            many_fields: AtomicBool::new(false),
            http1: AtomicBool::new(false),
            rest: Arc::default(),
        }
    }

    /// Whether connections are to read answers of many fields.
    pub(super) fn many_fields(&self) -> bool {
        self.many_fields.load(Ordering::Relaxed)
    }

    /// An answer had more fields than a connection without room for many takes. The idle ones are let
    /// go, which would fail in the same way. Returns whether it is the first one.
    pub(super) fn reads_many_fields(&self) -> bool {
        let first = !self.many_fields.swap(true, Ordering::Relaxed);
        if first {
            self.lock_h1().kept.clear();
        }
        first
    }

    /// Whether the server is known to speak HTTP/1.1 alone.
    pub(super) fn is_http1(&self) -> bool {
        self.http1.load(Ordering::Relaxed)
    }

    /// The server has answered an offer of HTTP/2 with HTTP/1.1.
    pub(super) fn speaks_http1(&self) {
        self.http1.store(true, Ordering::Relaxed);
    }

    /// What is known of the server's patience.
    pub(super) fn rest(&self) -> &Arc<Rest> {
        &self.rest
    }

    pub(super) fn take_h1(&self, idle: Duration, now: Instant) -> Option<Http1> {
        self.lock_h1().take(idle, now)
    }

    fn lock_h1(&self) -> MutexGuard<'_, Idle> {
        self.h1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn give_h1(self: &Arc<Self>, mut connection: Http1, now: Instant) {
        let over = connection.sender.is_closed()
            || connection.refused.is_set()
            || (self.many_fields() && !connection.many_fields);
        if over || is_past(connection.until, now) {
            cold_path();
            return;
        }
        connection.since = now;
        let mut idle = self.lock_h1();
        if !idle.waiting.is_empty() && !connection.sender.is_ready() {
            cold_path();
            drop(idle);
            return self.give_when_ready(connection);
        }
        while let Some((_, waiting)) = idle.waiting.pop_front() {
            cold_path();
            connection.resting.end();
            match waiting.send(connection) {
                Ok(()) => return,
                Err(back) => connection = back,
            }
        }
        if self.gate.is_waited() {
            cold_path();
            // It is closed, which makes room.
            return;
        }
        connection.resting.begin(now);
        if idle.kept.len() >= self.idle_max && !idle.kept.is_empty() {
            cold_path();
            idle.kept.remove(0);
        }
        if self.idle_max > 0 {
            idle.kept.push(connection);
        }
    }

    /// Returns a connection once its task has seen the end of its last answer.
    fn give_when_ready(self: &Arc<Self>, mut connection: Http1) {
        // Without a runtime no request waits for it any more.
        if let Ok(runtime) = Handle::try_current() {
            let pool = Arc::clone(self);
            runtime.spawn(async move {
                if connection.sender.ready().await.is_ok() {
                    pool.give_h1(connection, Instant::now());
                }
            });
        }
    }

    /// Where its connections are counted, and its number there.
    pub(super) fn gate(&self) -> (&Arc<Gate>, Pooled) {
        (&self.gate, self.number)
    }

    /// Waits in line for room to open a connection or, if reuse is allowed, for one that is returned.
    pub(super) async fn turn(
        self: &Arc<Self>,
        mut ticket: Ticket,
        idle: Duration,
        reuse: Reuse,
    ) -> Option<Turn> {
        if reuse == Reuse::Forbidden {
            return (&mut ticket.room).await.ok().map(Turn::Open);
        }
        let mut slot = match self.queue(idle) {
            Ok(connection) => return Some(Turn::Back(connection)),
            Err(slot) => slot,
        };
        tokio::select! {
            biased;
            Ok(connection) = &mut slot.back => Some(Turn::Back(connection)),
            place = &mut ticket.room => place.ok().map(Turn::Open),
        }
    }

    /// Waits for room to open a connection or, if reuse is allowed, for one that is returned.
    pub(super) async fn room(self: &Arc<Self>, idle: Duration, reuse: Reuse) -> Room<'_> {
        if let Ok(permit) = self.room.try_acquire() {
            return Room::Open(Some(permit));
        }
        if reuse == Reuse::Forbidden {
            return Room::Open(self.room.acquire().await.ok());
        }
        let mut slot = match self.queue(idle) {
            Ok(connection) => return Room::Back(connection),
            Err(slot) => slot,
        };
        tokio::select! {
            biased;
            Ok(connection) = &mut slot.back => Room::Back(connection),
            permit = self.room.acquire() => Room::Open(permit.ok()),
        }
    }

    /// A connection that was returned meanwhile, or a slot in the wait queue.
    fn queue(self: &Arc<Self>, idle: Duration) -> Result<Http1, Slot<'_>> {
        let mut state = self.lock_h1();
        if let Some(connection) = state.take(idle, Instant::now()) {
            return Ok(connection);
        }
        let (sender, back) = oneshot::channel();
        let number = state.next;
        state.next += 1;
        state.waiting.push_back((number, sender));
        let unready = std::mem::take(&mut state.kept);
        drop(state);
        for connection in unready {
            self.give_when_ready(connection);
        }
        Err(Slot {
            pool: self,
            number,
            back,
        })
    }

    /// A connection with a stream to spare or, where no other may be opened, the one with the fewest. One that
    /// has rested for longer than `idle`, where that is said, is let go.
    pub(super) fn take_h2(&self, idle: Option<Duration>, now: Instant) -> Option<Arc<Http2>> {
        self.take_h2_of(CONNECTIONS, idle, now)
    }

    /// Room for a connection of HTTP/2, or one to share.
    pub(super) fn room_h2(
        &self,
        idle: Option<Duration>,
        now: Instant,
    ) -> Result<Place, Arc<Http2>> {
        if let Some(place) = self.gate.ask_shared(self.number) {
            return Ok(place);
        }
        match self.take_h2_of(1, idle, now) {
            Some(shared) => Err(shared),
            None => Ok(self.gate.ask_needed(self.number)),
        }
    }

    fn take_h2_of(&self, most: usize, idle: Option<Duration>, now: Instant) -> Option<Arc<Http2>> {
        let mut known = self.h2.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|c| !c.sender.is_closed() && !is_past(c.until, now));
        if let Some(idle) = idle {
            known.retain(|c| c.rested(now).is_none_or(|rested| rested <= idle));
        }
        let streams = |c: &Arc<Http2>| c.streams.load(Ordering::Relaxed);
        // A connection without streams takes one, whatever its server says.
        let is_free = |c: &&Arc<Http2>| streams(c) == 0 || streams(c) < c.most_streams();
        let free = known.iter().find(is_free);
        let free = match free {
            None if known.len() >= most => known.iter().min_by_key(|c| streams(c))?,
            free => free?,
        };
        free.streams.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(free))
    }
}

impl gate::Idle for Pool {
    fn has_idle(&self) -> bool {
        !self.lock_h1().kept.is_empty()
    }

    fn let_go(&self) -> bool {
        let mut idle = self.lock_h1();
        let longest = (!idle.kept.is_empty()).then(|| idle.kept.remove(0));
        drop(idle);
        longest.is_some()
    }
}

// === impl Idle ===

impl Idle {
    /// The connection that was used last and is ready.
    fn take(&mut self, idle: Duration, now: Instant) -> Option<Http1> {
        let kept = &mut self.kept;
        // Those at the front have rested longest. Finding one too old means that all before it
        // are, so the list is cut once in a while, not searched each time.
        let rested = |c: &Http1| now.saturating_duration_since(c.since);
        if kept.first().is_some_and(|c| rested(c) > idle) {
            cold_path();
            kept.retain(|c| rested(c) <= idle);
        }
        let mut n = kept.len();
        while n > 0 {
            n -= 1;
            let connection = &kept[n];
            if connection.sender.is_closed() || is_past(connection.until, now) {
                cold_path();
                kept.remove(n);
            } else if connection.sender.is_ready() {
                let taken = kept.remove(n);
                taken.resting.end();
                return Some(taken);
            }
            // Not ready: its task has not seen the end of its last answer yet.
        }
        None
    }
}

// === impl Slot ===

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut idle = self.pool.lock_h1();
        if let Ok(at) = idle.waiting.binary_search_by_key(&self.number, |w| w.0) {
            idle.waiting.remove(at);
        }
        drop(idle);
        if let Ok(connection) = self.back.try_recv() {
            self.pool.give_h1(connection, Instant::now());
        }
    }
}

fn is_past(until: Option<Instant>, now: Instant) -> bool {
    until.is_some_and(|until| until <= now)
}

#[cfg(test)]
mod tests {
    use http::Request;
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;
    use tokio_test::{assert_ready, task};

    use super::super::connection::Connection;
    use super::super::driven::Driven;
    use super::*;
    use crate::body::Body;

    const IDLE: Duration = Duration::from_secs(60);

    /// A connection that serves requests, and its other end.
    async fn connection() -> (Http1, tokio::io::DuplexStream) {
        let (near, far) = tokio::io::duplex(1024);
        let (mut sender, connection) = http1::handshake(TokioIo::new(near)).await.expect("made");
        let driven = Driven::new(connection);
        tokio::spawn(driven.run());
        sender.ready().await.expect("ready");
        let made = Connection {
            sender,
            driven,
            peer: None,
            since: Instant::now(),
            until: None,
            live: None,
            refused: Arc::default(),
            resting: Arc::default(),
            many_fields: false,
        };
        (made.into(), far)
    }

    fn pool(idle_max: usize) -> Arc<Pool> {
        Pool::behind(Arc::new(Gate::without_limit()), idle_max)
    }

    /// A pool with no room, and what holds it.
    fn full(pool: &Arc<Pool>) -> Vec<Room<'_>> {
        (0..OPENINGS)
            .map(|_| assert_ready!(task::spawn(pool.room(IDLE, Reuse::Allowed)).poll()))
            .collect()
    }

    #[tokio::test]
    async fn so_many_are_opened_at_once_and_the_next_waits_for_room() {
        let pool = pool(8);
        let mut opening = full(&pool);
        let mut next = task::spawn(pool.room(IDLE, Reuse::Allowed));
        assert!(next.poll().is_pending());
        opening.pop();
        assert!(next.is_woken());
        assert!(matches!(assert_ready!(next.poll()), Room::Open(_)));
    }

    #[tokio::test]
    async fn waiters_get_in_turn_what_is_returned_unless_reuse_is_forbidden() {
        let pool = pool(8);
        let (one, _far) = connection().await;
        let (other, _other_far) = connection().await;
        let held = full(&pool);
        let mut fresh = task::spawn(pool.room(IDLE, Reuse::Forbidden));
        let mut first = task::spawn(pool.room(IDLE, Reuse::Allowed));
        let mut second = task::spawn(pool.room(IDLE, Reuse::Allowed));
        for waiting in [&mut fresh, &mut first, &mut second] {
            assert!(waiting.poll().is_pending());
        }
        pool.give_h1(one, Instant::now());
        assert!(first.is_woken() && !second.is_woken());
        // A request that comes now is behind the waiters.
        assert!(pool.take_h1(IDLE, Instant::now()).is_none());
        let Room::Back(one) = assert_ready!(first.poll()) else {
            panic!("it came back");
        };
        pool.give_h1(other, Instant::now());
        // A waiter that is dropped leaves it to the others.
        drop(second);
        assert!(pool.take_h1(IDLE, Instant::now()).is_some());
        pool.give_h1(one, Instant::now());
        assert!(fresh.poll().is_pending());
        drop(held);
        assert!(matches!(assert_ready!(fresh.poll()), Room::Open(_)));
        assert!(pool.lock_h1().waiting.is_empty());
    }

    /// It serves a request still: it is neither lost nor forgotten.
    #[tokio::test]
    async fn one_that_is_not_ready_is_given_to_a_waiter_when_it_is() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        for kept_before in [true, false] {
            let pool = pool(8);
            let (mut busy, mut far) = connection().await;
            let request = Request::get("/").body(Body::empty()).expect("a request");
            let answer = tokio::spawn(busy.sender.send_request(request));
            let mut head = [0; 18];
            far.read_exact(&mut head).await.expect("a request");
            let _held = full(&pool);
            let mut busy = Some(busy);
            if kept_before {
                pool.give_h1(busy.take().expect("once"), Instant::now());
            }
            let waiting = pool.room(IDLE, Reuse::Allowed);
            let mut waiting = task::spawn(waiting);
            assert!(waiting.poll().is_pending());
            if let Some(busy) = busy {
                pool.give_h1(busy, Instant::now());
            }
            let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            far.write_all(whole).await.expect("read");
            assert!(answer.await.expect("no panic").is_ok());
            assert!(matches!(waiting.await, Room::Back(_)));
        }
    }

    /// Ours is the end of a connection that is taken out of the pool.
    #[tokio::test(start_paused = true)]
    async fn only_the_end_of_a_connection_at_rest_says_something_about_its_server() {
        let pool = pool(1);
        let (one, _far) = connection().await;
        let resting = Arc::clone(&one.resting);
        assert_eq!(resting.rested(Instant::now()), None);
        pool.give_h1(one, Instant::now());
        tokio::time::advance(Duration::from_secs(3)).await;
        let rested = resting.rested(Instant::now());
        assert!(rested.is_some_and(|r| r.as_secs() == 3), "{rested:?}");
        let taken = pool.take_h1(IDLE, Instant::now()).expect("kept");
        assert_eq!(resting.rested(Instant::now()), None);
        pool.give_h1(taken, Instant::now());
        let (other, _far) = connection().await;
        pool.give_h1(other, Instant::now());
        assert_eq!(resting.rested(Instant::now()), None, "it made room");
    }

    #[tokio::test]
    async fn a_pool_that_keeps_none_keeps_none() {
        let pool = pool(0);
        let (one, _far) = connection().await;
        pool.give_h1(one, Instant::now());
        assert!(pool.take_h1(IDLE, Instant::now()).is_none());
    }
}
