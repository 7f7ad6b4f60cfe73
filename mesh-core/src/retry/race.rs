//! The attempts of one request that is hedged, sans I/O: moments and outcomes go in, whether the next
//! attempt begins and whether the race has ended comes out.
//!
//! 1. The first attempt begins at once, each further one a delay after the one before it. An attempt that
//!    has failed, or was answered with a code that the policy lists, brings the next one forward to now, or
//!    to when its server asks for (`grpc-retry-pushback-ms`, A6).
//! 2. A further attempt needs the whole body of the request, time that is left, endpoints of which none
//!    says that it has too much to do, one that has no attempt yet, and a repeat of the retry budget.
//!    Without one of them, no other attempt follows; only a body that is on its way is waited for.
//! 3. The first answer with any other code ends the race, and so does the last failure when no attempt is
//!    under way and none follows.
//!
//! It refuses to send more than the policy and the budget allow, whatever the order of events.

use std::time::Duration;

use http::StatusCode;

use super::budget::{BudgetPolicy, RetryBudget};
use super::hedge::HedgePolicy;
use super::outcome::{AttemptOutcome, Fault, Hint, PATIENCE};
use super::signal::NoRetry;

/// How long until a body that is on its way is looked at again, at least.
const LOOK: Duration = Duration::from_millis(10);
/// Less time than this is too little: deadlines are written in milliseconds.
const LEAST: Duration = Duration::from_millis(1);
/// The gRPC status of a server that has too much to do.
const RESOURCE_EXHAUSTED: u8 = 8;

/// The attempts of one request that is hedged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Race {
    begun: u32,
    open: u32,
    /// When the next attempt begins; `None` is never.
    next: Option<Duration>,
    /// Until when a server has asked to wait.
    asked: Duration,
    no_retry: Option<NoRetry>,
}

/// What the next attempt depends on.
#[derive(Debug, Clone, Copy)]
pub struct Chance<'a> {
    /// The policy.
    pub policy: &'a HedgePolicy,
    /// What is left for all requests to the backend, and how much there may be.
    pub budget: (&'a RetryBudget, &'a BudgetPolicy),
    /// The moment, on the clock of the budget.
    pub now: Duration,
    /// What is left of the time of the whole request.
    pub left: Duration,
    /// The body of the request.
    pub body: BodySeen,
    /// Whether an endpoint says that it has too much to do.
    pub overload: bool,
}

/// How much is there of the body of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodySeen {
    /// It is still being read.
    Coming,
    /// It is longer than what is kept, or broke off.
    Gone,
    /// All of it.
    Whole,
}

/// What becomes of an attempt that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Due<T> {
    /// It begins, at that endpoint.
    Begin(T),
    /// It is due later.
    Later,
    /// Neither it nor any other begins.
    Refused(Refused),
}

/// Why no other attempt begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refused {
    /// The body of the request is not kept.
    Body,
    /// The budget of repeats is empty.
    Budget,
    /// No time is left.
    Deadline,
    /// Each endpoint has an attempt already, or as many requests as it may have.
    NoEndpoint,
    /// An endpoint says that it has too much to do.
    Overload,
}

/// What to do after an attempt has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Step {
    /// Pass on what it has brought, and cancel the others.
    Finish,
    /// Wait for the others, or for the next one.
    Wait,
}

// === impl Refused ===

impl Refused {
    /// As metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Budget => "budget",
            Self::Deadline => "deadline",
            Self::NoEndpoint => "no-endpoint",
            Self::Overload => "overload",
        }
    }
}

// === impl Race ===

impl Race {
    /// A race whose first attempt begins now.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use inmesh_core::retry::{HedgePolicy, Race};
    ///
    /// let delay = Duration::from_millis(50);
    /// let policy = HedgePolicy::new(2, delay)?;
    /// let race = Race::new(&policy, Duration::ZERO);
    /// assert_eq!(race.due(), Some(delay));
    /// # Ok::<(), inmesh_core::retry::InvalidRetry>(())
    /// ```
    pub fn new(policy: &HedgePolicy, now: Duration) -> Self {
        Self {
            begun: 1,
            open: 1,
            next: Some(now.saturating_add(policy.delay())),
            asked: Duration::ZERO,
            no_retry: None,
        }
    }

