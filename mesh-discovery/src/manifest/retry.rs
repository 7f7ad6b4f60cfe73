//! `retry` and `timeouts`, as the rules of routes and our own policies have them.

use std::time::Duration;

use inmesh_core::retry::RetryPolicy;
use inmesh_core::route::Timeouts;

use super::strict::{Fields, Value};
use super::text;

/// The Gateway API's default where there is a retry.
const REPEATS: u32 = 1;
/// The status codes of gRPC that are failures, by their numbers from 1.
const GRPC: &[&str] = &[
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// `HTTPRouteRetry` of the Gateway API.
pub(super) fn read(value: &Value<'_>) -> Option<RetryPolicy> {
    value.object(http)
}

/// The same with `grpcCodes`, by their names.
pub(super) fn with_grpc(value: &Value<'_>) -> Option<RetryPolicy> {
    value.object(|fields| {
        let codes = grpc_codes(fields);
        let policy = http(fields);
        { codes?.into_iter() }.try_fold(policy?, |policy, (number, code)| {
            code.check(policy.on_grpc(number))
        })
    })
}

/// `grpcCodes`, each with its value.
pub(super) fn grpc_codes<'t>(fields: &mut Fields<'t>) -> Option<Vec<(u8, Value<'t>)>> {
    let list = fields.get("grpcCodes");
    let list = list.map_or(Some(Vec::new()), |list| list.list_of_or_empty(GRPC.len()))?;
    let mut seen: Vec<(u8, Value<'_>)> = Vec::new();
    for code in list {
        let number = grpc_code(&code)?;
        if seen.iter().any(|(of, _)| *of == number) {
            code.refuse("stands twice");
        }
        seen.push((number, code));
    }
    Some(seen)
}

/// `codes`, each with its value.
pub(super) fn codes<'t>(list: Option<Value<'t>>) -> Option<Vec<(u16, Value<'t>)>> {
    let mut seen: Vec<(u16, Value<'_>)> = Vec::new();
    for code in list.map_or(Some(Vec::new()), |codes| codes.list_or_empty())? {
        let number = code.integer_in::<u16>(400, 599)?;
        if seen.iter().any(|(of, _)| *of == number) {
            code.refuse(format_args!("{number} stands twice"));
        }
        seen.push((number, code));
    }
    Some(seen)
}

/// A status code of gRPC by its name.
pub(super) fn grpc_code(value: &Value<'_>) -> Option<u8> {
    let name = value.choice(GRPC)?;
    let found = (1..).zip(GRPC).find(|(_, known)| **known == name);
    Some(found?.0)
}

fn http(retry: &mut Fields<'_>) -> Option<RetryPolicy> {
    let (attempts, backoff) = (retry.get("attempts"), retry.get("backoff"));
    let codes = retry.get("codes");
    let repeats = match attempts {
        Some(attempts) => attempts.integer_in::<u32>(0, i64::from(u32::MAX))?,
        None => REPEATS,
    };
    let mut policy = RetryPolicy::new(repeats);
    if let Some(backoff) = backoff {
        policy = policy.with_backoff(backoff.check(text::duration(backoff.text()?))?);
    }
    for (number, code) in self::codes(codes)? {
        policy = code.check(policy.on_status(number))?;
    }
    Some(policy)
}

/// `HTTPRouteTimeouts` of the Gateway API.
pub(super) fn timeouts(value: &Value<'_>) -> Option<Timeouts> {
    value.object(|fields| limits(value, fields))
}

/// The same with `streamIdle`.
pub(super) fn with_idle(value: &Value<'_>) -> Option<Timeouts> {
    value.object(|fields| {
        let idle = limit(fields, "streamIdle");
        Some(limits(value, fields)?.with_stream_idle(idle?))
    })
}

fn limits(value: &Value<'_>, fields: &mut Fields<'_>) -> Option<Timeouts> {
    let request = limit(fields, "request");
    let backend = limit(fields, "backendRequest");
    value.check(Timeouts::new(request?, backend?))
}

fn limit(fields: &mut Fields<'_>, name: &'static str) -> Option<Option<Duration>> {
    match fields.get(name) {
        Some(value) => value.check(text::duration(value.text()?)).map(Some),
        None => Some(None),
    }
}
