//! What goes wrong on the way, by stage, blame and reason; and the one mapping to an answer.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use inmesh_pki::tls::words_of;

use crate::Body;
use crate::body::BoxError;
#[cfg(any(feature = "runtime", feature = "simulate"))]
pub(crate) use crate::grpc::grpc_status;
use crate::grpc::{GRPC, escape};
pub(crate) use crate::grpc::{grpc_kind, grpc_of, is_grpc};
use crate::model::ObjectKey;
use crate::retry::NoRetry;

/// The field of an answer that says why the mesh answered in place of a server.
pub(crate) const REASON: HeaderName = HeaderName::from_static("x-mesh-reason");
/// How gRPC says when a call may be repeated.
pub(crate) const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// The room in which it went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Socket in, bytes read.
    Accept,
    /// Which workload is the peer?
    Identify,
    /// May it send this?
    Authorize,
    /// Where to?
    Route,
    /// Which endpoint?
    Balance,
    /// The way to the endpoint, and its answer.
    Connect,
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Blame {
    /// The caller sent what it must not, or went away.
    Caller,
    /// The endpoint did not do its part.
    Endpoint,
    /// The configuration sends it nowhere.
    Mesh,
}

/// The stable name of what went wrong; logs, metrics and the answer carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The body of the endpoint's answer is in a transfer coding other than `chunked`: 502.
    AnswerCoding,
    /// The head of the endpoint's answer is larger than what is read of one, or has too many fields, or
    /// is more than the caller takes, as its trailers may be: 502.
    AnswerTooLarge,
    /// The backend's Service or port does not exist: 500.
    BackendMissing,
    /// An attempt took longer than `backendRequest`: 504.
    BackendTimeout,
    /// The body stalled before the answer had begun, or was not whole within the route's timeouts: 408.
    BodyTimeout,
    /// The caller went away, or broke its request off: 499, as nginx has it.
    CallerGone,
    /// No connection in time: 504.
    ConnectTimeout,
    /// The endpoint refused the connection or is unreachable: 503.
    ConnectFailed,
    /// As many connections are open to the backend as may be, and as many requests wait for one: 503.
    ConnectionOverflow,
    /// The caller has as many connections to the listener as it may have: 429.
    Crowded,
    /// A policy denies it: 403.
    Denied,
    /// This process has no more descriptors, memory or ports for a connection: 503.
    Exhausted,
    /// A policy has it fail on purpose; the status is the policy's.
    FaultInjected,
    /// The header block is larger than the limit: 431.
    HeaderTooLarge,
    /// The header did not arrive in time: 408.
    HeaderTimeout,
    /// The path, authority or method is malformed: 400.
    InvalidRequest,
    /// The rule has no backend with a weight: 500.
    NoBackend,
    /// No endpoint is ready, or all are ejected: 503.
    NoEndpoint,
    /// No rule of the attached routes matches, or the Service has no such port: 404.
    NoRoute,
    /// The workload has as many requests at once as it can do well: 503.
    Overload,
    /// As many requests are in flight to the backend, or to each of its endpoints, as may be: 503.
    Overflow,
    /// A listener that trusts PROXY headers of certain proxies alone got a connection without one, or from
    /// elsewhere: closed without an answer.
    ProxyHeader,
    /// A policy lets the workload take no more such requests for now: 429.
    RateLimited,
    /// The request took longer than `request`: 504.
    RequestTimeout,
    /// The connection broke before the answer was whole: 502.
    Reset,
    /// A connection that had been kept was closed under a request that may not be repeated, as may
    /// happen at any time: 502. It is no sign of the server's health.
    Stale,
    /// No byte of the request or of its answer has come for as long as `streamIdle`: 504.
    StreamIdle,
    /// The path and query are longer than the limit: 414.
    TargetTooLong,
    /// The TLS handshake failed: 503.
    TlsFailed,
    /// The header block has more fields than the limit: 431.
    TooManyFields,
    /// No Service has the name of the authority: 404.
    UnknownHost,
    /// The body is in a transfer coding that is not supported: 501.
    UnsupportedCoding,
    /// An extended CONNECT asks for another protocol than WebSocket: 501.
    UnsupportedProtocol,
    /// The server closed while the request was being sent to it, and said nothing: 502. It may have
    /// meant to refuse the rest, so that it is no sign of its health.
    UploadCut,
    /// The server's identity is not one that may serve the endpoint: 503.
    WrongServer,
}

/// Why a request or connection was not forwarded.
///
/// ```
/// use inmesh_core::{Error, Reason};
///
/// let error = Error::new(Reason::UnknownHost, "no Service is named `cart`");
/// assert_eq!(error.response(false).status(), 404);
/// assert_eq!(error.response(true).headers()["grpc-status"], "12");
/// ```
#[derive(Debug)]
pub struct Error(Box<ErrorInner>);

