use std::net::SocketAddr;

use futures_util::stream;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2 as client_http2;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tower_service::Service;

use super::*;
use crate::bundle::TrustBundle;
use crate::ca::Lifetimes;
use crate::ca::attest::{Method, ReviewError, Reviewed, TokenIssuer, TokenReview};
use crate::ca::store::FileStore;
use crate::ca::store::memory::MemoryDisk;
use crate::clock::{Clock, ManualClock};
use crate::issue::policy::OidcRule;
use crate::issue::{IssueError, Issuer};
use crate::jwt::{KeySet, LocalJwtIssuer};
use crate::proto::istio_ca::istio_certificate_service_client::IstioCertificateServiceClient;
use crate::proto::istio_ca::{IstioCertificateRequest, IstioCertificateResponse};
use crate::rotate::{ObtainError, Rotation, obtain};
use crate::source::ca::{Bootstrap, CaClient, CaClientConfig, Token};
use crate::svid::{Rejected, Usage, validate};
use crate::testing::{crypto, domain, id, noon};

mod alerts;
mod proofs;
mod slow;
mod source;

const CART: &str = "spiffe://td/ns/shop/sa/cart";
const OWN: &str = "spiffe://td/inmesh/ca";
const HOST: &str = "istiod.istio-system.svc";
const CLUSTER: &str = "https://kubernetes.default.svc";

/// The first generation of a CA that is made at noon.
const FIRST: u64 = 1_800_000_000;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A CA that is served on loopback, by a clock that stands still until it is set.
struct World {
    ca: Arc<Ca<FileStore>>,
    clock: ManualClock,
    address: SocketAddr,
    cluster: Arc<LocalJwtIssuer>,
    bundle: TrustBundle,
    counts: StatusReader<CaCounts>,
    _stop: oneshot::Sender<()>,
}

async fn world() -> World {
    world_with(|config| config).await
}

async fn world_with(change: impl FnOnce(ServerConfigOf) -> ServerConfigOf) -> World {
    let clock = ManualClock::new(noon());
    let lifetimes = Lifetimes {
        leaf: secs(600),
        ..Lifetimes::default()
    };
    let (store, shared) = (MemoryDisk::default().store(), clock.shared());
    let td = domain("td");
    let ca = Ca::open(store, &td, None, lifetimes, &crypto(), shared)
        .await
        .unwrap();
    let ca = Arc::new(ca);
    let cluster = LocalJwtIssuer::generate(td.clone(), &crypto(), clock.shared()).unwrap();
    let keys = KeySet::from_keys([cluster.public_key().clone()]).unwrap();
    let issuer = |issuer: &str| TokenIssuer {
        issuer: issuer.to_owned(),
        audience: "istio-ca".to_owned(),
        keys: keys.clone().into(),
    };
    let rule = OidcRule {
        issuer: "https://ci".to_owned(),
        claims: [("sub".to_owned(), "repo:shop".to_owned())].into(),
        id: id("spiffe://td/ci"),
    };
    let rules = Rules::new(td, id(OWN)).with_kubernetes();
    let mut config = ServerConfigOf::new(rules.with_oidc(rule).unwrap());
    config.attestors = Attestors::none()
        .with_kubernetes(issuer(CLUSTER))
        .with_oidc(issuer("https://ci"));
    config.host_names = vec![HOST.to_owned()];
    let server = CaServer::new(Arc::clone(&ca), change(config))
        .await
        .unwrap();
    let counts = server.counts();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(server.serve(listener, async {
        let _ = stopped.await;
    }));
    let bundle = ca.published().borrow().bundle.clone();
    World {
        ca,
        clock,
        address,
        cluster: Arc::new(cluster),
        bundle,
        counts,
        _stop: stop,
    }
}

impl World {
    /// A join token of the operator.
    async fn join_token(&self) -> zeroize::Zeroizing<String> {
        let end = noon() + secs(60);
        self.ca.open_token(&id(CART), end).await.unwrap()
    }

