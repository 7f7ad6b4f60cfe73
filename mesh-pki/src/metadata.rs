//! The names that stand in the head of a call or of its answer; both sides use these.

/// A random name that distinguishes processes of one ID.
pub(crate) const INSTANCE: &str = "x-inmesh-instance";

/// The generation of the bundle: in a call the one that is used, in an answer the one that it has.
pub(crate) const GENERATION: &str = "x-inmesh-generation";

/// The ID that is asked for, where a proof would do for several.
pub(crate) const ID: &str = "x-inmesh-id";

/// In a refusal: since when the certificate that the caller presents is revoked, in seconds since 1970.
pub(crate) const REVOKED: &str = "x-inmesh-revoked";

/// When to come back, in milliseconds.
pub(crate) const RETRY_AFTER: &str = "retry-after-ms";
