//! Endpoints that come and go while requests run: 1,000 of 1,200 are there, 100 changes a second, for a
//! minute or `--seconds N`.
//!
//! Each change removes an endpoint and brings another back. Four clients send 1,000 requests a second, each
//! with the moment at which it began; one in ten is answered 200 ms later, so that it runs while its
//! endpoint is removed. Counted are answers that are not 200, and requests that began more than 50 ms after
//! their endpoint was removed and reached it all the same: both are to be 0. Printed are besides the CPU
//! time of the process (servers and clients are in it) and what of its memory is resident, and how both
//! change over the run.

#[path = "../../mesh-pki/benches/support/clock.rs"]
mod clock;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clock::cpu_time;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use inmesh_core::Body;
use inmesh_core::discover::{Pusher, pushed};
use inmesh_core::model::{
    AppProtocol, Draw, Host, Kind, Namespace, ObjectKey, ServiceName, Slice, SliceHost, SlicePort,
    Transport,
};
use inmesh_core::runtime::{Client, Mesh};
use inmesh_core::snapshot::Op;
use inmesh_core::testing::World;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const KNOWN: usize = 1_200;
const PRESENT: usize = 1_000;
/// Endpoints of one slice, as Kubernetes writes them.
const SLICE: usize = 100;
const CLIENTS: u64 = 4;
/// Requests and changes a second.
const REQUESTS: u64 = 1_000;
const CHANGES: u64 = 100;
/// How long an endpoint may still get requests, in microseconds.
const GRACE: u64 = 50_000;
const SLOW: Duration = Duration::from_millis(200);
/// Listeners, and a connection to each at both of its ends.
const DESCRIPTORS: u64 = 3 * 1_200 + 500;

/// What is counted; times are in microseconds after the begin.
struct Counts {
    begin: Instant,
    /// When each endpoint was removed; 0 while it is there.
    removed: Vec<AtomicU64>,
    requests: AtomicU64,
    late: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// The endpoints, and which of them are there.
struct Fleet {
    addresses: Vec<SocketAddr>,
    present: Vec<usize>,
    absent: Vec<usize>,
    counts: Arc<Counts>,
    pusher: Pusher,
}

impl Fleet {
    /// One goes and another comes.
    async fn change(&mut self, draw: &mut Draw) -> Fallible<()> {
        let [gone, come] = [self.present.len(), self.absent.len()]
            .map(|len| draw.below(u64::try_from(len).unwrap_or(1)))
            .map(|nth| usize::try_from(nth).unwrap_or_default());
        let (gone, come) = (
            self.present.swap_remove(gone),
            self.absent.swap_remove(come),
        );
        self.present.push(come);
        self.absent.push(gone);
        self.counts.removed[come].store(0, Ordering::Relaxed);
        self.counts.removed[gone].store(self.counts.now(), Ordering::Relaxed);
        let mut ops = vec![self.slice(gone / SLICE)?];
        if gone / SLICE != come / SLICE {
            ops.push(self.slice(come / SLICE)?);
        }
        self.pusher.push(ops).await?;
        Ok(())
    }

