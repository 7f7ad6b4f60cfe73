//! What a pair of agents costs beside bare mutual TLS, for the same request: a POST of 1 KiB.
//!
//! The load runs in this process; the application, with and without TLS, and the agents are
//! children, as they are in real life; counted is the CPU time of all. Blocks alternate between the
//! ways, and each round gives one ratio for each way, so that a neighbour that is busy for a while
//! disturbs all alike. Printed are medians and quartiles.
//!
//! `--beside MESH` runs pairs of another build of `mesh` in the same rounds, and says how much more this
//! one costs; `--rounds N` makes that more exact.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener as Reserve};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use inmesh_pki::Crypto;
use inmesh_pki::clock::SystemClock;
use inmesh_pki::issue::dev::DevCa;
use inmesh_pki::store::{IdentityReader, IdentityState, identity};
use inmesh_pki::tls::{self, ClientAuth};
use nix::time::ClockId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const ALPN: &[u8] = b"http/1.1";
const BODY: Bytes = Bytes::from_static(&[b'x'; 1024]);
const CONNECTIONS: usize = 16;
/// This build of the agent.
const MESH: &str = env!("CARGO_BIN_EXE_mesh");
/// Requests of a block; enough that the kernel's accounting of children is exact.
const BLOCK: usize = 3_200;
const ROUNDS: usize = 15;
const WARM_UP: usize = 2;

/// A child process; killed when dropped.
struct Process(Child);

/// Two agents in front of one application.
struct Pair {
    agents: [Process; 2],
    door: SocketAddr,
}

/// One way to the application.
struct Way {
    name: String,
    pair: Option<Pair>,
    senders: Vec<SendRequest<Full<Bytes>>>,
    ratios: Vec<f64>,
    costs: Vec<f64>,
}

impl Process {
    /// The CPU time of its threads so far.
    fn cpu_time(&self) -> Fallible<Duration> {
        let mut total = Duration::ZERO;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.0.id()))? {
            // On the CPU, waiting, slices: nanoseconds, nanoseconds, count.
            let stat = std::fs::read_to_string(thread?.path().join("schedstat"))?;
            let on_cpu = stat.split_whitespace().next().unwrap_or("0");
            total += Duration::from_nanos(on_cpu.parse()?);
        }
        Ok(total)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

