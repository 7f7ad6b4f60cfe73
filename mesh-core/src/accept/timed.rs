//! A server's connection with deadlines: how long it may idle, and how long a header may take.
//!
//! hyper's own header timeout also runs while a kept-alive connection idles, and ends it without a
//! word. Here the two are apart: a header that does not arrive in time is answered with 408, an
//! idle connection is closed. The service tells through [`ConnState`] when it has a request. Of
//! HTTP/2 only the preface is timed here; its requests follow no order. What the HTTP library answers
//! by itself, where it could read no request, is replaced by an answer that says why.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::breaking::{Breaking, Wire};
use crate::budget::Budget;
use crate::error::{REASON, Reason};

const IDLE: u8 = 0;
const HEADER: u8 = 1;
const BUSY: u8 = 2;
const TIMED_OUT: u8 = 3;

/// Why no request could be read of what came.
const UNREAD: [(Reason, &str); 4] = [
    (
        Reason::InvalidRequest,
        "the request line or a field is malformed",
    ),
    (Reason::TargetTooLong, "the target is too long"),
    (Reason::HeaderTooLarge, "the header block is too large"),
    (Reason::HeaderTimeout, "the header did not arrive in time"),
];

/// The preface of HTTP/2 and the header of the SETTINGS frame that belongs to it.
const PREFACE: usize = 24 + 9;

/// How an answer of the HTTP library itself begins: it has read no request, and says so without a
/// word about why.
const REFUSAL: &[u8] = b"HTTP/1.1 4";

/// What a caller's connection is doing, shared between its socket and its service.
#[derive(Debug, Default)]
pub(crate) struct ConnState {
    phase: AtomicU8,
    /// The reason for which the library has answered by itself, as its place in [`UNREAD`] and one
    /// more; 0 if it has not.
    unread: AtomicU8,
    /// Whether the end of the connection is that of an answer.
    ends_an_answer: AtomicBool,
    /// Requests under way, and all that ever were.
    running: AtomicU32,
    served: AtomicU32,
}

/// The socket.
pub(crate) struct Timed<T> {
    inner: T,
    state: Arc<ConnState>,
    header: Duration,
    idle: Duration,
    /// How long what is written may wait for the caller to read.
    unread: Duration,
    /// Since when it waits.
    unread_since: Option<Instant>,
    unread_timer: Timer,
    /// How much of the preface of HTTP/2 is still to come; `None` for HTTP/1, where one request
    /// follows the other.
    preface: Option<usize>,
    /// Since when the present wait runs; `None` while the service is busy.
    waiting: Option<(u8, Instant)>,
    /// How many requests there had been when the wait began.
    served: u32,
    timer: Timer,
    /// Our answer to what is no request, and how much of it is written.
    refusal: Option<(String, usize)>,
    /// Whether all that was written has left, so that what is written next is no rest of it.
    flushed: bool,
    /// What bodies of all connections may hold.
    budget: Option<Arc<Budget>>,
}

/// A timer that is made at the first wait. It is put off only when it fires, so that what
/// seldom waits for long does not touch the timer wheel each time.
#[derive(Default)]
pub(super) struct Timer(Option<Pin<Box<Sleep>>>);

/// The answer to what is no request.
fn refusal(reason: Reason) -> String {
    let status = reason.status();
    let detail = UNREAD.iter().find(|(known, _)| *known == reason);
    let text = format!("{reason}: {}\n", detail.map_or("", |(_, detail)| detail));
    format!(
        "HTTP/1.1 {} {}\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n\
         {}: {reason}\r\ncontent-length: {}\r\n\r\n{text}",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        REASON.as_str(),
        text.len(),
    )
}

// === impl Timer ===

impl Timer {
    /// Ready once the deadline has come.
    pub(super) fn poll_at(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self
            .0
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}

// === impl ConnState ===

impl ConnState {
    /// The service has a request.
    pub(crate) fn busy(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.served.fetch_add(1, Ordering::Relaxed);
        self.phase.store(BUSY, Ordering::Relaxed);
    }

