//! What the tests of the binary share: a folder with a CA, agents as child processes, an
//! application, a client, and waiting for what must come true.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test file is a crate of its own and uses a part"
)]

pub(crate) mod ca;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

mod pair;

pub(crate) use pair::Pair;

/// How long anything may take that must come true at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder with a CA for the trust domain `test.local`; removed at the end.
pub(crate) struct Home {
    dir: PathBuf,
    _owned: Option<TempDir>,
}

/// An agent as a child process; killed when dropped.
pub(crate) struct Agent {
    child: Child,
    pub(crate) admin: SocketAddr,
    pub(crate) dir: PathBuf,
    log: PathBuf,
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

// === impl Home ===

impl Home {
    pub(crate) fn new() -> Self {
        let owned = TempDir::new().expect("a temporary folder");
        let home = Self {
            dir: owned.path().to_owned(),
            _owned: Some(owned),
        };
        let made = mesh(
            ["ca", "init", "--trust-domain", "test.local"],
            &[&home.ca()],
        );
        assert!(made.status.success(), "{made:?}");
        home
    }

    /// A folder of the caller's, with whatever CA it has.
    pub(crate) fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            _owned: None,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.path("ca")
    }

    /// A folder for an agent of the workload `name`, with the agent's file in it.
    pub(crate) fn folder(&self, name: &str, admin: SocketAddr, more: &str) -> PathBuf {
        let dir = self.path(name);
        std::fs::create_dir(&dir).expect("a new folder");
        publish(&dir, "agent.yaml", &agent_file(name, admin, more));
        dir
    }

    /// Starts an agent with these documents and waits until it is ready.
    pub(crate) async fn agent(&self, name: &str, more: &str, documents: &[(&str, &str)]) -> Agent {
        self.agent_with(name, more, documents, &[]).await
    }

    /// The same with variables in its environment.
    pub(crate) async fn agent_with(
        &self,
        name: &str,
        more: &str,
        documents: &[(&str, &str)],
        environment: &[(&str, &Path)],
    ) -> Agent {
        self.started(self.spawn(name, more, documents, environment, None))
            .await
    }

    /// The same with so many file descriptors at most.
    pub(crate) async fn agent_with_descriptors(
        &self,
        name: &str,
        more: &str,
        documents: &[(&str, &str)],
        descriptors: u32,
    ) -> Agent {
        self.started(self.spawn(name, more, documents, &[], Some(descriptors)))
            .await
    }

    async fn started(&self, agent: Agent) -> Agent {
        eventually("the agent is ready", async || {
            (agent.try_get("/readyz").await?.status == StatusCode::OK).then_some(())
        })
        .await;
        agent
    }

    /// Starts the agent of a folder that another had, once that has ended, and waits until it is ready.
    pub(crate) async fn again(&self, mut before: Agent) -> Agent {
        let _gone = before.child.kill();
        before.ended().await;
        let text = std::fs::read_to_string(before.dir.join("agent.yaml")).expect("its file");
        let runs = match text.contains("controlPlane:") {
            true => "control",
            false => "proxy",
        };
        let log = before.dir.with_extension("again.log");
        let child = Command::new(env!("CARGO_BIN_EXE_mesh"))
            .args([runs, "--dir"])
            .arg(&before.dir)
            .env_remove("MESH_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .expect("the binary starts");
        let (admin, dir) = (before.admin, before.dir.clone());
        let agent = Agent {
            child,
            admin,
            dir,
            log,
        };
        self.started(agent).await
    }

    /// Starts an agent without waiting.
    pub(crate) fn unready(&self, name: &str, more: &str, documents: &[(&str, &str)]) -> Agent {
        self.spawn(name, more, documents, &[], None)
    }

    fn spawn(
        &self,
        name: &str,
        more: &str,
        documents: &[(&str, &str)],
        environment: &[(&str, &Path)],
        descriptors: Option<u32>,
    ) -> Agent {
        let admin = free();
        let dir = self.folder(name, admin, more);
        for (file, text) in documents {
            publish(&dir, file, text);
        }
        let log = self.path(&format!("{name}.log"));
        let binary = env!("CARGO_BIN_EXE_mesh");
        let mut command = match descriptors {
            None => Command::new(binary),
            Some(most) => {
                let mut shell = Command::new("sh");
                let most = most.to_string();
                shell.args(["-c", r#"ulimit -n "$0" && exec "$@""#, &most, binary]);
                shell
            }
        };
        let runs = match more.contains("controlPlane:") {
            true => "control",
            false => "proxy",
        };
        let child = command
            .args([runs, "--dir"])
            .arg(&dir)
            .env_remove("MESH_LOG")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .expect("the binary starts");
        Agent {
            child,
            admin,
            dir,
            log,
        }
    }
}

// === impl Agent ===

impl Agent {
    pub(crate) async fn try_get(&self, path: &str) -> Option<Answer> {
        try_send(self.admin, Method::GET, path, &[]).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.try_get(path).await.expect("the admin surface answers")
    }

    pub(crate) async fn post(&self, path: &str) -> Answer {
        let answer = try_send(self.admin, Method::POST, path, &[]).await;
        answer.expect("the admin surface answers")
    }

    /// The status as JSON.
    pub(crate) async fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status").await.body).expect("status is JSON")
    }

    /// A metric without labels.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").await.body;
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        let line = line.unwrap_or_else(|| panic!("no metric {name} in\n{text}"));
        line.parse().expect("a number")
    }

    /// What `mesh status` prints of it.
    pub(crate) fn mesh_status(&self) -> Output {
        mesh(["status", "--admin", &self.admin.to_string()], &[])
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("the log")
    }

    pub(crate) fn publish(&self, name: &str, text: &str) {
        publish(&self.dir, name, text);
    }

    /// Its threads.
    pub(crate) fn threads(&self) -> std::fs::ReadDir {
        let tasks = format!("/proc/{}/task", self.child.id());
        std::fs::read_dir(tasks).expect("it runs")
    }

    /// The CPU time that it has used so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        let spent = self.threads().map(|task| {
            let stat = task.expect("a thread").path().join("schedstat");
            // A thread may have ended meanwhile.
            let stat = std::fs::read_to_string(stat).unwrap_or_default();
            let nanos = stat.split_whitespace().next().unwrap_or("0").parse();
            Duration::from_nanos(nanos.expect("nanoseconds"))
        });
        spent.sum()
    }

    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(id), signal).expect("it is our child");
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let child = std::cell::RefCell::new(&mut self.child);
        eventually("the agent ends", async || {
            child.borrow_mut().try_wait().expect("it is our child")
        })
        .await
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.child.kill();
        let _status = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.dir.display(), self.log());
        }
    }
}

