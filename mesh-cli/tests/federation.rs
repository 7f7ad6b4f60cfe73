//! Two trust domains that serve each other their bundles, and requests between them.

mod support;

use std::net::SocketAddr;
use std::path::Path;

use axum::Router;
use axum::routing::get as on_get;
use http::{Method, StatusCode};
use inmesh_pki::{CertificateDer, Crypto, tls};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;
use support::{Agent, Home, Pair, app, eventually, free, mesh, publish, stdout, try_send};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The part of an agent's file that puts a workload into the trust domain of the CA in `ca`, with
/// these lines of federation.
fn belongs(ca: &str, federation: &str) -> String {
    let identity = format!("identity: {{developmentCA: {{dir: ../{ca}, lifetime: 1m}}}}\n");
    identity + "federation:\n" + federation
}

/// The whole file of such an agent with one listener.
fn file(ca: &str, federation: &str, listener: &str) -> String {
    let rest = format!("defaultAction: deny\npeers: strict\nlisteners: [{listener}]\n");
    belongs(ca, federation) + &rest
}

/// A relationship with a domain whose endpoint is known by its SPIFFE ID.
fn by_id(domain: &str, endpoint: SocketAddr, id: &str, bundle: &str) -> String {
    format!(
        "  relationships:
  - trustDomain: {domain}
    url: https://{endpoint}/bundle
    profile: https_spiffe
    endpointId: {id}
    endpointBundle: ../{bundle}
"
    )
}

/// A relationship with a domain whose endpoint is a server of the web.
fn by_name(domain: &str, endpoint: SocketAddr) -> String {
    let url = format!("https://{endpoint}/bundle");
    format!("  relationships:\n  - {{trustDomain: {domain}, url: '{url}', profile: https_web}}\n")
}

/// A bundle endpoint.
fn endpoint(bind: SocketAddr, more: &str) -> String {
    format!("  bundleEndpoint: {{bind: '{bind}', path: /bundle{more}}}\n")
}

/// The CA of the trust domain `other.local`, in its folder.
fn other_ca(home: &Home) {
    let made = mesh(
        ["ca", "init", "--trust-domain", "other.local"],
        &[&home.path("other-ca")],
    );
    assert!(made.status.success(), "{made:?}");
}

const WEB: &str = "spiffe://test.local/ns/shop/sa/web";
const APP: &str = "spiffe://other.local/ns/shop/sa/app";

#[tokio::test]
async fn two_trust_domains_fetch_each_others_bundle_and_carry() {
    let home = Home::new();
    other_ca(&home);
    let (ours, theirs) = (free(), free());
    let app = app(Router::new().fallback(on_get(async || "hello"))).await;
    let theirs_is = by_id("other.local", theirs, APP, "other-ca/ca.pem");
    let ours_is = by_id("test.local", ours, WEB, "ca/ca.pem");
    let pair = Pair {
        id: APP,
        server: &belongs("other-ca", &(ours_is + &endpoint(theirs, ""))),
        client: &belongs("ca", &(theirs_is + &endpoint(ours, ""))),
        ..Pair::new(app)
    };
    let (server, _client, door) = pair.start(&home).await;

    // The server asked before the client was there to answer, and asks again a second later.
    let answer = eventually("both know each other", async || {
        let answer = try_send(door, Method::GET, "/", &[("host", "app")]).await?;
        (answer.status == StatusCode::OK).then_some(answer)
    })
    .await;
    assert_eq!(answer.body, "hello");
    let principal = format!("source_principal=\"{WEB}\"");
    let inbound = server.get("/metrics").await.body;
    assert!(inbound.contains(&principal), "{inbound}");
}

