//! Serial numbers and IDs that are revoked, and until when that matters.
//!
//! What members hear of ends with the last leaf that it may concern: an expired one needs no list.
//! The CA itself remembers it for as long as any recovery window may reach, and asks it before
//! every leaf.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{CaState, MAX_REVOKED, MAX_REVOKED_KEPT};
use crate::crl::{MAX_REVOKED_IDS, RevokedIds};
use crate::id::{SpiffeId, TrustDomain};
use crate::issue::policy::{LONGEST_WINDOW, Revocations};
use crate::time::{from_unix, to_unix};

/// The longest serial number, in hexadecimal digits (RFC 5280, section 4.1.2.2).
const MAX_SERIAL: usize = 40;

/// How long after its end a leaf may be presented: a window that is opened within
/// [`LONGEST_WINDOW`] of it is open for as long again.
const REACH: Duration = Duration::from_secs(2 * LONGEST_WINDOW.as_secs());

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

/// An ID whose leaves are revoked, all that were issued until a moment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct RevokedId {
    id: SpiffeId,
    /// The leaves that begin before this moment: the second after the one in which they were
    /// revoked. No later leaf begins before it.
    #[serde(with = "crate::time::unix")]
    before: SystemTime,
    /// All of them have expired after this moment.
    #[serde(with = "crate::time::unix")]
    until: SystemTime,
}

/// Why a serial number or an ID is not revoked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevokeError {
    /// It is no serial number.
    #[error("a serial number has up to {MAX_SERIAL} hexadecimal digits, in pairs")]
    Serial,
    /// There are as many as fit.
    #[error("{max} {what} are revoked already")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many fit.
        max: usize,
    },
    /// The CA has never issued a leaf of this ID: it is of another trust domain.
    #[error("{id} is not of the trust domain {trust_domain}")]
    WrongTrustDomain {
        /// Which ID.
        id: SpiffeId,
        /// The CA's.
        trust_domain: TrustDomain,
    },
}

impl CaState {
    /// Revokes a serial number, in upper or lower case; one that is revoked already stays so.
    ///
    /// Members hear of it until no leaf that was issued before `now` can be alive; it is forgotten
    /// once no recovery window can reach such a leaf.
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
        next.forget_revoked(now);
        if next.revoked.iter().any(|revoked| revoked.serial == serial) {
            return Ok(next);
        }
        let what = "serial numbers";
        for (got, max) in [
            (next.revoked(now).count(), MAX_REVOKED),
            (next.revoked.len(), MAX_REVOKED_KEPT),
        ] {
            if got >= max {
                return Err(RevokeError::TooMany { what, max });
            }
        }
        next.revoked.push(Revoked {
            serial,
            at: now,
            until: self.leaf_until().unwrap_or(now),
        });
        Ok(next)
    }

    /// Revokes all leaves of `id` that were issued until now, and the open join tokens for it.
    ///
    /// # Errors
    ///
    /// [`RevokeError`].
    pub(crate) fn revoke_id(&self, id: &SpiffeId, now: SystemTime) -> Result<Self, RevokeError> {
        if id.trust_domain() != &self.trust_domain {
            return Err(RevokeError::WrongTrustDomain {
                id: id.clone(),
                trust_domain: self.trust_domain.clone(),
            });
        }
        let mut next = self.clone();
        next.forget_revoked(now);
        next.revoked_ids.retain(|revoked| revoked.id != *id);
        if next.revoked_ids.len() >= MAX_REVOKED_IDS {
            return Err(RevokeError::TooMany {
                what: "IDs",
                max: MAX_REVOKED_IDS,
            });
        }
        next.revoked_ids.push(RevokedId {
            id: id.clone(),
            before: from_unix(to_unix(now).saturating_add(1)),
            until: self.leaf_until().unwrap_or(now),
        });
        next.void_tokens(id);
        Ok(next)
    }

    /// The serial numbers that are revoked and may be alive at `now`.
    pub(crate) fn revoked(&self, now: SystemTime) -> impl Iterator<Item = &Revoked> {
        self.revoked.iter().filter(move |r| r.until >= now)
    }

    /// The IDs that are revoked and may have such a leaf that is alive at `now`.
    pub(crate) fn revoked_ids(&self, now: SystemTime) -> RevokedIds {
        let mut ids = RevokedIds::default();
        for revoked in self.revoked_ids.iter().filter(|r| r.until >= now) {
            ids.insert(revoked.id.clone(), revoked.before);
        }
        ids
    }

    /// No leaf of `id` that is issued from now on may begin before this moment.
    pub(crate) fn begins_after(&self, id: &SpiffeId) -> Option<SystemTime> {
        let mut all = self.revoked_ids.iter();
        Some(all.find(|revoked| revoked.id == *id)?.before)
    }

    /// All that is revoked, whether or not it has expired.
    pub(crate) fn revocations(&self) -> Revocations {
        let mut all = Revocations::none();
        for revoked in &self.revoked {
            all.revoke_serial(revoked.serial.clone());
        }
        for revoked in &self.revoked_ids {
            all.revoke_id(revoked.id.clone(), revoked.before);
        }
        all
    }

    /// Forgets what no recovery window can reach any more.
    fn forget_revoked(&mut self, now: SystemTime) {
        self.revoked.retain(|revoked| revoked.until + REACH >= now);
        self.revoked_ids
            .retain(|revoked| revoked.until + REACH >= now);
    }
}
