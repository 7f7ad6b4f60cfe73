//! What goes into a running CA and what comes out: plain values, for members, drivers and operators.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use serde::Serialize;

use super::plan::Wait;
use super::state::{Authority, KeyPlace, Stage, Step};
use crate::bundle::TrustBundle;
use crate::crl::{Crl, RevokedIds};
use crate::id::TrustDomain;
use crate::issue::policy::Window;
use crate::pem;
use crate::rotate::expiry::{CertificateKind, Expiry, Urgency};

/// The bundle of one generation, as members get it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The generation; it never goes back.
    pub generation: u64,
    /// The roots.
    pub bundle: TrustBundle,
    /// The key id of the root that new leaves are signed under.
    pub active: String,
    /// Revocation lists of all issuing CAs; none, while nothing is revoked.
    pub crls: Vec<Crl>,
    /// IDs whose leaves are revoked, while such a leaf may be alive.
    pub revoked_ids: RevokedIds,
}

/// What a caller that asks for a leaf says of itself, beside the proof of its ID.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asker {
    /// A random name that it keeps for its life, if it has one; up to
    /// [`MAX_INSTANCE`](super::members::MAX_INSTANCE) bytes count.
    pub instance: Option<String>,
    /// The generation of the bundle that it uses.
    pub acknowledged: u64,
    /// How long the leaf is to live, if it asks for that; the CA's own lifetime is the longest.
    pub lifetime: Option<Duration>,
}

/// A leaf, and the bundle of its moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Issued {
    /// The certificates, leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The serial number of the leaf, in hexadecimal.
    pub serial: String,
    /// The root that the chain leads to.
    pub root: CertificateDer<'static>,
    /// The bundle, which has that root.
    pub published: Arc<Published>,
    /// When the leaf was issued.
    pub issued_at: SystemTime,
    /// When it begins to be valid, which may be before that.
    pub not_before: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
}

/// What [`Ca::tick`](super::Ca::tick) has done or found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tick {
    /// Nothing was to be done.
    Nothing,
    /// A new issuing CA stands under the active root.
    RenewedIssuer,
    /// A step of a rotation was taken.
    Stepped(Step),
    /// A running rotation waits.
    Waits(Wait),
    /// Half of the root's or issuing CA's life is gone and the root's key is offline: an operator
    /// has to bring a successor.
    WantSuccessor,
}

/// How a CA is, at one moment; as JSON, moments are seconds since 1970.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CaStatus {
    /// The trust domain of the CA.
    pub trust_domain: TrustDomain,
    /// The generation of the bundle.
    pub generation: u64,
    /// The authorities, in the order of the bundle.
    pub authorities: Vec<AuthorityStatus>,
    /// The next step of the rotation that is running.
    pub next: Option<Step>,
    /// The members that it waits for; `None` if it does not wait.
    #[serde(rename = "waitsFor")]
    pub wait: Option<Wait>,
    /// How many members are known.
    pub members: usize,
    /// How many of them may still use a bundle older than this generation.
    #[serde(skip)]
    pub behind: usize,
    /// Until when there may be members that are not known.
    #[serde(serialize_with = "crate::time::unix_option::serialize")]
    pub unknown_until: Option<SystemTime>,
    /// How many join tokens are open.
    pub open_tokens: usize,
    /// The recovery window, while it is open.
    pub recovery: Option<Window>,
    /// How often this process could not write state or keys.
    #[serde(skip)]
    pub write_failures: u64,
}

/// How one root and its issuing CA are.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AuthorityStatus {
    /// The key id of the root.
    pub key_id: String,
    /// The key id of the issuing CA.
    pub issuer_key_id: String,
    /// Where it stands.
    pub stage: Stage,
    /// Where the root's key is.
    pub root_key: KeyPlace,
    /// When the root ends.
    #[serde(serialize_with = "crate::time::unix::serialize")]
    pub root_not_after: SystemTime,
    /// When the issuing CA ends.
    #[serde(serialize_with = "crate::time::unix::serialize")]
    pub issuer_not_after: SystemTime,
    /// No leaf under it is valid after this moment.
    #[serde(serialize_with = "crate::time::unix_option::serialize")]
    pub leaf_until: Option<SystemTime>,
    /// Whether the root ends soon enough to warn, as [`Urgency`] counts.
    pub ends_soon: bool,
}

impl Issued {
    /// The certificates as PEM text, leaf first, without the root.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        pem::encode_certificates(&self.chain)
    }
}

impl AuthorityStatus {
    pub(super) fn of(authority: &Authority, now: SystemTime) -> Self {
        let (not_before, not_after) = authority.root_life();
        let root = Expiry {
            kind: CertificateKind::Root,
            id: String::new(),
            key_id: authority.key_id().to_owned(),
            not_before,
            not_after,
        };
        Self {
            key_id: authority.key_id().to_owned(),
            issuer_key_id: authority.issuer_key_id().to_owned(),
            stage: authority.stage(),
            root_key: authority.root_key(),
            root_not_after: authority.root_life().1,
            issuer_not_after: authority.issuer_life().1,
            leaf_until: authority.leaf_until(),
            ends_soon: root.urgency(now) > Urgency::Fine,
        }
    }
}
