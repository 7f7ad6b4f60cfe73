//! The admin surface: metrics, readiness, status, configuration, explanations, log level, drain.
//!
//! Changes need POST. What a web page may have sent through a browser is refused, by its Host, Origin
//! and Sec-Fetch-Site. Nothing that it shows holds a secret.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use inmesh_pki::serve::{Within, is_for_us};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::limits::Limits;
use super::mesh::Mesh;
use super::status::Status;
use crate::accept::{ConnState, Listener, Timed};
use crate::body::Body;
use crate::explain::Question;
use crate::telemetry::Exposition;

/// Connections at once to one set of pages.
const CONNECTIONS: usize = 256;

/// Pages with metrics, status or configuration at once: each may have 32 MiB.
const LARGE: usize = 2;

/// How long a request for one of them waits for a place, below the 10 s of a scrape.
const PLACE: Duration = Duration::from_secs(5);

const JSON: &str = "application/json";

/// How long one of them may rest between two requests: it keeps a place that a probe may need.
const IDLE: Duration = Duration::from_secs(5);

/// How long an answer may take to be read, as long as a scrape usually may: until then it has a place
/// among the few large ones.
const READ: Duration = Duration::from_secs(10);

/// Sets the filter of the log; the error is shown to the operator.
pub type LogLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What the admin surface can do beyond what the runtime knows itself.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Admin {
    /// Sets the log level at run time; without it the request is answered with 501.
    pub log_level: Option<LogLevel>,
    sections: BTreeMap<&'static str, Section>,
}

/// Reads a section of the status.
type Section = Arc<dyn Fn() -> Value + Send + Sync>;

/// The status with the sections of the embedder.
#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    own: Status,
    #[serde(flatten)]
    sections: BTreeMap<&'static str, Value>,
}

// === impl Mesh ===

impl Mesh {
    /// Serves the admin surface. Bind it to loopback: it authenticates no client.
    pub async fn serve_admin(&self, listener: TcpListener, admin: Admin) {
        admin.serve(listener, self.clone()).await;
    }

    /// The configuration that serves, in its compiled form.
    fn config_dump(&self, status: &impl Serialize) -> Value {
        let snapshot = self.snapshot().load();
        let mut services: Vec<_> = snapshot.services().cloned().collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        json!({
            "status": status,
            "policy": &**snapshot.policy(),
            "routes": services
                .iter()
                .filter(|view| !view.routes.is_empty())
                .map(|view| json!({
                    "service": view.name.to_string(),
                    "routes": &view.routes,
                }))
                .collect::<Vec<_>>(),
            // Of the ports that a policy reaches; what the process was built with serves the others.
            "traffic": services
                .iter()
                .flat_map(|view| view.ports.iter().map(move |port| (view, port.port)))
                .filter_map(|(view, port)| Some((view, port, view.traffic(port)?)))
                .filter(|(_, _, traffic)| !Arc::ptr_eq(traffic, &snapshot.settings().traffic))
                .map(|(view, port, traffic)| json!({
                    "service": view.name.to_string(),
                    "port": port,
                    "traffic": &**traffic,
                }))
                .collect::<Vec<_>>(),
        })
    }
}

// === impl Admin ===

impl Admin {
    /// An admin surface that can set the log level.
    pub fn with_log_level(set: LogLevel) -> Self {
        Self {
            log_level: Some(set),
            sections: BTreeMap::new(),
        }
    }

    /// Adds a section to the status, for what runs beside the mesh; `read` is called for each
    /// request. Its name must not be a field of [`Status`], and it must show no secret.
    ///
    /// ```
    /// use inmesh_core::runtime::Admin;
    ///
    /// let jobs = || vec!["one", "two"];
    /// let admin = Admin::default().section("jobs", jobs);
    /// # let _ = admin;
    /// ```
    #[must_use]
    pub fn section<S: Serialize>(
        mut self,
        name: &'static str,
        read: impl Fn() -> S + Send + Sync + 'static,
    ) -> Self {
        let read = move || {
            serde_json::to_value(read()).unwrap_or_else(|error| Value::String(error.to_string()))
        };
        self.sections.insert(name, Arc::new(read));
        self
    }

