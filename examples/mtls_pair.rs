//! Which peer gets a connection, and what does a server learn of one that it refuses?
//!
//! inmesh-pki alone, with tokio-rustls and no mesh: both sides prove a SPIFFE ID. A peer of the same
//! trust domain gets in; one of a domain that the server has no bundle for is refused with a typed
//! reason, although it trusts the server.
//!
//! ```console
//! cargo run -p inmesh-examples --example mtls_pair
//! ```

use std::time::Duration;

use inmesh_core::testing::World;
use inmesh_pki::svid::Rejected;
use inmesh_pki::tls::{self, ClientAuth, HandshakeError};
use inmesh_pki::{IdentityReader, SpiffeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What one side knows of the other after a handshake.
type Seen = std::result::Result<SpiffeId, HandshakeError>;

/// Connects a client to a server; says what the server saw, and what the client.
async fn connect(
    world: &World,
    server: &IdentityReader,
    client: IdentityReader,
) -> Result<(Seen, Seen)> {
    let config = tls::server_config(server.clone(), world.crypto(), &[], ClientAuth::Required);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let stream = TcpStream::connect(listener.local_addr()?).await?;
    let accepting = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        let mut stream = tls::handshake(TlsAcceptor::from(config).accept(stream)).await?;
        stream.shutdown().await?;
        let peer = tls::peer(stream.get_ref().1);
        Ok(peer.expect("the handshake is done").id)
    });

    let connector = TlsConnector::from(tls::client_config(client, world.crypto(), &[]));
    let connecting = async {
        let name = tls::server_name();
        let mut stream = tls::handshake(connector.connect(name, stream)).await?;
        let peer = tls::peer(stream.get_ref().1).expect("the handshake is done");
        // In TLS 1.3 a client learns at its first read that the server refused it.
        stream.read_to_end(&mut Vec::new()).await?;
        Ok(peer.id)
    };
    let client = connecting.await;
    Ok((accepting.await?, client))
}

#[tokio::main]
pub(crate) async fn main() -> Result<()> {
    let (home, abroad) = (
        World::new()?,
        World::of("abroad.test", Duration::from_secs(60))?,
    );
    let (_writer, cart) = home.identity("cart")?;

    let (_writer, web) = home.identity("web")?;
    let (served, reached) = connect(&home, &cart, web).await?;
    assert_eq!(served?.as_str(), "spiffe://example.org/ns/shop/sa/web");
    assert_eq!(reached?.as_str(), "spiffe://example.org/ns/shop/sa/cart");

    // A stranger that has the bundle of example.org beside its own: trust is not mutual by itself.
    let (writer, stranger) = abroad.identity("web")?;
    writer.set_bundle(home.ca().bundle().clone());
    let (served, reached) = connect(&home, &cart, stranger).await?;
    match served {
        Err(HandshakeError::Rejected(Rejected::UnknownTrustDomain { id, .. })) => {
            assert_eq!(id.as_str(), "spiffe://abroad.test/ns/shop/sa/web");
        }
        other => panic!("it was to be refused, not {other:?}"),
    }
    assert!(
        matches!(reached, Err(HandshakeError::RefusedByPeer(_))),
        "{reached:?}"
    );
    Ok(())
}
