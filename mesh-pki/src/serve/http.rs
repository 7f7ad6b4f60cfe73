//! HTTP/1.1 over one connection, with bounds.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Within;

/// How long the head of a request may take, and how long a connection may be idle before it.
const HEAD: Duration = Duration::from_secs(5);

/// How long an answer may take to be read, from its first byte to its last.
const READ: Duration = Duration::from_secs(30);

/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Serves HTTP/1.1 on one connection: heads of bounded size and time, answers that are read in time, one request, or several where
/// `keep_alive` says so.
pub(crate) async fn http1<F>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    keep_alive: bool,
    answer: impl Fn(Request<Incoming>) -> F,
) where
    F: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .keep_alive(keep_alive)
        .serve_connection(TokioIo::new(Within::new(stream, READ)), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an HTTP connection broke off");
    }
}
