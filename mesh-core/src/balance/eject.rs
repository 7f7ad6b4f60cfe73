//! Ejection of endpoints that fail in a row, sans I/O: events and the time come in, verdicts go
//! out.
//!
//! Each endpoint has a [`Breaker`]. It counts failures in a row; at the threshold, and if the set
//! has room for one more ejection, the endpoint is out for base x count. Then a single request may
//! probe it: success brings it back, failure ejects it again for longer. It refuses to count what
//! is not the endpoint's fault; that is the caller's judgement.

use std::time::Duration;

/// When endpoints are ejected and for how long. The defaults are those of Envoy and gRPC (A50).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EjectPolicy {
    /// Failures in a row that eject; 0 turns ejection off. Default 5.
    pub consecutive: u32,
    /// The first ejection's length; the nth in a row is n times as long. Default 30 s.
    pub base: Duration,
    /// The longest ejection. Default 300 s.
    pub longest: Duration,
    /// The share of a set, in percent, that may be out at once; one always may where there are two
    /// or more. Default 10.
    pub percent: u8,
}

/// What became of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ejection {
    /// The endpoint is out until this moment.
    Ejected {
        /// The end of the ejection, on the caller's clock.
        until: Duration,
    },
    /// It stays as it was.
    Kept,
}

/// The circuit breaker of one endpoint. All times are on one monotonic clock of the caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Breaker {
    failures: u32,
    ejections: u32,
    until: Option<Duration>,
    probing: bool,
    returned: Duration,
}

// === impl EjectPolicy ===

impl EjectPolicy {
    /// How many of `total` endpoints may be out at once.
    ///
    /// ```
    /// use inmesh_core::balance::EjectPolicy;
    /// let policy = EjectPolicy::default();
    /// assert_eq!([1, 2, 19, 20].map(|n| policy.allowed(n)), [0, 1, 1, 2]);
    /// ```
    pub fn allowed(&self, total: usize) -> usize {
        match total {
            0 | 1 => 0,
            _ => (total * usize::from(self.percent.min(100)) / 100).max(1),
        }
    }

    fn length(&self, ejections: u32) -> Duration {
        self.base.saturating_mul(ejections.max(1)).min(self.longest)
    }
}

impl Default for EjectPolicy {
    fn default() -> Self {
        Self {
            consecutive: 5,
            base: Duration::from_secs(30),
            longest: Duration::from_secs(300),
            percent: 10,
        }
    }
}

// === impl Breaker ===

impl Breaker {
    /// A request failed by the endpoint's fault. `room` says whether the set may eject one more.
    pub fn handle_failure(&mut self, policy: &EjectPolicy, now: Duration, room: bool) -> Ejection {
        if self.until.is_some() {
            if !self.probing {
                // A request that was on its way when the endpoint was ejected.
                return Ejection::Kept;
            }
            self.probing = false;
            return self.eject(policy, now);
        }
        self.failures = self.failures.saturating_add(1);
        if policy.consecutive == 0 || self.failures < policy.consecutive || !room {
            return Ejection::Kept;
        }
        // Healthy for as long as it was last out: the count starts again.
        if now.saturating_sub(self.returned) > policy.length(self.ejections) {
            self.ejections = 0;
        }
        self.eject(policy, now)
    }

    /// A request succeeded. Returns whether this brought the endpoint back.
    pub fn handle_success(&mut self, now: Duration) -> bool {
        self.failures = 0;
        if !self.probing {
            // In and fine, or a straggler of before the ejection, which proves nothing.
            return false;
        }
        self.probing = false;
        self.until = None;
        self.returned = now;
        true
    }

    /// A probe ended without a judgement (cancelled, or refused before it was sent by our own
    /// doing): another may follow.
    pub fn handle_cancel(&mut self) {
        self.probing = false;
    }

    /// Whether a request may probe the endpoint now; if so it is the only one until it ends.
    pub fn poll_probe(&mut self, now: Duration) -> bool {
        let due = !self.probing && self.until.is_some_and(|until| until <= now);
        self.probing |= due;
        due
    }

    /// Until when it is out, the wait for a probe's answer included; `None` where it is in.
    pub fn ejected_until(&self) -> Option<Duration> {
        self.until
    }

    /// Whether a probe is on its way.
    pub fn is_probing(&self) -> bool {
        self.probing
    }

    /// Failures in a row so far.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    fn eject(&mut self, policy: &EjectPolicy, now: Duration) -> Ejection {
        self.failures = 0;
        self.ejections = self.ejections.saturating_add(1);
        let until = now + policy.length(self.ejections);
        self.until = Some(until);
        Ejection::Ejected { until }
    }
}
