//! A document that is staged: two replicas of a control plane with the role that is installed, ten agents with
//! requests, and a replica that is gone at once while it leads.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use inmesh_core::model::{Namespace, ServiceName};
use inmesh_core::runtime::Limits;
use inmesh_core::testing::World;
use inmesh_core::{Body, Mesh};
use inmesh_discovery::control::{ControlPlane, ControlSource, Follow};
use inmesh_discovery::file::FileSource;
use inmesh_discovery::kube::{Cluster, KubeSource, Lease, Seen, Subject, SubjectError};
use inmesh_discovery::manifest::{Defaults, Unsaid};
use inmesh_discovery::stage::{Stage, Stages, State};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tower::{ServiceExt, service_fn};

use crate::api_server::ApiServer;
use crate::ca::NAMESPACE;
use crate::install::{account, documents};
use crate::install_http_routes;

/// The longest that anything may take on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(120);
/// How many members there are.
const MEMBERS: usize = 10;
/// The time between two requests of each.
const PACE: Duration = Duration::from_millis(20);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn shop() -> Namespace {
    Namespace::new("shop").expect("a name")
}

fn defaults() -> Defaults {
    let domain = "example.org".parse().expect("a trust domain");
    let defaults = Defaults::new(shop()).trust_domain(domain);
    defaults.unsaid(Unsaid::Plain).loopback(true)
}

/// Nothing looks whether these processes are ready.
fn without_lead() -> Limits {
    let mut limits = Limits::default();
    limits.drain_lead = Duration::ZERO;
    limits
}

/// A server of the mesh that says what it is called.
async fn server(world: &World, name: &'static str) -> Result<SocketAddr> {
    let mesh = world.mesh(name)?.start()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let app = service_fn(move |_: Request<Body>| async move {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(name))))
        });
        mesh.serve(listener, app).await;
    });
    Ok(address)
}