#[tokio::test]
async fn a_kept_bundle_outlasts_a_restart_and_never_goes_back() {
    let home = Home::new();
    other_ca(&home);
    let theirs = free();
    let listener = format!("{{bind: '{}', outbound: {{appProtocol: http}}}}", free());
    let other = file("other-ca", &endpoint(theirs, ""), &listener);
    let server = home.agent("app", &other, &[]).await;
    let federation = by_id("other.local", theirs, APP, "other-ca/ca.pem") + "  keep: ../kept\n";
    let listener = format!("{{bind: '{}', outbound: {{appProtocol: http}}}}", free());
    let client = file("ca", &federation, &listener);
    let relationship = async |agent: &Agent| {
        let status = agent.status().await;
        status["federation"]["relationships"][0].clone()
    };
    let restarted = async |before: Option<Agent>| {
        drop(before);
        // A test's folder is new each time; what is kept stands beside it.
        let _none = std::fs::remove_dir_all(home.path("web"));
        home.agent("web", &client, &[]).await
    };

    let agent = restarted(None).await;
    eventually("the bundle is fetched", async || {
        (relationship(&agent).await["fetches"] == 1).then_some(())
    })
    .await;
    let kept = home.path("kept").join("other.local.json");
    let text = std::fs::read_to_string(&kept).expect("it is kept before it is used");

    // The endpoint answers, but says less than what was there before.
    let numbered = text.replacen('{', "{\"spiffe_sequence\":5,", 1);
    assert!(!text.contains("spiffe_sequence"), "{text}");
    std::fs::write(&kept, numbered).expect("written");
    let agent = restarted(Some(agent)).await;
    eventually("the bundle is refused", async || {
        let one = relationship(&agent).await;
        let error = one["last_error"].as_str()?;
        (error == "the sequence number 5 was followed by none").then_some(())
    })
    .await;
    assert_eq!(relationship(&agent).await["roots"], 1);

    // No endpoint answers: what was kept is used.
    drop(server);
    std::fs::write(&kept, text).expect("written");
    let agent = restarted(Some(agent)).await;
    eventually("the endpoint is missed", async || {
        (relationship(&agent).await["failures"].as_u64()? > 0).then_some(())
    })
    .await;
    let one = relationship(&agent).await;
    assert_eq!(
        (&one["trusted"], &one["fetches"]),
        (&true.into(), &0.into())
    );

    // A file that is damaged is reported, and no peer is trusted.
    std::fs::write(&kept, "damaged").expect("written");
    let agent = restarted(Some(agent)).await;
    eventually("the endpoint is missed", async || {
        (relationship(&agent).await["failures"].as_u64()? > 0).then_some(())
    })
    .await;
    let one = relationship(&agent).await;
    assert_eq!((&one["trusted"], &one["roots"]), (&false.into(), &0.into()));
    assert!(agent.log().contains("the kept bundle cannot be used"));
    let page = stdout(&agent.mesh_status());
    assert!(page.contains("is not a bundle that was kept: "), "{page}");
}

/// A CA of the web, and what it certifies for 127.0.0.1.
struct WebCa {
    root: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl WebCa {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).expect("a root");
        let issuer = Issuer::new(params, key);
        Self { root, issuer }
    }

    /// Puts a new certificate and its key into `dir`, the key first.
    fn renew(&self, dir: &Path) -> CertificateDer<'static> {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
        let leaf = params.signed_by(&key, &self.issuer).expect("a leaf");
        publish(dir, "web.key", &key.serialize_pem());
        publish(dir, "web.pem", &leaf.pem());
        leaf.der().clone()
    }

    /// What a server presents to clients that trust this CA.
    async fn presented(&self, server: SocketAddr) -> Option<CertificateDer<'static>> {
        let roots = vec![self.root.der().clone()];
        let config = tls::web_client_config(&Crypto::aws_lc_rs(), roots).expect("a root");
        let stream = TcpStream::connect(server).await.ok()?;
        let connector = TlsConnector::from(config);
        let stream = connector.connect(server.ip().into(), stream).await.ok()?;
        let (_, connection) = stream.get_ref();
        Some(connection.peer_certificates()?.first()?.clone())
    }
}

