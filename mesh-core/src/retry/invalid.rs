//! Why a retry policy is refused.

/// A value that no retry policy may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRetry(String);

// === impl InvalidRetry ===

impl InvalidRetry {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}
