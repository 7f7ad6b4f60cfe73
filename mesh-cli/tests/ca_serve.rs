//! `mesh ca serve` beside its calls: what it tells in metrics, and what it takes in while it runs.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use http::{Method, StatusCode};
use inmesh_pki::Crypto;
use inmesh_pki::clock::{Clock, SystemClock};
use inmesh_pki::issue::csr;
use inmesh_pki::source::ca::Token;
use inmesh_pki::svid::{Usage, validate};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::ca::{Ca, Member};
use support::{eventually, free, get, no_cluster, publish, said, stderr, stdout, try_send};
use tempfile::TempDir;
use tokio_rustls::rustls::SignatureScheme;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::sign::SigningKey;

const CART: &str = "spiffe://test.local/ns/shop/sa/cart";

/// The metrics of a page by name and labels.
fn read(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().expect("a number"))
    });
    pairs.collect()
}

async fn metrics(at: SocketAddr) -> BTreeMap<String, f64> {
    let page = get(at, "/metrics").await;
    assert_eq!(page.status, StatusCode::OK);
    read(&page.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_a_ca_does_and_what_it_waits_for() {
    let home = TempDir::new().expect("a temporary folder");
    let (address, pages) = (free(), free());
    let more = ["--metrics", &pages.to_string(), "--rate", "2"];
    let ca = Ca::start(home.path(), address, &more).await;
    let status = ca.status();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let root = text(&status["authorities"][0]["keyId"]);
    let issuer = text(&status["authorities"][0]["issuerKeyId"]);
    let begin = metrics(pages).await;
    for (name, value) in [
        ("mesh_ca_leaves_issued_total", 0.0),
        ("mesh_ca_issue_duration_seconds_count", 0.0),
        ("mesh_ca_members", 0.0),
        ("mesh_ca_rotation_stage{stage=\"idle\"}", 1.0),
        ("mesh_ca_rotation_stage{stage=\"distributing\"}", 0.0),
        ("mesh_ca_write_failures_total", 0.0),
    ] {
        assert_eq!(begin.get(name), Some(&value), "{name} in {begin:?}");
    }
    let ends = |kind: &str, id: &str, key_id: &str| {
        let name = "mesh_certificate_expiration_timestamp_seconds";
        let name = format!("{name}{{kind=\"{kind}\",id=\"{id}\",key_id=\"{key_id}\"}}");
        begin.get(&name).copied().map(|at| at as u64)
    };
    let authority = &status["authorities"][0];
    let root_end = ends("root", "test.local", &root);
    assert_eq!(root_end, authority["rootNotAfter"].as_u64(), "{begin:?}");
    let issuer_end = ends("issuer", "test.local", &issuer);
    assert_eq!(issuer_end, authority["issuerNotAfter"].as_u64());
    assert!(ends("leaf", "spiffe://test.local/inmesh/ca", "").is_some());

    // A leaf, two proofs that prove nothing, and more than fit into a second.
    let token = ca.token(CART);
    let member = Member::new(&ca, address, CART, Token::Text(token.clone().into()));
    let leaf = member.renew().await.expect("a leaf");
    for bad in ["inmesh-join-00", "x"] {
        let stranger = Member::new(&ca, address, CART, Token::Text(bad.to_owned().into()));
        stranger.renew().await.expect_err("no proof");
    }
    eventually("a member is asked to come back", async || {
        let _each = tokio::join!(member.renew(), member.renew(), member.renew());
        (metrics(pages).await["mesh_ca_requests_paced_total"] > 0.0).then_some(())
    })
    .await;
    let now = metrics(pages).await;
    let issued = now["mesh_ca_leaves_issued_total"];
    assert!(issued >= 1.0);
    assert_eq!(now["mesh_ca_issue_duration_seconds_count"], issued);
    assert_eq!(
        now["mesh_ca_issue_duration_seconds_bucket{le=\"+Inf\"}"],
        issued
    );
    assert_eq!(
        now["mesh_ca_requests_refused_total{reason=\"attestation\"}"],
        2.0
    );
    for (method, n) in [("join_token", 1.0), ("unknown", 1.0), ("certificate", 0.0)] {
        let name = format!("mesh_ca_attestations_failed_total{{method=\"{method}\"}}");
        assert_eq!(now.get(&name), Some(&n), "{name}");
    }
    assert_eq!(now["mesh_ca_members"], 1.0);
    assert_eq!(now["mesh_ca_members_behind"], 0.0);

    // A rotation waits for the member, which listens to no stream.
    let rotate = ca.operate(&["rotate"]);
    assert!(rotate.status.success(), "{}", stderr(&rotate));
    let now = metrics(pages).await;
    assert_eq!(
        now["mesh_ca_bundle_generation"],
        begin["mesh_ca_bundle_generation"] + 1.0
    );
    assert_eq!(now["mesh_ca_rotation_stage{stage=\"distributing\"}"], 1.0);
    assert_eq!(now["mesh_ca_rotation_missing"], 1.0);
    assert_eq!(now["mesh_ca_members_behind"], 1.0);
    let roots = now.keys().filter(|name| name.contains("kind=\"root\""));
    assert_eq!(roots.count(), 2);

    // The operator sees which member that is.
    let members = ca.operate(&["members", "--json"]);
    assert!(members.status.success(), "{}", stderr(&members));
    let members: Value = serde_json::from_str(&stdout(&members)).expect("JSON");
    assert_eq!(members["more"], 0);
    let member = &members["members"][0];
    assert_eq!(
        (&member["id"], &member["holdsOff"]),
        (&CART.into(), &true.into())
    );
    let generation = begin["mesh_ca_bundle_generation"] as u64;
    assert_eq!(member["generation"].as_u64(), Some(generation));
    assert!(
        member["renewed"].as_u64() < member["until"].as_u64(),
        "{member}"
    );
    let page = stdout(&ca.operate(&["members"]));
    assert!(
        page.starts_with("1 members") && page.contains("holds off the rotation"),
        "{page}"
    );

    // A list for each issuing CA once something is revoked, and none before.
    assert!(!now.keys().any(|name| name.starts_with("mesh_ca_crl")));
    let revoke = ca.operate(&["revoke", leaf.serial()]);
    assert!(revoke.status.success(), "{}", stderr(&revoke));
    let now = metrics(pages).await;
    let list = |what: &str| now[&format!("mesh_ca_crl_{what}{{key_id=\"{issuer}\"}}")];
    assert_eq!(list("entries"), 1.0);
    assert!(list("number") > 0.0);
    assert!(list("expiration_timestamp_seconds") > list("update_timestamp_seconds"));

    // What cannot be written is counted, and tried again with the next request.
    let in_the_way = ca.dir.join("state.json.new");
    std::fs::create_dir(&in_the_way).expect("a folder in the way");
    let refused = ca.operate(&["token", "create", "--id", CART]);
    assert!(!refused.status.success(), "nothing was written");
    assert!(metrics(pages).await["mesh_ca_write_failures_total"] >= 1.0);
    std::fs::remove_dir(&in_the_way).expect("out of the way");
    ca.token(CART);

    let page = get(pages, "/metrics").await.body;
    assert!(!page.contains(&token) && !page.contains("inmesh-join"));
    assert!(!page.contains("shop"), "no name of a caller is a label");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_for_reading_and_for_this_host() {
    let home = TempDir::new().expect("a temporary folder");
    let pages = free();
    let more = ["--metrics", &pages.to_string()];
    let _ca = Ca::start(home.path(), free(), &more).await;
    for (method, path, host, status) in [
        (Method::GET, "/livez", "localhost", StatusCode::OK),
        (Method::GET, "/readyz", "127.0.0.1:1", StatusCode::OK),
        (
            Method::GET,
            "/metrics",
            "evil.example",
            StatusCode::FORBIDDEN,
        ),
        (
            Method::POST,
            "/metrics",
            "localhost",
            StatusCode::METHOD_NOT_ALLOWED,
        ),
        (Method::GET, "/", "localhost", StatusCode::NOT_FOUND),
    ] {
        let answer = try_send(pages, method.clone(), path, &[("host", host)]).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, status, "{method} {path} for {host}");
    }
    let head = said(pages, "HEAD /metrics HTTP/1.1\r\nHost: localhost").await;
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let post = said(pages, "POST /livez HTTP/1.1\r\nHost: localhost").await;
    assert!(post.contains("allow: GET, HEAD\r\n"), "{post}");
    let absolute = "GET http://evil.example/readyz HTTP/1.1\r\nHost: localhost";
    let absolute = said(pages, absolute).await;
    assert!(absolute.starts_with("HTTP/1.1 403 "), "{absolute}");
    for field in [
        ("origin", "https://site.example"),
        ("sec-fetch-site", "same-site"),
    ] {
        let answer = try_send(pages, Method::GET, "/metrics", &[field]).await;
        assert_eq!(
            answer.expect("an answer").status,
            StatusCode::FORBIDDEN,
            "{field:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_signal_that_means_so_ends_a_ca() {
    let home = TempDir::new().expect("a temporary folder");
    let pages = free();
    let more = ["--metrics", &pages.to_string()];
    let mut ca = Ca::start(home.path(), free(), &more).await;
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2] {
        ca.signal(signal);
        assert_eq!(
            get(pages, "/livez").await.status,
            StatusCode::OK,
            "{signal}"
        );
    }
    ca.stop();
}

// === keys of tokens ===

/// A cluster that signs service-account tokens.
struct Cluster {
    name: &'static str,
    key: Arc<dyn SigningKey>,
    jwk: Value,
}

impl Cluster {
    fn new(name: &'static str) -> Self {
        let (crypto, id) = (Crypto::aws_lc_rs(), CART.parse().expect("an ID"));
        let (key, csr) = csr::generate(&id, &crypto).expect("a key");
        // The point stands at the end of the public key: 4, then the two coordinates.
        let public = csr.public_key_der();
        let (x, y) = public[public.len() - 64..].split_at(32);
        let text = |number: &[u8]| BASE64URL_NOPAD.encode(number);
        let jwk = json!({"kty": "EC", "crv": "P-256", "kid": name, "x": text(x), "y": text(y)});
        let der = PrivatePkcs8KeyDer::from(key.secret_pkcs8_der().to_vec());
        let keys = crypto.provider().key_provider;
        let key = keys.load_private_key(PrivateKeyDer::Pkcs8(der));
        let key = key.expect("a key that signs");
        Self { name, key, jwk }
    }

    /// A token of the service account `cart` for the audience `ca`.
    fn token(&self) -> Token {
        let text = |part: Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
        let since = SystemClock.now().duration_since(std::time::UNIX_EPOCH);
        let end = since.expect("it is later than 1970").as_secs() + 600;
        let header = json!({"alg": "ES256", "kid": self.name});
        let claims = json!({
            "iss": "https://kubernetes.default.svc.cluster.local", "aud": ["ca"], "exp": end,
            "sub": "system:serviceaccount:shop:cart",
            "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "cart"}},
        });
        let signed = format!("{}.{}", text(header), text(claims));
        let signer = self
            .key
            .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]);
        let signer = signer.expect("a key on P-256");
        let der = signer.sign(signed.as_bytes()).expect("a signature");
        let signature = BASE64URL_NOPAD.encode(&numbers(&der));
        Token::Text(format!("{signed}.{signature}").into())
    }
}

/// The two numbers of a signature, side by side, from their DER.
fn numbers(der: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), &der[2..]);
    for _ in 0..2 {
        let (number, after) = rest[2..].split_at(usize::from(rest[1]));
        let number = &number[number.len().saturating_sub(32)..];
        out.extend(vec![0; 32 - number.len()]);
        out.extend(number);
        rest = after;
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_tokens_are_replaced_while_the_ca_serves() {
    let home = TempDir::new().expect("a temporary folder");
    let (address, pages) = (free(), free());
    let (old, new) = (Cluster::new("old"), Cluster::new("new"));
    let write = |keys: &[&Cluster]| {
        let keys: Vec<_> = keys.iter().map(|cluster| &cluster.jwk).collect();
        publish(
            home.path(),
            "jwks.json",
            &json!({ "keys": keys }).to_string(),
        );
    };
    write(&[&old]);
    let jwks = home.path().join("jwks.json");
    let jwks = jwks.to_str().expect("text");
    let metrics_at = pages.to_string();
    let more = ["--kubernetes-jwks", jwks, "--audience", "ca"];
    let more = [&more[..], &["--metrics", &metrics_at]].concat();
    let ca = Ca::start(home.path(), address, &more).await;
    let join = async |cluster: &Cluster| {
        let member = Member::new(&ca, address, CART, cluster.token());
        member.renew().await
    };
    join(&old).await.expect("a key of the cluster");
    join(&new).await.expect_err("a key that no grant knows");

    let told = async |what: &str, times: usize| {
        eventually(what, async || {
            let log = std::fs::read_to_string(&ca.log).expect("a log");
            (log.matches(what).count() == times).then_some(())
        })
        .await;
    };
    write(&[&old, &new]);
    told("keys of an issuer of tokens are replaced", 1).await;
    join(&old).await.expect("both count");
    join(&new).await.expect("both count");
    write(&[&new]);
    told("keys of an issuer of tokens are replaced", 2).await;
    join(&old).await.expect_err("the old key counts no more");
    join(&new).await.expect("the new key counts");

    // What is broken takes nothing away.
    publish(home.path(), "jwks.json", "{\"keys\": [");
    told("the last good ones are kept", 1).await;
    join(&new).await.expect("the last good keys count");
    join(&old).await.expect_err("and only those");
    let failed = metrics(pages).await["mesh_ca_attestations_failed_total{method=\"kubernetes\"}"];
    assert!(failed >= 3.0, "{failed}");
}

// === restarts ===

/// Which members are missing is known to the next process, unless this one is killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_ends_in_order_knows_its_members_again() {
    let home = TempDir::new().expect("a temporary folder");
    let address = free();
    let mut ca = Ca::start(home.path(), address, &[]).await;
    let member = |name: &str| {
        let id = format!("spiffe://test.local/{name}");
        let token = ca.token(&id);
        Member::new(&ca, address, &id, Token::Text(token.into()))
    };
    let (listens, silent) = (member("listens"), member("silent"));
    for member in [&listens, &silent] {
        member.renew().await.expect("a leaf");
    }
    let writer = Arc::clone(&listens.writer);
    let (_status, watch) = listens.client.watch(writer, || 1.0, std::future::pending());
    let watch = tokio::spawn(watch);
    let rotate = ca.operate(&["rotate"]);
    assert!(rotate.status.success(), "{}", stderr(&rotate));
    let missing = |status: &Value| -> Vec<String> {
        let members = status["waitsFor"]["members"].as_array();
        let members = members.into_iter().flatten();
        members
            .map(|m| m["id"].as_str().expect("an ID").to_owned())
            .collect()
    };
    eventually("the one that listens has the new bundle", async || {
        (missing(&ca.status()) == ["spiffe://test.local/silent"]).then_some(())
    })
    .await;

    ca.stop();
    let mut ca = Ca::start(home.path(), address, &[]).await;
    let status = ca.status();
    assert_eq!(missing(&status), ["spiffe://test.local/silent"]);
    assert_eq!(status["waitsFor"]["unknown"], false, "{status}");
    assert_eq!(status["members"], 2);

    ca.kill();
    let ca = Ca::start(home.path(), address, &[]).await;
    let status = ca.status();
    assert_eq!(status["waitsFor"]["unknown"], true, "{status}");
    assert_eq!(status["members"], 0);
    watch.abort();
}

