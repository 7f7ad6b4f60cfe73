//! Two trust domains that serve each other their bundles, and requests between them.

mod support;

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get as on_get;
use http::{Method, StatusCode};
use support::{Home, app, eventually, free, mesh, service, try_send};

/// The agent's file of a workload in the trust domain of the CA in `ca`, with a bundle endpoint, and
/// a relationship with the domain of another agent.
fn file(
    ca: &str,
    own: SocketAddr,
    foreign: (&str, &str, SocketAddr, &str),
    listener: &str,
) -> String {
    let (domain, id, endpoint, bundle) = foreign;
    format!(
        "identity: {{developmentCA: {{dir: ../{ca}, lifetime: 1m}}}}
defaultAction: deny
peers: strict
federation:
  relationships:
  - trustDomain: {domain}
    url: https://{endpoint}/bundle
    profile: https_spiffe
    endpointId: {id}
    endpointBundle: ../{bundle}
  bundleEndpoint: {{bind: '{own}', path: /bundle}}
listeners: [{listener}]
"
    )
}

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
    let made = mesh(
        ["ca", "init", "--trust-domain", "other.local"],
        &[&home.path("other-ca")],
    );
    assert!(made.status.success(), "{made:?}");
    let (inner, door) = (free(), free());
    let (ours, theirs) = (free(), free());
    let web = "spiffe://test.local/ns/shop/sa/web";
    let app_id = "spiffe://other.local/ns/shop/sa/app";

    let backend = app(Router::new().fallback(on_get(async || "hello"))).await;
    let listener = format!("{{bind: '{inner}', inbound: {{app: '{backend}', appProtocol: http}}}}");
    let foreign = ("test.local", web, ours, "ca/ca.pem");
    let server = file("other-ca", theirs, foreign, &listener);
    let server = home.agent("app", &server, &[("policy.yaml", POLICY)]).await;

    let listener = format!("{{bind: '{door}', outbound: {{appProtocol: http}}}}");
    let foreign = ("other.local", app_id, theirs, "other-ca/ca.pem");
    let client = file("ca", ours, foreign, &listener);
    let ids = format!("inmesh.dev/ids: {app_id}");
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
    let principal = format!("source_principal=\"{web}\"");
    let inbound = server.get("/metrics").await.body;
    assert!(inbound.contains(&principal), "{inbound}");
}
