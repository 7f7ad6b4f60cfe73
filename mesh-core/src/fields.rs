//! Header fields that say what only the mesh may say, or that frame a message: what of them is taken
//! from a caller, and from a server.
//!
//! A field is looked at with `-` for `_`: an application that reads fields as environment variables
//! sees no difference. Trailers are fields too, and come after all that was decided on.

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, Request, Version};

/// Why the mesh answered in place of a server.
pub(crate) const REASON: &str = "x-mesh-reason";

/// That a failed answer is not to be repeated by the hop above, and why.
pub(crate) const NO_RETRY: &str = "x-mesh-no-retry";

/// A proxy's statement about its peer. The mesh writes none, so one that comes is forged.
const CLIENT_CERT: &str = "x-forwarded-client-cert";

/// Marks a copy of a request, so that none is made of it again, whatever way it takes.
pub(crate) const MIRRORED: &str = "x-mesh-mirrored";

/// Fields that frame or route a message. Under their right name the HTTP library has read them; a
/// lookalike is for a reader behind it.
const FRAMING: [&str; 7] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "transfer-encoding",
    "upgrade",
];

/// Those of them that have a hyphen, and where.
const HYPHENS: [(&str, usize); 4] = [
    ("content-length", 7),
    ("http2-settings", 5),
    ("keep-alive", 4),
    ("transfer-encoding", 8),
];

/// Fields that belong to one connection of HTTP/1.1 (RFC 9110 section 7.6.1); more may be named in
/// `Connection`. The last is what a caller offers with `Upgrade: h2c` (RFC 7540 section 3.2.1).
pub(crate) static OF_CONNECTION: [HeaderName; 7] = [
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// Whether a header has a field of one connection. Most have none, and to see that is cheaper than
/// to look up each.
pub(crate) fn has_of_connection(headers: &HeaderMap) -> bool {
    headers.keys().any(is_of_connection)
}

/// Whether a field is one of [`OF_CONNECTION`]. Names of other lengths are most, and are seen first.
pub(crate) fn is_of_connection(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "keep-alive"
            | "proxy-connection"
            | "http2-settings"
    )
}

/// Whether a request may ask for another protocol. What costs most is looked at last.
pub(crate) fn wishes<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && request.headers().contains_key(header::UPGRADE)
}

/// Fields that mean nothing at the end of a message, or something else than at its begin (RFC 9110
/// section 6.5.1): those that name the sender, change what is asked, or say how the rest is to be read.
const NEVER_TRAILING: [&str; 22] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "set-cookie",
    "te",
    "trailer",
    "traceparent",
    "tracestate",
    "www-authenticate",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// Further fields that the mesh writes for each connection, and no configuration may.
const OF_HOP: [&str; 3] = ["proxy-connection", "te", "trailer"];

/// Further fields with a meaning of their own, which a second value would change or void.
const MEANT: [&str; 12] = [
    "age",
    "allow",
    "content-language",
    "content-location",
    "date",
    "etag",
    "expires",
    "grpc-message",
    "grpc-status",
    "last-modified",
    "location",
    "vary",
];

/// What a configuration does with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// It removes it.
    Removed,
    /// It writes a value of its author's.
    Set,
    /// It writes a value that only the mesh reads, beside what else has the name.
    Token,
}

/// Why a configuration may not write, or remove, a field.
pub(crate) fn reserved(name: &str, how: Written) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    let listed = |list: &[&str]| list.iter().any(|field| is(&lower, field));
    if listed(&FRAMING) || listed(&OF_HOP) {
        return Some("is set by the proxy itself");
    }
    // A caller's claim is removed anyway, and to say so once more harms nothing.
    if listed(&[MIRRORED, NO_RETRY, REASON]) || (is(&lower, CLIENT_CERT) && how != Written::Removed)
    {
        return Some("is what only the mesh says");
    }
    let taken = how == Written::Token && (listed(&NEVER_TRAILING) || listed(&MEANT));
    taken.then_some("has a meaning of its own")
}

/// Removes from a request's header what a caller may not say.
pub(crate) fn sanitize(headers: &mut HeaderMap) {
    remove(headers, |name| is(name, CLIENT_CERT) || is_lookalike(name));
}

/// Removes from an answer what only the mesh says, and what frames it a second time.
pub(crate) fn sanitize_answer(headers: &mut HeaderMap) {
    remove(headers, |name| {
        is(name, REASON) || is(name, NO_RETRY) || is_lookalike(name)
    });
}

/// Whether a field is almost one of those that frame a message.
fn is_lookalike(name: &str) -> bool {
    // Most names have another length, which is seen first, and then another byte there.
    HYPHENS
        .iter()
        .any(|(framing, at)| name.as_bytes().get(*at) == Some(&b'_') && is(name, framing))
}

