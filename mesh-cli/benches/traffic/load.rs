//! The load: requests at their time, whatever became of those before them, from four tasks.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::Fallible;

const TASKS: u32 = 4;
/// How long a caller waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// One request.
pub(crate) struct Sample {
    /// When it was due, after the load began.
    pub(crate) at: Duration,
    pub(crate) took: Duration,
    /// Nothing where its caller gave up, or its connection broke.
    pub(crate) status: Option<StatusCode>,
}

/// Where requests are sent, by turns, over connections that are kept.
pub(crate) struct Doors {
    doors: Vec<Door>,
    next: AtomicUsize,
}

struct Door {
    address: SocketAddr,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
}

// === impl Sample ===

impl Sample {
    pub(crate) fn good(&self) -> bool {
        self.status == Some(StatusCode::OK)
    }
}

// === impl Doors ===

impl Doors {
    pub(crate) fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Arc<Self> {
        let door = |address| Door {
            address,
            idle: Mutex::default(),
        };
        Arc::new(Self {
            doors: addresses.into_iter().map(door).collect(),
            next: AtomicUsize::new(0),
        })
    }

    /// Sends so many requests a second for so long.
    pub(crate) async fn load(
        self: &Arc<Self>,
        rate: u32,
        lasts: Duration,
    ) -> Fallible<Vec<Sample>> {
        let (begin, mut tasks, mut all) = (Instant::now(), JoinSet::new(), Vec::new());
        for _ in 0..TASKS {
            tasks.spawn(send(Arc::clone(self), begin, rate, lasts));
        }
        while let Some(samples) = tasks.join_next().await {
            all.extend(samples?);
        }
        Ok(all)
    }

    /// One request to the end of its answer.
    async fn one(&self) -> Fallible<StatusCode> {
        let nth = self.next.fetch_add(1, Ordering::Relaxed) % self.doors.len();
        let door = &self.doors[nth];
        let mut sender = match door.kept() {
            Some(sender) => sender,
            None => open(door.address).await?,
        };
        let status = ask(&mut sender, "app", "/").await?;
        let mut idle = door.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(sender);
        Ok(status)
    }
}

impl Door {
    fn kept(&self) -> Option<SendRequest<Empty<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(SendRequest::is_ready)
    }
}

/// What a GET on a connection of its own is answered with.
pub(crate) async fn get(address: SocketAddr, host: &str, path: &str) -> Fallible<StatusCode> {
    timeout(PATIENCE, async {
        ask(&mut open(address).await?, host, path).await
    })
    .await?
}

async fn open(address: SocketAddr) -> Fallible<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn ask(
    sender: &mut SendRequest<Empty<Bytes>>,
    host: &str,
    path: &str,
) -> Fallible<StatusCode> {
    sender.ready().await?;
    let request = Request::get(path)
        .header(header::HOST, host)
        .body(Empty::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    answer.into_body().collect().await?;
    Ok(status)
}

async fn send(doors: Arc<Doors>, begin: Instant, rate: u32, lasts: Duration) -> Vec<Sample> {
    let mut ticks = interval(Duration::from_secs(1) * TASKS / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut running, mut samples) = (JoinSet::new(), Vec::new());
    while begin.elapsed() < lasts {
        let due = ticks.tick().await;
        let doors = Arc::clone(&doors);
        running.spawn(async move {
            let answer = timeout(PATIENCE, doors.one()).await;
            Sample {
                at: due - begin,
                took: due.elapsed(),
                status: answer.ok().and_then(Result::ok),
            }
        });
        while let Some(Ok(sample)) = running.try_join_next() {
            samples.push(sample);
        }
    }
    samples.extend(running.join_all().await);
    samples
}
