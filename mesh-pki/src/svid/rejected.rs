//! Why a chain does not prove its ID: one variant for each reason, with what was got and expected.

use std::time::SystemTime;

use super::Usage;
use crate::id::{IdError, SpiffeId, TrustDomain};
use crate::time::utc;

/// Which certificate of a path is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// A certificate between leaf and root.
    Intermediate,
    /// The certificate that names the peer.
    Leaf,
    /// The root, which is in our own bundle.
    Root,
}

/// Why a peer's chain was refused.
///
/// The rules S1 to S15 are those of X509-SVID.md, sections 2 to 5, and SPIFFE-ID.md, section 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// The URI in the leaf is not a SPIFFE ID (S2, S12 to S15).
    #[error("the certificate's URI {got:?} is not a SPIFFE ID: {reason}")]
    BadId {
        /// The URI, cut off after 256 characters.
        got: String,
        /// The first rule that it breaks.
        #[source]
        reason: IdError,
    },
    /// A signature in the chain does not verify with the key that it names.
    #[error("the chain of {id} has a signature that does not verify")]
    BadSignature {
        /// The ID in the leaf.
        id: SpiffeId,
    },
    /// The certificates add up to more bytes than are looked at.
    #[error("the chain has {got} bytes, at most {max} are looked at")]
    ChainTooLarge {
        /// How many bytes were presented.
        got: usize,
        /// How many may be.
        max: usize,
    },
    /// The trust domain's bundle has no root: every peer in it is distrusted (S18).
    #[error("trust domain {trust_domain} of {id} is distrusted")]
    Distrusted {
        /// The ID in the leaf.
        id: SpiffeId,
        /// The trust domain whose bundle is empty.
        trust_domain: TrustDomain,
    },
    /// A certificate has expired.
    #[error("the {} of {id} expired at {}, now is {}", place.name(), utc(*not_after), utc(*now))]
    Expired {
        /// The ID in the leaf.
        id: SpiffeId,
        /// Which certificate.
        place: Place,
        /// When it ended.
        not_after: SystemTime,
        /// The time it was compared with.
        now: SystemTime,
    },
    /// A signing certificate of the path has the SPIFFE ID of a workload (S11).
    #[error("a signing certificate in the chain of {id} has the workload ID {got}")]
    IssuerHasPath {
        /// The ID in the leaf.
        id: SpiffeId,
        /// The ID in the signing certificate.
        got: SpiffeId,
    },
    /// A certificate of the path that should sign is not a CA, or its key usage lacks keyCertSign (S11).
    #[error("a certificate in the chain may not sign others: {missing} is not set")]
    IssuerMayNotSign {
        /// What it would need: `cA` or `keyCertSign`.
        missing: &'static str,
    },
    /// The leaf's key usage is not marked critical (S8).
    #[error("the leaf's key usage is not marked critical")]
    KeyUsageNotCritical,
    /// The leaf is a CA certificate; signing certificates never identify a peer (S4, S7).
    #[error("the leaf is a CA certificate, which cannot identify a peer")]
    LeafIsCa,
    /// The leaf may sign certificates or revocation lists (S5).
    #[error("the leaf's key usage has {usage}, which only a signing certificate may have")]
    LeafMaySign {
        /// `keyCertSign` or `cRLSign`.
        usage: &'static str,
    },
    /// A certificate cannot be parsed, or an extension in it cannot.
    #[error("the {} is malformed: {what}", place.name())]
    Malformed {
        /// Which certificate.
        place: Place,
        /// What could not be read.
        what: &'static str,
    },
    /// The leaf has more than one URI name (S1).
    #[error("the leaf has {got} URI names, expected exactly one")]
    ManyUriSans {
        /// How many it has.
        got: usize,
    },
    /// A CA above the peer has name constraints that forbid it, or that cannot be evaluated;
    /// URI name constraints never can.
    #[error("a CA in the chain of {id} has name constraints that do not allow it")]
    NameConstraint {
        /// The ID in the leaf.
        id: SpiffeId,
    },
    /// The peer presented no certificate.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// The leaf's key usage lacks digitalSignature (S8).
    #[error("the leaf's key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// The leaf has no key usage extension (S8).
    #[error("the leaf has no key usage extension")]
    NoKeyUsage,
    /// The leaf names a trust domain and not a workload (S3).
    #[error("the leaf's ID spiffe://{trust_domain} has no path")]
    NoPath {
        /// What it names.
        trust_domain: TrustDomain,
    },
    /// A certificate's time has not begun.
    #[error("the {} of {id} is not valid before {}, now is {}", place.name(), utc(*not_before), utc(*now))]
    NotYetValid {
        /// The ID in the leaf.
        id: SpiffeId,
        /// Which certificate.
        place: Place,
        /// When it begins.
        not_before: SystemTime,
        /// The time it was compared with.
        now: SystemTime,
    },
    /// The leaf has no URI name (S1).
    #[error("the leaf has no URI name, expected one SPIFFE ID")]
    NoUriSan,
    /// Path building fails for a reason that has no variant of its own.
    #[error("no valid path for {id}: {reason}")]
    Path {
        /// The ID in the leaf.
        id: SpiffeId,
        /// The verifier's own reason.
        reason: String,
    },
    /// The path to the root is longer than is allowed, by us or by a CA in it.
    #[error(
        "the path from {id} to a root is longer than {max} certificates, or than a CA in it allows"
    )]
    PathTooLong {
        /// The ID in the leaf.
        id: SpiffeId,
        /// How many certificates a path may have, leaf and root included.
        max: u32,
    },
    /// The revocation list of an issuer on the path is out of date, so revocations are unknown.
    #[error("the revocation list for the {} of {id} is stale since {}, now is {}", place.name(), utc(*next_update), utc(*now))]
    RevocationStale {
        /// The ID in the leaf.
        id: SpiffeId,
        /// Which certificate the list covers.
        place: Place,
        /// From when on there should have been a new list.
        next_update: SystemTime,
        /// The time it was compared with.
        now: SystemTime,
    },
    /// The revocation list of an issuer on the path cannot be relied on, so revocations are
    /// unknown.
    #[error("the revocation list for the {} of {id} cannot be relied on: {why}", place.name())]
    RevocationUnknown {
        /// The ID in the leaf.
        id: SpiffeId,
        /// Which certificate the list covers.
        place: Place,
        /// What is wrong with the list.
        why: &'static str,
    },
    /// A certificate of the path is revoked (RFC 5280, section 5).
    #[error("the {} of {id} (serial {serial}) is revoked since {} ({})", place.name(), utc(*since), reason.unwrap_or("no reason given"))]
    Revoked {
        /// The ID in the leaf.
        id: SpiffeId,
        /// Which certificate.
        place: Place,
        /// Its serial number, in hexadecimal.
        serial: String,
        /// Since when.
        since: SystemTime,
        /// Why, as RFC 5280 spells it, if the list gives a reason.
        reason: Option<&'static str>,
    },
    /// The leaf has no subject, and its names are not marked critical (S10).
    #[error("the leaf has no subject, and its subject alternative name is not marked critical")]
    SanNotCritical,
    /// The search for a path was given up, because it took too many steps.
    #[error("the chain of {id} takes too much work to verify")]
    TooMuchWork {
        /// The ID in the leaf.
        id: SpiffeId,
    },
    /// A certificate has a critical extension that is not understood.
    #[error("the chain of {id} has a critical extension that is not understood")]
    UnknownCriticalExtension {
        /// The ID in the leaf.
        id: SpiffeId,
    },
    /// No root of the ID's own trust domain vouches for the chain (S6).
    #[error("{id} is signed by an unknown authority (key id {}), the bundle of {} has the roots {}", authority_key_id.as_deref().unwrap_or("not given"), id.trust_domain(), list(roots))]
    UnknownIssuer {
        /// The ID in the leaf.
        id: SpiffeId,
        /// The key id of the first issuer that is missing, if the chain names it.
        authority_key_id: Option<String>,
        /// The key ids of the roots that we have for this trust domain.
        roots: Vec<String>,
    },
    /// There is no bundle for the ID's trust domain (S6).
    #[error("{id} is of trust domain {}, we have bundles of {}", id.trust_domain(), list(known))]
    UnknownTrustDomain {
        /// The ID in the leaf.
        id: SpiffeId,
        /// The trust domains that we have bundles of.
        known: Vec<TrustDomain>,
    },
    /// A signature in the chain uses an algorithm that our crypto provider does not have.
    #[error("the chain of {id} is signed with an algorithm that is not supported")]
    UnsupportedSignature {
        /// The ID in the leaf.
        id: SpiffeId,
    },
    /// An extended key usage does not allow what the peer does with the certificate (S9).
    #[error("a certificate in the chain of {id} does not allow its use as a TLS {}", usage.name())]
    WrongUsage {
        /// The ID in the leaf.
        id: SpiffeId,
        /// What the peer is.
        usage: Usage,
    },
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Intermediate => "intermediate certificate",
            Self::Leaf => "certificate",
            Self::Root => "root certificate",
        }
    }
}

