//! A connection whose answers must be read in time.
//!
//! A limit on silence alone would let a peer that reads a byte now and then hold a connection, and the
//! memory of an answer, for days.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// A stream that fails with [`io::ErrorKind::TimedOut`] if what is written until a flush has not left
/// within a limit, however much of it has.
#[derive(Debug)]
pub struct Within<T> {
    inner: T,
    limit: Duration,
    /// Ends what is being written; `None` while nothing is.
    end: Option<Pin<Box<Sleep>>>,
}

impl<T> Within<T> {
    /// Gives each answer on `inner` this long.
    pub fn new(inner: T, limit: Duration) -> Self {
        Self {
            inner,
            limit,
            end: None,
        }
    }

    /// An error once the limit has passed since the first byte.
    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let limit = self.limit;
        let end = self
            .end
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + limit)));
        match end.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "an answer was not read in time",
            )),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Within<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Within<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.in_time(cx)?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.in_time(cx)?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end.is_some() {
            self.in_time(cx)?;
        }
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.end = None;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::sleep;

    use super::*;

    /// A byte a second is never silent, and takes too long all the same.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_trickles_is_ended_at_its_limit() {
        let limit = Duration::from_secs(10);
        let (mut reader, stream) = duplex(1);
        let mut stream = Within::new(stream, limit);
        let writing = tokio::spawn(async move {
            // What is read in time has no end, and each answer has a time of its own.
            for _ in 0..5 {
                stream.write_all(b"12345678").await?;
                stream.flush().await?;
            }
            let begin = Instant::now();
            let written = stream.write_all(&[0; 1_000]).await;
            written.map(|()| begin).inspect_err(|_| {
                assert_eq!(begin.elapsed(), limit);
            })
        });
        while !writing.is_finished() {
            let _ended = reader.read_u8().await;
            sleep(Duration::from_secs(1)).await;
        }
        let error = writing.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
