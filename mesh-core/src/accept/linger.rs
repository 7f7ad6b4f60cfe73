//! The end of a caller's connection that is closed while the caller may still send.
//!
//! A socket that is closed with bytes unread resets the connection, and the reset takes back what the
//! caller has not read yet: mostly the very answer that says why (RFC 9112 section 9.6). So what
//! comes after our end is read and dropped for a while. An answer whose end is that of the connection, and
//! that is cut before it, ends with a connection that broke off.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use inmesh_pki::serve::read_on;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;

use super::breaking::{Breaking, Wire, break_at_end, break_off};
use super::socket::Noticing;
use super::timed::ConnState;

/// The connection. It is `None` only while it is dropped.
///
/// The HTTP library does not read while a request is answered, so that an end of the caller's side
/// alone, which may be all that it has to say, costs no answer. What it does each time that it looks
/// at the connection is to flush: a reset is noticed there, and ends the request.
pub(crate) struct Lingering<T: Breaking + Send + 'static> {
    inner: Option<T>,
    state: Arc<ConnState>,
    /// Whether our side has ended.
    ended: bool,
    /// And the caller's.
    heard: bool,
}

// === impl Lingering ===

impl<T: Breaking + Send + 'static> Lingering<T> {
    pub(crate) fn new(inner: T, state: &Arc<ConnState>) -> Self {
        Self {
            inner: Some(inner),
            state: Arc::clone(state),
            ended: false,
            heard: false,
        }
    }

    fn io(&mut self) -> io::Result<Pin<&mut T>> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        self.inner.as_mut().map(Pin::new).ok_or_else(gone)
    }
}

impl<T: Breaking + Send + 'static> Drop for Lingering<T> {
    fn drop(&mut self) {
        let cut = !self.ended && self.state.ends_an_answer();
        let unheard = self.ended && !self.heard;
        // Without a runtime there is no task to read on in.
        if (cut || unheard)
            && let Some(mut inner) = self.inner.take()
            && let Ok(runtime) = Handle::try_current()
        {
            if cut {
                break_at_end(&mut inner);
            }
            runtime.spawn(async move {
                match cut {
                    true => break_off(&mut inner).await,
                    false => read_on(&mut inner).await,
                }
            });
        }
    }
}

impl<T: Breaking + Noticing + Send + 'static> Breaking for Lingering<T> {
    fn wire(&mut self) -> Wire<'_> {
        self.inner.as_mut().map_or(Wire::Noticed, T::wire)
    }
}

impl<T: Breaking + Send + 'static> AsyncRead for Lingering<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(self.io()?.poll_read(cx, buf));
        if read.is_err() || buf.filled().len() == before {
            self.heard = true;
        }
        Poll::Ready(read)
    }
}

impl<T: Breaking + Noticing + Send + 'static> AsyncWrite for Lingering<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(reset) = self.io()?.poll_reset(cx) {
            return Poll::Ready(Err(reset));
        }
        self.io()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.io()?.poll_shutdown(cx))?;
        self.ended = true;
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
