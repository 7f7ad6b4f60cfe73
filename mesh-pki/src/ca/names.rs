//! The names that stand in the head of a call or of its answer; both sides use these.

/// A random name that tells processes of one ID apart.
pub(super) const INSTANCE: &str = "x-inmesh-instance";

/// The generation of the bundle: in a call the one that is used, in an answer the one that it has.
pub(super) const GENERATION: &str = "x-inmesh-generation";

/// The ID that is asked for, where a proof would do for several.
pub(super) const ID: &str = "x-inmesh-id";

/// When to come back, in milliseconds.
pub(super) const RETRY_AFTER: &str = "retry-after-ms";