    /// The answer is whole, or the request is lost. A connection that has left HTTP never is.
    pub(crate) fn idle(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        self.phase.store(IDLE, Ordering::Relaxed);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == IDLE
    }

    /// Whether a header did not arrive in time.
    fn timed_out(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == TIMED_OUT
    }

    /// Why no request could be read of what came, if that is so.
    pub(crate) fn unread(&self) -> Option<Reason> {
        if self.timed_out() {
            return Some(Reason::HeaderTimeout);
        }
        let place = usize::from(self.unread.load(Ordering::Relaxed));
        Some(UNREAD.get(place.checked_sub(1)?)?.0)
    }

    /// Whether part of a request has come, and none is under way.
    fn reads_header(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == HEADER && self.running.load(Ordering::Relaxed) == 0
    }

    /// The answer that is given has no other end than that of the connection.
    pub(crate) fn end_an_answer(&self) {
        self.ends_an_answer.store(true, Ordering::Relaxed);
    }

    /// Whether that is so.
    pub(super) fn ends_an_answer(&self) -> bool {
        self.ends_an_answer.load(Ordering::Relaxed)
    }

    /// Waits until there was no request for at least `idle`, and for less than twice as long.
    pub(crate) async fn rested(&self, idle: Duration) {
        loop {
            let before = self.served.load(Ordering::Relaxed);
            sleep(idle).await;
            let quiet = self.served.load(Ordering::Relaxed) == before;
            if quiet && self.running.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    }
}

// === impl Timed ===

impl<T> Timed<T> {
    /// A connection that speaks HTTP/1.
    pub(crate) fn http1(
        inner: T,
        state: Arc<ConnState>,
        header: Duration,
        idle: Duration,
        unread: Duration,
    ) -> Self {
        Self {
            inner,
            state,
            header,
            idle,
            unread,
            unread_since: None,
            unread_timer: Timer::default(),
            preface: None,
            // The first header is due from the start.
            waiting: Some((HEADER, Instant::now())),
            served: 0,
            timer: Timer::default(),
            refusal: None,
            flushed: true,
            budget: None,
        }
    }

    /// The same connection, which writes nothing while bodies hold as much as they may before all that
    /// was written has left: TLS would hold it too.
    pub(crate) fn within(mut self, budget: &Arc<Budget>) -> Self {
        self.budget = Some(Arc::clone(budget));
        self
    }

    /// A connection that speaks HTTP/2, whose preface is due within `header`.
    pub(crate) fn http2(
        inner: T,
        state: Arc<ConnState>,
        header: Duration,
        unread: Duration,
    ) -> Self {
        Self {
            preface: Some(PREFACE),
            ..Self::http1(inner, state, header, Duration::MAX, unread)
        }
    }

    /// Forgets a wait that a request has ended. It may have been answered before the next
    /// read, so that the service is not seen busy.
    fn forget(&mut self) {
        let served = self.state.served.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.served, served) != served {
            self.waiting = None;
        }
    }

    /// The deadline of the present wait. Keeps the start of a wait that continues.
    fn deadline(&mut self) -> Option<Instant> {
        if self.preface == Some(0) {
            return None;
        }
        self.forget();
        let phase = self.state.phase.load(Ordering::Relaxed);
        if phase == BUSY {
            self.waiting = None;
            return None;
        }
        let started = match self.waiting {
            Some((HEADER, started)) => (HEADER, started),
            Some((same, started)) if same == phase => (same, started),
            _ => (phase, Instant::now()),
        };
        self.waiting = Some(started);
        let limit = if started.0 == HEADER {
            self.header
        } else {
            self.idle
        };
        started.1.checked_add(limit)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Timed<T> {
    /// Whether the present wait has lasted too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.deadline() {
            Some(deadline) => self.timer.poll_at(deadline, cx),
            None => Poll::Pending,
        }
    }

