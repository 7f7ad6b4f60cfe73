//! HTTP to an endpoint over pooled connections.
//!
//! An idle HTTP/1.1 connection is taken last in, first out, if it is surely ready; a request that
//! meets one just closed comes back unsent. Only so many are opened to an endpoint at once: a
//! request that finds no room waits for one, or for a connection that comes back. An HTTP/2
//! connection is shared by up to a hundred streams; then another is opened.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use inmesh_pki::id::SpiffeId;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::unsent::{Unsent, again};
use super::{Connector, Io, tcp};
use crate::body::Body;
use crate::error::{Error, Reason};
use crate::identify::{ALPN_H1, ALPN_H2, Entry};
use crate::model::{Member, Transport};
use crate::telemetry::Series;

/// Streams on one HTTP/2 connection before another is opened.
const STREAMS: usize = 100;
/// Flow-control windows between mesh peers, so that one stream can fill a fast network.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// How long before the end of a certificate a connection is no longer used, at most.
const MARGIN: Duration = Duration::from_secs(5);
/// The last share of its life in which a connection is let go, each at another moment: all that
/// were opened with one certificate would else be opened anew together.
const SPREAD: f64 = 0.25;
/// HTTP/1.1 connections that are opened to one endpoint at once. Where handshakes are what keeps
/// an endpoint busy, more of them only make each take longer, and bring still more.
const OPENINGS: usize = 64;
/// How often an HTTP/2 connection with requests on it is asked whether it lives.
const PING: Duration = Duration::from_secs(10);

/// What is kept with an endpoint for as long as it is known: its connections, and the handles of
/// its metrics.
pub(crate) struct Kept {
    pool: Arc<Pool>,
    pub(crate) series: OnceLock<Arc<Series>>,
}

/// The connections of one endpoint.
pub(crate) struct Pool {
    h1: Mutex<Vec<Http1>>,
    /// Room to open HTTP/1.1 connections, how many requests wait for it, and what tells them that
    /// a connection came back.
    room: Semaphore,
    waiting: AtomicUsize,
    back: Notify,
    h2: Mutex<Vec<Arc<Http2>>>,
    /// Held while an HTTP/2 connection is opened, so that a burst opens one.
    opening: tokio::sync::Mutex<Opening>,
    /// How many openings have failed.
    failed: AtomicUsize,
    idle_max: usize,
}

/// Why the last HTTP/2 connection could not be opened, for those who waited for it.
#[derive(Default)]
struct Opening(Option<(Reason, String)>);

/// What a request that found no idle connection has waited for.
enum Room<'p> {
    /// It may open one, and holds this until it has.
    Open(Option<SemaphorePermit<'p>>),
    /// One came back.
    Back(Http1),
}

struct Http1 {
    sender: http1::SendRequest<Body>,
    peer: Option<SpiffeId>,
    /// When it was last used, and when it may no longer be.
    since: Instant,
    until: Option<Instant>,
    live: Option<Arc<Entry>>,
}

struct Http2 {
    sender: http2::SendRequest<Body>,
    peer: Option<SpiffeId>,
    streams: AtomicUsize,
    until: Option<Instant>,
}

/// What an exchange holds of its connection until the answer is whole.
pub(crate) struct Lease(Held);

enum Held {
    Http1(Arc<Pool>, Option<Http1>),
    Http2(Arc<Http2>),
}

/// A request that was answered.
pub(crate) struct Sent {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
    pub(crate) peer: Option<SpiffeId>,
}

// === impl Kept ===

impl Kept {
    /// What is kept with an endpoint; `None` if something else took its place, which nothing does.
    pub(crate) fn of(member: &Member, idle_max: usize) -> Option<&Self> {
        member.state.slot(|| Self {
            pool: Arc::new(Pool::new(idle_max)),
            series: OnceLock::new(),
        })
    }
}

// === impl Connector ===

impl Connector {
    /// Sends a request to an endpoint and waits for the head of the answer. The request is taken
    /// out of its place, and put back where it may be sent again. A `fresh` HTTP/1.1 request is
    /// not risked on a connection that has rested.
    pub(crate) async fn send(
        &self,
        member: &Member,
        request: &mut Request<Body>,
        http2: bool,
        fresh: bool,
        now: Instant,
    ) -> Result<Sent, Unsent> {
        let Some(kept) = Kept::of(member, self.idle_max) else {
            let error = Error::new(
                Reason::ConnectFailed,
                "the endpoint keeps other connections",
            );
            return Err(Unsent::before(error));
        };
        let pool = &kept.pool;
        if http2 {
            self.send_h2(pool, member, request, now).await
        } else {
            self.send_h1(pool, member, request, fresh, now).await
        }
    }

