//! A server's connection with deadlines: how long it may idle, and how long a header may take.
//!
//! hyper's own header timeout also runs while a kept-alive connection idles, and ends it without a
//! word. Here the two are apart: a header that does not arrive in time is answered with 408, an
//! idle connection is closed. The service tells through [`ConnState`] when it has a request. Of
//! HTTP/2 only the preface is timed here; its requests follow no order.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

const IDLE: u8 = 0;
const HEADER: u8 = 1;
const BUSY: u8 = 2;
const TIMED_OUT: u8 = 3;

/// The preface of HTTP/2 and the header of the SETTINGS frame that belongs to it.
const PREFACE: usize = 24 + 9;

const ANSWER: &[u8] = b"HTTP/1.1 408 Request Timeout\r\n\
    connection: close\r\n\
    content-type: text/plain; charset=utf-8\r\n\
    x-mesh-reason: header-timeout\r\n\
    content-length: 51\r\n\r\n\
    header-timeout: the header did not arrive in time.\n";

/// What a caller's connection is doing, shared between its socket and its service.
#[derive(Debug, Default)]
pub(crate) struct ConnState {
    phase: AtomicU8,
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
    /// How much of the preface of HTTP/2 is still to come; `None` for HTTP/1, where one request
    /// follows the other.
    preface: Option<usize>,
    /// Since when the present wait runs; `None` while the service is busy.
    waiting: Option<(u8, Instant)>,
    /// How many requests there had been when the wait began.
    served: u32,
    timer: Timer,
    answered: usize,
}

/// A timer that is made at the first wait. It is put off only when it fires, so that what
/// seldom waits for long does not touch the timer wheel each time.
#[derive(Default)]
pub(super) struct Timer(Option<Pin<Box<Sleep>>>);

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
    pub(crate) fn timed_out(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == TIMED_OUT
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
    pub(crate) fn http1(inner: T, state: Arc<ConnState>, header: Duration, idle: Duration) -> Self {
        Self {
            inner,
            state,
            header,
            idle,
            preface: None,
            // The first header is due from the start.
            waiting: Some((HEADER, Instant::now())),
            served: 0,
            timer: Timer::default(),
            answered: 0,
        }
    }

    /// A connection that speaks HTTP/2, whose preface is due within `header`.
    pub(crate) fn http2(inner: T, state: Arc<ConnState>, header: Duration) -> Self {
        Self {
            preface: Some(PREFACE),
            ..Self::http1(inner, state, header, Duration::MAX)
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
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.preface.is_none() && self.answered < ANSWER.len() {
            let rest = &ANSWER[self.answered..];
            let n = ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
            if n == 0 {
                break;
            }
            self.answered += n;
        }
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
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

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Timed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.state.timed_out() {
            return this.poll_answer(cx);
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
        this.poll_answer(cx)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Timed<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
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
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
}
