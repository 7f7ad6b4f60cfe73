//! The backends: HTTP/1.1 without TLS, in this process, each on an address that it keeps over a restart.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::Fallible;
use crate::scenario::{Event, Scenario, WORKERS};

pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    work: Work,
    /// Bound and not listening: a connection is refused, and no other socket gets the port.
    _held: TcpSocket,
    serving: Option<Serving>,
}

#[derive(Clone)]
struct Work {
    takes: Duration,
    /// How many it does at once; without it, all.
    workers: Option<Arc<Semaphore>>,
    begun: Arc<AtomicU64>,
}

struct Serving {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

// === impl Backend ===

impl Backend {
    /// The `nth` backend of a scenario, which serves unless all refuse.
    pub(crate) fn new(scenario: &Scenario, nth: usize) -> Fallible<Self> {
        let overload = scenario.event == Event::Overload;
        let held = socket("127.0.0.1:0".parse()?)?;
        let mut backend = Self {
            address: held.local_addr()?,
            work: Work {
                takes: scenario.takes(nth),
                workers: overload.then(|| Arc::new(Semaphore::new(WORKERS))),
                begun: Arc::default(),
            },
            _held: held,
            serving: None,
        };
        if scenario.event != Event::Refuse {
            backend.start()?;
        }
        Ok(backend)
    }

    pub(crate) fn start(&mut self) -> Fallible<()> {
        let listener = socket(self.address)?.listen(4_096)?;
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(serve(listener, self.work.clone(), stopped));
        self.serving = Some(Serving { stop, task });
        Ok(())
    }

    /// Takes no more connections, answers what it has, and closes those that it has.
    pub(crate) async fn stop(&mut self) -> Fallible<()> {
        if let Some(serving) = self.serving.take() {
            serving.stop.send_replace(true);
            serving.task.await?;
        }
        Ok(())
    }

    /// How many requests have reached it.
    pub(crate) fn begun(&self) -> u64 {
        self.work.begun.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.task.abort();
        }
    }
}

/// A socket that shares its port with one that does not listen.
fn socket(address: SocketAddr) -> Fallible<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn serve(listener: TcpListener, work: Work, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, work.clone(), stopped.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
            _ = stopped.changed() => break,
        }
    }
    drop(listener);
    connections.join_all().await;
}

async fn connection(stream: TcpStream, work: Work, mut stopped: watch::Receiver<bool>) {
    // A caller that has gone needs no delay set.
    let _set = stream.set_nodelay(true);
    let service = service_fn(|_: Request<Incoming>| {
        let work = work.clone();
        async move {
            work.begun.fetch_add(1, Ordering::Relaxed);
            let _worker = match &work.workers {
                Some(workers) => workers.acquire().await.ok(),
                None => None,
            };
            tokio::time::sleep(work.takes).await;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    tokio::select! {
        // A caller that breaks off is counted by itself.
        _broken = served.as_mut() => return,
        _ = stopped.wait_for(|stop| *stop) => served.as_mut().graceful_shutdown(),
    }
    let _broken = served.await;
}
