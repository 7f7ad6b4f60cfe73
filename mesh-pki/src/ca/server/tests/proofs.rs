//! Calls that bring a certificate and a token at once, as a client of Istio's may.

use rustls_pki_types::CertificateDer;

use super::*;
use crate::testing::{Ca as Signer, leaf};

/// A certificate and its key, to be presented again and again.
#[derive(Clone)]
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: zeroize::Zeroizing<String>,
    serial: String,
}

impl Shown {
    fn of(svid: &X509Svid) -> Self {
        Self {
            chain: svid.chain().to_vec(),
            key: svid.key().to_secret_pem(),
            serial: svid.serial().to_owned(),
        }
    }

    fn foreign() -> Self {
        Self::of(&leaf(CART).svid(&Signer::new("foreign")))
    }

    fn svid(&self) -> X509Svid {
        let key = PrivateKey::from_pem(self.key.as_bytes()).unwrap();
        X509Svid::from_der(self.chain.clone(), key, None, &crypto()).unwrap()
    }
}

/// One call over a connection, with so many tokens; else what is said.
async fn call(
    connection: Plain,
    csr: &str,
    tokens: &[&str],
) -> Result<IstioCertificateResponse, (Code, String)> {
    let origin = http::Uri::from_static("https://istiod.istio-system.svc");
    let mut request = tonic::Request::new(IstioCertificateRequest {
        csr: csr.to_owned(),
        validity_duration: 60,
        metadata: None,
    });
    for token in tokens {
        let bearer = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
        request.metadata_mut().append("authorization", bearer);
    }
    let mut client = IstioCertificateServiceClient::with_origin(connection, origin);
    let answer = client.create_certificate(request).await;
    let refused = |status: Status| (status.code(), status.message().to_owned());
    answer.map(tonic::Response::into_inner).map_err(refused)
}

impl World {
    /// An SVID of [`CART`] from this CA that lives for 60 s.
    async fn short(&self) -> Shown {
        let (key, csr) = csr::generate(&id(CART), &crypto()).unwrap();
        let token = self.token(json!({}));
        let answer = call(self.stranger().await, &csr.to_pem(), &[&token]).await;
        let chain = answer.unwrap().cert_chain[..2].concat();
        let key = key.to_secret_pem();
        Shown::of(&X509Svid::from_pem(chain.as_bytes(), key.as_bytes(), &crypto()).unwrap())
    }

    /// A call with a certificate and so many tokens; else what is said.
    async fn both(&self, shown: &Shown, tokens: &[&str]) -> Result<(), (Code, String)> {
        let state = IdentityState::new(shown.svid(), self.trust().into());
        let connection = self.connected(state).await;
        call(connection, &csr_pem(), tokens).await.map(drop)
    }

    /// The first root of this CA and those of now: its server is under either while it takes a new one over.
    fn trust(&self) -> TrustBundle {
        let now = self.ca.published().borrow().bundle.clone();
        let mut roots = self.bundle.roots().to_vec();
        roots.extend(now.roots().iter().cloned());
        let mut ders: Vec<_> = roots.iter().map(|root| root.der().clone()).collect();
        ders.dedup();
        TrustBundle::new(domain("td"), ders).unwrap()
    }

    fn failed(&self, method: Method) -> u64 {
        let failed = &self.counts.load().attestations_failed;
        failed.get(&method).copied().unwrap_or_default()
    }
}

