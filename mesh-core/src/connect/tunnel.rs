//! Bytes both ways between two connections, until both sides have ended, counted as they flow.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

use super::forward::Switched;
use crate::drain::Drain;
use crate::error::{Error, Reason};
use crate::telemetry::TcpCounters;

/// One TLS record's worth: large enough that a record is one read, small enough to hold many.
const BUFFER: usize = 16 * 1024;

/// The bytes of one opaque connection so far.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// From the caller.
    pub(crate) received: u64,
    /// To the caller.
    pub(crate) sent: u64,
    /// Metrics that count them as well, while they flow.
    counters: Option<TcpCounters>,
}

/// The caller's side of a connection.
struct CountedSide<'a, S> {
    inner: &'a mut S,
    flow: &'a mut Flow,
}

/// Copies both ways until both sides have ended. `flow` has what was copied, also after an error
/// and if the future is dropped.
///
/// # Errors
///
/// [`Reason::Reset`] if one of the connections breaks off.
pub(crate) async fn copy<A, B>(caller: &mut A, other: &mut B, flow: &mut Flow) -> Result<(), Error>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut caller = CountedSide {
        inner: caller,
        flow,
    };
    match copy_bidirectional_with_sizes(&mut caller, other, BUFFER, BUFFER).await {
        Ok(_) => Ok(()),
        Err(e) => Err(Error::new(Reason::Reset, "the connection broke off").because(e)),
    }
}

/// Joins two connections that have both left HTTP (RFC 9110 section 7.8) until both have ended or
/// the drain cuts them.
pub(crate) async fn splice(
    switched: Switched,
    mut drain: Drain,
    flow: &mut Flow,
) -> Result<(), Error> {
    let joined = async {
        let failed = |e| Error::new(Reason::Reset, "the upgrade failed").because(e);
        let (caller, upstream) =
            tokio::try_join!(switched.caller, switched.upstream).map_err(failed)?;
        let (mut caller, mut upstream) = (TokioIo::new(caller), TokioIo::new(upstream));
        copy(&mut caller, &mut upstream, flow).await
    };
    tokio::select! {
        copied = joined => copied,
        () = drain.closed() => Err(Error::new(Reason::Reset, "drained")),
    }
}

// === impl Flow ===

impl Flow {
    /// No bytes yet; metrics count them too.
    pub(crate) fn new(counters: TcpCounters) -> Self {
        Self {
            received: 0,
            sent: 0,
            counters: Some(counters),
        }
    }

    fn add(&mut self, received: usize, sent: usize) {
        let count = |n| u64::try_from(n).unwrap_or(u64::MAX);
        let (received, sent) = (count(received), count(sent));
        self.received += received;
        self.sent += sent;
        if let Some(counters) = &self.counters {
            counters.add(received, sent);
        }
    }
}

// === impl CountedSide ===

impl<S: AsyncRead + Unpin> AsyncRead for CountedSide<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut *self.inner).poll_read(cx, buf))?;
        self.flow.add(buf.filled().len() - before, 0);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountedSide<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *self.inner).poll_write(cx, buf))?;
        self.flow.add(0, written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_shutdown(cx)
    }
}
