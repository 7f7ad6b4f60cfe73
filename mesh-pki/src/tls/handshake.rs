//! The future of a handshake in, its outcome with our typed reason out.
//!
//! rustls calls the verifier in the same poll that drives the handshake, so the reason is handed
//! over in a task-local slot that lives exactly as long as that future: no configuration for each
//! connection, no shared table, nothing left behind when a handshake is dropped.

use std::cell::RefCell;
use std::future::Future;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use super::words::{alert, words_of};
use crate::svid::Rejected;

tokio::task_local! {
    static REASON: RefCell<Option<Rejected>>;
}

/// Why a connection did not become, or stay, mutual TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The connection itself failed or ended.
    #[error("the connection failed during the TLS handshake")]
    Io(#[source] io::Error),
    /// The peer does not speak TLS.
    #[error("the peer does not speak TLS")]
    NotTls,
    /// The peer refused us, with this alert.
    #[error("the peer refused us with the TLS alert {}", alert(*.0))]
    RefusedByPeer(AlertDescription),
    /// We refused the peer's certificate.
    #[error("the peer's certificate was refused")]
    Rejected(#[source] Rejected),
    /// Any other fault of the TLS protocol.
    #[error("the TLS handshake failed: {}", words_of(.0))]
    Tls(Error),
}

/// Runs a handshake (`acceptor.accept(io)`, `connector.connect(name, io)`) and types its failure.
///
/// With TLS 1.3 a server's refusal reaches a client after its own handshake has succeeded; its
/// first read fails then, and `HandshakeError::from` types that error too.
///
/// # Errors
///
/// [`HandshakeError`], [`HandshakeError::Rejected`] whenever it was our verifier that refused.
pub async fn handshake<T>(
    handshake: impl Future<Output = io::Result<T>>,
) -> Result<T, HandshakeError> {
    let (outcome, reason) = scoped(handshake).await;
    outcome.map_err(|error| typed(error, reason))
}

/// Runs a server's handshake (`acceptor.accept(io).into_fallible()`) and types its failure.
///
/// # Errors
///
/// [`HandshakeError`] as [`handshake`] has it, with the socket, for
/// [`linger`](crate::serve::linger): a client sends its certificate and what it wants at once, and a
/// socket that is closed before all of that is read takes the alert back which says what is wrong.
pub async fn accept<T, IO>(
    handshake: impl Future<Output = Result<T, (io::Error, IO)>>,
) -> Result<T, (HandshakeError, IO)> {
    let (outcome, reason) = scoped(handshake).await;
    outcome.map_err(|(error, socket)| (typed(error, reason), socket))
}

/// Runs a handshake, and says why our verifier refused the peer, if it did.
async fn scoped<T>(handshake: impl Future<Output = T>) -> (T, Option<Rejected>) {
    let scoped = async {
        let outcome = handshake.await;
        let reason = REASON.with(RefCell::take);
        (outcome, reason)
    };
    REASON.scope(RefCell::new(None), scoped).await
}

fn typed(error: io::Error, reason: Option<Rejected>) -> HandshakeError {
    match reason {
        Some(rejected) => HandshakeError::Rejected(rejected),
        None => HandshakeError::from(error),
    }
}

/// The reason inside an I/O error of a TLS stream, as far as the error alone shows it: for reasons
/// whose alert says it all (unknown authority, expired) only [`handshake`] knows.
#[must_use]
pub fn rejection(error: &io::Error) -> Option<Rejected> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::NoCertificatesPresented => Some(Rejected::NoCertificate),
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref::<Rejected>().cloned()
        }
        _ => None,
    }
}

/// Keeps the reason for the task that runs the current handshake; none may, outside [`handshake`].
pub(super) fn note(rejected: Rejected) {
    tracing::debug!(reason = %rejected, "peer certificate refused");
    let _ = REASON.try_with(|slot| slot.replace(Some(rejected)));
}

/// Sorts an I/O error of a TLS stream, at any time in its life.
impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        if let Some(rejected) = rejection(&error) {
            return Self::Rejected(rejected);
        }
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>())
        {
            Some(Error::AlertReceived(alert)) => Self::RefusedByPeer(*alert),
            Some(Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            )) => Self::NotTls,
            Some(tls) => Self::Tls(tls.clone()),
            None => Self::Io(error),
        }
    }
}
