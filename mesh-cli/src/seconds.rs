//! A moment as pages and metrics have it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970; 0 for a moment before.
pub(crate) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