#[derive(Debug)]
struct ErrorInner {
    reason: Reason,
    detail: String,
    never_sent: bool,
    policy: Option<ObjectKey>,
    no_retry: Option<NoRetry>,
    wait: Option<Duration>,
    source: Option<BoxError>,
}

// === impl Reason ===

impl Reason {
    /// Its stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AnswerCoding => "answer-coding",
            Self::AnswerTooLarge => "answer-too-large",
            Self::BackendMissing => "backend-missing",
            Self::BackendTimeout => "backend-timeout",
            Self::BodyTimeout => "body-timeout",
            Self::CallerGone => "caller-gone",
            Self::ConnectFailed => "connect-failed",
            Self::ConnectTimeout => "connect-timeout",
            Self::ConnectionOverflow => "connection-overflow",
            Self::Crowded => "crowded",
            Self::Denied => "denied",
            Self::Exhausted => "exhausted",
            Self::FaultInjected => "fault-injected",
            Self::HeaderTimeout => "header-timeout",
            Self::HeaderTooLarge => "header-too-large",
            Self::InvalidRequest => "invalid-request",
            Self::NoBackend => "no-backend",
            Self::NoEndpoint => "no-endpoint",
            Self::NoRoute => "no-route",
            Self::Overflow => "overflow",
            Self::Overload => "overload",
            Self::ProxyHeader => "proxy-header",
            Self::RateLimited => "rate-limited",
            Self::RequestTimeout => "request-timeout",
            Self::Reset => "reset",
            Self::Stale => "stale",
            Self::StreamIdle => "stream-idle",
            Self::TargetTooLong => "target-too-long",
            Self::TlsFailed => "tls-failed",
            Self::TooManyFields => "too-many-fields",
            Self::UnknownHost => "unknown-host",
            Self::UnsupportedCoding => "unsupported-coding",
            Self::UnsupportedProtocol => "unsupported-protocol",
            Self::UploadCut => "upload-cut",
            Self::WrongServer => "wrong-server",
        }
    }

    /// The room it belongs to.
    pub fn stage(self) -> Stage {
        match self {
            Self::BodyTimeout
            | Self::CallerGone
            | Self::Crowded
            | Self::HeaderTimeout
            | Self::HeaderTooLarge
            | Self::InvalidRequest
            | Self::Overload
            | Self::ProxyHeader
            | Self::RateLimited
            | Self::TargetTooLong
            | Self::TooManyFields
            | Self::UnsupportedCoding
            | Self::UnsupportedProtocol => Stage::Accept,
            Self::Denied => Stage::Authorize,
            Self::FaultInjected
            | Self::NoBackend
            | Self::NoRoute
            | Self::RequestTimeout
            | Self::StreamIdle
            | Self::UnknownHost => Stage::Route,
            Self::BackendMissing | Self::NoEndpoint | Self::Overflow => Stage::Balance,
            Self::TlsFailed | Self::WrongServer => Stage::Identify,
            Self::AnswerCoding
            | Self::AnswerTooLarge
            | Self::BackendTimeout
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::ConnectionOverflow
            | Self::Exhausted
            | Self::Reset
            | Self::Stale
            | Self::UploadCut => Stage::Connect,
        }
    }

    /// Whose fault it is.
    pub fn blame(self) -> Blame {
        match self {
            Self::BodyTimeout
            | Self::CallerGone
            | Self::Crowded
            | Self::Denied
            | Self::HeaderTimeout
            | Self::HeaderTooLarge
            | Self::InvalidRequest
            | Self::ProxyHeader
            | Self::RateLimited
            | Self::TargetTooLong
            | Self::TooManyFields
            | Self::UnknownHost
            | Self::UnsupportedCoding
            | Self::UnsupportedProtocol => Blame::Caller,
            Self::BackendMissing
            | Self::ConnectionOverflow
            | Self::Exhausted
            | Self::FaultInjected
            | Self::NoBackend
            | Self::NoRoute
            | Self::Overflow
            | Self::Overload => Blame::Mesh,
            Self::AnswerCoding
            | Self::AnswerTooLarge
            | Self::BackendTimeout
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::NoEndpoint
            | Self::RequestTimeout
            | Self::Reset
            | Self::Stale
            | Self::StreamIdle
            | Self::TlsFailed
            | Self::UploadCut
            | Self::WrongServer => Blame::Endpoint,
        }
    }

    /// The status that an HTTP caller gets.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BackendMissing | Self::NoBackend => StatusCode::INTERNAL_SERVER_ERROR,
            Self::BackendTimeout
            | Self::ConnectTimeout
            | Self::RequestTimeout
            | Self::StreamIdle => StatusCode::GATEWAY_TIMEOUT,
            Self::CallerGone => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            Self::ConnectFailed
            | Self::ConnectionOverflow
            | Self::Exhausted
            | Self::FaultInjected
            | Self::NoEndpoint
            | Self::Overflow
            | Self::Overload
            | Self::TlsFailed
            | Self::WrongServer => StatusCode::SERVICE_UNAVAILABLE,
            Self::Crowded | Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::BodyTimeout | Self::HeaderTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::HeaderTooLarge | Self::TooManyFields => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::InvalidRequest | Self::ProxyHeader => StatusCode::BAD_REQUEST,
            Self::NoRoute | Self::UnknownHost => StatusCode::NOT_FOUND,
            Self::AnswerCoding
            | Self::AnswerTooLarge
            | Self::Reset
            | Self::Stale
            | Self::UploadCut => StatusCode::BAD_GATEWAY,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::UnsupportedCoding | Self::UnsupportedProtocol => StatusCode::NOT_IMPLEMENTED,
        }
    }

    /// The status that a gRPC caller gets (gRPC, "HTTP to gRPC Status Code Mapping", and
    /// DEADLINE_EXCEEDED for our own time limits).
    pub fn grpc_status(self) -> u8 {
        match self {
            Self::CallerGone => 1,
            Self::BackendTimeout
            | Self::BodyTimeout
            | Self::HeaderTimeout
            | Self::RequestTimeout
            | Self::StreamIdle => 4,
            Self::Denied => 7,
            Self::ConnectionOverflow
            | Self::Crowded
            | Self::HeaderTooLarge
            | Self::Overflow
            | Self::Overload
            | Self::RateLimited
            | Self::TargetTooLong
            | Self::TooManyFields => 8,
            Self::NoRoute
            | Self::UnknownHost
            | Self::UnsupportedCoding
            | Self::UnsupportedProtocol => 12,
            Self::AnswerCoding
            | Self::AnswerTooLarge
            | Self::InvalidRequest
            | Self::ProxyHeader => 13,
            // Gateway API, GRPCRouteRule, `backendRefs`.
            Self::BackendMissing
            | Self::NoBackend
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::Exhausted
            | Self::FaultInjected
            | Self::NoEndpoint
            | Self::Reset
            | Self::Stale
            | Self::TlsFailed
            | Self::UploadCut
            | Self::WrongServer => 14,
        }
    }

    /// Whether it says that there is too much to do: the hop above is not to make it more.
    fn is_overload(self) -> bool {
        matches!(
            self,
            Self::ConnectionOverflow
                | Self::Crowded
                | Self::Exhausted
                | Self::Overflow
                | Self::Overload
                | Self::RateLimited
        )
    }

    /// The value of Istio's `response_flags` label.
    pub fn flags(self) -> &'static str {
        match self {
            Self::BackendTimeout | Self::RequestTimeout => "UT",
            Self::BodyTimeout | Self::StreamIdle => "SI",
            Self::CallerGone => "DC",
            Self::ConnectFailed | Self::ConnectTimeout => "CONNECT",
            Self::ConnectionOverflow
            | Self::Crowded
            | Self::Exhausted
            | Self::Overflow
            | Self::Overload => "UO",
            Self::Denied => "DENY",
            Self::FaultInjected => "FI",
            Self::HeaderTimeout
            | Self::HeaderTooLarge
            | Self::InvalidRequest
            | Self::ProxyHeader
            | Self::TargetTooLong
            | Self::TooManyFields
            | Self::UnsupportedCoding
            | Self::UnsupportedProtocol => "DPE",
            Self::BackendMissing | Self::NoBackend | Self::NoRoute | Self::UnknownHost => "NR",
            Self::NoEndpoint => "UH",
            Self::RateLimited => "RL",
            Self::AnswerCoding | Self::AnswerTooLarge => "UPE",
            Self::Reset | Self::Stale | Self::UploadCut => "UC",
            Self::TlsFailed => "TLS_FAILURE",
            Self::WrongServer => "IDENTITY_ERROR",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Error ===

impl Error {
    /// An error with what a person needs to know: addresses, names, what was got and expected.
    #[cold]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        let never_sent = !matches!(
            reason,
            Reason::AnswerCoding
                | Reason::AnswerTooLarge
                | Reason::BackendTimeout
                | Reason::BodyTimeout
                | Reason::CallerGone
                | Reason::RequestTimeout
                | Reason::Reset
                | Reason::Stale
                | Reason::StreamIdle
                | Reason::UploadCut
        );
        Self(Box::new(ErrorInner {
            reason,
            detail: detail.into(),
            never_sent,
            policy: None,
            no_retry: reason.is_overload().then_some(NoRetry::Overload),
            wait: None,
            source: None,
        }))
    }

    /// The same with its cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same, known to have met no server.
    #[must_use]
    pub fn never_sent(mut self) -> Self {
        self.0.never_sent = true;
        self
    }

    /// The same, of a request that a server may have seen.
    #[cfg(feature = "runtime")]
    #[must_use]
    pub(crate) fn maybe_sent(mut self) -> Self {
        self.0.never_sent = false;
        self
    }

    /// The same, denied, or made on purpose, by a policy.
    #[must_use]
    pub(crate) fn with_policy(mut self, policy: ObjectKey) -> Self {
        self.0.policy = Some(policy);
        self
    }

    /// The same of a request that its caller may send again after so long.
    #[cfg(feature = "runtime")]
    #[must_use]
    pub(crate) fn with_wait(mut self, wait: Duration) -> Self {
        self.0.wait = Some(wait);
        self
    }

    /// The same of a request that the hop above is not to repeat.
    #[cfg(feature = "runtime")]
    #[must_use]
    pub(crate) fn with_no_retry(mut self, why: Option<NoRetry>) -> Self {
        self.0.no_retry = self.0.no_retry.or(why);
        self
    }

    /// Why the hop above is not to repeat the request, if so: the answer says it in `x-mesh-no-retry`.
    pub fn no_retry(&self) -> Option<NoRetry> {
        self.0.no_retry
    }

    /// What went wrong.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// What a person needs to know.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The policy that denied it, or has it fail.
    pub fn policy(&self) -> Option<&ObjectKey> {
        self.0.policy.as_ref()
    }

    /// Whether the request surely reached no server, so that it may be sent elsewhere.
    pub fn is_never_sent(&self) -> bool {
        self.0.never_sent
    }

    /// The trailers of a gRPC call whose answer had begun.
    #[cfg(feature = "runtime")]
    pub(crate) fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        self.write_grpc(
            &format!("{}: {}", self.reason(), self.detail()),
            &mut trailers,
        );
        trailers
    }

    fn write_grpc(&self, text: &str, to: &mut HeaderMap) {
        let status = HeaderValue::from(u16::from(self.reason().grpc_status()));
        to.insert("grpc-status", status);
        if let Ok(message) = HeaderValue::from_str(&escape(text)) {
            to.insert("grpc-message", message);
        }
    }

    /// The answer to the caller: for gRPC a `grpc-status` in a 200, else a status; both carry the
    /// reason. Only a denial hides its detail, which names policies.
    pub fn response(&self, grpc: bool) -> Response<Body> {
        self.response_as(grpc.then_some(GRPC))
    }

    /// The answer to a caller of gRPC in a content type, or of plain HTTP.
    pub(crate) fn response_as(&self, grpc: Option<HeaderValue>) -> Response<Body> {
        let (reason, called) = (self.reason(), grpc.is_some());
        let text = match reason {
            Reason::Denied => "denied by policy".to_owned(),
            _ => format!("{reason}: {}", self.detail()),
        };
        let mut response = if let Some(kind) = grpc {
            let mut response = Response::new(Body::empty());
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, kind);
            self.write_grpc(&text, headers);
            response
        } else {
            let mut response = Response::new(Body::from(text + "\n"));
            *response.status_mut() = reason.status();
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, plain);
            response
        };
        response
            .headers_mut()
            .insert(REASON, HeaderValue::from_static(reason.as_str()));
        if let Some(why) = self.no_retry() {
            why.write(response.headers_mut());
        }
        if let Some(wait) = self.0.wait {
            // gRPC's pushback (A6), and RFC 9110 section 10.2.3, which has no parts of a second.
            let (name, wait) = match called {
                true => (PUSHBACK, wait.as_millis()),
                false => (header::RETRY_AFTER, wait.as_millis().div_ceil(1_000)),
            };
            let wait = u64::try_from(wait).unwrap_or(u64::MAX).max(1);
            response.headers_mut().insert(name, wait.into());
        }
        response.extensions_mut().insert(reason);
        response
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason(), self.detail())?;
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            write!(f, ": {}", words_of(cause))?;
            source = cause.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

/// The first cause of that type, the error itself included.
#[cfg(feature = "runtime")]
pub(crate) fn find<'e, E: std::error::Error + 'static>(
    error: &'e (dyn std::error::Error + 'static),
) -> Option<&'e E> {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.filter_map(|e| e.downcast_ref()).next()
}
