//! The steps of a rotation: prepare, activate, retire; and those that cut one short.
//!
//! Each is a function of a state that returns the next one, or says why it is not its turn. Whether
//! the mesh is ready for a step is not asked here: [`plan`](crate::ca::plan) decides that, and its
//! `Go` is what lets a step be taken.

use std::time::{Duration, SystemTime};

use super::{Authority, CaState, Certificate, KeyPlace, MAX_AUTHORITIES, MAX_DISTRUSTED, Stage};
use crate::ca::step::{Go, Step};

/// Why a step cannot be taken from this state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The active root is to be distrusted, and there is no other to sign with.
    #[error("{key_id} signs at the moment; distrusting it needs a successor")]
    ActiveDistrusted {
        /// Which key.
        key_id: String,
    },
    /// The key was distrusted before.
    #[error("the key {key_id} is distrusted")]
    Distrusted {
        /// Which key.
        key_id: String,
    },
    /// The key is in use already; a rotation needs a new one.
    #[error("the key {key_id} is in use already")]
    KnownKey {
        /// Which key.
        key_id: String,
    },
    /// It is another step's turn.
    #[error("it is not the turn of {asked}: {}", match next {
        Some(next) => format!("the next step is {next}"),
        None => "no rotation is running".to_owned(),
    })]
    NotItsTurn {
        /// The step that was asked for.
        asked: Step,
        /// The step whose turn it is, if a rotation is running.
        next: Option<Step>,
    },
    /// The root's key is not here, so the CA cannot make what is asked for.
    #[error("the key of root {key_id} is offline")]
    Offline {
        /// Which root.
        key_id: String,
    },
    /// A rotation is running; its steps come first.
    #[error("a rotation is running: the next step is {next}")]
    Running {
        /// The step whose turn it is.
        next: Step,
    },
    /// The state changed after the decision to take this step.
    #[error("the state changed since this step was decided")]
    Stale,
    /// There is more of something than fits.
    #[error("there are {max} {what} already")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many may be.
        max: usize,
    },
    /// No authority has this key.
    #[error("no authority has the key {key_id}")]
    UnknownKey {
        /// Which key.
        key_id: String,
    },
}

impl CaState {
    /// The step whose turn it is, if a rotation is running.
    ///
    /// A published authority is activated before an old one is retired: the two never wait for
    /// each other, for a rotation starts only when none is running.
    #[must_use]
    pub(crate) fn next_step(&self) -> Option<Step> {
        if self.at(Stage::Published).is_some() {
            Some(Step::Activate)
        } else if self.at(Stage::Retiring).is_some() {
            Some(Step::Retire)
        } else {
            None
        }
    }

    /// Starts a rotation: `new` goes into the bundle, as a new generation of it.
    ///
    /// # Errors
    ///
    /// [`StepError::Running`], or what is wrong with the keys of `new`.
    pub(crate) fn prepare(&self, new: Authority) -> Result<Self, StepError> {
        if let Some(next) = self.next_step() {
            return Err(StepError::Running { next });
        }
        self.publish(new, Stage::Published)
    }

    /// Takes the step that `go` was given for.
    ///
    /// Activating makes the active authority retire, under which the bundle stays as it is;
    /// retiring takes what is retiring out, as a new generation if a root goes with it.
    ///
    /// # Errors
    ///
    /// [`StepError::Stale`] if the state is not the one that `go` was given for.
    pub(crate) fn advance(&self, go: Go) -> Result<Self, StepError> {
        if go.generation() != self.generation || Some(go.step()) != self.next_step() {
            return Err(StepError::Stale);
        }
        let mut next = self.clone();
        match go.step() {
            Step::Prepare => return Err(StepError::Stale),
            Step::Activate => {
                for authority in &mut next.authorities {
                    authority.unseen_until = None;
                    authority.stage = match authority.stage {
                        Stage::Published => Stage::Active,
                        Stage::Active | Stage::Retiring => Stage::Retiring,
                    };
                }
            }
            Step::Retire => {
                next.authorities.retain(|a| a.stage != Stage::Retiring);
                let kept = |a: &Authority| next.authorities.iter().any(|b| a.root == b.root);
                if !self.authorities.iter().all(kept) {
                    next.generation += 1;
                }
            }
        }
        Ok(next)
    }

