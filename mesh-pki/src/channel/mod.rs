//! A server's SPIFFE ID and what is trusted in, gRPC over mutual TLS out: the one way in which clients of a
//! CA or a control plane reach it.
//!
//! The server is verified by its SPIFFE ID, against the bundle of that ID's own trust domain; no
//! host name plays a part. Every step has a deadline. Nothing is kept: a connection is made with
//! the SVID and bundles of its moment.

mod h2;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use self::h2::{Channel, ChannelBody, ChannelError};

use crate::clock::Clock;
use crate::crypto::Crypto;
use crate::id::SpiffeId;
use crate::store::{IdentityState, identity};
use crate::tls::{self, HandshakeError};

/// How long connecting and the handshake may take, each.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No server can be reached there.
    #[error("{address} cannot be reached")]
    Connect {
        /// Where.
        address: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The server that answers speaks no mutual TLS with us.
    #[error("{address} answers, but not as {expected}")]
    Handshake {
        /// Where.
        address: String,
        /// The ID that was expected.
        expected: SpiffeId,
        /// Why not.
        #[source]
        source: HandshakeError,
    },
    /// It did not answer in time.
    #[error("{address} did not answer within {} s", PATIENCE.as_secs())]
    Timeout {
        /// Where.
        address: String,
    },
    /// A server with another ID answered.
    #[error("{address} is {}, {expected} was expected", match got {
        Some(got) => got.to_string(),
        None => "a server without an ID".to_owned(),
    })]
    WrongId {
        /// Where.
        address: String,
        /// The ID that was expected.
        expected: SpiffeId,
        /// The ID that answered.
        got: Option<SpiffeId>,
    },
}

/// Connects to `expected` at `address` (`host:port`) with the SVID and bundles of `state`, and speaks HTTP/2.
///
/// Without a default SVID no certificate is presented. Dropping the future gives up.
///
/// ```
/// # async fn doc(reader: inmesh_pki::IdentityReader, crypto: inmesh_pki::Crypto)
/// #   -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::channel::{Channel, connect};
/// use inmesh_pki::clock::SystemClock;
///
/// let server = "spiffe://prod.example/ns/mesh-system/sa/control".parse()?;
/// let state = (*reader.load()).clone();
/// let clock = SystemClock::shared();
/// // A tower service for a generated gRPC client, here with bodies of its own.
/// let channel: Channel<String> = connect("control:15010", &server, state, &crypto, clock).await?;
/// # drop(channel);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`ConnectError`]; not a byte of a request has been sent.
pub async fn connect<B>(
    address: &str,
    expected: &SpiffeId,
    state: IdentityState,
    crypto: &Crypto,
    clock: Arc<dyn Clock>,
) -> Result<Channel<B>, ConnectError>
where
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connection = tls(address, expected, state, crypto, clock).await?;
    Channel::over(connection)
        .await
        .map_err(|source| ConnectError::Connect {
            address: address.to_owned(),
            source: io::Error::other(source),
        })
}

async fn tls(
    address: &str,
    expected: &SpiffeId,
    state: IdentityState,
    crypto: &Crypto,
    clock: Arc<dyn Clock>,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let late = |_| ConnectError::Timeout {
        address: address.to_owned(),
    };
    let stream = timeout(PATIENCE, TcpStream::connect(address))
        .await
        .map_err(late)?
        .map_err(|source| ConnectError::Connect {
            address: address.to_owned(),
            source,
        })?;
    // Small messages that wait for an answer; one that cannot be set is only slower.
    let _ = stream.set_nodelay(true);
    let (_writer, reader) = identity(state);
    let config = tls::client_config_at(reader, crypto, &[b"h2"], clock);
    let connecting = TlsConnector::from(config).connect(tls::server_name(), stream);
    let stream = timeout(PATIENCE, tls::handshake(connecting))
        .await
        .map_err(late)?
        .map_err(|source| ConnectError::Handshake {
            address: address.to_owned(),
            expected: expected.clone(),
            source,
        })?;
    let got = tls::peer(stream.get_ref().1).map(|peer| peer.id);
    if got.as_ref() != Some(expected) {
        return Err(ConnectError::WrongId {
            address: address.to_owned(),
            expected: expected.clone(),
            got,
        });
    }
    Ok(stream)
}