#[tokio::test]
async fn one_domain_serves_as_a_web_server_and_the_other_by_its_svid() {
    let home = Home::new();
    other_ca(&home);
    let (ours, theirs) = (free(), free());
    let ca = WebCa::new();
    publish(&home.path(""), "root.pem", &ca.root.pem());
    let files = home.path("files");
    std::fs::create_dir(&files).expect("a new folder");
    let first = ca.renew(&files);

    let app = app(Router::new().fallback(on_get(async || "hello"))).await;
    let web = ", webCertificate: {certificate: ../files/web.pem, key: ../files/web.key}";
    let ours_is = by_id("test.local", ours, WEB, "ca/ca.pem");
    let theirs_is = by_name("other.local", theirs);
    let pair = Pair {
        id: APP,
        server: &belongs("other-ca", &(ours_is + &endpoint(theirs, web))),
        client: &belongs("ca", &(theirs_is + &endpoint(ours, ""))),
        // The roots of the web are those of the operating system, or of this file.
        environment: &[("SSL_CERT_FILE", &home.path("root.pem"))],
        ..Pair::new(app)
    };
    let (server, client, door) = pair.start(&home).await;
    eventually("both know each other", async || {
        let answer = try_send(door, Method::GET, "/", &[("host", "app")]).await?;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;

    // Both sides say how it is: a number, a table, a metric.
    let other = eventually("the next try is known", async || {
        let status = client.status().await;
        let other = &status["federation"]["relationships"][0];
        other["next_try"].is_u64().then(|| other.clone())
    })
    .await;
    assert_eq!(
        (&other["trust_domain"], &other["profile"], &other["trusted"]),
        (&"other.local".into(), &"https_web".into(), &true.into()),
    );
    assert_eq!(
        (&other["roots"], &other["max_age"]),
        (&1.into(), &86_400.into())
    );
    let refreshed = "mesh_federation_refresh_timestamp_seconds{trust_domain=\"other.local\"}";
    let refreshed = client.metric(refreshed).await;
    assert!(
        refreshed > 0 && other["next_try"].as_u64() > Some(refreshed),
        "{other}"
    );
    let of = |name: &str| format!("mesh_federation_{name}{{trust_domain=\"other.local\"}}");
    assert_eq!(client.metric(&of("max_age_seconds")).await, 86_400);
    assert_eq!(client.metric(&of("roots")).await, 1);
    let page = stdout(&client.mesh_status());
    let row = page
        .lines()
        .find(|line| line.contains("other.local") && line.contains("1 root"));
    assert!(
        row.is_some_and(|row| row.contains("ago (of 24h)")),
        "{page}"
    );
    let status = server.status().await;
    let own = &status["federation"]["bundle_endpoint"];
    assert_eq!(
        (&own["profile"], &own["certificate"]["loads"]),
        (&"https_web".into(), &1.into())
    );
    let ends = "mesh_federation_endpoint_certificate_expiration_timestamp_seconds";
    assert!(server.metric(ends).await > refreshed);

    // A renewed certificate is served without a restart.
    assert_eq!(ca.presented(theirs).await.as_ref(), Some(&first));
    let second = ca.renew(&files);
    eventually("the new certificate is served", async || {
        (ca.presented(theirs).await? == second).then_some(())
    })
    .await;
    // A broken one is reported, and the last good one stays.
    publish(&files, "web.key", "-----BEGIN PRIVATE KEY-----\n");
    eventually("the broken key is logged", async || {
        let said = "the certificate of the bundle endpoint cannot be used";
        server.log().contains(said).then_some(())
    })
    .await;
    assert_eq!(ca.presented(theirs).await.as_ref(), Some(&second));
    let page = stdout(&server.mesh_status());
    assert!(page.contains("bundle endpoint: "), "{page}");
}

#[tokio::test]
async fn a_domain_that_does_not_answer_is_seen_in_status_and_metrics() {
    let home = Home::new();
    let listener = format!("{{bind: '{}', outbound: {{appProtocol: http}}}}", free());
    let gone = free();
    let agent = file("ca", &by_name("gone.local", gone), &listener);
    let agent = home.agent("web", &agent, &[]).await;
    let failed = "mesh_federation_fetches_total{trust_domain=\"gone.local\",outcome=\"failed\"}";
    // An agent is ready a moment before its federation runs.
    eventually("a failure is counted", async || {
        let metrics = agent.get("/metrics").await.body;
        let mut counts = metrics.lines().filter_map(|line| line.strip_prefix(failed));
        counts.any(|count| count.trim() != "0").then_some(())
    })
    .await;
    let refreshed = "mesh_federation_refresh_timestamp_seconds{trust_domain=\"gone.local\"}";
    assert_eq!(agent.metric(refreshed).await, 0);
    let status = agent.status().await;
    let one = &status["federation"]["relationships"][0];
    assert_eq!(
        (&one["trusted"], &one["age"]),
        (&false.into(), &Value::Null)
    );
    let page = stdout(&agent.mesh_status());
    assert!(
        page.contains("never") && page.contains("gone.local: 127.0.0.1 cannot be reached: "),
        "{page}"
    );
    let admin = agent.admin.to_string();
    let said = stdout(&mesh(["status", "--json", "--admin", &admin], &[]));
    let said: Value = serde_json::from_str(&said).expect("JSON");
    let one = &said["federation"]["relationships"][0];
    assert_eq!(one["trust_domain"], "gone.local");
    // The whole status is in the dump as well.
    let dump: Value = serde_json::from_str(&agent.get("/config_dump").await.body).expect("JSON");
    assert_eq!(
        dump["status"]["federation"]["relationships"][0]["trust_domain"],
        "gone.local"
    );
}

#[tokio::test]
async fn an_endpoint_without_its_certificate_does_not_start() {
    let home = Home::new();
    let web = ", webCertificate: {certificate: web.pem, key: web.key}";
    let listener = format!("{{bind: '{}', outbound: {{appProtocol: http}}}}", free());
    let file = file("ca", &endpoint(free(), web), &listener);
    let mut agent = home.unready("app", &file, &[]);
    assert!(!agent.ended().await.success());
    let log = agent.log();
    assert!(
        log.contains("certificate of the bundle endpoint") && log.contains("web.pem"),
        "{log}"
    );
}
