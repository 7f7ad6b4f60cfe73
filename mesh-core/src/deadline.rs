//! How long a caller waits, read from a request and written into the one that it leads to, and when a
//! request or an attempt must have an answer. Pure.
//!
//! In comes `grpc-timeout` of gRPC, or `x-envoy-expected-rq-timeout-ms`, the field that proxies have
//! agreed on; out goes what is left of it, so that no server works for a caller that has given up.
//! What cannot be read says nothing.

use std::hint::cold_path;
use std::ops::Add;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::error::Reason;
use crate::route::Timeouts;

/// `grpc-timeout` (gRPC over HTTP/2, Requests).
const GRPC: HeaderName = HeaderName::from_static("grpc-timeout");
/// In milliseconds.
const HTTP: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
/// The most digits of `grpc-timeout`.
const DIGITS: usize = 8;

/// How long a caller waits that sent this field; `None` of any other field, or if it cannot be read.
pub(crate) fn read(name: &HeaderName, value: &HeaderValue) -> Option<Duration> {
    // Every field of every request is asked; most names have another length.
    match name.as_str() {
        "grpc-timeout" => {
            cold_path();
            of_grpc(value.as_bytes())
        }
        "x-envoy-expected-rq-timeout-ms" => {
            cold_path();
            // As proxies read it, 0 is no limit.
            let millis = value.to_str().ok()?.parse().ok().filter(|ms| *ms > 0)?;
            Some(Duration::from_millis(millis))
        }
        _ => None,
    }
}

fn of_grpc(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=DIGITS).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3_600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Writes how long is left for a request, in place of what its caller has said.
pub(crate) fn write(left: Duration, grpc: bool, headers: &mut HeaderMap) {
    let millis = left.as_millis().max(1);
    let (name, text) = if grpc {
        // The coarsest unit that eight digits do not hold it in is never met: 99,999,999 ms are a day.
        let text = match millis {
            0..=99_999_999 => format!("{millis}m"),
            _ => format!("{}S", left.as_secs().min(99_999_999)),
        };
        (GRPC, text)
    } else {
        (HTTP, millis.to_string())
    };
    if let Ok(text) = HeaderValue::try_from(text) {
        headers.insert(name, text);
    }
}

/// When a request as a whole must have an answer that began at `started`; `caller` is when its caller
/// gives up.
pub(crate) fn end<T>(limits: Timeouts, started: T, caller: Option<T>) -> Option<T>
where
    T: Copy + Ord + Add<Duration, Output = T>,
{
    let limit = limits.request.map(|limit| started + limit);
    limit.into_iter().chain(caller).min()
}

/// When an attempt that begins at `now` must have an answer, and the reason if it has none; `end` is
/// that of the whole request.
pub(crate) fn of_attempt<T>(limits: Timeouts, end: Option<T>, now: T) -> Option<(T, Reason)>
where
    T: Copy + Ord + Add<Duration, Output = T>,
{
    let whole = end.map(|at| (at, Reason::RequestTimeout));
    let one = limits
        .backend_request
        .map(|limit| (now + limit, Reason::BackendTimeout));
    // On a tie it is the whole request that is late.
    whole.into_iter().chain(one).min_by_key(|(at, _)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_says_is_read() {
        let millis = |n| Some(Duration::from_millis(n));
        for (name, value, wanted) in [
            (GRPC, "250m", millis(250)),
            (GRPC, "2S", millis(2_000)),
            (GRPC, "1M", millis(60_000)),
            (GRPC, "1H", millis(3_600_000)),
            (GRPC, "5000u", millis(5)),
            (GRPC, "7000000n", millis(7)),
            (GRPC, "0m", millis(0)),
            (
                GRPC,
                "99999999H",
                Some(Duration::from_secs(99_999_999 * 3_600)),
            ),
            (GRPC, "123456789m", None),
            (GRPC, "m", None),
            (GRPC, "", None),
            (GRPC, "-1m", None),
            (GRPC, "1s", None),
            (HTTP, "1500", millis(1_500)),
            (HTTP, "0", None),
            (HTTP, "1.5", None),
            (HTTP, "soon", None),
            (HeaderName::from_static("x-other"), "5", None),
        ] {
            let value = HeaderValue::from_static(value);
            assert_eq!(read(&name, &value), wanted, "{name}: {value:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for grpc in [false, true] {
            for millis in [1, 999, 60_000, 99_999_999, 100_000_000] {
                let left = Duration::from_millis(millis);
                let mut headers = HeaderMap::new();
                // What the caller has said is another time.
                headers.insert(GRPC, HeaderValue::from_static("5m"));
                headers.insert(HTTP, HeaderValue::from_static("5"));
                write(left, grpc, &mut headers);
                let mut values = headers.get_all(if grpc { GRPC } else { HTTP }).iter();
                let (one, more) = (values.next().unwrap(), values.next());
                let name = if grpc { GRPC } else { HTTP };
                assert_eq!((read(&name, one), more), (Some(left), None), "{grpc}");
            }
        }
    }
}
