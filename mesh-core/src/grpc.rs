//! What gRPC says in header fields: that a request is a call, and how it ended.

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};

/// The content type of a call.
pub(crate) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Whether the caller speaks gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The content type of our answer to a caller that speaks gRPC; `None` if it speaks plain HTTP. A
/// browser's gRPC-Web is answered as it asks.
pub(crate) fn grpc_kind(headers: &HeaderMap) -> Option<HeaderValue> {
    if !is_grpc(headers) {
        return None;
    }
    let asked = headers.get(header::CONTENT_TYPE)?;
    let web = asked.as_bytes().starts_with(b"application/grpc-web");
    Some(if web { asked.clone() } else { GRPC })
}

/// The gRPC status that stands for an HTTP status (gRPC, "HTTP to gRPC Status Code Mapping").
pub(crate) fn grpc_of(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// The gRPC status in headers or trailers, as it is meant: tonic's servers answer a deadline that has
/// passed with CANCELLED and a message that is too large with OUT_OF_RANGE, where others say
/// DEADLINE_EXCEEDED and RESOURCE_EXHAUSTED. The caller gets it as it came.
#[cfg(any(feature = "runtime", feature = "simulate"))]
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    let status = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = || headers.get("grpc-message").map(HeaderValue::as_bytes);
    let says = |what: &[u8]| message().is_some_and(|m| m.windows(what.len()).any(|w| w == what));
    Some(match status {
        1 if says(b"Timeout expired") || says(b"Timeout%20expired") => 4,
        11 if says(b"message length too large") || says(b"message%20length%20too%20large") => 8,
        status => status,
    })
}

/// Percent-encoding of `grpc-message` (gRPC over HTTP/2, "Responses").
pub(crate) fn escape(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b' '..=b'~' if b != b'%' => out.push(char::from(b)),
            // Writing to a String cannot fail.
            _ => drop(write!(out, "%{b:02X}")),
        }
    }
    out
}
