//! The body of a message while it arrives on a stream.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::body::{Body, BoxError};
use crate::wake::{Noted, Task};

/// The size up to which a part that is not read yet is copied to the one before it. A part of its own
/// keeps the whole buffer alive that it was read into.
const SMALL: usize = 4 * 1024;
/// How much is copied together at most.
const TOGETHER: usize = 16 * 1024;

/// The body, for its reader.
pub(super) struct Inflow {
    arrival: Arc<Arrival>,
    noted: Noted,
    /// What the header promises that has not been read yet.
    left: Option<u64>,
}

/// What the reader shares with the connection's task.
struct Arrival {
    state: Mutex<State>,
    reader: Task,
    arrivals: Arc<Arrivals>,
    /// Whether it is in the list of those that have something to take in.
    listed: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The stream, as long as its window has to be opened for what is read.
    stream: Option<RecvStream>,
    /// Whether all has come that will.
    ended: bool,
    parts: VecDeque<Bytes>,
    /// The last part, while more is copied to it.
    last: BytesMut,
    trailers: Option<HeaderMap>,
    failed: Option<h2::Error>,
}

/// The streams of one connection on which something has come.
#[derive(Default)]
pub(super) struct Arrivals {
    list: Mutex<Vec<Arc<Arrival>>>,
    /// The connection's task.
    pub(super) task: Task,
    /// Set once there is no such task any more: readers then look for themselves.
    ended: AtomicBool,
    /// What is unread, and what has come in all.
    unread: AtomicUsize,
    came: AtomicUsize,
}

// === impl Arrivals ===

impl Arrivals {
    /// Takes in what has come since the last call.
    pub(super) fn take_in(&self) {
        let listed = std::mem::take(&mut *lock(&self.list));
        for arrival in listed {
            arrival.listed.store(false, Ordering::Release);
            let mut state = lock(&arrival.state);
            let news = arrival.take_in(&mut state);
            drop(state);
            if news {
                arrival.reader.wake();
            }
        }
    }

    /// There is no connection's task from now on.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// The bytes that no reader has taken yet.
    pub(super) fn unread(&self) -> usize {
        self.unread.load(Ordering::Relaxed)
    }

    /// All bytes that have come; wraps around.
    pub(super) fn came(&self) -> usize {
        self.came.load(Ordering::Relaxed)
    }

    /// The body of a message whose head has come. What is there already is whole most often, and
    /// then needs no more than itself.
    pub(super) fn body(self: &Arc<Self>, mut stream: RecvStream, length: Option<u64>) -> Body {
        if stream.is_end_stream() {
            return Body::empty();
        }
        let mut noop = Context::from_waker(Waker::noop());
        let first = stream.poll_data(&mut noop);
        if let Poll::Ready(Some(Ok(part))) = &first
            && stream.is_end_stream()
        {
            let _ended = stream.flow_control().release_capacity(part.len());
            return Body::from(part.clone());
        }
        let arrival = Arc::new(Arrival {
            state: Mutex::default(),
            reader: Task::default(),
            arrivals: Arc::clone(self),
            listed: AtomicBool::new(false),
        });
        {
            let mut state = lock(&arrival.state);
            state.stream = Some(stream);
            if let Poll::Ready(part) = first {
                arrival.take(&mut state, part);
            }
            arrival.take_in(&mut state);
        }
        Body::new(Inflow {
            arrival,
            noted: Noted::default(),
            left: length,
        })
    }
}

// === impl Arrival ===

impl Arrival {
    /// Takes all off the library that has come, and has it tell of more. Returns whether there is
    /// something new.
    fn take_in(self: &Arc<Self>, state: &mut State) -> bool {
        let waker = Waker::from(Arc::clone(self));
        let mut cx = Context::from_waker(&waker);
        let mut news = false;
        while !state.ended
            && let Some(stream) = &mut state.stream
            && let Poll::Ready(part) = stream.poll_data(&mut cx)
        {
            self.take(state, part);
            news = true;
        }
        news
    }

