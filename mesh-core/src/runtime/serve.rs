//! The connections of callers: accepted, served until they end, drained when the time has come.

use std::convert::Infallible;
use std::future::Future;
use std::hint::cold_path;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use inmesh_pki::id::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::TaskTracker;

use super::again::Again;
use super::aside::Aside;
use super::limits::Limits;
use crate::accept::{Breaking, ConnState, Lingering, Listener, Noticing, Socket, Timed};
use crate::body::{Body, BoxError};
use crate::budget::Budget;
use crate::drain::Drain;
use crate::error::{Error, Reason};
use crate::http2::{self, Server, Settings};
use crate::telemetry::{Direction, Recorder};

/// hyper's own limits, above ours, because it answers without saying why.
const HARD_HEADER: usize = 256 * 1024;
const HARD_FIELDS: usize = 256;
/// The number of fields for which hyper has room on its stack; above it every request costs two
/// allocations of kilobytes. Two of them, the host and the place in a trace, we do not count.
const FREE_FIELDS: usize = 100;
/// How long a connection that is to close may still begin a request.
const LAST_CALL: Duration = Duration::from_secs(1);
/// How often a silent HTTP/2 caller is pinged.
const PING: Duration = Duration::from_secs(20);
const PING_ANSWER: Duration = Duration::from_secs(10);
/// What a connection is served with.
pub(super) struct Connection {
    pub(super) limits: Arc<Limits>,
    pub(super) drain: Drain,
    /// When the caller's certificate ends, and with it the connection.
    pub(super) until: Option<Instant>,
    /// Whether the peer is of the mesh, so that larger windows are worth their memory.
    pub(super) mesh: bool,
    pub(super) state: Arc<ConnState>,
    pub(super) answering: Arc<Answering>,
}

/// What the answers of a connection share.
pub(super) struct Answering {
    /// Set once the connection is to end.
    pub(super) closing: AtomicBool,
    state: Arc<ConnState>,
    /// What bodies may hold.
    budget: Arc<Budget>,
}

/// Why a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Draining,
    Expired,
}

/// Serves the connections of a listener, each in a task of its own, until the drain closes it.
pub(super) async fn accept<F, R>(
    listener: Listener,
    mut drain: Drain,
    tracker: TaskTracker,
    serve: F,
) where
    F: Fn(Socket, SocketAddr) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    loop {
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.closing() => return,
        };
        tracker.spawn(serve(stream, from));
    }
}

/// Records the end of a caller's connection if a request was lost before it could be read.
pub(super) fn ended(
    recorder: &Recorder,
    direction: Direction,
    workload: &Arc<str>,
    from: SocketAddr,
    peer: Option<&SpiffeId>,
    state: &ConnState,
    ended: Result<(), BoxError>,
) {
    let Err(error) = ended else { return };
    let http1 = error.downcast_ref::<hyper::Error>();
    let reason = if let Some(reason) = state.unread() {
        reason
    } else if http1.is_some_and(hyper::Error::is_parse_too_large) {
        Reason::HeaderTooLarge
    } else if http1.is_some_and(hyper::Error::is_parse) {
        Reason::InvalidRequest
    } else {
        tracing::debug!(%from, %error, "a caller's connection broke off");
        return;
    };
    let detail = Error::new(reason, "no whole request").because(error);
    recorder.refused(direction, workload, from, peer, reason.as_str(), &detail);
}

/// Whether an answer states the length of a body that it never has (RFC 9110 section 8.6). In an answer to
/// HEAD the library writes it by itself.
fn states_length_only(response: &Response<Body>) -> bool {
    let length = || {
        let mut lengths = response.headers().get_all(header::CONTENT_LENGTH).iter();
        let one = lengths.next().filter(|_| lengths.next().is_none())?;
        one.to_str().ok()?.parse::<u64>().ok()
    };
    response.status() == StatusCode::NOT_MODIFIED && length().is_some()
}

/// Whether a connection is the caller's for other bytes after an answer, so that it says nothing of its end.
fn leaves_http(status: StatusCode, tunnel: bool) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || (tunnel && status.is_success())
}

