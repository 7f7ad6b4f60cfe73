//! One agent gives identities over its Workload API, another gets its own there.

mod support;

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;

use axum::Router;
use axum::routing::get as on_get;
use http::{Method, StatusCode};
use support::{Home, app, eventually, free, service, stdout, try_send};

/// The user that the agents of a test run as.
fn uid() -> u32 {
    std::fs::metadata("/proc/self")
        .expect("our own process")
        .uid()
}

/// The agent's file of a server that also gives `id` to processes of the user `uid`.
fn server(inner: SocketAddr, app: SocketAddr, id: &str, uid: u32) -> String {
    format!(
        "defaultAction: deny
peers: strict
workloadApi:
  listen: api.sock
  entries:
  - {{id: '{id}', uid: {uid}}}
listeners: [{{bind: \"{inner}\", inbound: {{app: \"{app}\", appProtocol: http}}}}]
"
    )
}

fn client(door: SocketAddr) -> String {
    format!(
        "identity: {{workloadApi: {{socket: ../app/api.sock}}}}
defaultAction: deny
peers: strict
listeners: [{{bind: \"{door}\", outbound: {{appProtocol: http}}}}]
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
async fn an_agent_gets_its_identity_from_another_and_carries_with_it() {
    let home = Home::new();
    let app = app(Router::new().fallback(on_get(async || "hello"))).await;
    let (inner, door) = (free(), free());
    let file = server(inner, app, "spiffe://test.local/ns/shop/sa/web", uid());
    let mut server = home.agent("app", &file, &[("policy.yaml", POLICY)]).await;

    let ids = "inmesh.dev/ids: spiffe://test.local/ns/shop/sa/app";
    let documents = service("app", inner, ids);
    let web = home
        .agent("web", &client(door), &[("app.yaml", &documents)])
        .await;
    let answer = try_send(door, Method::GET, "/", &[("host", "app")]).await;
    let answer = answer.expect("the agent answers");
    assert_eq!((answer.status, &*answer.body), (StatusCode::OK, "hello"));
    let principal = "source_principal=\"spiffe://test.local/ns/shop/sa/web\"";
    let inbound = server.get("/metrics").await.body;
    assert!(inbound.contains(principal), "{inbound}");
    for agent in [&server, &web] {
        assert!(!agent.log().contains("PRIVATE KEY"));
    }

    let status = server.status().await;
    let api = &status["workload_api"];
    let counts = ["entries", "connections", "streams"].map(|name| api[name].as_u64());
    assert_eq!(counts, [Some(1); 3], "{api}");
    for name in ["entries", "connections", "streams"] {
        assert_eq!(server.metric(&format!("mesh_workload_api_{name}")).await, 1);
    }
    let page = stdout(&server.mesh_status());
    assert!(
        page.contains("WORKLOAD API") && page.contains("api.sock"),
        "{page}"
    );

    let socket = server.dir.join("api.sock");
    assert!(socket.exists());
    server.terminate();
    server.terminate();
    server.ended().await;
    assert!(!socket.exists(), "the socket goes with its server");
}

#[tokio::test]
async fn an_agent_that_matches_no_entry_waits_and_says_why() {
    let home = Home::new();
    let app = app(Router::new()).await;
    let other = "spiffe://test.local/ns/shop/sa/other";
    let file = server(free(), app, other, 4_000_000_000);
    let server = home.agent("app", &file, &[]).await;
    let mut web = home.unready("web", &client(free()), &[]);
    eventually("the refusal is logged", async || {
        web.log().contains("no identity issued").then_some(())
    })
    .await;
    let refused = "mesh_workload_api_refusals_total{reason=\"no-entry\"}";
    let refused = server.metric(refused).await;
    assert!(refused > 0);
    let status = server.status().await;
    let counted = status["workload_api"]["refusals"]["no-entry"].as_u64();
    assert!(counted >= Some(refused), "{status}");
    // A signal ends it, even before anything was served.
    web.terminate();
    assert!(web.ended().await.success());
}
