//! Why a text is not a trust domain or a SPIFFE ID: one variant for each rule.

/// Why a text is not a trust domain or a SPIFFE ID.
///
/// The rules S12 to S15 are those of SPIFFE-ID.md, sections 2.1 to 2.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// A path segment is `.` or `..` (S13).
    #[error("a path segment must not be `.` or `..`")]
    DotSegment,
    /// The text is empty.
    #[error("the SPIFFE ID is empty")]
    Empty,
    /// Two slashes stand side by side, or a segment given on its own is empty (S13).
    #[error("a path segment must not be empty")]
    EmptySegment,
    /// There is nothing between `spiffe://` and the path (S12).
    #[error("the trust domain is missing")]
    NoTrustDomain,
    /// The bytes are not ASCII (S12, S13).
    #[error("a SPIFFE ID is ASCII only")]
    NotAscii,
    /// The path has a character outside `[a-zA-Z0-9.-_]`; a query, a fragment and
    /// percent-encoding end here too (S13).
    #[error("the path may have only [a-zA-Z0-9.-_], got {got:?}")]
    PathChar {
        /// The first such character.
        got: char,
    },
    /// The text does not begin with `spiffe://` in lower case (S2).
    #[error("the scheme must be `spiffe://`")]
    Scheme,
    /// The ID is longer than [`MAX_ID_LEN`](super::MAX_ID_LEN) (S14).
    #[error("the SPIFFE ID has {got} bytes, at most {max} are allowed")]
    TooLong {
        /// How long it is.
        got: usize,
        /// How long it may be.
        max: usize,
    },
    /// The path, or the ID without a path, ends in a slash (S13).
    #[error("the path must not end in a slash")]
    TrailingSlash,
    /// The trust domain has a character outside `[a-z0-9.-_]`; user info, a port, upper case and
    /// percent-encoding end here too (S12).
    #[error("the trust domain may have only [a-z0-9.-_], got {got:?}")]
    TrustDomainChar {
        /// The first such character.
        got: char,
    },
    /// The trust domain is longer than
    /// [`MAX_TRUST_DOMAIN_LEN`](super::MAX_TRUST_DOMAIN_LEN) (S14).
    #[error("the trust domain has {got} bytes, at most {max} are allowed")]
    TrustDomainTooLong {
        /// How long it is.
        got: usize,
        /// How long it may be.
        max: usize,
    },
}
