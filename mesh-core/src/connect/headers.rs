//! A request as the next hop may see it: no hop-by-hop fields, the target in the form of the
//! protocol (RFC 9110 section 7.6.1, RFC 9112 section 3.2, RFC 9113 section 8.3.1).

use std::hint::cold_path;

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};
use http_body::Body;

use crate::leave::the_protocol;
use crate::model::HttpVersion;
use crate::next_hop::{strip, to_http1};

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
        to_http1(request.headers_mut(), trailers);
        *request.version_mut() = Version::HTTP_11;
        keep_body(request);
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
