//! What a server says before its answer: informational answers, of which 100 is what a caller with
//! `Expect: 100-continue` waits for (RFC 9110 sections 10.1.1 and 15.2).
//!
//! In come the informational answers of the next hop, out they go to the caller. The caller's body is
//! asked for once the next hop has said 100, so that a refusal costs no upload; a server that does
//! not know the field says nothing, and is sent the body after a moment.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::body::{Body, BoxError};
use crate::wake::{Noted, Task};

/// How long a server is waited for that was asked whether to go on; curl waits as long.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most informational answers that wait for a caller to be ready for them.
const WAITING: usize = 8;

const ASKED: u8 = 0;
const GO_ON: u8 = 1;
const ANSWERED: u8 = 2;

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

/// A caller's body that is not asked for yet.
struct Expected {
    inner: Body,
    early: Early,
    noted: Noted,
    timer: Option<Pin<Box<Sleep>>>,
}

/// Whether a caller waits for 100.
fn expects(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

// === impl Early ===

impl Early {
    fn new() -> Self {
        Self(Arc::new(Said {
            phase: AtomicU8::new(ASKED),
            heads: Mutex::default(),
            caller: Task::default(),
            body: Task::default(),
        }))
    }

    /// For a caller of HTTP/2, which can be sent any informational answer. None is made for gRPC,
    /// which knows none.
    pub(crate) fn of_http2(headers: &HeaderMap) -> Option<Self> {
        (!crate::error::is_grpc(headers)).then(Self::new)
    }

    /// Has the body of a caller of HTTP/1.1 wait until the server has said 100.
    pub(crate) fn expect(request: &mut Request<Body>) {
        if request.version() != Version::HTTP_11
            || !expects(request.headers())
            || request.body().is_end_stream()
        {
            return;
        }
        let early = Self::new();
        let inner = std::mem::take(request.body_mut());
        *request.body_mut() = Body::new(Expected {
            inner,
            early: early.clone(),
            noted: Noted::default(),
            timer: None,
        });
        request.extensions_mut().insert(early);
    }

    /// The next hop has said something before its answer.
    pub(crate) fn say(&self, status: StatusCode, headers: &HeaderMap) {
        if status == StatusCode::CONTINUE {
            let asked =
                self.0
                    .phase
                    .compare_exchange(ASKED, GO_ON, Ordering::AcqRel, Ordering::Acquire);
            if asked.is_ok() {
                self.0.body.wake();
            }
        }
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = headers.clone();
        let mut heads = self.0.heads.lock().unwrap_or_else(PoisonError::into_inner);
        if heads.len() < WAITING && status != StatusCode::SWITCHING_PROTOCOLS {
            heads.push_back(head);
        }
        drop(heads);
        self.0.caller.wake();
    }

    /// The answer is there. Returns whether the body was never asked for.
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
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        ready!(timer.as_mut().poll(cx));
        let phase = &self.early.0.phase;
        let _answered = phase.compare_exchange(ASKED, GO_ON, Ordering::AcqRel, Ordering::Acquire);
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
