//! How a scene ended, for the screen and the summary.

use serde::Serialize;

/// What became of a scene.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outcome {
    pub(super) scene: String,
    /// Whether it did what it says and cost no more than it may.
    pub(super) ok: bool,
    /// The most failures that it may cost, computed before it started.
    pub(super) may_cost: u64,
    /// What it did cost.
    pub(super) cost: u64,
    /// What was seen.
    pub(super) seen: String,
}
