//! A TCP connection that writes with the cheaper system call.
//!
//! HTTP and TLS write lists of slices. `writev` goes through the kernel's layer for files and costs
//! several per cent more than `send`, which a list of one slice, or one short enough to be copied
//! together, can use as well. Long lists are written as they are: to copy them would cost more.

use std::any::Any;
use std::io::{self, IoSlice};
#[cfg(target_os = "linux")]
use std::net::IpAddr;
use std::net::SocketAddr;
use std::ops::Deref;
#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

#[cfg(target_os = "linux")]
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::place::{Place, Share};

/// Slices that together are at most this long are copied into one.
const SHORT: usize = 2048;
/// A connection at rest is probed after so long, and ends after three probes without an answer: in
/// half a minute, where the kernel's own defaults take two hours.
const QUIET: Duration = Duration::from_secs(15);
const PROBE: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;
/// And one on which bytes are under way after so long, where the default is a quarter of an hour.
const UNANSWERED: Duration = Duration::from_secs(30);

/// The connection, and the places that it holds until it is closed, whatever it is wrapped in and
/// whichever task it is handed to.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    /// Held, not looked at.
    _held: Held,
    share: Option<Share>,
    /// What else it holds, where it is counted with others to its endpoint's port.
    counted: Option<Box<dyn Any + Send + Sync>>,
}

/// A connection that may notice that its peer has reset it, without reading.
pub(crate) trait Noticing {
    /// Whether it is reset; if not, the task is woken once it may be.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;
}

/// What a connection holds as long as it is open.
#[derive(Debug)]
enum Held {
    Caller(#[expect(dead_code, reason = "held, not looked at")] Place),
    Endpoint(#[expect(dead_code, reason = "held, not looked at")] OwnedSemaphorePermit),
    #[cfg(test)]
    Nothing,
}

// === impl Socket ===

impl Socket {
    /// A caller's connection.
    pub(super) fn accepted(stream: TcpStream, place: Place) -> Self {
        tune(&stream);
        Self {
            stream,
            _held: Held::Caller(place),
            share: None,
            counted: None,
        }
    }

    /// A connection to an endpoint.
    pub(crate) fn connected(stream: TcpStream, socket: OwnedSemaphorePermit) -> Self {
        tune(&stream);
        Self {
            stream,
            _held: Held::Endpoint(socket),
            share: None,
            counted: None,
        }
    }

    /// It is one of its caller's connections too.
    pub(crate) fn shares(&mut self, share: Share) {
        self.share = Some(share);
    }

    /// It holds this too until it is closed.
    pub(crate) fn holds(&mut self, place: Box<dyn Any + Send + Sync>) {
        self.counted = Some(place);
    }

    /// Whether all that was written has left this machine, as far as that is known.
    pub(super) fn has_sent_all(&self) -> bool {
        sent_all(&self.stream)
    }

    /// The address that the caller connected to: the one before a redirection by netfilter if there
    /// was one, else the local one, which is the original too under TPROXY or `sk_lookup`.
    pub(crate) fn original_destination(&self) -> io::Result<SocketAddr> {
        let local = self.stream.local_addr()?;
        Ok(redirected_from(&self.stream, local).unwrap_or(local))
    }
}

/// Sets what every connection has. One works without it: later, and longer with a peer that is gone.
fn tune(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new()
        .with_time(QUIET)
        .with_interval(PROBE)
        .with_retries(PROBES);
    for set in [
        stream.set_nodelay(true),
        socket.set_tcp_keepalive(&probes),
        unanswered(&socket),
    ] {
        if let Err(e) = set {
            tracing::debug!(error = %e, "an option of a connection is not set");
        }
    }
}

/// How long what was sent may be without an answer of the peer's kernel.
#[cfg(target_os = "linux")]
fn unanswered(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_user_timeout(Some(UNANSWERED))
}

#[cfg(not(target_os = "linux"))]
fn unanswered(_: &SockRef<'_>) -> io::Result<()> {
    Ok(())
}

/// A socket of which nothing may wait to be sent takes more once nothing does.
#[cfg(target_os = "linux")]
fn sent_all(stream: &TcpStream) -> bool {
    let socket = SockRef::from(stream);
    let mut asked = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    socket.set_tcp_notsent_lowat(1).is_err()
        || poll(&mut asked, PollTimeout::ZERO).is_err()
        || asked[0].any() == Some(true)
}

#[cfg(not(target_os = "linux"))]
fn sent_all(_: &TcpStream) -> bool {
    true
}

/// `SO_ORIGINAL_DST`, which fails if no redirection is known.
#[cfg(target_os = "linux")]
fn redirected_from(stream: &TcpStream, local: SocketAddr) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let found = match local.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    found.ok()?.as_socket()
}

#[cfg(not(target_os = "linux"))]
fn redirected_from(_: &TcpStream, _: SocketAddr) -> Option<SocketAddr> {
    None
}

/// A connection that counts nowhere.
#[cfg(test)]
impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        tune(&stream);
        Self {
            stream,
            _held: Held::Nothing,
            share: None,
            counted: None,
        }
    }
}

