//! The server's side for a CA, which judges paths after the handshake.

use super::*;
use crate::crl::CrlSet;
use crate::testing::alert::presenting;

/// A connection to a CA under `ca`, where a byte of the server is read.
async fn ask(client: &Arc<ClientConfig>, server: &Member) -> Pair {
    let mut from = Member::new(IdentityState::default());
    from.client = Arc::clone(client);
    connect(&from, server).await
}

#[tokio::test]
async fn a_ca_asks_for_the_key_of_a_certificate_and_for_no_path() {
    let ca = Ca::new("root");
    let mut server = Member::of("spiffe://td/ca", &ca);
    let (reader, clock) = (server.writer.reader(), server.clock.shared());
    server.server = ca_server_config(reader, &crypto(), ALPN, clock);

    let (good, held) = (leaf(CART).svid(&ca), leaf(CART).svid(&ca));
    let foreign = leaf(CART).svid(&Ca::new("foreign"));
    let mut crls = CrlSet::new();
    let list = ca.crl().revoking(&held.chain()[0]).list();
    crls.insert(domain("td"), list).unwrap();
    server.writer.set_crls(crls);
    let member = Member::of(CATALOG, &ca);
    let plain = Member::new(ca.state("td"));
    established(ask(&plain.client, &server).await);
    for advance in [minutes(0), minutes(60), minutes(600)] {
        server.clock.set(noon() + advance);
        // The CA's own leaf is as old, and its client looks at it by a clock that stands.
        for svid in [&good, &held, &foreign] {
            let client = presenting(&member.client, svid, svid);
            let (_, accepted) = established(ask(&client, &server).await);
            let shown = accepted.get_ref().1.peer_certificates().unwrap();
            assert_eq!(shown, svid.chain());
        }
    }
    for (shown, held) in [(&good, &held), (&foreign, &good)] {
        let client = presenting(&member.client, shown, held);
        let (client, server) = ask(&client, &server).await;
        let alert = AlertDescription::DecryptError;
        assert!(matches!(client, Err(HandshakeError::RefusedByPeer(got)) if got == alert));
        assert!(matches!(server, Err(HandshakeError::Tls(_))), "{server:?}");
    }
}
