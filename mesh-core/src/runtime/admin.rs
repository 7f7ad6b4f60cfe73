//! The admin surface: metrics, readiness, status, configuration, log level, drain.
//!
//! Changes need POST. The Host must be an address or `localhost`, so that no web page can reach it
//! through a name of its own (DNS rebinding). Nothing that it shows holds a secret.

use std::net::IpAddr;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use super::Mesh;
use crate::accept::{ConnState, Listener, Timed};
use crate::body::Body;

/// Sets the filter of the log; the error is for the person who asked.
pub type LogLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What the admin surface can do beyond what the runtime knows itself.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Admin {
    /// Sets the log level at run time; without it the request is answered with 501.
    pub log_level: Option<LogLevel>,
}

/// The most connections at once: a few people, and who collects metrics.
const CONNECTIONS: usize = 100;

// === impl Admin ===

impl Admin {
    /// An admin surface that can set the log level.
    pub fn with_log_level(set: LogLevel) -> Self {
        Self {
            log_level: Some(set),
        }
    }

    /// Serves until the runtime has closed.
    pub(super) async fn serve(self, listener: TcpListener, mesh: Mesh) {
        let listener = Listener::new(listener, CONNECTIONS);
        let mut drain = mesh.watch_drain();
        loop {
            let (stream, _) = tokio::select! {
                accepted = listener.accept() => accepted,
                () = drain.closed() => return,
            };
            let (admin, mesh) = (self.clone(), mesh.clone());
            tokio::spawn(async move {
                let limits = mesh.limits().clone();
                let state = Arc::<ConnState>::default();
                let io = Timed::http1(stream, state.clone(), limits.header, limits.idle);
                let service = service_fn(move |request| {
                    state.busy();
                    let answer = admin.answer(&request, &mesh);
                    state.idle();
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(None)
                    .serve_connection(TokioIo::new(io), service)
                    .await;
                if let Err(e) = served {
                    tracing::debug!(error = %e, "an admin connection broke off");
                }
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>, mesh: &Mesh) -> Response<Body> {
        let host = request
            .headers()
            .get(header::HOST)
            .and_then(|h| h.to_str().ok());
        if !host.is_some_and(is_local) {
            return text(
                StatusCode::FORBIDDEN,
                "the Host must be an address or localhost\n",
            );
        }
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => {
                let mut response = Response::new(Body::from(mesh.encode_metrics()));
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                let kind = header::HeaderValue::from_static(kind);
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            (&Method::GET, "/livez") => text(StatusCode::OK, "ok\n"),
            (&Method::GET, "/readyz") => {
                let not_ready = mesh.not_ready();
                if not_ready.is_empty() {
                    text(StatusCode::OK, "ok\n")
                } else {
                    text(
                        StatusCode::SERVICE_UNAVAILABLE,
                        &(not_ready.join("\n") + "\n"),
                    )
                }
            }
            (&Method::GET, "/status") => json(&mesh.status()),
            (&Method::GET, "/config_dump") => json(&mesh.config_dump()),
            (&Method::POST, "/log") => self.set_log_level(request.uri().query()),
            (&Method::POST, "/drain") => {
                tokio::spawn({
                    let mesh = mesh.clone();
                    async move { mesh.drain().await }
                });
                text(StatusCode::ACCEPTED, "draining\n")
            }
            (_, "/metrics" | "/livez" | "/readyz" | "/status" | "/config_dump") => {
                text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n")
            }
            (_, "/log" | "/drain") => text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n"),
            _ => text(
                StatusCode::NOT_FOUND,
                "GET /metrics /livez /readyz /status /config_dump; POST /log?level=FILTER /drain\n",
            ),
        }
    }

    fn set_log_level(&self, query: Option<&str>) -> Response<Body> {
        let level = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
            .find(|(name, _)| name == "level")
            .map(|(_, level)| level.into_owned());
        match (&self.log_level, level) {
            (None, _) => text(StatusCode::NOT_IMPLEMENTED, "the embedder owns the log\n"),
            (_, None) => text(
                StatusCode::BAD_REQUEST,
                "say which: POST /log?level=debug\n",
            ),
            (Some(set), Some(level)) => match set(&level) {
                Ok(()) => text(StatusCode::OK, &format!("log level is {level}\n")),
                Err(e) => text(StatusCode::BAD_REQUEST, &format!("{e}\n")),
            },
        }
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin")
            .field("log_level", &self.log_level.is_some())
            .finish()
    }
}

fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        Some((v6, _)) => v6,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn text(status: StatusCode, body: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_owned()));
    *response.status_mut() = status;
    response
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec_pretty(value) {
        Ok(bytes) => {
            let mut response = Response::new(Body::from(bytes));
            let kind = header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{e}\n")),
    }
}
