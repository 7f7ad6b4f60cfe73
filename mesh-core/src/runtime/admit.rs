//! What every request goes through before it is decided on: bounds, one authority, one path.

use std::cell::RefCell;
use std::hint::cold_path;
use std::sync::Arc;
use std::time::Duration;

use http::header::USER_AGENT;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body::Body as _;
use tokio::time::Instant;

use super::call::Call;
use super::exchange::{Ledger, Pending};
use super::limits::Limits;
use crate::authorize::{Came, PathForm, canonicalize};
use crate::body::Body;
use crate::connect::{as_upgrade, protocol_of};
use crate::deadline;
use crate::error::{Error, Reason};
use crate::fields;
use crate::head;
use crate::local::Local;
use crate::telemetry::trace::{self, TraceContext};
use crate::telemetry::{Direction, Exchange, Protocol, SharedText};

const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The longest user agent that is kept for the log.
const AGENT: usize = 256;
/// The longest authority that is kept for the requests that follow.
const AUTHORITY: usize = 256;

/// Begins the record of a request. An outbound request without a context of its own joins that of
/// the request that this task serves.
pub(super) fn begin(
    direction: Direction,
    local: &Local,
    request: &mut Request<Body>,
    ledger: &Arc<Ledger>,
) -> Pending {
    let recorder = &ledger.recorder;
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
    let started = Instant::now();
    let call = Call::new(Exchange::new(direction, protocol, context), started);
    let mut pending = Pending::new(call, ledger);
    let call = pending.call();
    call.shown = recorder.is_watched();
    let exchange = &mut call.exchange;
    if call.shown {
        cold_path();
        exchange.workload.share(local.shown());
        exchange.uri = request.uri().clone();
        exchange.user_agent = headers
            .get(USER_AGENT)
            .filter(|a| a.len() <= AGENT)
            .cloned();
    }
    exchange.parent_span = above.map(|a| a.span_id);
    exchange.method = Some(request.method().clone());
    exchange.request_bytes = request.body().size_hint().exact().unwrap_or_default();
    pending.count_body(request.body_mut());
    pending.heed_room(request);
    if *request.method() == Method::CONNECT {
        as_upgrade(request);
        pending.call().exchange.method = Some(request.method().clone());
    }
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
    let mut waits: Option<Duration> = None;
    let look = |name: &HeaderName, value: &HeaderValue| {
        if let Some(wait) = deadline::read(name, value) {
            waits = Some(waits.map_or(wait, |least| least.min(wait)));
        }
    };
    if *request.method() == Method::CONNECT
        && let Some(other) = protocol_of(request)
    {
        let detail = format!("{other:?} in place of HTTP is not supported, only websocket is");
        return Err(Error::new(Reason::UnsupportedProtocol, detail));
    }
    call.exchange.authority = shared(head::admit(limits.head(), request, look)?);
    let asked = waits.and_then(|wait| call.started.checked_add(wait));
    let around = match call.exchange.direction {
        Direction::Inbound => None,
        Direction::Outbound => trace::deadline(),
    };
    call.deadline = asked.into_iter().chain(around).min();
    let came = canonicalize(paths, request)?;
    match came {
        Came::Otherwise if call.shown => call.exchange.uri = request.uri().clone(),
        Came::Plain => call.plain = true,
        Came::Canonical | Came::Otherwise => {}
    }
    Ok(())
}

/// The text of an authority. Most requests of a thread name the same one, and hold one text of it.
fn shared(authority: &str) -> SharedText {
    thread_local! {
        static LAST: RefCell<SharedText> = RefCell::default();
    }
    LAST.with_borrow_mut(|last| {
        if **last != *authority {
            let text = SharedText::from(authority);
            if authority.len() > AUTHORITY {
                return text;
            }
            *last = text;
        }
        last.clone()
    })
}

/// Removes from the answer of an application what only the mesh says. What the mesh itself has
/// answered in this process has the [`Reason`] as a type too.
pub(super) fn answered<B>(answer: &mut Response<B>) {
    if answer.extensions().get::<Reason>().is_none() {
        fields::sanitize_answer(answer.headers_mut());
    }
}
