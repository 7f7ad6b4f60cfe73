//! What is wrong with a route.

/// A route that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct InvalidRoute {
    /// What is wrong and what to do.
    pub message: String,
}

impl InvalidRoute {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}
