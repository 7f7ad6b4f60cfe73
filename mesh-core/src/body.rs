//! The one body type that requests and responses carry through the mesh.

use std::fmt;
#[cfg(feature = "runtime")]
use std::hint::cold_path;
use std::pin::Pin;
#[cfg(feature = "runtime")]
use std::sync::Arc;
#[cfg(feature = "runtime")]
use std::task::Waker;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
#[cfg(feature = "runtime")]
use http_body::Body as _;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;

#[cfg(feature = "runtime")]
use crate::budget::{Budget, Meter, SMALL};
#[cfg(feature = "runtime")]
use crate::fields;

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A message body: empty, whole, arriving from a connection, or any other one boxed.
///
/// With the feature `runtime` its trailers are without what only the mesh says (`x-mesh-reason`), a
/// proxy's claim about its peer (`x-forwarded-client-cert`), and what no message may end with (RFC 9110
/// section 6.5.1).
///
/// ```
/// use http_body::Body as _;
/// use inmesh_core::Body;
/// assert!(Body::empty().is_end_stream());
/// assert_eq!(Body::from("hello").size_hint().exact(), Some(5));
/// ```
#[derive(Default)]
pub struct Body {
    form: BodyForm,
}

/// It is small, since bodies are moved often.
#[derive(Default)]
enum BodyForm {
    #[default]
    Empty,
    Whole(Bytes),
    #[cfg(feature = "runtime")]
    Incoming(hyper::body::Incoming),
    Boxed(Pin<Box<AnyBody>>),
    #[cfg(feature = "runtime")]
    Metered(Box<Metered>),
}

/// A body that counts what is written of it to a connection.
#[cfg(feature = "runtime")]
struct Metered {
    inner: Body,
    meter: Meter,
}

/// A body of which a part was read.
#[cfg(feature = "runtime")]
struct Begun {
    first: Option<Result<Frame<Bytes>, hyper::Error>>,
    rest: Body,
}

/// A body of which nothing is sent, and that does not say so: the HTTP/1.1 library then writes the length
/// that the head of its 304 states, and drops the body.
#[cfg(feature = "runtime")]
struct HiddenEnd(Body);

pin_project! {
    /// A body that was made elsewhere, whose trailers may say what only the mesh says. A body of ours has
    /// others inside, which were looked at, and is spared the move of each frame.
    struct Outside<B> {
        #[pin]
        inner: B,
    }
}

/// Any body of ours or of a service.
type AnyBody = dyn http_body::Body<Data = Bytes, Error = BoxError> + Send;

/// The size of a body with so many bytes before it.
#[cfg(feature = "runtime")]
pub(crate) fn longer(hint: &SizeHint, by: u64) -> SizeHint {
    let mut longer = SizeHint::new();
    longer.set_lower(hint.lower().saturating_add(by));
    if let Some(upper) = hint.upper() {
        longer.set_upper(upper.saturating_add(by));
    }
    longer
}