    async fn send_h1(
        &self,
        pool: &Arc<Pool>,
        member: &Member,
        request: &mut Request<Body>,
        fresh: bool,
        now: Instant,
    ) -> Result<Sent, Unsent> {
        let pooled = if fresh {
            None
        } else {
            pool.take_h1(self.idle, now)
        };
        let (mut connection, reused) = match pooled {
            Some(connection) => (connection, true),
            None => match Box::pin(self.another_h1(pool, member, fresh)).await {
                Ok(other) => other,
                Err(error) => return Err(Unsent::before(error)),
            },
        };
        let again = if reused { again(request, false) } else { None };
        let taken = std::mem::take(request);
        match connection.sender.try_send_request(taken).await {
            Ok(response) => Ok(Sent {
                response,
                peer: connection.peer.clone(),
                lease: Lease(Held::Http1(pool.clone(), Some(connection))),
            }),
            Err(e) => Err(Unsent::after(e, member, reused, again, request)),
        }
    }

    async fn send_h2(
        &self,
        pool: &Arc<Pool>,
        member: &Member,
        request: &mut Request<Body>,
        now: Instant,
    ) -> Result<Sent, Unsent> {
        let (connection, reused) = match pool.take_h2(now) {
            Some(connection) => (connection, true),
            None => match Box::pin(self.shared_h2(pool, member)).await {
                Ok(connection) => (connection, false),
                Err(error) => return Err(Unsent::before(error)),
            },
        };
        // From here the lease counts the stream, also if the future is dropped.
        let peer = connection.peer.clone();
        let mut sender = connection.sender.clone();
        let lease = Lease(Held::Http2(connection));
        let again = again(request, true);
        let taken = std::mem::take(request);
        match sender.try_send_request(taken).await {
            Ok(response) => Ok(Sent {
                response,
                lease,
                peer,
            }),
            Err(e) => Err(Unsent::after(e, member, reused, again, request)),
        }
    }

    /// A new HTTP/2 connection, or the one that somebody else has opened meanwhile. Where that
    /// failed, it has failed for all who waited: they do not try one after the other.
    async fn shared_h2(&self, pool: &Pool, member: &Member) -> Result<Arc<Http2>, Error> {
        let failed = pool.failed.load(Ordering::Relaxed);
        let mut opening = pool.opening.lock().await;
        if let Some(connection) = pool.take_h2(Instant::now()) {
            return Ok(connection);
        }
        if pool.failed.load(Ordering::Relaxed) != failed
            && let Some((reason, detail)) = &opening.0
        {
            return Err(Error::new(*reason, detail.clone()));
        }
        let opened = self.open_h2(pool, member).await;
        if let Err(error) = &opened {
            opening.0 = Some((error.reason(), error.detail().to_owned()));
            pool.failed.fetch_add(1, Ordering::Relaxed);
        }
        opened
    }

    /// A new HTTP/1.1 connection, or one that came back before there was room to open it; and
    /// whether it has been used before.
    async fn another_h1(
        &self,
        pool: &Pool,
        member: &Member,
        fresh: bool,
    ) -> Result<(Http1, bool), Error> {
        let limit = self.connect_timeout;
        let room = timeout(limit, pool.room(self.idle, fresh)).await;
        match room {
            Ok(Room::Back(connection)) => Ok((connection, true)),
            Ok(Room::Open(_held)) => Ok((self.open_h1(member).await?, false)),
            Err(_) => {
                let address = member.endpoint.address();
                let detail = format!(
                    "{OPENINGS} connections to {address} are being opened, and none came free \
                     within {limit:?}"
                );
                Err(Error::new(Reason::ConnectTimeout, detail))
            }
        }
    }

    async fn open_h1(&self, member: &Member) -> Result<Http1, Error> {
        let (io, peer, until) = self.open(member, ALPN_H1).await?;
        let live = io.live();
        // hyper's own limit of 100 fields in an answer; for another it allocates at each of them.
        let (sender, connection) = http1::handshake(TokioIo::new(io))
            .await
            .map_err(|e| refused(member, e))?;
        tokio::spawn(async move {
            if let Err(e) = connection.with_upgrades().await {
                tracing::debug!(error = %e, "a connection to an endpoint ended");
            }
        });
        Ok(Http1 {
            sender,
            peer,
            since: Instant::now(),
            until,
            live,
        })
    }

