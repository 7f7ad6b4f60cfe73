//! How calls for a leaf have ended in, [`CaCounts`] for metrics out. Nothing that a caller sends
//! becomes a name here: reasons and methods are enums, so the number of series is fixed.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::Code;

use crate::ca::attest::Method;

/// What a server has done so far; every number only grows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CaCounts {
    /// Leaves that were handed out.
    pub issued: u64,
    /// Calls for a leaf that were deferred by pacing.
    pub paced: u64,
    /// Calls for a leaf that were refused, by reason.
    pub refused: BTreeMap<Refusal, u64>,
    /// Proofs that proved nothing, of any call, by what was brought.
    pub attestations_failed: BTreeMap<Method, u64>,
    /// How long it took to hand a leaf out, from the head of the call to its answer.
    pub latency: Latency,
}

/// Why a call for a leaf was refused, from the CA's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// What was brought as a proof proves nothing.
    Attestation,
    /// The CA could not sign or write, or no token review was available.
    Ca,
    /// The caller may have no ID, or not the one that it asked for.
    Policy,
    /// The request is malformed or too large.
    Request,
}

/// A histogram of durations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Latency {
    /// One for each bound, and one for what took longer.
    within: [u64; Self::BOUNDS.len() + 1],
    sum: Duration,
}

/// How long after a refusal further ones for the same reason are only counted: callers make them at will.
const QUIET: Duration = Duration::from_secs(30);

/// Which refusals were logged, by reason: when the last one was, and how many were kept back since.
#[derive(Debug, Default)]
pub(super) struct RefusalsLogged(BTreeMap<Refusal, (Option<Duration>, u64)>);

/// How one call for a leaf has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Issued,
    Paced,
    Refused(Refusal),
}

// === impl CaCounts ===

impl CaCounts {
    /// Counts a call for a leaf that took so long.
    pub(super) fn end(&mut self, ended: Ended, took: Duration) {
        match ended {
            Ended::Issued => {
                self.issued += 1;
                self.latency.record(took);
            }
            Ended::Paced => self.paced += 1,
            Ended::Refused(refusal) => *self.refused.entry(refusal).or_default() += 1,
        }
    }

    /// Counts a proof that proved nothing.
    pub(super) fn failed(&mut self, method: Method) {
        *self.attestations_failed.entry(method).or_default() += 1;
    }
}

// === impl Refusal ===

impl Refusal {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 4] = [Self::Attestation, Self::Ca, Self::Policy, Self::Request];

    /// `attestation`, `ca`, `policy` or `request`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attestation => "attestation",
            Self::Ca => "ca",
            Self::Policy => "policy",
            Self::Request => "request",
        }
    }
}

// === impl Latency ===

impl Latency {
    /// The bounds of the histogram, in seconds; the last bucket has none.
    pub const BOUNDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

    fn record(&mut self, took: Duration) {
        let secs = took.as_secs_f64();
        let bucket = Self::BOUNDS.iter().position(|bound| secs <= *bound);
        self.within[bucket.unwrap_or(Self::BOUNDS.len())] += 1;
        self.sum += took;
    }

    /// Each bound with the number of durations up to it and above the one before; the last bound is
    /// infinite.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = Self::BOUNDS.into_iter().chain([f64::INFINITY]);
        bounds.zip(self.within)
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.within.iter().sum()
    }

    /// All durations together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

// === impl RefusalsLogged ===

impl RefusalsLogged {
    /// Whether a refusal for this reason is to be logged `now`, and how many were not since the last one.
    pub(super) fn due(&mut self, refusal: Refusal, now: Duration) -> Option<u64> {
        let (last, kept) = self.0.entry(refusal).or_insert((None, 0));
        if last.is_some_and(|last| now < last + QUIET) {
            *kept += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(kept))
    }
}

// === impl Ended ===

impl Ended {
    /// What the answer of a call means; only our own pacing says that something is exhausted.
    pub(super) fn of(code: Code) -> Self {
        match code {
            Code::Ok => Self::Issued,
            Code::PermissionDenied => Self::Refused(Refusal::Policy),
            Code::ResourceExhausted => Self::Paced,
            Code::Unauthenticated => Self::Refused(Refusal::Attestation),
            Code::Unavailable => Self::Refused(Refusal::Ca),
            // A message that cannot be read ends with one of several codes.
            _ => Self::Refused(Refusal::Request),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_says_how_a_call_has_ended() {
        for (code, ended) in [
            (Code::Ok, Ended::Issued),
            (Code::ResourceExhausted, Ended::Paced),
            (Code::Unauthenticated, Ended::Refused(Refusal::Attestation)),
            (Code::PermissionDenied, Ended::Refused(Refusal::Policy)),
            (Code::Unavailable, Ended::Refused(Refusal::Ca)),
            (Code::InvalidArgument, Ended::Refused(Refusal::Request)),
            (Code::OutOfRange, Ended::Refused(Refusal::Request)),
            (Code::Internal, Ended::Refused(Refusal::Request)),
        ] {
            assert_eq!(Ended::of(code), ended, "{code:?}");
        }
    }

    #[test]
    fn a_reason_is_logged_once_in_a_while() {
        let mut logged = RefusalsLogged::default();
        let secs = Duration::from_secs;
        for (refusal, at, due) in [
            (Refusal::Policy, 0, Some(0)),
            (Refusal::Policy, 1, None),
            (Refusal::Attestation, 1, Some(0)),
            (Refusal::Policy, 29, None),
            (Refusal::Policy, 30, Some(2)),
            (Refusal::Policy, 61, Some(0)),
        ] {
            assert_eq!(logged.due(refusal, secs(at)), due, "{refusal:?} at {at}");
        }
    }

    #[test]
    fn names_differ_and_are_in_order() {
        let names = Refusal::ALL.map(Refusal::as_str);
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        let names = Method::ALL.map(Method::as_str);
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }

    #[test]
    fn only_what_is_issued_is_timed() {
        let mut counts = CaCounts::default();
        let ms = Duration::from_millis;
        for (ended, took) in [
            (Ended::Issued, ms(1)),
            (Ended::Issued, ms(2)),
            (Ended::Issued, ms(60_000)),
            (Ended::Paced, ms(7)),
            (Ended::Refused(Refusal::Policy), ms(7)),
            (Ended::Refused(Refusal::Policy), ms(7)),
        ] {
            counts.end(ended, took);
        }
        counts.failed(Method::Oidc);
        assert_eq!((counts.issued, counts.paced), (3, 1));
        assert_eq!(counts.refused, [(Refusal::Policy, 2)].into());
        assert_eq!(counts.attestations_failed, [(Method::Oidc, 1)].into());
        let latency = &counts.latency;
        assert_eq!((latency.count(), latency.sum()), (3, ms(60_003)));
        // A bound belongs to its bucket; what is beyond the last one is in the last.
        let filled: Vec<_> = latency.buckets().filter(|(_, n)| *n > 0).collect();
        assert_eq!(filled, [(0.001, 1), (0.0025, 1), (f64::INFINITY, 1)]);
    }
}
