//! Ejection of endpoints that fail, sans I/O: events and the time come in, verdicts go out.
//!
//! Each endpoint has a [`Breaker`]. It counts failures in a row; at a threshold, and if the set
//! has room for one more ejection, the endpoint is out for base x count. Once in an interval all are
//! compared ([`outliers`](super::rates::outliers)). Then a single request may probe one that is out:
//! success brings it back, failure ejects it again for longer. It refuses to count what is not the
//! endpoint's fault; that is the caller's judgement.

use std::time::Duration;

use super::rates::{FailurePercentage, SuccessRate};

/// When endpoints are ejected and for how long (`outlierDetection` of a DestinationRule). The defaults
/// are those of Envoy and gRPC (A50).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EjectPolicy {
    /// Failures in a row that eject; 0 is never (`consecutive5xxErrors`). Default 5.
    pub consecutive: u32,
    /// Failures in a row that eject and are 502, 503, 504, UNAVAILABLE, or no answer at all; 0 is never
    /// (`consecutiveGatewayErrors`). Default 0.
    pub gateway: u32,
    /// The failures in a row that eject where an endpoint was not reached or did not answer, counted by
    /// themselves and no longer as one of the others (`splitExternalLocalOriginErrors`,
    /// `consecutiveLocalOriginFailures`); `None` counts them as others. Default `None`.
    pub local: Option<u32>,
    /// How often the endpoints of a set are compared (`interval`). Default 10 s.
    pub interval: Duration,
    /// Ejects those whose share of successes is far below that of the others. Default `None`.
    pub success_rate: Option<SuccessRate>,
    /// Ejects those that fail more than a share of their requests. Default `None`.
    pub failure_percentage: Option<FailurePercentage>,
    /// The first ejection's length; the nth in a row is n times as long (`baseEjectionTime`). Default
    /// 30 s.
    pub base: Duration,
    /// The longest ejection. Default 300 s.
    pub longest: Duration,
    /// The share of a set, in percent, that may be out at once; one always may where there are two
    /// or more (`maxEjectionPercent`). Default 10.
    pub percent: u8,
    /// Below this share of endpoints that are not ejected, in percent, all are used as if none were:
    /// panic (`minHealthPercent`). Default 0: only where all are ejected.
    pub panic_percent: u8,
}

/// How a request failed by the fault of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// It answered with an error of its own.
    Answer,
    /// It answered for another that it did not reach, or is not available: 502, 503, 504, UNAVAILABLE.
    Gateway,
    /// It was not reached, or did not answer.
    LocalOrigin,
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
    gateway: u32,
    local: u32,
    ejections: u32,
    until: Option<Duration>,
    probing: bool,
    returned: Duration,
}

// === impl EjectPolicy ===

impl EjectPolicy {
    /// The policy where none is set.
    pub(super) const DEFAULT: Self = Self {
        consecutive: 5,
        gateway: 0,
        local: None,
        interval: Duration::from_secs(10),
        success_rate: None,
        failure_percentage: None,
        base: Duration::from_secs(30),
        longest: Duration::from_secs(300),
        percent: 10,
        panic_percent: 0,
    };

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

    /// Whether so many of so many are too few to choose from.
    pub(super) fn panics(&self, ejected: usize, total: usize) -> bool {
        let well = total.saturating_sub(ejected);
        total > 0 && (well == 0 || well * 100 < total * usize::from(self.panic_percent.min(100)))
    }

    /// Whether the endpoints of a set are compared.
    pub(super) fn compares(&self) -> bool {
        self.success_rate.is_some() || self.failure_percentage.is_some()
    }

    fn length(&self, ejections: u32) -> Duration {
        self.base.saturating_mul(ejections.max(1)).min(self.longest)
    }
}

impl Default for EjectPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

// === impl Breaker ===

impl Breaker {
    /// A request failed by the endpoint's fault. `room` says whether the set may eject one more.
    pub fn handle_failure(
        &mut self,
        failure: Failure,
        policy: &EjectPolicy,
        now: Duration,
        room: bool,
    ) -> Ejection {
        if self.until.is_some() {
            if !self.probing {
                // A request that was on its way when the endpoint was ejected.
                return Ejection::Kept;
            }
            self.probing = false;
            return self.eject(policy, now);
        }
        self.count(failure, policy);
        let over = |count: u32, limit: u32| limit != 0 && count >= limit;
        let out = over(self.failures, policy.consecutive)
            || over(self.gateway, policy.gateway)
            || over(self.local, policy.local.unwrap_or(0));
        if !out || !room {
            return Ejection::Kept;
        }
        self.eject_anew(policy, now)
    }

    /// The endpoint is an outlier among those of its set. `room` says whether the set may eject one
    /// more.
    pub fn handle_outlier(&mut self, policy: &EjectPolicy, now: Duration, room: bool) -> Ejection {
        if self.until.is_some() || !room {
            return Ejection::Kept;
        }
        self.eject_anew(policy, now)
    }

    /// The set has become too small for as many ejections: this one ends.
    pub fn handle_pardon(&mut self, now: Duration) {
        self.until = None;
        self.probing = false;
        self.returned = now;
    }

    fn count(&mut self, failure: Failure, policy: &EjectPolicy) {
        let more = |count: &mut u32| *count = count.saturating_add(1);
        match failure {
            Failure::LocalOrigin if policy.local.is_some() => return more(&mut self.local),
            // It was reached.
            Failure::Answer | Failure::Gateway => self.local = 0,
            Failure::LocalOrigin => {}
        }
        more(&mut self.failures);
        match failure {
            Failure::Answer => self.gateway = 0,
            Failure::Gateway | Failure::LocalOrigin => more(&mut self.gateway),
        }
    }

    /// Ejects an endpoint that is in.
    fn eject_anew(&mut self, policy: &EjectPolicy, now: Duration) -> Ejection {
        // Healthy for as long as it was last out: the count starts again.
        if now.saturating_sub(self.returned) > policy.length(self.ejections) {
            self.ejections = 0;
        }
        self.eject(policy, now)
    }

    /// A request succeeded. Returns whether this brought the endpoint back.
    pub fn handle_success(&mut self, now: Duration) -> bool {
        self.forget();
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
        self.failures.saturating_add(self.local)
    }

    fn forget(&mut self) {
        (self.failures, self.gateway, self.local) = (0, 0, 0);
    }

    fn eject(&mut self, policy: &EjectPolicy, now: Duration) -> Ejection {
        self.forget();
        self.ejections = self.ejections.saturating_add(1);
        let until = now + policy.length(self.ejections);
        self.until = Some(until);
        Ejection::Ejected { until }
    }
}