    /// Serves until the runtime has closed.
    pub(super) async fn serve(self, listener: TcpListener, mesh: Mesh) {
        let mut drain = mesh.watch_drain();
        let limits = Limits::clone(mesh.limits());
        let (this, large) = (Arc::new(self), Arc::new(Semaphore::new(LARGE)));
        let serving = serve_pages(listener, limits, move |request| {
            let (this, mesh, large) = (Arc::clone(&this), mesh.clone(), Arc::clone(&large));
            async move { this.answer(request, mesh, large).await }
        });
        tokio::select! {
            () = serving => {}
            () = drain.closed() => {}
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<()>,
        mesh: Mesh,
        large: Arc<Semaphore>,
    ) -> Response<Body> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => {
                let accept = request.headers().get_all(header::ACCEPT).iter();
                let format = Exposition::of(accept.filter_map(|value| value.to_str().ok()));
                let write = move || mesh.metrics().encode_as(format).into_bytes();
                aside(large, format.content_type(), write).await
            }
            (&Method::GET, "/livez") => text(StatusCode::OK, "ok\n"),
            (&Method::GET, "/readyz") => {
                let not_ready = mesh.not_ready();
                if not_ready.is_empty() {
                    let lines = ["ok".to_owned()].into_iter().chain(mesh.doubts());
                    let lines: String = lines.map(|line| line + "\n").collect();
                    text(StatusCode::OK, &lines)
                } else {
                    text(
                        StatusCode::SERVICE_UNAVAILABLE,
                        &(not_ready.join("\n") + "\n"),
                    )
                }
            }
            (&Method::GET, "/status") => {
                aside(large, JSON, move || json_bytes(&self.whole(&mesh))).await
            }
            (&Method::GET, "/config_dump") => {
                let write = move || json_bytes(&mesh.config_dump(&self.whole(&mesh)));
                aside(large, JSON, write).await
            }
            (&Method::POST, "/explain") => {
                match Question::from_query(request.uri().query().unwrap_or_default()) {
                    Ok(question) => {
                        let write = move || json_bytes(&mesh.explain(&question));
                        aside(large, JSON, write).await
                    }
                    Err(invalid) => text(StatusCode::BAD_REQUEST, &format!("{invalid}\n")),
                }
            }
            (&Method::POST, "/log") => self.set_log_level(request.uri().query()),
            (&Method::POST, "/drain") => {
                tokio::spawn(async move { mesh.drain().await });
                text(StatusCode::ACCEPTED, "draining\n")
            }
            (_, "/metrics" | "/livez" | "/readyz" | "/status" | "/config_dump") => {
                not_allowed("GET, HEAD")
            }
            (_, "/explain" | "/log" | "/drain") => not_allowed("POST"),
            _ => text(
                StatusCode::NOT_FOUND,
                "GET /metrics /livez /readyz /status /config_dump; \
                 POST /explain?request=REQUEST /log?level=FILTER /drain\n",
            ),
        }
    }

    fn whole(&self, mesh: &Mesh) -> Whole {
        let sections = self.sections.iter();
        Whole {
            own: mesh.status(),
            sections: sections.map(|(name, read)| (*name, read())).collect(),
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
            .field("sections", &self.sections.keys())
            .finish()
    }
}

/// Serves pages over HTTP/1.1, for operators and scrapers; it never ends.
///
/// `answer` gets the head of each request; a body is not read, and HEAD comes to it as GET. A request that a web page may have sent
/// ([`is_for_us`]) is answered with 403 before `answer` sees it. There are at most 256
/// connections at once, each of which may rest for 5 s, or as long as `limits` says if that is less;
/// a header may take as long as they say, and an answer 10 s to be read. Whether one rests is looked at when its last header was
/// due.
async fn serve_pages<F, R>(listener: TcpListener, limits: Limits, answer: F)
where
    F: Fn(Request<()>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let (listener, answer) = (Listener::new(listener, CONNECTIONS), Arc::new(answer));
    loop {
        let (stream, _) = listener.accept().await;
        let answer = Arc::clone(&answer);
        let (header, idle) = (limits.header, limits.idle);
        tokio::spawn(serve_one(stream, header, idle, answer));
    }
}

