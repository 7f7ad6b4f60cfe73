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
/// A length of time as people read it: `90 s`, `1.5 s`, `250 ms`.
///
/// ```
/// use std::time::Duration;
///
/// use inmesh_pki::clock::Span;
///
/// assert_eq!(Span(Duration::from_secs(90)).to_string(), "90 s");
/// assert_eq!(Span(Duration::from_millis(1_500)).to_string(), "1.5 s");
/// assert_eq!(Span(Duration::from_micros(250_900)).to_string(), "250 ms");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis < 1_000 {
            return write!(f, "{millis} ms");
        }
        let seconds = f64::from(u32::try_from(millis % 1_000).unwrap_or_default()) / 1_000.0;
        write!(f, "{}", millis / 1_000)?;
        if seconds > 0.0 {
            let digits = format!("{seconds:.3}");
            f.write_str(digits.trim_start_matches('0').trim_end_matches('0'))?;
        }
        f.write_str(" s")
    }
}
