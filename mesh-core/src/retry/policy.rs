//! What is sent again although a server has seen it, how often, and after how long (Gateway API,
//! HTTPRouteRetry).

use std::time::Duration;

use http::StatusCode;

use super::codes::Codes;
use super::invalid::InvalidRetry;
use crate::model::Draw;

/// The most repeats of one request; more are not made, whatever is written.
const REPEATS: u32 = 100;
/// A wait grows to this many times its base, and no further.
const GROWTH: u32 = 10;

/// Which requests are sent again, how often, and after how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    repeats: u32,
    codes: Codes,
    base: Duration,
}

// === impl RetryPolicy ===

impl RetryPolicy {
    /// Sends a request again up to so many times where its connection could not be opened, or a server
    /// broke it off and it is idempotent; 0 is never.
    ///
    /// ```
    /// use http::StatusCode;
    /// use inmesh_core::retry::RetryPolicy;
    /// let policy = RetryPolicy::new(2).on_status(503)?;
    /// assert!(policy.covers(StatusCode::SERVICE_UNAVAILABLE, None));
    /// assert!(!policy.covers(StatusCode::BAD_GATEWAY, None));
    /// # Ok::<(), inmesh_core::retry::InvalidRetry>(())
    /// ```
    pub fn new(repeats: u32) -> Self {
        Self {
            repeats: repeats.min(REPEATS),
            codes: Codes::default(),
            base: Duration::from_millis(25),
        }
    }

    /// The same after an answer of this status too, whatever the method: 502 stands for a request that a
    /// server broke off, 504 for one that was late.
    ///
    /// # Errors
    ///
    /// [`InvalidRetry`] for a status that is not one of 400 to 599.
    pub fn on_status(mut self, status: u16) -> Result<Self, InvalidRetry> {
        self.codes.add_status(status)?;
        Ok(self)
    }

    /// The same after an answer of this gRPC status code too.
    ///
    /// # Errors
    ///
    /// [`InvalidRetry`] for 0 (OK) and for codes that gRPC does not have.
    pub fn on_grpc(mut self, code: u8) -> Result<Self, InvalidRetry> {
        self.codes.add_grpc(code)?;
        Ok(self)
    }

    /// The same with another base of the wait before a repeat. Default 25 ms.
    #[must_use]
    pub fn with_backoff(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// How often a request is sent again at most.
    pub fn repeats(&self) -> u32 {
        self.repeats
    }

    /// The base of the wait.
    pub fn backoff(&self) -> Duration {
        self.base
    }

    /// The statuses after which a request is sent again.
    pub fn statuses(&self) -> &[StatusCode] {
        self.codes.statuses()
    }

    /// The gRPC status codes after which one is.
    pub fn grpc_codes(&self) -> impl Iterator<Item = u8> {
        self.codes.grpc()
    }

    /// Whether a request with such an answer is sent again.
    pub fn covers(&self, status: StatusCode, grpc: Option<u8>) -> bool {
        self.codes.covers(status, grpc)
    }

    /// How long the `nth` repeat waits at most, counted from 1.
    pub fn longest_wait(&self, nth: u32) -> Duration {
        let doubled = 1_u32.checked_shl(nth.saturating_sub(1)).unwrap_or(u32::MAX);
        self.base.saturating_mul(doubled.min(GROWTH))
    }

    /// How long the `nth` repeat waits, counted from 1: any time up to the base, doubled for each
    /// repeat before it, up to ten times the base (full jitter).
    pub fn wait(&self, nth: u32, draw: &mut Draw) -> Duration {
        let most = self.longest_wait(nth);
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(draw.below(nanos.saturating_add(1)))
    }
}
