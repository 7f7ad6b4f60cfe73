use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::*;
use crate::bundle::{BundleSet, TrustBundle};
use crate::clock::ManualClock;
use crate::crypto::CryptoError;
use crate::store::{IdentityState, IdentityWriter, identity};
use crate::svid::{Place, Rejected, Usage};
use crate::testing::{Ca, crypto, domain, id, leaf, minutes, noon};

#[cfg(all(feature = "ca-server", feature = "ca-client"))]
mod ca;
mod strict;

const CART: &str = "spiffe://td/ns/shop/sa/cart";
const CATALOG: &str = "spiffe://td/ns/shop/sa/catalog";
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// One member of the mesh: its identity and both of its configurations, at a clock that stands.
struct Member {
    writer: IdentityWriter,
    clock: ManualClock,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Member {
    fn new(state: IdentityState) -> Self {
        Self::with(state, ClientAuth::Required, &crypto())
    }

    fn with(state: IdentityState, auth: ClientAuth, crypto: &Crypto) -> Self {
        let clock = ManualClock::new(noon());
        let (writer, reader) = identity(state);
        let server = server_config_at(reader.clone(), crypto, ALPN, auth, clock.shared());
        let client = client_config_at(reader, crypto, ALPN, clock.shared());
        Self {
            writer,
            clock,
            server,
            client,
        }
    }

    /// A member of `td` under `ca` that trusts what `ca` signs for it.
    fn of(uri: &str, ca: &Ca) -> Self {
        Self::new(state(uri, ca))
    }
}

fn state(uri: &str, ca: &Ca) -> IdentityState {
    let svid = leaf(uri).svid(ca);
    let bundle = ca.bundle(svid.id().trust_domain().as_str());
    IdentityState::new(svid, bundle.into())
}

type Side<T> = Result<T, HandshakeError>;
type Pair = (
    Side<client::TlsStream<DuplexStream>>,
    Side<server::TlsStream<DuplexStream>>,
);

/// A handshake over memory, then one byte from the server: with TLS 1.3 a client learns only there
/// that it was refused.
async fn connect(from: &Member, to: &Member) -> Pair {
    let (near, far) = duplex(64 * 1024);
    let connector = TlsConnector::from(Arc::clone(&from.client));
    let acceptor = TlsAcceptor::from(Arc::clone(&to.server));
    let client = async {
        let mut stream = handshake(connector.connect(server_name(), near)).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        Ok(stream)
    };
    let server = async {
        let mut stream = handshake(acceptor.accept(far)).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        Ok(stream)
    };
    tokio::join!(client, server)
}

fn established(
    pair: Pair,
) -> (
    client::TlsStream<DuplexStream>,
    server::TlsStream<DuplexStream>,
) {
    (pair.0.unwrap(), pair.1.unwrap())
}

/// The server refused the client: its reason, and the alert that the client was sent.
#[track_caller]
fn client_refused(pair: Pair) -> (Rejected, AlertDescription) {
    match pair {
        (Err(HandshakeError::RefusedByPeer(alert)), Err(HandshakeError::Rejected(rejected))) => {
            assert_eq!(alert, alert_of(&rejected), "{rejected}");
            (rejected, alert)
        }
        other => panic!("{other:?}"),
    }
}

/// The client refused the server: its reason, and the alert that the server was sent.
#[track_caller]
fn server_refused(pair: Pair) -> (Rejected, AlertDescription) {
    client_refused((
        pair.1.map(|_| panic!("the server is content")),
        pair.0.map(|_| panic!("the client is content")),
    ))
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let ca = Ca::new("root");
    let (cart, catalog) = (Member::of(CART, &ca), Member::of(CATALOG, &ca));
    let (client, server) = established(connect(&cart, &catalog).await);
    let (client, server) = (client.get_ref().1, server.get_ref().1);
    let seen = peer(client).unwrap();
    assert_eq!(seen.id, id(CATALOG));
    assert_eq!(seen.not_after, noon() + minutes(30));
    assert_eq!(
        seen.serial,
        catalog.writer.load().default_svid().unwrap().serial()
    );
    assert_eq!(peer(server).unwrap().id, id(CART));

    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(server.server_name(), None, "no name is sent");
    let suite = client.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
}

#[tokio::test]
async fn nobody_is_known_before_the_handshake_is_over() {
    let ca = Ca::new("root");
    let cart = Member::of(CART, &ca);
    let connection = rustls::ClientConnection::new(Arc::clone(&cart.client), server_name());
    assert_eq!(peer(&connection.unwrap()), None);
}

#[cfg(feature = "aws-lc-rs")]
#[tokio::test]
async fn the_key_exchange_is_hybrid_unless_it_is_switched_off() {
    use rustls::NamedGroup;
    let ca = Ca::new("root");
    let hybrid = Crypto::aws_lc_rs();
    let classical = hybrid.classical().unwrap();
    for (crypto, expected) in [
        (&hybrid, NamedGroup::X25519MLKEM768),
        (&classical, NamedGroup::X25519),
    ] {
        let member = Member::with(state(CART, &ca), ClientAuth::Required, crypto);
        let (client, server) = established(connect(&member, &member).await);
        for group in [
            client.get_ref().1.negotiated_key_exchange_group(),
            server.get_ref().1.negotiated_key_exchange_group(),
        ] {
            assert_eq!(group.unwrap().name(), expected);
        }
        assert_eq!(
            client.get_ref().1.handshake_kind(),
            Some(HandshakeKind::Full)
        );
    }
    // A classical peer still gets through.
    let old = Member::with(state(CART, &ca), ClientAuth::Required, &classical);
    let new = Member::with(state(CART, &ca), ClientAuth::Required, &hybrid);
    established(connect(&old, &new).await);
    established(connect(&new, &old).await);
}

#[cfg(all(feature = "aws-lc-rs", feature = "ring"))]
#[tokio::test]
async fn the_providers_understand_each_other() {
    let ca = Ca::new("root");
    let ours = Member::with(state(CART, &ca), ClientAuth::Required, &Crypto::aws_lc_rs());
    let theirs = Member::with(state(CATALOG, &ca), ClientAuth::Required, &Crypto::ring());
    established(connect(&ours, &theirs).await);
    established(connect(&theirs, &ours).await);
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_where_one_is_required() {
    let ca = Ca::new("root");
    let without = Member::new(ca.state("td"));
    let server = Member::of(CART, &ca);
    assert_eq!(
        client_refused(connect(&without, &server).await),
        (
            Rejected::NoCertificate,
            AlertDescription::CertificateRequired
        )
    );

    // Where it is optional, a client may have no ID, and a bad certificate is refused all the same.
    let open = Member::with(state(CART, &ca), ClientAuth::Optional, &crypto());
    let (client, server) = established(connect(&without, &open).await);
    assert_eq!(peer(server.get_ref().1), None);
    assert_eq!(peer(client.get_ref().1).unwrap().id, id(CART));
    let stranger = Member::new(IdentityState::new(
        leaf(CATALOG).svid(&Ca::new("stranger")),
        ca.bundle("td").into(),
    ));
    let (rejected, alert) = client_refused(connect(&stranger, &open).await);
    assert!(matches!(rejected, Rejected::UnknownIssuer { .. }));
    assert_eq!(alert, AlertDescription::UnknownCA);
}

#[tokio::test]
async fn a_server_without_a_certificate_serves_nobody() {
    let ca = Ca::new("root");
    let pair = connect(&Member::of(CART, &ca), &Member::new(ca.state("td"))).await;
    assert!(
        matches!(
            pair.0,
            Err(HandshakeError::RefusedByPeer(
                AlertDescription::AccessDenied
            ))
        ),
        "{:?}",
        pair.0
    );
}

#[tokio::test]
async fn a_foreign_trust_domain_is_refused_on_either_side() {
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    let home = Member::of(CART, &ours);
    // It knows us; we know nothing of it.
    let both = BundleSet::from_iter([ours.bundle("td"), theirs.bundle("other")]);
    let foreign = Member::new(IdentityState::new(
        leaf("spiffe://other/a").svid(&theirs),
        both,
    ));
    let expected = Rejected::UnknownTrustDomain {
        id: id("spiffe://other/a"),
        known: vec![domain("td")],
    };
    let expected = (expected, AlertDescription::UnknownCA);
    assert_eq!(client_refused(connect(&foreign, &home).await), expected);
    assert_eq!(server_refused(connect(&home, &foreign).await), expected);
}

#[tokio::test]
async fn an_expired_peer_is_refused_on_either_side() {
    let ca = Ca::new("root");
    let (cart, late) = (Member::of(CART, &ca), Member::of(CATALOG, &ca));
    let now = noon() + minutes(31);
    late.clock.set(now);
    let expected = Rejected::Expired {
        id: id(CART),
        place: Place::Leaf,
        not_after: noon() + minutes(30),
        now,
    };
    let expected = (expected, AlertDescription::CertificateExpired);
    assert_eq!(client_refused(connect(&cart, &late).await), expected);
    // A member's own clock does not stop it from presenting what it has: the peer decides.
    assert_eq!(server_refused(connect(&late, &cart).await), expected);

    let early = Member::of(CATALOG, &ca);
    early.clock.set(noon() - minutes(31));
    let (rejected, alert) = client_refused(connect(&cart, &early).await);
    assert!(matches!(rejected, Rejected::NotYetValid { .. }));
    assert_eq!(alert, AlertDescription::CertificateExpired);
}

/// A member that presents a certificate which no honest library would.
fn liar(ca: &Ca, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Member {
    let draft = leaf(CATALOG).with(change);
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(draft.key.serialize_der());
    let provider = Arc::clone(crypto().provider());
    let (writer, reader) = identity(ca.state("td"));
    let clock = ManualClock::new(noon());
    let verifier = verifier::SpiffeVerifier::new(reader.clone(), &crypto(), ClientAuth::Required);
    let client =
        ClientConfig::builder_with_details(Arc::clone(&provider), Arc::new(TimeOf(clock.shared())))
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(vec![draft.signed_by(ca)], key.into())
            .unwrap();
    let server = server_config_at(
        reader,
        &crypto(),
        ALPN,
        ClientAuth::Required,
        clock.shared(),
    );
    Member {
        writer,
        clock,
        server,
        client: Arc::new(client),
    }
}

#[tokio::test]
async fn every_kind_of_fault_has_its_alert() {
    use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
    let ca = Ca::new("root");
    let server = Member::of(CART, &ca);
    let refused = async |liar: Member| client_refused(connect(&liar, &server).await);

    let (rejected, alert) = refused(liar(&ca, |p| {
        p.subject_alt_names = vec![crate::testing::san("https://td/a")]
    }))
    .await;
    assert!(matches!(rejected, Rejected::BadId { .. }));
    assert_eq!(alert, AlertDescription::CertificateUnknown);
    let (rejected, alert) = refused(liar(&ca, |p| {
        p.key_usages.push(KeyUsagePurpose::KeyCertSign)
    }))
    .await;
    assert_eq!(
        rejected,
        Rejected::LeafMaySign {
            usage: "keyCertSign"
        }
    );
    assert_eq!(alert, AlertDescription::CertificateUnknown);
    let server_only = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let (rejected, alert) = refused(liar(&ca, |p| p.extended_key_usages = server_only)).await;
    assert_eq!(
        rejected,
        Rejected::WrongUsage {
            id: id(CATALOG),
            usage: Usage::Client
        }
    );
    assert_eq!(alert, AlertDescription::UnsupportedCertificate);

    // Those that no signing library makes.
    let bad = Rejected::BadSignature { id: id(CART) };
    assert_eq!(alert_of(&bad), AlertDescription::DecryptError);
    let place = Place::Leaf;
    let malformed = Rejected::Malformed {
        place,
        what: "junk",
    };
    assert_eq!(alert_of(&malformed), AlertDescription::BadCertificate);
    let unknown = Rejected::UnknownCriticalExtension { id: id(CART) };
    assert_eq!(alert_of(&unknown), AlertDescription::BadCertificate);
}

#[tokio::test]
async fn some_reasons_survive_in_the_plain_error() {
    let ca = Ca::new("root");
    let (server, liar) = (
        Member::of(CART, &ca),
        liar(&ca, |p| {
            p.subject_alt_names
                .push(crate::testing::san("spiffe://td/b"))
        }),
    );
    let (near, far) = duplex(64 * 1024);
    let connector = TlsConnector::from(Arc::clone(&liar.client));
    let acceptor = TlsAcceptor::from(Arc::clone(&server.server));
    // Without `handshake` around it.
    let (_, error) = tokio::join!(connector.connect(server_name(), near), acceptor.accept(far));
    assert_eq!(
        rejection(&error.unwrap_err()),
        Some(Rejected::ManyUriSans { got: 2 })
    );
    assert_eq!(rejection(&io::Error::other("no TLS error")), None);
}

#[tokio::test]
async fn reasons_of_handshakes_that_run_together_are_not_mixed_up() {
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    let home = Member::of(CART, &ours);
    let foreign = Member::of("spiffe://other/a", &theirs);
    let stranger = Member::new(IdentityState::new(
        leaf(CATALOG).svid(&theirs),
        ours.bundle("td").into(),
    ));
    // The foreign one does not even trust us; so its refusal and ours would cross here.
    let friend = Member::of(CATALOG, &ours);
    for _ in 0..8 {
        let (a, b, c) = tokio::join!(
            connect(&foreign, &home),
            connect(&stranger, &home),
            connect(&friend, &home)
        );
        let known = vec![domain("other")];
        let expected = Rejected::UnknownTrustDomain {
            id: id(CART),
            known,
        };
        assert_eq!(server_refused(a).0, expected);
        assert!(matches!(
            client_refused(b).0,
            Rejected::UnknownIssuer { .. }
        ));
        established(c);
    }
}

#[tokio::test]
async fn plaintext_and_silence_are_told_apart() {
    let ca = Ca::new("root");
    let server = Member::of(CART, &ca);
    let say = async |bytes: &[u8]| {
        let (mut near, far) = duplex(1024);
        near.write_all(bytes).await.unwrap();
        near.shutdown().await.unwrap();
        let acceptor = TlsAcceptor::from(Arc::clone(&server.server));
        handshake(acceptor.accept(far)).await.unwrap_err()
    };
    let http = say(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n").await;
    assert!(matches!(http, HandshakeError::NotTls), "{http:?}");
    let silence = say(b"").await;
    assert!(matches!(silence, HandshakeError::Io(_)), "{silence:?}");
}

#[tokio::test]
async fn a_leaf_is_rotated_under_handshakes() {
    let ca = Ca::new("root");
    let (cart, catalog) = (Member::of(CART, &ca), Member::of(CATALOG, &ca));
    for _ in 0..10 {
        let (svid, other) = (leaf(CATALOG).svid(&ca), leaf(CART).svid(&ca));
        let (serial, others) = (svid.serial().to_owned(), other.serial().to_owned());
        catalog.writer.set_svid(svid);
        cart.writer.set_svid(other);
        let (client, server) = established(connect(&cart, &catalog).await);
        assert_eq!(peer(client.get_ref().1).unwrap().serial, serial);
        assert_eq!(peer(server.get_ref().1).unwrap().serial, others);
    }
}

#[tokio::test]
async fn a_root_that_is_taken_out_is_refused_at_the_next_handshake() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let (cart, catalog) = (Member::of(CART, &old), Member::of(CATALOG, &old));
    let (client, _server) = established(connect(&cart, &catalog).await);
    assert_eq!(
        client.get_ref().1.handshake_kind(),
        Some(HandshakeKind::Full)
    );

    // Both roots: old and new leaves pass.
    let both = TrustBundle::new(domain("td"), [old.cert.clone(), new.cert.clone()]).unwrap();
    cart.writer.set_bundle(both.clone());
    catalog.writer.set_bundle(both);
    established(connect(&cart, &catalog).await);
    catalog.writer.set_svid(leaf(CATALOG).svid(&new));
    established(connect(&cart, &catalog).await);

    // The old root goes: the same client, with whatever it remembers of this server, is refused.
    catalog.writer.set_bundle(new.bundle("td"));
    let (rejected, alert) = client_refused(connect(&cart, &catalog).await);
    assert!(matches!(rejected, Rejected::UnknownIssuer { .. }));
    assert_eq!(alert, AlertDescription::UnknownCA);

    // Distrusted, it is refused too.
    catalog
        .writer
        .set_bundle(TrustBundle::distrusted(domain("td")));
    let (rejected, alert) = client_refused(connect(&cart, &catalog).await);
    assert!(matches!(rejected, Rejected::Distrusted { .. }));
    assert_eq!(alert, AlertDescription::UnknownCA);
}

#[tokio::test]
async fn c5_nothing_is_resumed() {
    let ca = Ca::new("root");
    let (cart, catalog) = (Member::of(CART, &ca), Member::of(CATALOG, &ca));
    for _ in 0..3 {
        let (mut client, mut server) = established(connect(&cart, &catalog).await);
        // Tickets would come with the first bytes; so let some more flow.
        client.write_all(b"?").await.unwrap();
        client.flush().await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
        assert_eq!(client.get_ref().1.tls13_tickets_received(), 0);
        assert_eq!(
            client.get_ref().1.handshake_kind(),
            Some(HandshakeKind::Full)
        );
    }
}

#[tokio::test]
async fn outside_hosts_are_verified_by_name() {
    let ca = Ca::new("web");
    let dns = rcgen::SanType::DnsName("api.example".try_into().unwrap());
    // The web's clock is the system's; the certificate's life is as wide as rcgen makes it.
    let wide = rcgen::CertificateParams::default();
    let site = leaf(CART).with(|p| {
        p.subject_alt_names = vec![dns];
        p.not_before = wide.not_before;
        p.not_after = wide.not_after;
    });
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(site.key.serialize_der());
    let server = ServerConfig::builder_with_provider(Arc::clone(crypto().provider()))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![site.signed_by(&ca)], key.into())
        .unwrap();
    let server = Arc::new(server);
    let client = web_client_config(&crypto(), vec![ca.cert.clone()]).unwrap();
    let reach = async |name: &'static str| {
        let (near, far) = duplex(64 * 1024);
        let connector = TlsConnector::from(Arc::clone(&client));
        let acceptor = TlsAcceptor::from(Arc::clone(&server));
        let name = ServerName::try_from(name).unwrap();
        let (client, _) = tokio::join!(
            handshake(connector.connect(name, near)),
            handshake(acceptor.accept(far))
        );
        client.map(drop)
    };
    reach("api.example").await.unwrap();
    assert!(matches!(
        reach("other.example").await,
        Err(HandshakeError::Tls(_))
    ));
    assert_eq!(
        web_client_config(&crypto(), vec![ca.cert.clone(), vec![1].into()]).unwrap_err(),
        BadRoot { index: 1 }
    );
}

#[test]
fn a_provider_that_cannot_serve_is_an_error() {
    let mut provider = (**crypto().provider()).clone();
    provider.kx_groups.clear();
    assert_eq!(
        Crypto::from_provider(provider.clone()).unwrap_err(),
        CryptoError::NoGroups
    );
    provider.cipher_suites.clear();
    assert_eq!(
        Crypto::from_provider(provider).unwrap_err(),
        CryptoError::NoTls13
    );
    assert!(
        !format!("{:?}", crypto()).contains("TLS_ECDHE"),
        "no suites of TLS 1.2"
    );
}
