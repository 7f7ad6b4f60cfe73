//! The one body type that requests and responses carry through the mesh.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A message body: empty, whole, arriving from a connection, or any other one boxed.
///
/// ```
/// use http_body::Body as _;
/// use inmesh_core::Body;
/// assert!(Body::empty().is_end_stream());
/// assert_eq!(Body::from("hello").size_hint().exact(), Some(5));
/// ```
#[derive(Default)]
pub struct Body(Kind);

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Whole(Bytes),
    #[cfg(feature = "runtime")]
    Incoming(hyper::body::Incoming),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
    #[cfg(feature = "runtime")]
    Counted(Box<(Body, std::sync::Arc<std::sync::atomic::AtomicU64>)>),
    #[cfg(feature = "runtime")]
    Recorded(Box<crate::telemetry::Recorded>),
}

// === impl Body ===

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self(Kind::Empty)
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
            Self(Kind::Boxed(body.map_err(Into::into).boxed_unsync()))
        })
    }

    #[cfg(feature = "runtime")]
    pub(crate) fn incoming(body: hyper::body::Incoming) -> Self {
        Self(Kind::Incoming(body))
    }

    /// A body whose length is not known beforehand, and a counter of its bytes; `None` where the
    /// length is known, and nothing need be counted.
    #[cfg(feature = "runtime")]
    pub(crate) fn count(&mut self) -> Option<std::sync::Arc<std::sync::atomic::AtomicU64>> {
        if http_body::Body::size_hint(self).exact().is_some() {
            return None;
        }
        let counter = std::sync::Arc::default();
        let body = std::mem::take(self);
        *self = Self(Kind::Counted(Box::new((
            body,
            std::sync::Arc::clone(&counter),
        ))));
        Some(counter)
    }

    #[cfg(feature = "runtime")]
    pub(crate) fn recorded(recorded: Box<crate::telemetry::Recorded>) -> Self {
        Self(Kind::Recorded(recorded))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            #[cfg(feature = "runtime")]
            Kind::Incoming(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
            Kind::Boxed(boxed) => Pin::new(boxed).poll_frame(cx),
            #[cfg(feature = "runtime")]
            Kind::Counted(counted) => {
                let (body, counter) = &mut **counted;
                let polled = std::task::ready!(Pin::new(body).poll_frame(cx));
                if let Some(Ok(data)) = polled.as_ref().map(|r| r.as_ref().map(Frame::data_ref)) {
                    let bytes = data.map_or(0, Bytes::len) as u64;
                    counter.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
                }
                Poll::Ready(polled)
            }
            #[cfg(feature = "runtime")]
            Kind::Recorded(recorded) => Pin::new(&mut **recorded).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Whole(_) => false,
            #[cfg(feature = "runtime")]
            Kind::Incoming(incoming) => incoming.is_end_stream(),
            Kind::Boxed(boxed) => boxed.is_end_stream(),
            #[cfg(feature = "runtime")]
            Kind::Counted(counted) => counted.0.is_end_stream(),
            #[cfg(feature = "runtime")]
            Kind::Recorded(recorded) => recorded.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            #[cfg(feature = "runtime")]
            Kind::Incoming(incoming) => incoming.size_hint(),
            Kind::Boxed(boxed) => boxed.size_hint(),
            #[cfg(feature = "runtime")]
            Kind::Counted(counted) => counted.0.size_hint(),
            #[cfg(feature = "runtime")]
            Kind::Recorded(recorded) => recorded.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Kind::Empty => "Body::Empty",
            Kind::Whole(_) => "Body::Whole",
            #[cfg(feature = "runtime")]
            Kind::Incoming(_) => "Body::Incoming",
            Kind::Boxed(_) => "Body::Boxed",
            #[cfg(feature = "runtime")]
            Kind::Counted(_) => "Body::Counted",
            #[cfg(feature = "runtime")]
            Kind::Recorded(_) => "Body::Recorded",
        })
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            Self::empty()
        } else {
            Self(Kind::Whole(bytes))
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