impl Pair {
    /// Starts both agents and waits until they carry.
    async fn start(
        home: &Path,
        name: &str,
        app: SocketAddr,
        (protocol, log): (&str, bool),
        mesh: &str,
    ) -> Fallible<Self> {
        let (door, agent) = (free()?, free()?);
        let service = format!(
            "apiVersion: v1
kind: Service
metadata: {{name: app, namespace: bench}}
spec: {{ports: [{{name: main, port: 80, appProtocol: {protocol}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: app
  namespace: bench
  labels: {{kubernetes.io/service-name: app}}
  annotations: {{inmesh.dev/ids: spiffe://bench.local/ns/bench/sa/server}}
addressType: IPv4
ports: [{{name: main, port: {port}}}]
endpoints: [{{addresses: [\"{ip}\"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: app, namespace: bench}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  rules: [{{from: [{{source: {{principals: [bench.local/ns/bench/sa/client]}}}}]}}]
",
            ip = agent.ip(),
            port = agent.port()
        );
        let log = if log {
            "accessLog: {path: \"/dev/null\"}\n"
        } else {
            ""
        };
        let start = |role: &str, listener: String| -> Fallible<Process> {
            let dir = home.join(format!("{name}-{role}"));
            std::fs::create_dir(&dir)?;
            std::fs::write(dir.join("mesh.yaml"), &service)?;
            std::fs::write(
                dir.join("agent.yaml"),
                format!(
                    "apiVersion: inmesh.dev/v1alpha1
kind: Agent
workload: {{namespace: bench, name: {role}, serviceAccount: {role}, labels: {{app: {role}}}}}
defaultAction: deny
peers: strict
identity: {{developmentCA: {{dir: ../ca}}}}
loopbackEndpoints: allow
{log}listeners:
- {listener}
"
                ),
            )?;
            let child = Command::new(mesh)
                .args(["proxy", "--log", "error", "--config"])
                .arg(dir)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()?;
            Ok(Process(child))
        };
        let inbound =
            format!("{{bind: \"{agent}\", inbound: {{app: \"{app}\", appProtocol: {protocol}}}}}");
        let outbound = format!(
            "{{bind: \"{door}\", outbound: {{appProtocol: {protocol}, service: {{name: app, port: 80}}}}}}"
        );
        let agents = [start("server", inbound)?, start("client", outbound)?];
        let pair = Self { agents, door };
        for _ in 0..500 {
            let good = async {
                let mut sender = plain(door).await?;
                send(&mut sender).await
            };
            if good.await.is_ok() {
                return Ok(pair);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(format!("the agents of {name} did not carry within 10 s").into())
    }
}

/// An address that was free a moment ago.
fn free() -> Fallible<SocketAddr> {
    Ok(Reserve::bind("127.0.0.1:0")?.local_addr()?)
}

async fn plain(to: SocketAddr) -> Fallible<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    open(stream).await
}

async fn open<T>(io: T) -> Fallible<SendRequest<Full<Bytes>>>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(io)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn send(sender: &mut SendRequest<Full<Bytes>>) -> Fallible<()> {
    sender.ready().await?;
    let request = Request::post("/items/42")
        .header(header::HOST, "app")
        .body(Full::new(BODY))?;
    let answer = sender.send_request(request).await?;
    if answer.status() != StatusCode::OK {
        return Err(format!("answered {}", answer.status()).into());
    }
    let body = answer.into_body().collect().await?.to_bytes();
    if body.len() != BODY.len() {
        return Err("the answer is not what was sent".into());
    }
    Ok(())
}

/// Serves an echo, over TLS where there is an acceptor.
async fn serve(acceptor: Option<TlsAcceptor>) -> Fallible<SocketAddr> {
    async fn connection<T>(io: T) -> Fallible<()>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(async |request: Request<Incoming>| {
            let body = request.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>(Response::new(Full::new(body)))
        });
        Ok(http1::Builder::new()
            .serve_connection(TokioIo::new(io), service)
            .await?)
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                stream.set_nodelay(true)?;
                match acceptor {
                    Some(acceptor) => connection(acceptor.accept(stream).await?).await,
                    None => connection(stream).await,
                }
            });
        }
    });
    Ok(address)
}

fn identify(ca: &DevCa, account: &str) -> Fallible<IdentityReader> {
    let id = format!("spiffe://bench.local/ns/bench/sa/{account}").parse()?;
    let svid = ca.issue_svid(&id)?;
    Ok(identity(IdentityState::new(svid, ca.bundle().clone().into())).1)
}

impl Way {
    async fn through(name: String, pair: Pair) -> Fallible<Self> {
        let mut senders = Vec::new();
        for _ in 0..CONNECTIONS {
            senders.push(plain(pair.door).await?);
        }
        Ok(Self {
            name,
            pair: Some(pair),
            senders,
            ratios: Vec::new(),
            costs: Vec::new(),
        })
    }

    /// The CPU time of the load, the application and the agents so far.
    fn cpu_time(&self, app: &Process) -> Fallible<Duration> {
        let mut total = Duration::from(ClockId::CLOCK_PROCESS_CPUTIME_ID.now()?);
        total += app.cpu_time()?;
        for agent in self.pair.iter().flat_map(|pair| &pair.agents) {
            total += agent.cpu_time()?;
        }
        Ok(total)
    }

    /// Sends a block; returns the CPU time of one request in microseconds.
    async fn block(&mut self, app: &Process) -> Fallible<f64> {
        let before = self.cpu_time(app)?;
        let mut running = JoinSet::new();
        for mut sender in self.senders.drain(..) {
            running.spawn(async move {
                for _ in 0..BLOCK / CONNECTIONS {
                    send(&mut sender).await?;
                }
                Fallible::Ok(sender)
            });
        }
        while let Some(sender) = running.join_next().await {
            self.senders.push(sender??);
        }
        #[expect(clippy::cast_precision_loss, reason = "a small count")]
        let requests = BLOCK as f64;
        Ok((self.cpu_time(app)? - before).as_secs_f64() * 1e6 / requests)
    }
}

/// Quartiles of a list that is not empty.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|n| values[(values.len() - 1) * n / 4])
}

/// The application: serves the echo bare over TLS and plain, and prints both addresses.
async fn application(home: &Path) -> Fallible<()> {
    let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
    let ca = DevCa::open(&home.join("ca"), &crypto, clock)?;
    let config = tls::server_config(
        identify(&ca, "server")?,
        &crypto,
        &[ALPN],
        ClientAuth::Required,
    );
    let bare = serve(Some(TlsAcceptor::from(config))).await?;
    let plain = serve(None).await?;
    println!("{bare} {plain}");
    std::future::pending().await
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Fallible<()> {
    let arguments: Vec<_> = std::env::args().collect();
    // `cargo test --benches` only asks whether it starts.
    if arguments.iter().any(|a| a == "--test") {
        return Ok(());
    }
    if let [_, flag, home] = arguments.as_slice()
        && flag == "--application"
    {
        return application(Path::new(home)).await;
    }
    let wanted = Wanted::read(&arguments)?;
    let home = tempfile::tempdir()?;
    let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
    let ca = DevCa::init(
        &home.path().join("ca"),
        "bench.local".parse()?,
        &crypto,
        clock,
    )?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--application")
        .arg(home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let out = child.stdout.take().ok_or("the application has no output")?;
    let process = Process(child);
    BufReader::new(out).read_line(&mut line)?;
    let (bare_at, app) = line.trim().split_once(' ').ok_or("two addresses")?;
    let (bare_at, app): (SocketAddr, SocketAddr) = (bare_at.parse()?, app.parse()?);

    let client = tls::client_config(identify(&ca, "client")?, &crypto, &[ALPN]);
    let connector = TlsConnector::from(client);
    let mut bare = Way {
        name: "bare".to_owned(),
        pair: None,
        senders: Vec::new(),
        ratios: Vec::new(),
        costs: Vec::new(),
    };
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(bare_at).await?;
        stream.set_nodelay(true)?;
        let stream = connector.connect(tls::server_name(), stream).await?;
        bare.senders.push(open(stream).await?);
    }
    let mut ways = Vec::new();
    for (name, protocol, log) in [
        ("L7", "http", false),
        ("L7 with access log", "http", true),
        ("L4", "tcp", false),
    ] {
        let builds = [
            ("", Some(MESH)),
            (" of the other", wanted.beside.as_deref()),
        ];
        for (which, mesh) in builds {
            let Some(mesh) = mesh else { continue };
            let name = format!("{name}{which}");
            let short = name.replace(' ', "-");
            let pair = Pair::start(home.path(), &short, app, (protocol, log), mesh).await?;
            ways.push(Way::through(name, pair).await?);
        }
    }
    for round in 0..WARM_UP + wanted.rounds {
        let base = bare.block(&process).await?;
        // What runs before a block is in the caches; so each way comes before and after each.
        let last = ways.len() - 1;
        for nth in 0..=last {
            let way = &mut ways[if round % 2 == 0 { nth } else { last - nth }];
            let cost = way.block(&process).await?;
            if round >= WARM_UP {
                way.ratios.push(cost / base);
                way.costs.push(cost);
            }
        }
        if round >= WARM_UP {
            bare.costs.push(base);
        }
    }
    let [_, cost, _] = quartiles(bare.costs);
    println!("bare mutual TLS costs {cost:.1} us of CPU a request, client and server");
    report(&ways, wanted.beside.is_some());
    Ok(())
}

/// Prints what each way costs, and how this build compares with the other, whose ways come second.
fn report(ways: &[Way], beside: bool) {
    for way in ways {
        let [_, cost, _] = quartiles(way.costs.clone());
        let [low, median, high] = quartiles(way.ratios.clone());
        println!(
            "{:<31} {median:.2} x bare (quartiles {low:.2} to {high:.2}), {cost:.1} us",
            way.name
        );
    }
    if beside {
        for pair in ways.chunks_exact(2) {
            let [this, other] = pair else { continue };
            let (mean, error) = more(&this.costs, &other.costs);
            println!(
                "{} costs {mean:+.1} % against the other (standard error {error:.1})",
                this.name
            );
        }
    }
}

/// By how many percent the first costs more than the second on average, and the standard error of that. The
/// mean is of logarithms: that of ratios which scatter is above what they scatter around.
#[expect(clippy::cast_precision_loss, reason = "a small count")]
fn more(this: &[f64], other: &[f64]) -> (f64, f64) {
    let each = this.iter().zip(other).map(|(a, b)| (a / b).ln());
    let each: Vec<_> = each.collect();
    let count = each.len() as f64;
    let mean = each.iter().sum::<f64>() / count;
    let squares = each.iter().map(|of| (of - mean).powi(2)).sum::<f64>();
    let error = (squares / (count - 1.0) / count).sqrt();
    (mean.exp_m1() * 100.0, error * 100.0)
}

/// What the command line asks for.
struct Wanted {
    rounds: usize,
    beside: Option<String>,
}

impl Wanted {
    fn read(arguments: &[String]) -> Fallible<Self> {
        let mut wanted = Self {
            rounds: ROUNDS,
            beside: None,
        };
        let mut arguments = arguments.iter().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .ok_or_else(|| format!("{argument} has no value"))
            };
            match argument.as_str() {
                // Of cargo.
                "--bench" => {}
                "--beside" => wanted.beside = Some(value()?.clone()),
                "--rounds" => wanted.rounds = value()?.parse()?,
                other => return Err(format!("{other} is not known").into()),
            }
        }
        if wanted.rounds < 2 {
            return Err("fewer than 2 rounds say nothing".into());
        }
        Ok(wanted)
    }
}
