//! The body of a message while it is sent on a stream.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::room::TooLarge;
use super::sniff::Limits;
use crate::body::{Body, BoxError, longer};
use crate::error::find;

/// Parts up to this size are sent together with those behind them that are there already: a frame
/// each is costly for the peer to keep.
const SMALL: usize = 1024;
/// How much is sent together at most.
const TOGETHER: usize = 16 * 1024;
/// What is kept of a body that may have to be sent again.
pub(super) const KEPT: usize = 64 * 1024;

/// A body on its way.
pub(super) struct Outflow {
    body: Body,
    stream: SendStream<Bytes>,
    limits: Limits,
    /// What waits for the peer's window, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
    /// What was met while looking whether more is there.
    next: Option<Part>,
    /// What has been sent, if it may have to be sent again.
    kept: Option<Vec<Bytes>>,
    kept_bytes: usize,
    kept_trailers: Option<HeaderMap>,
    /// Whether all of it is sent.
    done: bool,
    /// How long it may wait for the peer to read, and the end of that wait.
    unread: Duration,
    late: Option<Pin<Box<Sleep>>>,
}

type Part = Option<Result<Frame<Bytes>, BoxError>>;

/// A body of which some parts were taken already: they come again, then the rest.
struct Again {
    before: VecDeque<Frame<Bytes>>,
    rest: Body,
}

/// Why a body was not sent to its end.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The body itself failed; the stream was reset.
    Body(BoxError),
    /// The peer takes no more of it.
    Peer,
    /// The peer takes no trailers of that size; the stream was reset.
    TooLarge(TooLarge),
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(error) => write!(f, "its body failed: {error}"),
            Self::Peer => f.write_str("the peer takes no more of it"),
            Self::TooLarge(error) => write!(f, "its trailers: {error}"),
        }
    }
}

// === impl Outflow ===

impl Outflow {
    /// To a peer of those limits.
    pub(super) fn new(
        body: Body,
        stream: SendStream<Bytes>,
        limits: Limits,
        unread: Duration,
    ) -> Self {
        Self {
            body,
            stream,
            limits,
            waiting: None,
            next: None,
            kept: None,
            kept_bytes: 0,
            kept_trailers: None,
            done: false,
            unread,
            late: None,
        }
    }

    /// It may have to be sent again.
    pub(super) fn keep(mut self) -> Self {
        self.kept = Some(Vec::new());
        self
    }

    /// The body from its begin, if all that was sent of it is kept.
    pub(super) fn back(self) -> Option<Body> {
        let mut parts = self.kept?;
        let last = |(_, last): &(Bytes, bool)| *last;
        let whole = self.done || self.waiting.as_ref().is_some_and(last);
        parts.extend(self.waiting.map(|(part, _)| part));
        let rest = if whole { Body::empty() } else { self.body };
        let mut before: VecDeque<_> = parts.into_iter().map(Frame::data).collect();
        before.extend(self.kept_trailers.map(Frame::trailers));
        let rest = match self.next {
            None => rest,
            Some(None) => Body::empty(),
            Some(Some(Ok(part))) => {
                before.push_back(part);
                rest
            }
            // What has failed is not sent again.
            Some(Some(Err(_))) => return None,
        };
        if before.is_empty() {
            return Some(rest);
        }
        Some(Body::new(Again { before, rest }))
    }

    /// It will not have to be sent again.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }

