//! HTTP to an endpoint over pooled connections.
//!
//! In: a request for an endpoint. Out: the head of its answer and a lease of the connection, or the
//! request itself with the reason why it was not answered. A request that meets a connection just
//! closed comes back, if it may be sent again.

use std::future::poll_fn;
use std::hint::cold_path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use http::uri::Authority;
use http::{Request, Response};
use http_body::Body as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use inmesh_pki::clock::Span;
use inmesh_pki::id::SpiffeId;
use tokio::time::{Instant, timeout};

use super::connection::{Connection, Http1, Http2};
use super::connector::Connector;
use super::driven::Driven;
use super::gate::{Asked, Place};
use super::headers;
use super::kept::Kept;
use super::lease::{Lease, Leased};
use super::origin::Origin;
use super::pool::{OPENINGS, Room, Turn};
use super::read_on::ReadOn;
use super::rest::Resting;
use super::unsent::{Age, Failure, Met, Unsent, copy_of};
use crate::balance::Member;
use crate::body::{Body, BoxError};
use crate::early::Early;
use crate::error::{Error, Reason, is_grpc};
use crate::http2::{self, Cause, Settings};
use crate::identify::{Inner, Tls};
use crate::model::{HttpVersion, Transport};
use crate::retry::Reuse;

/// How long a connection to a server outside the mesh rests as long as nothing is known of the
/// server's own limit: gunicorn's is 2 s, Node's and uvicorn's 5 s, and a request that comes as the
/// server closes is lost.
const REST: Duration = Duration::from_millis(1_500);
/// The most that is read at once from an HTTP/1.1 server, and so the longest head of its answers. Up
/// to four times as much is held of an answer that its caller does not read.
const READ_BUFFER: usize = 16 * 1024;
/// The fields of an answer that are read from a server which has shown that it sends more than 100:
/// up to those hyper needs no memory of its own, above it allocates kilobytes for each answer.
const MANY_FIELDS: usize = 256;
/// And those that an agent before adds, such as `date`.
const ADDED_FIELDS: usize = 8;
/// How often an HTTP/2 connection to a mesh peer is asked whether it lives.
const PING: Duration = Duration::from_secs(10);

/// A request that was answered.
pub(crate) struct Sent {
    pub(crate) response: Response<Body>,
    pub(crate) lease: Lease,
    pub(crate) peer: Option<SpiffeId>,
    pub(crate) kept: Arc<Kept>,
}

/// How a request is to be sent.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) version: HttpVersion,
    pub(crate) reuse: Reuse,
    /// Set while it waits for one of the connections that there may be; without it, it opens one above
    /// the limit.
    pub(crate) waits: Option<&'a AtomicBool>,
    pub(crate) now: Instant,
    /// The connection of the caller, for endpoints that are to know it; `None` for this process itself.
    pub(crate) origin: Option<&'a Origin>,
}

/// An endpoint, the local workload that sends to it, and what is kept for the two.
struct Hop<'a> {
    tls: &'a Tls,
    member: &'a Member,
    kept: Arc<Kept>,
    origin: Option<&'a Origin>,
}

// === impl Hop ===

impl Hop<'_> {
    /// Whether the endpoint is of the mesh.
    fn is_mesh(&self) -> bool {
        matches!(self.member.endpoint.transport, Transport::Mesh { .. })
    }

    /// How long a connection may rest and be used again, where a policy says it.
    fn idle_timeout(&self) -> Option<Duration> {
        self.member.state.port().idle_timeout()
    }
}

// === impl Connector ===

impl Connector {
    /// Sends a request to an endpoint as a local workload, and waits for the head of the answer.
    /// The request is taken out of its place, and put back if it may be sent again.
    pub(crate) async fn send(
        &self,
        tls: &Tls,
        member: &Member,
        request: &mut Request<Body>,
        way: Way<'_>,
    ) -> Result<Sent, Unsent> {
        let kept = match (member.endpoint.proxy_protocol, way.origin) {
            (Some(_), Some(origin)) => origin.kept(member, tls.local(), self.idle_max),
            _ => Kept::of(member, tls.local(), self.idle_max),
        };
        let to = Hop {
            tls,
            member,
            kept,
            origin: way.origin,
        };
        match way.version {
            HttpVersion::Http1 => self.send_h1(to, request, way).await,
            // Boxed: it is three times as large, and every request's future would hold room for it.
            HttpVersion::Http2 => Box::pin(self.send_h2(to, request, way)).await,
        }
    }

