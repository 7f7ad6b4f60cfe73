//! What every request's head is asked before it is decided on: bounds, and one authority.
//!
//! In come a head and its bounds, out comes its authority, or why it is refused: 400, 414, 431. Pure.

use std::hint::cold_path;

use http::header::HOST;
use http::{HeaderName, HeaderValue, Method, Request, Version};

use crate::error::{Error, Reason};
use crate::fields;

/// The length of a `traceparent` of ours.
const PARENT: usize = 55;

/// The bounds of a head, as the limits of a runtime say them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Bytes of names and values.
    pub(crate) bytes: usize,
    /// Fields beside the host and `traceparent`.
    pub(crate) fields: usize,
    /// Bytes of the path and the query.
    pub(crate) target: usize,
}

/// Takes from a head what a caller may not say, and checks it; returns its authority, which is empty
/// where HTTP/1.0 names none. `look` is shown each field as it came.
pub(crate) fn admit<B>(
    bounds: Bounds,
    request: &mut Request<B>,
    look: impl FnMut(&HeaderName, &HeaderValue),
) -> Result<&str, Error> {
    check_header(bounds, request, look)?;
    fields::sanitize(request.headers_mut());
    if request.method() == Method::CONNECT {
        let detail = "CONNECT is offered by an outbound listener that leads by authority, to a host and \
                      its port: CONNECT db:5432";
        return Err(Error::new(Reason::InvalidRequest, detail));
    }
    authority(request)
}

/// The same of a CONNECT. Returns the host that it leads to, in lower case, and the port, which it must name
/// (RFC 9110 section 9.3.6). `Host` may leave that out.
pub(crate) fn admit_tunnel<B>(bounds: Bounds, request: &Request<B>) -> Result<String, Error> {
    check_header(bounds, request, |_, _| {})?;
    let invalid = |what: &str| Err(Error::new(Reason::InvalidRequest, what));
    let uri = request.uri();
    let Some(target) = uri.authority().filter(|_| uri.scheme().is_none()) else {
        return invalid("CONNECT names a host and its port, and nothing else");
    };
    let target = target.as_str();
    let Some((host, port)) = target.rsplit_once(':') else {
        return invalid("CONNECT names no port");
    };
    let number = port.bytes().all(|b| b.is_ascii_digit());
    if !number || port.parse::<u16>().is_ok_and(|port| port == 0) || port.parse::<u16>().is_err() {
        return invalid("CONNECT names an invalid port");
    }
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || !is_authority(target) || (host.contains(':') && !bracketed) {
        return invalid("the authority is malformed");
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let same = |named: &HeaderValue| {
        let named = named.as_bytes();
        named.eq_ignore_ascii_case(target.as_bytes()) || named.eq_ignore_ascii_case(host.as_bytes())
    };
    if hosts.next().is_some_and(|named| !same(named)) || hosts.next().is_some() {
        return invalid("the target and the Host field name different authorities");
    }
    Ok(target.to_ascii_lowercase())
}

/// A body is sent on in the coding of the next hop, so that none but `chunked`, which the HTTP
/// library takes off, may lie around it (RFC 9112 section 6.1).
fn check_coding(coding: &HeaderValue) -> Result<(), Error> {
    if coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let detail = format!("the transfer coding {coding:?} is not supported, only chunked is");
    Err(Error::new(Reason::UnsupportedCoding, detail))
}

/// Compares the header block with its bounds. The authority and the place in a trace are counted
/// alike wherever they stand: the mesh moves them, and what it let out it must let in. Whatever else
/// is asked of each field is asked on the way, since most have nothing that a look-up would find.
fn check_header<B>(
    bounds: Bounds,
    request: &Request<B>,
    mut look: impl FnMut(&HeaderName, &HeaderValue),
) -> Result<(), Error> {
    let headers = request.headers();
    let (mut host, mut parent, mut size) = (false, false, 0);
    for (name, value) in headers {
        look(name, value);
        let mut counted = true;
        match name.as_str() {
            "host" => host = true,
            "traceparent" => {
                parent = true;
                counted = value.len() > PARENT;
            }
            "transfer-encoding" => {
                cold_path();
                check_coding(value)?;
            }
            _ => {}
        }
        if counted {
            size += name.as_str().len() + value.len();
        }
    }
    let fields = headers.len() - usize::from(host) - usize::from(parent);
    if fields > bounds.fields {
        let (got, most) = (fields, bounds.fields);
        let detail = format!("{got} header fields, at most {most} are accepted");
        return Err(Error::new(Reason::TooManyFields, detail));
    }
    let target = request
        .uri()
        .authority()
        .map(|a| HOST.as_str().len() + a.as_str().len());
    size += target.filter(|_| !host).unwrap_or_default();
    let target = request
        .uri()
        .path_and_query()
        .map_or(0, |p| p.as_str().len());
    if target > bounds.target {
        let most = bounds.target;
        let detail = format!("a target of {target} bytes, at most {most} are accepted");
        return Err(Error::new(Reason::TargetTooLong, detail));
    }
    if size > bounds.bytes {
        let most = bounds.bytes;
        let detail = format!("{size} bytes of header fields, at most {most} are accepted");
        return Err(Error::new(Reason::HeaderTooLarge, detail));
    }
    Ok(())
}

/// The one authority of a request. Where the target and `Host` both name one they must agree
/// (RFC 9113 section 8.3.1, RFC 9112 section 3.2).
fn authority<B>(request: &Request<B>) -> Result<&str, Error> {
    let invalid = |what: &str| Err(Error::new(Reason::InvalidRequest, what));
    let target = request.uri().authority().map(|a| a.as_str());
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return invalid("two Host fields"),
        (Some(host), None) => match host.to_str() {
            Ok(host) => Some(host),
            Err(_) => return invalid("the Host field is not text"),
        },
        (None, None) => None,
    };
    match (target, host) {
        (Some(target), Some(host)) if !target.eq_ignore_ascii_case(host) => {
            invalid("the target and the Host field name different authorities")
        }
        (Some(name), _) | (None, Some(name)) if name.contains('@') => {
            invalid("the authority has user information")
        }
        (Some(name), _) | (None, Some(name)) if !is_authority(name) => {
            invalid("the authority is malformed")
        }
        (Some(name), _) | (None, Some(name)) if !name.is_empty() => Ok(name),
        _ if request.version() <= Version::HTTP_10 => Ok(""),
        _ => invalid("the request names no host"),
    }
}

