//! Seconds since 1970 in, [`SystemTime`] out, and back; X.509 has no finer unit.
//! Out-of-range values saturate, so that no date in a certificate can cause a panic.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::time::OffsetDateTime;

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

/// The moment as people and logs write it, `2027-01-15T08:00:00Z`.
pub(crate) fn utc(moment: SystemTime) -> String {
    let Ok(t) = OffsetDateTime::from_unix_timestamp(to_unix(moment)) else {
        return format!("{} s after 1970", to_unix(moment));
    };
    let (year, month, day) = (t.year(), u8::from(t.month()), t.day());
    let (hour, minute, second) = (t.hour(), t.minute(), t.second());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A moment as whole seconds since 1970, rounded down.
#[cfg(any(feature = "ca", feature = "federation"))]
pub(crate) mod unix {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer};
    #[cfg(feature = "ca")]
    use serde::{Serialize, Serializer};

    #[cfg(feature = "ca")]
    pub(crate) fn serialize<S: Serializer>(at: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        super::to_unix(*at).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        i64::deserialize(from).map(super::from_unix)
    }
}

/// The same where there may be none.
#[cfg(all(feature = "ca", any(feature = "aws-lc-rs", feature = "ring")))]
pub(crate) mod unix_option {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        at: &Option<SystemTime>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        at.map(super::to_unix).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        Ok(Option::<i64>::deserialize(from)?.map(super::from_unix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_go_both_ways_and_saturate() {
        for secs in [0, 1, -1, 1_800_000_000, -5_000_000_000] {
            assert_eq!(to_unix(from_unix(secs)), secs);
        }
        let half = UNIX_EPOCH - Duration::from_millis(500);
        assert_eq!(to_unix(half), -1, "rounded down");
        let _ = (from_unix(i64::MAX), from_unix(i64::MIN));
        assert_eq!(utc(from_unix(1_800_000_000)), "2027-01-15T08:00:00Z");
    }
}
