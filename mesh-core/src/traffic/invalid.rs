//! Why a fault cannot be.

/// A fault that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidFault(String);

// === impl InvalidFault ===

impl InvalidFault {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}
