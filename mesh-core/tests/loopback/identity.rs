//! Which peers may speak with each other, over real TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ::http::{HeaderValue, StatusCode, Version, header};
use inmesh_core::Body;
use inmesh_core::model::AppProtocol;
use inmesh_core::testing::World;
use inmesh_pki::issue::csr;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::service_fn;

use crate::support::{Pair, Result, Seen, get, h1, origin, soon, tell, text};

/// A server that speaks TLS with a workload's identity and counts what it reads inside.
async fn counting(
    world: &World,
    workload: &str,
    bytes: Arc<AtomicUsize>,
) -> Result<std::net::SocketAddr> {
    let (_, reader) = world.identity(workload)?;
    let clock = inmesh_pki::clock::SystemClock::shared();
    let alpn: [&[u8]; 2] = [b"http/1.1", b"h2"];
    let auth = inmesh_pki::tls::ClientAuth::Required;
    let config = inmesh_pki::tls::server_config_at(reader, world.crypto(), &alpn, auth, clock);
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut all = Vec::new();
            let _end = stream.read_to_end(&mut all).await;
            bytes.fetch_add(all.len() + 1, Ordering::SeqCst);
        }
    });
    Ok(address)
}

#[tokio::test]
async fn a_server_of_another_identity_reads_nothing() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let bytes = Arc::new(AtomicUsize::new(0));
    let impostor = counting(&pair.world, "impostor", Arc::clone(&bytes)).await?;
    let ops = pair
        .world
        .service("other", AppProtocol::Http1, &[impostor])?;
    pair.pusher.push(ops).await?;
    let mut snapshot = pair.web.snapshot().clone();
    while snapshot.load().generation() < 2 {
        soon(snapshot.changed()).await?;
    }
    let answer = pair.web.client().send(get("http://other/")).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["x-mesh-reason"], "wrong-server");
    text(answer).await?;
    let record = pair.out_seen.one(|_| true).await?;
    let detail = record.detail.unwrap_or_default();
    assert!(
        detail.contains("sa/impostor") && detail.contains("sa/other"),
        "{detail}"
    );
    // The server has seen the end of the connection, and before it nothing.
    let ended = async {
        while bytes.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(ended).await?;
    assert_eq!(bytes.load(Ordering::SeqCst), 1);
    Ok(())
}

/// A TLS client without a certificate that accepts every server.
mod credulous {
    use std::sync::Arc;

    use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
    use tokio_rustls::rustls::client::danger::{
        HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
    };
    use tokio_rustls::rustls::{
        ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
        crypto::aws_lc_rs,
        sign::{CertifiedKey, SingleCertAndKey},
    };

    #[derive(Debug)]
    struct All;

    impl ServerCertVerifier for All {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![
                SignatureScheme::ECDSA_NISTP256_SHA256,
                SignatureScheme::ED25519,
            ]
        }
    }

    /// With these certificates, whatever they are worth, or without.
    pub(crate) fn config(
        shown: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> crate::support::Result<Arc<ClientConfig>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(All));
        Ok(Arc::new(match shown {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = provider.key_provider.load_private_key(key)?;
                let shown = CertifiedKey::new(chain, key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
            }
        }))
    }
}

