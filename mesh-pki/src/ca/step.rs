//! The steps of a rotation, and the permission to take one.

use serde::{Deserialize, Serialize};

/// One step of a rotation, in the order in which they are taken; complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// A new root goes into the bundle.
    Prepare,
    /// New leaves are signed under it.
    Activate,
    /// The old root leaves the bundle.
    Retire,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Prepare => "prepare",
            Self::Activate => "activate",
            Self::Retire => "retire",
        })
    }
}

/// Permission to take one step from one state: the plan's, or an operator's that forces it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Go {
    step: Step,
    generation: u64,
}

impl Go {
    /// Permits `step` from the state of `generation`.
    #[must_use]
    pub(crate) fn new(step: Step, generation: u64) -> Self {
        Self { step, generation }
    }

    /// The step that it permits.
    #[must_use]
    pub(crate) fn step(&self) -> Step {
        self.step
    }

    /// The state that it was decided for.
    #[must_use]
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }
}
