//! Endpoints that sessions lead to.

use std::num::NonZeroU64;

use super::super::pick::pick_again;
use super::super::{NoEndpoint, RequestLimits, foresee_kept};
use super::*;

fn with(conditions: [(bool, bool, bool); 3]) -> Arc<EndpointSet> {
    let endpoints = conditions.iter().zip(1..).map(|(conditions, n)| {
        let mut endpoint = Endpoint::new(([10, 0, 0, n], 80).into(), Transport::Plain);
        let (ready, serving, terminating) = *conditions;
        endpoint.conditions.ready = ready;
        endpoint.conditions.serving = serving;
        endpoint.conditions.terminating = terminating;
        endpoint
    });
    Arc::new(EndpointSet::build(endpoints, None))
}

fn id(set: &EndpointSet, place: usize) -> NonZeroU64 {
    set.members()[place].endpoint.session_id()
}

fn led(
    set: &Arc<EndpointSet>,
    session: NonZeroU64,
    tried: &[Arc<EndpointState>],
    seed: u64,
) -> Result<Picked, NoEndpoint> {
    let choice = (Choice::LeastRequest, Some(session));
    pick_again(set, choice, secs(0), (tried, false), &mut Draw::new(seed))
}

#[test]
fn a_session_stays_while_its_endpoint_serves() {
    let up = (true, true, false);
    for (conditions, stays) in [
        (up, true),
        // It terminates, and serves what it has: others get no new requests for it.
        ((false, true, true), true),
        ((false, false, true), false),
        ((false, false, false), false),
    ] {
        let set = with([up, conditions, up]);
        let session = id(&set, 1);
        for seed in 0..20 {
            let picked = led(&set, session, &[], seed).unwrap();
            let met = picked.member().endpoint.session_id() == session;
            assert_eq!(met, stays, "{conditions:?}");
        }
        assert_eq!(foresee_kept(&set, session).is_some(), stays);
    }
    // An endpoint that is gone, and a token that a client has made up.
    let set = with([up, up, up]);
    assert!(foresee_kept(&set, NonZeroU64::MIN).is_none());
    assert!(led(&set, NonZeroU64::MIN, &[], 1).is_ok());
}

#[test]
fn what_was_tried_is_ejected_or_is_full_leads_elsewhere() {
    let up = (true, true, false);
    let set = with([up, up, up]);
    let session = id(&set, 2);
    let own = Arc::clone(&set.members()[2].state);
    let picked = led(&set, session, &[Arc::clone(&own)], 1).unwrap();
    assert_ne!(picked.member().endpoint.session_id(), session);
    drop(picked);
    // Full: one request at each.
    let limits = RequestLimits::new(1, None).unwrap();
    let narrow = Arc::new(EndpointSet::clone(&set).with_limits(limits));
    let first = led(&narrow, session, &[], 1).unwrap();
    assert_eq!(first.member().endpoint.session_id(), session);
    let second = led(&narrow, session, &[], 1).unwrap();
    assert_ne!(second.member().endpoint.session_id(), session);
    assert!(foresee_kept(&narrow, session).is_none());
    drop((first, second));
    // Ejected: it is probed by a request without a session.
    let mut failed = led(&set, session, &[], 1).unwrap();
    while !own.is_ejected() {
        failed.failed(secs(0));
        failed = led(&set, session, &[], 1).unwrap();
    }
    let picked = led(&set, session, &[], 1).unwrap();
    assert_ne!(picked.member().endpoint.session_id(), session);
}

/// All requests together have a limit, and what a session leads to counts.
#[test]
fn a_session_counts_among_all_requests() {
    let up = (true, true, false);
    let limits = RequestLimits::new(10, Some(1)).unwrap();
    let set = Arc::new(EndpointSet::clone(&with([up, up, up])).with_limits(limits));
    let first = led(&set, id(&set, 0), &[], 1).unwrap();
    assert_eq!(set.health().in_flight(), 1);
    assert_eq!(
        led(&set, id(&set, 0), &[], 1).unwrap_err(),
        NoEndpoint::Full
    );
    drop(first);
    assert_eq!(set.health().in_flight(), 0);
}

/// The limits of a new set hold, also where sessions alone lead to it.
#[test]
fn the_connections_to_a_set_are_limited_that_sessions_alone_meet() {
    let up = (true, true, false);
    let old = with([up, up, up]);
    drop(led(&old, id(&old, 0), &[], 1).unwrap());
    assert_eq!(old.port().limits(), (8_192, 1_024));
    let limits = RequestLimits::default().with_connections(2, 3).unwrap();
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    let limits = limits.with_times(Some(second), Some(minute)).unwrap();
    let endpoints = old.members().iter().map(|member| member.endpoint.clone());
    let set = Arc::new(EndpointSet::build(endpoints, Some(&old)).with_limits(limits));
    let picked = led(&set, id(&set, 0), &[], 1).unwrap();
    assert_eq!(picked.member().endpoint.session_id(), id(&set, 0));
    assert_eq!(set.port().limits(), (2, 3));
    let port = picked.member().state.port();
    assert_eq!(port.limits(), (2, 3));
    assert_eq!(port.connect_timeout(), Some(second));
    assert_eq!(port.idle_timeout(), Some(minute));
}
