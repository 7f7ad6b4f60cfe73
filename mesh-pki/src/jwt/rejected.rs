//! Why a token is refused: one variant for each reason. No message quotes the token, and what it
//! quotes of the sender's text is cut off and escaped.

use std::time::SystemTime;

use crate::id::{IdError, TrustDomain};
use crate::time::utc;

/// The longest token that is looked at, in bytes; what is longer costs nothing.
pub const MAX_TOKEN_LEN: usize = 16 * 1024;

/// Why a token was refused; S27 to S33 are the rules of JWT-SVID.md.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenRejected {
    /// The algorithm is not one of RS, ES or PS with 256, 384 or 512 bits (S27).
    #[error("the token's algorithm is {got:?}, only RS*, ES* and PS* are accepted")]
    Algorithm {
        /// What the header says, cut off after 64 characters.
        got: String,
    },
    /// The token is for others (S30).
    #[error("the token is not for the audience {expected:?}")]
    Audience {
        /// The audience that was expected.
        expected: String,
    },
    /// The signature does not verify with the key that the token names, or with any that fits.
    #[error("the token's signature does not verify")]
    BadSignature,
    /// The header demands that an extension be understood (RFC 7515, section 4.1.11).
    #[error("the token's header has critical extensions")]
    CriticalHeader,
    /// The token has expired (S31).
    #[error("the token expired at {}, now is {}", utc(*expires), utc(*now))]
    Expired {
        /// When it ended.
        expires: SystemTime,
        /// The time it was compared with.
        now: SystemTime,
    },
    /// Another issuer issued the token.
    #[error("the token is not issued by {expected:?}")]
    Issuer {
        /// The issuer that was expected.
        expected: String,
    },
    /// The key and the token do not name the same algorithm.
    #[error("the key {id:?} is not for {algorithm}, which the token names")]
    KeyMismatch {
        /// The key's id, cut off after 64 characters.
        id: String,
        /// The token's algorithm.
        algorithm: &'static str,
    },
    /// A part of the token is not what it should be.
    #[error("the token's {part} is malformed")]
    Malformed {
        /// `header`, `claims`, `signature` or the name of a claim.
        part: &'static str,
    },
    /// A claim that must be there is not (S29, S30, S31).
    #[error("the token has no claim {claim}")]
    Missing {
        /// Its name.
        claim: &'static str,
    },
    /// The token is not valid yet, by more than a clock may be wrong.
    #[error("the token is not valid before {}, now is {}", utc(*not_before), utc(*now))]
    NotYetValid {
        /// When it begins.
        not_before: SystemTime,
        /// The time it was compared with.
        now: SystemTime,
    },
    /// Not three parts joined by dots: no compact serialization of a JWS (S32).
    #[error("not a signed token in compact serialization")]
    NotCompact,
    /// The subject is not the SPIFFE ID of a workload (S29).
    #[error("the token's subject is not a SPIFFE ID: {0}")]
    Subject(#[source] IdError),
    /// The subject names a trust domain and no workload in it (S29).
    #[error("the token's subject names the trust domain {trust_domain} and no workload")]
    SubjectHasNoPath {
        /// What it names.
        trust_domain: TrustDomain,
    },
    /// The token is longer than anything that is looked at.
    #[error("the token has {got} bytes, at most {MAX_TOKEN_LEN} are looked at")]
    TooLong {
        /// How long it is.
        got: usize,
    },
    /// The header's type is neither JWT nor JOSE (S28).
    #[error("the token's type is {got:?}, expected JWT or JOSE")]
    Type {
        /// What the header says, cut off after 64 characters.
        got: String,
    },
    /// No key has the id that the token names, or there is no key that fits.
    #[error("no key is known for the token (key id {})", id.as_deref().unwrap_or("none"))]
    UnknownKey {
        /// The key id in the header, cut off after 64 characters.
        id: Option<String>,
    },
    /// There is no bundle for the subject's trust domain (S33).
    #[error("there is no bundle for trust domain {trust_domain}")]
    UnknownTrustDomain {
        /// The trust domain that the token names.
        trust_domain: TrustDomain,
    },
    /// The crypto provider does not have the algorithm.
    #[error("the crypto provider does not have {algorithm}")]
    Unsupported {
        /// Which algorithm.
        algorithm: &'static str,
    },
}
