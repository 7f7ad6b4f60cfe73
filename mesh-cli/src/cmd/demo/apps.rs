//! The applications: plain HTTP servers that know nothing of the mesh, but for web, which embeds
//! it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use inmesh_core::Body;
use inmesh_core::runtime::Client;
use tokio::net::{TcpListener, TcpStream};

/// The fields that tell which endpoint of cart answered.
const MARKS: [&str; 2] = ["x-version", "x-endpoint"];

/// What a scene may do to an endpoint of cart.
#[derive(Debug, Default)]
pub(super) struct Mood {
    pub(super) delay_ms: AtomicU64,
    pub(super) fails: AtomicBool,
}

#[derive(Clone)]
struct Cart {
    version: &'static str,
    name: Arc<str>,
    mood: Arc<Mood>,
    ledger: Plain,
}

/// A plain HTTP/1.1 client with kept connections: what an application without the mesh has.
#[derive(Debug, Clone)]
struct Plain {
    to: SocketAddr,
    kept: Arc<Mutex<Vec<SendRequest<Empty<Bytes>>>>>,
}

/// Starts the server of one endpoint of cart; each request asks the ledger through the agent's
/// listener at `ledger`.
pub(super) async fn cart(
    version: &'static str,
    name: &str,
    ledger: SocketAddr,
) -> anyhow::Result<(SocketAddr, Arc<Mood>)> {
    let mood = Arc::<Mood>::default();
    let state = Cart {
        version,
        name: name.into(),
        mood: Arc::clone(&mood),
        ledger: Plain {
            to: ledger,
            kept: Arc::default(),
        },
    };
    let app = Router::new().route("/", get(cart_items)).with_state(state);
    Ok((plain_server(app).await?, mood))
}

async fn cart_items(State(cart): State<Cart>, request: HeaderMap) -> impl IntoResponse {
    let mut headers = HeaderMap::new();
    headers.insert("x-version", HeaderValue::from_static(cart.version));
    if let Ok(name) = HeaderValue::from_str(&cart.name) {
        headers.insert("x-endpoint", name);
    }
    let delay = cart.mood.delay_ms.load(Ordering::Relaxed);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    if cart.mood.fails.load(Ordering::Relaxed) {
        return (
            StatusCode::INTERNAL_SERVER_ERROR,
            headers,
            "this endpoint is broken".to_owned(),
        );
    }
    // What an application should do with its trace context, and what the embedded mesh of web
    // does by itself.
    match cart.ledger.get("ledger", request.get("traceparent")).await {
        Ok((StatusCode::OK, text)) => (StatusCode::OK, headers, format!("cart {text}")),
        Ok((status, text)) => (
            StatusCode::BAD_GATEWAY,
            headers,
            format!("ledger: {status}: {text}"),
        ),
        Err(e) => (StatusCode::BAD_GATEWAY, headers, format!("ledger: {e:#}")),
    }
}

/// Starts the server of the ledger.
pub(super) async fn ledger() -> anyhow::Result<SocketAddr> {
    plain_server(Router::new().route("/", get(async || "with its ledger"))).await
}

async fn plain_server(app: Router) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

/// The application of web: an axum router whose client is the embedded mesh.
pub(super) fn web(client: Client) -> Router {
    Router::new().route("/", get(home)).with_state(client)
}

async fn home(State(client): State<Client>, request: Request) -> impl IntoResponse {
    let mut to_cart = http::Request::get("http://cart/");
    if let Some(group) = request.headers().get("x-group") {
        to_cart = to_cart.header("x-group", group);
    }
    let Ok(to_cart) = to_cart.body(Body::empty()) else {
        return (
            StatusCode::INTERNAL_SERVER_ERROR,
            HeaderMap::new(),
            Bytes::new(),
        );
    };
    let (head, body) = client.send(to_cart).await.into_parts();
    let mut headers = HeaderMap::new();
    for mark in MARKS {
        if let Some(value) = head.headers.get(mark) {
            headers.insert(mark, value.clone());
        }
    }
    match body.collect().await {
        Ok(body) => (head.status, headers, body.to_bytes()),
        Err(e) => (StatusCode::BAD_GATEWAY, headers, e.to_string().into()),
    }
}

// === impl Plain ===

impl Plain {
    async fn get(
        &self,
        host: &str,
        trace: Option<&HeaderValue>,
    ) -> anyhow::Result<(StatusCode, String)> {
        let mut sender = match self.kept() {
            Some(sender) => sender,
            None => {
                let stream = TcpStream::connect(self.to).await?;
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                sender
            }
        };
        let mut request = http::Request::get("/").header(http::header::HOST, host);
        if let Some(trace) = trace {
            request = request.header("traceparent", trace);
        }
        let response = sender.send_request(request.body(Empty::new())?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(sender);
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn kept(&self) -> Option<SendRequest<Empty<Bytes>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|sender| !sender.is_closed());
        let ready = kept.iter().rposition(SendRequest::is_ready)?;
        Some(kept.swap_remove(ready))
    }
}
