//! A TCP connection to one of the addresses of an endpoint, racing the families (RFC 8305).

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use inmesh_pki::clock::Span;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::{client, server};

use crate::accept::{Breaking, Noticing, Socket, Sockets, Wire};
use crate::error::{Error, Reason};
use crate::identify::{Guarded, LiveConnection};

/// How long the first family may try alone (RFC 8305 section 5, "Connection Attempt Delay").
const HEAD_START: Duration = Duration::from_millis(250);

/// A connection, encrypted or not.
pub(crate) enum Io {
    Client(Box<Guarded<client::TlsStream<Socket>>>),
    /// To a host outside the mesh, which has no SPIFFE identity.
    Outside(Box<client::TlsStream<Socket>>),
    Plain(Socket),
    Server(Box<Guarded<server::TlsStream<Socket>>>),
}

/// Connects to the first address that answers, within `limit`. Where all `sockets` of endpoints are in
/// use, one is waited for as long.
pub(crate) async fn connect(
    addresses: &[SocketAddr],
    limit: Duration,
    sockets: &Sockets,
) -> Result<Socket, Error> {
    let attempt = async {
        match addresses {
            [] => Err(io::Error::other("the endpoint has no address")),
            [only] => dial(*only, sockets).await,
            [first, rest @ ..] => race(*first, rest, sockets).await,
        }
    };
    let to = || {
        let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        list.join(" or ")
    };
    match timeout(limit, attempt).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(e)) if is_own(&e) => {
            let what = format!("no connection to {} can be opened here", to());
            Err(Error::new(Reason::Exhausted, what).because(e))
        }
        Ok(Err(e)) => {
            Err(Error::new(Reason::ConnectFailed, format!("connecting to {}", to())).because(e))
        }
        Err(_) if sockets.endpoints.is_used_up() => {
            let most = sockets.endpoints.most();
            let what = format!(
                "all {most} sockets for connections such as that to {} are in use",
                to()
            );
            Err(Error::new(Reason::Exhausted, what))
        }
        Err(_) => {
            let detail = format!("no connection to {} within {}", to(), Span(limit));
            Err(Error::new(Reason::ConnectTimeout, detail))
        }
    }
}

async fn dial(address: SocketAddr, sockets: &Sockets) -> io::Result<Socket> {
    let socket = sockets.endpoints.take().await;
    let stream = TcpStream::connect(address).await?;
    Ok(Socket::connected(stream, socket))
}

/// Whether it is this process or machine that has no more: of descriptors, memory or ports.
fn is_own(e: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    matches!(e.raw_os_error(), Some(EMFILE | ENFILE))
        || matches!(
            e.kind(),
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory
        )
}

/// Gives the first address a head start; it ends at once if the attempt fails.
async fn race(first: SocketAddr, rest: &[SocketAddr], sockets: &Sockets) -> io::Result<Socket> {
    let preferred = dial(first, sockets);
    let others = async {
        let mut last = io::Error::other("no other address");
        for address in rest {
            match dial(*address, sockets).await {
                Ok(stream) => return Ok(stream),
                Err(e) => last = e,
            }
        }
        Err(last)
    };
    tokio::pin!(preferred, others);
    tokio::select! {
        biased;
        early = &mut preferred => match early {
            Ok(stream) => return Ok(stream),
            Err(_) => return others.await,
        },
        () = sleep(HEAD_START) => {}
    }
    tokio::select! {
        one = &mut preferred => match one {
            Ok(stream) => Ok(stream),
            Err(_) => others.await,
        },
        two = &mut others => match two {
            Ok(stream) => Ok(stream),
            Err(_) => preferred.await,
        },
    }
}

// === impl Io ===

impl Io {
    /// What is shared with the sweep of live connections, where the peer has an identity.
    pub(crate) fn live(&self) -> Option<Arc<LiveConnection>> {
        match self {
            Self::Client(stream) => Some(Arc::clone(stream.entry())),
            Self::Server(stream) => Some(Arc::clone(stream.entry())),
            Self::Outside(_) | Self::Plain(_) => None,
        }
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Io::Client($stream) => $call,
            Io::Outside($stream) => $call,
            Io::Plain($stream) => $call,
            Io::Server($stream) => $call,
        }
    };
}

impl Breaking for Io {
    fn wire(&mut self) -> Wire<'_> {
        match self {
            Self::Client(stream) => Wire::Tls(stream.inner().get_mut().0),
            Self::Outside(stream) => Wire::Tls(stream.get_mut().0),
            Self::Plain(stream) => Wire::Plain(stream),
            Self::Server(stream) => Wire::Tls(stream.inner().get_mut().0),
        }
    }
}

impl Noticing for Io {
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::Plain(stream) => stream.poll_reset(cx),
            // TLS does not end one way alone: an end is noticed by reading.
            Self::Client(_) | Self::Outside(_) | Self::Server(_) => Poll::Pending,
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Client(stream) => stream.is_write_vectored(),
            Self::Outside(stream) => stream.is_write_vectored(),
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Server(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }
}