// === impl Body ===

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::default()
    }

    fn of(form: BodyForm) -> Self {
        Self { form }
    }

    /// Any other body, boxed.
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        // A `Body` in a `Body` is unwrapped instead of boxed again.
        let mut body = Some(body);
        if let Some(same) = (&mut body as &mut dyn std::any::Any).downcast_mut::<Option<Self>>() {
            return same.take().unwrap_or_default();
        }
        body.map_or_else(Self::empty, |body| {
            Self::boxed(Box::new(Outside { inner: body }))
        })
    }

    #[cfg(feature = "runtime")]
    pub(crate) fn incoming(body: hyper::body::Incoming) -> Self {
        Self::of(BodyForm::Incoming(body))
    }

    /// A body of a connection. Of a small one the part that is there is read: mostly that is all of it, and
    /// it is in memory then.
    #[cfg(feature = "runtime")]
    pub(crate) fn begun(mut incoming: hyper::body::Incoming) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        let small = incoming.size_hint().exact();
        if small.is_none_or(|n| n >= SMALL as u64) {
            return Self::incoming(incoming);
        }
        // No task is woken: the next reader polls again.
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(&mut incoming).poll_frame(&mut cx) {
            Poll::Pending => Self::incoming(incoming),
            Poll::Ready(None) => Self::empty(),
            Poll::Ready(Some(Ok(frame))) if incoming.is_end_stream() && frame.is_data() => {
                frame.into_data().unwrap_or_default().into()
            }
            Poll::Ready(Some(first)) => {
                cold_path();
                let (first, rest) = (Some(first), Self::incoming(incoming));
                Self::boxed(Box::new(Begun { first, rest }))
            }
        }
    }

    /// From now on its parts count in the budget until what it is written to has let go of them. Of what
    /// is kept of it up to `kept` bytes are not waited for.
    #[cfg(feature = "runtime")]
    pub(crate) fn meter(&mut self, budget: &Arc<Budget>, kept: usize) {
        let small = || self.size_hint().exact().is_some_and(|n| n < SMALL as u64);
        if !self.is_in_memory() && !small() {
            let inner = std::mem::take(self);
            let meter = Meter::new(budget, kept);
            self.form = BodyForm::Metered(Box::new(Metered { inner, meter }));
        }
    }

    /// The body of an answer that has none (RFC 9110 section 15.4.5) and states a length all the same.
    #[cfg(feature = "runtime")]
    pub(crate) fn hide_end(&mut self) {
        let inner = std::mem::take(self);
        *self = Self::boxed(Box::new(HiddenEnd(inner)));
    }

    /// Whether it is there whole.
    #[cfg(feature = "runtime")]
    pub(crate) fn is_in_memory(&self) -> bool {
        matches!(self.form, BodyForm::Empty | BodyForm::Whole(_))
    }

    /// The same body once more, if it is there whole.
    #[cfg(feature = "runtime")]
    pub(crate) fn copy(&self) -> Option<Self> {
        match &self.form {
            BodyForm::Empty => Some(Self::empty()),
            BodyForm::Whole(bytes) => Some(Self::of(BodyForm::Whole(bytes.clone()))),
            _ => self.is_end_stream().then(Self::empty),
        }
    }

    /// A body that is in a box already.
    pub(crate) fn boxed(body: Box<AnyBody>) -> Self {
        Self::of(BodyForm::Boxed(Box::into_pin(body)))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.form {
            BodyForm::Empty => Poll::Ready(None),
            BodyForm::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.form = BodyForm::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            #[cfg(feature = "runtime")]
            BodyForm::Incoming(incoming) => {
                let polled = ready!(Pin::new(incoming).poll_frame(cx));
                Poll::Ready(match polled {
                    Some(Ok(mut frame)) => {
                        if let Some(trailers) = frame.trailers_mut() {
                            fields::sanitize_trailers(trailers);
                        }
                        Some(Ok(frame))
                    }
                    Some(Err(e)) => Some(Err(e.into())),
                    None => None,
                })
            }
            BodyForm::Boxed(boxed) => http_body::Body::poll_frame(boxed.as_mut(), cx),
            #[cfg(feature = "runtime")]
            BodyForm::Metered(metered) => metered.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.form {
            BodyForm::Empty => true,
            BodyForm::Whole(_) => false,
            #[cfg(feature = "runtime")]
            BodyForm::Incoming(incoming) => incoming.is_end_stream(),
            BodyForm::Boxed(boxed) => boxed.is_end_stream(),
            #[cfg(feature = "runtime")]
            BodyForm::Metered(metered) => metered.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.form {
            BodyForm::Empty => SizeHint::with_exact(0),
            BodyForm::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            #[cfg(feature = "runtime")]
            BodyForm::Incoming(incoming) => incoming.size_hint(),
            BodyForm::Boxed(boxed) => boxed.size_hint(),
            #[cfg(feature = "runtime")]
            BodyForm::Metered(metered) => metered.inner.size_hint(),
        }
    }
}

// === impl Metered ===

#[cfg(feature = "runtime")]
impl Metered {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        ready!(self.meter.poll_ready(cx));
        // In place: a frame has room for trailers, which is much to move.
        let mut polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(part) = frame.data_mut()
        {
            self.meter.count(part);
        }
        polled
    }
}

// === impl Begun ===

#[cfg(feature = "runtime")]
impl http_body::Body for Begun {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first.map_err(Into::into))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let before = match &self.first {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len) as u64,
            _ => 0,
        };
        longer(&self.rest.size_hint(), before)
    }
}

// === impl Outside ===

impl<B> http_body::Body for Outside<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = ready!(self.project().inner.poll_frame(cx));
        Poll::Ready(match polled {
            #[cfg_attr(not(feature = "runtime"), expect(unused_mut))]
            Some(Ok(mut frame)) => {
                #[cfg(feature = "runtime")]
                if let Some(trailers) = frame.trailers_mut() {
                    fields::sanitize_trailers(trailers);
                }
                Some(Ok(frame))
            }
            Some(Err(e)) => Some(Err(e.into())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

// === impl HiddenEnd ===

#[cfg(feature = "runtime")]
impl http_body::Body for HiddenEnd {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }
}

// === impl Body ===

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.form {
            BodyForm::Empty => "Body::Empty",
            BodyForm::Whole(_) => "Body::Whole",
            #[cfg(feature = "runtime")]
            BodyForm::Incoming(_) => "Body::Incoming",
            BodyForm::Boxed(_) => "Body::Boxed",
            #[cfg(feature = "runtime")]
            BodyForm::Metered(_) => "Body::Metered",
        })
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            Self::empty()
        } else {
            Self::of(BodyForm::Whole(bytes))
        }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}
