//! Where wall-clock time comes from: drivers are given a [`Clock`], decisions are given its value.
//! Nothing else in this crate reads the time of day.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// A source of wall-clock time.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The current time of day; it may jump in both directions.
    fn now(&self) -> SystemTime;
}

/// The clock of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The system clock as the shared handle that drivers take.
    #[must_use]
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one clock that everything else is given"
    )]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that stands still until it is set; for tests and simulations.
///
/// Clones share the same hand.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
///
/// use inmesh_pki::clock::{Clock, ManualClock};
///
/// let clock = ManualClock::new(UNIX_EPOCH);
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now(), UNIX_EPOCH + Duration::from_secs(60));
/// ```
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<SystemTime>>);

impl ManualClock {
    /// A clock that says `now`.
    #[must_use]
    pub fn new(now: SystemTime) -> Self {
        Self(Arc::new(Mutex::new(now)))
    }

    /// Sets the clock to `now`, backwards or forwards.
    pub fn set(&self, now: SystemTime) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Moves the clock forward by `by`.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now += by;
    }

    /// This clock as the shared handle that drivers take.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn Clock> {
        Arc::new(self.clone())
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A clock that starts at a given time of day and follows tokio's, so that it obeys paused time.
///
/// Clones share the same hand, including every [`TokioClock::set`].
///
/// ```
/// use std::time::UNIX_EPOCH;
///
/// use inmesh_pki::clock::{Clock, TokioClock};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// assert!(TokioClock::new(UNIX_EPOCH).now() >= UNIX_EPOCH);
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TokioClock(Arc<Mutex<(SystemTime, tokio::time::Instant)>>);

impl TokioClock {
    /// A clock that says `now` and runs on with tokio's time.
    #[must_use]
    pub fn new(now: SystemTime) -> Self {
        Self(Arc::new(Mutex::new((now, tokio::time::Instant::now()))))
    }

    /// Sets the time of day, as an operator or NTP would; it runs on from there.
    pub fn set(&self, now: SystemTime) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (now, tokio::time::Instant::now());
    }

    /// This clock as the shared handle that drivers take.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn Clock> {
        Arc::new(self.clone())
    }
}

impl Clock for TokioClock {
    fn now(&self) -> SystemTime {
        let (base, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        base + since.elapsed()
    }
}
