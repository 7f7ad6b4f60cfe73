//! A CA over gRPC, two workloads that get their identity from it, and load between them through
//! real sockets: HTTP/1.1, HTTP/2, gRPC, one TCP stream that never ends, and bare handshakes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use hdrhistogram::Histogram;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use inmesh_core::authorize::DefaultAction;
use inmesh_core::discover::{Pusher, pushed};
use inmesh_core::model::{
    AppProtocol, Host, IdSet, Kind, Namespace, ObjectKey, Service, ServiceName, ServicePort, Slice,
    SliceHost, SlicePort, Transport, Workload,
};
use inmesh_core::runtime::{Client, InboundListener, OutboundListener};
use inmesh_core::snapshot::Op;
use inmesh_core::{Body, Mesh};
use inmesh_pki::Crypto;
use inmesh_pki::ca::server::{CaServer, ServerConfigOf};
use inmesh_pki::ca::store::FileStore;
use inmesh_pki::ca::{Ca, Lifetimes};
use inmesh_pki::clock::SystemClock;
use inmesh_pki::issue::policy::Rules;
use inmesh_pki::rotate::Rotation;
use inmesh_pki::source::ca::{Bootstrap, CaClient, CaClientConfig, Token};
use inmesh_pki::store::{IdentityReader, IdentityState, identity};
use inmesh_pki::tls::{self, ClientAuth};
use inmesh_pki::{SpiffeId, TrustDomain};
use nix::time::ClockId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub(crate) type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How long an answer may take before the request counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests under way at once, of one kind; one that finds no room is lost.
const ROOM: usize = 4_096;
/// Requests are begun in steps of this length.
const STEP: Duration = Duration::from_millis(2);
const KINDS: [&str; 3] = ["h1", "h2", "grpc"];

/// What a run is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) length: Duration,
    /// Requests a second, of all kinds together.
    pub(crate) rate: u32,
    pub(crate) leaf: Duration,
    /// How often a new root is begun; `None` never.
    pub(crate) root_every: Option<Duration>,
}

/// What happened.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) lost: u64,
    pub(crate) why: Vec<String>,
    pub(crate) chunks: u64,
    pub(crate) stream_broke: Option<String>,
    pub(crate) handshakes: u64,
    pub(crate) failed_handshakes: u64,
    pub(crate) leaves: u64,
    /// How many roots were begun, came into use, and were taken out again.
    pub(crate) roots: u64,
    pub(crate) activated: u64,
    pub(crate) retired: u64,
    /// Of requests, from the moment that they were due.
    pub(crate) latency: Histogram<u64>,
    pub(crate) cpu_per_request: Duration,
}

struct Member {
    mesh: Mesh,
    identity: IdentityReader,
}

struct Tally {
    sent: AtomicU64,
    lost: AtomicU64,
    latency: std::sync::Mutex<Histogram<u64>>,
    why: std::sync::Mutex<Vec<String>>,
}

impl Tally {
    fn new() -> Fallible<Arc<Self>> {
        Ok(Arc::new(Self {
            sent: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            latency: std::sync::Mutex::new(Histogram::new(3)?),
            why: std::sync::Mutex::default(),
        }))
    }

    fn lose(&self, why: String) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        let mut all = self.why.lock().expect("no holder panics");
        if all.len() < 20 {
            all.push(why);
        }
    }
}