    fn take(&self, state: &mut State, part: Option<Result<Bytes, h2::Error>>) {
        match part {
            Some(Ok(part)) => {
                self.arrivals
                    .unread
                    .fetch_add(part.len(), Ordering::Relaxed);
                self.arrivals.came.fetch_add(part.len(), Ordering::Relaxed);
                state.push(part);
            }
            Some(Err(e)) => {
                state.failed = Some(e);
                state.ended = true;
            }
            None => {
                let mut noop = Context::from_waker(Waker::noop());
                state.ended = true;
                if let Some(stream) = &mut state.stream {
                    // They came with the end, or not at all.
                    match stream.poll_trailers(&mut noop) {
                        Poll::Ready(Ok(trailers)) => state.trailers = trailers,
                        Poll::Ready(Err(e)) => state.failed = Some(e),
                        Poll::Pending => {}
                    }
                }
            }
        }
    }
}

/// What the library does when something has come on the stream. It holds a lock of its own then, so
/// that nothing is asked of it here.
impl Wake for Arrival {
    fn wake(self: Arc<Self>) {
        if self.arrivals.ended.load(Ordering::Acquire) {
            return self.reader.wake();
        }
        if !self.listed.swap(true, Ordering::AcqRel) {
            let arrivals = Arc::clone(&self.arrivals);
            lock(&arrivals.list).push(self);
            arrivals.task.wake();
        }
    }
}

// === impl State ===

impl State {
    fn push(&mut self, part: Bytes) {
        let waits = !self.parts.is_empty() || !self.last.is_empty();
        if waits && part.len() <= SMALL {
            if self.last.len() + part.len() > TOGETHER {
                self.parts.push_back(self.last.split().freeze());
            }
            self.last.extend_from_slice(&part);
            return;
        }
        if !self.last.is_empty() {
            self.parts.push_back(self.last.split().freeze());
        }
        self.parts.push_back(part);
    }

    fn pop(&mut self) -> Option<Bytes> {
        self.parts
            .pop_front()
            .or_else(|| (!self.last.is_empty()).then(|| self.last.split().freeze()))
    }

    fn is_ended(&self) -> bool {
        self.ended
            && self.parts.is_empty()
            && self.last.is_empty()
            && self.trailers.is_none()
            && self.failed.is_none()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Inflow ===

impl Drop for Inflow {
    fn drop(&mut self) {
        // The stream holds the waker that holds the stream.
        let mut state = lock(&self.arrival.state);
        let stream = state.stream.take();
        let unread: usize = state.parts.iter().map(Bytes::len).sum();
        let unread = unread + state.last.len();
        *state = State::default();
        drop(state);
        self.arrival
            .arrivals
            .unread
            .fetch_sub(unread, Ordering::Relaxed);
        if let Some(mut stream) = stream {
            let _ended = stream.flow_control().release_capacity(unread);
        }
    }
}

impl http_body::Body for Inflow {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        // Before it is looked at, so that what comes meanwhile wakes the reader.
        this.noted.note(cx, &this.arrival.reader);
        let mut state = lock(&this.arrival.state);
        let mut part = state.pop();
        if part.is_none() && !state.ended {
            this.arrival.take_in(&mut state);
            part = state.pop();
        }
        if let Some(part) = part {
            let length = part.len();
            let arrivals = &this.arrival.arrivals;
            arrivals.unread.fetch_sub(length, Ordering::Relaxed);
            if let Some(stream) = &mut state.stream {
                // It fails where the stream has ended, and there is no window then.
                let _ended = stream.flow_control().release_capacity(length);
            }
            this.left = this.left.map(|left| left.saturating_sub(length as u64));
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        if let Some(trailers) = state.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        if let Some(e) = state.failed.take() {
            return Poll::Ready(Some(Err(e.into())));
        }
        match state.ended {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.arrival.state).is_ended()
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
