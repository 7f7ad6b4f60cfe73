//! What an answer says of the endpoint that it comes from. Pure: heads and ends of answers come in,
//! verdicts go out; what a verdict does to the endpoint is [`Picked`]'s.
//!
//! A failure counts at once. A success waits for the end, because an answer may still break off; only a
//! probe is not left waiting, unless it is gRPC, whose status comes last.

use std::time::Duration;

use http::StatusCode;

use super::eject::Failure;
use super::picked::Picked;

/// The gRPC status of a server that has too much to do.
const RESOURCE_EXHAUSTED: u8 = 8;
/// The gRPC status of a server that is not there for now.
const UNAVAILABLE: u8 = 14;

/// The head of an answer, as far as it says something of its endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadSeen {
    pub(crate) status: StatusCode,
    /// Its gRPC status, if the head has one.
    pub(crate) grpc: Option<u8>,
    /// Whether it answers a call of gRPC.
    pub(crate) of_grpc: bool,
    /// Whether the agent of the endpoint says that the application behind it is not to blame.
    pub(crate) spared: bool,
    /// How long the endpoint asks to be left alone.
    pub(crate) pause: Option<Duration>,
}

/// What an answer says of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It failed.
    Failed(Failure),
    /// Nothing yet: the end of the answer says it.
    Open,
    /// Nothing, whatever the end is.
    Spared,
    /// It answered as it should.
    Succeeded,
}

/// Judges by the head of an answer.
pub(crate) fn of_head(picked: &mut Picked, head: &HeadSeen, now: impl Fn() -> Duration) -> Verdict {
    if head.spared {
        // The application behind the agent of the endpoint closed, and may be well.
        return Verdict::Spared;
    }
    let failed = head.status.is_server_error();
    match is_shed(head.status, head.grpc) {
        true => picked.shed(head.pause, now()),
        false if !failed => picked.answered(now),
        false => {}
    }
    match head.grpc {
        _ if failed => Verdict::Failed(of_status(head.status)),
        Some(grpc) if is_endpoints_fault(grpc) => Verdict::Failed(of_grpc(grpc)),
        grpc if picked.is_probe() && (!head.of_grpc || grpc.is_some()) => Verdict::Succeeded,
        _ => Verdict::Open,
    }
}

/// Judges by the end of an answer that is whole, where its head has left that open.
pub(crate) fn of_end(
    picked: &mut Picked,
    grpc: Option<u8>,
    now: impl FnOnce() -> Duration,
) -> Verdict {
    if grpc == Some(RESOURCE_EXHAUSTED) {
        picked.shed(None, now());
    }
    match grpc.filter(|status| is_endpoints_fault(*status)) {
        Some(status) => Verdict::Failed(of_grpc(status)),
        None => Verdict::Succeeded,
    }
}

/// Whether the endpoint answers that it has too much to do.
pub(crate) fn is_shed(status: StatusCode, grpc: Option<u8>) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || grpc == Some(RESOURCE_EXHAUSTED)
}

/// How an endpoint fails that answers with a status.
fn of_status(status: StatusCode) -> Failure {
    match status.as_u16() {
        502..=504 => Failure::Gateway,
        _ => Failure::Answer,
    }
}

/// The same of a gRPC status.
fn of_grpc(status: u8) -> Failure {
    match status {
        UNAVAILABLE => Failure::Gateway,
        _ => Failure::Answer,
    }
}

/// UNKNOWN, INTERNAL, UNAVAILABLE and DATA_LOSS are the server's fault.
fn is_endpoints_fault(grpc: u8) -> bool {
    matches!(grpc, 2 | 13 | 14 | 15)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::balance::{Choice, EndpointSet, pick};
    use crate::model::{Draw, Endpoint, Transport};

    fn picked() -> Picked {
        let endpoint = Endpoint::new(([10, 0, 0, 1], 80).into(), Transport::Plain);
        let set = Arc::new(EndpointSet::build([endpoint], None));
        let (zero, mut draw) = (Duration::ZERO, Draw::new(1));
        pick(&set, Choice::LeastRequest, zero, &[], &mut draw).expect("one is there")
    }

    #[test]
    fn a_head_and_an_end_say_what_an_endpoint_did() {
        let (answer, gateway) = (
            Verdict::Failed(Failure::Answer),
            Verdict::Failed(Failure::Gateway),
        );
        for (status, grpc, spared, wanted) in [
            (200, None, false, Verdict::Open),
            (404, None, false, Verdict::Open),
            (429, None, false, Verdict::Open),
            (500, None, false, answer),
            (503, None, false, gateway),
            (503, None, true, Verdict::Spared),
            (200, Some(14), false, gateway),
            (200, Some(13), false, answer),
            (200, Some(5), false, Verdict::Open),
            (200, Some(8), false, Verdict::Open),
        ] {
            let head = HeadSeen {
                status: StatusCode::from_u16(status).expect("a status"),
                grpc,
                of_grpc: grpc.is_some(),
                spared,
                pause: None,
            };
            let got = of_head(&mut picked(), &head, || Duration::ZERO);
            assert_eq!(got, wanted, "{status} {grpc:?} {spared}");
        }
        for (grpc, wanted) in [
            (None, Verdict::Succeeded),
            (Some(0), Verdict::Succeeded),
            (Some(2), answer),
            (Some(14), gateway),
        ] {
            let got = of_end(&mut picked(), grpc, || Duration::ZERO);
            assert_eq!(got, wanted, "{grpc:?}");
        }
    }
}