/// The kubeconfig file of an API server that is away.
pub(crate) fn no_cluster(dir: &Path) -> PathBuf {
    let config = dir.join("config");
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, users: [], \
         clusters: [{{name: c, cluster: {{server: 'http://{}'}}}}], \
         contexts: [{{name: c, context: {{cluster: c}}}}]}}",
        free()
    );
    std::fs::write(&config, text).expect("it is written");
    config
}

/// Runs the binary to its end.
pub(crate) fn mesh<'a>(args: impl IntoIterator<Item = &'a str>, paths: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(args)
        .args(paths)
        .env_remove("MESH_LOG")
        .env_remove("MESH_ADMIN")
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An address that a child may bind: nothing listens there, it was given to no other child in this
/// process, and it lies below the range from which the kernel takes ports for outgoing
/// connections. A port of that range (which port 0 gives) may be taken before the child binds it.
pub(crate) fn free() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes that run side by side begin at different places.
    let begin = std::process::id().wrapping_mul(61);
    for _ in 0..20_000 {
        let nth = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + u16::try_from(nth % 20_000).expect("it is below 20,000");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port");
}

/// Writes a file in one step: beside it, then renamed.
pub(crate) fn publish(dir: &Path, name: &str, text: &str) {
    let beside = dir.join(format!(".{name}.new"));
    std::fs::write(&beside, text).expect("a file beside it");
    std::fs::rename(beside, dir.join(name)).expect("renamed");
}

/// The agent's file of the workload `name`; `more` is what each test adds. Where that names no
/// identity, it is one of the home's CA.
pub(crate) fn agent_file(name: &str, admin: SocketAddr, more: &str) -> String {
    let identity = if more.contains("identity:") {
        ""
    } else {
        "identity: {developmentCA: {dir: ../ca, lifetime: 1m}}\n"
    };
    format!(
        "apiVersion: inmesh.dev/v1alpha1
kind: Agent
workload: {{namespace: shop, name: {name}, serviceAccount: {name}, labels: {{app: {name}}}}}
loopbackEndpoints: allow
admin: {{bind: \"{admin}\"}}
{identity}{more}"
    )
}

/// A Service with one slice; `transport` is the annotation that says how to get there.
pub(crate) fn service(name: &str, at: SocketAddr, transport: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{ports: [{{name: main, port: 80, appProtocol: http}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-1
  namespace: shop
  labels: {{kubernetes.io/service-name: {name}}}
  annotations: {{{transport}}}
addressType: IPv4
ports: [{{name: main, port: {}}}]
endpoints: [{{addresses: [\"{}\"]}}]
",
        at.port(),
        at.ip(),
    )
}

/// The annotation of endpoints outside the mesh.
pub(crate) const PLAIN: &str = "inmesh.dev/transport: plain";

/// An HTTPRoute of `app` that sets the response's field `x-edit`.
pub(crate) fn route(edit: &str, backends: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: app, namespace: shop}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: app}}]
  rules:
  - filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{set: [{{name: x-edit, value: \"{edit}\"}}]}}
    backendRefs:
{backends}"
    )
}

/// Serves an application for as long as the test runs.
pub(crate) async fn app(router: Router) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = socket.local_addr().expect("its address");
    tokio::spawn(async move { axum::serve(socket, router).await });
    address
}

/// What a server says to a request of HTTP/1.1 that is written as it is, head and body.
pub(crate) async fn said(to: SocketAddr, head: &str) -> String {
    let talk = async {
        let mut stream = TcpStream::connect(to).await.expect("it listens");
        let request = format!("{head}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("it is sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("it is read");
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::time::timeout(PATIENCE, talk)
        .await
        .expect("an answer in time")
}

pub(crate) async fn try_send(
    to: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Option<Answer> {
    let stream = TcpStream::connect(to).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", to.to_string());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).expect("a request");
    let (head, body) = sender.send_request(request).await.ok()?.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    Some(Answer {
        status: head.status,
        headers: head.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// A GET that must be answered, by whomever.
pub(crate) async fn get(to: SocketAddr, path: &str) -> Answer {
    let answer = try_send(to, Method::GET, path, &[]).await;
    answer.unwrap_or_else(|| panic!("no answer from {to}{path}"))
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|v| v.to_str().ok());
        value.unwrap_or_default()
    }
}

/// Waits until a condition holds, and says how long it took.
pub(crate) async fn eventually<T>(what: &str, condition: impl AsyncFn() -> Option<T>) -> T {
    within(PATIENCE, what, condition).await
}

/// The same with a limit of its own.
pub(crate) async fn within<T>(
    limit: Duration,
    what: &str,
    condition: impl AsyncFn() -> Option<T>,
) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(begin.elapsed() < limit, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
