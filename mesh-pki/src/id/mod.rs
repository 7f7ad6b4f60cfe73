//! Text in, a checked trust domain or SPIFFE ID out (SPIFFE-ID.md, sections 2 and 2.3).
//!
//! One pass over the bytes, without a URI library: the grammar is far smaller than a URI's, and
//! every generic parser normalises something that SPIFFE forbids. Nothing is normalised here: what
//! is not already canonical is refused, so equality of strings is equality of identities.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

mod error;

#[cfg(test)]
mod tests;

pub use error::IdError;

/// The longest SPIFFE ID that is accepted, in bytes (SPIFFE-ID.md, section 2.3).
pub const MAX_ID_LEN: usize = 2048;

/// The longest trust domain name that is accepted, in bytes (SPIFFE-ID.md, section 2.3).
pub const MAX_TRUST_DOMAIN_LEN: usize = 255;

const SCHEME: &str = "spiffe://";

/// The name of a trust domain, for example `prod.example`; cheap to clone.
///
/// Names that look like an IP address are names like any other (S15).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// A SPIFFE ID, for example `spiffe://prod.example/ns/shop/sa/cart`; cheap to clone.
///
/// An ID without a path names the trust domain itself, never a workload.
// One counter to write to where it is cloned, since each request does so.
#[derive(Clone)]
pub struct SpiffeId(Arc<Parts>);

/// What a SPIFFE ID is made of.
struct Parts {
    text: Box<str>,
    trust_domain: TrustDomain,
}

/// Reads a SPIFFE ID from bytes that any peer may have sent, as a certificate holds them.
///
/// # Errors
///
/// [`IdError::NotAscii`] for anything outside ASCII, else what [`SpiffeId::from_str`] says.
pub fn parse_bytes(bytes: &[u8]) -> Result<SpiffeId, IdError> {
    // The length is looked at first, so that a huge input costs nothing.
    if bytes.len() > MAX_ID_LEN {
        return Err(IdError::TooLong {
            got: bytes.len(),
            max: MAX_ID_LEN,
        });
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => text.parse(),
        _ => Err(IdError::NotAscii),
    }
}

// === impl TrustDomain ===

impl TrustDomain {
    /// The name, without scheme.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain itself, which has no path.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        SpiffeId::new(format!("{SCHEME}{}", self.0).into(), self.clone())
    }
}

/// Reads a bare name; a `spiffe://` URI is refused, so that an ID cannot pass for its domain.
impl FromStr for TrustDomain {
    type Err = IdError;

    fn from_str(name: &str) -> Result<Self, IdError> {
        check_trust_domain(name)?;
        Ok(Self(name.into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

// === impl SpiffeId ===

impl SpiffeId {
    /// `text` is known to be an ID of that domain.
    fn new(text: Box<str>, trust_domain: TrustDomain) -> Self {
        Self(Arc::new(Parts { text, trust_domain }))
    }

    /// The ID of a Kubernetes workload in the shape that Istio uses, `/ns/<ns>/sa/<sa>`.
    ///
    /// # Errors
    ///
    /// The first rule that `ns` or `sa` breaks as a path segment (S13), or [`IdError::TooLong`].
    pub fn for_workload(trust_domain: &TrustDomain, ns: &str, sa: &str) -> Result<Self, IdError> {
        check_segment(ns)?;
        check_segment(sa)?;
        format!("{SCHEME}{trust_domain}/ns/{ns}/sa/{sa}").parse()
    }

    /// The trust domain that is responsible for this ID.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// The path with its leading slash, or the empty string if there is none.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0.text[SCHEME.len() + self.0.trust_domain.0.len()..]
    }

    /// Namespace and service account, if the path has exactly the shape `/ns/<ns>/sa/<sa>`.
    #[must_use]
    pub fn workload(&self) -> Option<(&str, &str)> {
        let rest = self.path().strip_prefix("/ns/")?;
        // Names are short: a search that begins with a set-up costs more than a look at each byte.
        let (ns, rest) = rest.split_at(rest.bytes().position(|b| b == b'/')?);
        let sa = rest.strip_prefix("/sa/")?;
        sa.bytes().all(|b| b != b'/').then_some((ns, sa))
    }

    /// The whole ID, with its scheme.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }
}

/// Reads an ID by the rules S12 to S15; the first one that is broken is the error.
impl FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        if text.len() > MAX_ID_LEN {
            return Err(IdError::TooLong {
                got: text.len(),
                max: MAX_ID_LEN,
            });
        }
        let rest = text.strip_prefix(SCHEME).ok_or(IdError::Scheme)?;
        let (name, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        check_trust_domain(name)?;
        if !path.is_empty() {
            check_path(path)?;
        }
        Ok(Self::new(text.into(), TrustDomain(name.into())))
    }
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for SpiffeId {}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.text.cmp(&other.0.text)
    }
}

impl std::hash::Hash for SpiffeId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
    }
}

impl Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.0.text
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.0.text)
    }
}

// === serde: both are plain strings, checked when read ===

impl serde::Serialize for TrustDomain {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for TrustDomain {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for SpiffeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.text)
    }
}

impl<'de> serde::Deserialize<'de> for SpiffeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

// === the rules ===

fn check_trust_domain(name: &str) -> Result<(), IdError> {
    if name.is_empty() {
        return Err(IdError::NoTrustDomain);
    }
    if name.len() > MAX_TRUST_DOMAIN_LEN {
        return Err(IdError::TrustDomainTooLong {
            got: name.len(),
            max: MAX_TRUST_DOMAIN_LEN,
        });
    }
    match name
        .chars()
        .find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_'))
    {
        Some(got) => Err(IdError::TrustDomainChar { got }),
        None => Ok(()),
    }
}

/// `path` begins with a slash.
fn check_path(path: &str) -> Result<(), IdError> {
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_none() {
            return Err(IdError::TrailingSlash);
        }
        check_segment(segment)?;
    }
    Ok(())
}

fn check_segment(segment: &str) -> Result<(), IdError> {
    match segment {
        "" => return Err(IdError::EmptySegment),
        "." | ".." => return Err(IdError::DotSegment),
        _ => {}
    }
    match segment
        .chars()
        .find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_'))
    {
        Some(got) => Err(IdError::PathChar { got }),
        None => Ok(()),
    }
}
