//! The fields of a request as the next hop may see them: those of the caller's connection are taken off,
//! and what a hop of HTTP/1.1 has in one field stands in one (RFC 9110 section 7.6.1, RFC 9113
//! section 8.2.3). What the runtime sends and an explanation shows. Pure.

use std::hint::cold_path;

use http::Version;
use http::header::{
    self, CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TE, UPGRADE,
};

use crate::fields::{OF_CONNECTION, is_of_connection};
use crate::leave::options;
use crate::model::{AppProtocol, HttpVersion};

/// Fields that a caller may not have removed by naming them in `Connection`.
const KEPT: [&str; 12] = [
    "host",
    "content-length",
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "authorization",
    "cookie",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-request-id",
];

/// How the length of a body is stated.
enum Length {
    Absent,
    /// As one plain number.
    Plain,
    /// Repeated, as a list, or with leading zeros.
    Odd,
}

/// Puts the fields of a request into the form of a hop of that version. Its host is left where it is.
pub(crate) fn prepare(headers: &mut HeaderMap, version: HttpVersion, upgrade: bool) {
    let trailers = strip(headers, upgrade);
    if version == HttpVersion::Http1 {
        to_http1(headers, trailers);
    }
}

/// Removes what belongs to one connection. An upgrade keeps the fields that it is made of. Returns
/// whether trailers are asked for, which is said to the next hop anew.
pub(crate) fn strip(headers: &mut HeaderMap, upgrade: bool) -> bool {
    let (mut lengths, mut of_connection) = (Length::Absent, upgrade);
    for (name, value) in &*headers {
        if *name == CONTENT_LENGTH {
            lengths = lengths.and(value);
        } else {
            of_connection |= is_of_connection(name);
        }
    }
    if matches!(lengths, Length::Odd)
        && let Some(length) = rewritten_length(headers)
    {
        headers.insert(CONTENT_LENGTH, length);
    }
    if !of_connection {
        return false;
    }
    cold_path();
    // `Connection` names it, as it should.
    let trailers = options(headers, &TE).any(|coding| coding.eq_ignore_ascii_case("trailers"));
    let named: Vec<HeaderName> = options(headers, &CONNECTION)
        .filter_map(|option| option.parse().ok())
        .filter(|name: &HeaderName| !is_kept(name.as_str()))
        .filter(|name| !(upgrade && *name == UPGRADE))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in OF_CONNECTION.iter().filter(|name| **name != UPGRADE) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
    trailers
}

/// The length of a body as a plain number. Equal statements are one (RFC 9110 section 8.6); hyper has
/// refused different ones.
#[cold]
fn rewritten_length(headers: &HeaderMap) -> Option<HeaderValue> {
    let first = headers.get(CONTENT_LENGTH)?.as_bytes();
    let one = first.split(|b| *b == b',').next()?.trim_ascii();
    let number: u64 = std::str::from_utf8(one).ok()?.parse().ok()?;
    Some(HeaderValue::from(number))
}

/// The version that a port of this protocol is spoken to in: as declared, else as the request came.
/// An upgrade exists in HTTP/1.1 alone.
pub(crate) fn next_version(protocol: AppProtocol, version: Version, upgrade: bool) -> HttpVersion {
    match protocol {
        _ if upgrade => HttpVersion::Http1,
        AppProtocol::Grpc | AppProtocol::Http2 => HttpVersion::Http2,
        AppProtocol::Detect | AppProtocol::Tcp if version == Version::HTTP_2 => HttpVersion::Http2,
        AppProtocol::Detect | AppProtocol::Http1 | AppProtocol::Tcp => HttpVersion::Http1,
    }
}

/// What HTTP/1.1 has otherwise than HTTP/2: one Cookie field, and a hop that names what it asks of the next
/// one (RFC 9110 section 10.1.4).
pub(crate) fn to_http1(headers: &mut HeaderMap, trailers: bool) {
    join_cookies(headers);
    if trailers {
        headers.append(CONNECTION, HeaderValue::from_static("te"));
    }
}

// === impl Length ===

impl Length {
    /// With one field more.
    fn and(self, value: &HeaderValue) -> Self {
        match (self, value.as_bytes()) {
            (Self::Absent, b"0") => Self::Plain,
            (Self::Absent, [b'1'..=b'9', rest @ ..]) if rest.iter().all(u8::is_ascii_digit) => {
                Self::Plain
            }
            _ => Self::Odd,
        }
    }
}

fn is_kept(name: &str) -> bool {
    KEPT.contains(&name) || name.starts_with("x-b3-") || name.starts_with("x-mesh-")
}

fn join_cookies(headers: &mut HeaderMap) {
    let mut all = headers.get_all(header::COOKIE).iter();
    if all.nth(1).is_none() {
        return;
    }
    let mut joined = Vec::new();
    for value in headers.get_all(header::COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(value.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, value);
    }
}
