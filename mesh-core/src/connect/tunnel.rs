//! Bytes both ways, until both sides have said all they had to say.

use std::io;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

/// One TLS record's worth: large enough that a record is one read, small enough to hold many.
const BUFFER: usize = 16 * 1024;

/// Copies both ways; returns the bytes from `a` and from `b`.
pub(crate) async fn copy<A, B>(a: &mut A, b: &mut B) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    copy_bidirectional_with_sizes(a, b, BUFFER, BUFFER).await
}

/// Joins two connections that have both left HTTP (RFC 9110 section 7.8).
pub(crate) async fn splice(caller: OnUpgrade, endpoint: OnUpgrade) {
    let (caller, endpoint) = match tokio::try_join!(caller, endpoint) {
        Ok(both) => both,
        Err(e) => {
            tracing::debug!(error = %e, "an upgrade came to nothing");
            return;
        }
    };
    let (mut caller, mut endpoint) = (TokioIo::new(caller), TokioIo::new(endpoint));
    if let Err(e) = copy(&mut caller, &mut endpoint).await {
        tracing::debug!(error = %e, "an upgraded connection broke off");
    }
}
