//! TLS termination and origination between mesh peers, as one of the local workloads.

use std::sync::Arc;
use std::time::SystemTime;

use inmesh_pki::CertificateDer;
use inmesh_pki::Crypto;
use inmesh_pki::clock::Clock;
use inmesh_pki::id::SpiffeId;
use inmesh_pki::store::IdentityReader;
use inmesh_pki::svid::{Rejected, Usage};
use inmesh_pki::tls::{self, ClientAuth, HandshakeError, Present};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::live::{Guarded, Live, Peered};
use super::peer::Peer;
use crate::accept::Socket;
use crate::error::{Error, Reason};
use crate::local::Local;
use crate::model::{AppProtocol, IdSet};

/// What a connection may hold of what its peer does not read, in bytes: one record (RFC 8446 section
/// 5.1). The library's own limit is four times that, for each of thousands of connections.
pub(crate) const RECORD: usize = 16 * 1024;

/// What is spoken inside mesh TLS; the ALPN names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inner {
    Http1,
    Http2,
    Tcp,
}

/// Both sides of mesh TLS of one local workload, made once and read at each handshake.
pub(crate) struct Tls {
    local: Arc<Local>,
    /// Acceptors for ports that declare HTTP, opaque bytes, and nothing.
    http: TlsAcceptor,
    opaque: TlsAcceptor,
    any: TlsAcceptor,
    h1: TlsConnector,
    h2: TlsConnector,
    tcp: TlsConnector,
    identity: IdentityReader,
    live: Arc<Live>,
}

/// A connection after a server's handshake.
pub(crate) struct Accepted {
    pub(crate) stream: Guarded<server::TlsStream<Socket>>,
    pub(crate) peer: Peer,
    pub(crate) not_after: SystemTime,
    /// `None` if the client sent no ALPN.
    pub(crate) inner: Option<Inner>,
}

/// The server at the end of a client's connection.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) id: SpiffeId,
    /// When the first of the two certificates ends, its own and ours.
    pub(crate) not_after: SystemTime,
    /// What it speaks.
    pub(crate) inner: Inner,
}

// === impl Inner ===

impl Inner {
    fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
            Self::Tcp => b"mesh-tcp/1",
        }
    }

    fn of(alpn: &[u8]) -> Option<Self> {
        [Self::Http1, Self::Http2, Self::Tcp]
            .into_iter()
            .find(|inner| inner.alpn() == alpn)
    }

    /// What a server speaks that was asked for this and answered so. One without ALPN speaks HTTP/1.1;
    /// an agent always has it. `None` is another protocol.
    pub(crate) fn answered(self, alpn: Option<&[u8]>) -> Option<Self> {
        match (self, alpn.map(Self::of)) {
            (Self::Http1 | Self::Http2, None | Some(Some(Self::Http1))) => Some(Self::Http1),
            (asked, Some(Some(answered))) if answered == asked => Some(asked),
            _ => None,
        }
    }
}

// === impl Tls ===

impl Tls {
    pub(crate) fn new(
        local: &Arc<Local>,
        reader: &IdentityReader,
        crypto: &Crypto,
        clock: &Arc<dyn Clock>,
        live: &Arc<Live>,
    ) -> Self {
        let present = || {
            local
                .identity()
                .cloned()
                .map_or(Present::Default, Present::Id)
        };
        let client = |inner: Inner| {
            let (reader, clock) = (reader.clone(), Arc::clone(clock));
            let alpn = [inner.alpn()];
            TlsConnector::from(tls::client_config_as(
                present(),
                reader,
                crypto,
                &alpn,
                clock,
            ))
        };
        let server = |offered: &[Inner]| {
            let alpn: Vec<_> = offered.iter().map(|inner| inner.alpn()).collect();
            TlsAcceptor::from(tls::server_config_as(
                present(),
                reader.clone(),
                crypto,
                &alpn,
                ClientAuth::Required,
                Arc::clone(clock),
            ))
        };
        Self {
            local: Arc::clone(local),
            http: server(&[Inner::Http2, Inner::Http1]),
            opaque: server(&[Inner::Tcp]),
            any: server(&[Inner::Http2, Inner::Http1, Inner::Tcp]),
            h1: client(Inner::Http1),
            h2: client(Inner::Http2),
            tcp: client(Inner::Tcp),
            identity: reader.clone(),
            live: Arc::clone(live),
        }
    }

    /// The workload whose identity it presents.
    pub(crate) fn local(&self) -> &Arc<Local> {
        &self.local
    }

