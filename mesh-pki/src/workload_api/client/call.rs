//! An address in, a client for calls out: one connection over a Unix socket, without TLS, which the
//! standard forbids to require.

use std::io;
use std::time::Duration;

use tonic::Request;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint as Target};

use super::super::{Endpoint, MAX_RESPONSE, SECURITY_HEADER};
use super::WorkloadApiError;
use crate::proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;

pub(super) type Api = SpiffeWorkloadApiClient<Channel>;

/// How long the agent may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// A message with the metadata that each call carries (S35).
pub(super) fn request<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    let yes = AsciiMetadataValue::from_static("true");
    request.metadata_mut().insert(SECURITY_HEADER, yes);
    request
}

/// Connects now, so that what is wrong is known by its own error.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Api, WorkloadApiError> {
    let failed = |source| WorkloadApiError::Connect {
        endpoint: endpoint.clone(),
        source,
    };
    // Only the path says where it is; a URI is a form that HTTP/2 asks for.
    let target = Target::from_static("http://workload-api").connect_timeout(CONNECT);
    let path = endpoint.path().to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move {
            let stream = open(&path).await?;
            Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let channel = target
        .connect_with_connector(connector)
        .await
        .map_err(|error| failed(io_error(error)))?;
    Ok(Api::new(channel).max_decoding_message_size(MAX_RESPONSE))
}

#[cfg(unix)]
async fn open(path: &std::path::Path) -> io::Result<tokio::net::UnixStream> {
    tokio::net::UnixStream::connect(path).await
}

#[cfg(not(unix))]
async fn open(_: &std::path::Path) -> io::Result<tokio::io::DuplexStream> {
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
