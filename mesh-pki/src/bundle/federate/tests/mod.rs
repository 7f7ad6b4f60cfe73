//! The decisions in tables; fetching and keeping before servers on loopback that tell the truth, lie,
//! or send us away.

use std::convert::Infallible;
use std::future::pending;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::LOCATION;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::SanType;
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::address::{Reach, may_redirect, reach};
use super::endpoint::BundleEndpoint;
use super::fetch::{Fetch, Fetching, OverHttps, ServerProof};
use super::*;
use crate::bundle::BundleSet;
use crate::bundle::jwks::{BundleJsonError, MAX_BUNDLE_LEN};
use crate::clock::ManualClock;
use crate::status::StatusReader;
use crate::store::{IdentityReader, IdentityState, IdentityWriter, identity};
use crate::svid::Rejected;
use crate::testing::{Ca, crypto, domain, id, leaf, minutes, noon};
use crate::tls::{self, ClientAuth, HandshakeError};

mod alerts;
#[cfg(unix)]
mod keep;
mod web;

const SERVER: &str = "spiffe://other.example/bundle-server";

type Answer = Response<Full<Bytes>>;

/// A server on loopback that answers as a test says.
struct Server {
    port: u16,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Answers the request number n (from 0) for a path with `answer`.
    async fn new(
        tls: Arc<ServerConfig>,
        answer: impl Fn(usize, &str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // A client that does not like us goes away here.
                let Ok(stream) = TlsAcceptor::from(Arc::clone(&tls)).accept(stream).await else {
                    continue;
                };
                let service = service_fn(|request: Request<_>| {
                    let nth = count.fetch_add(1, Ordering::SeqCst);
                    let answer = answer(nth, request.uri().path());
                    async { Ok::<_, Infallible>(answer) }
                });
                let _gone = http1::Builder::new()
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        });
        Self { port, asked, task }
    }

    fn url(&self, host: &str, path: &str) -> BundleUrl {
        format!("https://{host}:{}{path}", self.port)
            .parse()
            .unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// The server side of https_spiffe for `own`, certified by `ca`.
fn spiffe_tls(ca: &Ca, own: &str) -> Arc<ServerConfig> {
    let trust = BundleSet::new();
    let (_, reader) = identity(IdentityState::new(leaf(own).svid(ca), trust));
    let clock = ManualClock::new(noon()).shared();
    tls::server_config_at(
        reader,
        &crypto(),
        &[b"http/1.1"],
        ClientAuth::Optional,
        clock,
    )
}

/// The server side of https_web for these names, certified by `ca`.
fn web_tls(ca: &Ca, names: Vec<SanType>) -> Arc<ServerConfig> {
    let draft = leaf("spiffe://unused/x").with(|params| params.subject_alt_names = names);
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(draft.key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::clone(crypto().provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![draft.signed_by(ca)], key)
        .unwrap();
    Arc::new(config)
}

fn ok(body: impl Into<Bytes>) -> Answer {
    Response::new(Full::new(body.into()))
}

fn status(status: u16) -> Answer {
    let mut answer = ok("nothing");
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

fn redirect(status_code: u16, to: &str) -> Answer {
    let mut answer = status(status_code);
    let to = HeaderValue::from_str(to).unwrap();
    answer.headers_mut().insert(LOCATION, to);
    answer
}

fn json(bundle: &TrustBundle) -> String {
    bundle.to_json().unwrap()
}

/// The proof that a server is [`SERVER`], certified by `ca`.
fn by_id(ca: &Ca) -> impl Fn() -> ServerProof {
    let bundle = ca.bundle("other.example");
    move || ServerProof::Spiffe {
        id: id(SERVER),
        bundle: bundle.clone(),
    }
}

/// Fetches over HTTPS, with `web` as the only root of the web.
async fn get_by(url: &BundleUrl, proof: ServerProof, web: &Ca) -> Result<TrustBundle, FetchError> {
    let clock = ManualClock::new(noon()).shared();
    let way = OverHttps::new(vec![web.cert.clone()], &crypto(), clock).unwrap();
    let relationship = Relationship::new(domain("other.example"), url.clone(), Profile::Web);
    way.fetch(&relationship.unwrap(), proof).await
}

async fn get(url: &BundleUrl, proof: &impl Fn() -> ServerProof) -> Result<TrustBundle, FetchError> {
    get_by(url, proof(), &Ca::new("unused")).await
}

// === decisions ===

#[test]
fn addresses_of_bundles_are_https_without_user() {
    for (text, expected) in [
        ("https://a.example/bundle", Ok("https://a.example/bundle")),
        ("https://A.example", Ok("https://a.example/")),
        (
            "HTTPS://a.example:8443/x?y=z",
            Ok("https://a.example:8443/x?y=z"),
        ),
        ("https://a.example:443/", Ok("https://a.example/")),
        ("https://[::1]:8443/", Ok("https://[::1]:8443/")),
        ("https://10.0.0.1/", Ok("https://10.0.0.1/")),
        ("http://a.example/", Err(UrlError::Scheme)),
        ("spiffe://a.example/", Err(UrlError::Scheme)),
        ("/bundle", Err(UrlError::Scheme)),
        ("https://user@a.example/", Err(UrlError::UserInfo)),
        ("https://user:word@a.example/", Err(UrlError::UserInfo)),
        ("https://@a.example/", Err(UrlError::UserInfo)),
        ("https://a.example/#x", Err(UrlError::Fragment)),
        ("https://", Err(UrlError::Malformed)),
        ("https:///x", Err(UrlError::Malformed)),
        ("https://a.example:0/", Err(UrlError::Malformed)),
        ("https://a.example:99999/", Err(UrlError::Malformed)),
        ("https://a.example:/", Err(UrlError::Malformed)),
        ("https://a b/", Err(UrlError::Malformed)),
        ("", Err(UrlError::Malformed)),
    ] {
        let got = text.parse::<BundleUrl>().map(|url| url.to_string());
        assert_eq!(
            got.as_deref(),
            expected.as_ref().map(|text| *text),
            "{text}"
        );
    }
    let long = format!("https://a.example/{}", "x".repeat(2048));
    assert_eq!(
        long.parse::<BundleUrl>(),
        Err(UrlError::TooLong { got: long.len() })
    );
    assert_eq!("https://[::1]/".parse::<BundleUrl>().unwrap().host(), "::1");
}

#[test]
fn redirects_lead_into_the_open_or_nowhere_new() {
    for (text, expected) in [
        ("127.0.0.1", Reach::Loopback),
        ("127.255.0.9", Reach::Loopback),
        ("::1", Reach::Loopback),
        ("::ffff:127.0.0.1", Reach::Loopback),
        ("10.1.2.3", Reach::Private),
        ("172.16.0.1", Reach::Private),
        ("172.31.255.255", Reach::Private),
        ("192.168.0.1", Reach::Private),
        ("100.64.0.1", Reach::Private),
        ("fd00::1", Reach::Private),
        ("::ffff:10.0.0.1", Reach::Private),
        ("8.8.8.8", Reach::Public),
        ("172.32.0.1", Reach::Public),
        ("100.128.0.1", Reach::Public),
        ("2a00::1", Reach::Public),
        ("169.254.169.254", Reach::Special),
        ("::ffff:169.254.169.254", Reach::Special),
        ("fe80::1", Reach::Special),
        ("fd00:ec2::254", Reach::Private),
        ("0.0.0.0", Reach::Special),
        ("::", Reach::Special),
        ("224.0.0.1", Reach::Special),
        ("255.255.255.255", Reach::Special),
        ("192.0.2.1", Reach::Special),
        ("ff02::1", Reach::Special),
        ("2002:a00:1::", Reach::Special),
        ("64:ff9b::a00:1", Reach::Special),
    ] {
        let ip: IpAddr = text.parse().unwrap();
        assert_eq!(reach(ip), expected, "{text}");
    }
    let all = [
        Reach::Loopback,
        Reach::Private,
        Reach::Public,
        Reach::Special,
    ];
    for from in all {
        for to in all {
            let expected = to == Reach::Public || (to == from && to != Reach::Special);
            assert_eq!(may_redirect(from, to), expected, "{from:?} {to:?}");
        }
    }
}

#[test]
fn a_sequence_number_never_goes_back() {
    let bundle = |sequence: Option<u64>| {
        let bundle = TrustBundle::distrusted(domain("td"));
        match sequence {
            Some(number) => bundle.with_sequence(number),
            None => bundle,
        }
    };
    for (before, fetched, expected) in [
        (None, Some(0), Ok(())),
        (None, None, Ok(())),
        (Some(None), None, Ok(())),
        (Some(None), Some(1), Ok(())),
        (Some(Some(7)), Some(7), Ok(())),
        (Some(Some(7)), Some(u64::MAX), Ok(())),
        (
            Some(Some(7)),
            Some(6),
            Err(Stale::WentBack { had: 7, got: 6 }),
        ),
        (Some(Some(7)), None, Err(Stale::Without { had: 7 })),
    ] {
        let before = before.map(bundle);
        assert_eq!(decide(before.as_ref(), &bundle(fetched)), expected);
    }
}

#[test]
fn an_owner_says_how_often_within_bounds() {
    let secs = Duration::from_secs;
    let day = secs(86_400);
    for (hint, max_age, draw, expected) in [
        (None, day, 0.0, DEFAULT_REFRESH),
        (None, day, 1.0, secs(270)),
        (Some(secs(0)), day, 0.0, secs(10)),
        (Some(secs(60)), day, 0.0, secs(60)),
        (Some(Duration::MAX), day, 0.0, secs(3_600)),
        (Some(secs(3_600)), secs(60), 0.0, secs(15)),
        (None, day, f64::NAN, DEFAULT_REFRESH),
        (None, day, -5.0, DEFAULT_REFRESH),
        (None, day, 9.0, secs(270)),
    ] {
        assert_eq!(
            refresh_after(hint, max_age, draw),
            expected,
            "{hint:?} {draw}"
        );
    }
}

#[test]
fn relationships_fit_together() {
    let url: BundleUrl = "https://a.example/".parse().unwrap();
    let new = |id: SpiffeId, bootstrap| {
        let profile = Profile::Spiffe { id, bootstrap };
        Relationship::new(domain("other.example"), url.clone(), profile)
    };
    let root = id("spiffe://other.example");
    assert_eq!(
        new(root.clone(), None).unwrap_err(),
        RelationshipError::NoPath { id: root }
    );
    let error = new(id(SERVER), Some(Ca::new("root").bundle("td"))).unwrap_err();
    let (got, expected) = (domain("td"), domain("other.example"));
    assert_eq!(error, RelationshipError::Bootstrap { got, expected });

    let one = || Relationship::new(domain("other.example"), url.clone(), Profile::Web).unwrap();
    let clock = || ManualClock::new(noon()).shared();
    let twice = Federation::new(vec![one(), one()], [], &crypto(), clock(), || 0.0);
    let trust_domain = domain("other.example");
    assert_eq!(
        twice.unwrap_err(),
        RelationshipError::Twice { trust_domain }
    );
    let roots = [vec![0x30, 0].into()];
    let rubbish = Federation::new(vec![one()], roots, &crypto(), clock(), || 0.0);
    assert!(matches!(
        rubbish,
        Err(RelationshipError::Root(BadRoot { index: 0 }))
    ));
}

// === fetching ===

#[tokio::test]
async fn an_endpoint_is_who_was_configured() {
    let ca = Ca::new("root");
    let bundle = ca.bundle("other.example").with_sequence(1);
    let text = json(&bundle);
    let server = {
        let text = text.clone();
        Server::new(spiffe_tls(&ca, SERVER), move |_, _| ok(text.clone())).await
    };
    assert_eq!(
        get(&server.url("127.0.0.1", "/"), &by_id(&ca))
            .await
            .unwrap(),
        bundle
    );
    // The name of the host says nothing about its ID.
    assert_eq!(
        get(&server.url("localhost", "/x"), &by_id(&ca))
            .await
            .unwrap(),
        bundle
    );
    assert_eq!(server.asked(), 2);

    // Verified by another root: it is asked nothing.
    let stranger = get(&server.url("127.0.0.1", "/"), &by_id(&Ca::new("other")))
        .await
        .unwrap_err();
    assert!(
        matches!(
            &stranger,
            FetchError::Tls {
                source: HandshakeError::Rejected(Rejected::UnknownIssuer { .. }),
                ..
            }
        ),
        "{stranger}"
    );
    // Of the right domain, with another ID.
    let other = "spiffe://other.example/stranger";
    let wrong = Server::new(spiffe_tls(&ca, other), move |_, _| ok(text.clone())).await;
    let error = get(&wrong.url("127.0.0.1", "/"), &by_id(&ca))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, FetchError::WrongId { got, .. } if got.as_str() == other),
        "{error}"
    );
    assert_eq!((server.asked(), wrong.asked()), (2, 0));
}

#[tokio::test]
async fn a_web_endpoint_is_its_host_under_the_roots_of_the_web() {
    let (ca, own) = (Ca::new("web"), Ca::new("root"));
    let bundle = own.bundle("other.example");
    let text = json(&bundle);
    let names = vec![SanType::DnsName("localhost".try_into().unwrap())];
    let server = Server::new(web_tls(&ca, names), move |_, _| ok(text.clone())).await;
    let url = |host| server.url(host, "/");
    let fetched = get_by(&url("localhost"), ServerProof::Web, &ca).await;
    assert_eq!(fetched.unwrap(), bundle);
    // Another name of the same server, and a root that does not vouch for it.
    for (host, root) in [("127.0.0.1", &ca), ("localhost", &own)] {
        let error = get_by(&url(host), ServerProof::Web, root)
            .await
            .unwrap_err();
        assert!(matches!(error, FetchError::Tls { .. }), "{error}");
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn redirects_are_followed_under_the_same_rules() {
    let ca = Ca::new("root");
    let bundle = ca.bundle("other.example");
    let text = json(&bundle);
    let target = Server::new(spiffe_tls(&ca, SERVER), move |_, _| ok(text.clone())).await;
    let stranger = spiffe_tls(&ca, "spiffe://other.example/stranger");
    let stranger = Server::new(stranger, |_, _| ok("{}")).await;
    let places = [
        ("/moved", target.url("127.0.0.1", "/").to_string()),
        ("/here", "/moved".to_owned()),
        ("/stranger", stranger.url("127.0.0.1", "/").to_string()),
        ("/loop", "/loop".to_owned()),
        ("/plain", "http://127.0.0.1/".to_owned()),
        ("/user", "https://a@127.0.0.1/".to_owned()),
        ("/scheme", "//127.0.0.1/".to_owned()),
        ("/metadata", "https://169.254.169.254/".to_owned()),
        ("/private", "https://10.0.0.1/".to_owned()),
        ("/mapped", "https://[::ffff:10.0.0.1]/".to_owned()),
    ];
    let door = Server::new(spiffe_tls(&ca, SERVER), move |nth, path| {
        let found = places.iter().find(|(from, _)| *from == path);
        let code = [301, 302, 303, 307, 308][nth % 5];
        found.map_or_else(|| status(302), |(_, to)| redirect(code, to))
    })
    .await;
    let verify = by_id(&ca);
    let ask = async |path: &str| get(&door.url("127.0.0.1", path), &verify).await;

    for path in ["/moved", "/here", "/moved", "/moved", "/moved", "/moved"] {
        assert_eq!(ask(path).await.unwrap(), bundle);
    }
    let before = door.asked();
    assert!(matches!(
        ask("/loop").await,
        Err(FetchError::TooManyRedirects)
    ));
    assert_eq!(door.asked() - before, 4);
    assert!(matches!(
        ask("/stranger").await,
        Err(FetchError::WrongId { .. })
    ));
    assert_eq!(stranger.asked(), 0);
    for (path, expected) in [
        ("/plain", UrlError::Scheme),
        ("/user", UrlError::UserInfo),
        ("/scheme", UrlError::Scheme),
        ("/nowhere", UrlError::Malformed),
    ] {
        let error = ask(path).await.unwrap_err();
        assert!(
            matches!(&error, FetchError::Redirect(why) if *why == expected),
            "{path}: {error}"
        );
    }
    for path in ["/metadata", "/private", "/mapped"] {
        let error = ask(path).await.unwrap_err();
        assert!(
            matches!(error, FetchError::ForbiddenRedirect { .. }),
            "{path}: {error}"
        );
    }
}

#[tokio::test]
async fn what_is_no_bundle_is_refused_and_not_repeated() {
    let ca = Ca::new("root");
    let server = Server::new(spiffe_tls(&ca, SERVER), |_, path| match path {
        "/secret" => ok("a-secret-of-stranger"),
        "/large" => ok(vec![b' '; MAX_BUNDLE_LEN + 1]),
        "/gone" => status(404),
        _ => status(500),
    })
    .await;
    let verify = by_id(&ca);
    let ask = async |path: &str| {
        get(&server.url("127.0.0.1", path), &verify)
            .await
            .unwrap_err()
    };
    let error = ask("/secret").await;
    assert!(
        matches!(
            error,
            FetchError::Bundle(BundleJsonError::NotABundle { .. })
        ),
        "{error}"
    );
    assert!(
        !format!("{error} {error:?}").contains("a-secret"),
        "an answer is not echoed"
    );
    assert!(matches!(ask("/large").await, FetchError::TooLarge));
    assert!(matches!(
        ask("/gone").await,
        FetchError::Status { status: 404, .. }
    ));
    assert!(matches!(
        ask("/").await,
        FetchError::Status { status: 500, .. }
    ));
    drop(server);
    let closed: BundleUrl = "https://127.0.0.1:1/".parse().unwrap();
    assert!(matches!(
        get(&closed, &verify).await,
        Err(FetchError::Connect { .. })
    ));
}

// === keeping ===

/// An answer that ends no fetch.
const HANGS: &str = "hangs";

/// A way of fetching whose answers the test gives, and that remembers which proof was asked for.
#[derive(Clone)]
struct Script(Arc<Mutex<(String, Vec<ServerProof>)>>);

impl Script {
    fn new(word: &TrustBundle) -> Self {
        Self(Arc::new(Mutex::new((json(word), Vec::new()))))
    }

    fn say(&self, word: impl Into<String>) {
        self.0.lock().unwrap().0 = word.into();
    }

    fn last_proof(&self) -> ServerProof {
        self.0.lock().unwrap().1.pop().unwrap()
    }
}

impl Fetch for Script {
    fn fetch<'a>(&'a self, relationship: &'a Relationship, proof: ServerProof) -> Fetching<'a> {
        let mut script = self.0.lock().unwrap();
        script.1.push(proof);
        let word = script.0.clone();
        Box::pin(async move {
            if word == HANGS {
                return pending().await;
            }
            let trust_domain = relationship.trust_domain.clone();
            Ok(TrustBundle::from_json(trust_domain, word.as_bytes())?)
        })
    }
}

struct KeptBundle {
    writer: Arc<IdentityWriter>,
    reader: IdentityReader,
    status: StatusReader<FederationStatus>,
    task: JoinHandle<()>,
}

impl Drop for KeptBundle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl KeptBundle {
    fn run(federation: Federation) -> Self {
        let (writer, reader) = identity(IdentityState::default());
        let (writer, status) = (Arc::new(writer), federation.status());
        let task = tokio::spawn(federation.run(Arc::clone(&writer), pending()));
        Self {
            writer,
            reader,
            status,
            task,
        }
    }

    fn new(script: &Script, profile: Profile) -> Self {
        let url = "https://other.example/".parse().unwrap();
        let relationship = Relationship::new(domain("other.example"), url, profile)
            .unwrap()
            .with_max_age(minutes(20));
        let clock = ManualClock::new(noon()).shared();
        Self::run(Federation::with(
            vec![relationship],
            script.clone(),
            clock,
            || 0.0,
        ))
    }

    async fn until(&mut self, holds: impl Fn(&RelationshipStatus) -> bool) -> RelationshipStatus {
        loop {
            let now = self.status.load()[&domain("other.example")].clone();
            if holds(&now) {
                return now;
            }
            self.status.changed().await.unwrap();
        }
    }

    fn bundle(&self) -> Option<TrustBundle> {
        let state = self.reader.load();
        state.bundles().get(&domain("other.example")).cloned()
    }
}

fn own(ca: &Ca) -> Profile {
    let bootstrap = Some(ca.bundle("other.example"));
    Profile::Spiffe {
        id: id(SERVER),
        bootstrap,
    }
}

#[tokio::test(start_paused = true)]
async fn a_lying_server_changes_nothing_and_silence_ends_trust() {
    let ca = Ca::new("root");
    let good = ca.bundle("other.example").with_sequence(7);
    let script = Script::new(&good);
    let begin = tokio::time::Instant::now();
    let mut kept = KeptBundle::new(&script, Profile::Web);
    let now = kept.until(|status| status.fetches == 1).await;
    assert_eq!(
        (now.sequence, now.trusted, now.fetched_at),
        (Some(7), true, Some(noon()))
    );
    assert_eq!(kept.bundle(), Some(good.clone()));
    assert_eq!(
        (now.profile, now.max_age, now.roots, now.refresh_hint),
        ("https_web", minutes(20), 1, None)
    );
    // The manual clock stands still, and there is no hint.
    let now = kept.until(|status| status.next_try.is_some()).await;
    assert_eq!(now.next_try, Some(noon() + DEFAULT_REFRESH));

    // Back in the sequence, without one, rubbish: the last good one stays.
    let other = Ca::new("other").bundle("other.example");
    let lies = [
        json(&other.clone().with_sequence(6)),
        json(&other),
        "{}".to_owned(),
    ];
    for (before, lie) in lies.into_iter().enumerate() {
        script.say(lie);
        kept.until(|status| status.failures == before as u64 + 1)
            .await;
        assert_eq!(kept.bundle(), Some(good.clone()));
    }
    assert_eq!(begin.elapsed(), minutes(15), "every five minutes");

    // What the source of identity says does not take it out.
    kept.writer.set_bundles(Ca::new("own").bundle("td").into());
    assert_eq!(kept.bundle(), Some(good));

    // Too long without a good bundle.
    let now = kept.until(|status| !status.trusted).await;
    assert_eq!((begin.elapsed(), now.failures), (minutes(20), 4));
    assert_eq!((now.roots, now.sequence), (0, Some(7)));
    assert_eq!(kept.bundle(), None);
    assert!(kept.reader.load().bundles().get(&domain("td")).is_some());

    // The number is remembered all the same.
    script.say(json(&other.with_sequence(6)));
    kept.until(|status| status.failures == 5).await;
    assert_eq!(kept.bundle(), None);
    let next = ca.bundle("other.example").with_sequence(8);
    script.say(json(&next));
    kept.until(|status| status.trusted).await;
    assert_eq!(kept.bundle(), Some(next));
}

/// The number says which document is the later one, not which of its keys could be read.
#[tokio::test(start_paused = true)]
async fn a_key_that_is_repaired_under_the_same_number_is_taken() {
    let ca = Ca::new("root");
    let key = json!({
        "use": "jwt-svid", "kty": "EC", "kid": "a", "crv": "P-256",
        "x": "ngLYQnlfF6GsojUwqtcEE3WgTNG2RUlsGhK73RNEl5k",
        "y": "tKbiDSUSsQ3F1P7wteeHNXIcU-cx6CgSbroeQrQHTLM",
    });
    let document = |key: &Value| {
        let bundle = json(&ca.bundle("other.example").with_sequence(7));
        let mut bundle: Value = serde_json::from_str(&bundle).unwrap();
        bundle["keys"].as_array_mut().unwrap().push(key.clone());
        bundle.to_string()
    };
    let script = Script::new(&ca.bundle("other.example").with_sequence(6));
    let mut kept = KeptBundle::new(&script, Profile::Web);
    kept.until(|status| status.fetches == 1).await;
    let mut short = key.clone();
    short["x"] = "AA".into();
    for (fetches, key, keys) in [(2, &key, 1), (3, &short, 0), (4, &key, 1)] {
        script.say(document(key));
        let now = kept.until(|status| status.fetches == fetches).await;
        assert_eq!((now.sequence, now.roots, now.failures), (Some(7), 1, 0));
        assert_eq!(kept.bundle().unwrap().jwt_keys().len(), keys);
    }
}

#[tokio::test(start_paused = true)]
async fn a_bundle_without_keys_distrusts_and_nobody_speaks_for_our_own() {
    let ca = Ca::new("root");
    let script = Script::new(&ca.bundle("other.example"));
    let mut kept = KeptBundle::new(&script, Profile::Web);
    kept.until(|status| status.fetches == 1).await;
    assert!(!kept.bundle().unwrap().is_distrusted());
    script.say(r#"{"keys":[]}"#);
    kept.until(|status| status.fetches == 2).await;
    assert!(kept.bundle().unwrap().is_distrusted());

    // Where the source of identity has a bundle of the same domain, that one counts.
    let own = Ca::new("own").bundle("other.example");
    kept.writer.set_bundle(own.clone());
    script.say(json(&ca.bundle("other.example")));
    kept.until(|status| status.fetches == 3).await;
    assert_eq!(kept.bundle(), Some(own));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_of_its_own_domain_is_verified_by_its_latest_bundle() {
    let (first, second) = (Ca::new("first"), Ca::new("second"));
    let roots = [first.cert.clone(), second.cert.clone()];
    let both = TrustBundle::new(domain("other.example"), roots).unwrap();
    let script = Script::new(&both);
    let mut kept = KeptBundle::new(&script, own(&first));
    kept.until(|status| status.fetches == 1).await;
    assert_eq!(script.last_proof(), by_id(&first)(), "the bootstrap bundle");
    let last = second.bundle("other.example");
    script.say(json(&last));
    let with = |bundle| ServerProof::Spiffe {
        id: id(SERVER),
        bundle,
    };
    kept.until(|status| status.fetches == 2).await;
    assert_eq!(script.last_proof(), with(both));
    kept.until(|status| status.fetches == 3).await;
    assert_eq!(script.last_proof(), with(last));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_of_a_third_domain_is_verified_by_what_the_store_has() {
    let (third, ca) = (Ca::new("third"), Ca::new("root"));
    let script = Script::new(&ca.bundle("other.example"));
    let server = id("spiffe://third.example/bundle-server");
    let profile = Profile::Spiffe {
        id: server.clone(),
        bootstrap: None,
    };
    let mut kept = KeptBundle::new(&script, profile);
    let now = kept.until(|status| status.failures == 1).await;
    let error = now.last_error.unwrap().to_string();
    assert!(error.contains("no bundle of third.example"), "{error}");
    let bundle = third.bundle("third.example");
    kept.writer.set_bundle(bundle.clone());
    // While there is none at all, it does not take a whole turn until the next attempt.
    let begin = tokio::time::Instant::now();
    kept.until(|status| status.fetches == 1).await;
    assert_eq!(begin.elapsed(), Duration::from_secs(1));
    assert_eq!(
        script.last_proof(),
        ServerProof::Spiffe { id: server, bundle }
    );
    assert_eq!(kept.bundle(), Some(ca.bundle("other.example")));
}

#[tokio::test]
async fn a_relationship_is_kept_over_real_sockets() {
    let ca = Ca::new("root");
    let bundle = ca.bundle("other.example");
    let text = json(&bundle);
    let server = Server::new(spiffe_tls(&ca, SERVER), move |_, _| ok(text.clone())).await;
    let url = server.url("127.0.0.1", "/");
    let relationship = Relationship::new(domain("other.example"), url, own(&ca)).unwrap();
    let clock = ManualClock::new(noon()).shared();
    let federation = Federation::new(vec![relationship], [], &crypto(), clock, || 0.0).unwrap();
    let mut kept = KeptBundle::run(federation);
    kept.until(|status| status.fetches == 1).await;
    assert_eq!(kept.bundle(), Some(bundle));
}

// === serving ===

#[tokio::test]
async fn our_endpoint_serves_our_bundle_as_it_is_now() {
    let ca = Ca::new("root");
    let bundle = ca.bundle("other.example").with_sequence(3);
    let state = IdentityState::new(leaf(SERVER).svid(&ca), bundle.clone().into());
    let (writer, reader) = identity(state);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let clock = ManualClock::new(noon()).shared();
    let endpoint =
        BundleEndpoint::new(domain("other.example"), "/bundle", reader, &crypto(), clock);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(endpoint.serve(listener, async { drop(stopped.await) }));
    let verify = by_id(&ca);
    let ask = async |path: &str| {
        let url = format!("https://127.0.0.1:{port}{path}").parse().unwrap();
        get(&url, &verify).await
    };
    let hinted = bundle.with_refresh_hint(DEFAULT_REFRESH);
    assert_eq!(ask("/bundle").await.unwrap(), hinted);
    assert_eq!(ask("/bundle?x=y").await.unwrap(), hinted);
    for path in ["/", "/bundle/", "/Bundle"] {
        let error = ask(path).await.unwrap_err();
        assert!(
            matches!(error, FetchError::Status { status: 404, .. }),
            "{path}: {error}"
        );
    }
    // A bundle of another domain has no part here.
    writer.set_bundle(Ca::new("foreign").bundle("foreign.example"));
    let next = ca
        .bundle("other.example")
        .with_sequence(4)
        .with_refresh_hint(minutes(1));
    writer.set_bundle(next.clone());
    assert_eq!(ask("/bundle").await.unwrap(), next);
    writer.remove_bundle(&domain("other.example"));
    let error = ask("/bundle").await.unwrap_err();
    assert!(
        matches!(error, FetchError::Status { status: 503, .. }),
        "{error}"
    );
    drop(stop);
    task.await.unwrap();
}