async fn serve_one<S, F, R>(stream: S, header: Duration, idle: Duration, answer: Arc<F>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<()>) -> R,
    R: Future<Output = Response<Body>>,
{
    let state = Arc::<ConnState>::default();
    let io = Timed::http1(
        Within::new(stream, READ),
        Arc::clone(&state),
        header,
        idle.min(IDLE),
        idle.min(IDLE),
    );
    let service = service_fn(move |request: Request<Incoming>| {
        let (state, answer) = (Arc::clone(&state), Arc::clone(&answer));
        async move {
            state.busy();
            let fields = request.headers().iter();
            let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
            let authority = request.uri().authority().map(Authority::as_str);
            let response = match is_for_us(authority, fields) {
                Ok(()) => answer(as_get(request.map(drop))).await,
                Err(reason) => text(StatusCode::FORBIDDEN, &format!("{reason}\n")),
            };
            state.idle();
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(e) = served {
        tracing::debug!(error = %e, "an admin connection broke off");
    }
}

/// The same request as a GET, where it is a HEAD: the library sends the answer's head alone then (RFC 9110
/// section 9.3.2).
fn as_get(mut request: Request<()>) -> Request<()> {
    if request.method() == Method::HEAD {
        *request.method_mut() = Method::GET;
    }
    request
}

/// 405 for a page that is there, with the methods that it takes (RFC 9110 section 15.5.6).
fn not_allowed(allowed: &'static str) -> Response<Body> {
    let method = allowed.split(',').next().unwrap_or_default();
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, &format!("use {method}\n"));
    let allowed = HeaderValue::from_static(allowed);
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

fn text(status: StatusCode, body: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_owned()));
    *response.status_mut() = status;
    response
}

/// Writes a page that may be large on a thread that requests do not wait for. There are few such
/// pages at once, until they are sent; one that finds no place in time is answered with 503.
async fn aside(
    large: Arc<Semaphore>,
    content_type: &'static str,
    write: impl FnOnce() -> Vec<u8> + Send + 'static,
) -> Response<Body> {
    let busy = || text(StatusCode::SERVICE_UNAVAILABLE, "too many pages at once\n");
    let Ok(Ok(place)) = timeout(PLACE, large.acquire_owned()).await else {
        return busy();
    };
    // Only a runtime that shuts down cancels it.
    let Ok(page) = tokio::task::spawn_blocking(write).await else {
        return busy();
    };
    let page = Page {
        bytes: page,
        _place: place,
    };
    let mut response = Response::new(Body::from(Bytes::from_owner(page)));
    let kind = HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A page, and its place among those that are not yet sent.
struct Page {
    bytes: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn json_bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value)
        .unwrap_or_else(|error| json!({"error": error.to_string()}).to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, channel};

    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;
    use crate::discover::{Gone, Sink};
    use crate::drain::Drain;
    use crate::model::SourceId;
    use crate::snapshot::Change;
    use crate::testing::World;

    /// A place is free again soon after its last answer, whatever callers of the mesh may do.
    #[tokio::test(start_paused = true)]
    async fn a_connection_to_pages_that_rests_is_closed_soon() {
        let secs = Duration::from_secs;
        for (limit, expected) in [(secs(300), secs(5)), (secs(2), secs(2))] {
            let header = secs(10);
            let (mut caller, stream) = duplex(4096);
            let answer = |_| async { text(StatusCode::OK, "page") };
            tokio::spawn(serve_one(stream, header, limit, Arc::new(answer)));
            for _ in 0..2 {
                // A request in time is served.
                tokio::time::sleep(secs(1)).await;
                let ask = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
                caller.write_all(ask).await.unwrap();
                let mut answer = Vec::new();
                while !answer.ends_with(b"page") {
                    assert_ne!(caller.read_buf(&mut answer).await.unwrap(), 0);
                }
            }
            let begin = Instant::now();
            let mut rest = Vec::new();
            caller.read_to_end(&mut rest).await.unwrap();
            let rested = begin.elapsed();
            let late = expected + header;
            assert!(
                expected <= rested && rested <= late,
                "{limit:?}: {rested:?}"
            );
        }
    }

    /// Encoding waits for what can only come from the runtime's one thread.
    #[tokio::test]
    async fn a_page_that_takes_long_holds_up_nothing() {
        let large = Arc::new(Semaphore::new(1));
        let (come, waits): (_, Receiver<()>) = channel();
        let write = move || match waits.recv_timeout(Duration::from_secs(60)) {
            Ok(()) => b"in the end".to_vec(),
            Err(_) => b"nothing came".to_vec(),
        };
        let page = tokio::spawn(aside(Arc::clone(&large), JSON, write));
        while large.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        come.send(()).unwrap();
        let response = page.await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_TYPE], JSON);
        assert_eq!(large.available_permits(), 0, "it is not sent yet");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "in the end");
        drop(body);
        assert_eq!(large.available_permits(), 1);
    }

    /// Loses what it reads from once it has read it.
    struct Losing;

    impl crate::discover::Source for Losing {
        fn id(&self) -> SourceId {
            SourceId::new("one")
        }

        async fn run(self, sink: Sink, mut drain: Drain) -> Result<(), Gone> {
            sink.push(Change::replace(self.id(), vec![])).await?;
            sink.synced().await?;
            sink.lost("gone").await?;
            drain.closed().await;
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_mesh_with_a_stale_source_is_ready_and_says_so() {
        let world = World::new().unwrap();
        let mesh = world.mesh("web").unwrap().source(Losing).start().unwrap();
        mesh.ready().await;
        let page = async || {
            let (admin, large) = (Arc::new(Admin::default()), Arc::new(Semaphore::new(1)));
            let request = Request::get("/readyz").body(()).unwrap();
            let answer = admin.answer(request, mesh.clone(), large).await;
            assert_eq!(answer.status(), StatusCode::OK);
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            String::from_utf8(body.to_vec()).unwrap()
        };
        assert_eq!(page().await, "ok\n");
        tokio::time::sleep(Duration::from_secs(300)).await;
        tokio::task::yield_now().await;
        let doubt =
            "source one is stale: lost: gone, 300 s out of sync; what it pushed last serves";
        assert_eq!(page().await, format!("ok\n{doubt}\n"));
    }

    /// A reader of a byte a second would else hold the place for months.
    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_gives_its_place_back() {
        let large = Arc::new(Semaphore::new(1));
        let (mut caller, stream) = duplex(64);
        let answer = {
            let large = Arc::clone(&large);
            move |_| aside(Arc::clone(&large), JSON, || vec![b'x'; 10_000])
        };
        let (header, idle) = (Duration::from_secs(10), Duration::from_secs(5));
        tokio::spawn(serve_one(stream, header, idle, Arc::new(answer)));
        let ask = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n";
        caller.write_all(ask).await.unwrap();
        let begin = Instant::now();
        while caller.read_u8().await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // What is buffered between the two is still read.
            assert!(begin.elapsed() < READ + Duration::from_secs(80));
            if begin.elapsed() > READ + Duration::from_secs(1) {
                assert_eq!(large.available_permits(), 1);
            }
        }
        assert!(begin.elapsed() > READ);
    }

    #[tokio::test(start_paused = true)]
    async fn pages_that_are_not_read_are_few() {
        let large = Arc::new(Semaphore::new(1));
        let written = Arc::new(Mutex::new(0));
        let write = || {
            let written = Arc::clone(&written);
            move || {
                *written.lock().unwrap() += 1;
                Vec::from(*b"page")
            }
        };
        let unread = aside(Arc::clone(&large), JSON, write()).await;
        let second = aside(Arc::clone(&large), JSON, write()).await;
        assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(unread);
        let third = aside(Arc::clone(&large), JSON, write()).await;
        assert_eq!(third.status(), StatusCode::OK);
        assert_eq!(*written.lock().unwrap(), 2);
    }
}
