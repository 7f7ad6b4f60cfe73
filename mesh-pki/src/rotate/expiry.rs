//! The current state in, what in it ends when and how urgent that is out. Pure.
//!
//! Rotation keeps a life above its half, so a certificate that comes near its end means that
//! something is broken and went unnoticed. What ends first is what stops everything: leaves,
//! the issuers above them, and the roots of all bundles.

use std::time::{Duration, SystemTime};

use crate::store::IdentityState;
use crate::svid::inspect;

/// The longest life that a root's urgency is counted by: a root of ten years needs attention 60
/// days before its end, a third of this, and not after six years.
const ROOT_LIFE: Duration = Duration::from_secs(180 * 86_400);

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CertificateKind {
    /// An intermediate that an SVID of ours is presented with.
    Issuer,
    /// The leaf of an SVID of ours.
    Leaf,
    /// A root of a bundle.
    Root,
}

/// How urgent the end of a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Urgency {
    /// More than a third of its life is left.
    Fine,
    /// At most a third of its life is left; of a root, 60 days.
    Warning,
    /// At most an eighth of its life is left (of a root, 22 days and a half), or none.
    Error,
}

/// One certificate and its end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Expiry {
    /// What it is for.
    pub kind: CertificateKind,
    /// The SPIFFE ID that it serves; of a root, the trust domain.
    pub id: String,
    /// The key id of an issuer or root, empty where it has none; of a leaf, always empty, since it
    /// has a new one with each rotation.
    pub key_id: String,
    /// When its life began.
    pub not_before: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
}

/// All certificates of a state, in no order that means anything. What stands there twice, as an
/// issuer of many leaves does, is listed once for each ID.
#[must_use]
pub fn expiries(state: &IdentityState) -> Vec<Expiry> {
    let mut all = Vec::new();
    for svid in state.svids() {
        let id = svid.id().to_string();
        all.push(Expiry {
            kind: CertificateKind::Leaf,
            id: id.clone(),
            key_id: String::new(),
            not_before: svid.issued_at(),
            not_after: svid.not_after(),
        });
        let issuers = svid.chain().iter().skip(1).filter_map(inspect::life);
        all.extend(issuers.map(|life| Expiry {
            kind: CertificateKind::Issuer,
            id: id.clone(),
            key_id: life.key_id.unwrap_or_default(),
            not_before: life.not_before,
            not_after: life.not_after,
        }));
    }
    for bundle in state.bundles().iter() {
        all.extend(bundle.roots().iter().map(|root| Expiry {
            kind: CertificateKind::Root,
            id: bundle.trust_domain().to_string(),
            key_id: root.key_id().to_owned(),
            not_before: root.not_before(),
            not_after: root.not_after(),
        }));
    }
    all.sort();
    all.dedup();
    all
}

impl CertificateKind {
    /// `issuer`, `leaf` or `root`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issuer => "issuer",
            Self::Leaf => "leaf",
            Self::Root => "root",
        }
    }
}

impl Expiry {
    /// How urgent it is at the moment `now`.
    #[must_use]
    pub fn urgency(&self, now: SystemTime) -> Urgency {
        let [warning, error] = self.thresholds();
        if now >= error {
            Urgency::Error
        } else if now >= warning {
            Urgency::Warning
        } else {
            Urgency::Fine
        }
    }

    /// When it becomes more urgent than it is at `now`; `None` if it cannot.
    #[must_use]
    pub fn next_change(&self, now: SystemTime) -> Option<SystemTime> {
        self.thresholds().into_iter().find(|&at| at > now)
    }

    /// The first moments of a warning and of an error.
    fn thresholds(&self) -> [SystemTime; 2] {
        let life = self
            .not_after
            .duration_since(self.not_before)
            .unwrap_or_default();
        let life = match self.kind {
            CertificateKind::Root => life.min(ROOT_LIFE),
            CertificateKind::Issuer | CertificateKind::Leaf => life,
        };
        let before = |left: Duration| self.not_after.checked_sub(left).unwrap_or(self.not_before);
        [before(life / 3), before(life / 8)]
    }
}
