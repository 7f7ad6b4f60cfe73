//! Why a request was not answered, whose doing that is, and whether it may be sent again.
//!
//! In: the error of hyper. Out: a reason, a fault, and the request where it surely was not looked
//! at or may be repeated. It refuses to repeat a body.

use http::Request;
use http_body::Body as _;
use hyper::client::conn::TrySendError;

use crate::body::Body;
use crate::error::{Error, Reason};
use crate::model::Member;

/// A request that was not answered.
pub(crate) struct Unsent {
    pub(crate) error: Error,
    /// Whether the request is back in its place, because it may be sent again: it surely was not
    /// looked at, or it is idempotent, has no body, and met a connection that had been used before
    /// (RFC 9110 section 9.2.2).
    pub(crate) again: bool,
    pub(crate) fault: Fault,
}

/// Whose doing it is that a request was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The request itself broke off.
    Caller,
    /// Nobody's: a connection that had been used before was closed, as it may be at any time.
    Connection,
    /// Nobody's: so many connections to the endpoint are being opened that there was no room.
    Crowd,
    /// The endpoint's.
    Endpoint,
}

// === impl Unsent ===

impl Unsent {
    pub(super) fn before(error: Error) -> Self {
        Self {
            error,
            again: true,
            fault: Fault::Endpoint,
        }
    }

    pub(super) fn crowded(error: Error) -> Self {
        Self {
            fault: Fault::Crowd,
            ..Self::before(error)
        }
    }

    pub(super) fn after(
        mut failed: TrySendError<Request<Body>>,
        member: &Member,
        reused: bool,
        again: Option<Box<Request<Body>>>,
        place: &mut Request<Body>,
    ) -> Self {
        let unsent = failed.take_message();
        let cause = failed.into_error();
        let address = member.endpoint.address();
        if is_callers(&cause) {
            let detail = "the request broke off before it was whole";
            return Self {
                error: Error::new(Reason::CallerGone, detail).because(cause),
                again: false,
                fault: Fault::Caller,
            };
        }
        // With TLS 1.3 a server refuses our certificate after our own handshake is done, and
        // before it reads a byte of what we sent.
        let refused = refused_by_peer(&cause);
        let mut error = if refused {
            Error::new(
                Reason::TlsFailed,
                format!("{address} refused our certificate"),
            )
        } else {
            Error::new(
                Reason::Reset,
                format!("the connection to {address} broke off"),
            )
        };
        let unseen = unsent.is_some() || is_unseen(&cause);
        if refused || unseen {
            error = error.never_sent();
        }
        let closed = (reused && !is_reset(&cause) && !cause.is_parse()) || is_unseen(&cause);
        let again = again.filter(|again| unseen || (closed && again.method().is_idempotent()));
        let back = unsent.or_else(|| again.map(|again| *again));
        let again = back.is_some();
        if let Some(back) = back {
            *place = back;
        }
        Self {
            error: error.because(cause),
            again,
            fault: if closed {
                Fault::Connection
            } else {
                Fault::Endpoint
            },
        }
    }
}

/// A copy of a request that may be repeated: only one without a body can be, and where nothing
/// ever tells that the server has not looked at it, only an idempotent one.
pub(super) fn again(request: &Request<Body>, http2: bool) -> Option<Box<Request<Body>>> {
    let repeatable = (http2 || request.method().is_idempotent()) && request.body().is_end_stream();
    repeatable.then(|| {
        let mut copy = Request::new(Body::empty());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        *copy.headers_mut() = request.headers().clone();
        Box::new(copy)
    })
}

/// Whether the request's own body failed, or we reset its stream because it did.
fn is_callers(error: &hyper::Error) -> bool {
    error.is_user()
        || find::<h2::Error>(error)
            .is_some_and(|e| e.is_reset() && !e.is_remote() && !e.is_library())
}

/// Whether an HTTP/2 server says that it did not look at the request (RFC 9113 section 8.7).
fn is_unseen(error: &hyper::Error) -> bool {
    find::<h2::Error>(error).is_some_and(|e| {
        e.is_remote() && (e.is_go_away() || e.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// Whether an HTTP/2 server broke off this one request.
fn is_reset(error: &hyper::Error) -> bool {
    find::<h2::Error>(error).is_some_and(h2::Error::is_reset)
}

fn find<E: std::error::Error + 'static>(error: &hyper::Error) -> Option<&E> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        source = cause.source();
    }
    None
}

fn refused_by_peer(error: &hyper::Error) -> bool {
    find::<std::io::Error>(error)
        .and_then(|io| io.get_ref()?.downcast_ref())
        .is_some_and(|tls| matches!(tls, rustls::Error::AlertReceived(_)))
}
