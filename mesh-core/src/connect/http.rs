//! HTTP to an endpoint over pooled connections.
//!
//! In: a request for an endpoint. Out: the head of its answer and a lease of the connection, or the
//! request itself with the reason why it was not answered. A request that meets a connection just
//! closed comes back, if it may be sent again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use inmesh_pki::id::SpiffeId;
use tokio::time::{Instant, timeout};

use super::connector::Connector;
use super::kept::Kept;
use super::pool::{Http1, Http2, Lease, Leased, OPENINGS, Room};
use super::read_on::ReadOn;
use super::unsent::{Age, Met, Unsent, copy_of};
use crate::balance::Member;
use crate::body::Body;
use crate::error::{Error, Reason};
use crate::identify::{Inner, Tls};
use crate::model::{HttpVersion, Transport};
use crate::retry::Reuse;

/// Flow-control windows between mesh peers, so that one stream can fill a fast network.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// How often an HTTP/2 connection with requests on it is asked whether it lives.
const PING: Duration = Duration::from_secs(10);

/// A request that was answered.
pub(crate) struct Sent {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
    pub(crate) peer: Option<SpiffeId>,
    pub(crate) kept: Arc<Kept>,
}

/// An endpoint, the local workload that sends to it, and what is kept for the two.
struct Hop<'a> {
    tls: &'a Tls,
    member: &'a Member,
    kept: Arc<Kept>,
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
        version: HttpVersion,
        reuse: Reuse,
        now: Instant,
    ) -> Result<Sent, Unsent> {
        let to = Hop {
            tls,
            member,
            kept: Kept::of(member, tls.local(), self.idle_max),
        };
        match version {
            HttpVersion::Http1 => self.send_h1(to, request, reuse, now).await,
            HttpVersion::Http2 => self.send_h2(to, request, now).await,
        }
    }

    async fn send_h1(
        &self,
        to: Hop<'_>,
        request: &mut Request<Body>,
        reuse: Reuse,
        now: Instant,
    ) -> Result<Sent, Unsent> {
        let pool = &to.kept.pool;
        let pooled = match reuse {
            Reuse::Allowed => pool.take_h1(self.idle, now),
            Reuse::Forbidden => None,
        };
        let (mut connection, age) = match pooled {
            Some(connection) => (connection, Age::Used),
            None => Box::pin(self.another_h1(&to, reuse)).await?,
        };
        let copy = match age {
            Age::New => None,
            Age::Used => copy_of(request, HttpVersion::Http1),
        };
        let taken = std::mem::take(request);
        let upload = !taken.body().is_end_stream();
        match connection.sender.try_send_request(taken).await {
            Ok(response) => Ok(Sent {
                response,
                peer: connection.peer.clone(),
                lease: Lease(Leased::Http1(Arc::clone(pool), Some(connection))),
                kept: to.kept,
            }),
            Err(e) => {
                let refused = upload && connection.refused.is_set();
                let met = Met { age, refused };
                Err(Unsent::broken(e, to.member, met, copy, request))
            }
        }
    }

    async fn send_h2(
        &self,
        to: Hop<'_>,
        request: &mut Request<Body>,
        now: Instant,
    ) -> Result<Sent, Unsent> {
        let (connection, age) = match to.kept.pool.take_h2(now) {
            Some(connection) => (connection, Age::Used),
            None => match Box::pin(self.shared_h2(&to)).await {
                Ok(connection) => (connection, Age::New),
                Err(error) => return Err(Unsent::unconnected(error)),
            },
        };
        // From here the lease counts the stream, also if the future is dropped.
        let peer = connection.peer.clone();
        let mut sender = connection.sender.clone();
        let lease = Lease(Leased::Http2(connection));
        let copy = copy_of(request, HttpVersion::Http2);
        let taken = std::mem::take(request);
        match sender.try_send_request(taken).await {
            Ok(response) => Ok(Sent {
                response,
                lease,
                peer,
                kept: to.kept,
            }),
            Err(e) => {
                let met = Met {
                    age,
                    refused: false,
                };
                Err(Unsent::broken(e, to.member, met, copy, request))
            }
        }
    }

    /// A new HTTP/2 connection, or the one that another request has opened meanwhile. If that
    /// failed, it has failed for all that waited: they do not try one after the other.
    async fn shared_h2(&self, to: &Hop<'_>) -> Result<Arc<Http2>, Error> {
        let pool = &to.kept.pool;
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
        let opened = self.open_h2(to).await;
        if let Err(error) = &opened {
            opening.0 = Some((error.reason(), error.detail().to_owned()));
            pool.failed.fetch_add(1, Ordering::Relaxed);
        }
        opened
    }

    /// A new HTTP/1.1 connection, or one that came back before there was room to open it.
    async fn another_h1(&self, to: &Hop<'_>, reuse: Reuse) -> Result<(Http1, Age), Unsent> {
        // As long as one takes to open, at most.
        let limit = self.connect_timeout + self.handshake_timeout;
        match timeout(limit, to.kept.pool.room(self.idle, reuse)).await {
            Ok(Room::Back(connection)) => Ok((connection, Age::Used)),
            Ok(Room::Open(_held)) => {
                let opened = self.open_h1(to).await;
                Ok((opened.map_err(Unsent::unconnected)?, Age::New))
            }
            Err(_) => {
                let address = to.member.endpoint.address();
                let detail = format!(
                    "{OPENINGS} connections to {address} are being opened, and none came free \
                     within {limit:?}"
                );
                Err(Unsent::crowded(Error::new(Reason::ConnectTimeout, detail)))
            }
        }
    }

    async fn open_h1(&self, to: &Hop<'_>) -> Result<Http1, Error> {
        let opened = self.open(to.tls, to.member, Inner::Http1).await?;
        let live = opened.io.live();
        // hyper's own limit of 100 fields in an answer; for another it allocates at each of them.
        let (io, taken) = ReadOn::new(opened.io);
        let (sender, connection) = http1::handshake(TokioIo::new(io))
            .await
            .map_err(|e| refused(to.member, e))?;
        tokio::spawn(async move {
            if let Err(e) = connection.with_upgrades().await {
                tracing::debug!(error = %e, "a connection to an endpoint ended");
            }
        });
        Ok(Http1 {
            sender,
            peer: opened.peer,
            since: Instant::now(),
            until: opened.until,
            live,
            refused: taken,
        })
    }

    async fn open_h2(&self, to: &Hop<'_>) -> Result<Arc<Http2>, Error> {
        let opened = self.open(to.tls, to.member, Inner::Http2).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .max_header_list_size(256 * 1024);
        if matches!(to.member.endpoint.transport, Transport::Mesh { .. }) {
            builder
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_frame_size(1 << 20);
        }
        let (sender, connection) = builder
            .handshake(TokioIo::new(opened.io))
            .await
            .map_err(|e| refused(to.member, e))?;
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "a connection to an endpoint ended");
            }
        });
        let opened = Arc::new(Http2 {
            sender,
            peer: opened.peer,
            streams: AtomicUsize::new(1),
            until: opened.until,
        });
        let mut known = to
            .kept
            .pool
            .h2
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.push(Arc::clone(&opened));
        Ok(opened)
    }
}

fn refused(member: &Member, e: hyper::Error) -> Error {
    let detail = format!("HTTP handshake with {}", member.endpoint.address());
    Error::new(Reason::ConnectFailed, detail).because(e)
}
