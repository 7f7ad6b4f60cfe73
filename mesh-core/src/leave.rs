//! Which requests may leave HTTP, and which may be sent a second time: what the runtime, an explanation
//! and a simulation ask alike. Pure.
//!
//! A request that asks for a WebSocket has no body, and nothing has switched before its answer is there,
//! so that it may be repeated like any other. It is not sent to several servers at once, which would open
//! a WebSocket each. One that asks for anything else, `h2c` say, is a request as all are, and its wish is
//! not passed on (RFC 9110 section 7.8).

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Version};

use crate::fields::wishes;

/// The protocols that a connection may switch to. HTTP itself and TLS are none of them: no policy
/// would see the requests inside.
const PROTOCOLS: [&str; 1] = [WEBSOCKET];
/// WebSocket, as an upgrade and an extended CONNECT name it.
pub(crate) const WEBSOCKET: &str = "websocket";

/// What the head of a request says of how it may be sent. Its body is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Whether it may leave HTTP.
    pub(crate) leaves: bool,
    /// Whether it is kept while it is sent, so that it can be sent again.
    pub(crate) kept: bool,
}

/// The protocol that a request asks for on its connection, if it may switch to it: a GET of
/// HTTP/1.1 without a body (RFC 6455 section 4.1) with one `Upgrade` field that holds one readable
/// name out of [`PROTOCOLS`]. `ends` says whether it has no body, of the few that are asked.
pub(crate) fn leaves<B>(request: &Request<B>, ends: impl FnOnce() -> bool) -> Option<&'static str> {
    if !wishes(request) || !ends() {
        return None;
    }
    let headers = request.headers();
    let asked = options(headers, &CONNECTION).any(|o| o.eq_ignore_ascii_case("upgrade"));
    the_protocol(headers).filter(|_| asked)
}

/// Whether a caller waits for 100 before it sends a body; `ends` says whether it has none, of the few that are
/// asked.
pub(crate) fn waits<B>(request: &Request<B>, ends: impl FnOnce() -> bool) -> bool {
    let expects = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    matches!(request.version(), Version::HTTP_11 | Version::HTTP_2)
        && request.headers().get(EXPECT).is_some_and(expects)
        && !ends()
}

/// The one protocol of an `Upgrade` field, if it is one that may pass.
pub(crate) fn the_protocol(headers: &HeaderMap) -> Option<&'static str> {
    let mut fields = headers.get_all(UPGRADE).iter();
    let (Some(one), None) = (fields.next(), fields.next()) else {
        return None;
    };
    let name = one.as_bytes().trim_ascii();
    PROTOCOLS
        .into_iter()
        .find(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// The elements of a field that is a list.
pub(crate) fn options<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Whether a head announces a body: by its length, by its coding, or by waiting to be asked for it.
fn announces_body(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    headers.contains_key(TRANSFER_ENCODING)
        || headers.contains_key(EXPECT)
        || lengths.any(|length| length != "0")
}

// === impl Head ===

impl Head {
    /// Looks at the head of a request.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let ends = !announces_body(request.headers());
        Self {
            leaves: leaves(request, || ends).is_some(),
            kept: !waits(request, || ends),
        }
    }

    /// Whether it may be sent to several endpoints at once.
    pub(crate) fn races(self) -> bool {
        self.kept && !self.leaves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, version: Version, fields: &[(&str, &str)]) -> (bool, bool, bool) {
        let mut request = Request::builder().method(method).version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let head = Head::of(&request.body(()).expect("a request"));
        (head.leaves, head.kept, head.races())
    }

    #[test]
    fn a_websocket_is_repeated_and_not_hedged_and_another_wish_is_none() {
        let asks = ("connection", "keep-alive, Upgrade");
        let websocket = ("upgrade", "WebSocket");
        let (leaves, plain, waits) = (
            (true, true, false),
            (false, true, true),
            (false, false, false),
        );
        for (method, fields, wanted) in [
            ("GET", &[][..], plain),
            ("POST", &[("content-length", "1")], plain),
            ("GET", &[asks, websocket], leaves),
            ("GET", &[asks, websocket, ("content-length", "0")], leaves),
            // It is a request as all are.
            ("GET", &[websocket], plain),
            ("GET", &[asks], plain),
            ("GET", &[asks, ("upgrade", "h2c")], plain),
            ("GET", &[asks, ("upgrade", "websocket, h2c")], plain),
            ("GET", &[asks, websocket, ("upgrade", "h2c")], plain),
            ("POST", &[asks, websocket], plain),
            ("GET", &[asks, websocket, ("content-length", "1")], plain),
            (
                "GET",
                &[asks, websocket, ("transfer-encoding", "chunked")],
                plain,
            ),
            ("PUT", &[("expect", "100-Continue")], waits),
            ("GET", &[asks, websocket, ("expect", "100-continue")], waits),
            ("PUT", &[("expect", "x")], plain),
        ] {
            let seen = check(method, Version::HTTP_11, fields);
            assert_eq!(seen, wanted, "{method} {fields:?}");
        }
        // An earlier version knows neither, and HTTP/2 has no wish.
        let all = [asks, websocket, ("expect", "100-continue")];
        assert_eq!(check("GET", Version::HTTP_10, &all), plain);
        assert_eq!(check("GET", Version::HTTP_2, &all[..2]), plain);
        assert_eq!(check("GET", Version::HTTP_2, &all), waits);
    }
}