    /// Takes the authority of a compromised key out, at once, and never takes its keys again.
    ///
    /// An issuing CA's key takes its whole authority with it: the bundle knows roots only. If it
    /// is the active one, the published one takes its place, else `successor`, which goes into
    /// the bundle with this same step: after a compromise nothing is waited for.
    ///
    /// # Errors
    ///
    /// [`StepError::UnknownKey`]; [`StepError::ActiveDistrusted`] without a successor.
    pub(crate) fn distrust(
        &self,
        key_id: &str,
        successor: Option<Authority>,
    ) -> Result<Self, StepError> {
        let Some(root) = self.root_of(key_id) else {
            return Err(StepError::UnknownKey {
                key_id: key_id.to_owned(),
            });
        };
        let mut next = self.clone();
        next.authorities.retain(|a| a.root.key_id != root);
        let gone = self.authorities.iter().filter(|a| a.root.key_id == root);
        next.distrusted.push(root.to_owned());
        next.distrusted
            .extend(gone.map(|a| a.issuer.key_id.clone()));
        if next.distrusted.len() > MAX_DISTRUSTED {
            return Err(StepError::TooMany {
                what: "distrusted keys",
                max: MAX_DISTRUSTED,
            });
        }
        if next.at(Stage::Active).is_none() {
            let published = next
                .authorities
                .iter_mut()
                .find(|a| a.stage == Stage::Published);
            match (published, successor) {
                (Some(published), _) => {
                    published.stage = Stage::Active;
                    published.unseen_until = None;
                }
                (None, Some(new)) => return next.publish(new, Stage::Active),
                (None, None) => {
                    return Err(StepError::ActiveDistrusted {
                        key_id: key_id.to_owned(),
                    });
                }
            }
        }
        next.generation += 1;
        Ok(next)
    }

    /// Puts a new issuing CA under the active root in place of the one before, which retires.
    ///
    /// The bundle stays as it is: every member trusts the root, and a leaf brings its issuer along.
    ///
    /// # Errors
    ///
    /// [`StepError::Running`]; otherwise if the root's key is offline, or the new key is not new.
    pub(crate) fn replace_issuer(&self, issuer: Certificate) -> Result<Self, StepError> {
        if let Some(next) = self.next_step() {
            return Err(StepError::Running { next });
        }
        self.check_new(&issuer.key_id)?;
        let active = self.active();
        if active.root_key == KeyPlace::Offline {
            return Err(StepError::Offline {
                key_id: active.root.key_id.clone(),
            });
        }
        let mut new = Authority::new(active.root.clone(), issuer, active.root_key);
        new.stage = Stage::Active;
        new.published_in = active.published_in;
        let mut next = self.clone();
        for authority in &mut next.authorities {
            authority.stage = Stage::Retiring;
        }
        next.authorities.push(new);
        Ok(next)
    }

    /// The state in which a leaf of the issuing CA `key_id` may be valid until `not_after`; `None` if this is
    /// such a state already. It has no table of members, for that leaf is not in there.
    ///
    /// It is written down `ahead` of what is needed, so that one write serves many leaves. Only
    /// the active authority signs.
    ///
    /// # Errors
    ///
    /// [`StepError::Stale`] if `key_id` is not the active issuing CA.
    pub(crate) fn cover(
        &self,
        key_id: &str,
        not_after: SystemTime,
        ahead: Duration,
    ) -> Result<Option<Self>, StepError> {
        if self.active().issuer.key_id != key_id {
            return Err(StepError::Stale);
        }
        let covered = self
            .active()
            .leaf_until
            .is_some_and(|until| until >= not_after);
        if covered && self.left.is_none() {
            return Ok(None);
        }
        let mut next = self.clone();
        next.left = None;
        if covered {
            return Ok(Some(next));
        }
        for authority in &mut next.authorities {
            if authority.stage == Stage::Active {
                // A second more: the state is written in whole seconds, rounded down.
                authority.leaf_until = Some(not_after + ahead + Duration::from_secs(1));
            }
        }
        Ok(Some(next))
    }

    fn publish(&self, mut new: Authority, stage: Stage) -> Result<Self, StepError> {
        self.check_new(&new.root.key_id)?;
        self.check_new(&new.issuer.key_id)?;
        if self.authorities.len() >= MAX_AUTHORITIES {
            return Err(StepError::TooMany {
                what: "authorities",
                max: MAX_AUTHORITIES,
            });
        }
        let mut next = self.clone();
        next.generation += 1;
        new.stage = stage;
        new.published_in = next.generation;
        if stage == Stage::Published {
            new.unseen_until = Some(self.leaf_until().unwrap_or(SystemTime::UNIX_EPOCH));
        }
        next.authorities.push(new);
        Ok(next)
    }

    fn check_new(&self, key_id: &str) -> Result<(), StepError> {
        let key_id = key_id.to_owned();
        if self.distrusted.contains(&key_id) {
            return Err(StepError::Distrusted { key_id });
        }
        if self.root_of(&key_id).is_some() {
            return Err(StepError::KnownKey { key_id });
        }
        Ok(())
    }
}
