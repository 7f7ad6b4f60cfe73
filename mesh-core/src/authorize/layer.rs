//! Authorization as a tower layer: a request in, the service's answer or a denial out.
//!
//! The peer is read from the request's extensions, where `Mesh::serve` puts it; a request without
//! one is from nobody. The path is brought into its canonical form first, and what is decided on
//! is what goes on. Readiness is forwarded, and the instance that was made ready is called.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{HttpView, Peer, Permit, RequestView, canonical_path, decide};
use crate::body::{Body, BoxError};
use crate::error::{Error, Reason, is_grpc};
use crate::identify::PeerInfo;
use crate::model::SnapshotReader;

/// Puts [`Authorize`] in front of a service.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use http::{Request, Response, StatusCode};
/// use inmesh_core::Body;
/// use inmesh_core::authorize::{AuthorizeLayer, DefaultAction};
/// use inmesh_core::model::{Settings, Snapshot, Workload, snapshot};
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
    probes: Arc<[Arc<str>]>,
}

/// Asks the policy of the local workload before each request.
#[derive(Debug, Clone)]
pub struct Authorize<S> {
    inner: S,
    layer: AuthorizeLayer,
}

pin_project! {
    /// The answer of the service, or a denial.
    pub struct AuthorizeFuture<F> {
        #[pin]
        kind: FutureKind<F>,
    }
}

pin_project! {
    #[project = FutureProjection]
    enum FutureKind<F> {
        Denied { response: Option<Response<Body>> },
        Permitted { #[pin] future: F },
    }
}

/// Decides on a request whose path is canonical already.
pub(crate) fn check<B>(
    reader: &SnapshotReader,
    probes: &[Arc<str>],
    peer: &Peer,
    request: &Request<B>,
) -> Result<Permit, Error> {
    let uri = request.uri();
    let http = HttpView::new(request.method(), uri.path(), uri.query(), request.headers());
    let view = RequestView::Http(http);
    if let Some(permit) = Permit::probe(probes, &view) {
        return Ok(permit);
    }
    decide(reader.peek().policy(), peer, &view, &mut ()).map_err(Error::from)
}

/// Rewrites the path of a request into its canonical form; says whether it had another.
pub(crate) fn canonicalize<B>(request: &mut Request<B>) -> Result<bool, Error> {
    let invalid = |what: String| Error::new(Reason::InvalidRequest, what);
    let path = request.uri().path();
    if path == "*" && request.method() != http::Method::OPTIONS {
        return Err(invalid("only OPTIONS asks for '*'".to_owned()));
    }
    let canonical = canonical_path(path).map_err(|e| invalid(e.to_string()))?;
    let changed = *canonical != *path;
    if changed {
        let mut parts = request.uri().clone().into_parts();
        let query = request.uri().query();
        let target = match query {
            Some(query) => format!("{canonical}?{query}"),
            None => canonical.into_owned(),
        };
        parts.path_and_query = Some(
            target
                .try_into()
                .map_err(|e: http::uri::InvalidUri| invalid(e.to_string()))?,
        );
        *request.uri_mut() = http::Uri::from_parts(parts).map_err(|e| invalid(e.to_string()))?;
    }
    Ok(changed)
}

// === impl AuthorizeLayer ===

impl AuthorizeLayer {
    /// Authorizes by the policy of the snapshot's workload.
    pub fn new(reader: SnapshotReader) -> Self {
        Self {
            reader,
            probes: Arc::new([]),
        }
    }

    /// Permits a GET of exactly these paths to everybody: health probes.
    #[must_use]
    pub fn probes<'a>(mut self, paths: impl IntoIterator<Item = &'a str>) -> Self {
        self.probes = paths.into_iter().map(Into::into).collect();
        self
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
    S: Service<Request<B>, Response = Response<R>>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = AuthorizeFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let peer = request.extensions().get::<Arc<PeerInfo>>().cloned();
        let nobody = Peer::Unauthenticated;
        let peer = peer.as_ref().map_or(&nobody, |info| &info.peer);
        let AuthorizeLayer { reader, probes } = &self.layer;
        let verdict =
            canonicalize(&mut request).and_then(|_| check(reader, probes, peer, &request));
        let kind = match verdict {
            Ok(_permit) => FutureKind::Permitted {
                future: self.inner.call(request),
            },
            Err(denied) => FutureKind::Denied {
                response: Some(denied.response(is_grpc(request.headers()))),
            },
        };
        AuthorizeFuture { kind }
    }
}

// === impl AuthorizeFuture ===

impl<F, R, E> Future for AuthorizeFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
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

impl<F> std::fmt::Debug for AuthorizeFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthorizeFuture")
    }
}
