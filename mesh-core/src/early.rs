//! What a server says before its answer: informational answers, of which 100 is what a caller with
//! `Expect: 100-continue` waits for (RFC 9110 sections 10.1.1 and 15.2).
//!
//! In come the informational answers of the next hop, out they go to the caller. The caller's body is
//! asked for once the next hop has said 100, so that a refusal costs no upload; a server that does
//! not know the field says nothing, and its caller is asked after a moment. A service in this process
//! asks as it reads.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::body::{Body, BoxError};

use crate::wake::{Noted, Task};
use crate::{fields, leave};

/// How long a server is waited for that was asked whether to go on; curl waits as long.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most informational answers that wait for a caller to be ready for them.
const WAITING: usize = 8;

/// The caller waits for nothing.
const FLOWS: u8 = 0;
/// The caller waits to be asked by whatever reads its body.
const WAITS: u8 = 1;
/// The caller waits, and so does this process, for the next hop.
const ASKED: u8 = 2;
const GO_ON: u8 = 3;
const ANSWERED: u8 = 4;

/// What one exchange knows of it.
#[derive(Debug, Clone)]
pub(crate) struct Early(Arc<Said>);

#[derive(Debug)]
struct Said {
    phase: AtomicU8,
    heads: Mutex<VecDeque<Response<()>>>,
    /// The task that answers the caller, and the one that reads its body.
    caller: Task,
    body: Task,
}

/// The body of a caller of HTTP/1.1, which the library asks for as soon as it reads.
struct Expected {
    inner: Body,
    early: Early,
    noted: Noted,
    timer: Patience,
}

/// The body of a caller of HTTP/2, which is sent 100 here. One that sends without waiting needs none.
struct Awaited {
    inner: Body,
    early: Early,
    timer: Patience,
}

/// How long the next hop is waited for, from the first poll.
#[derive(Default)]
struct Patience(Option<Pin<Box<Sleep>>>);

/// Whether a caller waits for 100 before it sends a body.
fn waits(request: &Request<Body>) -> bool {
    leave::waits(request, || request.body().is_end_stream())
}

// === impl Early ===

impl Early {
    fn new(phase: u8) -> Self {
        Self(Arc::new(Said {
            phase: AtomicU8::new(phase),
            heads: Mutex::default(),
            caller: Task::default(),
            body: Task::default(),
        }))
    }

    /// For a caller of HTTP/2, which can be sent any informational answer. None is made for gRPC,
    /// which knows none.
    pub(crate) fn of_http2(request: &mut Request<Body>) -> Option<Self> {
        if crate::error::is_grpc(request.headers()) {
            return None;
        }
        let early = if waits(request) {
            let early = Self::new(WAITS);
            let inner = std::mem::take(request.body_mut());
            *request.body_mut() = Body::new(Awaited {
                inner,
                early: early.clone(),
                timer: Patience::default(),
            });
            early
        } else {
            Self::new(FLOWS)
        };
        request.extensions_mut().insert(early.clone());
        Some(early)
    }

    /// Leaves it to the next hop to ask for the body of a caller that waits.
    pub(crate) fn expect(request: &mut Request<Body>) {
        if !waits(request) {
            return;
        }
        if request.version() != Version::HTTP_11 {
            if let Some(early) = request.extensions().get::<Self>() {
                early.turn(WAITS, ASKED);
            }
            return;
        }
        let early = Self::new(ASKED);
        let inner = std::mem::take(request.body_mut());
        *request.body_mut() = Body::new(Expected {
            inner,
            early: early.clone(),
            noted: Noted::default(),
            timer: Patience::default(),
        });
        request.extensions_mut().insert(early);
    }

    /// Returns whether the phase was `from`, and is `to` now.
    fn turn(&self, from: u8, to: u8) -> bool {
        let phase = &self.0.phase;
        let turned = phase.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        turned.is_ok()
    }

    /// The next hop has said something before its answer.
    pub(crate) fn say(&self, status: StatusCode, headers: &HeaderMap) {
        if status == StatusCode::CONTINUE {
            if self.turn(ASKED, GO_ON) || self.turn(WAITS, GO_ON) {
                self.0.body.wake();
            } else if self.0.phase.load(Ordering::Acquire) == GO_ON {
                // Once is enough.
                return;
            }
        }
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = headers.clone();
        // No part of the mesh says anything here by itself.
        fields::sanitize_answer(head.headers_mut());
        let mut heads = self.0.heads.lock().unwrap_or_else(PoisonError::into_inner);
        if heads.len() < WAITING && status != StatusCode::SWITCHING_PROTOCOLS {
            heads.push_back(head);
        }
        drop(heads);
        self.0.caller.wake();
    }

    /// Whether the caller waits to be asked for its body.
    pub(crate) fn waits(&self) -> bool {
        matches!(self.0.phase.load(Ordering::Acquire), WAITS | ASKED)
    }

    /// The answer is there. Returns whether the caller still waited to be asked for its body.
    pub(crate) fn answered(&self) -> bool {
        self.0.phase.swap(ANSWERED, Ordering::AcqRel) == ASKED
    }

    /// Hands on what was said since the last call, and notes the task that asks.
    pub(crate) fn poll_each(
        &self,
        noted: &mut Noted,
        cx: &Context<'_>,
        mut send: impl FnMut(Response<()>),
    ) {
        noted.note(cx, &self.0.caller);
        let mut heads = self.0.heads.lock().unwrap_or_else(PoisonError::into_inner);
        let said = std::mem::take(&mut *heads);
        drop(heads);
        said.into_iter().for_each(&mut send);
    }
}

// === impl Patience ===

impl Patience {
    /// Ready once it has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        timer.as_mut().poll(cx)
    }
}

// === impl Awaited ===

impl Awaited {
    /// Asks the caller for its body, unless the next hop has, or may still.
    fn poll_ask(&mut self, cx: &mut Context<'_>) {
        match self.early.0.phase.load(Ordering::Acquire) {
            WAITS => {}
            ASKED if self.timer.poll(cx).is_ready() => {}
            _ => return,
        }
        self.early.say(StatusCode::CONTINUE, &HeaderMap::new());
    }
}

impl http_body::Body for Awaited {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        if polled.is_pending() {
            this.poll_ask(cx);
        } else if !this.early.turn(WAITS, FLOWS) {
            this.early.turn(ASKED, FLOWS);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

// === impl Expected ===

impl Expected {
    /// Ready once the body may be asked for.
    fn poll_asked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.noted.note(cx, &self.early.0.body);
        match self.early.0.phase.load(Ordering::Acquire) {
            GO_ON => return Poll::Ready(()),
            ANSWERED => return Poll::Pending,
            _ => {}
        }
        ready!(self.timer.poll(cx));
        self.early.turn(ASKED, GO_ON);
        Poll::Ready(())
    }
}

impl http_body::Body for Expected {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        ready!(self.poll_asked(cx));
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