    /// A token of the cluster, with changes to what a good one says.
    fn token(&self, changes: Value) -> String {
        let end = noon() + secs(3600);
        let end = end.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({
            "iss": CLUSTER, "aud": ["istio-ca"], "exp": end,
            "sub": "system:serviceaccount:shop:cart",
            "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "cart"}},
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let part =
            |part: &Value| data_encoding::BASE64URL_NOPAD.encode(part.to_string().as_bytes());
        let header = json!({"alg": "ES256", "kid": self.cluster.public_key().id()});
        let text = format!("{}.{}", part(&header), part(&claims));
        self.cluster.seal(text.into()).unwrap().to_string()
    }

    fn client(&self, token: Token) -> (CaClient, Arc<IdentityWriter>) {
        let (writer, reader) = identity(IdentityState::default());
        let config = CaClientConfig {
            id: id(CART),
            address: self.address.to_string(),
            ca: id(OWN),
            bootstrap: Bootstrap::Bundle(self.bundle.clone()),
            token,
        };
        let client = CaClient::new(config, reader, &crypto(), self.clock.shared()).unwrap();
        (client, Arc::new(writer))
    }

    async fn obtain(&self, client: &CaClient) -> Result<(X509Svid, TrustBundle), ObtainError> {
        obtain(client, &id(CART), &crypto(), &self.clock).await
    }

    /// A connection without a certificate.
    async fn stranger(&self) -> Plain {
        self.connected(IdentityState::from_bundles(self.bundle.clone().into()))
            .await
    }

    /// A connection with the SVID of a state.
    async fn connected(&self, state: IdentityState) -> Plain {
        let (_writer, reader) = identity(state);
        let config = tls::client_config_at(reader, &crypto(), &[b"h2"], self.clock.shared());
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connecting = TlsConnector::from(config).connect(tls::server_name(), stream);
        Plain::over(connecting.await.unwrap()).await
    }

    /// A client that knows Istio's definition, a root and a host name, and nothing of ours.
    async fn istio(&self) -> IstioCertificateServiceClient<Plain> {
        let roots = self.bundle.roots().iter().map(|root| root.der().clone());
        let mut store = rustls::RootCertStore::empty();
        for root in roots {
            store.add(root).unwrap();
        }
        let time = Arc::new(Time(self.clock.clone()));
        let provider = Arc::clone(crypto().provider());
        let mut config = rustls::ClientConfig::builder_with_details(provider, time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(store)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from(HOST).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.unwrap();
        let origin = http::Uri::from_static("https://istiod.istio-system.svc");
        IstioCertificateServiceClient::with_origin(Plain::over(stream).await, origin)
    }

    async fn ask(
        &self,
        token: Option<&str>,
        csr: &str,
    ) -> Result<IstioCertificateResponse, Status> {
        let mut request = tonic::Request::new(IstioCertificateRequest {
            csr: csr.to_owned(),
            validity_duration: 86_400,
            metadata: None,
        });
        if let Some(token) = token {
            let bearer = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
            request.metadata_mut().insert("authorization", bearer);
        }
        let answer = self.istio().await.create_certificate(request).await;
        answer.map(tonic::Response::into_inner)
    }
}

/// The world's clock as rustls asks for it.
#[derive(Debug)]
struct Time(ManualClock);

impl rustls::time_provider::TimeProvider for Time {
    fn current_time(&self) -> Option<rustls_pki_types::UnixTime> {
        let since = self.0.now().duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(rustls_pki_types::UnixTime::since_unix_epoch(since))
    }
}

struct Plain(client_http2::SendRequest<Body>);

impl Plain {
    async fn over(stream: tokio_rustls::client::TlsStream<TcpStream>) -> Self {
        let handshake = client_http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, driver) = handshake.await.unwrap();
        tokio::spawn(driver);
        Self(sender)
    }
}

impl Service<Request<Body>> for Plain {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

fn csr_pem() -> String {
    csr::generate(&id(CART), &crypto()).unwrap().1.to_pem()
}

// === Istio's call ===

#[tokio::test]
async fn a_client_of_istios_definition_alone_gets_a_certificate() {
    let world = world().await;
    let answer = world
        .ask(Some(&world.token(json!({}))), &csr_pem())
        .await
        .unwrap();
    let [leaf, issuer, roots] = &answer.cert_chain[..] else {
        panic!("leaf, issuing CA, roots: {answer:?}");
    };
    let mut chain = crate::pem::certificates(leaf.as_bytes()).unwrap();
    chain.extend(crate::pem::certificates(issuer.as_bytes()).unwrap());
    let bundle = TrustBundle::from_pem(domain("td"), roots.as_bytes()).unwrap();
    let state = IdentityState::from_bundles(bundle.into());
    let verified = validate(&chain, &state, world.clock.now(), Usage::Client, &crypto()).unwrap();
    assert_eq!(verified.id, id(CART));
    assert_eq!(
        verified.not_after,
        noon() + secs(600),
        "a day was asked for"
    );

    // While two roots are trusted, both are in the last text, that of the chain first.
    world.ca.prepare(None).await.unwrap();
    let answer = world
        .ask(Some(&world.token(json!({}))), &csr_pem())
        .await
        .unwrap();
    let roots = answer.cert_chain[2].as_bytes();
    let both = TrustBundle::from_pem(domain("td"), roots).unwrap();
    assert_eq!(both.roots().len(), 2);
    assert_eq!(both.roots()[0], world.bundle.roots()[0]);
}

/// Tokens that prove nothing (C9, C11, C12), and requests that are none.
#[tokio::test]
async fn who_proves_nothing_gets_nothing() {
    let world = world().await;
    let stranger = LocalJwtIssuer::generate(domain("td"), &crypto(), world.clock.shared()).unwrap();
    let good = world.token(json!({}));
    let (signed, _) = good.rsplit_once('.').unwrap();
    let forged = stranger.seal(signed.to_owned().into()).unwrap();
    let none = data_encoding::BASE64URL_NOPAD.encode(br#"{"alg":"none"}"#);
    let unsigned = format!("{none}.{}.", signed.split_once('.').unwrap().1);
    let dots = "a.".repeat(3000);
    let tokens = [
        None,
        Some(String::new()),
        Some("x".to_owned()),
        Some(forged.to_string()),
        Some(unsigned),
        Some(dots),
        Some("inmesh-join-0000".to_owned()),
        Some(world.token(json!({"aud": ["other"]}))),
        Some(world.token(json!({"iss": "https://evil"}))),
        Some(world.token(json!({"exp": 1_700_000_000}))),
        Some(world.token(json!({"exp": null}))),
        Some(world.token(json!({"kubernetes.io": {}}))),
        Some(world.token(json!({"sub": "system:serviceaccount:shop:admin"}))),
    ];
    for token in tokens {
        let refused = world.ask(token.as_deref(), &csr_pem()).await.unwrap_err();
        assert_eq!(
            refused.code(),
            Code::Unauthenticated,
            "{token:?}: {refused}"
        );
    }
    // A good proof of an ID that is never granted.
    let other = json!({"iss": "https://ci", "sub": "repo:evil"});
    let refused = world
        .ask(Some(&world.token(other)), &csr_pem())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    world
        .ask(
            Some(&world.token(json!({"iss": "https://ci", "sub": "repo:shop"}))),
            &csr_pem(),
        )
        .await
        .unwrap();
    // Requests that are none, or whose signature is broken.
    let mut forged = csr_pem();
    let at = forged.rfind("\n-----END").unwrap() - 4;
    let letter = if &forged[at..=at] == "A" { "B" } else { "A" };
    forged.replace_range(at..=at, letter);
    for request in ["", "x", &forged, &format!("{}{}", csr_pem(), csr_pem())] {
        let refused = world.ask(Some(&good), request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    assert_eq!(
        world.ca.status().await.members,
        1,
        "only the one of https://ci"
    );
}

/// An unknown caller is answered before a byte of the message is read (D8); what is too large is not
/// read to its end.
#[tokio::test]
async fn d8_a_stranger_is_refused_before_the_message_is_read() {
    let world = world().await;
    let mut client = world.istio().await;
    // A message that never comes: only its head is sent.
    let endless = stream::pending::<IstioCertificateRequest>();
    let origin = http::Uri::from_static("https://x");
    let mut grpc = tonic::client::Grpc::with_origin(world.stranger().await, origin);
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(
        "/istio.v1.auth.IstioCertificateService/CreateCertificate",
    );
    let codec: tonic_prost::ProstCodec<_, IstioCertificateResponse> =
        tonic_prost::ProstCodec::default();
    let call = grpc.client_streaming(tonic::Request::new(endless), path, codec);
    let refused = timeout(secs(20), call).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    let mut huge = tonic::Request::new(IstioCertificateRequest {
        csr: "x".repeat(8 * 1024 * 1024),
        ..IstioCertificateRequest::default()
    });
    let bearer = MetadataValue::try_from(format!("Bearer {}", world.token(json!({})))).unwrap();
    huge.metadata_mut().insert("authorization", bearer);
    let refused = client.create_certificate(huge).await.unwrap_err();
    assert_ne!(refused.code(), Code::Ok, "{refused}");
    world
        .ask(Some(&world.token(json!({}))), &csr_pem())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_review_by_kubernetes_counts_as_its_word() {
    struct Cluster;
    impl TokenReview for Cluster {
        async fn review(&self, token: &str, audience: &str) -> Result<Reviewed, ReviewError> {
            assert_eq!(audience, "mesh");
            match token {
                "good" => Ok(Reviewed {
                    namespace: "shop".to_owned(),
                    service_account: "cart".to_owned(),
                }),
                "later" => Err(ReviewError::Unavailable {
                    reason: "10.0.0.1 does not answer".to_owned(),
                }),
                _ => Err(ReviewError::Refused {
                    reason: "gone".to_owned(),
                }),
            }
        }
    }
    let world = world_with(|mut config| {
        config.attestors = config.attestors.with_review("mesh".to_owned(), Cluster);
        config
    })
    .await;
    world.ask(Some("good"), &csr_pem()).await.unwrap();
    let refused = world.ask(Some("bad"), &csr_pem()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    // A review that is unavailable has said nothing against the token.
    let refused = world.ask(Some("later"), &csr_pem()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(!refused.message().contains("10.0.0.1"), "{refused}");
    let counts = world.counts.load();
    let failed = [(Method::Review, 1)].into();
    assert_eq!(counts.attestations_failed, failed, "the bad one alone");
    let refused = [(Refusal::Attestation, 1), (Refusal::Ca, 1)].into();
    assert_eq!((counts.issued, &counts.refused), (1, &refused));
}

// === our own client ===

#[tokio::test]
async fn a_workload_joins_by_token_and_renews_by_its_svid() {
    let world = world().await;
    let token = world.join_token().await;
    let (client, writer) = world.client(Token::Text(token));
    let (svid, bundle) = world.obtain(&client).await.unwrap();
    assert_eq!(svid.id(), &id(CART));
    assert_eq!(bundle.sequence(), Some(FIRST));
    // Without its SVID it has only the token, which is spent.
    let ObtainError::Issue(error) = world.obtain(&client).await.unwrap_err() else {
        panic!("refused by the CA");
    };
    assert!(error.to_string().contains("used already"), "{error}");
    let serial = svid.serial().to_owned();
    writer.set(svid, bundle.into());
    world.clock.advance(secs(300));
    let (svid, _) = world.obtain(&client).await.unwrap();
    assert_ne!(svid.serial(), serial);
    assert_eq!(svid.not_after(), noon() + secs(900));
    // It can only be itself.
    let other = id("spiffe://td/other");
    let (_, csr) = csr::generate(&other, &crypto()).unwrap();
    let refused = client.issue(&other, &csr).await.unwrap_err();
    assert!(
        matches!(refused, IssueError::NotAllowed { .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn a_token_file_is_read_anew_each_time() {
    let world = world().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let (client, _writer) = world.client(Token::File(path.clone()));
    let reason = |error: ObtainError| error.to_string();
    assert!(reason(world.obtain(&client).await.unwrap_err()).contains("token"));
    std::fs::write(&path, "x").unwrap();
    let refused = world.obtain(&client).await.unwrap_err();
    let refused = matches!(refused, ObtainError::Issue(IssueError::Refused { .. }));
    assert!(refused);
    std::fs::write(&path, format!("{}\n", world.token(json!({})))).unwrap();
    world.obtain(&client).await.unwrap();
    assert!(!format!("{:?}", client).contains("eyJ"));
}

#[tokio::test]
async fn a_rotation_is_acknowledged_on_the_stream_and_ends_by_itself() {
    let world = world().await;
    let token = world.join_token().await;
    let (client, writer) = world.client(Token::Text(token));
    let (svid, bundle) = world.obtain(&client).await.unwrap();
    writer.set(svid, bundle.into());
    let mut reader = writer.reader();
    let (mut status, watch) = client.watch(Arc::clone(&writer), || 0.5, std::future::pending());
    tokio::spawn(watch);
    while !status.load().connected {
        status.changed().await.unwrap();
    }
    let mut published = world.ca.published();
    let new = world.ca.prepare(None).await.unwrap();
    // The member takes the bundle over; a tick of the server activates the new root.
    let has = |reader: &IdentityReader, roots: usize| {
        let state = reader.load();
        state.bundles().get(&domain("td")).unwrap().roots().len() == roots
    };
    while !has(&reader, 2) {
        reader.changed().await.unwrap();
    }
    published
        .wait_for(|published| published.active == new)
        .await
        .unwrap();
    assert_eq!(status.load().generation, FIRST + 1);
    // The renewal is under the new root; the old one goes when the last leaf under it has expired.
    let (svid, bundle) = world.obtain(&client).await.unwrap();
    writer.set(svid, bundle.into());
    world.clock.advance(secs(700));
    while !has(&reader, 1) {
        reader.changed().await.unwrap();
    }
    let state = world.ca.status().await;
    assert_eq!((state.generation, state.next), (FIRST + 2, None));
    assert_eq!(state.authorities[0].key_id, new);
}

/// A member whose root is distrusted gets the new bundle on its stream, and a new SVID by its
/// token: its old SVID attests nothing, not even on a connection that was there before.
#[tokio::test]
async fn a_compromise_is_over_as_soon_as_members_have_renewed() {
    let world = world().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, world.token(json!({}))).unwrap();
    let (client, writer) = world.client(Token::File(path));
    let crypto = crypto();
    let rotation = Rotation::new(
        id(CART),
        client.clone(),
        &crypto,
        world.clock.shared(),
        || 0.5,
    );
    let mut reader = writer.reader();
    tokio::spawn(rotation.run(Arc::clone(&writer), std::future::pending()));
    let first = reader.changed().await.unwrap();
    let first = Arc::clone(first.default_svid().unwrap());
    let (mut status, watch) = client.watch(Arc::clone(&writer), || 0.5, std::future::pending());
    tokio::spawn(watch);
    while !status.load().connected {
        status.changed().await.unwrap();
    }
    // A connection from before, with the SVID of before.
    let plain = world.connected(IdentityState::clone(&writer.load())).await;
    let origin = http::Uri::from_static("https://x");
    let mut before = IstioCertificateServiceClient::with_origin(plain, origin);
    let ask = || IstioCertificateRequest {
        csr: csr_pem(),
        ..IstioCertificateRequest::default()
    };
    before.create_certificate(ask()).await.unwrap();

    world.clock.advance(secs(10));
    let old = world.bundle.roots()[0].key_id();
    let begin = Instant::now();
    world.ca.distrust(old, None).await.unwrap();
    loop {
        let state = reader.changed().await.unwrap();
        let svid = state.default_svid().unwrap();
        if svid.serial() != first.serial() {
            let now = world.clock.now();
            validate(svid.chain(), &state, now, Usage::Server, &crypto).unwrap();
            break;
        }
    }
    assert!(begin.elapsed() < secs(10), "{:?}", begin.elapsed());
    let refused = before.create_certificate(ask()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
}

#[tokio::test]
async fn an_svid_that_is_over_comes_back_only_through_the_recovery_window() {
    let world = world().await;
    let token = world.join_token().await;
    let (client, writer) = world.client(Token::None);
    let (joining, _) = world.client(Token::Text(token));
    let (svid, bundle) = world.obtain(&joining).await.unwrap();
    writer.set(svid, bundle.into());
    world.clock.advance(secs(1000));
    let error = world.obtain(&client).await.unwrap_err();
    assert!(
        matches!(error, ObtainError::Issue(IssueError::Unavailable { .. })),
        "{error}"
    );
    let now = world.clock.now();
    let window = Window {
        until: now + secs(60),
        expired_since: noon(),
    };
    world.ca.recover(Some(window)).await.unwrap();
    // The clock has jumped over the end of the CA's own SVID too, which it notices in seconds.
    let begin = Instant::now();
    let svid = loop {
        match world.obtain(&client).await {
            Ok((svid, _)) => break svid,
            Err(error) => assert!(begin.elapsed() < secs(20), "{error}"),
        }
    };
    assert_eq!(svid.not_after(), now + secs(600));
    assert_eq!(world.ca.status().await.recovery, Some(window));
}

/// A proof that is refused is not the end while there is another: a spent join token stands beside the
/// expired SVID that an open window lets in, and a token beside an SVID that is revoked.
#[tokio::test]
async fn when_one_proof_is_refused_the_next_is_tried() {
    let world = world().await;
    let (client, writer) = world.client(Token::Text(world.join_token().await));
    let (svid, bundle) = world.obtain(&client).await.unwrap();
    writer.set(svid, bundle.into());
    world.clock.advance(secs(1000));
    world.obtain(&client).await.unwrap_err();
    let now = world.clock.now();
    let window = Window::new(now, secs(60), secs(3600));
    world.ca.recover(Some(window)).await.unwrap();
    let begin = Instant::now();
    loop {
        match world.obtain(&client).await {
            Ok(_) => break,
            // The CA notices in seconds that its own SVID has ended too.
            Err(error) => assert!(begin.elapsed() < secs(20), "{error}"),
        }
    }

    let (client, writer) = world.client(Token::Text(world.token(json!({})).into()));
    let (svid, bundle) = world.obtain(&client).await.unwrap();
    let serial = svid.serial().to_owned();
    writer.set(svid, bundle.into());
    world.ca.revoke(&serial).await.unwrap();
    let (svid, _) = world.obtain(&client).await.unwrap();
    assert_ne!(svid.serial(), serial);
}

#[tokio::test]
async fn too_many_are_told_when_to_come_back() {
    let world = world_with(|config| ServerConfigOf { rate: 2, ..config }).await;
    let (client, _writer) = world.client(Token::Text(world.token(json!({})).into()));
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked.push(world.obtain(&client).await);
    }
    let Some(Err(ObtainError::Issue(IssueError::Unavailable { retry_after, .. }))) = asked.pop()
    else {
        panic!("the third in a second has to wait");
    };
    let wait = retry_after.unwrap();
    assert!(wait > Duration::ZERO && wait <= secs(2), "{wait:?}");
    assert!(asked.iter().all(Result::is_ok));
}

/// A revoked SVID renews nothing, and a member that listens refuses its bearer.
#[tokio::test]
async fn a_revoked_member_is_refused_by_the_ca_and_by_members_that_listen() {
    let world = world().await;
    let join = async || {
        let token = world.join_token().await;
        let (client, writer) = world.client(Token::Text(token));
        let (svid, bundle) = world.obtain(&client).await.unwrap();
        writer.set(svid, bundle.into());
        (client, writer)
    };
    let (revoked, its) = join().await;
    let (client, writer) = join().await;
    let mut reader = writer.reader();
    let (_status, watch) = client.watch(Arc::clone(&writer), || 0.5, std::future::pending());
    tokio::spawn(watch);
    let chain = its.load().default_svid().unwrap().chain().to_vec();
    let serial = its.load().default_svid().unwrap().serial().to_owned();
    world.ca.revoke(&serial).await.unwrap();
    let refused = loop {
        let state = reader.changed().await.unwrap();
        let verdict = validate(&chain, &state, noon(), Usage::Client, &crypto());
        if let Err(refused) = verdict {
            break refused;
        }
    };
    assert!(matches!(refused, Rejected::Revoked { .. }), "{refused}");
    // The CA's own server takes the lists over like a member, within moments.
    let begin = Instant::now();
    while world.obtain(&revoked).await.is_ok() {
        assert!(begin.elapsed() < secs(10));
    }
    world.obtain(&client).await.unwrap();
}

/// An ID is revoked with every leaf that was issued for it, known or not, and with its join tokens; a
/// leaf that has ended in the meantime renews nothing in a recovery window.
#[tokio::test]
async fn a_revoked_id_comes_back_by_a_new_token_alone() {
    let world = world().await;
    let (open, token) = (world.join_token().await, world.join_token().await);
    let (joining, _) = world.client(Token::Text(token));
    let (svid, bundle) = world.obtain(&joining).await.unwrap();
    let (client, writer) = world.client(Token::None);
    writer.set(svid, bundle.into());
    // A member that listens, of the same ID.
    let (listening, its) = world.client(Token::None);
    its.set_bundle(world.bundle.clone());
    let state = IdentityState::clone(&writer.load());
    its.update(|of| of.share_svid(Arc::clone(state.default_svid().unwrap())));
    let mut reader = its.reader();
    let (_status, watch) = listening.watch(Arc::clone(&its), || 0.5, std::future::pending());
    tokio::spawn(watch);
    reader.changed().await.unwrap();
    let (older, _) = world.obtain(&client).await.unwrap();
    writer.set_svid(older);

    world.ca.revoke_id(&id(CART)).await.unwrap();
    world.obtain(&client).await.unwrap_err();
    let (with_open, _) = world.client(Token::Text(open));
    let spent = world.obtain(&with_open).await.unwrap_err().to_string();
    assert!(spent.contains("used already"), "{spent}");

    let window = Window::new(noon() + secs(900), secs(600), secs(3600));
    world.clock.advance(secs(900));
    world.ca.tick().await.unwrap();
    assert!(
        world.ca.published().borrow().revoked_ids.is_empty(),
        "all have ended"
    );
    world.ca.recover(Some(window)).await.unwrap();
    let begin = Instant::now();
    loop {
        // The CA notices in seconds that its own SVID has ended too.
        let error = world.obtain(&client).await.unwrap_err().to_string();
        if error.contains("is revoked") {
            break;
        }
        assert!(begin.elapsed() < secs(20), "{error}");
    }
    let end = world.clock.now() + secs(60);
    let new = world.ca.open_token(&id(CART), end).await.unwrap();
    let (with_new, _) = world.client(Token::Text(new));
    let (svid, bundle) = world.obtain(&with_new).await.unwrap();
    writer.set(svid, bundle.into());
    world.obtain(&client).await.unwrap();
}

/// Members that listen refuse a revoked ID, also by leaves that no list could name.
#[tokio::test]
async fn members_hear_of_a_revoked_id() {
    let world = world().await;
    let (joining, _) = world.client(Token::Text(world.join_token().await));
    let (svid, bundle) = world.obtain(&joining).await.unwrap();
    let chain = svid.chain().to_vec();
    let token = world.token(json!({"sub": "system:serviceaccount:shop:b",
        "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "b"}}}));
    let (writer, reader) = identity(IdentityState::default());
    let writer = Arc::new(writer);
    let config = CaClientConfig {
        id: id("spiffe://td/ns/shop/sa/b"),
        address: world.address.to_string(),
        ca: id(OWN),
        bootstrap: Bootstrap::Bundle(bundle),
        token: Token::Text(token.into()),
    };
    let client = CaClient::new(config, reader.clone(), &crypto(), world.clock.shared()).unwrap();
    let (_status, watch) = client.watch(Arc::clone(&writer), || 0.5, std::future::pending());
    tokio::spawn(watch);
    let mut reader = reader;
    let first = reader.changed().await.unwrap();
    let now = world.clock.now();
    validate(&chain, &first, now, Usage::Client, &crypto()).unwrap();
    world.ca.revoke_id(&id(CART)).await.unwrap();
    let then = reader.changed().await.unwrap();
    let refused = validate(&chain, &then, now, Usage::Client, &crypto()).unwrap_err();
    assert!(matches!(refused, Rejected::Revoked { .. }), "{refused}");
}

/// All members of a mesh whose root is compromised are re-keyed, at the CA's pace.
///
/// `MESH_MEMBERS` says how many; 60 if it is not set.
#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_is_re_keyed_after_a_compromise_at_the_cas_pace() {
    let members: u32 = std::env::var("MESH_MEMBERS").map_or(60, |n| n.parse().unwrap());
    let world = world_with(|config| ServerConfigOf {
        // Joining is not what is measured.
        rate: if members > 60 { 50 } else { 30 },
        ..config
    })
    .await;
    let crypto = crypto();
    let mut readers = Vec::new();
    for n in 0..members {
        let name = format!("m{n}");
        let token = world.token(json!({
            "sub": format!("system:serviceaccount:shop:{name}"),
            "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": name}},
        }));
        let (writer, reader) = identity(IdentityState::default());
        let writer = Arc::new(writer);
        let whose = id(&format!("spiffe://td/ns/shop/sa/{name}"));
        let config = CaClientConfig {
            id: whose.clone(),
            address: world.address.to_string(),
            ca: id(OWN),
            bootstrap: Bootstrap::Bundle(world.bundle.clone()),
            token: Token::Text(token.into()),
        };
        let client = CaClient::new(config, reader.clone(), &crypto, world.clock.shared()).unwrap();
        let draw = move || f64::from(n) / f64::from(members);
        let rotation = Rotation::new(whose, client.clone(), &crypto, world.clock.shared(), draw);
        tokio::spawn(rotation.run(Arc::clone(&writer), std::future::pending()));
        let (mut watched, watch) = client.watch(writer, draw, std::future::pending());
        let mut joined = reader.clone();
        readers.push(tokio::spawn(async move {
            while joined.load().default_svid().is_none() {
                joined.changed().await.unwrap();
            }
            tokio::spawn(watch);
            while !watched.load().connected {
                watched.changed().await.unwrap();
            }
            joined
        }));
    }
    let mut joined = Vec::new();
    for reader in readers {
        joined.push(reader.await.unwrap());
    }
    world.clock.advance(secs(10));
    let old = world.bundle.roots()[0].key_id();
    let begin = Instant::now();
    world.ca.distrust(old, None).await.unwrap();
    let new = world.ca.published().borrow().active.clone();
    let mut last = Duration::ZERO;
    for mut reader in joined {
        loop {
            let state = reader.load();
            let svid = state.default_svid().unwrap();
            let now = world.clock.now();
            let verdict = validate(svid.chain(), &state, now, Usage::Server, &crypto);
            if verdict.is_ok_and(|verified| verified.root_key_id == new) {
                break;
            }
            reader.changed().await.unwrap();
        }
        last = last.max(begin.elapsed());
    }
    println!("{members} members re-keyed {last:?} after their root was distrusted");
    assert!(last < secs(60), "{last:?}");
}

// === the server ===

#[tokio::test]
async fn only_the_ca_itself_is_asked() {
    let world = world().await;
    let (_, reader) = identity(IdentityState::default());
    let config = |ca: &str, address: &str, bundle: &TrustBundle| CaClientConfig {
        id: id(CART),
        address: address.to_owned(),
        ca: id(ca),
        bootstrap: Bootstrap::Bundle(bundle.clone()),
        token: Token::Text(world.token(json!({})).into()),
    };
    let ask = async |config| {
        let client = CaClient::new(config, reader.clone(), &crypto(), world.clock.shared());
        world
            .obtain(&client.unwrap())
            .await
            .unwrap_err()
            .to_string()
    };
    let address = world.address.to_string();
    let error = ask(config("spiffe://td/other", &address, &world.bundle)).await;
    assert!(error.contains("spiffe://td/other was expected"), "{error}");
    let stranger = crate::testing::Ca::new("stranger").bundle("td");
    let error = ask(config(OWN, &address, &stranger)).await;
    assert!(error.contains("certificate was refused"), "{error}");
    let error = ask(config(OWN, "127.0.0.1:1", &world.bundle)).await;
    assert!(error.contains("cannot be reached"), "{error}");

    // A server that answers with garbage.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        let _ = stream.read(&mut [0; 64]).await;
    });
    let error = ask(config(OWN, &address, &world.bundle)).await;
    assert!(error.contains("does not speak TLS"), "{error}");
}

#[tokio::test]
async fn strangers_that_say_nothing_are_let_go() {
    let world = world_with(|config| ServerConfigOf {
        connections: 2,
        ..config
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(world.address).await.unwrap());
    }
    // Both places are taken by handshakes that never come; the next one waits until they time out.
    let begin = Instant::now();
    let (client, _writer) = world.client(Token::Text(world.token(json!({})).into()));
    let answered = loop {
        match world.obtain(&client).await {
            Ok(_) => break begin.elapsed(),
            Err(error) => assert!(begin.elapsed() < secs(30), "{error}"),
        }
    };
    assert!(answered > secs(2), "{answered:?}");
    let ended = silent[0].read(&mut [0; 8]).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

// === the operator ===

#[tokio::test]
async fn an_operator_sees_and_drives_the_ca() {
    use std::os::unix::fs::PermissionsExt;

    use crate::ca::admin::{AdminClient, AdminError, AdminSocket, SOCKET};
    use crate::ca::state::Step;

    let world = world().await;
    let dir = tempfile::tempdir().unwrap();
    let missing = AdminClient::connect(dir.path()).await.unwrap_err();
    assert!(matches!(missing, AdminError::Connect { .. }), "{missing}");
    // The socket of a process that is gone is replaced.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap());
    let socket = AdminSocket::bind(dir.path()).unwrap();
    let mode = dir
        .path()
        .join(SOCKET)
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(socket.serve(Arc::clone(&world.ca), async {
        let _ = stopped.await;
    }));
    let admin = AdminClient::connect(dir.path()).await.unwrap();
    let status = async |admin: &AdminClient| -> Value {
        serde_json::from_str(&admin.status().await.unwrap()).unwrap()
    };

    let token = admin.create_token(&id(CART), secs(60)).await.unwrap();
    assert_eq!(status(&admin).await["openTokens"], 1);
    let (client, _writer) = world.client(Token::Text(token));
    world.obtain(&client).await.unwrap();
    let error = admin
        .create_token(&id("spiffe://other/a"), secs(60))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("trust domain td"), "{error}");

    let refused = admin
        .rotate(Some(Step::Activate), false, None)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("no rotation is running"),
        "{refused}"
    );
    assert_eq!(admin.rotate(None, false, None).await.unwrap(), "prepare");
    let early = admin
        .rotate(None, false, None)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        early.contains("activate waits until") && early.contains(CART),
        "{early}"
    );
    let shown = status(&admin).await;
    assert_eq!(shown["waitsFor"]["members"][0]["name"], client.instance());
    assert_eq!(shown["authorities"][1]["stage"], "published");
    assert_eq!(
        admin
            .rotate(Some(Step::Activate), true, None)
            .await
            .unwrap(),
        "activate"
    );
    let garbage = Some(b"no certificate".to_vec().into());
    let error = admin.rotate(None, false, garbage).await.unwrap_err();
    assert!(error.to_string().contains("PEM"), "{error}");

    distrusts_and_recovers(&world, &admin).await;
    stop.send(()).unwrap();
    serving.await.unwrap();
    assert!(!dir.path().join(SOCKET).exists(), "nothing is left behind");
}

async fn distrusts_and_recovers(world: &World, admin: &crate::ca::admin::AdminClient) {
    let status =
        async || -> Value { serde_json::from_str(&admin.status().await.unwrap()).unwrap() };
    let old = world.bundle.roots()[0].key_id();
    admin.distrust(old, None).await.unwrap();
    let unknown = admin.distrust(old, None).await.unwrap_err();
    assert!(
        unknown.to_string().contains("no authority has the key"),
        "{unknown}"
    );
    admin.recover(secs(60), secs(3600)).await.unwrap();
    assert!(status().await["recovery"]["until"].is_u64());
    admin.recover(secs(0), secs(0)).await.unwrap();
    assert!(status().await["recovery"].is_null());
}
