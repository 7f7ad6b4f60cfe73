//! The state of a CA, its members and the time in, the next step of a rotation, or the members that
//! it waits for, out. Pure.
//!
//! 1. Nothing is under way: nothing to wait for; [`due`] says whether it is time to begin.
//! 2. A root is published: it is activated once every live member has the generation that has it.
//!    A member that is silent drops out when its leaf expires, so this takes a leaf's life at most.
//!    Where other processes issue too, their members are not known: it takes until the moment that the
//!    state has, after which no leaf is alive that came with an older bundle.
//! 3. A root is retiring: it is taken out once no leaf under it can be alive. What may be alive is
//!    written in the state, so this holds for leaves of earlier processes too.
//!
//! A [`Go`] is the proof that this was decided; it is given for one state and one step only. An
//! operator that accepts that handshakes fail may force one.

use std::time::SystemTime;

use serde::Serialize;

use super::members::{Members, Missing};
use super::state::{CaState, KeyPlace, Stage};
use super::step::{Go, Step};

/// Whether the mesh is ready for the next step; complete.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// It is.
    Go(Go),
    /// It is not.
    Wait(Wait),
}

/// The members that the next step waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Wait {
    /// The step.
    #[serde(skip)]
    pub step: Step,
    /// Members that are known.
    #[serde(rename = "members")]
    pub missing: Vec<Missing>,
    /// Whether there may be members that are not known: leaves of an earlier process.
    pub unknown: bool,
    /// When the wait ends, if no member acknowledges.
    #[serde(serialize_with = "crate::time::unix::serialize")]
    pub until: SystemTime,
}

/// What is due without a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum Due {
    /// Half of the issuing CA's life is gone, and the root's key is here.
    RenewIssuer,
    /// Half of the root's life is gone, and its key is here: a rotation begins.
    RotateRoot,
    /// Half of the life of the root or of the issuing CA is gone, but the root's key is offline:
    /// an operator has to bring a successor.
    WantSuccessor,
}

impl Go {
    /// Permits the next step of `state` whatever [`gate`] says: a missing member will fail
    /// handshakes until its next renewal. `None` if no rotation is running.
    #[must_use]
    pub(crate) fn force(state: &CaState) -> Option<Self> {
        Some(Self::new(state.next_step()?, state.generation()))
    }
}

/// Decides whether the next step may be taken at `now`; `None` if no rotation is running.
///
/// The ordered list in the [module](self) is the algorithm.
#[must_use]
pub(crate) fn gate(state: &CaState, members: &Members, now: SystemTime) -> Option<Gate> {
    let step = state.next_step()?;
    let go = Gate::Go(Go::new(step, state.generation()));
    match step {
        Step::Prepare => None,
        Step::Activate => {
            let generation = state.at(Stage::Published)?.published_in();
            let missing = members.without(generation, now);
            let unknown = match members.is_partial() {
                // Acknowledgements to other processes are not known: no such leaf may be alive.
                true => state.unseen_until().filter(|until| *until >= now),
                false => members.unknown_without(generation, now),
            };
            let until = missing.iter().map(|m| m.until).max().max(unknown);
            Some(until.map_or(go, |until| {
                Gate::Wait(Wait {
                    step,
                    missing,
                    unknown: unknown.is_some(),
                    until,
                })
            }))
        }
        Step::Retire => {
            let retiring = || {
                state
                    .authorities()
                    .iter()
                    .filter(|a| a.stage() == Stage::Retiring)
            };
            let until = retiring()
                .filter_map(super::state::Authority::leaf_until)
                .max()
                .filter(|until| *until >= now);
            Some(until.map_or(go, |until| {
                Gate::Wait(Wait {
                    step,
                    missing: retiring()
                        .flat_map(|a| members.under(a.issuer_key_id(), now))
                        .collect(),
                    unknown: members.unknown_until(now).is_some(),
                    until,
                })
            }))
        }
    }
}

/// What is due at `now` without a command; nothing while a rotation is running.
#[must_use]
pub(crate) fn due(state: &CaState, now: SystemTime) -> Option<Due> {
    let active = state.active();
    if state.next_step().is_some() {
        return None;
    }
    let root = half_gone(active.root_life(), now);
    let issuer = half_gone(active.issuer_life(), now);
    match (active.root_key(), root, issuer) {
        (KeyPlace::Held, true, _) => Some(Due::RotateRoot),
        (KeyPlace::Held, false, true) => Some(Due::RenewIssuer),
        (KeyPlace::Offline, true, _) | (KeyPlace::Offline, _, true) => Some(Due::WantSuccessor),
        (_, false, false) => None,
    }
}

fn half_gone((from, to): (SystemTime, SystemTime), now: SystemTime) -> bool {
    let life = to.duration_since(from).unwrap_or_default();
    now >= from + life / 2
}
