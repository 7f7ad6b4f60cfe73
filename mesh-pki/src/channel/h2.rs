//! A connection in, a client of HTTP/2 over it out, in the shape that generated gRPC clients take.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tower_service::Service;

/// HTTP/2 over one connection, for requests with bodies of `B`; the task that drives it ends with it.
///
/// It is ready until the connection has ended; what is called then fails.
pub struct Channel<B> {
    sender: http2::SendRequest<B>,
    driver: JoinHandle<()>,
}

/// What is read of an answer.
#[derive(Debug)]
pub struct ChannelBody(Incoming);

/// A connection has failed, or a stream of it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ChannelError(#[from] hyper::Error);

/// The answer to a request on its way.
type Answering = Pin<Box<dyn Future<Output = Result<Response<ChannelBody>, ChannelError>> + Send>>;

// === impl Channel ===

impl<B> Channel<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub(super) async fn over(
        connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Self, ChannelError> {
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            // A stream whose first message comes together with its head counts as idle for hyper.
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(connection))
            .await?;
        let driver = tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a connection to a server of the mesh has ended");
            }
        });
        Ok(Self { sender, driver })
    }
}

impl<B> Service<Request<B>> for Channel<B>
where
    B: Body + Send + 'static,
{
    type Response = Response<ChannelBody>;
    type Error = ChannelError;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        self.sender.poll_ready(cx).map_err(ChannelError)
    }

    fn call(&mut self, request: Request<B>) -> Answering {
        let answer = self.sender.send_request(request);
        Box::pin(async move { Ok(answer.await?.map(ChannelBody)) })
    }
}

impl<B> Drop for Channel<B> {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl<B> fmt::Debug for Channel<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Channel")
    }
}

// === impl ChannelBody ===

impl Body for ChannelBody {
    type Data = Bytes;
    type Error = ChannelError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ChannelError>>> {
        let frame = Pin::new(&mut self.0).poll_frame(cx);
        frame.map_err(ChannelError)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
