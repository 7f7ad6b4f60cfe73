//! How long a caller waits, read from a request and written into the one that it leads to. Pure.
//!
//! In comes `grpc-timeout` of gRPC, or `x-envoy-expected-rq-timeout-ms`, the field that proxies have
//! agreed on; out goes what is left of it, so that no server works for a caller that has given up.
//! What cannot be read says nothing.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

/// `grpc-timeout` (gRPC over HTTP/2, Requests).
pub(super) const GRPC: HeaderName = HeaderName::from_static("grpc-timeout");
/// In milliseconds.
pub(super) const HTTP: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
/// The most digits of `grpc-timeout`.
const DIGITS: usize = 8;

/// How long a caller waits that sent this field; `None` of any other field, or if it cannot be read.
pub(super) fn read(name: &HeaderName, value: &HeaderValue) -> Option<Duration> {
    if *name == GRPC {
        return of_grpc(value.as_bytes());
    }
    if *name != HTTP {
        return None;
    }
    // As proxies read it, 0 is no limit.
    let millis = value.to_str().ok()?.parse().ok().filter(|ms| *ms > 0)?;
    Some(Duration::from_millis(millis))
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

/// Writes how long is left for a request.
pub(super) fn write(left: Duration, grpc: bool, headers: &mut HeaderMap) {
    let millis = left.as_millis().max(1);
    if grpc {
        // The coarsest unit that eight digits do not hold it in is never met: 99,999,999 ms are a day.
        let text = match millis {
            0..=99_999_999 => format!("{millis}m"),
            _ => format!("{}S", left.as_secs().min(99_999_999)),
        };
        headers.extend(HeaderValue::try_from(text).ok().map(|text| (GRPC, text)));
    } else {
        let text = HeaderValue::try_from(millis.to_string());
        headers.extend(text.ok().map(|text| (HTTP, text)));
    }
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
                write(left, grpc, &mut headers);
                let (name, value) = headers.iter().next().unwrap();
                assert_eq!(read(name, value), Some(left), "{grpc}");
            }
        }
    }
}