/// The roots that a member trusts, and the generation of their bundle.
fn trusted(member: &Member) -> (BTreeSet<String>, u64) {
    let state = member.writer.load();
    let bundle = state.bundles().get(member.id.trust_domain());
    let bundle = bundle.expect("a bundle");
    let roots = bundle.roots().iter().map(|root| root.key_id().to_owned());
    (roots.collect(), bundle.sequence().expect("our CA counts"))
}

/// Deletes all that a CA has, in another second than that in which it was made.
async fn lose(mut ca: Ca) {
    let made = ca.status()["generation"].as_u64().expect("a number");
    eventually("a second passes", async || {
        let since = SystemClock.now().duration_since(std::time::UNIX_EPOCH);
        (since.expect("it is later than 1970").as_secs() > made).then_some(())
    })
    .await;
    ca.kill();
    std::fs::remove_dir_all(&ca.dir).expect("a folder");
}

/// The disk is lost, the root is not: live members renew, and follow the bundles that come.
#[tokio::test(flavor = "multi_thread")]
async fn members_follow_a_ca_that_is_rebuilt_from_its_root() {
    let home = TempDir::new().expect("a temporary folder");
    let address = free();
    let ca = Ca::start(home.path(), address, &[]).await;
    let member = Member::new(&ca, address, CART, Token::Text(ca.token(CART).into()));
    member.renew().await.expect("a leaf");
    let (roots, generation) = trusted(&member);
    // What the operator has kept elsewhere: the root, and its key.
    let root = ca.status()["authorities"][0]["keyId"].clone();
    let root = root.as_str().expect("a key id");
    let kept = home.path().join("root.pem");
    let read = |name: &str| std::fs::read_to_string(ca.dir.join(name)).expect("a file");
    let pem = read("bundle.pem") + &read(&format!("keys/{root}.pem"));
    inmesh_pki::disk::write_secret(&kept, pem.as_bytes()).expect("a file");
    lose(ca).await;

    let more = ["--root", kept.to_str().expect("text")];
    let ca = Ca::start(home.path(), address, &more).await;
    member.renew().await.expect("its SVID is of the same root");
    let (now, later) = trusted(&member);
    assert_eq!(now, roots);
    assert!(later > generation, "{later} after {generation}");
    let rotate = ca.operate(&["rotate"]);
    assert!(rotate.status.success(), "{}", stderr(&rotate));
    member.renew().await.expect("a leaf");
    let (now, last) = trusted(&member);
    assert!(now.len() == 2 && now.is_superset(&roots), "{now:?}");
    assert_eq!(last, later + 1);
}

