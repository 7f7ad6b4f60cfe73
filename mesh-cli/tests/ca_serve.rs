//! `mesh ca serve` beside its calls: what it tells in metrics, and what it takes in while it runs.

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Method, StatusCode};
use inmesh_pki::ca::client::{Bootstrap, CaClient, CaClientConfig, Token};
use inmesh_pki::clock::SystemClock;
use inmesh_pki::id::SpiffeId;
use inmesh_pki::rotate::{ObtainError, obtain};
use inmesh_pki::store::{IdentityState, IdentityWriter, identity};
use inmesh_pki::svid::X509Svid;
use inmesh_pki::tls::Crypto;
use support::ca::Ca;
use support::{eventually, free, get, stderr, try_send};
use tempfile::TempDir;

const CART: &str = "spiffe://test.local/ns/shop/sa/cart";

/// Who asks a CA for leaves.
struct Member {
    id: SpiffeId,
    client: CaClient,
    writer: Arc<IdentityWriter>,
}

impl Member {
    fn new(ca: &Ca, address: SocketAddr, id: &str, token: Token) -> Self {
        let id: SpiffeId = id.parse().expect("an ID");
        let (writer, reader) = identity(IdentityState::default());
        let config = CaClientConfig {
            id: id.clone(),
            address: address.to_string(),
            ca: "spiffe://test.local/inmesh/ca".parse().expect("an ID"),
            bootstrap: Bootstrap::File(ca.dir.join("bundle.pem")),
            token,
        };
        let client = CaClient::new(config, reader, &Crypto::aws_lc_rs(), SystemClock::shared());
        Self {
            id,
            client: client.expect("randomness"),
            writer: Arc::new(writer),
        }
    }

    /// Asks once, and uses what it gets.
    async fn renew(&self) -> Result<Arc<X509Svid>, ObtainError> {
        let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock);
        let (svid, bundle) = obtain(&self.client, &self.id, &crypto, &clock).await?;
        self.writer.update(|state| {
            state.insert_svid(svid);
            state.insert_newer_bundle(bundle);
        });
        let state = self.writer.load();
        Ok(Arc::clone(state.svid(&self.id).expect("it is there")))
    }
}

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
    assert!(page.body.ends_with("# EOF\n"), "{}", page.body);
    read(&page.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_a_ca_does_and_what_it_waits_for() {
    let home = TempDir::new().expect("a temporary folder");
    let (address, pages) = (free(), free());
    let more = ["--metrics", &pages.to_string(), "--rate", "2"];
    let ca = Ca::start(home.path(), address, &more).await;
    let status = ca.status();
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
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
    eventually("somebody is told to come back", async || {
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

    // A list for each issuing CA once something is revoked, and none before.
    assert!(!now.keys().any(|name| name.starts_with("mesh_ca_crl")));
    let revoke = ca.operate(&["revoke", leaf.serial()]);
    assert!(revoke.status.success(), "{}", stderr(&revoke));
    let now = metrics(pages).await;
    let list = |what: &str| now[&format!("mesh_ca_crl_{what}{{key_id=\"{issuer}\"}}")];
    assert_eq!(list("entries"), 1.0);
    assert!(list("number") > 0.0);
    assert!(list("expiration_timestamp_seconds") > list("update_timestamp_seconds"));

    // What cannot be written is counted, and tried again by whoever asks again.
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
}