    /// When the next attempt begins, if no answer has come by then; `None` if none follows.
    pub fn due(&self) -> Option<Duration> {
        self.next
    }

    /// How many attempts have no answer yet.
    pub fn open(&self) -> u32 {
        self.open
    }

    /// Why the hop above is not to repeat the request, if it fails.
    pub fn no_retry(&self) -> Option<NoRetry> {
        self.no_retry
    }

    /// The moment of the next attempt may have come. `pick` chooses an endpoint that has none yet.
    pub fn handle_due<T>(
        &mut self,
        chance: &Chance<'_>,
        pick: impl FnOnce() -> Option<T>,
    ) -> Due<T> {
        let (policy, now) = (chance.policy, chance.now);
        match self.next {
            Some(next) if next <= now => {}
            _ => return Due::Later,
        }
        if chance.left < LEAST {
            return self.refuse(Refused::Deadline, Some(NoRetry::Spent));
        }
        match chance.body {
            // Without an attempt nothing reads it.
            BodySeen::Coming if self.open > 0 => {
                self.next = Some(now.saturating_add(policy.delay().max(LOOK)));
                return Due::Later;
            }
            BodySeen::Coming | BodySeen::Gone => return self.refuse(Refused::Body, None),
            BodySeen::Whole => {}
        }
        if chance.overload {
            return self.refuse(Refused::Overload, Some(NoRetry::Overload));
        }
        let Some(endpoint) = pick() else {
            return self.refuse(Refused::NoEndpoint, None);
        };
        let (budget, of) = chance.budget;
        if !budget.poll_repeat(of, now) {
            return self.refuse(Refused::Budget, Some(NoRetry::Budget));
        }
        self.begun += 1;
        self.open += 1;
        self.no_retry = Some(NoRetry::Spent);
        let more = self.begun < policy.attempts();
        let next = now.saturating_add(policy.delay()).max(self.asked);
        self.next = more.then_some(next);
        Due::Begin(endpoint)
    }

    /// An attempt has ended.
    pub fn handle_outcome(&mut self, outcome: AttemptOutcome, chance: &Chance<'_>) -> Step {
        self.open = self.open.saturating_sub(1);
        let now = chance.now;
        let wait = match outcome {
            AttemptOutcome::Answered(answer) => {
                if !chance.policy.covers(answer.status, answer.grpc) {
                    return Step::Finish;
                }
                let shed = answer.status == StatusCode::TOO_MANY_REQUESTS
                    || answer.grpc == Some(RESOURCE_EXHAUSTED);
                match answer.hint {
                    Hint::None if !shed => Ok(Duration::ZERO),
                    Hint::After(wait) if wait <= PATIENCE => Ok(wait),
                    Hint::After(_) | Hint::Never | Hint::None => Err(Some(NoRetry::Overload)),
                }
            }
            AttemptOutcome::Lost(Fault::Caller) | AttemptOutcome::Unanswered(Fault::Caller, _) => {
                return Step::Finish;
            }
            AttemptOutcome::Lost(Fault::Crowd) => Err(None),
            AttemptOutcome::Late | AttemptOutcome::Lost(_) | AttemptOutcome::Unanswered(..) => {
                Ok(Duration::ZERO)
            }
        };
        match wait {
            Ok(wait) if wait >= chance.left => self.stop(Some(NoRetry::Spent)),
            Ok(wait) => {
                self.asked = self.asked.max(now.saturating_add(wait));
                self.next = self.next.map(|_| self.asked);
            }
            Err(why) => self.stop(why),
        }
        let over = self.open == 0 && self.next.is_none();
        // With the time of the request all attempts end.
        match over || chance.left.is_zero() {
            true => Step::Finish,
            false => Step::Wait,
        }
    }

    fn refuse<T>(&mut self, why: Refused, no_retry: Option<NoRetry>) -> Due<T> {
        self.stop(no_retry);
        Due::Refused(why)
    }

    /// No other attempt begins.
    fn stop(&mut self, why: Option<NoRetry>) {
        self.next = None;
        self.no_retry = self.no_retry.or(why);
    }
}