/// A Service and its endpoint. It is of a folder: no API server takes endpoints on loopback.
fn service(name: &str, at: SocketAddr) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{ports: [{{name: http, port: 80, appProtocol: http}}]}}}}
---
{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
  metadata: {{name: {name}-a, namespace: shop, labels: {{kubernetes.io/service-name: {name}}},
    annotations: {{inmesh.dev/transport: mesh, inmesh.dev/ids: spiffe://example.org/ns/shop/sa/{name}}}}},
  ports: [{{name: http, port: {}}}], endpoints: [{{addresses: [{}]}}]}}
---
",
        at.port(),
        at.ip()
    )
}

/// A replica of the control plane, as a process of its own.
struct Replica {
    runtime: Option<Runtime>,
}

impl Replica {
    /// Begins at an address with the role of an account.
    async fn begin(
        world: &World,
        dir: &Path,
        config: PathBuf,
        holder: &str,
        at: SocketAddr,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let (dir, holder) = (dir.to_owned(), holder.to_owned());
        let (crypto, builder) = (world.crypto().clone(), world.mesh("control")?);
        let begun = runtime.spawn(async move {
            let stages = Stages::new();
            let cluster = Cluster::kubeconfig(&config, None).await?;
            let lease = Lease::new(Namespace::new(NAMESPACE)?, "mesh-control", &holder);
            let source = KubeSource::new(cluster, defaults().documents())
                .write_status(lease)
                .stages(&stages, crypto.clone());
            let mesh = builder
                .source(FileSource::new(dir, defaults().documents()))
                .source(source)
                .without_checks()
                .limits(without_lead())
                .start()?;
            let plane = ControlPlane::new(&mesh, crypto).stages(&stages);
            timeout(LIMIT, mesh.synced()).await?;
            let listener = TcpListener::bind(at).await?;
            let serving = mesh.clone();
            tokio::spawn(async move { serving.serve(listener, plane.service()).await });
            Result::Ok(())
        });
        begun.await??;
        Ok(Self {
            runtime: Some(runtime),
        })
    }

    /// Is gone at once, as a process that is killed: it leaves nothing in order.
    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A member that makes requests, and how they fare.
struct Member {
    mesh: Mesh,
    counts: Arc<Counts>,
    requests: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    failed: AtomicU64,
    /// What answered last.
    last: Mutex<String>,
    ends: AtomicBool,
}

impl Member {
    async fn begin(world: &World, nth: usize, planes: &[SocketAddr]) -> Result<Self> {
        let (_writer, identity) = world.identity("web")?;
        let (first, others) = planes.split_first().ok_or("no plane")?;
        let crypto = world.crypto().clone();
        let source = ControlSource::new(
            first.to_string(),
            world.id("control")?,
            identity,
            crypto,
            defaults(),
        );
        let source = others
            .iter()
            .fold(source, |source, at| source.or_at(at.to_string()));
        let follow = Follow::Asked(vec![ServiceName::new(&shop(), "cart")?]);
        let source = source.follow(follow).instance(&format!("web-{nth}"));
        let mesh = world
            .mesh("web")?
            .source(source)
            .limits(without_lead())
            .start()?;
        timeout(LIMIT, mesh.ready()).await?;
        let counts = Arc::new(Counts::default());
        let (of, client) = (Arc::clone(&counts), mesh.clone());
        let requests = tokio::spawn(async move {
            while !of.ends.load(Ordering::Relaxed) {
                let answer = get(&client).await.unwrap_or_default();
                of.requests.fetch_add(1, Ordering::Relaxed);
                of.failed
                    .fetch_add(u64::from(answer.is_empty()), Ordering::Relaxed);
                *of.last.lock().unwrap_or_else(PoisonError::into_inner) = answer;
                sleep(PACE).await;
            }
        });
        Ok(Self {
            mesh,
            counts,
            requests,
        })
    }

    fn failed(&self) -> u64 {
        self.counts.failed.load(Ordering::Relaxed)
    }

    fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::Relaxed)
    }

    /// Which version answers it.
    fn answer(&self) -> String {
        self.counts
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn end(self) {
        self.counts.ends.store(true, Ordering::Relaxed);
        let _ended = timeout(LIMIT, self.requests).await;
        self.mesh.drain().await;
    }
}

/// What answers a request; empty where that fails.
async fn get(mesh: &Mesh) -> Result<String> {
    let request = Request::get("http://cart/").body(Empty::<Bytes>::new())?;
    let answer = timeout(LIMIT, mesh.client().oneshot(request)).await??;
    if !answer.status().is_success() {
        return Ok(String::new());
    }
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// The `spec` of the route, with what it sends requests to.
fn spec(backends: &Json) -> Json {
    json!({
        "parentRefs": [{"group": "", "kind": "Service", "name": "cart"}],
        "rules": [{"backendRefs": backends}],
    })
}

/// Looks at the object until its stage is in a state.
async fn until(subject: &Subject, what: &str, holds: impl Fn(&Stage) -> bool) -> Seen {
    let begin = Instant::now();
    loop {
        // An API server that is busy may take its time.
        let seen = subject.look().await;
        if let Ok(seen) = &seen
            && let Some(Ok(stage)) = &seen.stage
            && holds(stage)
        {
            return seen.clone();
        }
        assert!(begin.elapsed() < LIMIT, "{what}: {seen:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

fn stage_of(seen: &Seen) -> Stage {
    match &seen.stage {
        Some(Ok(stage)) => stage.clone(),
        other => panic!("a stage: {other:?}"),
    }
}

fn is(state: State) -> impl Fn(&Stage) -> bool {
    move |stage| stage.state == state
}

/// Waits until all members are answered by a version, and nothing of theirs fails any more.
async fn all_are_answered_by(members: &[Member], name: &str) {
    let begin = Instant::now();
    while members.iter().any(|member| member.answer() != name) {
        let answers: Vec<_> = members.iter().map(Member::answer).collect();
        assert!(begin.elapsed() < LIMIT, "{name}: {answers:?}");
        sleep(PACE).await;
    }
    let before: Vec<_> = members.iter().map(|m| (m.requests(), m.failed())).collect();
    for (member, (requests, failed)) in members.iter().zip(before) {
        while member.requests() < requests + 40 {
            assert!(begin.elapsed() < LIMIT, "requests are made");
            sleep(PACE).await;
        }
        assert_eq!(member.failed(), failed, "nothing fails any more");
    }
}

/// Which members a request of failed since a moment, and how many of how many requests of all.
fn hurt(members: &[Member], since: &[(u64, u64)]) -> (usize, u64, u64) {
    let each = members
        .iter()
        .zip(since)
        .map(|(member, (requests, failed))| {
            (member.failed() - failed, member.requests() - requests)
        });
    let each: Vec<_> = each.collect();
    let hurt = each.iter().filter(|(failed, _)| *failed > 0).count();
    (
        hurt,
        each.iter().map(|(f, _)| f).sum(),
        each.iter().map(|(_, r)| r).sum(),
    )
}

fn now(members: &[Member]) -> Vec<(u64, u64)> {
    members.iter().map(|m| (m.requests(), m.failed())).collect()
}

/// All that a test needs.
struct Lab {
    server: ApiServer,
    world: World,
    dir: TempDir,
    config: PathBuf,
    planes: [SocketAddr; 2],
    subject: Subject,
}

impl Lab {
    async fn begin() -> Result<Option<Self>> {
        let Some(server) = ApiServer::start() else {
            return Ok(None);
        };
        if !install_http_routes(&server) {
            return Ok(None);
        }
        server.kubectl(
            &["apply", "-f", "-"],
            &documents(&|kind| kind != "MutatingWebhookConfiguration"),
        )?;
        let established = [
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
            "--all",
        ];
        server.kubectl(&established, "")?;
        let (world, dir) = (World::new()?, TempDir::new()?);
        let (cart, next) = (
            self::server(&world, "cart").await?,
            self::server(&world, "next").await?,
        );
        let services = [service("cart", cart), service("next", next)].concat();
        fs::write(dir.path().join("services.yaml"), services)?;
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "cart", "namespace": "shop"},
            "spec": spec(&json!([{"name": "cart", "port": 80}])),
        });
        let shop = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n";
        server.apply(&format!("{shop}{route}\n"));
        let config = account(&server, "mesh-control");
        let mut planes = Vec::new();
        for _plane in 0..2 {
            planes.push(TcpListener::bind("127.0.0.1:0").await?.local_addr()?);
        }
        let operator = Cluster::kubeconfig(&server.kubeconfig("admin"), None).await?;
        let subject = Subject::of(&operator, "httproutes", &self::shop(), "cart").await?;
        Ok(Some(Self {
            server,
            world,
            dir,
            config,
            planes: [planes[0], planes[1]],
            subject,
        }))
    }

    async fn replica(&self, holder: &str, nth: usize) -> Result<Replica> {
        let (dir, config) = (self.dir.path(), self.config.clone());
        Replica::begin(&self.world, dir, config, holder, self.planes[nth]).await
    }

    async fn members(&self) -> Result<Vec<Member>> {
        let mut members = Vec::new();
        for nth in 0..MEMBERS {
            members.push(Member::begin(&self.world, nth, &self.planes).await?);
        }
        all_are_answered_by(&members, "cart").await;
        Ok(members)
    }

    async fn leads(&self, holder: &str) {
        let begin = Instant::now();
        let path = [
            "get",
            "lease",
            "mesh-control",
            "-n",
            NAMESPACE,
            "-o",
            "jsonpath={.spec.holderIdentity}",
        ];
        while self.server.kubectl(&path, "").as_deref() != Ok(holder) {
            assert!(begin.elapsed() < LIMIT, "{holder} does not lead");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Stages other backends for one in ten members.
    async fn stage(&self, id: &str, seconds: u32, backends: &Json) -> Result<()> {
        let seen = self.subject.look().await?;
        let stage = Stage::new(id, 10, seconds, seen.generation, spec(backends));
        self.subject.stage(&seen, &stage).await?;
        Ok(())
    }
}

/// One request in twenty goes to a Service that is not there.
fn bad() -> Json {
    json!([{"name": "cart", "port": 80, "weight": 95}, {"name": "none", "port": 80, "weight": 5}])
}

fn good() -> Json {
    json!([{"name": "next", "port": 80}])
}

/// What breaks one request in twenty is taken back, and has hurt no more members than it was to.
async fn a_bad_one_is_taken_back(
    lab: &Lab,
    members: &[Member],
    id: &str,
    killed: Option<&mut Replica>,
) -> Result<()> {
    let (begin, since) = (Instant::now(), now(members));
    let before = lab.subject.look().await?;
    lab.stage(id, 30, &bad()).await?;
    let seen = until(&lab.subject, "members are chosen", |stage| {
        stage.running.is_some()
    })
    .await;
    let running = stage_of(&seen).running.expect("they are chosen");
    assert_eq!((running.members, running.chosen), (10, 1), "one in ten");
    let kills = killed.is_some();
    if let Some(replica) = killed {
        let state = stage_of(&lab.subject.look().await?).state;
        assert_eq!(state, State::Running, "it is killed in the middle");
        replica.kill();
    }
    let seen = until(&lab.subject, "it is taken back", |stage| !stage.lives()).await;
    let stage = stage_of(&seen);
    let took = begin.elapsed();
    all_are_answered_by(members, "cart").await;
    let (hurt, failed, requests) = hurt(members, &since);
    println!(
        "killed: {kills}; {} of {} chosen; reverted after {took:.1?}: {}; {hurt} hurt, {failed} of {requests} requests",
        running.chosen, running.members, stage.why
    );
    assert_eq!(stage.state, State::Reverted, "{stage:?}");
    assert!(stage.why.contains("requests failed with it"), "{stage:?}");
    assert!(
        stage.canary.failed > 0 && stage.rest.failed == 0,
        "{stage:?}"
    );
    assert_eq!(hurt, 1, "no other than the one that was chosen");
    assert_eq!(seen.spec, before.spec, "the object is as it was");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_breaks_requests_is_taken_back() -> Result<()> {
    let Some(lab) = Lab::begin().await? else {
        return Ok(());
    };
    let mut one = lab.replica("one", 0).await?;
    lab.leads("one").await;
    let _two = lab.replica("two", 1).await?;
    let members = lab.members().await?;
    a_bad_one_is_taken_back(&lab, &members, "a1", None).await?;
    // The same where the replica that leads is gone in the middle.
    a_bad_one_is_taken_back(&lab, &members, "a2", Some(&mut one)).await?;
    lab.leads("two").await;
    for member in members {
        member.end().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_document_is_everywhere_at_the_end() -> Result<()> {
    let Some(lab) = Lab::begin().await? else {
        return Ok(());
    };
    let mut one = lab.replica("one", 0).await?;
    lab.leads("one").await;
    let _two = lab.replica("two", 1).await?;
    let members = lab.members().await?;
    let before = lab.subject.look().await?.spec;
    let same = lab
        .stage("b0", 10, &json!([{"name": "cart", "port": 80}]))
        .await;
    assert!(same.is_err_and(|e| e.to_string().contains("says already")));
    let invalid = lab
        .stage("b0", 10, &json!([{"name": "cart", "port": 0}]))
        .await;
    assert!(
        invalid.is_err_and(|e| e.to_string().contains("Invalid")),
        "the API server checks it"
    );
    // One that is stopped goes from where it was.
    lab.stage("b1", 600, &good()).await?;
    let seen = until(&lab.subject, "members are chosen", is(State::Running)).await;
    let has_it = |members: &[Member]| members.iter().filter(|m| m.answer() == "next").count();
    let begin = Instant::now();
    while has_it(&members) == 0 {
        assert!(begin.elapsed() < LIMIT, "one member has it");
        sleep(PACE).await;
    }
    assert_eq!(has_it(&members), 1);
    // Whatever was written meanwhile of how requests fare.
    lab.subject.stop(&seen, "enough").await?;
    let stopped = until(&lab.subject, "it is stopped", is(State::Stopped)).await;
    assert_eq!(stage_of(&stopped).why, "enough");
    all_are_answered_by(&members, "cart").await;

    let since = now(&members);
    lab.stage("b2", 20, &good()).await?;
    until(&lab.subject, "members are chosen", is(State::Running)).await;
    one.kill();
    let seen = until(&lab.subject, "it has ended", |stage| !stage.lives()).await;
    let stage = stage_of(&seen);
    println!("promoted, with the leader killed: {}", stage.why);
    assert_eq!(stage.state, State::Promoted, "{stage:?}");
    assert_eq!(seen.spec["rules"][0]["backendRefs"][0]["name"], "next");
    all_are_answered_by(&members, "next").await;
    // And back: what it said before is known.
    assert_eq!(seen.previous.as_ref(), Some(&before));
    lab.subject.roll_back(&seen, false).await?;
    all_are_answered_by(&members, "cart").await;
    let seen = lab.subject.look().await?;
    assert_eq!((seen.spec.clone(), seen.previous.clone()), (before, None));
    assert!(
        lab.subject.roll_back(&seen, false).await.is_err(),
        "there is nothing more to go back to"
    );
    let (hurt, failed, _) = hurt(&members, &since);
    assert_eq!((hurt, failed), (0, 0), "no request fails of it all");
    for member in members {
        member.end().await;
    }
    Ok(())
}

/// What an operator does, without a control plane: what does not go with the object says so.
#[tokio::test]
async fn an_operator_is_held_to_what_was_seen() -> Result<()> {
    let Some(server) = ApiServer::start() else {
        return Ok(());
    };
    if !install_http_routes(&server) {
        return Ok(());
    }
    let operator = Cluster::kubeconfig(&server.kubeconfig("admin"), None).await?;
    let namespace = Namespace::new("default")?;
    let subject = Subject::of(&operator, "HTTPRoute", &namespace, "cart").await?;
    assert!(
        subject
            .look()
            .await
            .is_err_and(|e| e.to_string().contains("is not there"))
    );
    let apply = |backend: &str| {
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "cart"},
            "spec": spec(&json!([{"name": backend, "port": 80}])),
        });
        let force = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        server
            .kubectl(&force, &route.to_string())
            .expect("it is valid");
    };
    apply("cart");
    let first = subject.look().await?;
    let says = |result: std::result::Result<(), SubjectError>, why: &str| {
        let said = result.err().map(|e| e.to_string());
        assert!(
            said.as_ref().is_some_and(|said| said.contains(why)),
            "{why}: {said:?}"
        );
    };
    says(subject.stop(&first, "").await, "nothing is staged");
    says(
        subject.roll_back(&first, true).await,
        "nothing was promoted",
    );
    let next = spec(&json!([{"name": "next", "port": 80}]));
    let stage = Stage::new("c1", 10, 30, first.generation, next.clone());
    subject.stage(&first, &stage).await?;
    let staged = subject.look().await?;
    assert!(staged.lives() && staged.spec == first.spec && staged.generation == first.generation);
    says(
        subject.stage(&staged, &stage).await,
        "staged in its place already",
    );
    says(
        subject.stage(&first, &stage).await,
        "changed at the same moment",
    );
    subject.stop(&staged, "enough").await?;
    let stopped = subject.look().await?;
    assert_eq!(
        (stage_of(&stopped).state, stage_of(&stopped).spec),
        (State::Stopped, None)
    );
    // As a control plane leaves it behind.
    let promoted = Stage::new("c2", 10, 30, stopped.generation, next).ended(State::Promoted, "");
    apply("next");
    let annotate = |name: &str, value: &str| format!("inmesh.dev/{name}={value}");
    let (stage, previous) = (promoted.write()?, first.spec.to_string());
    let annotations = [annotate("canary", &stage), annotate("previous", &previous)];
    let annotated = [
        "annotate",
        "--overwrite",
        "httproute",
        "cart",
        &annotations[0],
        &annotations[1],
    ];
    server.kubectl(&annotated, "")?;
    let seen = subject.look().await?;
    apply("other");
    says(
        subject.roll_back(&seen, false).await,
        "changed at the same moment",
    );
    let changed = subject.look().await?;
    says(
        subject.roll_back(&changed, false).await,
        "changed since its promotion",
    );
    subject.roll_back(&changed, true).await?;
    let back = subject.look().await?;
    assert_eq!((&back.spec, &back.previous), (&first.spec, &None));
    Ok(())
}
