//! The outbound stack as tower services: what the agent and an embedding application share.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use tower_service::Service;

use super::outbound::{Outbound, To};
use crate::body::{Body, BoxError};
use crate::error::{Error, Reason};

/// A future of an answer. There always is one: what goes wrong is a status with a reason.
pub type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Sends requests into the mesh, each to the Service that its authority names.
///
/// Always ready: the bounds of the balancer and of the pools apply to each request. As a service it
/// the mesh answers in place of an endpoint, with the header `x-mesh-reason`.
#[derive(Clone)]
pub struct Client(pub(super) Arc<Outbound>);

/// A [`Client`] for one authority, in the shape that tonic's generated clients want.
#[derive(Clone)]
pub struct Channel {
    client: Client,
    authority: Authority,
}

// === impl Client ===

impl Client {
    pub(super) fn new(outbound: &Arc<Outbound>) -> Self {
        Self(Arc::clone(outbound))
    }

    /// The same client with every request going to one authority.
    ///
    /// # Errors
    ///
    /// [`Reason::InvalidRequest`] if `authority` is not a valid URI authority.
    pub fn channel(&self, authority: &str) -> Result<Channel, Error> {
        let parsed = authority.parse();
        let authority = parsed.map_err(|e: http::uri::InvalidUri| {
            let detail = format!("{authority:?} is not a valid authority");
            Error::new(Reason::InvalidRequest, detail).because(e)
        })?;
        Ok(Channel {
            client: self.clone(),
            authority,
        })
    }

    /// Sends one request and waits for the head of the answer.
    pub async fn send<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut request = request.map(Body::new);
        self.0.handle(&mut request, &To::Authority, None).await
    }

    /// Sends one request and waits for the head of the answer of an endpoint or route.
    ///
    /// # Errors
    ///
    /// [`Error`] with its reason where the mesh would have answered in place of an endpoint.
    pub async fn try_send<B>(&self, request: Request<B>) -> Result<Response<Body>, Error>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut request = request.map(Body::new);
        let answer = self.0.try_handle(&mut request, &To::Authority, None).await;
        answer.map_err(|(pending, error)| {
            pending.fail(&error);
            error
        })
    }
}

impl<B> Service<Request<B>> for Client
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answering {
        let outbound = Arc::clone(&self.0);
        let mut request = request.map(Body::new);
        Box::pin(async move { Ok(outbound.handle(&mut request, &To::Authority, None).await) })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

// === impl Channel ===

impl<B> Service<Request<B>> for Channel
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Answering {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        if parts.path_and_query.is_none() {
            parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        }
        // Scheme, authority and path together are always a URI.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        // gRPC is HTTP/2, whatever the generated code wrote.
        *request.version_mut() = http::Version::HTTP_2;
        self.client.call(request)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channel").field(&self.authority).finish()
    }
}
