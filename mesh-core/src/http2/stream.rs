//! A stream of a caller that is no message but bytes both ways: that of a CONNECT (RFC 9113 section 8.5),
//! also of an extended one (RFC 8441).
//!
//! In comes the request with its stream as a body, out comes the same request without one: the stream waits
//! in its extensions until the bytes are joined with another side. An end of either way is passed on as an
//! end, and a stream that is let go before that is reset.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::ext::Protocol;
use http::Request;
use http_body::{Body as _, Frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use crate::body::{Body, BoxError};

/// The most that is sent as one part.
const PART: usize = 16 * 1024;

/// The stream of a CONNECT, as an extension of its request.
#[derive(Debug, Clone)]
pub(crate) struct Parked {
    arriving: Arc<Mutex<Option<Body>>>,
    protocol: Option<Protocol>,
}

/// The stream as a connection.
pub(crate) struct StreamIo {
    arriving: Body,
    /// What has arrived and is not read.
    rest: Bytes,
    leaving: PollSender<Bytes>,
    ended: Arc<AtomicBool>,
    /// The body of the answer, until that is made.
    answer: Option<Leaving>,
}

/// What leaves on the stream, as the body of the answer.
struct Leaving {
    parts: mpsc::Receiver<Bytes>,
    /// Set once no part follows, and that is no accident.
    ended: Arc<AtomicBool>,
    failed: bool,
}

/// The other side was let go before it had ended.
#[derive(Debug, thiserror::Error)]
#[error("the tunnel was cut")]
struct Cut;

/// Parts a CONNECT from its stream.
pub(super) fn park(request: &mut Request<Body>) {
    let protocol = request.extensions_mut().remove::<Protocol>();
    let arriving = std::mem::take(request.body_mut());
    request.extensions_mut().insert(Parked {
        arriving: Arc::new(Mutex::new(Some(arriving))),
        protocol,
    });
}

// === impl Parked ===

impl Parked {
    /// What an extended CONNECT asks for (RFC 8441 section 4).
    pub(crate) fn protocol(&self) -> Option<&str> {
        self.protocol.as_ref().map(Protocol::as_str)
    }

    /// The stream as a connection. There is one: what is asked for once more has ended.
    pub(crate) fn open(&self) -> StreamIo {
        let arriving = { self.arriving.lock() }
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let (sender, parts) = mpsc::channel(1);
        let ended = Arc::<AtomicBool>::default();
        StreamIo {
            arriving: arriving.unwrap_or_default(),
            rest: Bytes::new(),
            leaving: PollSender::new(sender),
            ended: Arc::clone(&ended),
            answer: Some(Leaving {
                parts,
                ended,
                failed: false,
            }),
        }
    }
}

// === impl StreamIo ===

impl StreamIo {
    /// The body of the answer, which has what is written.
    pub(crate) fn answer(&mut self) -> Body {
        let answer = self.answer.take();
        answer.map_or_else(Body::empty, |leaving| Body::boxed(Box::new(leaving)))
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.rest.is_empty() {
            match ready!(Pin::new(&mut this.arriving).poll_frame(cx)) {
                // Only bytes mean something in a tunnel.
                Some(Ok(frame)) => this.rest = frame.into_data().unwrap_or_default(),
                Some(Err(e)) => return Poll::Ready(Err(io::Error::other(e))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = this.rest.len().min(buf.remaining());
        buf.put_slice(&this.rest[..length]);
        this.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.leaving.poll_reserve(cx)).map_err(gone)?;
        let part = Bytes::copy_from_slice(&buf[..buf.len().min(PART)]);
        let length = part.len();
        let sent = self.leaving.send_item(part);
        Poll::Ready(sent.map(|()| length).map_err(gone))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended.store(true, Ordering::Release);
        self.leaving.close();
        Poll::Ready(Ok(()))
    }
}

// === impl Leaving ===

impl http_body::Body for Leaving {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let part = ready!(self.parts.poll_recv(cx));
        Poll::Ready(match part {
            Some(part) => Some(Ok(Frame::data(part))),
            None if self.failed || self.ended.load(Ordering::Acquire) => None,
            None => {
                self.failed = true;
                Some(Err(Cut.into()))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn stream(arriving: &'static str) -> StreamIo {
        let mut request = Request::new(Body::from(arriving));
        park(&mut request);
        assert!(request.body().is_end_stream());
        let parked = request.extensions().get::<Parked>().cloned();
        parked.expect("it was parked").open()
    }

    #[tokio::test]
    async fn bytes_flow_both_ways_and_each_way_ends_by_itself() {
        let mut io = stream("hello");
        let answer = tokio::spawn(io.answer().collect());
        let mut heard = String::new();
        io.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "hello");
        let long = vec![b'x'; 3 * PART];
        io.write_all(&long).await.unwrap();
        io.shutdown().await.unwrap();
        let said = answer.await.unwrap().unwrap().to_bytes();
        assert_eq!(said.len(), long.len());
    }

    #[tokio::test]
    async fn a_stream_that_is_let_go_fails_and_does_not_end() {
        let mut io = stream("");
        let mut answer = io.answer();
        io.write_all(b"half").await.unwrap();
        drop(io);
        let part = answer.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(&part[..], b"half");
        assert!(answer.frame().await.unwrap().is_err());
        assert!(answer.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_caller_that_takes_nothing_more_is_noticed() {
        let mut io = stream("");
        drop(io.answer());
        let error = io.write_all(b"late").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