impl Noticing for Socket {
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        // Readable, at its end, or reset; only the last leaves an error behind.
        let readable = ready!(self.stream.poll_read_ready(cx));
        match readable.and_then(|()| self.stream.take_error()) {
            Ok(None) => Poll::Pending,
            Ok(Some(error)) | Err(error) => Poll::Ready(error),
        }
    }
}

impl Deref for Socket {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut filled = bufs.iter().filter(|buf| !buf.is_empty());
        let stream = Pin::new(&mut self.stream);
        match (filled.next(), filled.next()) {
            (None, _) => stream.poll_write(cx, &[]),
            (Some(only), None) => stream.poll_write(cx, only),
            _ if bufs.iter().map(|buf| buf.len()).sum::<usize>() <= SHORT => {
                let mut together = [0; SHORT];
                let mut end = 0;
                for buf in bufs {
                    together[end..end + buf.len()].copy_from_slice(buf);
                    end += buf.len();
                }
                stream.poll_write(cx, &together[..end])
            }
            _ => stream.poll_write_vectored(cx, bufs),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    /// Whatever the list looks like, its bytes arrive in their order.
    #[tokio::test]
    async fn every_shape_of_a_list_is_written_in_order() -> io::Result<()> {
        let long = vec![b'l'; SHORT];
        let shapes: [&[&[u8]]; 6] = [
            &[b"one"],
            &[b"", b"one", b""],
            &[b"head", b"body"],
            &[&long[4..], b"body"],
            &[&long, b"tail"],
            &[b"a", b"b", b"", b"c"],
        ];
        for shape in shapes {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let mut near = Socket::from(TcpStream::connect(listener.local_addr()?).await?);
            let (mut far, _) = listener.accept().await?;
            let slices: Vec<_> = shape.iter().map(|part| IoSlice::new(part)).collect();
            let wrote = poll_fn(|cx| Pin::new(&mut near).poll_write_vectored(cx, &slices)).await?;
            drop(near);
            let mut read = Vec::new();
            far.read_to_end(&mut read).await?;
            assert_eq!(wrote, read.len());
            assert_eq!(read, shape.concat());
        }
        Ok(())
    }

    #[tokio::test]
    async fn nothing_is_written_as_nothing() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut near = Socket::from(TcpStream::connect(listener.local_addr()?).await?);
        for slices in [&[][..], &[IoSlice::new(b"")]] {
            assert_eq!(
                poll_fn(|cx| Pin::new(&mut near).poll_write_vectored(cx, slices)).await?,
                0
            );
        }
        Ok(())
    }

    /// A peer that has vanished is noticed on both sides, whether bytes are under way or not.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn every_connection_notices_that_its_peer_is_gone() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let near = Socket::from(TcpStream::connect(listener.local_addr()?).await?);
        let (far, _) = crate::accept::Listener::new(listener, 1).accept().await;
        for stream in [&near, &far] {
            let socket = SockRef::from(&stream.stream);
            assert_eq!((socket.keepalive()?, stream.nodelay()?), (true, true));
            assert_eq!(socket.tcp_keepalive_time()?, QUIET);
            assert_eq!(socket.tcp_user_timeout()?, Some(UNANSWERED));
        }
        Ok(())
    }
}
