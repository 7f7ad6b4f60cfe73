//! What a failed answer says to the hop above: that it is not to be repeated there, since a hop below has
//! done what may be done. So the load of a failure grows by one budget in a chain, not by one at each hop.

use std::fmt;

use http::{HeaderMap, HeaderValue};

use crate::fields::NO_RETRY;

/// Why a failed answer is not to be repeated by the hop above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoRetry {
    /// The budget of repeats was empty.
    Budget,
    /// A server has too much to do.
    Overload,
    /// It has been repeated.
    Spent,
}

// === impl NoRetry ===

impl NoRetry {
    /// As the header field `x-mesh-no-retry` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Overload => "overload",
            Self::Spent => "spent",
        }
    }

    /// Says it in the head of an answer, or in the only head that a failed call of gRPC has.
    ///
    /// ```
    /// use http::HeaderMap;
    /// use inmesh_core::retry::NoRetry;
    /// let mut answer = HeaderMap::new();
    /// assert!(!NoRetry::is_in(&answer));
    /// NoRetry::Spent.write(&mut answer);
    /// assert_eq!(answer["x-mesh-no-retry"], "spent");
    /// assert!(NoRetry::is_in(&answer));
    /// ```
    pub fn write(self, headers: &mut HeaderMap) {
        headers.insert(NO_RETRY, HeaderValue::from_static(self.as_str()));
    }

    /// Whether an answer says it, whatever the reason.
    pub fn is_in(headers: &HeaderMap) -> bool {
        headers.contains_key(NO_RETRY)
    }
}

impl fmt::Display for NoRetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