    async fn open_h2(&self, pool: &Pool, member: &Member) -> Result<Arc<Http2>, Error> {
        let (io, peer, until) = self.open(member, ALPN_H2).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .max_header_list_size(256 * 1024);
        if matches!(member.endpoint.transport, Transport::Mesh { .. }) {
            builder
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_frame_size(1 << 20);
        }
        let (sender, connection) = builder
            .handshake(TokioIo::new(io))
            .await
            .map_err(|e| refused(member, e))?;
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "a connection to an endpoint ended");
            }
        });
        let opened = Arc::new(Http2 {
            sender,
            peer,
            streams: AtomicUsize::new(1),
            until,
        });
        let mut known = pool.h2.lock().unwrap_or_else(PoisonError::into_inner);
        known.push(opened.clone());
        Ok(opened)
    }

    /// Opens a connection for an inner protocol, and says until when it may be used: shortly
    /// before the first of both certificates ends.
    pub(crate) async fn open(
        &self,
        member: &Member,
        alpn: &'static [u8],
    ) -> Result<(Io, Option<SpiffeId>, Option<Instant>), Error> {
        let endpoint = &member.endpoint;
        let stream = tcp::connect(&endpoint.addresses, self.connect_timeout).await?;
        let limit = self.handshake_timeout;
        let late = || {
            let detail = format!(
                "no TLS handshake with {} within {limit:?}",
                endpoint.address()
            );
            Error::new(Reason::ConnectTimeout, detail)
        };
        match &endpoint.transport {
            Transport::Plain => Ok((Io::Plain(stream), None, None)),
            Transport::Mesh { ids } => {
                let connected = timeout(limit, self.tls.connect(stream, alpn, ids)).await;
                let (stream, server) = connected.map_err(|_| late())??;
                let left = server.not_after.duration_since(self.clock.now());
                let left = left.unwrap_or_default();
                let until = Instant::now() + usable(left, rand::random());
                Ok((Io::Client(Box::new(stream)), Some(server.id), Some(until)))
            }
            Transport::Tls { name, roots } => {
                let http2 = alpn == ALPN_H2;
                let connected =
                    timeout(limit, self.outside.connect(stream, name, roots, http2)).await;
                let stream = connected.map_err(|_| late())??;
                Ok((Io::Outside(Box::new(stream)), None, None))
            }
        }
    }
}

/// How long a connection is used whose first certificate ends after `left`. The server ends it then;
/// to let go of it earlier leaves no request on its way at that moment.
fn usable(left: Duration, draw: f64) -> Duration {
    let most = left - MARGIN.min(left / 10);
    most.mul_f64(1.0 - SPREAD * draw)
}

fn refused(member: &Member, e: hyper::Error) -> Error {
    let detail = format!("HTTP handshake with {}", member.endpoint.address());
    Error::new(Reason::ConnectFailed, detail).because(e)
}

// === impl Pool ===

impl Pool {
    fn new(idle_max: usize) -> Self {
        Self {
            h1: Mutex::default(),
            room: Semaphore::new(OPENINGS),
            waiting: AtomicUsize::new(0),
            back: Notify::new(),
            h2: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            failed: AtomicUsize::new(0),
            idle_max,
        }
    }

    fn take_h1(&self, idle: Duration, now: Instant) -> Option<Http1> {
        let mut kept = self.h1.lock().unwrap_or_else(PoisonError::into_inner);
        // Those at the front have rested longest. Finding one too old means that all before it
        // are, so the list is cut once in a while, not searched each time.
        let rested = |c: &Http1| now.saturating_duration_since(c.since);
        if kept.first().is_some_and(|c| rested(c) > idle) {
            kept.retain(|c| rested(c) <= idle);
        }
        let mut n = kept.len();
        while n > 0 {
            n -= 1;
            let connection = &kept[n];
            if connection.sender.is_closed() || is_past(connection.until, now) {
                kept.remove(n);
            } else if connection.sender.is_ready() {
                return Some(kept.remove(n));
            }
            // Not ready: its last answer is whole, but its task has not been told yet.
        }
        None
    }

    fn give_h1(&self, mut connection: Http1, now: Instant) {
        if connection.sender.is_closed() || is_past(connection.until, now) {
            return;
        }
        connection.since = now;
        let mut kept = self.h1.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= self.idle_max {
            kept.remove(0);
        }
        kept.push(connection);
        drop(kept);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.back.notify_one();
        }
    }

    /// Waits for room to open a connection or, unless it must be `fresh`, for one that comes back.
    async fn room(&self, idle: Duration, fresh: bool) -> Room<'_> {
        if let Ok(permit) = self.room.try_acquire() {
            return Room::Open(Some(permit));
        }
        let _counted = Counted::new(&self.waiting);
        loop {
            // One may have come back before this request was counted.
            if !fresh && let Some(connection) = self.take_h1(idle, Instant::now()) {
                // Who was told of one may have been told for several.
                self.back.notify_one();
                return Room::Back(connection);
            }
            tokio::select! {
                permit = self.room.acquire() => return Room::Open(permit.ok()),
                () = self.back.notified(), if !fresh => {}
            }
        }
    }

    fn take_h2(&self, now: Instant) -> Option<Arc<Http2>> {
        let mut known = self.h2.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|c| !c.sender.is_closed() && !is_past(c.until, now));
        let free = known
            .iter()
            .find(|c| c.streams.load(Ordering::Relaxed) < STREAMS)?;
        free.streams.fetch_add(1, Ordering::Relaxed);
        Some(free.clone())
    }
}