/// Removes from trailers what a message may not end with, and what only the mesh may say.
pub(crate) fn sanitize_trailers(trailers: &mut HeaderMap) {
    remove(trailers, |name| {
        let listed = |list: &[&str]| list.iter().any(|field| is(name, field));
        listed(&[CLIENT_CERT, REASON, NO_RETRY]) || listed(&FRAMING) || listed(&NEVER_TRAILING)
    });
}

/// Whether a field has that name, apart from `_` for `-`.
fn is(name: &str, wanted: &str) -> bool {
    name.len() == wanted.len()
        && name
            .bytes()
            .map(|b| if b == b'_' { b'-' } else { b })
            .eq(wanted.bytes())
}

fn remove(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    // Most messages have none of them.
    while let Some(name) = headers.keys().find(|n| unwanted(n.as_str())).cloned() {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn fields(names: &[&'static str]) -> HeaderMap {
        let value = http::HeaderValue::from_static("x");
        names
            .iter()
            .map(|name| (HeaderName::from_static(name), value.clone()))
            .collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_belongs_to_a_connection_is_seen_by_its_name() {
        assert!(OF_CONNECTION.iter().all(is_of_connection));
        let others = [
            header::HOST,
            header::TRAILER,
            header::UPGRADE_INSECURE_REQUESTS,
        ];
        assert!(!others.iter().any(is_of_connection));
    }

    #[test]
    fn a_hyphen_stands_where_it_is_looked_for() {
        let all = FRAMING
            .iter()
            .filter_map(|name| Some((*name, name.find('-')?)));
        assert!(all.eq(HYPHENS));
    }

    #[test]
    fn a_request_says_nothing_about_its_peer_and_frames_itself_once() {
        let mut headers = fields(&[
            "x-forwarded-client-cert",
            "x_forwarded-client_cert",
            "transfer_encoding",
            "content_length",
            "content-length",
            "host",
            "http2_settings",
            "x_user_id",
            "x-request-id",
        ]);
        sanitize(&mut headers);
        assert_eq!(
            names(&headers),
            ["content-length", "host", "x-request-id", "x_user_id"]
        );
        let mut answer = fields(&[
            "content_length",
            "x_mesh_reason",
            "x-mesh-no-retry",
            "x_mesh-no_retry",
            "content-length",
            "x_a",
        ]);
        sanitize_answer(&mut answer);
        assert_eq!(names(&answer), ["content-length", "x_a"]);
    }

    #[test]
    fn a_configuration_writes_no_field_that_is_the_meshs() {
        use Written::{Removed, Set, Token};
        // By the name: what may not be removed, not set, and not be given a token.
        let cases = [
            ("x-user", [true, true, true]),
            ("Set-Cookie", [true, true, false]),
            ("content-type", [true, true, false]),
            ("grpc-status", [true, true, false]),
            ("X-Forwarded-Client-Cert", [true, false, false]),
            ("x_forwarded_client_cert", [true, false, false]),
            ("x-mesh-reason", [false; 3]),
            ("X_Mesh-Reason", [false; 3]),
            ("x-mesh-no-retry", [false; 3]),
            ("x-mesh-mirrored", [false; 3]),
            ("host", [false; 3]),
            ("Transfer-Encoding", [false; 3]),
            ("content_length", [false; 3]),
            ("trailer", [false; 3]),
        ];
        for (name, free) in cases {
            let of = [Removed, Set, Token].map(|how| reserved(name, how).is_none());
            assert_eq!(of, free, "{name}");
        }
        for name in &OF_CONNECTION {
            assert!(reserved(name.as_str(), Removed).is_some(), "{name}");
        }
    }

    #[test]
    fn a_message_ends_with_nothing_that_belongs_to_its_begin() {
        for list in [&FRAMING[..], &NEVER_TRAILING] {
            for name in list {
                let mut trailers = HeaderMap::new();
                trailers.insert(
                    HeaderName::from_static(name),
                    http::HeaderValue::from_static("x"),
                );
                sanitize_trailers(&mut trailers);
                assert!(trailers.is_empty(), "{name}");
            }
        }
        let mut trailers = fields(&[
            "grpc-status",
            "x-forwarded-client-cert",
            "x_forwarded_client_cert",
            "x-mesh-reason",
            "x_mesh_reason",
            "x-mesh-no-retry",
            "authorization",
            "etag",
        ]);
        sanitize_trailers(&mut trailers);
        assert_eq!(names(&trailers), ["etag", "grpc-status"]);
    }
}