    async fn send_h1(
        &self,
        to: Hop<'_>,
        request: &mut Request<Body>,
        way: Way<'_>,
    ) -> Result<Sent, Unsent> {
        let pool = &to.kept.pool;
        let idle = self.rest(&to);
        let pooled = match way.reuse {
            Reuse::Allowed => pool.take_h1(idle, way.now),
            Reuse::Forbidden => None,
        };
        let (mut connection, age) = match pooled {
            Some(connection) => (connection, Age::Used),
            None => {
                cold_path();
                Box::pin(self.another_h1(&to, way)).await?
            }
        };
        let copy = copy_of(request);
        // In place: a request is some hundred bytes to move.
        request.body_mut().meter(&self.budget, 0);
        let upload = !request.body().is_end_stream();
        connection.refused.send(request.body_mut());
        let early = request.extensions().get::<Early>().cloned();
        if let Some(early) = early.clone() {
            cold_path();
            hyper::ext::on_informational(request, move |head| {
                early.say(head.status(), head.headers());
            });
        }
        let Connection { sender, driven, .. } = &mut *connection;
        let mut drive = driven.drive();
        let mut answer = pin!(sender.try_send_request(std::mem::take(request)));
        let answered = poll_fn(|cx| drive.poll(answer.as_mut(), cx)).await;
        match answered {
            Ok(response) if headers::is_coded(&response) => {
                cold_path();
                Err(Unsent::coded(to.member))
            }
            Ok(response) => {
                let response = headers::framed(response).map(|body| drive.body(body));
                drop(drive);
                if !to.is_mesh() {
                    pool.rest().announced(response.headers());
                }
                if early.is_some_and(|early| early.answered() && upload) {
                    // The body was never asked for, and will not be sent.
                    cold_path();
                    connection.refused.set();
                }
                Ok(Sent {
                    response,
                    peer: connection.peer.clone(),
                    lease: Lease(Leased::Http1(Arc::clone(pool), Some(connection))),
                    kept: to.kept,
                })
            }
            Err(e) => {
                cold_path();
                drop(drive);
                let mut failure = Failure::of_http1(e, copy);
                let refused = upload && !failure.is_unseen() && connection.refused.has_cut();
                let met = Met { age, refused };
                if failure.too_large {
                    // Another connection may read it; where this one already could, none does.
                    failure.again = !connection.many_fields;
                    if pool.reads_many_fields() {
                        let address = to.member.endpoint.address();
                        let most = MANY_FIELDS;
                        tracing::warn!(
                            %address, most,
                            "the head of an answer is too large; more fields are read from now on"
                        );
                    }
                }
                Err(Unsent::broken(failure, to.member, met, request))
            }
        }
    }

    async fn send_h2(
        &self,
        to: Hop<'_>,
        request: &mut Request<Body>,
        way: Way<'_>,
    ) -> Result<Sent, Unsent> {
        let (connection, age) = match to.kept.pool.take_h2(to.idle_timeout(), way.now) {
            Some(connection) => (connection, Age::Used),
            None => match Box::pin(self.shared_h2(&to)).await {
                Ok(Some(connection)) => (connection, Age::New),
                Ok(None) => return Box::pin(self.send_older(to, request, way)).await,
                Err(error) => return Err(Unsent::unconnected(error)),
            },
        };
        // From here the lease counts the stream, also if the future is dropped.
        let peer = connection.peer.clone();
        let sender = connection.sender.clone();
        let lease = Lease(Leased::Http2(connection));
        let taken = std::mem::take(request);
        match sender.send(taken).await {
            Ok(response) => Ok(Sent {
                response,
                lease,
                peer,
                kept: to.kept,
            }),
            Err(broken) => {
                if let Cause::TooLarge(error) = &broken.cause {
                    return Err(Unsent::too_large(to.member, error, broken.unsent));
                }
                let failure = Failure::of_http2(broken);
                let refused = failure.is_cut();
                let met = Met { age, refused };
                Err(Unsent::broken(failure, to.member, met, request))
            }
        }
    }

