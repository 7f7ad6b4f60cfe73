//! What a CA is in, what it is after one more step out: the whole state of a CA as one value, and
//! the transitions between two such values. Pure; the driver writes each new value down before
//! it has an effect, so a crash leaves the old one or the new one.
//!
//! The state names every root with the issuing CA under it (an authority), where each stands in
//! its life, which generation of the bundle has it, and until when leaves of it may be valid. Key
//! material is not in it. A value that breaks one of these rules cannot be made, nor read back:
//!
//! - exactly one authority is active, so leaves are never signed under two roots side by side;
//! - at most one is published and not yet active;
//! - no issuing key stands twice, a root only with itself, and no distrusted key at all;
//! - every root is in the bundle of the state's generation, before anything is signed under it;
//! - where it has a table of members, no leaf is alive that is not in there.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use super::members::{MAX_LEFT, Members};
use super::store::MAX_STATE;
use crate::bundle::{BundleError, TrustBundle};
use crate::id::TrustDomain;
use crate::issue::policy::Window;
use crate::time::to_unix;

mod record;
mod revoke;
mod rotate;
mod tokens;

#[cfg(test)]
mod tests;

pub use super::step::Step;
pub use record::StateError;
pub use revoke::RevokeError;
pub(crate) use revoke::{Revoked, RevokedId};
pub use rotate::StepError;
pub(crate) use tokens::OpenToken;
pub use tokens::TokenError;

/// How many join tokens may be open or remembered at once.
pub(crate) const MAX_TOKENS: usize = 10_000;

/// How many distrusted keys are remembered; a further one is refused.
pub(crate) const MAX_DISTRUSTED: usize = 1_000;

/// How many serial numbers may be revoked at once whose leaves may be alive.
pub(crate) const MAX_REVOKED: usize = 10_000;

/// How many revoked serial numbers are remembered, those of expired leaves included.
pub(crate) const MAX_REVOKED_KEPT: usize = 30_000;

/// How many authorities may stand side by side: active, published, and retiring ones.
pub(crate) const MAX_AUTHORITIES: usize = 8;

/// The whole state of a CA; see the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaState {
    trust_domain: TrustDomain,
    generation: u64,
    authorities: Vec<Authority>,
    distrusted: Vec<String>,
    tokens: Vec<OpenToken>,
    recovery: Option<Window>,
    revoked: Vec<Revoked>,
    revoked_ids: Vec<RevokedId>,
    /// The members, as a process that has ended in order has left them.
    left: Option<Members>,
}

/// A root with an issuing CA under it, and where both stand. While an issuing CA is replaced, the
/// old one stands beside the new one, as an authority of its own under the same root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    root: Certificate,
    issuer: Certificate,
    root_key: KeyPlace,
    stage: Stage,
    published_in: u64,
    leaf_until: Option<SystemTime>,
    /// While it is published: no leaf that came with a bundle without its root is valid after this
    /// moment, whichever process issued it.
    unseen_until: Option<SystemTime>,
}

/// A certificate that may sign, with what is read of it most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) key_id: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// Where the private key of a root is; complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyPlace {
    /// With the CA: it can make issuing CAs and successors by itself.
    Held,
    /// Elsewhere: an operator brings the successor.
    Offline,
}

/// Where an authority stands in its life, in the order of that life; complete.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize, serde::Serialize,
)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// In the bundle; nothing is signed under it yet.
    Published,
    /// New leaves are signed under it.
    Active,
    /// Still in the bundle, for leaves that were signed under it.
    Retiring,
}

// === impl CaState ===

impl CaState {
    /// The state of a CA that is new at `now`: `first` is active at once, since no member trusts
    /// anything yet.
    ///
    /// Its first generation is the time in seconds since 1970. Members follow only a generation that
    /// is not below their own, and those of a CA before it, whose state was lost, began at an earlier
    /// moment and have changed less than once a second since.
    #[must_use]
    pub(crate) fn new(trust_domain: TrustDomain, mut first: Authority, now: SystemTime) -> Self {
        let generation = u64::try_from(to_unix(now)).unwrap_or(0).max(1);
        first.stage = Stage::Active;
        first.published_in = generation;
        Self {
            trust_domain,
            generation,
            authorities: vec![first],
            distrusted: Vec::new(),
            tokens: Vec::new(),
            recovery: None,
            revoked: Vec::new(),
            revoked_ids: Vec::new(),
            left: None,
        }
    }

    /// The trust domain of the CA.
    #[must_use]
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Grows by one whenever the bundle changes; the sequence number of the bundle.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// All authorities, in the order in which their roots stand in the bundle.
    #[must_use]
    pub(crate) fn authorities(&self) -> &[Authority] {
        &self.authorities
    }

    /// The authority that new leaves are signed under.
    #[must_use]
    pub(crate) fn active(&self) -> &Authority {
        self.at(Stage::Active)
            .expect("every constructor and transition keeps exactly one active authority")
    }

    /// The first authority that stands at `stage`.
    #[must_use]
    pub(crate) fn at(&self, stage: Stage) -> Option<&Authority> {
        self.authorities.iter().find(|a| a.stage == stage)
    }

