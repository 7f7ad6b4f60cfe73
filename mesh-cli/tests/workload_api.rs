//! One agent gives identities over its Workload API, another gets its own there.

mod support;

use std::os::unix::fs::MetadataExt;

use axum::Router;
use axum::routing::get as on_get;
use http::{Method, StatusCode};
use support::{Home, Pair, app, eventually, stdout, try_send};

/// The user that the agents of a test run as.
fn uid() -> u32 {
    std::fs::metadata("/proc/self")
        .expect("our own process")
        .uid()
}

/// What an agent's file says to give `id` to processes of the user `uid`.
fn gives(id: &str, uid: u32) -> String {
    format!("workloadApi: {{listen: api.sock, entries: [{{id: '{id}', uid: {uid}}}]}}\n")
}

/// What an agent's file says to get its identity from the other's.
const TAKES: &str = "identity: {workloadApi: {socket: ../app/api.sock}}\n";
/// The rest of an agent's file that forwards nothing.
const REST: &str = "defaultAction: deny\npeers: strict\n";

#[tokio::test]
async fn an_agent_gets_its_identity_from_another_and_carries_with_it() {
    let home = Home::new();
    let app = app(Router::new().fallback(on_get(async || "hello"))).await;
    let gives = gives("spiffe://test.local/ns/shop/sa/web", uid());
    let pair = Pair {
        server: &gives,
        client: TAKES,
        ..Pair::new(app)
    };
    let (mut server, web, door) = pair.start(&home).await;
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

/// The ID must be that of the workload which the agent's file names, as with every other source.
#[tokio::test]
async fn an_id_that_is_not_the_workloads_is_not_taken() {
    let home = Home::new();
    let gives = gives("spiffe://test.local/ns/shop/sa/other", uid());
    let _server = home.agent("app", &(gives + REST), &[]).await;
    let web = home.unready("web", &format!("{TAKES}{REST}"), &[]);
    let why = "has an ID with the path /ns/shop/sa/web, the first is that of \
               spiffe://test.local/ns/shop/sa/other";
    eventually("the refusal is on the page", async || {
        let ready = web.try_get("/readyz").await?;
        let refused = ready.status == StatusCode::SERVICE_UNAVAILABLE && ready.body.contains(why);
        refused.then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_matches_no_entry_waits_and_says_why() {
    let home = Home::new();
    let gives = gives("spiffe://test.local/ns/shop/sa/other", 4_000_000_000);
    let server = home.agent("app", &(gives + REST), &[]).await;
    let mut web = home.unready("web", &format!("{TAKES}{REST}"), &[]);
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
