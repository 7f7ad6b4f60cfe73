//! Clients that a server refuses in the handshake, and that send more than the server reads before they look
//! at the reason: a socket that is closed over that takes the alert back.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ClientConfig, ClientConnection, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::crypto;
use crate::store::{IdentityState, identity};
use crate::svid::X509Svid;
use crate::tls::{HandshakeError, client_config, server_name};

/// How often a refused client looks at the reason: an alert that is lost is lost now and then.
const ROUNDS: usize = 20;

/// What a client sends after its part of the handshake, in parts.
static MORE: [[u8; 16 * 1024]; 4] = [[b'x'; 16 * 1024]; 4];

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesClientCert for Fixed {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The same client, which presents the chain of `shown` and signs with the key of `held`.
pub(crate) fn presenting(
    client: &ClientConfig,
    shown: &X509Svid,
    held: &X509Svid,
) -> Arc<ClientConfig> {
    let key = Arc::clone(&held.certified().key);
    let presented = CertifiedKey::new(shown.chain().to_vec(), key);
    let mut client = client.clone();
    client.client_auth_cert_resolver = Arc::new(Fixed(Arc::new(presented)));
    Arc::new(client)
}

/// The alert that a client reads whose certificate the server refuses, the same in each round.
pub(crate) async fn read_behind_a_request(
    server: SocketAddr,
    client: &Arc<ClientConfig>,
) -> AlertDescription {
    let mut read = Vec::new();
    for _ in 0..ROUNDS {
        let stream = TcpStream::connect(server).await.unwrap();
        let connecting = TlsConnector::from(Arc::clone(client)).connect(server_name(), stream);
        let mut stream = connecting.await.unwrap();
        // The server has refused.
        stream.get_ref().0.peek(&mut [0]).await.unwrap();
        for part in &MORE {
            stream.write_all(part).await.unwrap();
            stream.flush().await.unwrap();
        }
        match HandshakeError::from(stream.read_u8().await.unwrap_err()) {
            HandshakeError::RefusedByPeer(alert) => read.push(alert),
            other => panic!("{other:?}"),
        }
    }
    read.dedup();
    assert_eq!(read.len(), 1, "{read:?}");
    read[0]
}

/// A server on `server` says `protocol_version` to a client that offers TLS 1.2 alone.
pub(crate) async fn old_tls_is_refused(server: SocketAddr) {
    let hello = old_hello();
    for _ in 0..ROUNDS {
        let mut stream = TcpStream::connect(server).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        stream.peek(&mut [0]).await.unwrap();
        for part in &MORE {
            stream.write_all(part).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        // A record of one fatal alert, in the clear (RFC 8446, sections 5.1 and 6).
        let [21, 3, _, 0, 2, 2, alert] = answer[..] else {
            panic!("{answer:?}");
        };
        let alert = AlertDescription::from(alert);
        assert_eq!(alert, AlertDescription::ProtocolVersion);
    }
}

/// The first flight of a client that offers TLS 1.2 alone.
fn old_hello() -> Vec<u8> {
    let (_, reader) = identity(IdentityState::default());
    let config = client_config(reader, &crypto(), &[b"h2", b"http/1.1"]);
    let mut client = ClientConnection::new(config, server_name()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    // supported_versions with TLS 1.3 alone (RFC 8446, section 4.2.1).
    let offered = [0, 43, 0, 3, 2, 3, 4];
    let mut places = hello.windows(offered.len());
    let at = places.position(|bytes| bytes == offered).unwrap();
    hello[at + offered.len() - 1] = 3;
    hello
}