    /// One slice as it is now.
    fn slice(&self, nth: usize) -> Fallible<Op> {
        let shop = Namespace::new("shop")?;
        let mut here: Vec<_> = self.present.iter().filter(|n| *n / SLICE == nth).collect();
        here.sort_unstable();
        let hosts = here
            .into_iter()
            .map(|n| SliceHost::new(Host::Address(self.addresses[*n].ip())));
        Ok(Op::put(Slice::new(
            ObjectKey::new(Kind::EndpointSlice, &shop, &format!("cart-{nth}"))?,
            ServiceName::new(&shop, "cart")?,
            vec![SlicePort::new("main", self.addresses[0].port())],
            hosts.collect(),
            Transport::Plain,
        )))
    }
}

/// Answers for one endpoint.
async fn serve(listener: TcpListener, nth: usize, counts: Arc<Counts>) {
    while let Ok((stream, _)) = listener.accept().await {
        let counts = Arc::clone(&counts);
        tokio::spawn(async move {
            let service = service_fn(async |request: Request<Incoming>| {
                let path = request.uri().path().trim_start_matches('/');
                let began: u64 = path.parse().unwrap_or(u64::MAX);
                let removed = counts.removed[nth].load(Ordering::Relaxed);
                if removed != 0 && began > removed.saturating_add(GRACE) {
                    counts.late.fetch_add(1, Ordering::Relaxed);
                }
                if began.is_multiple_of(10) {
                    tokio::time::sleep(SLOW).await;
                }
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            });
            // One that the client drops is no matter here: its requests are counted there.
            let _ended = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Sends requests until the end, each at its time, whatever became of those before it.
async fn send(client: Client, counts: Arc<Counts>, until: Instant) {
    let mut ticks = interval(Duration::from_micros(1_000_000 * CLIENTS / REQUESTS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut running = JoinSet::new();
    while Instant::now() < until {
        ticks.tick().await;
        let (client, counts) = (client.clone(), Arc::clone(&counts));
        running.spawn(async move {
            let request = Request::get(format!("http://cart/{}", counts.now())).body(Body::empty());
            counts.requests.fetch_add(1, Ordering::Relaxed);
            let whole = match request {
                Ok(request) => {
                    let answer = client.send(request).await;
                    answer.status() == StatusCode::OK && answer.into_body().collect().await.is_ok()
                }
                Err(_) => false,
            };
            counts
                .failed
                .fetch_add(u64::from(!whole), Ordering::Relaxed);
        });
        while running.try_join_next().is_some() {}
    }
    running.join_all().await;
}

/// Resident memory in KiB.
fn resident() -> Fallible<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line
        .unwrap_or_default()
        .trim()
        .trim_end_matches(" kB")
        .parse()?)
}

/// How much a value grows in a second, by least squares.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let count = f64::from(u32::try_from(samples.len()).unwrap_or(1));
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|s| s.0), mean(|s| s.1));
    let over: f64 = samples.iter().map(|s| (s.0 - x) * (s.1 - y)).sum();
    let under: f64 = samples.iter().map(|s| (s.0 - x).powi(2)).sum();
    over / under
}

async fn start(world: &World, counts: Arc<Counts>) -> Fallible<(Fleet, Mesh)> {
    let mut addresses = Vec::new();
    let mut port = 0;
    for nth in 0..KNOWN {
        let [high, low] = u16::try_from(nth)?.to_be_bytes();
        let listener = TcpListener::bind(SocketAddr::from(([127, 77, high, low], port))).await?;
        port = listener.local_addr()?.port();
        addresses.push(listener.local_addr()?);
        tokio::spawn(serve(listener, nth, Arc::clone(&counts)));
    }
    let (pusher, source) = pushed("endpoints");
    let mesh = world.mesh("web")?.source(source).start()?;
    let fleet = Fleet {
        addresses,
        present: (0..PRESENT).collect(),
        absent: (PRESENT..KNOWN).collect(),
        counts,
        pusher,
    };
    let mut ops = world.service("cart", AppProtocol::Http1, &[])?;
    for nth in 0..KNOWN / SLICE {
        ops.push(fleet.slice(nth)?);
    }
    fleet.pusher.push(ops).await?;
    mesh.ready().await;
    Ok((fleet, mesh))
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Fallible<()> {
    let arguments: Vec<_> = std::env::args().collect();
    let at = arguments.iter().position(|a| a == "--seconds");
    let seconds = at
        .and_then(|at| arguments.get(at + 1)?.parse().ok())
        .unwrap_or(60);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < DESCRIPTORS {
        setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS.min(hard), hard)?;
    }
    let world = World::new()?;
    let counts = Arc::new(Counts {
        begin: Instant::now(),
        removed: (0..KNOWN).map(|_| AtomicU64::new(0)).collect(),
        requests: AtomicU64::new(0),
        late: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    });
    let (mut fleet, mesh) = start(&world, Arc::clone(&counts)).await?;
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(send(mesh.client(), Arc::clone(&counts), until));
    }
    let mut draw = Draw::new(7);
    let mut ticks = interval(Duration::from_micros(1_000_000 / CHANGES));
    let (mut changes, mut cpu, mut memory) = (0_u64, Vec::new(), Vec::new());
    let (begin, mut before) = (Instant::now(), cpu_time());
    while Instant::now() < until {
        ticks.tick().await;
        fleet.change(&mut draw).await?;
        changes += 1;
        if changes.is_multiple_of(CHANGES * 5) {
            let (at, now) = (begin.elapsed().as_secs_f64(), cpu_time());
            cpu.push((at, (now - before).as_secs_f64() / 5.0 * 1e3));
            memory.push((at, resident()?));
            before = now;
            let (cpu, memory) = (cpu[cpu.len() - 1].1, memory[memory.len() - 1].1 / 1024.0);
            println!("{at:5.1} s: {cpu:.0} ms of CPU a second, {memory:.1} MiB resident");
        }
    }
    clients.join_all().await;
    let [requests, late, failed] =
        [&counts.requests, &counts.late, &counts.failed].map(|n| n.load(Ordering::Relaxed));
    println!("{changes} changes, {requests} requests, {failed} not answered with 200");
    println!("{late} reached an endpoint that had been removed for more than 50 ms");
    // The connections to all endpoints are opened first.
    let settled = cpu.len() / 3;
    println!(
        "after {:.0} s: CPU {:+.2} ms a second each second, memory {:+.1} KiB a second",
        cpu.get(settled).map_or(0.0, |s| s.0),
        slope(cpu.get(settled..).unwrap_or_default()),
        slope(memory.get(settled..).unwrap_or_default()),
    );
    if late + failed > 0 {
        return Err("requests failed, or reached endpoints that had been removed".into());
    }
    Ok(())
}
