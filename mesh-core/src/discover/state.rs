//! The states of sources, and which of them the runtime waits for.

#[cfg(feature = "runtime")]
use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

#[cfg(feature = "runtime")]
use crate::model::SourceId;

/// How a source is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "reason")]
#[non_exhaustive]
pub enum SourceState {
    /// It has pushed what it kept from an earlier run, and has not synced since.
    Kept,
    /// It was synced and has lost what it reads from; what it pushed last serves.
    Lost(String),
    /// It has pushed its full state and keeps it current.
    Synced,
    /// It has not pushed its first full state yet. If it says what keeps it, the reason.
    Waiting(Option<String>),
}

/// The sources of a runtime, in groups whose members stand in for one another.
#[cfg(feature = "runtime")]
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    groups: Vec<Vec<SourceId>>,
    states: BTreeMap<SourceId, SourceState>,
}

// === impl SourceState ===

impl SourceState {
    /// Whether a full state was pushed.
    pub fn is_ready(&self) -> bool {
        !matches!(self, Self::Waiting(_))
    }
}

impl fmt::Display for SourceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept => f.write_str("kept"),
            Self::Lost(reason) => write!(f, "lost: {reason}"),
            Self::Synced => f.write_str("synced"),
            Self::Waiting(None) => f.write_str("waiting"),
            Self::Waiting(Some(reason)) => write!(f, "waiting: {reason}"),
        }
    }
}

// === impl Sources ===

#[cfg(feature = "runtime")]
impl Sources {
    pub(crate) fn new(groups: Vec<Vec<SourceId>>) -> Self {
        let all = groups.iter().flatten().cloned();
        Self {
            states: all.map(|id| (id, SourceState::Waiting(None))).collect(),
            groups,
        }
    }

    /// Notes the state of a source; says whether it has changed.
    pub(crate) fn set(&mut self, id: &SourceId, state: SourceState) -> bool {
        let Some(known) = self.states.get_mut(id) else {
            return false;
        };
        let state = match state {
            // A source that is away before it pushed anything still has nothing to serve.
            SourceState::Lost(reason) if !known.is_ready() => SourceState::Waiting(Some(reason)),
            state => state,
        };
        let changed = *known != state;
        *known = state;
        changed
    }

    /// All sources with their states, by name.
    pub(crate) fn states(&self) -> &BTreeMap<SourceId, SourceState> {
        &self.states
    }

    /// Why the groups that have no source with a full state have none.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = String> {
        let waits = |id: &SourceId| match self.states.get(id) {
            Some(SourceState::Waiting(reason)) => Some(reason.as_deref()),
            _ => None,
        };
        self.groups.iter().filter_map(move |group| {
            let members: Vec<_> = group
                .iter()
                .map(|id| {
                    waits(id).map(|reason| match reason {
                        Some(reason) => format!("{id} ({reason})"),
                        None => id.to_string(),
                    })
                })
                .collect::<Option<_>>()?;
            Some(match &*members {
                [only] => format!("source {only} has not synced yet"),
                some => format!("none of the sources {} has synced yet", some.join(", ")),
            })
        })
    }
}
