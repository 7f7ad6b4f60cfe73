//! How does an axum service in a Pod become a member of the mesh? What it is and what it trusts is mounted;
//! policies and what it calls come from the control plane. `mesh-cli/docs/embedding.md` has the volume.
//!
//! `GET /hello` names the peer that asks; `GET /ask` asks the URL in `ASK` in its turn, through the mesh.
use axum::{Router, extract::State, routing::get};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use inmesh_core::{Body, Mesh, identify::PeerInfo};
use inmesh_discovery::embed::{Embed, Pod};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
type Answer = Result<String, (StatusCode, String)>;

async fn hello(peer: PeerInfo) -> String {
    format!("hello {}", peer.id().map_or("", |id| id.as_str()))
}

async fn ask(State((mesh, url)): State<(Mesh, String)>) -> Answer {
    let failed = |e: &dyn std::fmt::Display| (StatusCode::BAD_GATEWAY, e.to_string());
    let request = Request::get(url).body(Body::empty());
    let answer = mesh.client().send(request.map_err(|e| failed(&e))?).await;
    let (status, body) = (answer.status(), answer.into_body().collect().await);
    let body = body.map_err(|e| failed(&e))?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    if status.is_success() {
        Ok(text)
    } else {
        Err((status, text))
    }
}

async fn ready(State(mesh): State<Mesh>) -> (StatusCode, String) {
    match mesh.status() {
        status if status.ready => (StatusCode::OK, "ready".into()),
        status => (StatusCode::SERVICE_UNAVAILABLE, status.not_ready.join("\n")),
    }
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let mut stop = signal(SignalKind::terminate())?;
    let ask_of = std::env::var("ASK").unwrap_or_else(|_| "http://cart/hello".into());
    let mesh = Mesh::builder().kubernetes(Pod::new()).await?.start()?;
    // The kubelet is no peer: it probes another port, in plaintext.
    let probed = TcpListener::bind("0.0.0.0:8081").await?;
    let probes = Router::new()
        .route("/readyz", get(ready))
        .with_state(mesh.clone());
    tokio::spawn(async move { axum::serve(probed, probes).await });

    let public = TcpListener::bind("0.0.0.0:8080").await?;
    let app = Router::new()
        .route("/hello", get(hello))
        .route("/ask", get(ask));
    let app = app.with_state((mesh.clone(), ask_of));
    let down = async {
        stop.recv().await;
        mesh.drain().await;
    };
    tokio::join!(mesh.serve(public, app), down);
    Ok(())
}
