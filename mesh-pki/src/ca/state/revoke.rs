//! Serial numbers that are revoked, and until when that matters: an expired leaf needs no list.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{CaState, MAX_REVOKED};

/// The longest serial number, in hexadecimal digits (RFC 5280, section 4.1.2.2).
const MAX_SERIAL: usize = 40;

/// A leaf that is revoked.
///
/// It stands in the list of every issuing CA: which one has signed it is not known after a restart,
/// and serial numbers of 126 random bits are unique.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Revoked {
    /// Its serial number, in hexadecimal.
    pub(crate) serial: String,
    /// When it was revoked.
    #[serde(with = "crate::time::unix")]
    pub(crate) at: SystemTime,
    /// It has expired after this moment.
    #[serde(with = "crate::time::unix")]
    pub(crate) until: SystemTime,
}

/// Why a serial number is not revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevokeError {
    /// It is no serial number.
    #[error("a serial number has up to {MAX_SERIAL} hexadecimal digits, in pairs")]
    Serial,
    /// There are as many as fit.
    #[error("{MAX_REVOKED} serial numbers are revoked already")]
    TooMany,
}

impl CaState {
    /// Revokes a serial number, in upper or lower case; one that is revoked already stays so.
    ///
    /// It is forgotten once no leaf that was issued before `now` can be alive.
    ///
    /// # Errors
    ///
    /// [`RevokeError`].
    pub(crate) fn revoke(&self, serial: &str, now: SystemTime) -> Result<Self, RevokeError> {
        let serial = serial.to_ascii_lowercase();
        let digits = serial.bytes().all(|b| b.is_ascii_hexdigit());
        if !digits
            || serial.is_empty()
            || serial.len() > MAX_SERIAL
            || !serial.len().is_multiple_of(2)
        {
            return Err(RevokeError::Serial);
        }
        let mut next = self.clone();
        next.revoked.retain(|revoked| revoked.until >= now);
        if next.revoked.iter().any(|revoked| revoked.serial == serial) {
            return Ok(next);
        }
        if next.revoked.len() >= MAX_REVOKED {
            return Err(RevokeError::TooMany);
        }
        next.revoked.push(Revoked {
            serial,
            at: now,
            until: self.leaf_until().unwrap_or(now),
        });
        Ok(next)
    }

    /// The serial numbers that are revoked and may be alive at `now`.
    pub(crate) fn revoked(&self, now: SystemTime) -> impl Iterator<Item = &Revoked> {
        self.revoked.iter().filter(move |r| r.until >= now)
    }
}
