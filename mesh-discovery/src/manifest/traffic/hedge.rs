//! `hedge`: what is sent to several endpoints at once.
//!
//! The words are those of gRPC's hedgingPolicy (A6), but for the codes, which are those of `retry`, and for
//! `grpc`, which is ours.

use inmesh_core::retry::HedgePolicy;

use super::super::strict::Value;
use super::super::{retry, text};

/// The attempts where none are said.
const ATTEMPTS: u32 = 2;

pub(super) fn read(value: &Value<'_>) -> Option<HedgePolicy> {
    value.object(|fields| {
        fields.refuse_all(&["nonFatalStatusCodes"], "is `codes` and `grpcCodes`");
        let (attempts, delay) = (fields.get("maxAttempts"), fields.need("hedgingDelay"));
        let (calls, by_name) = (fields.get("grpc"), fields.get("grpcCodes").is_some());
        let (codes, grpc_codes) = (retry::codes(fields.get("codes")), retry::grpc_codes(fields));
        let calls = calls.map_or(Some(false), |calls| calls.boolean())?;
        if by_name && !calls {
            value.refuse("has grpcCodes without `grpc: true`: no call of gRPC is hedged");
        }
        let attempts = match attempts {
            Some(attempts) => attempts.integer_in(2, 5)?,
            None => ATTEMPTS,
        };
        let delay = delay.and_then(|delay| delay.check(text::duration(delay.text()?)))?;
        let mut policy = value.check(HedgePolicy::new(attempts, delay))?;
        if calls {
            policy = policy.with_grpc();
        }
        for (number, code) in codes? {
            policy = code.check(policy.on_status(number))?;
        }
        for (number, code) in grpc_codes? {
            policy = code.check(policy.on_grpc(number))?;
        }
        Some(policy)
    })
}
