//! Bytes both ways, until both sides have said all they had to say.

use std::io;

use http::{Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

use crate::drain::Drain;
use crate::error::{Error, Reason};

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

/// The connections to join, where a server has switched protocols; one that does so unasked has
/// not answered.
pub(crate) fn switched(
    response: &mut Response<Incoming>,
    on_caller: Option<OnUpgrade>,
) -> Result<Option<(OnUpgrade, OnUpgrade)>, Error> {
    match (response.status(), on_caller) {
        (StatusCode::SWITCHING_PROTOCOLS, Some(caller)) => {
            Ok(Some((caller, hyper::upgrade::on(response))))
        }
        (StatusCode::SWITCHING_PROTOCOLS, None) => {
            let detail = "the server switched protocols and was not asked to";
            Err(Error::new(Reason::Reset, detail))
        }
        _ => Ok(None),
    }
}

/// Joins two connections that have both left HTTP (RFC 9110 section 7.8) until both have ended or
/// the drain cuts them; returns the bytes from the caller and from the endpoint.
pub(crate) async fn splice(
    caller: OnUpgrade,
    endpoint: OnUpgrade,
    mut drain: Drain,
) -> Result<(u64, u64), Error> {
    let joined = async {
        let broken = |what: &str| Error::new(Reason::Reset, what);
        let (caller, endpoint) = tokio::try_join!(caller, endpoint)
            .map_err(|e| broken("the upgrade came to nothing").because(e))?;
        let (mut caller, mut endpoint) = (TokioIo::new(caller), TokioIo::new(endpoint));
        copy(&mut caller, &mut endpoint)
            .await
            .map_err(|e| broken("the upgraded connection broke off").because(e))
    };
    tokio::select! {
        copied = joined => copied,
        () = drain.closed() => Err(Error::new(Reason::Reset, "drained")),
    }
}