/// Runs one plan from its CA to its report.
pub(crate) async fn run(plan: Plan) -> Fallible<Report> {
    let home = tempfile::tempdir()?;
    let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
    let domain: TrustDomain = "soak.test".parse()?;
    let lifetimes = Lifetimes {
        leaf: plan.leaf,
        ..Lifetimes::default()
    };
    let store = FileStore::open(&home.path().join("ca"))?;
    let ca = Ca::open(store, &domain, None, lifetimes, &crypto, Arc::clone(&clock)).await?;
    let ca = Arc::new(ca);
    let own: SpiffeId = "spiffe://soak.test/inmesh/ca".parse()?;
    let mut config = ServerConfigOf::new(Rules::new(domain.clone(), own.clone()));
    config.rate = 1_000;
    let server = CaServer::new(Arc::clone(&ca), config).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut running = JoinSet::new();
    running.spawn(server.serve(listener, std::future::pending()));

    let (pusher, source) = pushed("soak");
    let mut source = Some(source);
    let mut members = Vec::new();
    for name in ["cart", "web"] {
        let id = SpiffeId::for_workload(&domain, "soak", name)?;
        let bundle = ca.published().borrow().bundle.clone();
        let (writer, reader) = identity(IdentityState::from_bundles(bundle.clone().into()));
        let token = ca.open_token(&id, clock.now() + PATIENCE * 4).await?;
        let config = CaClientConfig {
            id: id.clone(),
            address: address.to_string(),
            ca: own.clone(),
            bootstrap: Bootstrap::Bundle(bundle),
            token: Token::Text(token),
        };
        let client = CaClient::new(config, reader.clone(), &crypto, Arc::clone(&clock))?;
        let writer = Arc::new(writer);
        let (_, watch) = client.watch(Arc::clone(&writer), rand::random, std::future::pending());
        running.spawn(watch);
        let rotation = Rotation::new(id, client, &crypto, Arc::clone(&clock), rand::random);
        running.spawn(rotation.run(writer, std::future::pending()));
        let mut mesh = Mesh::builder()
            .crypto(crypto.clone())
            .identity(reader.clone())
            .workload(Workload::new("soak", name, name)?, DefaultAction::Allow);
        if name == "web"
            && let Some(source) = source.take()
        {
            mesh = mesh.source(source);
        }
        let mut first = reader.clone();
        while first.load().default_svid().is_none() {
            timeout(PATIENCE, first.changed()).await??;
        }
        members.push(Member {
            mesh: mesh.start()?,
            identity: reader,
        });
    }
    let [cart, web] = &members[..] else {
        return Err("two members".into());
    };
    let stream_door = connect(cart, web, &pusher, &mut running).await?;
    let shakes = handshakes(cart, &crypto, &mut running).await?;

    let begin = Instant::now();
    let end = begin + plan.length;
    let cpu = Duration::from(ClockId::CLOCK_PROCESS_CPUTIME_ID.now()?);
    let tally = Tally::new()?;
    let mut load = JoinSet::new();
    for kind in KINDS {
        let each = f64::from(plan.rate) / 3.0;
        load.spawn(requests(
            kind,
            each,
            end,
            web.mesh.client(),
            Arc::clone(&tally),
        ));
    }
    let turns = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    running.spawn(count_turns(Arc::clone(&ca), Arc::clone(&turns)));
    let shaken = tokio::spawn(shake(shakes, web.identity.clone(), crypto.clone(), end));
    let stream = tokio::spawn(stream_of_chunks(stream_door, end));
    let mut roots = 0;
    if let Some(every) = plan.root_every {
        let mut next = begin + every / 4;
        while next + every / 2 < end {
            sleep_until(next).await;
            ca.prepare(None).await?;
            roots += 1;
            next += every;
        }
    }
    while load.join_next().await.transpose()?.is_some() {}
    let (handshakes, failed_handshakes) = shaken.await?;
    let (chunks, stream_broke) = stream.await?;
    let requests = tally.sent.load(Ordering::Relaxed);
    let cpu = Duration::from(ClockId::CLOCK_PROCESS_CPUTIME_ID.now()?) - cpu;
    if plan.root_every.is_some() {
        let status = ca.status().await;
        if let Some(wait) = status.wait {
            eprintln!("the last rotation still waits: {wait:?}");
        }
    }
    let rotated = members
        .iter()
        .map(|m| counter(&m.mesh, "mesh_certificate_rotations_total"));
    let report = Report {
        requests,
        lost: tally.lost.load(Ordering::Relaxed),
        why: tally.why.lock().expect("no holder panics").clone(),
        chunks,
        stream_broke,
        handshakes,
        failed_handshakes: failed_handshakes
            + members
                .iter()
                .map(|m| counter(&m.mesh, "mesh_connections_failed_total"))
                .sum::<u64>(),
        leaves: rotated.sum(),
        roots,
        activated: turns[0].load(Ordering::Relaxed),
        retired: turns[1].load(Ordering::Relaxed),
        latency: tally.latency.lock().expect("no holder panics").clone(),
        cpu_per_request: cpu / u32::try_from(requests.max(1))?,
    };
    running.abort_all();
    Ok(report)
}

