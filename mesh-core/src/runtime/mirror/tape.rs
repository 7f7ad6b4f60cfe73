//! The body of a request, kept for its copies as it is read.
//!
//! The request reads its own body as before: what is kept is copied, so that no connection waits for
//! it. A body that is longer than [`KEPT`], or for which there is no room, is kept no further.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::body::{Body, BoxError};

/// The longest body that is kept, in bytes.
pub(super) const KEPT: usize = 64 * 1024;

/// What there is for the copies of a request.
pub(super) enum Tape {
    /// Nothing.
    Lost(Lost),
    /// The body, once the request has read it.
    Running(oneshot::Receiver<Result<KeptBody, Lost>>),
    /// The body.
    Whole(KeptBody),
}

/// Why a body is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// It broke off, or the request ended before it was read.
    Broken,
    /// It is longer than what is kept.
    Long,
    /// There was no room for it.
    Room,
}

/// A body that can be sent several times.
pub(super) enum KeptBody {
    /// It was there whole.
    Same(Body),
    /// It was read.
    Read {
        data: Bytes,
        trailers: Option<HeaderMap>,
        /// As long as a copy of it is somewhere.
        room: Option<Arc<OwnedSemaphorePermit>>,
    },
}

/// The body of a request, which is kept as it is read.
struct Taped {
    inner: Body,
    /// `None` once it has ended, or is kept no further.
    recording: Option<Recording>,
}

struct Recording {
    data: BytesMut,
    trailers: Option<HeaderMap>,
    room: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    done: oneshot::Sender<Result<KeptBody, Lost>>,
}

/// Data that has room as long as it is somewhere.
struct Held {
    data: Bytes,
    _room: Arc<OwnedSemaphorePermit>,
}

/// Keeps a body. One that is not there whole is kept from its place on.
pub(super) fn tape(body: &mut Body, room: &Arc<Semaphore>) -> Tape {
    let exact = body.size_hint().exact();
    if exact.is_some_and(|bytes| bytes > KEPT as u64) {
        return Tape::Lost(Lost::Long);
    }
    if let Some(same) = body.copy() {
        return Tape::Whole(KeptBody::Same(same));
    }
    let (done, kept) = oneshot::channel();
    let inner = std::mem::take(body);
    *body = Body::new(Taped {
        inner,
        recording: Some(Recording {
            data: BytesMut::new(),
            trailers: None,
            room: Arc::clone(room),
            held: None,
            done,
        }),
    });
    Tape::Running(kept)
}

// === impl KeptBody ===

