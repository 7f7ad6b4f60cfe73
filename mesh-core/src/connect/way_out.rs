//! The caller's side of what leaves HTTP: its connection, or one stream of it.
//!
//! HTTP/1.1 gives up the whole connection once the answer is written. HTTP/2 gives up the stream of the
//! request, and its connection serves others as before. In comes the request, out comes a connection of
//! bytes once it is answered.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use data_encoding::BASE64;
use http::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use sha1_smol::Sha1;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::read_on::ReadOn;
use super::tcp::Io;
use crate::accept::{Breaking, Lingering, Timed, Wire};
use crate::body::Body;
use crate::error::{Error, Reason};
use crate::http2::{Parked, StreamIo};
use crate::leave::WEBSOCKET;

const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");

/// What a caller gives up for bytes.
pub(crate) enum WayOut {
    Http1(OnUpgrade),
    Http2(Box<Stream>),
}

/// A stream, and the key that was made in the place of its caller where it asks for a WebSocket.
pub(crate) struct Stream {
    io: StreamIo,
    key: Option<HeaderValue>,
}

/// One side of what has left HTTP.
pub(crate) enum Left {
    /// Of a caller's connection.
    Caller(Box<Timed<Lingering<Io>>>),
    /// Of a connection to an endpoint.
    Endpoint(Io),
    Stream(Box<StreamIo>),
    /// Of a connection that an embedding program, or its HTTP library, has made.
    Foreign(TokioIo<Upgraded>),
}

/// What an extended CONNECT asks for; `None` of any other request, a plain CONNECT included.
pub(crate) fn protocol_of<B>(request: &Request<B>) -> Option<&str> {
    request.extensions().get::<Parked>()?.protocol()
}

/// Makes an extended CONNECT for a WebSocket the request of HTTP/1.1 that asks for the same (RFC 8441
/// section 5). From there it is decided on, guarded and sent as that is.
pub(crate) fn as_upgrade<B>(request: &mut Request<B>) {
    if protocol_of(request) != Some(WEBSOCKET) {
        return;
    }
    *request.method_mut() = Method::GET;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    headers.insert(KEY, key(rand::random()));
    if !headers.contains_key(&VERSION) {
        headers.insert(VERSION, HeaderValue::from_static("13"));
    }
}

/// What a server answers that has understood the key of a WebSocket (RFC 6455 section 4.2.2).
fn accept_of(key: &[u8]) -> String {
    let mut hash = Sha1::from(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(&hash.digest().bytes())
}

/// A nonce in base64 (RFC 6455 section 4.1).
fn key(nonce: u128) -> HeaderValue {
    let text = BASE64.encode(&nonce.to_be_bytes());
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

// === impl WayOut ===

impl WayOut {
    /// What a request gives up.
    pub(crate) fn of(request: &mut Request<Body>) -> Self {
        match request.extensions_mut().remove::<Parked>() {
            Some(parked) => {
                let made = parked.protocol() == Some(WEBSOCKET);
                let key = request.headers().get(&KEY).filter(|_| made).cloned();
                let io = parked.open();
                Self::Http2(Box::new(Stream { io, key }))
            }
            None => Self::Http1(hyper::upgrade::on(request)),
        }
    }

    /// Whether a request is able to give up anything.
    pub(super) fn is_there<B>(request: &Request<B>) -> bool {
        let extensions = request.extensions();
        extensions.get::<OnUpgrade>().is_some() || extensions.get::<Parked>().is_some()
    }

    /// Takes from a request the means to give up anything.
    pub(super) fn close<B>(request: &mut Request<B>) {
        request.extensions_mut().remove::<OnUpgrade>();
        request.extensions_mut().remove::<Parked>();
    }

    /// Whether it is a stream, so that its connection serves others.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Self::Http2(..))
    }

    /// Whether the server that switches to a WebSocket has read the key that was made for it, and says so
    /// once. A caller of HTTP/1.1 has made its own, and looks at it itself.
    pub(super) fn is_accepted(&self, headers: &HeaderMap) -> bool {
        let key = match self {
            Self::Http1(_) => None,
            Self::Http2(stream) => stream.key.as_ref(),
        };
        let Some(key) = key else {
            return true;
        };
        let mut said = headers.get_all(&ACCEPT).iter();
        let (one, more) = (said.next(), said.next());
        more.is_none() && one.is_some_and(|said| *said == accept_of(key.as_bytes()))
    }

    /// Makes the answer that switches protocols one for this caller: over HTTP/2 it is a 200 whose body is
    /// what leaves on the stream (RFC 8441 section 5).
    pub(crate) fn answer(&mut self, response: &mut Response<Body>) {
        let Self::Http2(stream) = self else {
            return;
        };
        *response.status_mut() = StatusCode::OK;
        for name in [CONNECTION, UPGRADE, ACCEPT] {
            response.headers_mut().remove(name);
        }
        *response.body_mut() = stream.io.answer();
    }

    /// Waits until the caller has left HTTP. With it comes what was read of it already.
    pub(crate) async fn open(self) -> Result<(Left, Bytes), Error> {
        match self {
            Self::Http1(caller) => Left::of(caller).await,
            Self::Http2(stream) => Ok((Left::Stream(Box::new(stream.io)), Bytes::new())),
        }
    }
}

// === impl Left ===

macro_rules! each {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Left::Caller($io) => $call,
            Left::Endpoint($io) => $call,
            Left::Stream($io) => $call,
            Left::Foreign($io) => $call,
        }
    };
}

impl Left {
    /// Waits until a connection of HTTP/1.1 has left it. With it comes what was read of it already.
    pub(super) async fn of(connection: OnUpgrade) -> Result<(Self, Bytes), Error> {
        let failed = |e| Error::new(Reason::Reset, "the upgrade failed").because(e);
        let upgraded = connection.await.map_err(failed)?;
        let upgraded = match upgraded.downcast::<TokioIo<Timed<Lingering<Io>>>>() {
            Ok(parts) => {
                let caller = Self::Caller(Box::new(parts.io.into_inner()));
                return Ok((caller, parts.read_buf));
            }
            Err(upgraded) => upgraded,
        };
        Ok(match upgraded.downcast::<TokioIo<ReadOn<Io>>>() {
            Ok(parts) => {
                let endpoint = parts.io.into_inner().into_inner();
                (Self::Endpoint(endpoint), parts.read_buf)
            }
            Err(upgraded) => (Self::Foreign(TokioIo::new(upgraded)), Bytes::new()),
        })
    }
}

impl Breaking for Left {
    fn wire(&mut self) -> Wire<'_> {
        match self {
            Self::Caller(io) => io.wire(),
            Self::Endpoint(io) => io.wire(),
            Self::Stream(_) | Self::Foreign(_) => Wire::Noticed,
        }
    }
}

impl AsyncRead for Left {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Left {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        // RFC 6455 section 1.3.
        let nonce = u128::from_be_bytes(*b"the sample nonce");
        assert_eq!(key(nonce), "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(key(0), "AAAAAAAAAAAAAAAAAAAAAA==");
        assert_eq!(key(u128::MAX), "/////////////////////w==");
        let accept = accept_of(key(nonce).as_bytes());
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
