//! An endpoint with what is known of it while it runs: load, health, speed, connections.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::ewma::Ewma;
use super::health::{Health, millis};
use super::limits::{InFlight, PortState};
use super::rates::Tally;
use super::share::{Share, SlowStart};
use crate::model::Endpoint;

/// How much of the reason of an endpoint's last failure is kept, in bytes.
#[cfg(feature = "runtime")]
const FAILURE_BYTES: usize = 512;

/// What is known of an endpoint while it runs: its load, its health, its connections.
///
/// What a choice reads comes first and in one cache line, which no other endpoint's counters share.
#[repr(C, align(64))]
pub struct EndpointState {
    inflight: InFlight,
    /// How fast it answers, an [`Ewma`] in bits; measured where a strategy asks.
    speed: AtomicU64,
    /// When its slow start began, in milliseconds after the first; 0 before.
    since: AtomicU64,
    /// Until when it takes less than its share by its own word, in milliseconds.
    shed: AtomicU64,
    /// Whether the balancer may choose it.
    pub(super) health: Health,
    slot: OnceLock<Box<dyn Any + Send + Sync>>,
    /// Why it has failed last, if it has; written where a request fails, read for the status.
    last_failure: Mutex<Option<LastFailure>>,
    /// Successes and failures since endpoints were last compared, where they are.
    tally: [AtomicU32; 2],
    /// That of the port whose endpoint it is.
    port: Arc<PortState>,
}

/// Why and when a request to an endpoint has failed by its fault.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastFailure {
    /// What was wrong.
    pub error: Box<str>,
    /// When, on the clock of the caller of [`pick`](super::pick).
    pub at: Duration,
}

/// An endpoint together with its state, which each choice reads.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[repr(C)]
pub struct Member {
    /// The state, the same `Arc` as long as addresses and transport stay.
    pub state: Arc<EndpointState>,
    /// The configuration.
    pub endpoint: Endpoint,
}

// === impl EndpointState ===

impl EndpointState {
    pub(super) fn new(port: Arc<PortState>) -> Self {
        Self {
            port,
            inflight: InFlight::default(),
            speed: AtomicU64::new(Ewma::default().to_bits()),
            since: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            health: Health::default(),
            slot: OnceLock::new(),
            last_failure: Mutex::new(None),
            tally: [AtomicU32::new(0), AtomicU32::new(0)],
        }
    }

    /// The requests and streams in flight to the endpoint, those being answered included.
    pub fn in_flight(&self) -> u32 {
        self.inflight.count()
    }

    /// How long its answers take, as peak EWMA estimates it at `now`; `None` where that is not known.
    pub fn answers_within(&self, now: Duration) -> Option<Duration> {
        let estimate = self.speed().at(now);
        (estimate > 0.0).then(|| Duration::from_secs_f32(estimate))
    }

    /// What one more request costs it at `now`.
    pub(super) fn cost(&self, now: Duration) -> u64 {
        self.speed().cost(self.in_flight(), now)
    }

    /// How much of its share it takes at `now`.
    pub(super) fn share(&self, slow_start: Option<&SlowStart>, now: Duration) -> Share {
        let now = millis(now);
        let share = slow_start.map_or_else(Share::whole, |slow_start| {
            let age = match self.since.load(Ordering::Relaxed) {
                0 => 0,
                since => (now + 1).saturating_sub(since),
            };
            slow_start.share(Duration::from_millis(age))
        });
        match self.shed.load(Ordering::Relaxed) > now {
            true => share.shed(),
            false => share,
        }
    }

    /// Counts what became of a request, for the next comparison.
    pub(super) fn count(&self, success: bool) {
        self.tally[usize::from(!success)].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted since the last comparison.
    pub(super) fn take_tally(&self) -> Tally {
        let [successes, failures] = [0, 1].map(|n| self.tally[n].swap(0, Ordering::Relaxed));
        Tally {
            successes,
            failures,
        }
    }

    /// Its slow start begins.
    pub(super) fn begin(&self, now: Duration) {
        self.since.store(millis(now) + 1, Ordering::Relaxed);
    }

    /// Its slow start begins, if it has not begun.
    pub(super) fn begin_once(&self, now: Duration) {
        if self.since.load(Ordering::Relaxed) == 0 {
            self.begin(now);
        }
    }

    /// A slow start would begin anew.
    pub(super) fn forget_start(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// It takes less than its share until then, in milliseconds.
    pub(super) fn shed_until(&self, until: u64) {
        self.shed.fetch_max(until, Ordering::Relaxed);
    }

    fn speed(&self) -> Ewma {
        Ewma::from_bits(self.speed.load(Ordering::Relaxed))
    }

    /// Changes the estimate of how fast it answers.
    pub(super) fn measure(&self, change: impl Fn(Ewma) -> Ewma) {
        let change = |bits| Some(change(Ewma::from_bits(bits)).to_bits());
        let relaxed = Ordering::Relaxed;
        // It never refuses a change.
        let _always = self.speed.fetch_update(relaxed, relaxed, change);
    }

    /// Whether it is ejected now, its half-open probe included.
    pub fn is_ejected(&self) -> bool {
        self.health.is_ejected()
    }

    /// Whether checks have found that it does not serve; it is ejected then.
    pub fn is_unwell(&self) -> bool {
        self.health.is_unwell()
    }

    /// Why it has failed last; it stays when the endpoint is well again.
    pub fn last_failure(&self) -> Option<LastFailure> {
        let last = self.last_failure.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes why it has failed, the first [`FAILURE_BYTES`] of it.
    #[cfg(feature = "runtime")]
    pub(crate) fn note_failure(&self, error: &str, at: Duration) {
        let end = error.floor_char_boundary(FAILURE_BYTES);
        let error = error.get(..end).unwrap_or_default().into();
        let mut last = self
            .last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some(LastFailure { error, at });
    }

    /// Counts one more request, if there may be one.
    pub(crate) fn enter(&self, most: u32) -> bool {
        self.inflight.enter(most)
    }

    pub(super) fn leave(&self) {
        self.inflight.leave();
    }

    /// What bounds the connections to the endpoints of its port.
    #[cfg(feature = "runtime")]
    pub(crate) fn port(&self) -> &Arc<PortState> {
        &self.port
    }

    /// What `connect` keeps for the endpoint: made at first use, dropped with it.
    #[cfg(feature = "runtime")]
    pub(crate) fn slot<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.slot.get_or_init(|| Box::new(make())).downcast_ref()
    }
}

impl fmt::Debug for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointState")
            .field("in_flight", &self.in_flight())
            .field("ejected", &self.is_ejected())
            .field("connected", &self.slot.get().is_some())
            .finish()
    }
}

// === impl Member ===

impl Member {
    /// An endpoint without load and in good health.
    ///
    /// ```
    /// use inmesh_core::balance::Member;
    /// use inmesh_core::model::{Endpoint, Transport};
    /// let member = Member::new(Endpoint::new(([10, 0, 0, 1], 80).into(), Transport::Plain));
    /// assert!(!member.state.is_ejected());
    /// ```
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            state: Arc::new(EndpointState::new(Arc::default())),
        }
    }
}