#[track_caller]
fn refused(answer: Result<(), (Code, String)>, code: Code, words: &[&str]) {
    let (got, said) = answer.unwrap_err();
    assert_eq!(got, code, "{said}");
    for word in words {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[tokio::test]
async fn a_token_counts_beside_a_certificate_of_another_ca() {
    let world = world().await;
    let foreign = Shown::foreign();
    let (good, bad) = (world.token(json!({})), world.token(json!({"aud": ["x"]})));
    let no = Code::Unauthenticated;

    world.both(&foreign, &[&good]).await.unwrap();
    assert_eq!(world.failed(Method::Certificate), 1);
    let join = world.join_token().await;
    world.both(&foreign, &[&join]).await.unwrap();
    let both = &["unknown authority", "the token beside it: ", "used already"];
    refused(world.both(&foreign, &[&join]).await, no, both);
    let both = &["unknown authority", "the token beside it: "];
    refused(world.both(&foreign, &[&bad]).await, no, both);
    assert_eq!(world.failed(Method::Certificate), 4);
    assert_eq!(world.failed(Method::JoinToken), 1);
    assert_eq!(world.failed(Method::Kubernetes), 1);
    // Without exactly one token nothing stands beside it.
    for tokens in [&[][..], &[&*good, &*good]] {
        refused(
            world.both(&foreign, tokens).await,
            no,
            &["unknown authority"],
        );
    }
    assert_eq!(world.failed(Method::Certificate), 6);
    assert_eq!(world.failed(Method::None), 0);
    // A token that earns no ID does not earn the one that the certificate claims.
    let other = json!({"iss": "https://ci", "sub": "repo:evil"});
    let other = world.token(other);
    refused(
        world.both(&foreign, &[&other]).await,
        Code::PermissionDenied,
        &["no rule"],
    );
}

#[tokio::test]
async fn a_token_counts_beside_a_certificate_that_has_ended() {
    let world = world().await;
    let (good, bad) = (world.token(json!({})), world.token(json!({"aud": ["x"]})));
    let no = Code::Unauthenticated;
    let shown = world.short().await;
    world.clock.advance(secs(100));
    refused(world.both(&shown, &[]).await, no, &[CART, "expired"]);
    refused(
        world.both(&shown, &[&bad]).await,
        no,
        &["expired", "the token beside it"],
    );
    world.both(&shown, &[&good]).await.unwrap();

    // In a window it is the proof itself, and the token is not looked at; but not one that ended before.
    let window = |expired| Some(Window::new(world.clock.now(), secs(600), secs(expired)));
    world.ca.recover(window(10)).await.unwrap();
    refused(world.both(&shown, &[]).await, no, &["expired"]);
    world.both(&shown, &[&good]).await.unwrap();
    world.ca.recover(window(60)).await.unwrap();
    world.both(&shown, &[]).await.unwrap();
    world.both(&shown, &[&bad]).await.unwrap();
    world.ca.recover(None).await.unwrap();
    refused(world.both(&shown, &[]).await, no, &["expired"]);
}

/// A connection is not judged once: what it may do changes with the CA.
#[tokio::test]
async fn each_call_of_a_connection_is_judged_by_its_own_moment() {
    let world = world().await;
    let shown = world.short().await;
    let state = IdentityState::new(shown.svid(), world.trust().into());
    let Plain(sender) = world.connected(state).await;
    let ask = async |tokens: &[&str]| {
        call(Plain(sender.clone()), &csr_pem(), tokens)
            .await
            .map(drop)
    };
    ask(&[]).await.unwrap();
    world.clock.advance(secs(100));
    refused(ask(&[]).await, Code::Unauthenticated, &["expired"]);
    let good = world.token(json!({}));
    ask(&[&good]).await.unwrap();
    let window = Window::new(world.clock.now(), secs(600), secs(600));
    world.ca.recover(Some(window)).await.unwrap();
    ask(&[]).await.unwrap();
    world.ca.revoke(&shown.serial).await.unwrap();
    for tokens in [&[][..], &[&*good]] {
        let (_, said) = ask(tokens).await.unwrap_err();
        assert!(said.contains("revoked"), "{said}");
    }
}

/// A certificate that is good is the proof, whatever stands beside it.
#[tokio::test]
async fn a_good_certificate_spends_no_token() {
    let world = world().await;
    let (join, shown) = (world.join_token().await, world.short().await);
    world.both(&shown, &[&join]).await.unwrap();
    world.both(&shown, &["rubbish"]).await.unwrap();
    let stranger = world.stranger().await;
    call(stranger, &csr_pem(), &[&join]).await.unwrap();
}

/// What is revoked stays out, also where it has ended since, and no token is spent on it.
#[tokio::test]
async fn no_token_takes_a_revocation_back() {
    let world = world().await;
    let good = world.token(json!({}));
    let (one, two) = (world.short().await, world.short().await);
    world.ca.revoke(&one.serial).await.unwrap();
    let join = world.join_token().await;
    let denied = async |shown: &Shown, word: &str| {
        for tokens in [&[][..], &[&*good], &[&**join]] {
            let (code, said) = world.both(shown, tokens).await.unwrap_err();
            let denies = matches!(code, Code::Unauthenticated | Code::PermissionDenied);
            assert!(denies && said.contains(word), "{code}: {said}");
            assert!(!said.contains("token"), "{said}");
        }
    };
    denied(&one, "revoked").await;
    world.both(&two, &[]).await.unwrap();
    world.clock.advance(secs(100));
    denied(&one, "revoked").await;
    world.both(&two, &[&good]).await.unwrap();

    let three = world.short().await;
    world.clock.advance(secs(100));
    world.ca.revoke_id(&id(CART)).await.unwrap();
    denied(&two, "revoked").await;
    denied(&three, "revoked").await;
    // The same ID without its revoked certificate earns a new one, which begins with the next second.
    world.clock.advance(secs(1));
    let new = world.short().await;
    world.both(&new, &[]).await.unwrap();

    let old = world.bundle.roots()[0].key_id();
    world.ca.distrust(old, None).await.unwrap();
    let begin = Instant::now();
    // The CA's own server takes the bundle over within moments.
    while world.both(&new, &[]).await.is_ok() {
        assert!(begin.elapsed() < secs(10));
    }
    denied(&new, "distrusted").await;
}

/// A place is an ID's only once the ID is proven.
#[tokio::test]
async fn a_certificate_that_proves_nothing_takes_no_place_of_its_id() {
    let world = world_with(|config| ServerConfigOf {
        connections: 8,
        ..config
    })
    .await;
    // Two places are the share of one address, and of one ID.
    let foreign = IdentityState::new(Shown::foreign().svid(), world.trust().into());
    let Plain(held) = world.connected(foreign).await;
    let good = world.token(json!({}));
    for _ in 0..3 {
        let refusal = call(Plain(held.clone()), &csr_pem(), &[]).await;
        refused(
            refusal.map(drop),
            Code::Unauthenticated,
            &["unknown authority"],
        );
    }
    let mut proven = Vec::new();
    for _ in 0..2 {
        let Plain(sender) = world.stranger().await;
        call(Plain(sender.clone()), &csr_pem(), &[&good])
            .await
            .unwrap();
        proven.push(sender);
    }
    let third = call(world.stranger().await, &csr_pem(), &[&good]).await;
    let (code, said) = third.unwrap_err();
    assert!(
        code == Code::ResourceExhausted && said.contains("of this ID"),
        "{said}"
    );
}
