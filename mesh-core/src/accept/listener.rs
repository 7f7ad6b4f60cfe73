//! The accept loop, and a look at first bytes without taking them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Detected, Socket, detect, may_be_http2};

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
        }
    }

    /// The next connection, once there is a place for it. Errors of a single connection are skipped;
    /// where the process is out of descriptors it rests for a moment and tries again.
    pub(crate) async fn accept(&self) -> (Socket, SocketAddr) {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
            return std::future::pending().await;
        };
        loop {
            match self.inner.accept().await {
                Ok((stream, from)) => {
                    // A connection works without it, only later.
                    let _slow = stream.set_nodelay(true);
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

/// What the connection speaks, by a look at its first bytes, which stay in the socket. At the
/// deadline, what is undecided is opaque; a connection that ends early is too.
///
/// Where HTTP is declared, only the version is asked for, and all that is not surely HTTP/2 is
/// HTTP/1, whose server has an answer for it.
pub(crate) async fn peek(stream: &TcpStream, declared: bool, deadline: Instant) -> Detected {
    match first_bytes(stream, declared, deadline).await {
        Detected::Opaque | Detected::Tls if declared => Detected::Http1,
        detected => detected,
    }
}

async fn first_bytes(stream: &TcpStream, declared: bool, deadline: Instant) -> Detected {
    let mut bytes = [0; 32];
    let mut seen = 0;
    loop {
        match timeout_at(deadline, stream.peek(&mut bytes)).await {
            Ok(Ok(len)) if len > 0 => {
                let detected = detect(&bytes[..len]);
                if detected != Detected::NeedMore {
                    return detected;
                }
                if declared && !may_be_http2(&bytes[..len]) {
                    return Detected::Http1;
                }
                if len == seen {
                    // Nothing new: peeking again would spin.
                    if timeout_at(deadline, sleep(Duration::from_millis(2)))
                        .await
                        .is_err()
                    {
                        return Detected::Opaque;
                    }
                }
                seen = len;
            }
            _ => return Detected::Opaque,
        }
    }
}
