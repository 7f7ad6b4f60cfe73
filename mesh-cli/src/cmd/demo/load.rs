//! The steady load, and what it sees.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use inmesh_core::Body;
use inmesh_core::runtime::Client;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How many requests are on their way at most.
pub(super) const WORKERS: usize = 8;
/// How long a worker rests between two requests.
const PACE: Duration = Duration::from_millis(15);
/// The slowest request that the histogram tells apart, in microseconds.
const SLOWEST: u64 = 60_000_000;

/// What was seen since some moment.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) since: Instant,
    pub(super) requests: u64,
    pub(super) failures: u64,
    /// Answers by version and by endpoint of cart.
    pub(super) versions: BTreeMap<String, u64>,
    pub(super) endpoints: BTreeMap<String, u64>,
    /// Answers whose version was not the one that their group asks for.
    pub(super) strays: u64,
    /// The last failure, for a person.
    pub(super) last_failure: Option<String>,
    latency: Histogram<u64>,
}

/// The load. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Load(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    total: Mutex<Seen>,
    window: Mutex<Seen>,
    stop: AtomicBool,
    sent: AtomicU64,
}

// === impl Seen ===

impl Seen {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            since: Instant::now(),
            requests: 0,
            failures: 0,
            versions: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            strays: 0,
            last_failure: None,
            latency: Histogram::new_with_bounds(1, SLOWEST, 3)?,
        })
    }

    /// Requests a second.
    pub(super) fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let requests = self.requests as f64;
        requests / self.since.elapsed().as_secs_f64().max(0.001)
    }

    /// The share of answers that were as they should be.
    pub(super) fn success(&self) -> f64 {
        share(self.requests - self.failures, self.requests)
    }

    /// The share of a version or endpoint among all good answers.
    pub(super) fn share_of(of: &BTreeMap<String, u64>, name: &str) -> f64 {
        share(of.get(name).copied().unwrap_or_default(), of.values().sum())
    }

    /// A quantile of the latency.
    pub(super) fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latency.value_at_quantile(quantile))
    }

    fn add(&mut self, took: Duration, answer: &Result<HeaderMap, String>, beta: bool) {
        self.requests += 1;
        let micros = u64::try_from(took.as_micros()).unwrap_or(SLOWEST);
        self.latency.saturating_record(micros);
        match answer {
            Ok(headers) => {
                let text = |name: &str| {
                    let value = headers.get(name).and_then(|v| v.to_str().ok());
                    value.unwrap_or("?").to_owned()
                };
                let version = text("x-version");
                self.strays += u64::from((version == "v2") != beta);
                *self.versions.entry(version).or_default() += 1;
                *self.endpoints.entry(text("x-endpoint")).or_default() += 1;
            }
            Err(failure) => {
                self.failures += 1;
                self.last_failure = Some(failure.clone());
            }
        }
    }
}

fn share(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    let share = part as f64 / whole.max(1) as f64;
    share
}

// === impl Load ===

impl Load {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Shared {
            total: Mutex::new(Seen::new()?),
            window: Mutex::new(Seen::new()?),
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
        })))
    }

    /// Sends until it is stopped: every second request belongs to the group `beta`.
    pub(super) fn start(&self, client: &Client) -> JoinSet<()> {
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            let (shared, client) = (Arc::clone(&self.0), client.clone());
            workers.spawn(async move {
                while !shared.stop.load(Ordering::Relaxed) {
                    let beta = shared.sent.fetch_add(1, Ordering::Relaxed) % 2 == 0;
                    let started = Instant::now();
                    let answer = one(&client, beta).await;
                    let took = started.elapsed();
                    for seen in [&shared.total, &shared.window] {
                        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                        seen.add(took, &answer, beta);
                    }
                    sleep(PACE).await;
                }
            });
        }
        workers
    }

    pub(super) fn stop(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }

    /// What was seen since the start.
    pub(super) fn total(&self) -> Seen {
        self.0
            .total
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What was seen since [`reset`](Self::reset).
    pub(super) fn window(&self) -> Seen {
        self.0
            .window
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Begins a new window; returns what the last one saw.
    pub(super) fn reset(&self) -> anyhow::Result<Seen> {
        let mut window = self.0.window.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::replace(&mut *window, Seen::new()?))
    }
}

/// One request through the mesh to web; good if the whole chain answered.
async fn one(client: &Client, beta: bool) -> Result<HeaderMap, String> {
    let group = if beta { "beta" } else { "all" };
    let request = Request::get("http://web/")
        .header("x-group", group)
        .body(Body::empty())
        .map_err(|e| e.to_string())?;
    let (head, body) = client.send(request).await.into_parts();
    let body = body
        .collect()
        .await
        .map_err(|e| format!("the answer broke off: {e}"))?;
    if head.status.is_success() {
        Ok(head.headers)
    } else {
        let text = String::from_utf8_lossy(&body.to_bytes()).trim().to_owned();
        Err(format!("{}: {text}", head.status))
    }
}
