//! Two workloads of one world with an agent each, and what to ask and watch them with.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ::http::{Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use inmesh_core::authorize::{Action, DefaultAction, Policy, PolicyRule};
use inmesh_core::discover::{Pusher, pushed};
use inmesh_core::model::{
    AppProtocol, Host, Kind, Namespace, ObjectKey, ServiceName, Slice, SliceHost, SlicePort,
    Transport, Workload,
};
use inmesh_core::pki::tls;
use inmesh_core::runtime::{InboundListener, MeshBuilder, OutboundListener, WantsNothing};
use inmesh_core::snapshot::Op;
use inmesh_core::telemetry::{Exchange, ExchangeSink};
use inmesh_core::testing::World;
use inmesh_core::{Body, Local, Mesh};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Result<T = ()> = std::result::Result<T, BoxError>;
pub(crate) type Builder = MeshBuilder<WantsNothing>;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for what must come.
pub(crate) async fn soon<F: Future>(what: F) -> Result<F::Output> {
    Ok(timeout(PATIENCE, what).await.map_err(|_| "it never came")?)
}

/// Pushes to the caller's mesh and waits until it serves.
pub(crate) async fn push(pair: &Pair, ops: Vec<Op>) -> Result {
    let mut changed = pair.web.snapshot().clone();
    let before = changed.load().generation();
    pair.pusher.push(ops).await?;
    while changed.load().generation() == before {
        soon(changed.changed()).await?;
    }
    Ok(())
}

/// Keeps the records of exchanges.
pub(crate) struct Seen {
    all: Mutex<Vec<Exchange>>,
    count: watch::Sender<usize>,
}

impl ExchangeSink for Seen {
    fn record(&self, exchange: &Exchange, _: SystemTime) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(exchange.clone());
        self.count.send_replace(all.len());
    }
}

impl Seen {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            all: Mutex::default(),
            count: watch::channel(0).0,
        })
    }

    pub(crate) fn all(&self) -> Vec<Exchange> {
        self.all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The first record that `wanted` wants, which may be yet to come.
    pub(crate) async fn one(&self, wanted: impl Fn(&Exchange) -> bool) -> Result<Exchange> {
        let mut count = self.count.subscribe();
        let found = async {
            loop {
                if let Some(found) = self.all().into_iter().find(&wanted) {
                    return Ok(found);
                }
                count.changed().await?;
            }
        };
        match timeout(PATIENCE, found).await {
            Ok(found) => found,
            Err(_) => Err(format!("no such record: {:#?}", self.all()).into()),
        }
    }
}

/// Workload `web` with an outbound listener, and workload `cart` in front of a plain server.
pub(crate) struct Pair {
    pub(crate) world: World,
    pub(crate) web: Mesh,
    pub(crate) cart: Mesh,
    /// Where programs of `web` send to.
    pub(crate) outbound: SocketAddr,
    /// Where the agent of `cart` listens.
    pub(crate) inbound: SocketAddr,
    pub(crate) pusher: Pusher,
    pub(crate) out_seen: Arc<Seen>,
    pub(crate) in_seen: Arc<Seen>,
}

impl Pair {
    pub(crate) async fn new(protocol: AppProtocol, app: SocketAddr) -> Result<Self> {
        Self::with(protocol, app, |b| b, |_| {}).await
    }

    pub(crate) async fn with(
        protocol: AppProtocol,
        app: SocketAddr,
        build: impl Fn(Builder) -> Builder,
        listen: impl FnOnce(&mut InboundListener),
    ) -> Result<Self> {
        let world = World::new()?;
        let (out_seen, in_seen) = (Seen::new(), Seen::new());
        let cart = build(world.mesh("cart")?.exchanges(Arc::clone(&in_seen) as _)).start()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let inbound = listener.local_addr()?;
        let mut to = InboundListener::new(app, protocol);
        listen(&mut to);
        tokio::spawn({
            let cart = cart.clone();
            async move { cart.serve_behind(listener, to).await }
        });
        let (pusher, source) = pushed("test");
        let web = build(world.mesh("web")?.exchanges(Arc::clone(&out_seen) as _))
            .source(source)
            .start()?;
        pusher
            .push(world.service("cart", protocol, &[inbound])?)
            .await?;
        web.ready().await;
        let outbound =
            serve_outbound(&web, OutboundListener::by_authority(AppProtocol::Detect)).await?;
        Ok(Self {
            world,
            web,
            cart,
            outbound,
            inbound,
            pusher,
            out_seen,
            in_seen,
        })
    }
}

/// A connection of `web` to an inbound listener.
pub(crate) async fn peer(
    pair: &Pair,
    to: SocketAddr,
    alpn: &[u8],
) -> Result<client::TlsStream<TcpStream>> {
    let (_, reader) = pair.world.identity("web")?;
    let config = tls::client_config(reader, pair.world.crypto(), &[alpn]);
    let stream = TcpStream::connect(to).await?;
    let connecting = TlsConnector::from(config).connect(tls::server_name(), stream);
    Ok(soon(connecting).await??)
}

