//! What every request goes through before it is decided on: bounds, one authority, one path.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderName, HeaderValue, Request, Response, Version};
use http_body::Body as _;

use super::call::Call;
use super::deadline;
use super::exchange::Pending;
use super::limits::Limits;
use crate::accept::ConnState;
use crate::authorize::{PathForm, canonicalize};
use crate::body::Body;
use crate::error::{Error, Reason};
use crate::fields;
use crate::local::Local;
use crate::telemetry::trace::{self, TraceContext};
use crate::telemetry::{Direction, Exchange, Protocol, Recorder, Series};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The length of a `traceparent` of ours.
const PARENT: usize = 55;
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The longest user agent that is kept for the log.
const AGENT: usize = 256;

/// Begins the record of a request. An outbound request without a context of its own joins that of
/// the request that this task serves.
pub(super) fn begin(
    direction: Direction,
    local: &Local,
    request: &mut Request<Body>,
    recorder: &Arc<Recorder>,
    series: &Arc<Series>,
    state: Option<&Arc<ConnState>>,
) -> Pending {
    let read = TraceContext::read(request.headers());
    if read.is_none() {
        // It belongs to a trace that ends here (W3C Trace Context, section 3.3).
        request.headers_mut().remove(TRACESTATE);
    }
    let above = read.or_else(|| match direction {
        Direction::Inbound => None,
        Direction::Outbound => trace::current(),
    });
    let headers = request.headers();
    let span = rand::random();
    let context = match above {
        Some(above) => above.child(span),
        None => {
            let share = recorder.trace_sample;
            let sampled = share > 0.0 && rand::random::<f64>() < share;
            TraceContext::new(rand::random(), span, sampled)
        }
    };
    let protocol = Protocol::of(request.version(), headers);
    // Filled in its place, because it is large.
    let call = Call::new(Exchange::new(direction, protocol, context));
    let mut pending = Pending::new(call, recorder, series, state.cloned());
    let exchange = &mut pending.call().exchange;
    exchange.workload = Arc::clone(local.shown());
    exchange.parent_span = above.map(|a| a.span_id);
    exchange.method = Some(request.method().clone());
    exchange.uri = request.uri().clone();
    exchange.user_agent = headers
        .get(USER_AGENT)
        .filter(|a| a.len() <= AGENT)
        .cloned();
    exchange.request_bytes = request.body().size_hint().exact().unwrap_or_default();
    pending.count_body(request.body_mut());
    pending.heed_room(request);
    pending
}

/// Checks a request and brings it into its canonical form; notes its authority, and when its caller gives
/// up. An outbound request has no more time than the one that this task serves.
pub(super) fn admit(
    limits: &Limits,
    paths: PathForm,
    request: &mut Request<Body>,
    call: &mut Call,
) -> Result<(), Error> {
    let asked = check_header(limits, request)?.and_then(|wait| call.started.checked_add(wait));
    let around = match call.exchange.direction {
        Direction::Inbound => None,
        Direction::Outbound => trace::deadline(),
    };
    call.deadline = asked.into_iter().chain(around).min();
    let exchange = &mut call.exchange;
    fields::sanitize(request.headers_mut());
    if request.method() == http::Method::CONNECT {
        return Err(Error::new(
            Reason::InvalidRequest,
            "CONNECT is not offered here",
        ));
    }
    exchange.authority = authority(request)?.into();
    if canonicalize(paths, request)? {
        exchange.uri = request.uri().clone();
    }
    Ok(())
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

/// Removes from the answer of an application what only the mesh says. What the mesh itself has
/// answered in this process has the [`Reason`] as a type too.
pub(super) fn answered<B>(answer: &mut Response<B>) {
    if answer.extensions().get::<Reason>().is_none() {
        fields::sanitize_answer(answer.headers_mut());
    }
}

/// Compares the header block with its bounds. The authority and the place in a trace are counted
/// alike wherever they stand: the mesh moves them, and what it let out it must let in. Whatever else
/// is asked of each field is asked on the way, since most have nothing that a look-up would find.
/// Returns how long the caller waits, if it says so.
fn check_header(limits: &Limits, request: &Request<Body>) -> Result<Option<Duration>, Error> {
    let headers = request.headers();
    let (mut host, mut parent, mut size) = (false, false, 0);
    let mut waits: Option<Duration> = None;
    for (name, value) in headers {
        if let Some(wait) = deadline::read(name, value) {
            waits = Some(waits.map_or(wait, |least| least.min(wait)));
        }
        if *name == TRANSFER_ENCODING {
            check_coding(value)?;
        }
        host |= *name == HOST;
        let place = *name == TRACEPARENT;
        parent |= place;
        if !place || value.len() > PARENT {
            size += name.as_str().len() + value.len();
        }
    }
    let fields = headers.len() - usize::from(host) - usize::from(parent);
    if fields > limits.header_fields {
        let (got, most) = (fields, limits.header_fields);
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
    if target > limits.target_bytes {
        let most = limits.target_bytes;
        let detail = format!("a target of {target} bytes, at most {most} are accepted");
        return Err(Error::new(Reason::TargetTooLong, detail));
    }
    if size > limits.header_bytes {
        let most = limits.header_bytes;
        let detail = format!("{size} bytes of header fields, at most {most} are accepted");
        return Err(Error::new(Reason::HeaderTooLarge, detail));
    }
    Ok(waits)
}

/// The one authority of a request. Where the target and `Host` both name one they must agree
/// (RFC 9113 section 8.3.1, RFC 9112 section 3.2).
fn authority(request: &Request<Body>) -> Result<&str, Error> {
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