/// What a client that shows these certificates reads first, as rustls tells it.
async fn first_read(
    pair: &Pair,
    shown: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<String> {
    let connector = tokio_rustls::TlsConnector::from(credulous::config(shown)?);
    let stream = TcpStream::connect(pair.inbound).await?;
    let name = ServerName::try_from("mesh.invalid")?;
    let mut stream = soon(connector.connect(name, stream)).await??;
    match soon(stream.read_u8()).await? {
        Ok(byte) => Ok(format!("{byte}")),
        Err(e) => Ok(e.to_string()),
    }
}

#[tokio::test]
async fn a_caller_that_cannot_be_verified_gets_an_alert_and_a_line() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let stranger = World::new()?;
    let id = stranger.id("web")?;
    let (key, request) = csr::generate(&id, stranger.crypto())?;
    let der = key.secret_pkcs8_der().to_vec();
    let key = || PrivateKeyDer::Pkcs8(der.clone().into());
    let chain = stranger.ca().sign(&id, &request)?.chain;
    let mut cut = chain.clone();
    cut[0] = CertificateDer::from(chain[0][..chain[0].len() / 2].to_vec());
    let garbage = vec![CertificateDer::from(vec![0x30, 0x03, 0x02, 0x01, 0x00])];
    for (shown, alert) in [
        (None, "CertificateRequired"),
        (Some((chain, key())), "UnknownCA"),
        (Some((cut, key())), "BadCertificate"),
        (Some((garbage, key())), "BadCertificate"),
    ] {
        let read = first_read(&pair, shown).await?;
        assert!(read.contains("received fatal alert"), "{read}");
        assert!(read.contains(alert), "{alert}: {read}");
        // Others are unharmed.
        let answer = pair.web.client().send(get("http://cart/")).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let refused = || {
        pair.in_seen
            .all()
            .into_iter()
            .filter(|x| x.reason.is_some())
    };
    while refused().count() < 4 {
        tokio::task::yield_now().await;
    }
    for record in refused() {
        assert_eq!(record.reason.map(|r| r.as_str()), Some("tls-failed"));
        assert!(record.detail.is_some_and(|d| d.contains("TLS handshake (")));
    }
    let metrics = pair.cart.encode_metrics();
    let failed = "mesh_connections_failed_total{direction=\"inbound\",reason=\"";
    assert!(metrics.contains(failed), "{metrics}");
    Ok(())
}

/// A client that has not read yet that it is refused writes its request, and reads why after that.
#[tokio::test]
async fn an_alert_is_read_although_a_request_is_sent_first() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let stranger = World::new()?;
    let (key, request) = csr::generate(&stranger.id("web")?, stranger.crypto())?;
    let der = key.secret_pkcs8_der().to_vec();
    let chain = stranger.ca().sign(&stranger.id("web")?, &request)?.chain;
    for n in 0..50 {
        let shown = (chain.clone(), PrivateKeyDer::Pkcs8(der.clone().into()));
        let connector = tokio_rustls::TlsConnector::from(credulous::config(Some(shown))?);
        let stream = TcpStream::connect(pair.inbound).await?;
        let name = ServerName::try_from("mesh.invalid")?;
        let mut stream = soon(connector.connect(name, stream)).await??;
        let refused = async {
            while pair.in_seen.all().len() <= n {
                tokio::task::yield_now().await;
            }
        };
        soon(refused).await?;
        for _ in 0..4 {
            stream.write_all(&[b'x'; 16 * 1024]).await?;
            stream.flush().await?;
        }
        let read = soon(stream.read_u8()).await?;
        let read = read.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(read.contains("UnknownCA"), "{read}");
    }
    Ok(())
}

/// It is an HTTP/1.1 server of the mesh's identities that is no agent.
#[tokio::test]
async fn a_server_that_answers_no_alpn_speaks_http11() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let (_, reader) = pair.world.identity("bare")?;
    let auth = inmesh_pki::tls::ClientAuth::Required;
    let config = inmesh_pki::tls::server_config(reader, pair.world.crypto(), &[], auth);
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let bare = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut head = [0; 14];
            if stream.read_exact(&mut head).await.is_err() {
                // The mesh has found that it speaks no HTTP/2.
                continue;
            }
            assert_eq!(&head, b"GET / HTTP/1.1");
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbare";
            stream.write_all(answer).await?;
        }
        std::io::Result::Ok(())
    });
    for (protocol, version) in [
        (AppProtocol::Http1, Version::HTTP_11),
        (AppProtocol::Detect, Version::HTTP_2),
    ] {
        let ops = pair.world.service("bare", protocol, &[bare])?;
        pair.pusher.push(ops).await?;
        let mut request = get("http://bare/");
        *request.version_mut() = version;
        let answer = soon(pair.web.client().send(request)).await?;
        assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.headers());
        assert_eq!(text(answer).await?, "bare");
    }
    Ok(())
}

