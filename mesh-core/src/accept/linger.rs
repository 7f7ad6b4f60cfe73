//! The end of a caller's connection that is closed while the caller may still send.
//!
//! A socket that is closed with bytes unread resets the connection, and the reset takes back what the
//! caller has not read yet: mostly the very answer that says why (RFC 9112 section 9.6). So what
//! comes after our end is read and dropped for a while.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// How long is read on, and how much at most.
const LIMIT: Duration = Duration::from_secs(2);
const BYTES: usize = 4 << 20;
const BUFFER: usize = 16 * 1024;

/// The connection. It is `None` only while it is dropped.
pub(crate) struct Lingering<T: AsyncRead + Unpin + Send + 'static> {
    inner: Option<T>,
    /// Whether our side has ended and the caller's has not.
    open: bool,
}

/// Reads what a caller still sends, and drops it.
pub(crate) async fn linger<T: AsyncRead + Unpin>(caller: &mut T) {
    let drained = async {
        let mut buffer = vec![0; BUFFER];
        let mut left = BYTES;
        while let Ok(read @ 1..) = caller.read(&mut buffer).await {
            left = left.saturating_sub(read);
            if left == 0 {
                return;
            }
        }
    };
    let _gone_or_late = timeout(LIMIT, drained).await;
}

// === impl Lingering ===

impl<T: AsyncRead + Unpin + Send + 'static> Lingering<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self {
            inner: Some(inner),
            open: false,
        }
    }

    fn io(&mut self) -> io::Result<Pin<&mut T>> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        self.inner.as_mut().map(Pin::new).ok_or_else(gone)
    }
}

impl<T: AsyncRead + Unpin + Send + 'static> Drop for Lingering<T> {
    fn drop(&mut self) {
        // Without a runtime there is no task to read on in.
        if self.open
            && let Some(mut inner) = self.inner.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move { linger(&mut inner).await });
        }
    }
}

impl<T: AsyncRead + Unpin + Send + 'static> AsyncRead for Lingering<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(self.io()?.poll_read(cx, buf));
        if read.is_err() || buf.filled().len() == before {
            self.open = false;
        }
        Poll::Ready(read)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncWrite for Lingering<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.io()?.poll_shutdown(cx))?;
        self.open = true;
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.as_ref().is_some_and(|io| io.is_write_vectored())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write_vectored(cx, bufs)
    }
}