/// Says that the connection ends with an answer, where it `closes` or the answer makes it. `old` is an answer
/// to HTTP/1.0. Returns whether it has no other end than that.
fn end_with(response: &mut Response<Body>, old: bool, closes: bool) -> bool {
    // Half a request is in the way of the next one (RFC 9110, section 15.5.9).
    let late = response.status() == StatusCode::REQUEST_TIMEOUT;
    // An answer to HTTP/1.0 whose length is not known ends with its connection.
    let last = old && response.body().size_hint().exact().is_none();
    if last {
        // The library says `keep-alive` beside it in an answer of HTTP/1.1.
        *response.version_mut() = Version::HTTP_10;
    }
    if late || last || closes {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    last
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(limits: &Arc<Limits>, budget: &Arc<Budget>, drain: &Drain) -> Self {
        let state = Arc::<ConnState>::default();
        Self {
            limits: Arc::clone(limits),
            drain: drain.clone(),
            until: None,
            mesh: false,
            state: Arc::clone(&state),
            answering: Arc::new(Answering {
                closing: AtomicBool::new(false),
                state,
                budget: Arc::clone(budget),
            }),
        }
    }

    /// Serves HTTP/1.1. On the way down each answer says `connection: close`; a connection that
    /// rests is closed a moment later, so that a request on its way is not lost.
    pub(super) async fn serve_h1<T, F, R>(self, io: T, service: F) -> Result<(), BoxError>
    where
        T: Breaking + Noticing + Send + 'static,
        F: Fn(Request<Body>) -> R,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let limits = &self.limits;
        let io = Lingering::new(io, &self.state);
        let io = Timed::http1(
            io,
            Arc::clone(&self.state),
            limits.header,
            limits.idle,
            limits.unread,
        )
        .within(&self.answering.budget);
        let answering = Arc::clone(&self.answering);
        let service = service_fn(move |mut request: Request<Incoming>| {
            answering.state.busy();
            let old = request.version() == Version::HTTP_10;
            if old {
                // Such a caller waits for no 100 (RFC 9110 section 10.1.1).
                cold_path();
                request.headers_mut().remove(header::EXPECT);
            }
            let tunnel = *request.method() == Method::CONNECT;
            let answering = Arc::clone(&answering);
            // Not an async block, which would hold the future twice: as captured, and as awaited.
            service(request.map(Body::incoming)).map(move |mut response| {
                let status = response.status();
                let closing = answering.closing.load(Ordering::Relaxed);
                if end_with(&mut response, old, closing && !leaves_http(status, tunnel)) {
                    answering.state.end_an_answer();
                }
                if states_length_only(&response) {
                    response.body_mut().hide_end();
                } else {
                    response.body_mut().meter(&answering.budget, 0);
                }
                Ok::<_, Infallible>(response)
            })
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            // A caller that has nothing more to say may still wait for its answer; one that resets
            // its connection has gone. An agent never ends one way alone: where it ends, its
            // caller has gone.
            .half_close(!self.mesh)
            .header_read_timeout(None)
            .max_buf_size(HARD_HEADER);
        if limits.header_fields + 2 > FREE_FIELDS {
            builder.max_headers(HARD_FIELDS);
        }
        let connection = builder
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        let mut connection = pin!(Again::new(connection));
        let mut ending = ending(self.drain.clone(), self.until);
        let why = tokio::select! {
            biased;
            ended = &mut connection => return Ok(ended?),
            why = &mut ending => why,
        };
        self.answering.closing.store(true, Ordering::Relaxed);
        // A caller whose certificate has expired begins no other request.
        if why == Ending::Draining {
            tokio::select! {
                ended = &mut connection => return Ok(ended?),
                () = sleep(LAST_CALL) => {}
            }
        }
        connection.as_mut().inner().graceful_shutdown();
        let mut drain = self.drain.clone();
        tokio::select! {
            ended = &mut connection => Ok(ended?),
            () = drain.closed() => Ok(()),
        }
    }

    /// Serves HTTP/2. On the way down, and when it has rested for too long, it sends GOAWAY and
    /// finishes what runs.
    pub(super) async fn serve_h2<T, F, R>(self, io: T, service: F) -> Result<(), BoxError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Fn(Request<Body>) -> R + Send + Unpin,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let io = Timed::http2(
            io,
            Arc::clone(&self.state),
            self.limits.header,
            self.limits.unread,
        );
        let state = Arc::clone(&self.state);
        let service = move |request| {
            state.busy();
            service(request)
        };
        let settings = Settings {
            window: http2::windows(self.mesh),
            header_list: u32::try_from(HARD_HEADER).unwrap_or(u32::MAX),
            streams: self.limits.streams,
            ping: Some((PING, PING_ANSWER)),
            unread: self.limits.unread,
            budget: Arc::clone(&self.answering.budget),
        };
        let mut connection = pin!(Server::new(io, settings, service));
        let mut ending = ending(self.drain.clone(), self.until);
        tokio::select! {
            ended = &mut connection => return Ok(ended?),
            _ = &mut ending => {}
            () = self.state.rested(self.limits.idle) => {}
        }
        connection.as_mut().graceful_shutdown();
        let mut drain = self.drain.clone();
        tokio::select! {
            ended = &mut connection => Ok(ended?),
            // A caller that keeps the connection open is not waited for once nothing runs.
            () = self.state.rested(self.limits.header) => Ok(()),
            () = drain.closed() => Ok(()),
        }
    }
}

/// Ready once the drain has begun to close connections, or the caller's certificate has ended.
fn ending(mut drain: Drain, until: Option<Instant>) -> Aside<impl Future<Output = Ending>> {
    Aside::new(async move {
        let expired = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = drain.closing() => Ending::Draining,
            () = expired => Ending::Expired,
        }
    })
}
