//! A connection to a server of HTTP/1.1 whose answer is heard although it takes no more of the
//! request.
//!
//! A server may refuse an upload by its answer and close (RFC 9112 section 9.6): then the next write
//! fails while the answer lies in the socket, or is still to come. Here a write that fails is taken
//! for one that went well, and what is written from then on is dropped; the reader finds the answer,
//! or the end, which then fails with the error of the write.
//!
//! It also reads little at once while bodies of all connections hold as much as they may.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::body::{Body, BoxError};
use crate::budget::Budget;

/// How much is read at once while as much of bodies is held as may be: what is read ahead is held too.
const CROWDED: usize = 4 * 1024;

/// The connection.
pub(super) struct ReadOn<T> {
    inner: T,
    budget: Arc<Budget>,
    /// Why writes are dropped.
    failed: Option<io::Error>,
    refused: Arc<Refused>,
}

/// Whether the server has stopped to take what was sent.
#[derive(Debug, Default)]
pub(super) struct Refused {
    writes: AtomicBool,
    /// Whether a part of the current request's body is still to come.
    sending: AtomicBool,
}

/// The body of a request, until all of it was handed to the connection.
struct Sending {
    inner: Body,
    /// How many bytes are still to come, if that is known. The library asks for no more than these.
    left: Option<u64>,
    server: Arc<Refused>,
}

// === impl Refused ===

impl Refused {
    pub(super) fn is_set(&self) -> bool {
        self.writes.load(Ordering::Relaxed)
    }

    /// Notes how far the connection comes with a body. One in memory is handed over at once.
    pub(super) fn send(self: &Arc<Self>, body: &mut Body) {
        let streamed = !body.is_in_memory();
        self.sending.store(streamed, Ordering::Relaxed);
        if streamed {
            let inner = std::mem::take(body);
            *body = Body::boxed(Box::new(Sending {
                left: inner.size_hint().exact(),
                inner,
                server: Arc::clone(self),
            }));
        }
    }

    /// Whether the connection ended before the whole request was sent. A server that closes may be
    /// seen by the reader before any write fails.
    pub(super) fn has_cut(&self) -> bool {
        self.is_set() || self.sending.load(Ordering::Relaxed)
    }

    /// The connection is not to be used again: the rest of a request was never sent.
    pub(super) fn set(&self) {
        self.writes.store(true, Ordering::Relaxed);
    }
}

// === impl Sending ===

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let (Some(left), Some(Ok(frame))) = (&mut self.left, &polled) {
            *left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len) as u64);
        }
        if polled.is_none() || self.left == Some(0) || self.inner.is_end_stream() {
            self.server.sending.store(false, Ordering::Relaxed);
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

// === impl ReadOn ===

impl<T> ReadOn<T> {
    pub(super) fn new(inner: T, budget: &Arc<Budget>) -> (Self, Arc<Refused>) {
        let refused = Arc::<Refused>::default();
        let this = Self {
            inner,
            budget: Arc::clone(budget),
            failed: None,
            refused: Arc::clone(&refused),
        };
        (this, refused)
    }

    /// The connection as it is.
    pub(super) fn into_inner(self) -> T {
        self.inner
    }

    fn written(
        &mut self,
        written: io::Result<usize>,
        all: impl FnOnce() -> usize,
    ) -> io::Result<usize> {
        written.or_else(|e| match e.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                self.failed = Some(e);
                self.refused.set();
                Ok(all())
            }
            _ => Err(e),
        })
    }
}

impl<T: AsyncWrite + Unpin> ReadOn<T> {
    /// Writes, once there is room.
    fn poll_write_within(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut T>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.budget.poll_room(Pin::new(&mut self.inner), cx))?;
        write(Pin::new(&mut self.inner), cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadOn<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.budget.is_used_up() {
            let room = buf.remaining().min(CROWDED);
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
            let read = part.filled().len();
            buf.advance(read);
        } else {
            ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        }
        // At the end, or where there was no room.
        if buf.filled().len() == before
            && let Some(e) = self.failed.take()
        {
            return Poll::Ready(Err(e));
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadOn<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.refused.is_set() {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = ready!(self.poll_write_within(cx, |io, cx| io.poll_write(cx, buf)));
        Poll::Ready(self.written(written, || buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.refused.is_set() {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(Pin::new(&mut self.inner).poll_flush(cx));
        Poll::Ready(self.written(flushed.map(|()| 0), || 0).map(|_| ()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = || bufs.iter().map(|buf| buf.len()).sum();
        if self.refused.is_set() {
            return Poll::Ready(Ok(all()));
        }
        let written = ready!(self.poll_write_within(cx, |io, cx| io.poll_write_vectored(cx, bufs)));
        Poll::Ready(self.written(written, all))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_test::io::Builder;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_read_after_a_write_that_failed() {
        let inner = Builder::new()
            .write(b"head")
            .write_error(io::ErrorKind::BrokenPipe.into())
            .read(b"413")
            .build();
        let (mut io, refused) = ReadOn::new(inner, &Budget::new(0));
        io.write_all(b"head").await.unwrap();
        assert!(!refused.is_set());
        io.write_all(b"body, of which nothing is taken")
            .await
            .unwrap();
        assert!(refused.is_set());
        io.flush().await.unwrap();
        let mut answer = [0; 3];
        io.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"413");
        let end = io.read(&mut answer).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn another_failure_is_one() {
        let inner = Builder::new()
            .write_error(io::ErrorKind::TimedOut.into())
            .build();
        let (mut io, refused) = ReadOn::new(inner, &Budget::new(0));
        assert!(io.write_all(b"head").await.is_err());
        assert!(!refused.is_set());
    }
}