/// What may stand in a host and a port (RFC 3986 section 3.2). Unlike a URI's authority, a Host
/// field was not parsed before.
fn is_authority(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(&b))
}

// === impl Bounds ===

impl Default for Bounds {
    fn default() -> Self {
        Self {
            bytes: 64 * 1024,
            fields: 98,
            target: 60 * 1024,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;

    #[test]
    fn a_tunnel_leads_to_a_host_and_its_port() {
        for (target, host, wanted) in [
            ("db:5432", None, Some("db:5432")),
            ("DB.Shop:1", Some("db.SHOP"), Some("db.shop:1")),
            ("db:5432", Some("db:5432"), Some("db:5432")),
            ("[::1]:443", Some("[::1]"), Some("[::1]:443")),
            ("10.0.0.1:65535", None, Some("10.0.0.1:65535")),
            ("db", None, None),
            ("db:", None, None),
            ("db:0", None, None),
            ("db:+1", None, None),
            ("db:65536", None, None),
            ("a@db:1", None, None),
            ("[::1]", None, None),
            ("http://db:1/", None, None),
            ("/db", Some("db:1"), None),
            ("db:1", Some("other:1"), None),
            ("db:1", Some("db:2"), None),
        ] {
            // What the library takes for no target never comes here.
            let Ok(uri) = target.parse::<Uri>() else {
                assert_eq!(wanted, None, "{target}");
                continue;
            };
            let mut request = Request::new(());
            *request.method_mut() = Method::CONNECT;
            *request.uri_mut() = uri;
            if let Some(host) = host {
                request
                    .headers_mut()
                    .insert(HOST, HeaderValue::from_static(host));
            }
            let bounds = Bounds::default();
            let admitted = admit_tunnel(bounds, &request);
            assert_eq!(admitted.ok().as_deref(), wanted, "{target} {host:?}");
            // No other way in takes it.
            let refused = admit(bounds, &mut request, |_, _| {}).map(str::to_owned);
            let reason = refused.map_err(|error| error.reason());
            assert_eq!(reason, Err(Reason::InvalidRequest), "{target}");
        }
    }
}
