//! The certificates that a client presents in, what they prove at this moment out. The handshake has
//! verified no more than that the client holds the key of the first one.
//!
//! Pure but for the last refusal, which is kept: calls are cheap to make, and a path is not to search.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use crate::bundle::TrustBundle;
use crate::crypto::Crypto;
use crate::issue::policy::{Attested, Refused, Revocations, Window};
use crate::store::IdentityState;
use crate::svid::{Place, Rejected, Usage, Verified, inspect, validate};
use crate::time::to_unix;

#[cfg(test)]
mod tests;

/// How much of a reason is said, in characters: it may quote what a client has made up, and goes into a header.
const MAX_SAID: usize = 4096;

/// The certificates of one connection, leaf first; there may be none.
pub(super) struct Presented {
    chain: Vec<CertificateDer<'static>>,
    refused: Mutex<Option<RefusedAt>>,
}

/// What certificates are judged by, all of one moment.
pub(super) struct Judge<'a> {
    /// The roots and lists that peers are verified against.
    pub(super) state: &'a IdentityState,
    /// What this CA has revoked, also of what has ended.
    pub(super) revoked: &'a Revocations,
    pub(super) window: Option<Window>,
    pub(super) now: SystemTime,
    pub(super) crypto: &'a Crypto,
}

/// What certificates prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There are none.
    Absent,
    /// They deny the call, whatever else proves its ID.
    Denied(Reason),
    /// An ID.
    Proven(Attested),
    /// Nothing, and nothing against another proof.
    Unproven(Reason),
}

/// Why certificates prove nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    /// For the log: it has nothing in it that the client claims.
    pub(super) name: &'static str,
    /// For the client.
    pub(super) said: String,
    /// Since when the certificate is revoked, where that is the reason.
    pub(super) revoked: Option<SystemTime>,
}

/// A refusal of [`validate`], which says the same again in the same second and the same state.
struct RefusedAt {
    epoch: u64,
    second: i64,
    rejected: Rejected,
}

impl Presented {
    pub(super) fn new(chain: Vec<CertificateDer<'static>>) -> Self {
        Self {
            chain,
            refused: Mutex::default(),
        }
    }

    /// 1. A chain that peers would accept now is the proof; so is one whose leaf ended in an open recovery
    ///    window, as of its last moment.
    /// 2. One that is revoked, or might be, or was not looked at to its end, denies the call; so does one
    ///    that names a distrusted key, whatever else is wrong with it.
    /// 3. Any other proves nothing: it has ended, is not valid yet, or is of another CA.
    pub(super) fn verdict(&self, judge: &Judge<'_>) -> Verdict {
        let Some(first) = self.chain.first() else {
            return Verdict::Absent;
        };
        let verified = match self.validate(judge, judge.now) {
            Err(Rejected::Expired {
                place: Place::Leaf,
                not_after,
                ..
            }) if judge
                .window
                .is_some_and(|window| window.admits(not_after, judge.now)) =>
            {
                self.validate(judge, not_after)
            }
            verified => verified,
        };
        let rejected = match verified {
            Ok(verified) => return Verdict::Proven(attested(verified)),
            Err(rejected) => rejected,
        };
        let reason = Reason {
            name: rejected.as_str(),
            said: rejected.to_string().chars().take(MAX_SAID).collect(),
            revoked: match rejected {
                Rejected::Revoked {
                    place: Place::Leaf,
                    since,
                    ..
                } => Some(since),
                _ => None,
            },
        };
        if denies(&rejected) {
            return Verdict::Denied(reason);
        }
        let denial = revoked(first, judge).or_else(|| self.distrusted(judge.state));
        denial.map_or(Verdict::Unproven(reason), Verdict::Denied)
    }

    /// [`validate`] at a moment. That a leaf has ended is found before a path is searched, and not kept.
    fn validate(&self, judge: &Judge<'_>, at: SystemTime) -> Result<Verified, Rejected> {
        let (epoch, second) = (judge.state.epoch(), to_unix(at));
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = &*refused
            && (last.epoch, last.second) == (epoch, second)
        {
            return Err(last.rejected.clone());
        }
        let verified = validate(&self.chain, judge.state, at, Usage::Client, judge.crypto);
        match &verified {
            Err(Rejected::Expired {
                place: Place::Leaf, ..
            })
            | Ok(_) => {}
            Err(rejected) => {
                *refused = Some(RefusedAt {
                    epoch,
                    second,
                    rejected: rejected.clone(),
                });
            }
        }
        verified
    }

    /// A key that is distrusted for ever, of a certificate or of its issuer. No signature says that it is
    /// theirs: a chain that claims it is denied, too.
    fn distrusted(&self, state: &IdentityState) -> Option<Reason> {
        let distrusted = |key: &String| {
            let mut bundles = state.bundles().iter();
            bundles.any(|bundle: &TrustBundle| bundle.distrusts_key(key))
        };
        let mut keys = self.chain.iter().flat_map(|cert| {
            let (own, issuer) = inspect::key_ids(cert);
            own.into_iter().chain(issuer)
        });
        let key = keys.find(distrusted)?;
        Some(Reason {
            name: "distrusted",
            said: format!("the certificate is under the key {key}, which is distrusted"),
            revoked: None,
        })
    }
}

/// What this CA has revoked; a leaf that has ended is not looked up in the lists.
fn revoked(leaf: &CertificateDer<'_>, judge: &Judge<'_>) -> Option<Reason> {
    // A leaf that breaks a rule of SPIFFE's was not issued here.
    let leaf = inspect::leaf(leaf).ok()?;
    let (id, serial) = (leaf.id, leaf.serial);
    judge
        .revoked
        .covers(&id, &serial, leaf.not_before)
        .then(|| Reason {
            name: "revoked",
            said: Refused::Revoked { id, serial }.to_string(),
            revoked: Some(judge.now),
        })
}

/// Whether a reason takes away what any other proof says: revoked, or no one knows; distrusted; or not
/// looked at to the end, so that what is revoked may hide behind it.
fn denies(rejected: &Rejected) -> bool {
    match rejected {
        Rejected::ChainTooLarge { .. }
        | Rejected::Distrusted { .. }
        | Rejected::Malformed { .. }
        | Rejected::RevocationStale { .. }
        | Rejected::RevocationUnknown { .. }
        | Rejected::Revoked { .. }
        | Rejected::TooMuchWork { .. } => true,
        Rejected::BadId { .. }
        | Rejected::BadSignature { .. }
        | Rejected::Expired { .. }
        | Rejected::IssuerHasPath { .. }
        | Rejected::IssuerMayNotSign { .. }
        | Rejected::KeyUsageNotCritical
        | Rejected::LeafIsCa
        | Rejected::LeafMaySign { .. }
        | Rejected::ManyUriSans { .. }
        | Rejected::NameConstraint { .. }
        | Rejected::NoCertificate
        | Rejected::NoDigitalSignature
        | Rejected::NoKeyUsage
        | Rejected::NoPath { .. }
        | Rejected::NoUriSan
        | Rejected::NotYetValid { .. }
        | Rejected::Path { .. }
        | Rejected::PathTooLong { .. }
        | Rejected::SanNotCritical
        | Rejected::UnknownCriticalExtension { .. }
        | Rejected::UnknownIssuer { .. }
        | Rejected::UnknownTrustDomain { .. }
        | Rejected::UnsupportedSignature { .. }
        | Rejected::WrongUsage { .. } => false,
    }
}

fn attested(verified: Verified) -> Attested {
    Attested::Svid {
        id: verified.id,
        serial: verified.serial,
        not_before: verified.not_before,
        not_after: verified.not_after,
    }
}
