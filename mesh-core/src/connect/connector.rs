//! Opens connections to endpoints, as one of the local workloads.

use std::sync::Arc;
use std::time::Duration;

use inmesh_pki::clock::{Clock, Span};
use inmesh_pki::id::SpiffeId;
use tokio::time::{Instant, timeout};

use super::gate::Place;
use super::origin::{Origin, announce};
use super::outside::OutsideRoots;
use super::tcp::{self, Io};
use crate::accept::Sockets;
use crate::balance::Member;
use crate::budget::Budget;
use crate::error::{Error, Reason};
use crate::identify::{Inner, Tls};
use crate::model::Transport;

/// How long before the end of a certificate a connection is no longer used, at most.
const MARGIN: Duration = Duration::from_secs(5);
/// The last share of its life in which a connection is let go, each at another moment: all that
/// were opened with one certificate would else be opened anew together.
const SPREAD: f64 = 0.25;

/// Makes connections to endpoints. One for each runtime.
pub(crate) struct Connector {
    pub(crate) outside: OutsideRoots,
    pub(crate) clock: Arc<dyn Clock>,
    /// The sockets that connections to endpoints may take.
    pub(crate) sockets: Arc<Sockets>,
    /// What bodies may hold.
    pub(crate) budget: Arc<Budget>,
    /// The limit of a TCP connect where no policy says it and, apart, of the TLS handshake.
    pub(crate) connect_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    /// How long an idle connection is kept where no policy says it.
    pub(crate) idle: Duration,
    /// How many idle connections are kept for each endpoint.
    pub(crate) idle_max: usize,
}

/// A connection that was opened.
pub(crate) struct Opened {
    pub(crate) io: Io,
    /// The server's identity, if it has one.
    pub(crate) peer: Option<SpiffeId>,
    /// What the server speaks, which may be HTTP/1.1 where HTTP/2 was asked for.
    pub(crate) inner: Inner,
    /// Until when it may be used: shortly before the first of both certificates ends.
    pub(crate) until: Option<Instant>,
}

// === impl Connector ===

impl Connector {
    /// How long a TCP connect to an endpoint may take.
    pub(super) fn connect_limit(&self, member: &Member) -> Duration {
        let said = member.state.port().connect_timeout();
        said.unwrap_or(self.connect_timeout)
    }

    /// Opens a connection for an inner protocol, which holds its place where it is counted. Where the
    /// endpoint is to know the caller's connection, `origin`, a PROXY header comes before all else; without
    /// one it is for this process itself.
    pub(crate) async fn open(
        &self,
        tls: &Tls,
        member: &Member,
        inner: Inner,
        place: Option<Place>,
        origin: Option<&Origin>,
    ) -> Result<Opened, Error> {
        let endpoint = &member.endpoint;
        let limit = self.connect_limit(member);
        let connecting = tcp::connect(&endpoint.addresses, limit, &self.sockets);
        let mut stream = connecting.await?;
        if let Some(place) = place {
            stream.holds(Box::new(place));
        }
        if let Some(version) = endpoint.proxy_protocol {
            // Some bytes into the empty buffer of a socket: nothing waits here.
            Box::pin(announce(&mut stream, version, origin)).await?;
        }
        let limit = self.handshake_timeout;
        let late = || {
            let address = endpoint.address();
            let detail = format!("no TLS handshake with {address} within {}", Span(limit));
            Error::new(Reason::ConnectTimeout, detail)
        };
        let (io, peer, until, inner) = match &endpoint.transport {
            Transport::Plain => (Io::Plain(stream), None, None, inner),
            Transport::Mesh { ids } => {
                let connected = timeout(limit, tls.connect(stream, inner, ids)).await;
                let (stream, server) = connected.map_err(|_| late())??;
                let left = server.not_after.duration_since(self.clock.now());
                let until = Instant::now() + usable(left.unwrap_or_default(), rand::random());
                let io = Io::Client(Box::new(stream));
                (io, Some(server.id), Some(until), server.inner)
            }
            Transport::Tls { name, roots, names } => {
                let by = (&**name, names);
                let connecting = self.outside.connect(stream, by, roots, inner);
                let connected = timeout(limit, connecting).await;
                let (stream, speaks) = connected.map_err(|_| late())??;
                (Io::Outside(Box::new(stream)), None, None, speaks)
            }
        };
        Ok(Opened {
            io,
            peer,
            inner,
            until,
        })
    }
}

/// How long a connection is used whose first certificate ends after `left`. The server ends it then;
/// to let go of it earlier leaves no request in flight at that moment.
fn usable(left: Duration, draw: f64) -> Duration {
    let most = left - MARGIN.min(left / 10);
    most.mul_f64(1.0 - SPREAD * draw)
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