/// One in a number, until it is dropped.
struct Counted<'n>(&'n AtomicUsize);

impl<'n> Counted<'n> {
    fn new(number: &'n AtomicUsize) -> Self {
        number.fetch_add(1, Ordering::SeqCst);
        Self(number)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn is_past(until: Option<Instant>, now: Instant) -> bool {
    until.is_some_and(|until| until <= now)
}

// === impl Lease ===

impl Lease {
    /// Its connection has left HTTP and serves no other request.
    pub(crate) fn switched(self) {
        if let Held::Http1(_, Some(connection)) = &self.0
            && let Some(live) = &connection.live
        {
            live.becomes_opaque();
        }
    }

    /// The answer is whole: the connection may serve another request.
    pub(crate) fn release(mut self, now: Instant) {
        if let Held::Http1(pool, connection) = &mut self.0
            && let Some(connection) = connection.take()
        {
            pool.give_h1(connection, now);
        }
    }
}

// === impl Held ===

impl Drop for Held {
    fn drop(&mut self) {
        if let Self::Http2(connection) = self {
            connection.streams.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_ready, task};

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    #[test]
    fn connections_of_one_certificate_end_at_different_moments_before_it() {
        let secs = Duration::from_secs_f64;
        for (left, draw, usable_for) in [
            (3_600.0, 0.0, 3_595.0),
            (3_600.0, 1.0, 2_696.25),
            (10.0, 0.0, 9.0),
            (10.0, 0.5, 7.875),
            (10.0, 1.0, 6.75),
            (0.0, 0.5, 0.0),
        ] {
            assert_eq!(usable(secs(left), draw), secs(usable_for), "{left} {draw}");
        }
    }

    /// A connection that serves requests, and its other end.
    async fn connection() -> (Http1, tokio::io::DuplexStream) {
        let (near, far) = tokio::io::duplex(1024);
        let (mut sender, connection) = http1::handshake(TokioIo::new(near)).await.expect("made");
        tokio::spawn(connection);
        sender.ready().await.expect("ready");
        let made = Http1 {
            sender,
            peer: None,
            since: Instant::now(),
            until: None,
            live: None,
        };
        (made, far)
    }

    #[tokio::test]
    async fn so_many_are_opened_at_once_and_the_next_waits_for_room() {
        let pool = Pool::new(8);
        let mut opening = Vec::new();
        for _ in 0..OPENINGS {
            opening.push(assert_ready!(task::spawn(pool.room(IDLE, false)).poll()));
        }
        let mut next = task::spawn(pool.room(IDLE, false));
        assert!(next.poll().is_pending());
        opening.pop();
        assert!(next.is_woken());
        assert!(matches!(assert_ready!(next.poll()), Room::Open(_)));
    }

    #[tokio::test]
    async fn who_waits_gets_what_comes_back_unless_it_must_be_fresh() {
        let pool = Pool::new(8);
        let (one, _far) = connection().await;
        let (other, _other_far) = connection().await;
        let held: Vec<_> = (0..OPENINGS)
            .map(|_| assert_ready!(task::spawn(pool.room(IDLE, false)).poll()))
            .collect();
        let mut fresh = task::spawn(pool.room(IDLE, true));
        let mut first = task::spawn(pool.room(IDLE, false));
        let mut second = task::spawn(pool.room(IDLE, false));
        assert!(fresh.poll().is_pending());
        assert!(first.poll().is_pending());
        assert!(second.poll().is_pending());
        pool.give_h1(one, Instant::now());
        assert!(first.is_woken());
        assert!(matches!(assert_ready!(first.poll()), Room::Back(_)));
        assert!(second.poll().is_pending());
        pool.give_h1(other, Instant::now());
        assert!(matches!(assert_ready!(second.poll()), Room::Back(_)));
        assert!(fresh.poll().is_pending());
        drop(held);
        assert!(matches!(assert_ready!(fresh.poll()), Room::Open(_)));
        drop((first, second));
        assert_eq!(pool.waiting.load(Ordering::SeqCst), 0);
    }
}
