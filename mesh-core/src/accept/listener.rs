//! The accept loop, and a look at first bytes without taking them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use super::place::Place;
use super::{Detected, Socket, Sockets, detect, is_text, may_be_http2};

/// Connections that may wait to be accepted, within what the kernel allows. The standard library
/// asks for 128, which the callers of one busy service fill when they all come back at once; what
/// finds the queue full tries again after a second.
const QUEUE: i32 = 4096;
/// How long the loop rests when the process is out of descriptors or memory.
const REST: Duration = Duration::from_millis(50);

/// A listening socket whose loop survives what the network and the kernel do to it, and which has a
/// number of connections at most.
#[derive(Debug)]
pub(crate) struct Listener {
    inner: TcpListener,
    places: Arc<Semaphore>,
    open: Arc<AtomicUsize>,
    /// All sockets that there may be; `None` for one that needs none of them.
    sockets: Option<Arc<Sockets>>,
}

// === impl Listener ===

impl Listener {
    /// `connections` is how many there may be at once; further ones wait in the kernel's queue.
    pub(crate) fn new(inner: TcpListener, connections: usize) -> Self {
        // To listen again sets the length of the queue; a socket that cannot keeps the old one.
        if let Err(e) = SockRef::from(&inner).listen(QUEUE) {
            tracing::debug!(error = %e, "the queue of a listener keeps its length");
        }
        let places = connections.min(Semaphore::MAX_PERMITS);
        Self {
            inner,
            places: Arc::new(Semaphore::new(places)),
            open: Arc::default(),
            sockets: None,
        }
    }

    /// The same listener, whose connections are among all `sockets` of callers.
    pub(crate) fn within(mut self, sockets: &Arc<Sockets>) -> Self {
        self.sockets = Some(Arc::clone(sockets));
        self
    }

    /// How many of its connections are open.
    pub(crate) fn open(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.open)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// The next connection, once there is a place for it. Errors of a single connection are skipped;
    /// where the process is out of descriptors it rests for a moment and tries again. One that is
    /// accepted and finds no socket left waits, so that a listener at rest holds none.
    pub(crate) async fn accept(&self) -> (Socket, SocketAddr) {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&self.places).acquire_owned().await else {
            return std::future::pending().await;
        };
        loop {
            match self.inner.accept().await {
                Ok((stream, from)) => {
                    let socket = match &self.sockets {
                        Some(sockets) => Some(sockets.callers.take().await),
                        None => None,
                    };
                    let place = Place::new(permit, socket, &self.open);
                    return (Socket::accepted(stream, place), from);
                }
                Err(e) if of_one_connection(&e) => tracing::debug!(error = %e, "not accepted"),
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept; trying again");
                    sleep(REST).await;
                }
            }
        }
    }
}

fn of_one_connection(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// What a caller's first bytes may be taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Anything.
    Free,
    /// HTTP, which is declared: only the version is asked for, and all that is not surely HTTP/2 is
    /// HTTP/1, whose server has an answer for it.
    Http,
    /// HTTP wherever it is a text: a caller without an identity may not choose that its requests are
    /// opaque, and so neither decided on nor cleaned of claims.
    Text,
}

/// How much longer a method or preface may take that has begun.
const BEGUN: Duration = Duration::from_secs(1);

/// What the connection speaks, by a look at its first bytes, which stay in the socket. What is
/// undecided at the deadline is opaque, if it may be; [`Detected::NeedMore`] is the answer where not
/// one byte has come. A connection that ends early is opaque.
pub(crate) async fn peek(stream: &TcpStream, taken: Taken, deadline: Instant) -> Detected {
    let mut bytes = [0; 32];
    let mut seen = 0;
    // A caller that has begun a method or a preface is heard a little longer.
    let (mut deadline, mut longer) = (deadline, taken == Taken::Free);
    let detected = loop {
        match timeout_at(deadline, stream.peek(&mut bytes)).await {
            Ok(Ok(len)) if len > 0 => {
                let detected = detect(&bytes[..len]);
                if detected != Detected::NeedMore {
                    seen = len;
                    break detected;
                }
                if taken == Taken::Http && !may_be_http2(&bytes[..len]) {
                    break Detected::Http1;
                }
                if len == seen {
                    // Nothing new: peeking again would spin.
                    let pause = sleep(Duration::from_millis(2));
                    if timeout_at(deadline, pause).await.is_err() {
                        if !std::mem::take(&mut longer) {
                            break Detected::Opaque;
                        }
                        deadline = Instant::now() + BEGUN;
                    }
                }
                seen = len;
            }
            Err(_) if seen == 0 => return Detected::NeedMore,
            _ => break Detected::Opaque,
        }
    };
    match (detected, taken) {
        (Detected::Opaque | Detected::Tls, Taken::Http) => Detected::Http1,
        (Detected::Opaque, Taken::Text) if is_text(&bytes[..seen]) => Detected::Http1,
        _ => detected,
    }
}