    /// Sends a request of HTTP/2 to a server that speaks HTTP/1.1.
    async fn send_older(
        &self,
        to: Hop<'_>,
        request: &mut Request<Body>,
        way: Way<'_>,
    ) -> Result<Sent, Unsent> {
        let address = to.member.endpoint.address();
        if is_grpc(request.headers()) {
            let detail = format!("{address} does not speak HTTP/2 inside TLS, which gRPC needs");
            return Err(Unsent::unconnected(Error::new(Reason::TlsFailed, detail)));
        }
        let authority = request.uri().authority().cloned();
        let authority = authority.as_ref().map_or("", Authority::as_str);
        headers::prepare(request, HttpVersion::Http1, authority, false);
        self.send_h1(to, request, way).await
    }

    /// A new HTTP/2 connection, or the one that another request has opened meanwhile; none where the
    /// server speaks HTTP/1.1. If that failed, it has failed for all that waited: they do not try one
    /// after the other.
    async fn shared_h2(&self, to: &Hop<'_>) -> Result<Option<Arc<Http2>>, Error> {
        let pool = &to.kept.pool;
        if pool.is_http1() {
            return Ok(None);
        }
        let failed = pool.failed.load(Ordering::Relaxed);
        let mut opening = pool.opening.lock().await;
        if let Some(connection) = pool.take_h2(to.idle_timeout(), Instant::now()) {
            return Ok(Some(connection));
        }
        if pool.is_http1() {
            return Ok(None);
        }
        if pool.failed.load(Ordering::Relaxed) != failed
            && let Some((reason, detail)) = &opening.0
        {
            return Err(Error::new(*reason, detail.clone()));
        }
        let opened = match pool.room_h2(to.idle_timeout(), Instant::now()) {
            Ok(place) => self.open_h2(to, place).await,
            Err(shared) => return Ok(Some(shared)),
        };
        if let Err(error) = &opened {
            opening.0 = Some((error.reason(), error.detail().to_owned()));
            pool.failed.fetch_add(1, Ordering::Relaxed);
        }
        opened
    }

    /// How long a connection to an endpoint may have rested and be used again.
    fn rest(&self, to: &Hop<'_>) -> Duration {
        let (most, unknown) = match to.idle_timeout() {
            Some(said) => (said, said),
            None if to.is_mesh() => (self.idle, self.idle),
            None => (self.idle, REST),
        };
        to.kept.pool.rest().limit(most, unknown)
    }

    /// A new HTTP/1.1 connection, or one that came back before there was room to open it.
    async fn another_h1(&self, to: &Hop<'_>, way: Way<'_>) -> Result<(Http1, Age), Unsent> {
        let pool = &to.kept.pool;
        let place = match self.turn(to, way).await? {
            Turn::Back(connection) => return Ok((connection, Age::Used)),
            Turn::Open(place) => place,
        };
        // As long as one takes to open, at most.
        let limit = self.connect_limit(to.member) + self.handshake_timeout;
        match timeout(limit, pool.room(self.rest(to), way.reuse)).await {
            Ok(Room::Back(connection)) => Ok((connection, Age::Used)),
            Ok(Room::Open(_held)) => {
                let opened = self.open_h1(to, place).await;
                Ok((opened.map_err(Unsent::unconnected)?, Age::New))
            }
            Err(_) => {
                let address = to.member.endpoint.address();
                let detail = format!(
                    "{OPENINGS} connections to {address} are being opened, and none came free \
                     within {}",
                    Span(limit)
                );
                Err(Unsent::crowded(Error::new(Reason::ConnectTimeout, detail)))
            }
        }
    }