    /// Key ids that were distrusted, oldest first; no authority with one of them is taken again.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn distrusted(&self) -> &[String] {
        &self.distrusted
    }

    /// Until when an earlier process may have issued leaves, over all authorities.
    #[must_use]
    pub(crate) fn leaf_until(&self) -> Option<SystemTime> {
        self.authorities.iter().filter_map(|a| a.leaf_until).max()
    }

    /// The state with the table of all live members in it, for the process that comes next; without
    /// one, if they are too many, or their names so long that no store takes them. A process that issues again takes it out first (see
    /// [`cover`](Self::cover)), so what stands there is always whole.
    #[must_use]
    pub(crate) fn leave(&self, members: &Members) -> Self {
        let without = Self {
            left: None,
            ..self.clone()
        };
        if members.leaves() > MAX_LEFT {
            return without;
        }
        let with = Self {
            left: Some(members.clone()),
            ..self.clone()
        };
        let fits = with.to_bytes().len() <= MAX_STATE;
        if fits { with } else { without }
    }

    /// After this moment every live leaf came with a bundle that has the published root, whichever
    /// process issued it; `None` if no root is published.
    ///
    /// A process that has not seen that state issues leaves that the state before allows, and writes
    /// before it issues others: there it meets the new state. So what the state before allows is the bound.
    #[must_use]
    pub(crate) fn unseen_until(&self) -> Option<SystemTime> {
        let published = self.at(Stage::Published)?;
        // A state of an earlier version does not say it: then no leaf may be alive.
        published.unseen_until.or_else(|| self.leaf_until())
    }

    /// The members as a process starts with them: those that were left to it, else none, with
    /// unknown ones until the last leaf that may have been issued expires.
    #[must_use]
    pub(crate) fn members(&self) -> Members {
        match &self.left {
            Some(left) => left.clone(),
            None => Members::new(self.leaf_until()),
        }
    }

    /// The bundle of this generation: the roots of all authorities, with the generation as its
    /// sequence number.
    ///
    /// # Errors
    ///
    /// [`BundleError`] if a root cannot be used, which no state that was read back has.
    pub(crate) fn bundle(&self) -> Result<TrustBundle, BundleError> {
        let roots = self.authorities.iter().map(|a| a.root.der.clone());
        let bundle = TrustBundle::new(self.trust_domain.clone(), roots)?;
        let distrusted = self.distrusted.iter().cloned();
        Ok(bundle
            .with_sequence(self.generation)
            .distrusting(distrusted))
    }

    /// The ids of the keys that this CA needs to have.
    pub(crate) fn held_keys(&self) -> impl Iterator<Item = &str> {
        self.authorities.iter().flat_map(|a| {
            let root = (a.root_key == KeyPlace::Held).then_some(a.root.key_id.as_str());
            root.into_iter().chain([a.issuer.key_id.as_str()])
        })
    }

    /// The key id of the root that `key_id` belongs to, itself or as an issuing CA under it.
    fn root_of(&self, key_id: &str) -> Option<&str> {
        let mut all = self.authorities.iter();
        let found = all.find(|a| a.root.key_id == key_id || a.issuer.key_id == key_id);
        found.map(|a| a.root.key_id.as_str())
    }
}

// === impl Authority ===

impl Authority {
    /// An authority of two certificates; their maker has checked that they belong together.
    pub(crate) fn new(root: Certificate, issuer: Certificate, root_key: KeyPlace) -> Self {
        Self {
            root,
            issuer,
            root_key,
            stage: Stage::Published,
            published_in: 0,
            leaf_until: None,
            unseen_until: None,
        }
    }

    pub(crate) fn root_certificate(&self) -> &Certificate {
        &self.root
    }

    pub(crate) fn issuer_certificate(&self) -> &Certificate {
        &self.issuer
    }

    /// The root certificate.
    #[must_use]
    pub(crate) fn root(&self) -> &CertificateDer<'static> {
        &self.root.der
    }

    /// The certificate of the issuing CA, which the root signed.
    #[must_use]
    pub(crate) fn issuer(&self) -> &CertificateDer<'static> {
        &self.issuer.der
    }

    /// The key id of the root; it names the authority.
    #[must_use]
    pub(crate) fn key_id(&self) -> &str {
        &self.root.key_id
    }

    /// The key id of the issuing CA.
    #[must_use]
    pub(crate) fn issuer_key_id(&self) -> &str {
        &self.issuer.key_id
    }

    /// When the root begins and ends.
    #[must_use]
    pub(crate) fn root_life(&self) -> (SystemTime, SystemTime) {
        (self.root.not_before, self.root.not_after)
    }

    /// When the issuing CA begins and ends.
    #[must_use]
    pub(crate) fn issuer_life(&self) -> (SystemTime, SystemTime) {
        (self.issuer.not_before, self.issuer.not_after)
    }

    /// Where the root's private key is.
    #[must_use]
    pub(crate) fn root_key(&self) -> KeyPlace {
        self.root_key
    }

    /// Where it stands.
    #[must_use]
    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// The first generation of the bundle that had its root.
    #[must_use]
    pub(crate) fn published_in(&self) -> u64 {
        self.published_in
    }

    /// No leaf that was signed under it is valid after this moment; `None` if there is none.
    #[must_use]
    pub(crate) fn leaf_until(&self) -> Option<SystemTime> {
        self.leaf_until
    }
}

// === impl Certificate ===

impl Certificate {
    /// Reads a CA certificate of `trust_domain`.
    pub(crate) fn read(
        trust_domain: &TrustDomain,
        der: CertificateDer<'static>,
    ) -> Result<Self, BundleError> {
        let bundle = TrustBundle::new(trust_domain.clone(), [der])?;
        let cert = &bundle.roots()[0];
        Ok(Self {
            der: cert.der().clone(),
            key_id: cert.key_id().to_owned(),
            not_before: cert.not_before(),
            not_after: cert.not_after(),
        })
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Published => "published",
            Self::Active => "active",
            Self::Retiring => "retiring",
        })
    }
}