    /// Answers a late header with 408; of a late preface there is nothing to answer.
    fn poll_late_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.preface.is_none() {
            self.refusal
                .get_or_insert_with(|| (refusal(Reason::HeaderTimeout), 0));
            ready!(self.poll_refusal(cx))?;
        }
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Writes our answer to what is no request.
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some((answer, written)) = &mut self.refusal {
            while let Some(rest) = answer.as_bytes().get(*written..).filter(|r| !r.is_empty()) {
                let n = ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                *written += n;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the library begins an answer of its own, which has no reason and no record: it is
    /// replaced by ours.
    fn is_refusal(&mut self, bytes: &[u8]) -> bool {
        if self.refusal.is_some() {
            return true;
        }
        let own = self.preface.is_none()
            && self.flushed
            && bytes.starts_with(REFUSAL)
            && self.state.reads_header();
        self.flushed = false;
        let status = bytes.get(9..12).filter(|_| own);
        let place = status.and_then(|status| {
            let mut known = UNREAD.iter();
            known.position(|(reason, _)| reason.status().as_str().as_bytes() == status)
        });
        if let Some(place) = place {
            let number = u8::try_from(place + 1).unwrap_or_default();
            self.state.unread.store(number, Ordering::Relaxed);
            self.refusal = Some((refusal(UNREAD[place].0), 0));
        }
        place.is_some()
    }

    /// Ready once more may be written.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.budget {
            Some(budget) => budget.poll_room(Pin::new(&mut self.inner), cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Notes what became of a write: one that waits for too long fails, and its caller has gone.
    fn written<R>(
        &mut self,
        written: Poll<io::Result<R>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.unread_since = None;
            return written;
        }
        let since = *self.unread_since.get_or_insert_with(Instant::now);
        if let Some(deadline) = since.checked_add(self.unread) {
            ready!(self.unread_timer.poll_at(deadline, cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }

    /// Notes that bytes have come.
    fn heard(&mut self, bytes: usize) {
        if let Some(left) = &mut self.preface {
            *left = left.saturating_sub(bytes);
        } else if bytes > 0 && self.state.is_idle() {
            self.forget();
            self.state.phase.store(HEADER, Ordering::Relaxed);
            // Mostly the header is whole: its time begins when more of it must be waited for.
            if !matches!(self.waiting, Some((HEADER, _))) {
                self.waiting = None;
            }
        }
    }
}

impl<T: Breaking> Breaking for Timed<T> {
    fn wire(&mut self) -> Wire<'_> {
        self.inner.wire()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Timed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.state.timed_out() {
            return this.poll_late_answer(cx);
        }
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.inner).poll_read(cx, buf) {
            this.heard(buf.filled().len() - before);
            return Poll::Ready(read);
        }
        ready!(this.poll_late(cx));
        if this.state.is_idle() && !matches!(this.waiting, Some((HEADER, _))) {
            // An idle connection ends as if the peer had ended it.
            return Poll::Ready(Ok(()));
        }
        this.state.phase.store(TIMED_OUT, Ordering::Relaxed);
        this.poll_late_answer(cx)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Timed<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_refusal(buf) {
            ready!(self.poll_refusal(cx))?;
            return Poll::Ready(Ok(buf.len()));
        }
        let mut written = self.poll_room(cx).map_ok(|()| 0);
        if matches!(written, Poll::Ready(Ok(_))) {
            written = Pin::new(&mut self.inner).poll_write(cx, buf);
        }
        self.written(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        ready!(self.written(flushed, cx))?;
        self.flushed = true;
        Poll::Ready(Ok(()))
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
        if self.is_refusal(bufs.first().map_or(&[], |first| first)) {
            ready!(self.poll_refusal(cx))?;
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let mut written = self.poll_room(cx).map_ok(|()| 0);
        if matches!(written, Poll::Ready(Ok(_))) {
            written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        }
        self.written(written, cx)
    }
}
