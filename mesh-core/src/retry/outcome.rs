//! What becomes of an attempt, and whose fault it is.

use std::time::Duration;

use http::StatusCode;

#[cfg(any(feature = "runtime", feature = "simulate"))]
use crate::error::Reason;

/// The longest that a server may ask a repeat to wait; what shall wait for longer is not repeated.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// What became of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttemptOutcome {
    /// The head of an answer came.
    Answered(Answer),
    /// No answer came within the time of one attempt.
    Late,
    /// No answer came, and the request is not sent again by itself: a server may have acted on it, or
    /// its body is gone.
    Lost(Fault),
    /// No answer came, and the request is still there to be sent again.
    Unanswered(Fault, Seen),
}

/// The head of an answer, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its gRPC status code, if the head has one.
    pub grpc: Option<u8>,
    /// What the server asks for.
    pub hint: Hint,
}

/// What a server asks of those that would repeat a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Hint {
    /// Nothing.
    #[default]
    None,
    /// To leave it: it has too much to do, or a hop below has done what may be done.
    Never,
    /// To wait as long (`Retry-After`, RFC 9110 section 10.2.3; gRPC's pushback, A6).
    After(Duration),
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
    /// None: the server says that it has not looked at it (RFC 9113 section 8.7).
    Declined,
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

// === impl AttemptOutcome ===

impl AttemptOutcome {
    /// Whether the endpoint is to blame that there was no answer.
    #[cfg(any(feature = "runtime", feature = "simulate"))]
    pub(crate) fn is_endpoints(self) -> bool {
        matches!(
            self,
            Self::Lost(Fault::Endpoint) | Self::Unanswered(Fault::Endpoint, _)
        )
    }

    /// What an attempt has come to that met a deadline by its endpoint's fault.
    #[cfg(any(feature = "runtime", feature = "simulate"))]
    pub(crate) fn late(late: Reason) -> Self {
        match late {
            // Nothing is left for another attempt.
            Reason::RequestTimeout => Self::Lost(Fault::Crowd),
            _ => Self::Late,
        }
    }
}

// === impl Answer ===

impl Answer {
    /// An answer whose server asks for nothing.
    pub fn new(status: StatusCode, grpc: Option<u8>) -> Self {
        Self {
            status,
            grpc,
            hint: Hint::None,
        }
    }

    /// The same with what the server asks for.
    #[must_use]
    pub fn with_hint(mut self, hint: Hint) -> Self {
        self.hint = hint;
        self
    }
}
