//! TLS termination and origination between mesh peers: one configuration for each inner protocol.

use std::sync::Arc;
use std::time::SystemTime;

use inmesh_pki::CertificateDer;
use inmesh_pki::clock::Clock;
use inmesh_pki::id::SpiffeId;
use inmesh_pki::store::IdentityReader;
use inmesh_pki::svid::Usage;
use inmesh_pki::tls::{self, ClientAuth, Crypto, HandshakeError};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::live::{Guarded, Live, Peered};
use crate::accept::Socket;
use crate::error::{Error, Reason};
use crate::model::IdSet;

/// ALPN names of the inner protocols.
pub(crate) const ALPN_H1: &[u8] = b"http/1.1";
pub(crate) const ALPN_H2: &[u8] = b"h2";
pub(crate) const ALPN_TCP: &[u8] = b"mesh-tcp/1";

/// Both sides of mesh TLS, made once and read at each handshake.
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    h1: TlsConnector,
    h2: TlsConnector,
    tcp: TlsConnector,
    identity: IdentityReader,
    live: Arc<Live>,
}

/// A connection after a server's handshake.
pub(crate) struct Accepted {
    pub(crate) stream: Guarded<server::TlsStream<Socket>>,
    pub(crate) id: SpiffeId,
    pub(crate) not_after: SystemTime,
}

// === impl Tls ===

impl Tls {
    pub(crate) fn new(
        reader: &IdentityReader,
        crypto: &Crypto,
        clock: &Arc<dyn Clock>,
        live: &Arc<Live>,
    ) -> Self {
        let client = |alpn: &[u8]| {
            let config = tls::client_config_at(reader.clone(), crypto, &[alpn], Arc::clone(clock));
            TlsConnector::from(config)
        };
        let acceptor = TlsAcceptor::from(tls::server_config_at(
            reader.clone(),
            crypto,
            &[ALPN_H2, ALPN_H1, ALPN_TCP],
            ClientAuth::Required,
            Arc::clone(clock),
        ));
        Self {
            acceptor,
            h1: client(ALPN_H1),
            h2: client(ALPN_H2),
            tcp: client(ALPN_TCP),
            identity: reader.clone(),
            live: live.clone(),
        }
    }

    /// Does a server's handshake.
    pub(crate) async fn accept(&self, stream: Socket) -> Result<Accepted, HandshakeError> {
        let state = self.identity.load();
        let stream = tls::handshake(self.acceptor.accept(stream)).await?;
        let connection = stream.get_ref().1;
        let peer = tls::peer(connection)
            .ok_or_else(|| HandshakeError::Rejected(inmesh_pki::svid::Rejected::NoCertificate))?;
        let peered = Peered {
            chain: presented(connection),
            usage: Usage::Client,
            not_after: peer.not_after,
            opaque: connection.alpn_protocol() == Some(ALPN_TCP),
        };
        let stream = self
            .live
            .guard(stream, peered, &state)
            .map_err(HandshakeError::Rejected)?;
        Ok(Accepted {
            stream,
            id: peer.id,
            not_after: peer.not_after,
        })
    }

    /// Does a client's handshake for an inner protocol and compares the server's ID with those
    /// that may serve the endpoint, before a byte is written.
    pub(crate) async fn connect(
        &self,
        stream: Socket,
        alpn: &'static [u8],
        ids: &IdSet,
    ) -> Result<(Guarded<client::TlsStream<Socket>>, tls_peer::Server), Error> {
        let connector = match alpn {
            ALPN_H2 => &self.h2,
            ALPN_TCP => &self.tcp,
            _ => &self.h1,
        };
        let address = stream
            .peer_addr()
            .map(|a| a.to_string())
            .unwrap_or_default();
        let state = self.identity.load();
        // The leaf that is shown, or one that lives longer if it is replaced right now.
        let own = state.default_svid().map(|svid| svid.not_after());
        let stream = tls::handshake(connector.connect(tls::server_name(), stream))
            .await
            .map_err(|e| {
                let detail = format!("TLS handshake with {address} ({})", failure_reason(&e));
                Error::new(Reason::TlsFailed, detail).because(e)
            })?;
        let connection = stream.get_ref().1;
        let Some(peer) = tls::peer(connection) else {
            let detail = format!("{address} showed no certificate");
            return Err(Error::new(Reason::WrongServer, detail));
        };
        if !ids.contains(&peer.id) {
            let detail = format!("{address} is {}; expected one of: {ids}", peer.id);
            return Err(Error::new(Reason::WrongServer, detail));
        }
        if connection.alpn_protocol() != Some(alpn) {
            let wanted = String::from_utf8_lossy(alpn);
            let detail = format!("{address} does not speak {wanted} inside TLS");
            return Err(Error::new(Reason::TlsFailed, detail));
        }
        let peered = Peered {
            chain: presented(connection),
            usage: Usage::Server,
            not_after: peer.not_after,
            opaque: alpn == ALPN_TCP,
        };
        let stream = self.live.guard(stream, peered, &state).map_err(|e| {
            let detail = format!("{address} is trusted no more");
            Error::new(Reason::TlsFailed, detail).because(e)
        })?;
        let server = tls_peer::Server {
            id: peer.id,
            not_after: own.map_or(peer.not_after, |own| own.min(peer.not_after)),
        };
        Ok((stream, server))
    }
}

/// The chain that the peer has shown.
fn presented(connection: &rustls::CommonState) -> Vec<CertificateDer<'static>> {
    connection.peer_certificates().unwrap_or_default().to_vec()
}

pub(crate) mod tls_peer {
    //! The server at the end of a client's connection.

    use std::time::SystemTime;

    use inmesh_pki::id::SpiffeId;

    #[derive(Debug, Clone)]
    pub(crate) struct Server {
        pub(crate) id: SpiffeId,
        /// When the first of the two certificates ends, its own and ours.
        pub(crate) not_after: SystemTime,
    }
}

/// The stable name of a failed handshake in logs and metrics.
pub(crate) fn failure_reason(error: &HandshakeError) -> &'static str {
    match error {
        HandshakeError::Io(_) => "io",
        HandshakeError::NotTls => "not-tls",
        HandshakeError::RefusedByPeer(_) => "refused-by-peer",
        HandshakeError::Rejected(rejected) => rejected.as_str(),
        _ => "tls",
    }
}