/// The root is lost too: no live member believes the new one, for any server could present it. Whose
/// leaf has ended takes what the operator gives out: the new anchor, and a join token.
#[tokio::test(flavor = "multi_thread")]
async fn members_follow_a_ca_that_is_rebuilt_from_nothing_once_told_by_the_operator() {
    let home = TempDir::new().expect("a temporary folder");
    let address = free();
    let mut ca = Ca::start(home.path(), address, &[]).await;
    let id = "spiffe://test.local/lives";
    let lives = Member::new(&ca, address, id, Token::Text(ca.token(id).into()));
    lives.renew().await.expect("a leaf");
    ca.stop();
    let ca = Ca::start(home.path(), address, &["--leaf-lifetime", "5s"]).await;
    let token = home.path().join("token");
    std::fs::write(&token, ca.token(CART)).expect("a file");
    let ends = Member::new(&ca, address, CART, Token::File(token));
    ends.renew().await.expect("a leaf");
    let before = [&lives, &ends].map(trusted);
    assert_eq!(before[0], before[1]);
    lose(ca).await;

    let ca = Ca::start(home.path(), address, &[]).await;
    let recover = ca.operate(&["recover", "--id", CART, "--json"]);
    let recover: Value = serde_json::from_slice(&recover.stdout).expect("JSON");
    let token = recover["tokens"][0]["token"].as_str().expect("a token");
    publish(home.path(), "token", token);
    eventually("its leaf has ended, and it joins", async || {
        ends.renew().await.ok()
    })
    .await;
    let (now, later) = trusted(&ends);
    assert!(now.is_disjoint(&before[1].0), "{now:?}");
    assert!(later > before[1].1, "{later}");
    let state = ends.writer.load();
    let chain = state.svid(&ends.id).expect("an SVID").chain();
    let (now, crypto) = (SystemClock.now(), Crypto::aws_lc_rs());
    let verified = validate(chain, &state, now, Usage::Server, &crypto);
    verified.expect("it trusts its own root");
    // The new anchor lies where it looks for one, and it has no use for it yet.
    lives
        .renew()
        .await
        .expect_err("an impostor would look the same");
    assert_eq!(trusted(&lives), before[0]);
}

/// An orchestrator would start it ever later.
#[tokio::test]
async fn a_ca_waits_until_its_cluster_answers() {
    let home = TempDir::new().expect("a temporary folder");
    let config = no_cluster(home.path());
    let config = config.to_str().expect("it is UTF-8");
    let flags = [
        "--kubernetes-secrets",
        "mesh-system",
        "--kubeconfig",
        config,
    ];
    let mut ca = Ca::launch(home.path(), free(), &flags);
    eventually("it says that it waits", async || {
        let log = std::fs::read_to_string(&ca.log).ok()?;
        let twice = log.matches("it is tried again").count() >= 2;
        twice.then_some(())
    })
    .await;
    ca.stop();
}