    /// Room for an HTTP/1.1 connection, for which a request may wait as long as it has time, or one that
    /// came back meanwhile.
    async fn turn(&self, to: &Hop<'_>, way: Way<'_>) -> Result<Turn, Unsent> {
        let pool = &to.kept.pool;
        let (gate, number) = pool.gate();
        let Some(waits) = way.waits else {
            return Ok(Turn::Open(gate.ask_needed(number)));
        };
        let ticket = match gate.ask(number, way.reuse) {
            Asked::Open(place) => return Ok(Turn::Open(place)),
            Asked::Overflow => None,
            Asked::Wait(ticket) => Some(ticket),
        };
        if let Some(ticket) = ticket {
            waits.store(true, Ordering::Relaxed);
            let turn = pool.turn(ticket, self.rest(to), way.reuse).await;
            waits.store(false, Ordering::Relaxed);
            if let Some(turn) = turn {
                return Ok(turn);
            }
        }
        Err(Unsent::overflowed(gate.overflowed()))
    }

    async fn open_h1(&self, to: &Hop<'_>, place: Place) -> Result<Http1, Error> {
        let opened = self
            .open(to.tls, to.member, Inner::Http1, Some(place), to.origin)
            .await?;
        let live = opened.io.live();
        let (io, taken) = ReadOn::new(opened.io, &self.budget);
        let mut builder = http1::Builder::new();
        builder.max_buf_size(READ_BUFFER);
        let many_fields = to.kept.pool.many_fields();
        if many_fields {
            let added = if to.is_mesh() { ADDED_FIELDS } else { 0 };
            builder.max_headers(MANY_FIELDS + added);
        }
        let (sender, connection) = builder
            .handshake(TokioIo::new(io))
            .await
            .map_err(|e| refused(to.member, e))?;
        let mesh = to.is_mesh();
        let resting = Arc::<Resting>::default();
        let (at_rest, rest) = (Arc::clone(&resting), Arc::clone(to.kept.pool.rest()));
        let driven = Driven::new(connection.with_upgrades());
        let running = driven.run();
        tokio::spawn(async move {
            if let Err(e) = running.await {
                tracing::debug!(error = %e, "a connection to an endpoint ended");
            }
            // An agent that goes down says nothing about how long it waits.
            let now = Instant::now();
            if !mesh && let Some(rested) = at_rest.rested(now) {
                rest.observed(rested, now);
            }
        });
        let opened = Connection {
            sender,
            driven,
            peer: opened.peer,
            since: Instant::now(),
            until: opened.until,
            live,
            refused: taken,
            resting,
            many_fields,
        };
        Ok(opened.into())
    }

    /// A new HTTP/2 connection; none where the server speaks HTTP/1.1.
    async fn open_h2(&self, to: &Hop<'_>, place: Place) -> Result<Option<Arc<Http2>>, Error> {
        let opened = self
            .open(to.tls, to.member, Inner::Http2, Some(place), to.origin)
            .await?;
        if opened.inner != Inner::Http2 {
            to.kept.pool.speaks_http1();
            return Ok(None);
        }
        let mesh = to.is_mesh();
        let settings = Settings {
            window: http2::windows(mesh),
            header_list: 256 * 1024,
            streams: 0,
            // Some servers end a connection that pings them; the kernel notices that one is gone.
            ping: mesh.then_some((PING, PING)),
            // The timeouts of the route are what bounds an upload.
            unread: Duration::MAX,
            budget: Arc::clone(&self.budget),
        };
        let sender = http2::connect(opened.io, settings)
            .await
            .map_err(|e| refused(to.member, e))?;
        let opened = Arc::new(Http2 {
            sender,
            peer: opened.peer,
            streams: AtomicUsize::new(1),
            until: opened.until,
            rests: OnceLock::new(),
        });
        let mut known = to
            .kept
            .pool
            .h2
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.push(Arc::clone(&opened));
        Ok(Some(opened))
    }
}

fn refused(member: &Member, e: impl Into<BoxError>) -> Error {
    let detail = format!("HTTP handshake with {}", member.endpoint.address());
    Error::new(Reason::ConnectFailed, detail).because(e)
}
