//! Retry: what follows an attempt, sans I/O: outcomes go in, what to do next comes out.
//!
//! A request that surely reached no server goes to another endpoint; so does one that met a
//! connection closed under it, if it may be repeated. Nothing else is sent again, unless a
//! [`RetryPolicy`] says so, and then only what its [`RetryBudget`] pays for. It refuses to try for ever:
//! attempts are counted apart for endpoints that fail and for pooled connections that turn out
//! closed, which says nothing about their endpoint.

mod budget;
mod codes;
mod hedge;
mod invalid;
mod outcome;
mod policy;
mod race;
#[cfg(feature = "runtime")]
mod replay;
mod signal;

use std::time::Duration;

use http::StatusCode;

pub use budget::{BudgetPolicy, RetryBudget};
pub use hedge::{HedgePolicy, Unhedged};
pub use invalid::InvalidRetry;
use outcome::PATIENCE;
pub use outcome::{Answer, AttemptOutcome, Fault, Hint, Seen};
pub use policy::RetryPolicy;
pub use race::{BodySeen, Chance, Due, Race, Refused, Step};
#[cfg(feature = "runtime")]
pub(crate) use replay::KeptRequest;
pub use signal::NoRetry;

use crate::model::Draw;

/// Attempts that may fail before the request does.
const FAILED: usize = 3;
/// Pooled connections that may turn out closed before the request fails.
const STALE: usize = 16;

/// The attempts of one request or connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempts {
    /// How many may fail by an endpoint's fault.
    limit: usize,
    failed: usize,
    stale: usize,
    declined: usize,
    reuse: Reuse,
    /// What a failed answer says to the hop above.
    no_retry: Option<NoRetry>,
}

/// What a policy needs to know of a request that it may repeat.
#[derive(Debug, Clone, Copy)]
pub struct Repeat<'a> {
    /// The policy.
    pub policy: &'a RetryPolicy,
    /// What is left for all requests to the backend, and how much there may be.
    pub budget: (&'a RetryBudget, &'a BudgetPolicy),
    /// The moment, on the clock of the budget.
    pub now: Duration,
    /// What is left of the time of the whole request.
    pub left: Duration,
    /// Whether the method is idempotent.
    pub idempotent: bool,
    /// Whether the request is there to be sent again.
    pub kept: bool,
}

/// Whether an attempt may use a connection that has rested in a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Reuse {
    /// It may.
    #[default]
    Allowed,
    /// It opens a connection of its own: what a server may have seen is sent once more, not once
    /// for each connection that it closes.
    Forbidden,
}

/// What to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Next {
    /// Pass on what the attempt brought, an answer or an error.
    Finish,
    /// Try again, at an endpoint that was not tried before if this one is to be avoided.
    Retry {
        /// Whether the endpoint of the attempt counts as tried.
        avoid: bool,
        /// How long to wait before.
        wait: Duration,
    },
}

// === impl Attempts ===

impl Attempts {
    /// Attempts at any endpoint of a backend.
    ///
    /// ```
    /// use inmesh_core::retry::{Attempts, Fault, Next, AttemptOutcome, Seen};
    /// use inmesh_core::model::Draw;
    /// use std::time::Duration;
    /// let (mut attempts, mut draw) = (Attempts::at_any(), Draw::new(1));
    /// let refused = AttemptOutcome::Unanswered(Fault::Endpoint, Seen::Never);
    /// let again = Next::Retry { avoid: true, wait: Duration::ZERO };
    /// assert_eq!(attempts.handle_outcome(refused, None, &mut draw), again);
    /// assert_eq!(attempts.handle_outcome(refused, None, &mut draw), again);
    /// assert_eq!(attempts.handle_outcome(refused, None, &mut draw), Next::Finish);
    /// ```
    pub fn at_any() -> Self {
        Self::with_limit(FAILED)
    }

    /// Attempts at one server that has no other: only stale connections are replaced.
    pub fn at_one() -> Self {
        Self::with_limit(1)
    }

    fn with_limit(limit: usize) -> Self {
        Self {
            limit,
            failed: 0,
            stale: 0,
            declined: 0,
            reuse: Reuse::Allowed,
            no_retry: None,
        }
    }

    /// Whether the next attempt may use a pooled connection.
    pub fn reuse(&self) -> Reuse {
        self.reuse
    }

    /// Why the hop above is not to repeat the request, if it has failed: it was repeated here, or would have
    /// been if there were a budget, time or leave for it.
    ///
    /// ```
    /// use inmesh_core::retry::{Attempts, Fault, NoRetry, AttemptOutcome, Seen};
    /// use inmesh_core::model::Draw;
    /// let (mut attempts, mut draw) = (Attempts::at_any(), Draw::new(1));
    /// let refused = AttemptOutcome::Unanswered(Fault::Endpoint, Seen::Never);
    /// assert_eq!(attempts.no_retry(), None);
    /// let _another = attempts.handle_outcome(refused, None, &mut draw);
    /// assert_eq!(attempts.no_retry(), Some(NoRetry::Spent));
    /// ```
    pub fn no_retry(&self) -> Option<NoRetry> {
        self.no_retry
    }

