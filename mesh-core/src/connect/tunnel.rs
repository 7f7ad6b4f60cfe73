//! Bytes both ways between two connections, until both sides have ended, counted as they flow.
//!
//! Each way ends by itself: an end of one side is passed on as an end, and what a side still says is
//! carried on although the other one takes nothing more. A server that answers and closes while
//! its caller still sends has been heard so.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper_util::rt::TokioIo;
use inmesh_pki::serve::read_on;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

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

/// One way of a copy.
struct Way {
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
    phase: Phase,
    unflushed: bool,
    /// Why it ended early.
    failed: Option<io::Error>,
    /// Whether the side that is read from broke off.
    broken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Bytes flow.
    Open,
    /// The one side has ended; the other is to know.
    Ending,
    Over,
}

/// The side that a way has failed at.
enum Failed {
    Read(io::Error),
    Write(io::Error),
}

/// Copies both ways until both sides have ended, first to each what was read of the other one already.
/// `flow` has what was copied, also after an error and if the future is dropped.
///
/// # Errors
///
/// [`Reason::Reset`] if one of the connections breaks off. What the other side said before is
/// delivered all the same.
pub(crate) async fn copy<A, B>(
    (caller, heard): (&mut A, &[u8]),
    (other, said): (&mut B, &[u8]),
    flow: &mut Flow,
) -> Result<(), Error>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (Way::new(heard), Way::new(said));
    flow.add(heard.len(), 0);
    poll_fn(|cx| {
        let one = there.poll(caller, other, cx, &mut |read, _| flow.add(read, 0));
        let two = back.poll(other, caller, cx, &mut |_, written| flow.add(0, written));
        // A side that has broken off, other than one that has ended, takes nothing more either.
        let (one, two) = (
            one.is_ready() || back.broken,
            two.is_ready() || there.broken,
        );
        if one && two {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
    if there.failed.is_some() && back.failed.is_none() {
        read_on(caller).await;
    }
    match there.failed.or(back.failed) {
        None => Ok(()),
        Some(e) => Err(Error::new(Reason::Reset, "the connection broke off").because(e)),
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
        let upstream = async { switched.upstream.await.map_err(failed) };
        let (mut caller, upstream) = tokio::try_join!(switched.caller.open(), upstream)?;
        let mut upstream = TokioIo::new(upstream);
        copy((&mut caller, &[]), (&mut upstream, &[]), flow).await
    };
    tokio::select! {
        biased;
        // What is cut fails too, and would hide why.
        () = drain.closed() => Err(Error::new(Reason::Reset, "drained")),
        copied = joined => copied,
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

// === impl Way ===

impl Way {
    /// A way on which some bytes were read already.
    fn new(read: &[u8]) -> Self {
        let mut buffer = read.to_vec();
        buffer.resize(BUFFER.max(read.len()), 0);
        Self {
            buffer: buffer.into_boxed_slice(),
            from: 0,
            to: read.len(),
            phase: Phase::Open,
            unflushed: false,
            failed: None,
            broken: false,
        }
    }

    /// Copies until there is nothing more to copy or to write to. Counts what was read and what was
    /// written.
    fn poll<R, W>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        cx: &mut Context<'_>,
        count: &mut impl FnMut(usize, usize),
    ) -> Poll<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            let stepped = match self.phase {
                Phase::Over => return Poll::Ready(()),
                _ if self.from < self.to => {
                    let written = ready!(self.poll_write(writer, cx));
                    written.map(|n| count(0, n)).map_err(Failed::Write)
                }
                Phase::Open => match self.poll_read(reader, cx) {
                    Poll::Ready(read) => read.map(|n| count(n, 0)).map_err(Failed::Read),
                    Poll::Pending => ready!(self.poll_flush(writer, cx)).map_err(Failed::Write),
                },
                Phase::Ending => {
                    // A side that is gone already takes no end.
                    let _gone = ready!(Pin::new(&mut *writer).poll_shutdown(cx));
                    self.phase = Phase::Over;
                    Ok(())
                }
            };
            let failed = match stepped {
                Ok(()) => continue,
                // The writer gets an end.
                Err(Failed::Read(e)) => {
                    self.broken = true;
                    self.phase = Phase::Ending;
                    e
                }
                Err(Failed::Write(e)) => {
                    (self.from, self.to) = (0, 0);
                    self.phase = Phase::Over;
                    e
                }
            };
            self.failed.get_or_insert(failed);
        }
    }

    fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        reader: &mut R,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(reader).poll_read(cx, &mut buffer))?;
        (self.from, self.to) = (0, buffer.filled().len());
        if self.to == 0 {
            self.phase = Phase::Ending;
        }
        Poll::Ready(Ok(self.to))
    }

    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let rest = &self.buffer[self.from..self.to];
        let written = ready!(Pin::new(writer).poll_write(cx, rest))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.from += written;
        self.unflushed = true;
        Poll::Ready(Ok(written))
    }

    /// Flushes once, while nothing comes; then there is nothing to do.
    fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unflushed {
            return Poll::Pending;
        }
        ready!(Pin::new(writer).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Pending
    }
}
