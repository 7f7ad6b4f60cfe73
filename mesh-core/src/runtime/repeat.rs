//! What the head of an answer says of a repeat. Pure: header fields and the time in, outcomes out.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName};

use crate::balance::Member;
use crate::error::{PUSHBACK, REASON, Reason};
use crate::model::Transport;
use crate::retry::{Answer, AttemptOutcome, Fault, Hint, NoRetry, Seen};
use crate::telemetry::Protocol;

/// How Envoy says that it has too much to do; it repeats nothing that was answered so.
const OVERLOADED: &str = "x-envoy-overloaded";
/// How often a call was sent before (gRPC, A6).
const BEFORE: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
/// The number of an attempt, from 1: the field that proxies have agreed on.
const ATTEMPT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// Says in a request how often it was sent before.
pub(super) fn count(before: usize, protocol: Protocol, headers: &mut HeaderMap) {
    if protocol == Protocol::Grpc {
        headers.insert(BEFORE, before.into());
    } else {
        headers.insert(ATTEMPT, (before + 1).into());
    }
}

/// What the agent of an endpoint says of the application behind it, where that has not answered and a
/// repeat is not ruled out.
fn said_by_agent(headers: &HeaderMap, member: &Member) -> Option<AttemptOutcome> {
    if !is_of_mesh(member) || NoRetry::is_in(headers) {
        return None;
    }
    let said = headers.get(REASON)?;
    let is = |reasons: &[Reason]| reasons.iter().any(|reason| said == reason.as_str());
    if is(&[Reason::ConnectFailed, Reason::ConnectTimeout]) {
        return Some(AttemptOutcome::Unanswered(Fault::Endpoint, Seen::Never));
    }
    is(&[Reason::Reset, Reason::Stale]).then_some(AttemptOutcome::Lost(Fault::Endpoint))
}

/// What an answer means for the attempts of its request, `kept` being whether that is there to be sent
/// again: one of the endpoint's agent may say that no application has answered. The clock is read where
/// none does.
pub(super) fn outcome_of(
    answer: Answer,
    headers: &HeaderMap,
    member: &Member,
    kept: bool,
    now: impl FnOnce() -> SystemTime,
) -> AttemptOutcome {
    let said = said_by_agent(headers, member);
    said.filter(|_| kept)
        .unwrap_or_else(|| AttemptOutcome::Answered(answer.with_hint(wish(headers, member, now()))))
}

/// Whether an endpoint is a workload of the mesh, which has proven that it is: others say nothing in the
/// fields of the mesh.
pub(super) fn is_of_mesh(member: &Member) -> bool {
    matches!(member.endpoint.transport, Transport::Mesh { .. })
}

/// What an endpoint asks of those that would repeat a request that it answered so: nothing if a hop below
/// has done what may be done, or has too much to do; else what the server behind it asks for.
fn wish(headers: &HeaderMap, member: &Member, now: SystemTime) -> Hint {
    let spent = is_of_mesh(member) && NoRetry::is_in(headers);
    if spent || headers.contains_key(OVERLOADED) {
        return Hint::Never;
    }
    hint(headers, now)
}

/// What a server asks of those that would repeat a request that it answered so: seconds or a date
/// (RFC 9110 section 10.2.3), or gRPC's pushback in milliseconds, where what is no number is never (A6).
fn hint(headers: &HeaderMap, now: SystemTime) -> Hint {
    if let Some(pushback) = headers.get(PUSHBACK) {
        let millis = pushback.to_str().ok().and_then(|text| text.parse().ok());
        return millis.map_or(Hint::Never, |millis| {
            Hint::After(Duration::from_millis(millis))
        });
    }
    let Some(text) = headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()) else {
        return Hint::None;
    };
    let date = || httpdate::parse_http_date(text).ok();
    match (text.parse().map(Duration::from_secs), date()) {
        (Ok(wait), _) => Hint::After(wait),
        (_, Some(at)) => Hint::After(at.duration_since(now).unwrap_or_default()),
        _ => Hint::None,
    }
}

/// How long a server asks to be left alone, if it does.
pub(super) fn asked(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    match hint(headers, now) {
        Hint::After(pause) => Some(pause),
        Hint::Never | Hint::None => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn pauses_are_read_in_all_their_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let after = |millis| Hint::After(Duration::from_millis(millis));
        for (name, value, wanted) in [
            ("retry-after", "2", after(2_000)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:40 GMT", after(3_000)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:00 GMT", after(0)),
            ("retry-after", "soon", Hint::None),
            ("retry-after", "-1", Hint::None),
            ("grpc-retry-pushback-ms", "40", after(40)),
            ("grpc-retry-pushback-ms", "-1", Hint::Never),
            ("grpc-retry-pushback-ms", "soon", Hint::Never),
            ("x-other", "1", Hint::None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(hint(&headers, now), wanted, "{name}: {value}");
        }
    }
}
