//! Bytes both ways between two connections, until both sides have ended, counted as they flow.
//!
//! Each way ends by itself: an end of one side is passed on as an end, and what a side still says is
//! carried on although the other one takes nothing more. A server that answers and closes while
//! its caller still sends has been heard so. A side that breaks off, and a connection that is cut, is passed
//! on as one that broke off: what it has said would look whole otherwise.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use inmesh_pki::serve::read_on;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::forward::Switched;
use super::way_out::Left;
use crate::accept::{Breaking, break_off};
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
    /// Whether that was met in writing to it: what it said before can be read still, and then an end.
    reset: bool,
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

/// Ready once the drain cuts what is left.
pub(crate) async fn drained(mut drain: Drain) -> Error {
    drain.closed().await;
    Error::new(Reason::Reset, "drained")
}

/// Copies both ways until both sides have ended or `cut` says that they must, first to each what was
/// read of the other one already. `flow` has what was copied, also after an error and if the future is
/// dropped.
///
/// # Errors
///
/// [`Reason::Reset`] if one of the connections breaks off, and then the other one does: first it gets what
/// was said before. What `cut` says, after which both break off.
pub(crate) async fn copy<A, B>(
    (caller, heard): (&mut A, &[u8]),
    (other, said): (&mut B, &[u8]),
    cut: impl Future<Output = Error>,
    flow: &mut Flow,
) -> Result<(), Error>
where
    A: Breaking,
    B: Breaking,
{
    let (mut there, mut back) = (Way::new(heard), Way::new(said));
    flow.add(heard.len(), 0);
    let joined = poll_fn(|cx| {
        let one = there.poll(caller, other, cx, &mut |read, _| flow.add(read, 0));
        back.reset |= there.is_reset();
        let two = back.poll(other, caller, cx, &mut |_, written| flow.add(0, written));
        there.reset |= back.is_reset();
        // A side that has broken off, other than one that has ended, takes nothing more either.
        let (one, two) = (
            one.is_ready() || back.broken,
            two.is_ready() || there.broken,
        );
        if one && two {
            return Poll::Ready(());
        }
        Poll::Pending
    });
    let cut = tokio::select! {
        biased;
        error = cut => Some(error),
        () = joined => None,
    };
    // What was refused is to be no end in order to the side that said it either.
    let is_refused = |way: &Way| {
        let why = way.failed.as_ref().and_then(io::Error::get_ref);
        why.is_some_and(|why| why.is::<Error>())
    };
    let (caller_breaks, other_breaks) = match cut {
        Some(_) => (true, true),
        None => (
            back.broken || is_refused(&there),
            there.broken || is_refused(&back),
        ),
    };
    let heard = there.failed.is_some() && back.failed.is_none();
    let callers_end = async {
        match caller_breaks {
            true => break_off(caller).await,
            false if heard => read_on(caller).await,
            false => {}
        }
    };
    let others_end = async {
        if other_breaks {
            break_off(other).await;
        }
    };
    tokio::join!(callers_end, others_end);
    // What reads may have refused what came.
    let broke = |e: io::Error| match e.downcast::<Error>() {
        Ok(refused) => refused,
        Err(e) => Error::new(Reason::Reset, "the connection broke off").because(e),
    };
    let failed = cut.or_else(|| there.failed.or(back.failed).map(broke));
    failed.map_or(Ok(()), Err)
}

/// Joins two connections that have both left HTTP (RFC 9110 section 7.8) until both have ended or
/// `cut` says that they must.
pub(crate) async fn splice(
    switched: Switched,
    cut: impl Future<Output = Error>,
    flow: &mut Flow,
) -> Result<(), Error> {
    let mut cut = pin!(cut);
    let ((mut caller, heard), (mut upstream, said)) = tokio::select! {
        biased;
        error = &mut cut => return Err(error),
        both = async {
            tokio::try_join!(switched.caller.open(), Left::of(switched.upstream))
        } => both?,
    };
    copy((&mut caller, &heard), (&mut upstream, &said), cut, flow).await
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
            reset: false,
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
                Err(Failed::Read(e)) => {
                    self.broken = true;
                    self.phase = Phase::Over;
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
            if self.reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            self.phase = Phase::Ending;
        }
        Poll::Ready(Ok(self.to))
    }

    /// Whether the side that is written to has reset its connection, and not ended before.
    fn is_reset(&self) -> bool {
        let kind = self.failed.as_ref().map(io::Error::kind);
        self.phase == Phase::Over && !self.broken && kind == Some(io::ErrorKind::ConnectionReset)
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