/// Counts how often another root signs, and how often a root leaves the bundle.
async fn count_turns(ca: Arc<Ca<FileStore>>, turns: Arc<[AtomicU64; 2]>) {
    let mut published = ca.published();
    let mut before = published.borrow_and_update().clone();
    while published.changed().await.is_ok() {
        let now = published.borrow_and_update().clone();
        let activated = now.active != before.active;
        let retired = now.bundle.roots().len() < before.bundle.roots().len();
        for (count, happened) in turns.iter().zip([activated, retired]) {
            count.fetch_add(u64::from(happened), Ordering::Relaxed);
        }
        before = now;
    }
}

/// The sum of a counter over all its labels.
fn counter(mesh: &Mesh, name: &str) -> u64 {
    let text = mesh.encode_metrics();
    let values = text.lines().filter(|line| line.starts_with(name));
    let values = values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}

/// Serves `cart`, makes it known to `web`, and returns the door of the TCP stream.
async fn connect(
    cart: &Member,
    web: &Member,
    pusher: &Pusher,
    running: &mut JoinSet<()>,
) -> Fallible<SocketAddr> {
    let http = TcpListener::bind("127.0.0.1:0").await?;
    let opaque = TcpListener::bind("127.0.0.1:0").await?;
    let echo = TcpListener::bind("127.0.0.1:0").await?;
    let (http_at, opaque_at) = (http.local_addr()?, opaque.local_addr()?);
    let to = InboundListener::new(echo.local_addr()?, AppProtocol::Tcp);
    running.spawn(async move {
        while let Ok((mut stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    let mesh = cart.mesh.clone();
    running.spawn(async move { mesh.serve(http, tower::service_fn(answer)).await });
    let mesh = cart.mesh.clone();
    running.spawn(async move { mesh.serve_behind(opaque, to).await });

    let namespace = Namespace::new("soak")?;
    let state = cart.identity.load();
    let id = state.default_svid().ok_or("cart has no SVID")?.id().clone();
    let mut ops = Vec::new();
    let kinds = [
        ("h1", AppProtocol::Http1, http_at),
        ("h2", AppProtocol::Http2, http_at),
        ("grpc", AppProtocol::Grpc, http_at),
        ("tcp", AppProtocol::Tcp, opaque_at),
    ];
    for (name, protocol, at) in kinds {
        let service = ServiceName::new(&namespace, name)?;
        let ports = vec![ServicePort::new("main", 80, protocol)];
        let declared = Service::new(service.clone(), ports);
        let slice = Slice::new(
            ObjectKey::new(Kind::EndpointSlice, &namespace, name)?,
            service,
            vec![SlicePort::new("main", at.port())],
            vec![SliceHost::new(Host::Address(at.ip()))],
            Transport::Mesh {
                ids: IdSet::new([id.clone()]),
            },
        );
        ops.push(Op::put(declared));
        ops.push(Op::put(slice));
    }
    pusher.push(ops).await?;
    web.mesh.ready().await;
    let door = TcpListener::bind("127.0.0.1:0").await?;
    let door_at = door.local_addr()?;
    let mesh = web.mesh.clone();
    let to = OutboundListener::to(ServiceName::new(&namespace, "tcp")?, 80, AppProtocol::Tcp);
    running.spawn(async move { mesh.serve_outbound(door, to).await });
    Ok(door_at)
}

/// The application: repeats the body; to gRPC with its status at the end.
async fn answer(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let grpc = request.headers().get(header::CONTENT_TYPE).cloned();
    let body = request.into_body().collect().await;
    let body = body.map(|b| b.to_bytes()).unwrap_or_default();
    let Some(grpc) = grpc else {
        return Ok(Response::new(Body::from(body)));
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Frame::data(body), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::new(StreamBody::new(stream::iter(frames))));
    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
    Ok(response)
}

/// Begins requests of one kind at their time, however long those before take.
async fn requests(kind: &'static str, rate: f64, end: Instant, client: Client, tally: Arc<Tally>) {
    let room = Arc::new(Semaphore::new(ROOM));
    let mut under_way = JoinSet::new();
    let (begin, mut step) = (Instant::now(), interval(STEP));
    let mut begun = 0.0;
    loop {
        let now = step.tick().await;
        if now >= end {
            break;
        }
        let due = now.duration_since(begin).as_secs_f64() * rate;
        while begun < due {
            let at = begin + Duration::from_secs_f64(begun / rate);
            begun += 1.0;
            tally.sent.fetch_add(1, Ordering::Relaxed);
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                tally.lose(format!("{kind}: no room"));
                continue;
            };
            let (client, tally) = (client.clone(), Arc::clone(&tally));
            under_way.spawn(async move {
                match timeout(PATIENCE, one(kind, &client)).await {
                    Ok(Ok(())) => {
                        let took = u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX);
                        let mut latency = tally.latency.lock().expect("no holder panics");
                        // It grows as it must.
                        let _any_number_fits = latency.record(took);
                    }
                    Ok(Err(why)) => tally.lose(format!("{kind}: {why}")),
                    Err(_) => tally.lose(format!("{kind}: no answer in {PATIENCE:?}")),
                }
                drop(permit);
            });
        }
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
}

async fn one(kind: &str, client: &Client) -> Fallible<()> {
    const BODY: Bytes = Bytes::from_static(&[b'x'; 256]);
    let mut request = Request::post(format!("http://{kind}/soak")).body(Body::from(BODY))?;
    if kind == "grpc" {
        *request.version_mut() = Version::HTTP_2;
        let grpc = HeaderValue::from_static("application/grpc");
        request.headers_mut().insert(header::CONTENT_TYPE, grpc);
        request
            .headers_mut()
            .insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let answer = client.send(request).await;
    if answer.status() != StatusCode::OK {
        let reason = answer.headers().get("x-mesh-reason").cloned();
        let body = answer.into_body().collect().await?.to_bytes();
        return Err(format!("{reason:?} {}", String::from_utf8_lossy(&body)).into());
    }
    let whole = answer.into_body().collect().await?;
    let status = whole.trailers().and_then(|t| t.get("grpc-status")).cloned();
    if kind == "grpc" && status.as_ref().is_none_or(|s| s != "0") {
        return Err(format!("grpc-status {status:?}").into());
    }
    if whole.to_bytes() != BODY {
        return Err("another body".into());
    }
    Ok(())
}

/// One connection that says something every 20 ms and must hear it again.
async fn stream_of_chunks(door: SocketAddr, end: Instant) -> (u64, Option<String>) {
    let mut chunks = 0;
    let talk = async {
        let mut stream = TcpStream::connect(door).await?;
        let mut step = interval(Duration::from_millis(20));
        while step.tick().await < end {
            let chunk = [u8::try_from(chunks % 251).unwrap_or_default(); 100];
            stream.write_all(&chunk).await?;
            let mut heard = [0; 100];
            timeout(PATIENCE, stream.read_exact(&mut heard)).await??;
            if heard != chunk {
                return Err("it heard something else".into());
            }
            chunks += 1;
        }
        Fallible::Ok(())
    };
    let broke = talk.await.err().map(|e| e.to_string());
    (chunks, broke)
}

/// A server that only shakes hands, with the identity of `cart`.
async fn handshakes(
    cart: &Member,
    crypto: &Crypto,
    running: &mut JoinSet<()>,
) -> Fallible<SocketAddr> {
    let config = tls::server_config(
        cart.identity.clone(),
        crypto,
        &[b"soak"],
        ClientAuth::Required,
    );
    let acceptor = TlsAcceptor::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    running.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // The byte tells the client that its certificate was accepted.
                let mut stream = acceptor.accept(stream).await?;
                stream.write_all(b"!").await?;
                stream.shutdown().await
            });
        }
    });
    Ok(address)
}

/// A full handshake every 20 ms, with the identity of the moment on both sides.
async fn shake(
    to: SocketAddr,
    identity: IdentityReader,
    crypto: Crypto,
    end: Instant,
) -> (u64, u64) {
    let connector = TlsConnector::from(tls::client_config(identity, &crypto, &[b"soak"]));
    let (mut done, mut failed) = (0, 0);
    let mut step = interval(Duration::from_millis(20));
    while step.tick().await < end {
        let attempt = async {
            let stream = TcpStream::connect(to).await?;
            let mut stream = connector.connect(tls::server_name(), stream).await?;
            stream.read_u8().await
        };
        done += 1;
        match timeout(PATIENCE, attempt).await {
            Ok(Ok(b'!')) => {}
            other => {
                failed += 1;
                eprintln!("a handshake failed: {other:?}");
            }
        }
    }
    (done, failed)
}
