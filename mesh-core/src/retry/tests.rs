//! What follows an attempt, one table and a property.

use proptest::prelude::*;

use super::*;

const UNSEEN: AttemptOutcome = AttemptOutcome::Unanswered(Fault::Connection, Seen::Never);
const SEEN: AttemptOutcome = AttemptOutcome::Unanswered(Fault::Connection, Seen::Maybe);

#[test]
fn what_was_answered_or_lost_is_never_sent_again() {
    for outcome in [
        AttemptOutcome::Answered(StatusCode::OK, None),
        AttemptOutcome::Answered(StatusCode::SERVICE_UNAVAILABLE, None),
        AttemptOutcome::Answered(StatusCode::OK, Some(14)),
        AttemptOutcome::Lost(Fault::Connection),
        AttemptOutcome::Lost(Fault::Endpoint),
        AttemptOutcome::Lost(Fault::Caller),
        AttemptOutcome::Unanswered(Fault::Caller, Seen::Never),
    ] {
        let next = Attempts::at_any().handle_outcome(outcome);
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
        let next = Attempts::at_any().handle_outcome(outcome);
        assert_eq!(next, Next::Retry { avoid }, "{outcome:?}");
    }
}

#[test]
fn what_a_server_may_have_seen_is_not_risked_on_another_pooled_connection() {
    let mut attempts = Attempts::at_any();
    assert_eq!(
        attempts.handle_outcome(UNSEEN),
        Next::Retry { avoid: false }
    );
    assert_eq!(attempts.reuse(), Reuse::Allowed);
    assert_eq!(attempts.handle_outcome(SEEN), Next::Retry { avoid: false });
    assert_eq!(attempts.reuse(), Reuse::Forbidden);
}

#[test]
fn an_application_alone_is_tried_again_after_stale_connections_only() {
    let failed = AttemptOutcome::Unanswered(Fault::Endpoint, Seen::Never);
    assert_eq!(Attempts::at_one().handle_outcome(failed), Next::Finish);
    let crowded = AttemptOutcome::Unanswered(Fault::Crowd, Seen::Never);
    assert_eq!(Attempts::at_one().handle_outcome(crowded), Next::Finish);
    let mut attempts = Attempts::at_one();
    for _ in 1..STALE {
        assert_eq!(
            attempts.handle_outcome(UNSEEN),
            Next::Retry { avoid: false }
        );
    }
    assert_eq!(attempts.handle_outcome(UNSEEN), Next::Finish);
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
            .take_while(|outcome| attempts.handle_outcome(*outcome) != Next::Finish)
            .count();
        prop_assert!(retries < FAILED + STALE - 1);
    }
}
