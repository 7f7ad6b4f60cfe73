//! HTTP to an endpoint over pooled connections.
//!
//! In: a request for an endpoint. Out: the head of its answer and a lease of the connection, or the
//! request itself with the reason why it was not answered. What meets a connection just closed
//! comes back unsent, if it may be sent again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use inmesh_pki::id::SpiffeId;
use tokio::time::{Instant, timeout};

use super::pool::{Held, Http1, Http2, Lease, OPENINGS, Pool, Room};
use super::unsent::{Unsent, again};
use super::{Connector, Io, tcp};
use crate::body::Body;
use crate::error::{Error, Reason};
use crate::identify::{ALPN_H1, ALPN_H2};
use crate::model::{Member, Transport};
use crate::telemetry::Series;

/// Flow-control windows between mesh peers, so that one stream can fill a fast network.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// How long before the end of a certificate a connection is no longer used, at most.
const MARGIN: Duration = Duration::from_secs(5);
/// The last share of its life in which a connection is let go, each at another moment: all that
/// were opened with one certificate would else be opened anew together.
const SPREAD: f64 = 0.25;
/// How often an HTTP/2 connection with requests on it is asked whether it lives.
const PING: Duration = Duration::from_secs(10);

/// What is kept with an endpoint for as long as it is known: its connections, and the handles of
/// its metrics.
pub(crate) struct Kept {
    pool: Arc<Pool>,
    pub(crate) series: OnceLock<Arc<Series>>,
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
                Err(unsent) => return Err(unsent),
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
        pool: &Arc<Pool>,
        member: &Member,
        fresh: bool,
    ) -> Result<(Http1, bool), Unsent> {
        // As long as one takes to open, at most.
        let limit = self.connect_timeout + self.handshake_timeout;
        match timeout(limit, pool.room(self.idle, fresh)).await {
            Ok(Room::Back(connection)) => Ok((connection, true)),
            Ok(Room::Open(_held)) => {
                let opened = self.open_h1(member).await;
                Ok((opened.map_err(Unsent::before)?, false))
            }
            Err(_) => {
                let address = member.endpoint.address();
                let detail = format!(
                    "{OPENINGS} connections to {address} are being opened, and none came free \
                     within {limit:?}"
                );
                Err(Unsent::crowded(Error::new(Reason::ConnectTimeout, detail)))
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
