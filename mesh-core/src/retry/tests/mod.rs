//! What follows an attempt, one table and a property.

use proptest::prelude::*;

use super::*;

mod policy;
mod race;
#[cfg(feature = "runtime")]
mod replay;

const UNSEEN: AttemptOutcome = AttemptOutcome::Unanswered(Fault::Connection, Seen::Never);
fn answered(status: u16, grpc: Option<u8>) -> AttemptOutcome {
    AttemptOutcome::Answered(Answer::new(StatusCode::from_u16(status).unwrap(), grpc))
}

fn after(attempts: &mut Attempts, outcome: AttemptOutcome) -> Next {
    attempts.handle_outcome(outcome, None, &mut Draw::new(1))
}

fn again(avoid: bool) -> Next {
    Next::Retry {
        avoid,
        wait: Duration::ZERO,
    }
}

const SEEN: AttemptOutcome = AttemptOutcome::Unanswered(Fault::Connection, Seen::Maybe);

#[test]
fn what_was_answered_or_lost_is_never_sent_again() {
    for outcome in [
        answered(200, None),
        answered(503, None),
        answered(200, Some(14)),
        AttemptOutcome::Lost(Fault::Connection),
        AttemptOutcome::Lost(Fault::Endpoint),
        AttemptOutcome::Lost(Fault::Caller),
        AttemptOutcome::Unanswered(Fault::Caller, Seen::Never),
    ] {
        let next = after(&mut Attempts::at_any(), outcome);
        assert_eq!(next, Next::Finish, "{outcome:?}");
    }
}

#[test]
fn an_endpoint_that_failed_is_avoided_and_a_stale_connection_is_not_its_fault() {
    for (outcome, avoid) in [
        (
            AttemptOutcome::Unanswered(Fault::Endpoint, Seen::Never),
            true,
        ),
        (AttemptOutcome::Unanswered(Fault::Crowd, Seen::Never), true),
        (UNSEEN, false),
        (SEEN, false),
    ] {
        let next = after(&mut Attempts::at_any(), outcome);
        assert_eq!(next, again(avoid), "{outcome:?}");
    }
}

#[test]
fn what_a_server_may_have_seen_is_not_risked_on_another_pooled_connection() {
    let mut attempts = Attempts::at_any();
    assert_eq!(after(&mut attempts, UNSEEN), again(false));
    assert_eq!(attempts.reuse(), Reuse::Allowed);
    assert_eq!(after(&mut attempts, SEEN), again(false));
    assert_eq!(attempts.reuse(), Reuse::Forbidden);
}

#[test]
fn an_application_alone_is_tried_again_after_stale_connections_only() {
    let failed = AttemptOutcome::Unanswered(Fault::Endpoint, Seen::Never);
    assert_eq!(after(&mut Attempts::at_one(), failed), Next::Finish);
    let crowded = AttemptOutcome::Unanswered(Fault::Crowd, Seen::Never);
    assert_eq!(after(&mut Attempts::at_one(), crowded), Next::Finish);
    let mut attempts = Attempts::at_one();
    for _ in 1..STALE {
        assert_eq!(after(&mut attempts, UNSEEN), again(false));
    }
    assert_eq!(after(&mut attempts, UNSEEN), Next::Finish);
}

/// Whatever has a server decline a request, it is not asked for ever.
#[test]
fn a_server_that_declines_is_asked_three_times() {
    let declined = AttemptOutcome::Unanswered(Fault::Declined, Seen::Never);
    for mut attempts in [Attempts::at_one(), Attempts::at_any()] {
        assert_eq!(after(&mut attempts, declined), again(false));
        assert_eq!(after(&mut attempts, UNSEEN), again(false));
        assert_eq!(after(&mut attempts, declined), again(false));
        assert_eq!(after(&mut attempts, declined), Next::Finish);
    }
}

proptest! {
    #[test]
    fn attempts_end(faults in proptest::collection::vec((0_u8..3, any::<bool>()), 64)) {
        let mut attempts = Attempts::at_any();
        let retries = faults
            .into_iter()
            .map(|(fault, seen)| {
                let fault = [Fault::Connection, Fault::Crowd, Fault::Endpoint][usize::from(fault)];
                AttemptOutcome::Unanswered(fault, if seen { Seen::Maybe } else { Seen::Never })
            })
            .take_while(|outcome| after(&mut attempts, *outcome) != Next::Finish)
            .count();
        prop_assert!(retries < FAILED + STALE - 1);
    }
}
