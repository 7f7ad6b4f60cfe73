//! Two trust domains that serve each other their bundles, and requests between them.

mod support;

use std::net::SocketAddr;
use std::path::Path;

use axum::Router;
use axum::routing::get as on_get;
use http::{Method, StatusCode};
use inmesh_pki::{CertificateDer, Crypto, tls};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use support::{Home, app, eventually, free, mesh, publish, service, try_send};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The agent's file of a workload in the trust domain of the CA in `ca`, with these lines of
/// federation, and a listener.
fn file(ca: &str, federation: &str, listener: &str) -> String {
    format!(
        "identity: {{developmentCA: {{dir: ../{ca}, lifetime: 1m}}}}
defaultAction: deny
peers: strict
federation:
{federation}listeners: [{listener}]
"
    )
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

const POLICY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: app, namespace: shop}
spec:
  selector: {matchLabels: {app: app}}
  action: ALLOW
  rules: [{from: [{source: {principals: [test.local/ns/shop/sa/web]}}]}]
";

#[tokio::test]
async fn two_trust_domains_fetch_each_others_bundle_and_carry() {
    let home = Home::new();
    other_ca(&home);
    let (inner, door) = (free(), free());
    let (ours, theirs) = (free(), free());
    let backend = app(Router::new().fallback(on_get(async || "hello"))).await;
    let listener = format!("{{bind: '{inner}', inbound: {{app: '{backend}', appProtocol: http}}}}");
    let federation = by_id("test.local", ours, WEB, "ca/ca.pem") + &endpoint(theirs, "");
    let server = file("other-ca", &federation, &listener);
    let server = home.agent("app", &server, &[("policy.yaml", POLICY)]).await;

    let listener = format!("{{bind: '{door}', outbound: {{appProtocol: http}}}}");
    let federation = by_id("other.local", theirs, APP, "other-ca/ca.pem") + &endpoint(ours, "");
    let client = file("ca", &federation, &listener);
    let ids = format!("inmesh.dev/ids: {APP}");
    let documents = service("app", inner, &ids);
    let _client = home
        .agent("web", &client, &[("app.yaml", &documents)])
        .await;

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

    /// What a server presents to whoever trusts this CA.
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
    let (inner, door) = (free(), free());
    let (ours, theirs) = (free(), free());
    let ca = WebCa::new();
    publish(&home.path(""), "root.pem", &ca.root.pem());
    let files = home.path("files");
    std::fs::create_dir(&files).expect("a new folder");
    let first = ca.renew(&files);

    let backend = app(Router::new().fallback(on_get(async || "hello"))).await;
    let listener = format!("{{bind: '{inner}', inbound: {{app: '{backend}', appProtocol: http}}}}");
    let web = ", webCertificate: {certificate: ../files/web.pem, key: ../files/web.key}";
    let federation = by_id("test.local", ours, WEB, "ca/ca.pem") + &endpoint(theirs, web);
    let server = file("other-ca", &federation, &listener);
    let server = home.agent("app", &server, &[("policy.yaml", POLICY)]).await;

    let listener = format!("{{bind: '{door}', outbound: {{appProtocol: http}}}}");
    let federation = by_name("other.local", theirs) + &endpoint(ours, "");
    let client = file("ca", &federation, &listener);
    let documents = service("app", inner, &format!("inmesh.dev/ids: {APP}"));
    // The roots of the web are those of the operating system, or of this file.
    let roots = home.path("root.pem");
    let environment = [("SSL_CERT_FILE", &*roots)];
    let documents = [("app.yaml", &*documents)];
    let _client = home
        .agent_with("web", &client, &documents, &environment)
        .await;
    eventually("both know each other", async || {
        let answer = try_send(door, Method::GET, "/", &[("host", "app")]).await?;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;

    // A renewed certificate is served without a restart.
    assert_eq!(ca.presented(theirs).await.as_ref(), Some(&first));
    let second = ca.renew(&files);
    eventually("the new certificate is served", async || {
        (ca.presented(theirs).await? == second).then_some(())
    })
    .await;
    // A broken one is told of, and the last good one stays.
    publish(&files, "web.key", "-----BEGIN PRIVATE KEY-----\n");
    eventually("the broken key is logged", async || {
        let said = "the certificate of the bundle endpoint cannot be used";
        server.log().contains(said).then_some(())
    })
    .await;
    assert_eq!(ca.presented(theirs).await.as_ref(), Some(&second));
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