    /// The next part; small ones that are there together.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Part> {
        let first = match self.next.take() {
            Some(met) => met,
            None => ready!(Pin::new(&mut self.body).poll_frame(cx)),
        };
        let part = match first {
            Some(Ok(frame)) if frame.data_ref().is_some_and(|part| part.len() <= SMALL) => frame,
            other => return Poll::Ready(other),
        };
        let mut together: Option<BytesMut> = None;
        let small = part.data_ref().cloned().unwrap_or_default();
        while !self.body.is_end_stream()
            && let Poll::Ready(more) = Pin::new(&mut self.body).poll_frame(cx)
        {
            let length = together.as_ref().map_or(small.len(), BytesMut::len);
            let fits = |part: &&Bytes| length + part.len() <= TOGETHER;
            let data = more
                .as_ref()
                .and_then(|frame| frame.as_ref().ok()?.data_ref());
            match data.filter(fits) {
                Some(data) => together
                    .get_or_insert_with(|| BytesMut::from(&small[..]))
                    .extend_from_slice(data),
                None => {
                    self.next = Some(more);
                    break;
                }
            }
        }
        let whole = together.map_or(small, BytesMut::freeze);
        Poll::Ready(Some(Ok(Frame::data(whole))))
    }

    /// Whether nothing follows what has been taken of the body.
    fn is_last(&self) -> bool {
        match &self.next {
            None => self.body.is_end_stream(),
            Some(None) => true,
            Some(Some(_)) => false,
        }
    }

    fn keep_part(&mut self, part: &Bytes) {
        if let Some(kept) = &mut self.kept {
            self.kept_bytes += part.len();
            if self.kept_bytes > KEPT {
                self.kept = None;
            } else {
                kept.push(part.clone());
            }
        }
    }

    /// Ready once the peer has not read for too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.unread == Duration::MAX {
            return Poll::Pending;
        }
        let limit = self.unread;
        let late = self.late.get_or_insert_with(|| Box::pin(sleep(limit)));
        late.as_mut().poll(cx)
    }

    /// Sends what waits, once there is room for some of it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Stopped>> {
        let Some((part, last)) = self.waiting.take() else {
            return Poll::Ready(Ok(false));
        };
        if !part.is_empty() {
            self.stream.reserve_capacity(1);
            while self.stream.capacity() == 0 {
                match self.stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(_) => {
                        self.waiting = Some((part, last));
                        return Poll::Ready(Err(Stopped::Peer));
                    }
                    Poll::Pending => {
                        self.waiting = Some((part, last));
                        ready!(self.poll_late(cx));
                        self.stream.send_reset(Reason::CANCEL);
                        return Poll::Ready(Err(Stopped::Peer));
                    }
                }
            }
        }
        self.late = None;
        self.keep_part(&part);
        let sent = self.stream.send_data(part, last);
        Poll::Ready(sent.map(|()| last).map_err(|_| Stopped::Peer))
    }
}

impl Future for Outflow {
    type Output = Result<(), Stopped>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            // Noted before all else, so that a reset wakes whatever is waited for.
            if this.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Stopped::Peer));
            }
            if ready!(this.poll_send(cx))? {
                this.done = true;
                return Poll::Ready(Ok(()));
            }
            match ready!(this.poll_part(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(part) => {
                        let last = this.is_last();
                        this.waiting = Some((part, last));
                    }
                    Err(frame) => {
                        let Ok(trailers) = frame.into_trailers() else {
                            continue;
                        };
                        let room = this.limits.room();
                        if let Some(Err(e)) = room.map(|room| room.check_trailers(&trailers)) {
                            this.stream.send_reset(Reason::CANCEL);
                            return Poll::Ready(Err(Stopped::TooLarge(e)));
                        }
                        this.done = true;
                        this.kept_trailers = this.kept.is_some().then(|| trailers.clone());
                        this.stream.reserve_capacity(0);
                        let sent = this.stream.send_trailers(trailers);
                        return Poll::Ready(sent.map_err(|_| Stopped::Peer));
                    }
                },
                Some(Err(e)) => {
                    this.stream.send_reset(reset_of(&e));
                    return Poll::Ready(Err(Stopped::Body(e)));
                }
                None => {
                    this.done = true;
                    let sent = this.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(sent.map_err(|_| Stopped::Peer));
                }
            }
        }
    }
}

/// The code with which a stream is reset whose body failed: that of the other side where it was reset
/// there, so that its meaning passes (RFC 9113 section 7).
fn reset_of(error: &BoxError) -> Reason {
    match find::<h2::Error>(error.as_ref()) {
        // What that connection did wrong, this one did not; and half a message is no whole one,
        // whatever the other side says.
        Some(e) if !e.is_go_away() && e.reason() != Some(Reason::NO_ERROR) => {
            e.reason().unwrap_or(Reason::INTERNAL_ERROR)
        }
        _ => Reason::INTERNAL_ERROR,
    }
}

// === impl Again ===

impl http_body::Body for Again {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Part> {
        match self.before.pop_front() {
            Some(part) => Poll::Ready(Some(Ok(part))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.before.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let part = |frame: &Frame<Bytes>| frame.data_ref().map_or(0, Bytes::len) as u64;
        let before: u64 = self.before.iter().map(part).sum();
        longer(&self.rest.size_hint(), before)
    }
}
