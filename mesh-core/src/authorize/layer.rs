//! Authorization as a tower layer: a request in, the service's answer or a denial out.
//!
//! The peer is read from the request's extensions, where `Mesh::serve` puts it; a request without
//! one is from an unauthenticated client. The path is brought into its canonical form first, which
//! is what is forwarded; all its readings are decided on. Readiness is forwarded, and the instance that was made
//! ready is called.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::ask::Authorizers;
use super::canonical::{canonicalize, seen_probes};
use super::decide::{Ask, Permit, Verdict};
use super::view::{HttpView, RequestView};
use crate::body::{Body, BoxError};
use crate::error::{Error, is_grpc};
use crate::identify::{Peer, PeerInfo};
use crate::local::Local;
use crate::snapshot::SnapshotReader;

/// Puts [`Authorize`] in front of a service.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use http::{Request, Response, StatusCode};
/// use inmesh_core::Body;
/// use inmesh_core::authorize::{AuthorizeLayer, DefaultAction};
/// use inmesh_core::model::Workload;
/// use inmesh_core::snapshot::{Settings, Snapshot, snapshot};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// let settings = Settings::new(Workload::new("shop", "cart", "cart")?, DefaultAction::Deny);
/// let (_writer, reader) = snapshot(Snapshot::new(settings));
/// let app = service_fn(async |_: Request<Body>| Ok::<_, std::io::Error>(Response::new(Body::empty())));
/// let app = ServiceBuilder::new().layer(AuthorizeLayer::new(reader)).service(app);
/// let answer = app.oneshot(Request::new(Body::empty())).await?;
/// assert_eq!(answer.status(), StatusCode::FORBIDDEN);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct AuthorizeLayer {
    reader: SnapshotReader,
    local: Arc<Local>,
    probes: Arc<[Arc<str>]>,
    authorizers: Authorizers,
}

/// Asks the policy of the local workload before each request.
#[derive(Debug, Clone)]
pub struct Authorize<S> {
    inner: S,
    layer: AuthorizeLayer,
}

pin_project! {
    /// The answer of the service, or a denial.
    pub struct AuthorizeFuture<F, E> {
        #[pin]
        kind: FutureKind<F, E>,
    }
}

pin_project! {
    #[project = FutureProjection]
    enum FutureKind<F, E> {
        Asking { future: Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>> },
        Denied { response: Option<Response<Body>> },
        Permitted { #[pin] future: F },
    }
}

// === impl AuthorizeLayer ===

impl AuthorizeLayer {
    /// Authorizes by the policy of the snapshot's first workload.
    pub fn new(reader: SnapshotReader) -> Self {
        let local = Arc::clone(&reader.peek().settings().local);
        Self::of(reader, local)
    }

    /// Authorizes by the policy of a local workload.
    pub(crate) fn of(reader: SnapshotReader, local: Arc<Local>) -> Self {
        Self {
            reader,
            local,
            probes: Arc::new([]),
            authorizers: Authorizers::default(),
        }
    }

    /// Permits a GET of exactly these paths to every client that sends no body and wishes for no other
    /// protocol: health probes. They are brought into the form in which requests come; a path that
    /// no request can have is left out, and a line says so.
    #[must_use]
    pub fn probes<'a>(mut self, paths: impl IntoIterator<Item = &'a str>) -> Self {
        self.probes = seen_probes(self.reader.peek().settings().paths, paths);
        self
    }

    /// Asks these authorizers where a policy leaves a request to one.
    #[must_use]
    pub fn with_authorizers(mut self, authorizers: Authorizers) -> Self {
        self.authorizers = authorizers;
        self
    }

    /// Decides on a request.
    fn decide<B: http_body::Body>(&self, peer: &Peer, request: &Request<B>) -> Verdict {
        if let Some(permit) = Permit::probe_of(&self.probes, request) {
            return Verdict::Permitted(permit);
        }
        let view = RequestView::Http(HttpView::of(request));
        self.reader.peek().authorize(&self.local, peer, &view)
    }
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize {
            inner,
            layer: self.clone(),
        }
    }
}

// === impl Authorize ===

impl<S, B, R> Service<Request<B>> for Authorize<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body + Send + 'static,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = AuthorizeFuture<S::Future, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let info = request.extensions().get::<Arc<PeerInfo>>().cloned();
        let peer = info.map_or(Peer::Unauthenticated, |info| info.peer.clone());
        let grpc = is_grpc(request.headers());
        let form = self.layer.reader.peek().settings().paths;
        let verdict = match canonicalize(form, &mut request) {
            Ok(_) => match self.layer.decide(&peer, &request) {
                Verdict::Ask(ask) => Err(Unpermitted::Ask(ask)),
                verdict => verdict.permit().map_err(|d| Unpermitted::Error(d.into())),
            },
            Err(error) => Err(Unpermitted::Error(error)),
        };
        let kind = match verdict {
            Ok(_permit) => FutureKind::Permitted {
                future: self.inner.call(request),
            },
            Err(Unpermitted::Error(error)) => FutureKind::Denied {
                response: Some(error.response(grpc)),
            },
            Err(Unpermitted::Ask(ask)) => {
                // The instance that was made ready waits for the answer, another takes its place.
                let next = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, next);
                let authorizers = self.layer.authorizers.clone();
                FutureKind::Asking {
                    future: Box::pin(ask_first(authorizers, ask, peer, request, ready)),
                }
            }
        };
        AuthorizeFuture { kind }
    }
}

/// Why a request is not passed on at once.
enum Unpermitted {
    Ask(Ask),
    Error(Error),
}

/// Calls the service once the authorizers have permitted the request.
async fn ask_first<S, B, R>(
    authorizers: Authorizers,
    ask: Ask,
    peer: Peer,
    request: Request<B>,
    mut ready: S,
) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let (head, body) = request.into_parts();
    let (path, query) = (head.uri.path(), head.uri.query());
    let http = HttpView::new(&head.method, path, query, &head.headers);
    let settled = authorizers
        .settle(Verdict::Ask(ask), &peer, RequestView::Http(http))
        .await;
    match settled {
        Ok(_permit) => {
            let answer = ready.call(Request::from_parts(head, body)).await?;
            Ok(answer.map(Body::new))
        }
        Err(denied) => Ok(Error::from(denied).response(is_grpc(&head.headers))),
    }
}

// === impl AuthorizeFuture ===

impl<F, R, E> Future for AuthorizeFuture<F, E>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            FutureProjection::Asking { future } => future.as_mut().poll(cx),
            FutureProjection::Denied { response } => {
                Poll::Ready(Ok(response.take().unwrap_or_default()))
            }
            FutureProjection::Permitted { future } => {
                let answer = ready!(future.poll(cx))?;
                Poll::Ready(Ok(answer.map(Body::new)))
            }
        }
    }
}

impl<F, E> fmt::Debug for AuthorizeFuture<F, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthorizeFuture")
    }
}