#[tokio::test]
async fn plaintext_has_no_identity_and_only_where_it_is_permitted_an_answer() -> Result {
    let probe = |strict| {
        move |to: &mut inmesh_core::runtime::InboundListener| {
            to.strict = strict;
            to.probes = vec!["/healthz".into()];
        }
    };
    let app = origin(tell).await?;
    let open = Pair::with(AppProtocol::Http1, app, |b| b, probe(false)).await?;
    let mut plain = h1(open.inbound).await?;
    let answer = plain.send_request(crate::support::for_cart("/")).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    text(answer).await?;
    let record = open.in_seen.one(|_| true).await?;
    assert_eq!(record.tls_peer, None);
    // TLS works as before beside it.
    assert_eq!(
        open.web.client().send(get("http://cart/")).await.status(),
        StatusCode::OK
    );
    open.in_seen.one(|x| x.tls_peer.is_some()).await?;

    let strict = Pair::with(AppProtocol::Http1, app, |b| b, probe(true)).await?;
    let mut plain = h1(strict.inbound).await?;
    assert!(
        plain
            .send_request(crate::support::for_cart("/"))
            .await
            .is_err()
    );
    let record = strict.in_seen.one(|_| true).await?;
    assert_eq!(
        record.detail.as_deref().map(|d| d.contains("not-tls")),
        Some(true),
        "{record:?}"
    );
    Ok(())
}

/// In process the peer is in the extensions, and a probe path is open to any client.
#[tokio::test]
async fn a_probe_path_is_permitted_where_all_else_is_denied() -> Result {
    let world = World::new()?;
    let (_, reader) = world.identity("cart")?;
    let workload = inmesh_core::model::Workload::new("shop", "cart", "cart")?;
    let deny = inmesh_core::authorize::DefaultAction::Deny;
    let seen = Seen::new();
    let cart = inmesh_core::Mesh::builder()
        .identity(reader)
        .workload(workload, deny)
        .exchanges(Arc::clone(&seen) as _)
        .start()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut to =
        inmesh_core::runtime::InboundListener::new(origin(tell).await?, AppProtocol::Http1);
    to.strict = false;
    to.probes = vec!["/healthz".into()];
    tokio::spawn(async move { cart.serve_behind(listener, to).await });
    for (path, status) in [
        ("/healthz", 200),
        ("/healthz?a", 200),
        ("/x/../healthz", 200),
        ("//healthz", 403),
        ("/", 403),
        ("/healthz/x", 403),
    ] {
        let mut plain = h1(address).await?;
        let answer = plain.send_request(crate::support::for_cart(path)).await?;
        assert_eq!(answer.status(), status, "{path}");
        text(answer).await?;
    }
    // It is open to a GET that asks for nothing else.
    for more in [
        &b"content-length: 2\r\n\r\nhi"[..],
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"connection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ] {
        let head = b"GET /healthz HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n";
        let answer = crate::support::raw(address, &[head, more].concat()).await?;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    }
    let mut two = crate::support::h2(address).await?;
    let mut request = get("http://cart/healthz");
    *request.body_mut() = crate::support::whole("hi");
    assert_eq!(two.send_request(request).await?.status(), 403);
    let answer = two.send_request(get("http://cart/healthz")).await?;
    assert_eq!(answer.status(), 200);
    Ok(())
}

