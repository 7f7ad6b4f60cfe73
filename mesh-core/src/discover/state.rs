//! The states of sources, and which of them the runtime waits for.

#[cfg(feature = "runtime")]
use std::collections::BTreeMap;
use std::fmt;
#[cfg(feature = "runtime")]
use std::time::Duration;

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

/// How long a source may be out of sync before it is stale, unless its user says so.
#[cfg(feature = "runtime")]
pub(crate) const STALE_AFTER: Duration = Duration::from_secs(300);

/// The sources of a runtime, in groups whose members stand in for one another.
#[cfg(feature = "runtime")]
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    groups: Vec<Vec<SourceId>>,
    known: BTreeMap<SourceId, Known>,
}

/// What is known of a source. Times are since the runtime has started.
#[cfg(feature = "runtime")]
#[derive(Debug, Clone)]
pub(crate) struct Known {
    state: SourceState,
    /// Since when it is not in sync, if it is not.
    since: Option<Duration>,
    /// How long it may be so before it is stale.
    stale_after: Duration,
    stale: bool,
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
    /// Groups of sources, each with how long it may be out of sync before it is stale.
    pub(crate) fn new(groups: Vec<Vec<(SourceId, Duration)>>) -> Self {
        let all = groups.iter().flatten().cloned();
        let known = all.map(|(id, stale_after)| {
            let known = Known {
                state: SourceState::Waiting(None),
                since: Some(Duration::ZERO),
                stale_after,
                stale: false,
            };
            (id, known)
        });
        Self {
            known: known.collect(),
            groups: groups
                .into_iter()
                .map(|group| group.into_iter().map(|(id, _)| id).collect())
                .collect(),
        }
    }

    /// Notes the state of a source; says whether it has changed.
    pub(crate) fn set(&mut self, id: &SourceId, state: SourceState, now: Duration) -> bool {
        let Some(known) = self.known.get_mut(id) else {
            return false;
        };
        let state = match state {
            // A source that is away before it pushed anything still has nothing to serve.
            SourceState::Lost(reason) if !known.state.is_ready() => {
                SourceState::Waiting(Some(reason))
            }
            state => state,
        };
        let changed = known.state != state;
        if state == SourceState::Synced {
            (known.since, known.stale) = (None, false);
        } else {
            known.since = known.since.or(Some(now));
        }
        known.state = state;
        changed
    }

    /// When the next source is stale; `None` if all are in sync or have nothing that serves.
    pub(crate) fn next_stale(&self) -> Option<Duration> {
        let due = self.known.values().filter(|known| !known.stale);
        due.filter_map(Known::stale_at).min()
    }

    /// The sources that have become stale, each with its age; they are so until they are in sync.
    pub(crate) fn poll_stale(&mut self, now: Duration) -> Vec<(SourceId, Duration)> {
        let mut found = Vec::new();
        for (id, known) in &mut self.known {
            if !known.stale && known.stale_at().is_some_and(|at| at <= now) {
                known.stale = true;
                found.push((id.clone(), known.age(now)));
            }
        }
        found
    }

    /// All sources, by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&SourceId, &Known)> {
        self.known.iter()
    }

    /// The sources that are stale.
    pub(crate) fn stale(&self) -> Vec<SourceId> {
        let stale = self.known.iter().filter(|(_, known)| known.stale);
        stale.map(|(id, _)| id.clone()).collect()
    }

    /// The sources whose state is doubted, and why, for a person.
    pub(crate) fn doubts(&self, now: Duration) -> impl Iterator<Item = String> {
        let stale = self.known.iter().filter(|(_, known)| known.stale);
        stale.map(move |(id, known)| {
            let (state, age) = (&known.state, known.age(now).as_secs());
            format!(
                "source {id} is stale: {state}, {age} s out of sync; what it pushed last serves"
            )
        })
    }

    /// Why the groups that have no source with a full state have none.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = String> {
        let waits = |id: &SourceId| match self.known.get(id).map(|known| &known.state) {
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

// === impl Known ===

#[cfg(feature = "runtime")]
impl Known {
    pub(crate) fn state(&self) -> &SourceState {
        &self.state
    }

    /// How long it has been out of sync; nothing while it is in sync.
    pub(crate) fn age(&self, now: Duration) -> Duration {
        self.since
            .map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// How long it may be out of sync before it is stale; `None` is for ever.
    pub(crate) fn stale_after(&self) -> Option<Duration> {
        (self.stale_after < Duration::MAX).then_some(self.stale_after)
    }

    /// Whether what it has pushed is doubted.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale
    }

    /// When it is stale, if it stays as it is. One that has pushed nothing has nothing to doubt.
    fn stale_at(&self) -> Option<Duration> {
        let since = self.since.filter(|_| self.state.is_ready())?;
        since.checked_add(self.stale_after)
    }
}

#[cfg(all(test, feature = "runtime"))]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn lost() -> SourceState {
        SourceState::Lost("gone".into())
    }

    #[test]
    fn a_source_is_stale_once_it_was_out_of_sync_for_its_time() {
        use SourceState::{Kept, Synced};
        // What it says and when; then a moment, its age and whether it is stale.
        for (said, at, age, stale) in [
            (vec![], 99, 99, false),
            (vec![(1, lost())], 99, 99, false),
            (vec![(1, Kept)], 9, 9, false),
            (vec![(1, Kept)], 10, 10, true),
            (vec![(1, Kept), (4, lost())], 10, 10, true),
            (vec![(1, Synced)], 99, 0, false),
            (vec![(1, Synced), (5, lost())], 14, 9, false),
            (vec![(1, Synced), (5, lost())], 15, 10, true),
            (vec![(1, Synced), (5, lost()), (9, lost())], 15, 10, true),
            (vec![(1, Synced), (5, lost()), (9, Synced)], 99, 0, false),
            (
                vec![(1, Synced), (5, lost()), (9, Synced), (11, lost())],
                20,
                9,
                false,
            ),
        ] {
            let id = SourceId::new("one");
            let mut sources = Sources::new(vec![vec![(id.clone(), secs(10))]]);
            for (when, state) in &said {
                sources.set(&id, state.clone(), secs(*when));
            }
            let due = sources.next_stale().is_some_and(|due| due <= secs(at));
            let found = sources.poll_stale(secs(at));
            assert_eq!((found.len() == 1, due), (stale, stale), "{said:?}");
            let known = &sources.known[&id];
            assert_eq!(
                (known.age(secs(at)), known.is_stale()),
                (secs(age), stale),
                "{said:?}"
            );
            // It is found once, and is in doubt no longer than it is out of sync.
            assert!(sources.poll_stale(secs(at + 99)).len() <= usize::from(!stale));
            sources.set(&id, Synced, secs(200));
            assert_eq!(
                (sources.doubts(secs(200)).count(), sources.next_stale()),
                (0, None)
            );
        }
    }

    #[test]
    fn a_source_that_may_be_old_is_never_stale() {
        let id = SourceId::new("one");
        let mut sources = Sources::new(vec![vec![(id.clone(), Duration::MAX)]]);
        sources.set(&id, SourceState::Synced, secs(1));
        sources.set(&id, lost(), secs(2));
        assert_eq!(
            (
                sources.next_stale(),
                sources.poll_stale(secs(u64::MAX)).len()
            ),
            (None, 0)
        );
        assert_eq!(sources.known[&id].stale_after(), None);
    }
}
