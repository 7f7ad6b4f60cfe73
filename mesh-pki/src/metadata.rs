//! The names that stand in the head of a call or of its answer; both sides use these.

/// A random name that distinguishes processes of one ID.
pub(crate) const INSTANCE: &str = "x-inmesh-instance";

/// The generation of the bundle: in a call the one that is used, in an answer the one that it has.
pub(crate) const GENERATION: &str = "x-inmesh-generation";

/// The ID that is asked for, where a proof would do for several.
pub(crate) const ID: &str = "x-inmesh-id";

/// When to come back, in milliseconds.
pub(crate) const RETRY_AFTER: &str = "retry-after-ms";