/// Makes a server without an agent the one endpoint of `cart`.
pub(crate) async fn plain_cart(pair: &Pair, at: SocketAddr) -> Result {
    let namespace = Namespace::new("shop")?;
    let slice = Slice::new(
        ObjectKey::new(Kind::EndpointSlice, &namespace, "cart-0")?,
        ServiceName::new(&namespace, "cart")?,
        vec![SlicePort::new("main", at.port())],
        vec![SliceHost::new(Host::Address(at.ip()))],
        Transport::Plain,
    );
    pair.pusher.push(vec![Op::put(slice)]).await?;
    let mut snapshot = pair.web.snapshot().clone();
    while snapshot.load().generation() < 2 {
        soon(snapshot.changed()).await?;
    }
    Ok(())
}

/// A mesh of the workload `web` whose egress policy denies what a rule matches, with `cart` at an endpoint;
/// and what tells it of Services.
pub(crate) async fn with_egress(
    denied: PolicyRule,
    protocol: AppProtocol,
    endpoint: SocketAddr,
) -> Result<(Mesh, Pusher)> {
    let world = World::new()?;
    let key = ObjectKey::new(Kind::AuthorizationPolicy, &Namespace::new("shop")?, "out")?;
    let deny = Policy::new(key, Action::Deny, vec![denied]);
    let web = Workload::new("shop", "web", "web")?;
    let local =
        Local::new(web, DefaultAction::Deny).with_egress(DefaultAction::Allow, [Arc::new(deny)])?;
    let (_, reader) = world.identity("web")?;
    let (pusher, source) = pushed("test");
    let mesh = Mesh::builder()
        .crypto(world.crypto().clone())
        .identity(reader)
        .local(local)
        .source(source)
        .start()?;
    pusher
        .push(world.service("cart", protocol, &[endpoint])?)
        .await?;
    mesh.ready().await;
    Ok((mesh, pusher))
}

pub(crate) async fn serve_outbound(mesh: &Mesh, to: OutboundListener) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mesh = mesh.clone();
    tokio::spawn(async move { mesh.serve_outbound(listener, to).await });
    Ok(address)
}

/// Has `cart` be a service in this process from now on.
pub(crate) async fn in_process<S, E>(pair: &Pair, protocol: AppProtocol, service: S) -> Result
where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = E>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    E: Into<inmesh_core::BoxError>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = [listener.local_addr()?];
    let cart = pair.cart.clone();
    tokio::spawn(async move { cart.serve(listener, service).await });
    let mut snapshot = pair.web.snapshot().clone();
    let before = snapshot.load().generation();
    let change = pair.world.service("cart", protocol, &endpoint)?;
    pair.pusher.push(change).await?;
    while snapshot.load().generation() == before {
        soon(snapshot.changed()).await?;
    }
    Ok(())
}

/// A plain HTTP/1.1 server.
pub(crate) async fn origin<F, R>(answer: F) -> Result<SocketAddr>
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let io = TokioIo::new(stream);
            let serving = hyper::server::conn::http1::Builder::new()
                .max_headers(300)
                .serve_connection(io, service)
                .with_upgrades();
            tokio::spawn(serving);
        }
    });
    Ok(address)
}

/// A plain HTTP/2 server.
pub(crate) async fn origin_h2<F, R>(answer: F) -> Result<SocketAddr>
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let io = TokioIo::new(stream);
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(io, service));
        }
    });
    Ok(address)
}

/// Answers with a line that tells what was seen.
pub(crate) async fn tell(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let bytes = body.collect().await.map_or(0, |b| b.to_bytes().len());
    let text = format!(
        "{} {} {:?} {bytes}",
        head.method,
        head.uri.path(),
        head.version
    );
    Response::new(Body::from(text))
}

pub(crate) async fn h1(address: SocketAddr) -> Result<http1::SendRequest<Body>> {
    let io = TokioIo::new(TcpStream::connect(address).await?);
    let (sender, connection) = http1::handshake(io).await?;
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

pub(crate) async fn h2(address: SocketAddr) -> Result<http2::SendRequest<Body>> {
    let io = TokioIo::new(TcpStream::connect(address).await?);
    let builder = http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.handshake(io).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Writes bytes and reads until the other side has nothing more to say.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes).await?;
    let mut out = Vec::new();
    soon(stream.read_to_end(&mut out)).await??;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

pub(crate) fn get(target: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = target.parse().unwrap_or_default();
    request
}

/// An HTTP/1.1 request in origin form for `cart`.
pub(crate) fn for_cart(path: &str) -> Request<Body> {
    let mut request = get(path);
    let host = ::http::HeaderValue::from_static("cart");
    request.headers_mut().insert(::http::header::HOST, host);
    request
}

pub(crate) async fn text<B>(response: Response<B>) -> Result<String>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let body = soon(response.into_body().collect())
        .await?
        .map_err(Into::into)?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

pub(crate) fn whole(text: &str) -> Body {
    Body::new(Full::new(Bytes::copy_from_slice(text.as_bytes())))
}

/// The requests and streams on their way to any endpoint.
pub(crate) fn in_flight(mesh: &Mesh) -> u32 {
    let status = mesh.status();
    let endpoints = status.services.iter().flat_map(|s| &s.endpoints);
    endpoints.map(|e| e.in_flight).sum()
}

/// An application that repeats bytes.
pub(crate) async fn echo() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    Ok(address)
}
