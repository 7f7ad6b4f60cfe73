//! A request as the next hop may see it: no hop-by-hop fields, the target in the form of the
//! protocol (RFC 9110 section 7.6.1, RFC 9112 section 3.2, RFC 9113 section 8.3.1).

use std::hint::cold_path;

use http::header::{
    self, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};
use http_body::Body;

use crate::fields::{OF_CONNECTION, is_of_connection};
use crate::leave::{options, the_protocol};
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

/// Whether an answer switches to that protocol, and to no other.
pub(super) fn is_switch(headers: &HeaderMap, protocol: &str) -> bool {
    the_protocol(headers) == Some(protocol)
}

/// Makes an answer one of ours: fields of the connection to the server are removed, and an HTTP/1.0
/// server's version is not passed on (RFC 9110 section 2.5), since it would end the caller's
/// connection after each answer.
pub(super) fn answered<B>(response: &mut Response<B>, upgrade: bool) {
    strip(response.headers_mut(), upgrade);
    if response.version() < Version::HTTP_11 {
        *response.version_mut() = Version::HTTP_11;
    }
}

/// Whether a body is in a transfer coding other than `chunked`. The HTTP library takes that one off, and
/// leaves all others.
pub(super) fn is_coded<B: Body>(response: &Response<B>) -> bool {
    // One whose length is known has no coding: the library believes the coding, if there are both.
    let unknown = response.body().size_hint().exact().is_none();
    let coded = |coding: &HeaderValue| !coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    unknown
        && response
            .headers()
            .get_all(TRANSFER_ENCODING)
            .iter()
            .any(coded)
}

/// A coding frames a body whatever length is stated beside it, which is not passed on (RFC 9112 section 6.3):
/// the next hop would cut the body there.
pub(super) fn framed<B: Body>(mut response: Response<B>) -> Response<B> {
    let unknown = response.body().size_hint().exact().is_none();
    if unknown && response.headers().contains_key(TRANSFER_ENCODING) {
        cold_path();
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    response
}

/// Removes what belongs to one connection. An upgrade keeps the fields that it is made of. Returns
/// whether trailers are asked for, which is said to the next hop anew.
pub(super) fn strip(headers: &mut HeaderMap, upgrade: bool) -> bool {
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
pub(super) fn next_version(protocol: AppProtocol, version: Version, upgrade: bool) -> HttpVersion {
    match protocol {
        _ if upgrade => HttpVersion::Http1,
        AppProtocol::Grpc | AppProtocol::Http2 => HttpVersion::Http2,
        AppProtocol::Detect | AppProtocol::Tcp if version == Version::HTTP_2 => HttpVersion::Http2,
        AppProtocol::Detect | AppProtocol::Http1 | AppProtocol::Tcp => HttpVersion::Http1,
    }
}

/// Puts a request into the form of the next hop's protocol. `authority` is the one decided on.
pub(super) fn prepare<B: Body>(
    request: &mut Request<B>,
    version: HttpVersion,
    authority: &str,
    upgrade: bool,
) {
    let trailers = strip(request.headers_mut(), upgrade);
    let path = request
        .uri()
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    if version == HttpVersion::Http2 {
        request.headers_mut().remove(HOST);
        *request.version_mut() = Version::HTTP_2;
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = authority.parse::<Authority>().ok();
        parts.path_and_query = Some(path);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    } else {
        // HTTP/1.1 has one Cookie field (RFC 9113 section 8.2.3).
        join_cookies(request.headers_mut());
        *request.version_mut() = Version::HTTP_11;
        keep_body(request);
        if trailers {
            // What a hop asks of the next one is named (RFC 9110 section 10.1.4).
            let te = HeaderValue::from_static("te");
            request.headers_mut().append(CONNECTION, te);
        }
        let same = request.headers().get(HOST).is_some_and(|h| h == authority);
        if !same && let Ok(value) = HeaderValue::from_str(authority) {
            request.headers_mut().insert(HOST, value);
        }
        if request.uri().scheme().is_some() || request.uri().authority().is_some() {
            *request.uri_mut() = Uri::from(path);
        }
    }
}

/// Says that a body of unknown length comes. hyper says it by itself, but for the methods that
/// seldom have one, whose body it drops.
fn keep_body<B: Body>(request: &mut Request<B>) {
    let body = request.body();
    let unknown = body.size_hint().exact().is_none() && !body.is_end_stream();
    if unknown && !request.headers().contains_key(CONTENT_LENGTH) {
        cold_path();
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(TRANSFER_ENCODING, chunked);
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
