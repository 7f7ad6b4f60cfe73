//! Seconds since 1970 in, [`SystemTime`] out, and back; X.509 has no finer unit.
//! Out-of-range values saturate, so that no date in a certificate can cause a panic.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The moment `secs` seconds after 1970 (before it, when negative), saturating.
pub(crate) fn from_unix(secs: i64) -> SystemTime {
    let distance = Duration::from_secs(secs.unsigned_abs());
    let moment = if secs >= 0 {
        UNIX_EPOCH.checked_add(distance)
    } else {
        UNIX_EPOCH.checked_sub(distance)
    };
    moment.unwrap_or(UNIX_EPOCH)
}

/// Whole seconds from 1970 to `moment`, rounded down; negative before 1970.
pub(crate) fn to_unix(moment: SystemTime) -> i64 {
    match moment.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = before.duration();
            let secs = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            -secs - i64::from(before.subsec_nanos() > 0)
        }
    }
}
