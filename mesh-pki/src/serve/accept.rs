//! A listening socket in, a task for each connection out: the accept loop of every server in this
//! crate.
//!
//! The loop owns its connections: they end with it. A failed `accept` concerns one connection, or a
//! lack of file descriptors, and never ends the loop. What a connection speaks, and how long its
//! handshake may take, is its server's.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use tokio::task::JoinSet;

/// How long the loop pauses after the system could not accept a connection.
const REST: Duration = Duration::from_millis(100);

/// A socket that accepts connections.
pub(crate) trait Listen {
    /// One accepted connection.
    type Stream;

    /// Waits for the next connection. Cancel safe.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

#[cfg(any(feature = "ca-server", feature = "federation"))]
impl Listen for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        let (stream, _) = Self::accept(self).await?;
        // Small messages that wait for an answer; a socket that refuses it is only slower.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

#[cfg(unix)]
impl Listen for tokio::net::UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(Self::accept(self).await?.0)
    }
}

/// Accepts connections until `shutdown` is ready, and ends those that are open then.
///
/// `server` names the listener in the log. While `room` connections are open, further ones wait in
/// the system's queue. `serve` gets each connection with the number of those that are open, and
/// returns the future that serves it, or `None` to close it at once.
pub(crate) async fn accept<L, T>(
    listener: &L,
    server: &'static str,
    room: usize,
    mut serve: impl FnMut(L::Stream, usize) -> Option<T>,
    shutdown: impl Future<Output = ()>,
) where
    L: Listen,
    T: Future<Output = ()> + Send + 'static,
{
    let mut shutdown = pin!(shutdown);
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => return,
            Some(_) = open.join_next() => {}
            accepted = listener.accept(), if open.len() < room => match accepted {
                Ok(stream) => {
                    if let Some(serving) = serve(stream, open.len()) {
                        open.spawn(serving);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, server, "a connection cannot be accepted");
                    tokio::time::sleep(REST).await;
                }
            },
        }
    }
}

#[cfg(all(test, feature = "federation"))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use tokio::sync::{Notify, mpsc, oneshot};

    use super::*;

    /// Hands out connections that a test sends; every third `accept` fails.
    struct Script {
        streams: tokio::sync::Mutex<mpsc::Receiver<u32>>,
        calls: AtomicUsize,
    }

    impl Listen for Script {
        type Stream = u32;

        async fn accept(&self) -> io::Result<u32> {
            let mut streams = self.streams.lock().await;
            let Some(stream) = streams.recv().await else {
                return std::future::pending().await;
            };
            match self.calls.fetch_add(1, Ordering::Relaxed) % 3 {
                2 => Err(io::Error::other("no file descriptor")),
                _ => Ok(stream),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_bounded_and_end_with_the_loop() {
        let (connect, streams) = mpsc::channel(16);
        let script = Script {
            streams: tokio::sync::Mutex::new(streams),
            calls: AtomicUsize::new(0),
        };
        for stream in 0..8 {
            connect.send(stream).await.unwrap();
        }
        let seen = Arc::new(Mutex::new(Vec::new()));
        let end = Arc::new(Notify::new());
        let (stop, stopped) = oneshot::channel::<()>();
        let run = {
            let (seen, end) = (Arc::clone(&seen), Arc::clone(&end));
            tokio::spawn(async move {
                let serve = move |stream, open| {
                    seen.lock().unwrap().push((stream, open));
                    let end = Arc::clone(&end);
                    (stream != 1).then_some(async move { end.notified().await })
                };
                accept(&script, "test", 2, serve, async {
                    let _ = stopped.await;
                })
                .await;
            })
        };
        let settle = || tokio::time::sleep(2 * REST);
        settle().await;
        // 1 is closed at once, 2 fails; with 0 and 3 there is no room for more.
        assert_eq!(*seen.lock().unwrap(), [(0, 0), (1, 1), (3, 1)]);
        end.notify_one();
        settle().await;
        assert_eq!(seen.lock().unwrap().last(), Some(&(4, 1)));
        stop.send(()).unwrap();
        run.await.unwrap();
        assert_eq!(Arc::strong_count(&end), 1, "no task is left");
    }
}
