use super::*;
use crate::crl::CrlSet;

/// C5: what a peer offers or asks for makes no difference.
#[tokio::test]
async fn c5_neither_side_can_be_talked_into_resuming() {
    let ca = Ca::new("root");
    let member = Member::of(CART, &ca);
    // A client that keeps tickets, and a server that gives them away.
    let mut keen = ClientConfig::clone(&member.client);
    keen.resumption = Resumption::in_memory_sessions(16);
    let mut generous = ServerConfig::clone(&member.server);
    generous.session_storage = rustls::server::ServerSessionMemoryCache::new(16);
    generous.send_tls13_tickets = 2;
    let (keen, generous) = (Arc::new(keen), Arc::new(generous));
    let kinds = async |client: &Arc<ClientConfig>, server: &Arc<ServerConfig>| {
        let (near, far) = duplex(64 * 1024);
        let connector = TlsConnector::from(Arc::clone(client));
        let acceptor = TlsAcceptor::from(Arc::clone(server));
        let client = async {
            let mut stream = connector.connect(server_name(), near).await.unwrap();
            stream.read_exact(&mut [0]).await.unwrap();
            stream.get_ref().1.handshake_kind().unwrap()
        };
        let server = async {
            let mut stream = acceptor.accept(far).await.unwrap();
            stream.write_all(b"!").await.unwrap();
            stream.flush().await.unwrap();
            stream.get_ref().1.handshake_kind().unwrap()
        };
        tokio::join!(client, server)
    };
    let both = |kind| (kind, kind);
    // The two would resume with each other, so that what follows can fail.
    kinds(&keen, &generous).await;
    let resumed = kinds(&keen, &generous).await;
    assert_eq!(resumed, both(HandshakeKind::Resumed));
    for _ in 0..2 {
        let with_keen = kinds(&keen, &member.server).await;
        assert_eq!(with_keen, both(HandshakeKind::Full));
        let with_generous = kinds(&member.client, &generous).await;
        assert_eq!(with_generous, both(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn c8_a_revoked_peer_is_refused_at_the_next_handshake() {
    let ca = Ca::new("root");
    let (cart, catalog) = (Member::of(CART, &ca), Member::of(CATALOG, &ca));
    established(connect(&cart, &catalog).await);
    let state = cart.writer.load();
    let leaf = &state.default_svid().unwrap().chain()[0];
    let mut crls = CrlSet::new();
    let list = ca.crl().revoking(leaf).list();
    crls.insert(domain("td"), list.clone()).unwrap();
    catalog.writer.set_crls(crls);
    let (rejected, alert) = client_refused(connect(&cart, &catalog).await);
    assert!(matches!(rejected, Rejected::Revoked { .. }), "{rejected}");
    assert_eq!(alert, AlertDescription::CertificateRevoked);
    let (rejected, alert) = server_refused(connect(&catalog, &cart).await);
    assert!(matches!(rejected, Rejected::Revoked { .. }), "{rejected}");
    assert_eq!(alert, AlertDescription::CertificateRevoked);
    // Stale, it admits no peer.
    catalog.clock.set(list.next_update());
    catalog
        .writer
        .set_svid(crate::testing::leaf(CATALOG).svid(&ca));
    cart.writer.set_svid(
        crate::testing::leaf(CART)
            .with(|p| p.not_after = (noon() + minutes(120)).into())
            .svid(&ca),
    );
    let (rejected, alert) = client_refused(connect(&cart, &catalog).await);
    assert!(
        matches!(rejected, Rejected::RevocationStale { .. }),
        "{rejected}"
    );
    assert_eq!(alert, AlertDescription::UnknownCA);
}

/// As a provider that is limited by a standard: what it leaves out does not come back.
#[tokio::test]
async fn a_provider_that_is_passed_in_is_used_as_it_is() {
    use rustls::{CipherSuite, NamedGroup};
    let ca = Ca::new("root");
    let mut provider = (**crypto().provider()).clone();
    provider
        .cipher_suites
        .retain(|suite| suite.suite() == CipherSuite::TLS13_AES_256_GCM_SHA384);
    provider
        .kx_groups
        .retain(|group| group.name() == NamedGroup::secp256r1);
    let limited = Crypto::from_provider(provider).unwrap();
    let strict = Member::with(state(CART, &ca), ClientAuth::Required, &limited);
    let free = Member::of(CATALOG, &ca);
    for (client, server) in [(&strict, &free), (&free, &strict)] {
        let (client, _server) = established(connect(client, server).await);
        let tls = client.get_ref().1;
        assert_eq!(
            tls.negotiated_cipher_suite().unwrap().suite(),
            CipherSuite::TLS13_AES_256_GCM_SHA384
        );
        assert_eq!(
            tls.negotiated_key_exchange_group().unwrap().name(),
            NamedGroup::secp256r1
        );
    }
}