impl KeptBody {
    /// The body once more.
    pub(super) fn body(&self) -> Body {
        let (data, trailers, room) = match self {
            Self::Same(body) => return body.copy().unwrap_or_default(),
            Self::Read {
                data,
                trailers,
                room,
            } => (data.clone(), trailers.clone(), room),
        };
        let data = match room {
            None => data,
            Some(room) => Bytes::from_owner(Held {
                data,
                _room: Arc::clone(room),
            }),
        };
        match trailers {
            None => Body::from(data),
            Some(trailers) => {
                let trailers = async move { Some(Ok(trailers)) };
                Body::new(Full::new(data).with_trailers(trailers))
            }
        }
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

// === impl Taped ===

impl Taped {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(recording) = &mut self.recording else {
            return;
        };
        if let Some(data) = frame.data_ref()
            && let Err(lost) = recording.keep(data)
        {
            return self.end(Err(lost));
        }
        if let Some(trailers) = frame.trailers_ref() {
            recording.trailers = Some(trailers.clone());
        }
    }

    fn end(&mut self, end: Result<(), Lost>) {
        let Some(recording) = self.recording.take() else {
            return;
        };
        let kept = end.map(|()| KeptBody::Read {
            data: recording.data.freeze(),
            trailers: recording.trailers,
            room: recording.held.map(Arc::new),
        });
        // Its reader is gone where the process ends.
        let _gone = recording.done.send(kept);
    }

    /// Whether nothing of it is left to read. A connection reads no further than it was promised.
    fn is_read(&self) -> bool {
        self.inner.is_end_stream() || self.inner.size_hint().exact() == Some(0)
    }
}

impl Recording {
    fn keep(&mut self, data: &Bytes) -> Result<(), Lost> {
        if self.data.len() + data.len() > KEPT {
            return Err(Lost::Long);
        }
        let bytes = u32::try_from(data.len()).map_err(|_| Lost::Long)?;
        let taken = Arc::clone(&self.room).try_acquire_many_owned(bytes);
        let taken = taken.map_err(|_| Lost::Room)?;
        match &mut self.held {
            Some(held) => held.merge(taken),
            None => self.held = Some(taken),
        }
        self.data.extend_from_slice(data);
        Ok(())
    }
}

impl http_body::Body for Taped {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let polled = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                this.keep(frame);
                if this.inner.is_end_stream() {
                    this.end(Ok(()));
                }
            }
            Some(Err(_)) => this.end(Err(Lost::Broken)),
            None => this.end(Ok(())),
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Taped {
    fn drop(&mut self) {
        let read = self.is_read();
        self.end(if read { Ok(()) } else { Err(Lost::Broken) });
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http_body_util::StreamBody;
    use tokio::sync::mpsc;

    use super::*;

    type Part = Result<Frame<Bytes>, std::io::Error>;

    fn data(bytes: impl Into<Bytes>) -> Part {
        Ok(Frame::data(bytes.into()))
    }

    /// A body that is what is sent, and its tape.
    fn taped(room: &Arc<Semaphore>) -> (mpsc::UnboundedSender<Part>, Body, Tape) {
        let (send, mut parts) = mpsc::unbounded_channel::<Part>();
        let stream = futures_util::stream::poll_fn(move |cx| parts.poll_recv(cx));
        let mut body = Body::new(StreamBody::new(stream));
        let tape = tape(&mut body, room);
        (send, body, tape)
    }

    async fn kept(tape: Tape) -> Result<(Bytes, Option<HeaderMap>), Lost> {
        let kept = match tape {
            Tape::Lost(lost) => return Err(lost),
            Tape::Whole(kept) => kept,
            Tape::Running(kept) => kept.await.expect("it is sent")?,
        };
        let all = kept.body().collect().await.expect("a body");
        let trailers = all.trailers().cloned();
        Ok((all.to_bytes(), trailers))
    }

    fn room(bytes: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(bytes))
    }

    #[tokio::test]
    async fn a_body_is_kept_as_it_is_read() {
        let room = room(KEPT);
        let (send, body, tape) = taped(&room);
        let mut trailers = HeaderMap::new();
        trailers.insert("sum", HeaderValue::from_static("6"));
        for part in [
            data("one"),
            data("two"),
            Ok(Frame::trailers(trailers.clone())),
        ] {
            send.send(part).expect("it is read");
        }
        drop(send);
        let read = body.collect().await.expect("a body");
        assert_eq!(read.to_bytes(), "onetwo");
        assert_eq!(room.available_permits(), KEPT - 6);
        let found = kept(tape).await;
        assert_eq!(found, Ok(("onetwo".into(), Some(trailers))));
        drop(found);
        assert_eq!(
            room.available_permits(),
            KEPT,
            "given back with its last copy"
        );
    }

    #[tokio::test]
    async fn what_is_not_kept_is_read_all_the_same() {
        let long = vec![0; KEPT];
        for (room_for, parts, lost) in [
            (2 * KEPT, vec![data(long.clone()), data("x")], Lost::Long),
            (5, vec![data("hello"), data(" you")], Lost::Room),
        ] {
            let room = room(room_for);
            let (send, body, tape) = taped(&room);
            let bytes: usize = parts
                .iter()
                .flatten()
                .filter_map(Frame::data_ref)
                .map(Bytes::len)
                .sum();
            for part in parts {
                send.send(part).expect("it is read");
            }
            drop(send);
            let read = body.collect().await.expect("a body");
            assert_eq!(read.to_bytes().len(), bytes);
            assert_eq!(kept(tape).await, Err(lost));
            assert_eq!(room.available_permits(), room_for);
        }
        // Its length says so before.
        let mut body = Body::from(vec![0; KEPT + 1]);
        assert_eq!(kept(tape(&mut body, &room(KEPT))).await, Err(Lost::Long));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_lost() {
        let room = room(KEPT);
        let (send, mut body, tape) = taped(&room);
        send.send(data("one")).expect("it is read");
        assert!(body.frame().await.is_some());
        send.send(Err(std::io::Error::other("gone")))
            .expect("it is read");
        assert!(body.frame().await.is_some_and(|part| part.is_err()));
        assert_eq!(kept(tape).await, Err(Lost::Broken));
        let (send, mut body, tape) = taped(&room);
        send.send(data("one")).expect("it is read");
        assert!(body.frame().await.is_some());
        drop(body);
        assert_eq!(
            kept(tape).await,
            Err(Lost::Broken),
            "dropped before its end"
        );
    }

    /// As HTTP/1.1 reads one whose length it has stated.
    #[tokio::test]
    async fn a_body_that_is_read_as_far_as_was_promised_is_whole() {
        let mut body = Body::new(Full::new(Bytes::from("hello")));
        let tape = tape(&mut body, &room(KEPT));
        assert_eq!(body.size_hint().exact(), Some(5));
        assert!(body.frame().await.is_some());
        drop(body);
        assert_eq!(kept(tape).await, Ok(("hello".into(), None)));
        // One that is there whole needs no room, and stays so.
        for text in ["", "hello"] {
            let mut body = Body::from(text);
            let found = kept(super::tape(&mut body, &room(0))).await;
            assert_eq!(found, Ok((text.into(), None)));
            assert!(body.is_in_memory());
        }
    }
}
