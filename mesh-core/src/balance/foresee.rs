//! The forecast of a choice, pure: the live endpoints in, the one that the next request would be sent to
//! out. It decides by the same function as a pick does, and changes nothing.

use std::time::Duration;

use super::eject::Breaker;
use super::pick::{NoEndpoint, decide};
use super::set::EndpointSet;
use super::state::Member;
use super::strategy::Choice;
use crate::model::Draw;

/// The endpoint that [`pick`](super::pick()) would choose for a request that was sent nowhere yet. Nothing is counted,
/// no turn is taken, and no probe begins. Nor does a set arrive: where it has become so small that the
/// next request will end ejections, they still hold here.
///
/// # Errors
///
/// [`NoEndpoint`] if no endpoint may be chosen.
pub fn foresee<'s>(
    set: &'s EndpointSet,
    choice: Choice,
    now: Duration,
    draw: &mut Draw,
) -> Result<&'s Member, NoEndpoint> {
    let limits = set.limits();
    if { limits.service() }.is_some_and(|most| set.health().in_flight() >= most) {
        return Err(NoEndpoint::Full);
    }
    let is_due = |index: &usize| {
        let state = &set.members()[*index].state;
        let due = |b: &mut Breaker| !b.is_probing() && b.ejected_until().is_some_and(|u| u <= now);
        let may = state.is_ejected() && !state.is_unwell();
        may && state.health.with(due)
    };
    let has_place = |index: &usize| set.members()[*index].state.in_flight() < limits.endpoint();
    let probe = set.health().may_probe(now);
    // If the first that is due has no place for one more, no other is probed.
    let probed = set.ready_places().filter(|_| probe).find(is_due);
    let probed = probed.filter(has_place);
    let mut ahead = set.health().turns_ahead();
    let mut turn = |draw: &mut Draw| ahead.next(draw);
    let index = match probed {
        Some(index) => index,
        None => decide(set, choice, now, &[], draw, &mut turn)?,
    };
    Ok(&set.members()[index])
}
