//! An address in, a client for calls out: one connection over a Unix socket, without TLS, which the
//! standard forbids to require. Pings find out whether the process at its other end still runs.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use tonic::Request;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint as Target};

use super::super::{Endpoint, MAX_RESPONSE, SECURITY_HEADER};
use super::error::WorkloadApiError;
use crate::proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;

pub(super) type ApiClient = SpiffeWorkloadApiClient<Channel>;

/// How long the agent may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an open stream may be quiet before a ping asks whether the agent lives. Servers that are
/// written with grpc-go, as SPIRE's agent is, end connections that ping more often than every five
/// minutes.
const PING: Duration = Duration::from_secs(6 * 60);

/// How long its answer may take.
const PONG: Duration = Duration::from_secs(20);

/// A connection to an agent.
pub(in crate::workload_api) trait Io:
    AsyncRead + AsyncWrite + Send + Unpin
{
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Dialing = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// Opens connections to an agent.
pub(in crate::workload_api) type Dial = Arc<dyn Fn() -> Dialing + Send + Sync>;

/// A message with the metadata of each call (S35).
pub(super) fn request<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    let yes = AsciiMetadataValue::from_static("true");
    request.metadata_mut().insert(SECURITY_HEADER, yes);
    request
}

/// Opens connections to the socket of `endpoint`.
pub(super) fn dial(endpoint: &Endpoint) -> Dial {
    let path = endpoint.path().to_owned();
    Arc::new(move || {
        let path = path.clone();
        Box::pin(async move { open(&path).await })
    })
}

/// Connects now, so that what is wrong is known by its own error.
pub(super) async fn connect(
    endpoint: &Endpoint,
    dial: &Dial,
) -> Result<ApiClient, WorkloadApiError> {
    let failed = |source| WorkloadApiError::Connect {
        endpoint: endpoint.clone(),
        source,
    };
    // Only the path says where it is; a URI is a form that HTTP/2 asks for.
    let target = Target::from_static("http://workload-api")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        // A connection of ours is never idle: it ends with its one call. By default, hyper looks
        // for an open call before it pings at all, and misses one whose first message came with
        // the head of the answer.
        .keep_alive_while_idle(true);
    let dial = Arc::clone(dial);
    let connector = tower::service_fn(move |_| {
        let dialing = dial();
        async move { Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(dialing.await?)) }
    });
    let channel = target
        .connect_with_connector(connector)
        .await
        .map_err(|error| failed(io_error(error)))?;
    Ok(ApiClient::new(channel).max_decoding_message_size(MAX_RESPONSE))
}

#[cfg(unix)]
async fn open(path: &std::path::Path) -> io::Result<Box<dyn Io>> {
    Ok(Box::new(tokio::net::UnixStream::connect(path).await?))
}

#[cfg(not(unix))]
async fn open(_: &std::path::Path) -> io::Result<Box<dyn Io>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The cause at the bottom, if it is the system's.
fn io_error(error: tonic::transport::Error) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(one) = cause {
        if let Some(io) = one.downcast_ref::<io::Error>() {
            return io::Error::new(io.kind(), io.to_string());
        }
        cause = one.source();
    }
    io::Error::other(error.to_string())
}
