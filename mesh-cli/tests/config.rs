//! `mesh proxy` and its folder: what an edit does to traffic, status, metrics and log.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get as on_get;
use http::StatusCode;
use support::{Agent, Home, PLAIN, app, eventually, free, get, route, service, stdout, within};

const TO_APP: &str = "    - {name: app, port: 80}\n";

async fn hello() -> SocketAddr {
    app(Router::new().fallback(on_get(async || "hello"))).await
}

/// An agent with one way out, to the Service `app`, which is a plain server.
async fn outbound(home: &Home, documents: &[(&str, &str)]) -> (Agent, SocketAddr) {
    let door = free();
    let more = format!(
        "defaultAction: deny
peers: strict
listeners: [{{bind: \"{door}\", outbound: {{appProtocol: http, service: {{name: app, port: 80}}}}}}]
"
    );
    (home.agent("web", &more, documents).await, door)
}

/// An agent in front of a plain server that takes plaintext, with a probe path.
fn inbound(door: SocketAddr, app: SocketAddr, action: &str) -> String {
    format!(
        "defaultAction: {action}
peers: permissive
listeners: [{{bind: \"{door}\", inbound: {{app: \"{app}\", appProtocol: http, probes: [/healthz]}}}}]
"
    )
}

async fn sees(door: SocketAddr, edit: &str) -> Option<()> {
    (get(door, "/").await.header("x-edit") == edit).then_some(())
}

#[tokio::test]
async fn a_good_edit_is_live_within_a_second() {
    let home = Home::new();
    let documents = service("app", hello().await, PLAIN);
    let first = route("0", TO_APP);
    let (agent, door) = outbound(&home, &[("app.yaml", &documents), ("route.yaml", &first)]).await;
    sees(door, "0").await.expect("what is ready forwards");
    let before = agent.metric("mesh_config_generation").await;
    for edit in 1..=5 {
        let edit = edit.to_string();
        agent.publish("route.yaml", &route(&edit, TO_APP));
        within(Duration::from_secs(1), "the edit is live", async || {
            sees(door, &edit).await
        })
        .await;
    }
    assert_eq!(agent.metric("mesh_config_generation").await, before + 5);
    assert_eq!(agent.metric("mesh_config_refusals_total").await, 0);
    assert!(agent.mesh_status().status.success());
}

#[tokio::test]
async fn a_bad_edit_leaves_the_last_good_and_says_so_everywhere() {
    let home = Home::new();
    let documents = service("app", hello().await, PLAIN);
    let good = route("good", TO_APP);
    let (agent, door) = outbound(&home, &[("app.yaml", &documents), ("route.yaml", &good)]).await;
    let generation = agent.metric("mesh_config_generation").await;
    let weight = "    - {name: app, port: 80, weight: many}\n";
    let unknown = "    - {name: app, port: 80, wieght: 1}\n";
    let bad = [
        (
            route("bad", unknown),
            "11: spec.rules[0].backendRefs[0].wieght",
        ),
        (
            route("bad", weight),
            "11: spec.rules[0].backendRefs[0].weight",
        ),
        ("kind: HTTPRoute\nspec: [\n".to_owned(), "2: "),
        (String::new(), ""),
    ];
    for (n, (text, place)) in bad.iter().enumerate() {
        agent.publish("route.yaml", text);
        eventually("it is refused", async || {
            let refusals = agent.metric("mesh_config_refusals_total").await;
            (refusals == n as u64 + 1).then_some(())
        })
        .await;
        sees(door, "good").await.expect("the last good serves");
        let status = agent.mesh_status();
        assert_eq!(status.status.code(), Some(1), "{text:?}");
        let route = &agent.status().await["objects"];
        let route = route.as_array().and_then(|objects| {
            let is_route = |o: &&serde_json::Value| o["object"] == "HTTPRoute/shop/app";
            objects.iter().find(is_route)
        });
        let serving = &route.expect("the route stays in status")["serving"];
        assert_eq!(serving, "last-good", "{text:?}");
        let place = format!("route.yaml:{place}");
        let said = stdout(&status);
        assert!(said.contains(&place), "{place} is not in\n{said}");
        assert!(agent.log().contains(&place), "{place} is not in the log");
    }
    // Nothing that serves has changed by any of it.
    assert_eq!(agent.metric("mesh_config_generation").await, generation);
    agent.publish("route.yaml", &route("mended", TO_APP));
    eventually("the mended route is live", async || {
        sees(door, "mended").await
    })
    .await;
    assert!(agent.mesh_status().status.success());
}

#[tokio::test]
async fn one_bad_object_does_not_hold_up_its_neighbours() {
    let home = Home::new();
    let documents = service("app", hello().await, PLAIN);
    let (agent, door) = outbound(&home, &[("app.yaml", &documents)]).await;
    let bad = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: other, namespace: shop}
spec: {parentRefs: [], rulez: []}
";
    agent.publish("all.yaml", &format!("{bad}---\n{}", route("1", TO_APP)));
    eventually("the good one is live", async || sees(door, "1").await).await;
    assert!(agent.metric("mesh_config_refusals_total").await >= 1);
}

#[tokio::test]
async fn only_deleting_a_file_deletes_its_objects() {
    let home = Home::new();
    let documents = service("app", hello().await, PLAIN);
    let (agent, door) = outbound(&home, &[("app.yaml", &documents)]).await;
    for emptied in ["", "# nothing but a comment\n"] {
        agent.publish("app.yaml", emptied);
        eventually("the emptied file is reported", async || {
            let status = agent.status().await;
            let objects = status["objects"].as_array()?;
            objects
                .iter()
                .any(|o| o["serving"] == "nothing")
                .then_some(())
        })
        .await;
        assert_eq!(get(door, "/").await.status, StatusCode::OK);
        agent.publish("app.yaml", &documents);
        eventually("it is whole again", async || {
            agent.mesh_status().status.success().then_some(())
        })
        .await;
    }
    std::fs::remove_file(agent.dir.join("app.yaml")).expect("it is there");
    eventually("the Service is gone", async || {
        (get(door, "/").await.header("x-mesh-reason") == "unknown-host").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_policy_that_never_was_good_denies_what_it_selects() {
    let (home, door) = (Home::new(), free());
    let policy = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: app, namespace: shop}
spec:
  selector: {matchLabels: {app: app}}
  action: ALLOW
  rules: [{when: [{key: \"request.headers[x]\", values: [y]}]}]
";
    let more = inbound(door, hello().await, "allow");
    let agent = home.agent("app", &more, &[("policy.yaml", policy)]).await;
    let denied = get(door, "/").await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
    assert_eq!(denied.header("x-mesh-reason"), "denied");
    assert_eq!(denied.body, "denied by policy\n");
    assert_eq!(get(door, "/healthz").await.status, StatusCode::OK);
    let said = stdout(&agent.mesh_status());
    assert!(said.contains("policy.yaml:7: spec.rules[0].when"), "{said}");
    std::fs::remove_file(agent.dir.join("policy.yaml")).expect("it is there");
    eventually("without it the default permits", async || {
        (get(door, "/").await.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_dangling_backend_answers_500_for_its_share() {
    let home = Home::new();
    let documents = service("app", hello().await, PLAIN);
    let half = route(
        "half",
        "    - {name: app, port: 80, weight: 1}\n    - {name: gone, port: 80, weight: 1}\n",
    );
    let (agent, door) = outbound(&home, &[("app.yaml", &documents), ("route.yaml", &half)]).await;
    let (mut good, mut missing) = (0, 0);
    for _ in 0..60 {
        let answer = get(door, "/").await;
        match (answer.status, answer.header("x-mesh-reason")) {
            (StatusCode::OK, "") => good += 1,
            (StatusCode::INTERNAL_SERVER_ERROR, "backend-missing") => missing += 1,
            other => panic!("{other:?}"),
        }
    }
    // Of 60 draws of a half, fewer than 10 on one side come once in ten million times.
    assert!(
        good >= 10 && missing >= 10,
        "{good} good, {missing} missing"
    );
    let status = agent.mesh_status();
    assert!(stdout(&status).contains("gone"), "{}", stdout(&status));
}

#[tokio::test]
async fn plaintext_is_taken_only_where_it_is_permitted() {
    let (home, permissive, strict) = (Home::new(), free(), free());
    let app = hello().await;
    let more = inbound(permissive, app, "allow")
        + &format!("- {{bind: \"{strict}\", inbound: {{app: \"{app}\", appProtocol: http}}}}\n");
    // One list in block style, so that a second item can be added.
    let more = more
        .replace("listeners: [{", "listeners:\n- {")
        .replace("}}]\n", "}}\n");
    let more = more.replace(
        &format!("bind: \"{strict}\", inbound: {{"),
        &format!("bind: \"{strict}\", inbound: {{peers: strict, "),
    );
    let agent = home.agent("app", &more, &[]).await;
    assert_eq!(get(permissive, "/").await.body, "hello");
    let refused = support::try_send(strict, http::Method::GET, "/", &[]).await;
    assert!(refused.is_none(), "{refused:?}");
    eventually("the refusal is counted", async || {
        let metrics = agent.get("/metrics").await.body;
        let count = |l: &&str| l.starts_with("mesh_connections_failed_total{");
        let line = metrics.lines().find(count)?;
        line.contains("direction=\"inbound\"").then_some(())
    })
    .await;
}
