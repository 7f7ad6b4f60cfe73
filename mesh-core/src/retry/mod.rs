//! Retry: what follows an attempt, sans I/O: outcomes go in, what to do next comes out.
//!
//! A request that surely reached no server goes to another endpoint; so does one that met a
//! connection closed under it, if it may be repeated. Nothing else is sent again. It refuses to
//! try for ever: attempts are counted apart for endpoints that fail and for pooled connections
//! that turn out closed, which says nothing about their endpoint.

use http::StatusCode;

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
    reuse: Reuse,
}

/// What became of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttemptOutcome {
    /// The head of an answer came, with this status and gRPC status.
    Answered(StatusCode, Option<u8>),
    /// No answer came, and the request cannot be sent again: a server may have acted on it, or its
    /// body is gone.
    Lost(Fault),
    /// No answer came, and the request is still there to be sent again.
    Unanswered(Fault, Seen),
}

/// Whose fault it is that a request was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The caller's: the request itself broke off.
    Caller,
    /// None: a connection that had been used before was closed, as it may be at any time.
    Connection,
    /// None: there was no room to open another connection to the endpoint.
    Crowd,
    /// The endpoint's.
    Endpoint,
}

/// Whether a server may have looked at a request that was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Seen {
    /// It may have, but the request may be repeated (RFC 9110 section 9.2.2).
    Maybe,
    /// It surely has not.
    Never,
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
    },
}

// === impl Attempts ===

impl Attempts {
    /// Attempts at any endpoint of a backend.
    ///
    /// ```
    /// use inmesh_core::retry::{Attempts, Fault, Next, AttemptOutcome, Seen};
    /// let mut attempts = Attempts::at_any();
    /// let refused = AttemptOutcome::Unanswered(Fault::Endpoint, Seen::Never);
    /// assert_eq!(attempts.handle_outcome(refused), Next::Retry { avoid: true });
    /// assert_eq!(attempts.handle_outcome(refused), Next::Retry { avoid: true });
    /// assert_eq!(attempts.handle_outcome(refused), Next::Finish);
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
            reuse: Reuse::Allowed,
        }
    }

    /// Whether the next attempt may use a pooled connection.
    pub fn reuse(&self) -> Reuse {
        self.reuse
    }

    /// Takes the outcome of an attempt and says what follows.
    pub fn handle_outcome(&mut self, outcome: AttemptOutcome) -> Next {
        let (fault, seen) = match outcome {
            AttemptOutcome::Answered(..) | AttemptOutcome::Lost(_) => return Next::Finish,
            AttemptOutcome::Unanswered(fault, seen) => (fault, seen),
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
            Fault::Crowd | Fault::Endpoint => {
                self.failed += 1;
                true
            }
        };
        if self.failed >= self.limit || self.stale >= STALE {
            return Next::Finish;
        }
        Next::Retry { avoid }
    }
}

#[cfg(test)]
mod tests;
