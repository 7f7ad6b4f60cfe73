//! Checks of endpoints that no orchestrator watches, pure: what each check came to in, whether the
//! endpoint is well out.
//!
//! An endpoint is well until so many checks in a row have failed, and again after so many that have not.
//! One that is not well is out as an ejected one is, but for the share of a set that may be ejected: it
//! is known that it does not serve. Where all are out, all are used.

use std::sync::Arc;
use std::time::Duration;

use super::strategy::InvalidStrategy;

/// How endpoints are checked (`healthCheck`, in the words of Kuma's MeshHealthCheck).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckPolicy {
    /// From one check to the next (`interval`). Default 10 s.
    pub interval: Duration,
    /// How long one may take (`timeout`). Default 2 s.
    pub timeout: Duration,
    /// Failures in a row after which an endpoint is out (`unhealthyThreshold`). Default 3.
    pub unhealthy: u32,
    /// Successes in a row after which it is back (`healthyThreshold`). Default 1.
    pub healthy: u32,
    /// What is asked.
    pub kind: CheckKind,
}

/// What an endpoint is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckKind {
    /// Whether a service of it serves, by the health checking protocol of gRPC; the empty name is the
    /// server as a whole.
    Grpc(Arc<str>),
    /// A GET of this path, which it answers with one of these statuses.
    Http(Arc<str>, Box<[u16]>),
    /// Whether a connection can be opened; through TLS where the transport has it.
    Tcp,
}

/// What the checks of one endpoint have come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    out: bool,
    /// Checks in a row that speak against the state that it is in.
    against: u32,
}

// === impl CheckPolicy ===

impl CheckPolicy {
    /// The defaults for a kind.
    pub fn new(kind: CheckKind) -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            unhealthy: 3,
            healthy: 1,
            kind,
        }
    }

    /// Checks that it can be.
    ///
    /// ```
    /// use std::time::Duration;
    /// use inmesh_core::balance::{CheckKind, CheckPolicy};
    /// let mut policy = CheckPolicy::new(CheckKind::Tcp);
    /// assert!(policy.check().is_ok());
    /// policy.timeout = Duration::from_secs(60);
    /// assert!(policy.check().is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidStrategy`] if the interval is not 1 s to 1 h, the timeout 0 or longer than it, a threshold
    /// not 1 to 100, or the path or the statuses are not of HTTP.
    pub fn check(&self) -> Result<(), InvalidStrategy> {
        let refuse = |why: String| Err(InvalidStrategy::new(why));
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3_600));
        if !(second..=hour).contains(&self.interval) {
            return refuse("an interval is 1s to 1h".into());
        }
        if self.timeout.is_zero() || self.timeout > self.interval {
            return refuse("a timeout is above 0s and at most the interval".into());
        }
        for threshold in [self.unhealthy, self.healthy] {
            if !(1..=100).contains(&threshold) {
                return refuse(format!("a threshold of {threshold} is not 1 to 100"));
            }
        }
        if let CheckKind::Http(path, statuses) = &self.kind {
            let plain = path
                .bytes()
                .all(|b| (b'!'..=b'~').contains(&b) && b != b'#');
            if !path.starts_with('/') || !plain {
                return refuse(format!("{path:?} is not a path of a request"));
            }
            if statuses.is_empty() || !statuses.iter().all(|s| (200..=599).contains(s)) {
                return refuse("a status that is expected is 200 to 599".into());
            }
        }
        Ok(())
    }
}

// === impl Checked ===

impl Checked {
    /// Takes what a check came to. Returns whether the endpoint is well, if that has changed.
    pub fn handle(&mut self, success: bool, policy: &CheckPolicy) -> Option<bool> {
        if success != self.out {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let enough = match self.out {
            true => policy.healthy,
            false => policy.unhealthy,
        };
        if self.against < enough {
            return None;
        }
        (self.out, self.against) = (!self.out, 0);
        Some(!self.out)
    }
}