#[tokio::test]
async fn a_leaf_is_replaced_under_load_without_a_failure() -> Result {
    let world = World::new()?;
    let (writer, reader) = world.identity("cart")?;
    let permit = inmesh_core::authorize::DefaultAction::Allow;
    let build = |reader, name: &str| {
        let workload = inmesh_core::model::Workload::new("shop", name, name)?;
        Result::Ok(
            inmesh_core::Mesh::builder()
                .identity(reader)
                .workload(workload, permit),
        )
    };
    let cart = build(reader, "cart")?.start()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let app = service_fn(async |_: ::http::Request<Body>| {
        let mut response = ::http::Response::new(Body::from("x"));
        // Each answer ends its connection, so that each request shakes hands.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        Ok::<_, std::io::Error>(response)
    });
    let serving = cart.clone();
    tokio::spawn(async move { serving.serve(listener, app).await });
    let (pusher, source) = inmesh_core::discover::pushed("test");
    let web = world.mesh("web")?.source(source).start()?;
    pusher
        .push(world.service("cart", AppProtocol::Http1, &[address])?)
        .await?;
    web.ready().await;
    let done = Arc::new(AtomicBool::new(false));
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (client, done) = (web.client(), Arc::clone(&done));
        load.spawn(async move {
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) {
                let answer = client.send(get("http://cart/")).await;
                assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.headers());
                text(answer).await.unwrap();
                sent += 1;
            }
            sent
        });
    }
    let id = world.id("cart")?;
    for _ in 0..20 {
        let (key, request) = csr::generate(&id, world.crypto())?;
        writer.set_svid(
            world
                .ca()
                .sign(&id, &request)?
                .into_svid(key, world.crypto())?,
        );
        // Some requests between one leaf and the next.
        text(web.client().send(get("http://cart/")).await).await?;
    }
    done.store(true, Ordering::Relaxed);
    let mut total = 0;
    while let Some(sent) = soon(load.join_next()).await? {
        total += sent?;
    }
    assert!(total >= 20, "{total}");
    let counted = async {
        while !cart
            .encode_metrics()
            .contains("mesh_certificate_rotations_total")
        {
            tokio::task::yield_now().await;
        }
    };
    soon(counted).await?;
    Ok(())
}

/// A peer of a federated trust domain is verified, and has no namespace here: its ID names one of
/// its own.
#[tokio::test]
async fn a_peer_of_another_trust_domain_has_no_namespace_here() -> Result {
    use inmesh_core::authorize::{Action, DefaultAction, Policy, PolicyRule, PolicySource};
    use inmesh_core::discover::pushed;
    use inmesh_core::model::{Kind, Namespace, ObjectKey, Workload};
    use inmesh_core::snapshot::Op;

    let (here, there) = (
        World::new()?,
        World::of("partner.test", std::time::Duration::from_secs(3_600))?,
    );
    let shop = Namespace::new("shop")?;
    let (writer, reader) = here.identity("cart")?;
    writer.set_bundle(there.ca().bundle().clone());
    let source = PolicySource::builder;
    // A source, whether an ALLOW by it permits a peer of ours, and one of theirs.
    for (source, ours, theirs) in [
        (source().namespaces(["shop"]), true, false),
        (source().namespaces(["*"]), true, false),
        (source().not_namespaces(["bank"]), true, false),
        (source().trust_domains(["partner.test"]), false, true),
        (source().principals(["*"]), true, true),
    ] {
        let (pusher, policies) = pushed("test");
        let cart = inmesh_core::Mesh::builder()
            .crypto(here.crypto().clone())
            .identity(reader.clone())
            .workload(Workload::new("shop", "cart", "cart")?, DefaultAction::Deny)
            .source(policies)
            .start()?;
        let rule = PolicyRule::new(vec![source.build()?], vec![]);
        let key = ObjectKey::new(Kind::AuthorizationPolicy, &shop, "p")?;
        let policy = Policy::new(key, Action::Allow, vec![rule.clone()]);
        pusher.push(vec![Op::put(policy)]).await?;
        cart.ready().await;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let app = service_fn(async |_: ::http::Request<Body>| {
            Ok::<_, std::io::Error>(::http::Response::new(Body::empty()))
        });
        tokio::spawn(async move { cart.serve(listener, app).await });
        for (world, permitted) in [(&here, ours), (&there, theirs)] {
            let (writer, identity) = world.identity("web")?;
            writer.set_bundle(here.ca().bundle().clone());
            let (pusher, services) = pushed("test");
            let web = inmesh_core::Mesh::builder()
                .crypto(world.crypto().clone())
                .identity(identity)
                .workload(Workload::new("shop", "web", "web")?, DefaultAction::Allow)
                .source(services)
                .start()?;
            pusher
                .push(here.service("cart", AppProtocol::Http1, &[address])?)
                .await?;
            web.ready().await;
            let answer = soon(web.client().send(get("http://cart/"))).await?;
            let wanted = if permitted {
                StatusCode::OK
            } else {
                StatusCode::FORBIDDEN
            };
            assert_eq!(answer.status(), wanted, "{rule:?} {}", world.id("web")?);
        }
    }
    Ok(())
}