    /// Does a server's handshake on a port that declares this protocol. Only what fits the
    /// declaration is offered, so that no client can choose to be opaque to a port of HTTP. Where an
    /// alert says what failed, the socket comes back, so that it can be read.
    pub(crate) async fn accept(
        &self,
        stream: Socket,
        declared: AppProtocol,
    ) -> Result<Accepted, (HandshakeError, Option<Socket>)> {
        let acceptor = match declared {
            AppProtocol::Detect => &self.any,
            AppProtocol::Tcp => &self.opaque,
            AppProtocol::Grpc | AppProtocol::Http1 | AppProtocol::Http2 => &self.http,
        };
        let state = self.identity.load();
        let mut stream = tls::accept(acceptor.accept(stream).into_fallible())
            .await
            .map_err(|(error, socket)| (error, Some(socket)))?;
        stream.get_mut().1.set_buffer_limit(Some(RECORD));
        let connection = stream.get_ref().1;
        let refused = |why| (HandshakeError::Rejected(why), None);
        let peer = tls::peer(connection).ok_or_else(|| refused(Rejected::NoCertificate))?;
        let inner = connection.alpn_protocol().and_then(Inner::of);
        let peered = Peered {
            local: Arc::clone(&self.local),
            chain: presented(connection),
            usage: Usage::Client,
            not_after: peer.not_after,
            opaque: inner == Some(Inner::Tcp) || declared == AppProtocol::Tcp,
        };
        let stream = self.live.guard(stream, peered, &state).map_err(refused)?;
        let own = match self.local.identity() {
            Some(id) => Some(id),
            None => state.default_svid().map(|svid| svid.id()),
        };
        Ok(Accepted {
            stream,
            peer: match own {
                Some(own) => Peer::verified(peer.id, own.trust_domain()),
                // It presented an SVID that has gone since: what it was cannot be asked.
                None => Peer::Foreign(peer.id),
            },
            not_after: peer.not_after,
            inner,
        })
    }

    /// Does a client's handshake for an inner protocol and compares the server's ID with those
    /// that may serve the endpoint, before a byte is written.
    pub(crate) async fn connect(
        &self,
        stream: Socket,
        inner: Inner,
        ids: &IdSet,
    ) -> Result<(Guarded<client::TlsStream<Socket>>, Server), Error> {
        let connector = match inner {
            Inner::Http1 => &self.h1,
            Inner::Http2 => &self.h2,
            Inner::Tcp => &self.tcp,
        };
        let address = stream
            .peer_addr()
            .map(|a| a.to_string())
            .unwrap_or_default();
        let state = self.identity.load();
        // The leaf that is shown, or one that lives longer if it is replaced right now.
        let own = match self.local.identity() {
            Some(id) => state.svid(id),
            None => state.default_svid(),
        };
        let own = own.map(|svid| svid.not_after());
        let mut stream = tls::handshake(connector.connect(tls::server_name(), stream))
            .await
            .map_err(|e| {
                let detail = format!("TLS handshake with {address} ({})", failure_reason(&e));
                Error::new(Reason::TlsFailed, detail).because(e)
            })?;
        stream.get_mut().1.set_buffer_limit(Some(RECORD));
        let connection = stream.get_ref().1;
        let Some(peer) = tls::peer(connection) else {
            let detail = format!("{address} showed no certificate");
            return Err(Error::new(Reason::WrongServer, detail));
        };
        if !ids.contains(&peer.id) {
            let detail = format!("{address} is {}; expected one of: {ids}", peer.id);
            return Err(Error::new(Reason::WrongServer, detail));
        }
        let Some(speaks) = inner.answered(connection.alpn_protocol()) else {
            let wanted = String::from_utf8_lossy(inner.alpn());
            let detail = format!("{address} does not speak {wanted} inside TLS");
            return Err(Error::new(Reason::TlsFailed, detail));
        };
        let peered = Peered {
            local: Arc::clone(&self.local),
            chain: presented(connection),
            usage: Usage::Server,
            not_after: peer.not_after,
            opaque: speaks == Inner::Tcp,
        };
        let stream = self.live.guard(stream, peered, &state).map_err(|e| {
            let detail = format!("{address} is no longer trusted");
            Error::new(Reason::TlsFailed, detail).because(e)
        })?;
        let server = Server {
            id: peer.id,
            not_after: own.map_or(peer.not_after, |own| own.min(peer.not_after)),
            inner: speaks,
        };
        Ok((stream, server))
    }
}

/// The chain that the peer has shown.
fn presented(connection: &rustls::CommonState) -> Vec<CertificateDer<'static>> {
    connection.peer_certificates().unwrap_or_default().to_vec()
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// The page names each reason of a connection that has failed, and no other.
    #[test]
    fn the_page_lists_why_connections_fail() {
        const PAGE: &str = include_str!("../../../mesh-cli/docs/status-and-errors.md");
        const REJECTED: &str = include_str!("../../../mesh-pki/src/svid/rejected.rs");
        let row = PAGE
            .lines()
            .find(|line| line.starts_with("| `mesh_connections_failed`"));
        let row = row.expect("the metric is on the page");
        let quoted = |text: &'static str, mark| text.split(mark).skip(1).step_by(2);
        let listed: BTreeSet<_> = quoted(row, '`')
            .filter(|name| !["mesh_connections_failed", "direction", "reason"].contains(name))
            .collect();
        // The texts of a function, from its name to its end.
        let texts = |source: &'static str, function: &str, end: &str| {
            let (_, body) = source.split_once(function).expect("the function is there");
            let (body, _) = body.split_once(end).expect("it ends");
            quoted(body, '"')
        };
        let own = include_str!("tls.rs");
        let handshake = texts(own, "pub(crate) fn failure_reason", "\n}\n");
        let rejected = texts(REJECTED, "pub fn as_str", "\n    }\n");
        let proxied = include_str!("../runtime/proxied.rs");
        let proxied =
            quoted(proxied, '"').filter(|text| text.starts_with("proxy-") && !text.contains(' '));
        let inbound = quoted(include_str!("../runtime/inbound.rs"), '"');
        let inbound = inbound.filter(|text| *text == "handshake-timeout");
        let made: BTreeSet<_> = handshake
            .chain(rejected)
            .chain(proxied)
            .chain(inbound)
            .collect();
        assert!(made.len() > 30, "{made:?}");
        assert_eq!(listed, made);
    }
}