fn list<T: std::fmt::Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    let items: Vec<_> = items.iter().map(T::to_string).collect();
    items.join(", ")
}

// === impl Rejected ===

impl Rejected {
    /// A stable name of the reason, for metrics and logs.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::BadId { .. } => "bad-id",
            Self::BadSignature { .. } => "bad-signature",
            Self::ChainTooLarge { .. } => "chain-too-large",
            Self::Distrusted { .. } => "distrusted",
            Self::Expired { .. } => "expired",
            Self::IssuerHasPath { .. } => "issuer-has-path",
            Self::IssuerMayNotSign { .. } => "issuer-may-not-sign",
            Self::KeyUsageNotCritical => "key-usage-not-critical",
            Self::LeafIsCa => "leaf-is-ca",
            Self::LeafMaySign { .. } => "leaf-may-sign",
            Self::Malformed { .. } => "malformed",
            Self::ManyUriSans { .. } => "many-uri-sans",
            Self::NameConstraint { .. } => "name-constraint",
            Self::NoCertificate => "no-certificate",
            Self::NoDigitalSignature => "no-digital-signature",
            Self::NoKeyUsage => "no-key-usage",
            Self::NoPath { .. } => "no-path",
            Self::NoUriSan => "no-uri-san",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::Path { .. } => "path",
            Self::PathTooLong { .. } => "path-too-long",
            Self::RevocationStale { .. } => "revocation-stale",
            Self::RevocationUnknown { .. } => "revocation-unknown",
            Self::Revoked { .. } => "revoked",
            Self::SanNotCritical => "san-not-critical",
            Self::TooMuchWork { .. } => "too-much-work",
            Self::UnknownCriticalExtension { .. } => "unknown-critical-extension",
            Self::UnknownIssuer { .. } => "unknown-issuer",
            Self::UnknownTrustDomain { .. } => "unknown-trust-domain",
            Self::UnsupportedSignature { .. } => "unsupported-signature",
            Self::WrongUsage { .. } => "wrong-usage",
        }
    }
}
