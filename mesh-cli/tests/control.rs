//! `mesh control` and agents that follow it, as processes.

mod support;

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get as on_get;
use http::{Method, StatusCode};
use nix::sys::signal::Signal;
use support::{
    Agent, Home, agent_file, app, eventually, free, mesh, service, stderr, stdout, try_send,
};

/// The agent of an application, reached at an address.
async fn server(home: &Home, name: &str, at: SocketAddr) -> Agent {
    let says = name.to_owned();
    let app = app(Router::new().fallback(on_get(async move || says))).await;
    let more = format!(
        "defaultAction: allow
peers: strict
listeners: [{{bind: \"{at}\", inbound: {{app: \"{app}\", appProtocol: http}}}}]
"
    );
    home.agent(name, &more, &[]).await
}

/// The documents of a Service of the mesh.
fn documents(name: &str, at: SocketAddr) -> String {
    let ids = format!(
        "inmesh.dev/transport: mesh, inmesh.dev/ids: spiffe://test.local/ns/shop/sa/{name}"
    );
    service(name, at, &ids)
}

fn control(at: SocketAddr) -> String {
    format!("defaultAction: allow\npeers: strict\ncontrolPlane: {{bind: \"{at}\"}}\n")
}

/// An agent that knows nothing but its control plane, and serves outbound requests at `door`.
fn follower(door: SocketAddr, control: SocketAddr) -> String {
    format!(
        "defaultAction: allow
peers: strict
listeners: [{{bind: \"{door}\", outbound: {{}}}}]
control:
  addresses: [\"{control}\"]
  controlId: spiffe://test.local/ns/shop/sa/control
  keep: control.state
"
    )
}

async fn ask(door: SocketAddr, host: &str) -> (StatusCode, String) {
    let answer = try_send(door, Method::GET, "/", &[("host", host)]).await;
    let answer = answer.expect("the agent answers");
    (answer.status, answer.body)
}

async fn converged(control: &Agent, subscribers: u64) {
    eventually("the subscribers have all that concerns them", async || {
        let plane = control.status().await["control_plane"].clone();
        (plane["converged"] == subscribers && plane["behind"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn agents_follow_a_control_plane_and_outlive_it() {
    let home = Home::new();
    let (at, next_at, plane, door) = (free(), free(), free(), free());
    let _cart = server(&home, "cart", at).await;
    let _next = server(&home, "next", next_at).await;
    let cart = documents("cart", at);
    let control = home
        .agent("control", &control(plane), &[("cart.yaml", &cart)])
        .await;
    let web = home.agent("web", &follower(door, plane), &[]).await;
    assert_eq!(ask(door, "cart").await, (StatusCode::OK, "cart".to_owned()));
    assert_eq!(ask(door, "next").await.0, StatusCode::NOT_FOUND);

    // A document that is refused holds up no other, and shows where it is looked for.
    control.publish(
        "bad.yaml",
        &cart
            .replace("name: cart", "name: bad")
            .replace("port: 80,", "port: 0,"),
    );
    control.publish("next.yaml", &documents("next", next_at));
    eventually("the next Service is known", async || {
        (ask(door, "next").await == (StatusCode::OK, "next".to_owned())).then_some(())
    })
    .await;
    converged(&control, 1).await;
    let page = stdout(&control.mesh_status());
    for part in [
        "Service/shop/bad",
        "1 subscribers have all that concerns them, 0 are behind",
        "/sa/web",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert_eq!(control.metric("mesh_control_behind_milliseconds").await, 0);

    eventually("what it knows is kept", async || {
        let kept = std::fs::read(web.dir.join("control.state")).ok()?;
        kept.windows(4).any(|part| part == b"next").then_some(())
    })
    .await;

    // The control plane dies: what is known serves, and so does an agent that begins anew.
    control.signal(Signal::SIGKILL);
    let web = home.again(web).await;
    assert_eq!(ask(door, "cart").await, (StatusCode::OK, "cart".to_owned()));
    assert_eq!(ask(door, "next").await, (StatusCode::OK, "next".to_owned()));
    let (status, body) = ask(door, "other").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    let page = stdout(&web.mesh_status());
    assert!(page.contains("source control is lost"), "{page}");

    let control = home.again(control).await;
    converged(&control, 1).await;
    assert_eq!(ask(door, "other").await.0, StatusCode::NOT_FOUND);
    let subscriber = control.status().await["control_plane"]["subscribers"][0].clone();
    assert_eq!(subscriber["id"], "spiffe://test.local/ns/shop/sa/web");
    // What it had kept is not sent again.
    assert!(control.metric("mesh_control_response_bytes_total").await < 1_000);
}

#[tokio::test]
async fn an_agent_is_one_or_the_other() {
    let home = Home::new();
    for (runs, more, why) in [
        ("proxy", control(free()), "run `mesh control`"),
        (
            "control",
            "defaultAction: allow\npeers: strict\n".to_owned(),
            "does not say controlPlane",
        ),
    ] {
        let dir = home.path(runs);
        std::fs::create_dir(&dir).expect("a new folder");
        support::publish(&dir, "agent.yaml", &agent_file("control", free(), &more));
        let ended = mesh([runs, "--dir"], &[&dir]);
        assert!(!ended.status.success());
        assert!(stderr(&ended).contains(why), "{}", stderr(&ended));
    }
}
