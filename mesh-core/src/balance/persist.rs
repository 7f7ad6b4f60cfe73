//! The choice of an endpoint that a session leads to.

use std::num::NonZeroU64;
use std::sync::Arc;

#[cfg(any(feature = "runtime", feature = "simulate"))]
use super::picked::Picked;
use super::set::EndpointSet;
use super::state::{EndpointState, Member};

/// Whether a session may stay: its endpoint serves, perhaps while it terminates, is neither ejected nor was
/// tried, and may have one more request.
fn may_stay(member: &Member, set: &EndpointSet, tried: &[Arc<EndpointState>]) -> bool {
    let (conditions, state) = (member.endpoint.conditions, &member.state);
    (conditions.ready || conditions.serving)
        && !state.is_ejected()
        && state.in_flight() < set.limits().endpoint()
        && !tried.iter().any(|t| Arc::ptr_eq(t, state))
}

/// The place of the endpoint that a session leads to; `None` where it is to lead to another. It reads every
/// endpoint.
fn place(set: &EndpointSet, endpoint: NonZeroU64, tried: &[Arc<EndpointState>]) -> Option<usize> {
    let mut members = set.members().iter();
    let is_it = |member: &Member| member.endpoint.session_id() == endpoint;
    members.position(|member| is_it(member) && may_stay(member, set, tried))
}

/// Takes the endpoint that a session leads to, whatever the strategy, the tiers and what is to be probed.
#[cfg(any(feature = "runtime", feature = "simulate"))]
pub(super) fn pick_kept(
    set: &Arc<EndpointSet>,
    endpoint: NonZeroU64,
    tried: &[Arc<EndpointState>],
) -> Option<Picked> {
    let place = place(set, endpoint, tried)?;
    let counted = match set.limits().service() {
        None => false,
        Some(most) if set.health().enter(most) => true,
        Some(_) => return None,
    };
    match Picked::new(set, place, false) {
        Some(picked) => Some(picked.counted(counted)),
        None => {
            if counted {
                set.health().leave();
            }
            None
        }
    }
}

/// The endpoint that a session would be led to; nothing is counted.
pub(crate) fn foresee_kept(set: &EndpointSet, endpoint: NonZeroU64) -> Option<&Member> {
    let limits = set.limits();
    if { limits.service() }.is_some_and(|most| set.health().in_flight() >= most) {
        return None;
    }
    set.members().get(place(set, endpoint, &[])?)
}