    /// A request that is hedged was sent to several endpoints, or would have been.
    #[cfg(any(feature = "runtime", feature = "simulate"))]
    pub(crate) fn hedged(&mut self, race: &Race) {
        self.no_retry = race.no_retry().or(self.no_retry);
    }

    /// Takes the outcome of an attempt and says what follows.
    ///
    /// 1. What surely no server has looked at is sent to another endpoint, what met a closed connection
    ///    to any, if it may be repeated. A server that declines it is asked three times in all.
    /// 2. All else is repeated as a policy says: after an answer that it covers; after a broken
    ///    connection or a late answer, if the method is idempotent or the policy covers 502 or 504.
    ///    The budget must pay, and the server not ask otherwise.
    /// 3. A policy's number of repeats holds for both.
    pub fn handle_outcome(
        &mut self,
        outcome: AttemptOutcome,
        repeat: Option<&Repeat<'_>>,
        draw: &mut Draw,
    ) -> Next {
        let limit = repeat.map_or(self.limit, |repeat| repeat.policy.repeats() as usize + 1);
        let (fault, seen) = match outcome {
            AttemptOutcome::Unanswered(fault, seen) => (fault, seen),
            AttemptOutcome::Answered(_) | AttemptOutcome::Late | AttemptOutcome::Lost(_) => {
                let wait = repeat.and_then(|repeat| self.repeat(outcome, repeat, limit, draw));
                let Some(wait) = wait else {
                    return Next::Finish;
                };
                self.no_retry = Some(NoRetry::Spent);
                return Next::Retry { avoid: true, wait };
            }
        };
        let avoid = match fault {
            Fault::Caller => return Next::Finish,
            Fault::Connection => {
                self.stale += 1;
                if seen == Seen::Maybe {
                    self.reuse = Reuse::Forbidden;
                }
                false
            }
            Fault::Declined => {
                self.declined += 1;
                false
            }
            Fault::Crowd | Fault::Endpoint => {
                self.failed += 1;
                true
            }
        };
        if self.failed >= limit || self.stale >= STALE || self.declined >= FAILED {
            return Next::Finish;
        }
        let nth = u32::try_from(self.failed).unwrap_or(u32::MAX);
        let wait = repeat.filter(|_| avoid).map(|r| r.policy.wait(nth, draw));
        if avoid {
            self.no_retry = Some(NoRetry::Spent);
        }
        Next::Retry {
            avoid,
            wait: wait.unwrap_or_default(),
        }
    }

    /// How long to wait before a request is sent again that a server may have acted on; `None` if it is
    /// not.
    fn repeat(
        &mut self,
        outcome: AttemptOutcome,
        repeat: &Repeat<'_>,
        limit: usize,
        draw: &mut Draw,
    ) -> Option<Duration> {
        let policy = repeat.policy;
        let covers = |status| repeat.idempotent || policy.covers(status, None);
        let (wanted, hint) = match outcome {
            AttemptOutcome::Answered(a) => (policy.covers(a.status, a.grpc), a.hint),
            AttemptOutcome::Late => (covers(StatusCode::GATEWAY_TIMEOUT), Hint::None),
            AttemptOutcome::Lost(Fault::Connection | Fault::Endpoint) => {
                (covers(StatusCode::BAD_GATEWAY), Hint::None)
            }
            AttemptOutcome::Lost(_) | AttemptOutcome::Unanswered(..) => return None,
        };
        if !wanted || !repeat.kept || limit == 1 {
            return None;
        }
        let asked = match hint {
            Hint::None => Duration::ZERO,
            Hint::After(wait) if wait <= PATIENCE => wait,
            Hint::After(_) | Hint::Never => {
                self.no_retry = Some(NoRetry::Overload);
                return None;
            }
        };
        if self.failed + 1 >= limit {
            self.no_retry = Some(NoRetry::Spent);
            return None;
        }
        let nth = u32::try_from(self.failed + 1).unwrap_or(u32::MAX);
        let wait = asked.max(policy.wait(nth, draw));
        let (budget, of) = repeat.budget;
        if wait >= repeat.left {
            self.no_retry = Some(NoRetry::Spent);
            return None;
        }
        if !budget.poll_repeat(of, repeat.now) {
            self.no_retry = Some(NoRetry::Budget);
            return None;
        }
        self.failed += 1;
        Some(wait)
    }
}

#[cfg(test)]
mod tests;
