//! A connection of a caller in, the same with its bytes [rewritten](super::authority) as they are read
//! out. What is written passes as it is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::authority::Rewriter;

/// How much is read at once.
const CHUNK: usize = 4 * 1024;

/// A connection whose header blocks every HTTP library can read.
pub(super) struct Fronted<S> {
    stream: S,
    rewriter: Rewriter,
    /// What was rewritten, and how much of it was read.
    ready: Vec<u8>,
    read: usize,
}

impl<S> Fronted<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            rewriter: Rewriter::new(),
            ready: Vec::new(),
            read: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Fronted<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.read == this.ready.len() {
            this.ready.clear();
            this.read = 0;
            let mut chunk = [0; CHUNK];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            // Nothing is ready yet where a header block has come in part.
            let rewritten = this.rewriter.handle_bytes(chunk.filled(), &mut this.ready);
            rewritten.map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))?;
        }
        let left = &this.ready[this.read..];
        let now = left.len().min(buf.remaining());
        buf.put_slice(&left[..now]);
        this.read += now;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Fronted<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
