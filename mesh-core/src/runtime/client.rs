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

use super::outbound::Outbound;
use crate::body::{Body, BoxError};

/// A future of an answer. There always is one: what goes wrong is a status with a reason.
pub type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Sends requests into the mesh, each to the Service that its authority names.
///
/// Always ready: the bounds of the balancer and of the pools apply to each request. It never
/// fails; the mesh answers in place of an endpoint, with the header `x-mesh-reason`.
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
    /// The same client with every request going to one authority.
    ///
    /// # Errors
    /// If `authority` is none.
    pub fn channel(&self, authority: &str) -> Result<Channel, http::uri::InvalidUri> {
        Ok(Channel {
            client: self.clone(),
            authority: authority.parse()?,
        })
    }

    /// Sends one request and waits for the head of the answer.
    pub async fn send<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut request = request.map(Body::new);
        self.0.handle(&mut request, None, None).await
    }
}

impl<B> Service<Request<B>> for Client
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answer {
        let outbound = self.0.clone();
        let mut request = request.map(Body::new);
        Box::pin(async move { Ok(outbound.handle(&mut request, None, None).await) })
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
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Answer {
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
