//! A signed token and the keys of its issuer in, its claims out: JWT-SVIDs (JWT-SVID.md), and the
//! tokens of Kubernetes service accounts and OpenID issuers, by one piece of code.
//!
//! - [`validate`] verifies a JWT-SVID: its keys come from the bundle of its subject's own trust
//!   domain and from no other (S33);
//! - [`verify_token`] verifies a token of one issuer whose keys the caller has;
//! - [`JwtIssuer`] is the port for what mints JWT-SVIDs, [`LocalJwtIssuer`] does it with a key.
//!
//! Both verifiers are pure. The length is bounded before anything is looked at, the algorithm is
//! looked at before any key (S27), the keys before any claim but the subject's trust domain, and no
//! claim counts before the signature does. Refused are encrypted tokens, JSON serializations,
//! HMACs, `none`, critical extensions, and keys that a token brings along: headers like `jwk` and
//! `jku` are not even read. Signatures are verified by the crypto provider.

use std::fmt;
use std::time::SystemTime;

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::id::SpiffeId;

mod algorithm;
mod curve;
mod issue;
mod key;
mod live;
mod rejected;
mod verify;

#[cfg(test)]
mod tests;

pub use issue::{DynJwtIssuer, JwtIssuer, LocalJwtIssuer, MAX_AUDIENCES};
pub(crate) use key::{KeyReader, LeftOut};
pub use key::{KeySet, KeySetError, MAX_JWKS_LEN, MAX_KEYS, PublicKey};
pub use live::{KeysReader, KeysWriter, live_keys};
pub use rejected::{MAX_TOKEN_LEN, TokenRejected};
#[cfg(all(feature = "ca", any(feature = "aws-lc-rs", feature = "ring")))]
pub(crate) use verify::issuer_unverified;
#[cfg(feature = "workload-api")]
pub(crate) use verify::read_unverified;
pub use verify::{MAX_SKEW, MAX_TRIED, validate, verify_token};

/// A JWT-SVID that was minted for us: our ID, its audiences, and its end.
///
/// Its text is a secret: its bearer can pass for its subject. It is wiped when dropped, and
/// `Debug` does not show it.
#[derive(Clone)]
pub struct JwtSvid {
    id: SpiffeId,
    token: Zeroizing<String>,
    expires: SystemTime,
}

/// A JWT-SVID that has been verified; only [`validate`] makes one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VerifiedToken {
    /// The ID of its subject.
    pub id: SpiffeId,
    /// All that it says.
    pub claims: Claims,
}

/// What a token must say besides a good signature.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::SystemTime;
///
/// use inmesh_pki::Crypto;
/// use inmesh_pki::jwt::{Expect, KeySet, verify_token};
///
/// let expect = Expect {
///     issuer: "https://issuer.example",
///     audience: "cart",
/// };
/// let keys = KeySet::new();
/// let verdict = verify_token("a.b.c", &keys, &expect, SystemTime::now(), &Crypto::aws_lc_rs());
/// assert!(verdict.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expect<'a> {
    /// The issuer that must stand in it, letter for letter.
    pub issuer: &'a str,
    /// The audience that must be among its audiences.
    pub audience: &'a str,
}

/// The claims of a token whose signature has been verified.
#[derive(Clone)]
pub struct Claims {
    subject: String,
    issuer: Option<String>,
    audiences: Vec<String>,
    expires: SystemTime,
    issued_at: Option<SystemTime>,
    all: Map<String, Value>,
}

// === impl JwtSvid ===

impl JwtSvid {
    /// A token that an issuer minted for `id`; nothing of it is verified here.
    #[must_use]
    pub fn new(id: SpiffeId, token: String, expires: SystemTime) -> Self {
        Self {
            id,
            token: Zeroizing::new(token),
            expires,
        }
    }

    /// The ID of its subject.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The token in compact serialization, to be sent to its audience only.
    #[must_use]
    pub fn secret_token(&self) -> &str {
        &self.token
    }

    /// When it ends.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        self.expires
    }
}

/// Shows the ID and the end, and nothing of the token.
impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid")
            .field("id", &self.id.as_str())
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

// === impl Claims ===

impl Claims {
    /// The subject of the token, `sub`.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Its issuer, `iss`.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// Its audiences, `aud`; at least one.
    #[must_use]
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// When it ends, `exp`.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// When it was issued, `iat`.
    #[must_use]
    pub fn issued_at(&self) -> Option<SystemTime> {
        self.issued_at
    }

    /// The text at the end of a path of names, for example
    /// `["kubernetes.io", "serviceaccount", "name"]`; nothing, if something else stands there.
    #[must_use]
    pub fn text(&self, path: &[&str]) -> Option<&str> {
        let (first, rest) = path.split_first()?;
        rest.iter()
            .try_fold(self.all.get(*first)?, |value, name| value.get(name))?
            .as_str()
    }

    /// All of them.
    #[cfg(all(feature = "workload-api", unix))]
    pub(crate) fn all(&self) -> &Map<String, Value> {
        &self.all
    }

    /// All claims as a JSON object.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Names are strings and values were parsed, so this is text again.
        Value::Object(self.all.clone()).to_string()
    }
}

/// Shows the registered claims; what else stands in a token is its owner's business.
impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims")
            .field("subject", &self.subject)
            .field("issuer", &self.issuer)
            .field("audiences", &self.audiences)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}
