//! `fault`: what is made to happen to requests on purpose.
//!
//! The words are those of Istio's HTTPFaultInjection, and Kuma's for the bandwidth (MeshFaultInjection).

use http::StatusCode;
use inmesh_core::traffic::{Abort, Bandwidth, FaultInjection, Percentage};

use super::super::strict::{Fields, Value};
use super::super::{retry, text};
use super::UNUSED;

pub(super) fn read(value: &Value<'_>) -> Option<FaultInjection> {
    value.object(|fields| {
        let (delay, abort) = (fields.get("delay"), fields.get("abort"));
        let bandwidth = fields.get("responseBandwidth");
        if delay.is_none() && abort.is_none() && bandwidth.is_none() {
            value.refuse("has a delay, an abort, a responseBandwidth, or several");
            return None;
        }
        // Each is read, for its problems.
        let fault = FaultInjection::default();
        let fault = match &delay {
            Some(delay) => with_delay(delay, fault),
            None => Some(fault),
        };
        let fault = match &abort {
            Some(abort) => with_abort(abort, fault),
            None => fault,
        };
        match &bandwidth {
            Some(bandwidth) => with_bandwidth(bandwidth, fault),
            None => fault,
        }
    })
}

fn with_delay(delay: &Value<'_>, fault: FaultInjection) -> Option<FaultInjection> {
    delay.object(|fields| {
        fields.refuse_all(&["percent"], "is `percentage.value`");
        fields.refuse_all(&["exponentialDelay"], UNUSED);
        let (of, wait) = (percentage(fields), fields.need("fixedDelay"));
        let wait = wait.and_then(|wait| wait.check(text::duration(wait.text()?)));
        delay.check(fault.with_delay(of?, wait?))
    })
}

fn with_abort(abort: &Value<'_>, fault: Option<FaultInjection>) -> Option<FaultInjection> {
    abort.object(|fields| {
        fields.refuse_all(&["http2Error"], UNUSED);
        let of = percentage(fields);
        let answer = match (fields.get("httpStatus"), fields.get("grpcStatus")) {
            (Some(http), None) => {
                let status = http.integer_in::<u16>(200, 599)?;
                Abort::Http(http.check(StatusCode::from_u16(status))?)
            }
            (None, Some(grpc)) => Abort::Grpc(retry::grpc_code(&grpc)?),
            _ => {
                abort.refuse("has one of httpStatus and grpcStatus");
                return None;
            }
        };
        abort.check(fault?.with_abort(of?, answer))
    })
}

fn with_bandwidth(slow: &Value<'_>, fault: Option<FaultInjection>) -> Option<FaultInjection> {
    slow.object(|fields| {
        let (of, limit) = (percentage(fields), fields.need("limit"));
        let limit = limit.and_then(|limit| {
            let Some(bits) = bits(limit.text()?) else {
                limit.refuse("is a number with kbps, Mbps or Gbps after it, such as 50kbps");
                return None;
            };
            limit.check(Bandwidth::new(bits))
        });
        Some(fault?.with_bandwidth(of?, limit?))
    })
}

/// Bits per second, of a text such as `50kbps`.
fn bits(text: &str) -> Option<u64> {
    let text = text.trim_ascii();
    let of = |unit| text.strip_suffix(unit);
    let (number, factor) = match (of("kbps"), of("Mbps"), of("Gbps")) {
        (Some(number), ..) => (number, 1_000_u64),
        (_, Some(number), _) => (number, 1_000_000),
        (_, _, Some(number)) => (number, 1_000_000_000),
        _ => return None,
    };
    let number = number.trim_ascii_end();
    let digits = number.bytes().all(|b| b.is_ascii_digit());
    number
        .parse::<u64>()
        .ok()
        .filter(|_| digits)?
        .checked_mul(factor)
}

fn percentage(fields: &mut Fields<'_>) -> Option<Percentage> {
    fields.need("percentage")?.object(|fields| {
        let value = fields.need("value")?;
        value.check(Percentage::new(value.number()?))
    })
}
