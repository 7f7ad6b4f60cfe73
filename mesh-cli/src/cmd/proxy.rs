//! `mesh proxy`: the agent.
//!
//! All sockets are bound before anything is spawned, so that what is wrong shows at start. The pages
//! are served at once, the listeners once there is an identity and the documents are read. It runs
//! until a signal: the first drains, a second ends at once.

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use inmesh_core::Mesh;
use inmesh_core::model::Workload;
use inmesh_core::runtime::{Admin, Limits, Listen, LogLevel, MeshBuilder, Target, WantsNothing};
use inmesh_discovery::control::ControlPlane;
use inmesh_discovery::dns::DnsSource;
use inmesh_discovery::file;
use inmesh_discovery::stage::Stages;
use inmesh_pki::clock::SystemClock;
use inmesh_pki::issue::dev::DevCa;
use inmesh_pki::jwt::DynJwtIssuer;
use inmesh_pki::source;
use inmesh_pki::source::ca::CaSource;
use inmesh_pki::source::dev::DevSource;
use inmesh_pki::source::files::FileSource;
use inmesh_pki::source::pod_certificate;
use inmesh_pki::source::workload_api::WorkloadApiSource;
use inmesh_pki::store::{IdentityReader, IdentityWriter};
use inmesh_pki::workload_api::server::Socket;
use inmesh_pki::{CertificateDer, Crypto};
use tokio::net::TcpListener;

use crate::agent::{self, AccessLogTo, Agent, Identity, Listener, LogTo};
use crate::beside::Beside;
use crate::federation::Opened;
use crate::log_file::Reopen;
use crate::signals::Signals;
use crate::webhook::Webhook;
use crate::workload_api::{ServingApi, WorkloadApiConfig};
use crate::{descriptors, log, log_file, otlp};

/// Runs until SIGTERM or SIGINT, and goes down in order: what is under way ends first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh proxy --dir /etc/mesh/web
  mesh proxy --dir /etc/mesh/web --log inmesh_core=debug,info --log-format json")]
pub(crate) struct Proxy {
    #[command(flatten)]
    run: Run,
}

/// What runs, and how.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// The folder with the agent's file and the documents; it is watched.
    #[arg(long, value_name = "DIR", alias = "config")]
    dir: PathBuf,
    /// What is logged, as in RUST_LOG; it can be changed at run time.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "MESH_LOG")]
    log: String,
    /// The form of the log's lines, on standard error.
    #[arg(long, value_enum, default_value = "text")]
    log_format: log::Format,
    /// Threads that carry requests [default: half of the cores, at least one]
    #[arg(long, value_name = "N", env = "MESH_WORKERS", hide_env = true)]
    workers: Option<NonZeroUsize>,
}

/// Half of the cores that this process may use: the applications beside it need the others, and
/// fewer threads wake each other less.
fn half_the_cores() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new(cores / 2).unwrap_or(NonZeroUsize::MIN)
}

impl Proxy {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let agent = super::agent_of(&self.run.dir)?;
        if agent.followed.control_plane.is_some() {
            bail!("the agent's file says controlPlane: run `mesh control`");
        }
        self.run.agent(agent)
    }
}

impl Run {
    /// The folder with the agent's file.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs an agent until it is ended.
    pub(super) fn agent(self, mut agent: Agent) -> anyhow::Result<ExitCode> {
        let level = log::init(&self.log, self.log_format)?;
        keep_within(&mut agent.limits);
        let workers = self.workers.unwrap_or_else(half_the_cores);
        super::runtime(Some(workers))?.block_on(run(agent, self.dir, level))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Keeps the sockets of the data path below the descriptors of this process.
fn keep_within(limits: &mut Limits) {
    let Some(descriptors) = descriptors::raise() else {
        return;
    };
    let sockets = descriptors::sockets(descriptors).min(limits.sockets);
    tracing::info!(descriptors, sockets, "sockets of the data path");
    limits.sockets = sockets;
}

async fn run(agent: Agent, dir: PathBuf, level: LogLevel) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    tokio::spawn(agent::watch(dir.clone(), agent::text(&dir)));
    let sockets = bind_all(&agent).await?;
    let admin = match agent.admin {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let webhook = Webhook::bind(&agent).await?;
    let control = match &agent.followed.control_plane {
        Some(plane) => Some(bind(plane.bind).await?),
        None => None,
    };
    let started = tokio::select! {
        started = start(&agent, dir) => started?,
        // There is no log yet that could be opened anew.
        () = signals.end(async || {}) => return Ok(()),
    };
    let mesh = started.mesh.clone();
    if let Some(webhook) = webhook {
        webhook.serve(started.waiting.identity.clone());
    }
    if let Some(socket) = admin {
        let settings = agent::document(&agent);
        let admin = Admin::with_log_level(level).section("agent", move || settings.clone());
        let admin = started.beside.sections(admin);
        serve_admin(mesh.clone(), socket, admin)?;
    }
    tokio::spawn({
        let mesh = mesh.clone();
        async move {
            mesh.ready().await;
            tracing::info!("ready");
        }
    });
    let plane = started.plane.clone();
    let log = started.access_log.clone();
    let reopen = async || {
        if let Some(log) = &log {
            log.reopen().await;
        }
    };
    let mut drain = mesh.watch_drain();
    let identified = tokio::select! {
        identified = started.identified(&agent) => Some(identified?),
        () = signals.end(&reopen) => None,
        () = drain.closed() => None,
    };
    let synced = tokio::select! {
        () = mesh.synced() => true,
        () = signals.end(&reopen) => false,
        () = drain.closed() => false,
    };
    let (Some(api), true) = (identified, synced) else {
        tracing::info!("ended before anything was served");
        return Ok(());
    };
    for (socket, listen) in sockets {
        let (mesh, address) = (mesh.clone(), socket.local_addr()?);
        tracing::info!(%address, %listen, "listening");
        tokio::spawn(serve(mesh, socket, listen));
    }
    if let (Some(plane), Some(socket)) = (plane, control) {
        let (mesh, address) = (mesh.clone(), socket.local_addr()?);
        tracing::info!(%address, "the control plane is served");
        tokio::spawn(async move { mesh.serve(socket, plane.service()).await });
    }
    down(&mesh, signals, &reopen).await;
    if let Some(api) = api {
        api.end().await;
    }
    Ok(())
}

/// Serves the pages in a task of their own.
fn serve_admin(mesh: Mesh, socket: TcpListener, admin: Admin) -> anyhow::Result<()> {
    let address = socket.local_addr()?;
    tracing::info!(%address, "admin");
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "the admin address is not loopback: any client that reaches it can drain the agent");
    }
    tokio::spawn(async move { mesh.serve_admin(socket, admin).await });
    Ok(())
}

/// Serves one listener of an agent.
pub(super) async fn serve(mesh: Mesh, socket: TcpListener, listen: Listen) {
    match listen {
        Listen::Inbound(to) => mesh.serve_behind(socket, to).await,
        Listen::Outbound(to) => mesh.serve_outbound(socket, to).await,
        other => tracing::error!(%other, "a listener that this agent does not serve"),
    }
}

/// Waits for a signal or a drain asked for on the admin address, and goes down in order.
async fn down(mesh: &Mesh, mut signals: Signals, reopen: &impl AsyncFn()) {
    let mut watch = mesh.watch_drain();
    tokio::select! {
        () = signals.end(reopen) => {}
        () = watch.closed() => return,
    }
    tracing::info!("draining; a second signal ends at once");
    tokio::select! {
        () = mesh.drain() => tracing::info!("drained"),
        () = signals.end(reopen) => {
            tracing::warn!("ended by a second signal");
            // What is open is cut.
            mesh.drain().await;
        }
    }
}

/// Binds the listeners of an agent.
async fn bind_all(agent: &Agent) -> anyhow::Result<Vec<(TcpListener, Listen)>> {
    let mut sockets = Vec::new();
    let own = agent.ports();
    for listener in &agent.listeners {
        let listen = match listener.listen.clone() {
            Listen::Inbound(to) => Listen::Inbound(to.beside(own.iter().copied())),
            listen => listen,
        };
        match bind(listener.bind).await {
            Ok(socket) => sockets.push((socket, listen)),
            Err(error) if is_of_no_use(listener, &error) => {
                tracing::info!(address = %listener.bind, "this host has no IPv6: nothing is captured there");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

/// Whether a listener of captured connections has no address here: a Pod may be without IPv6, and its file is
/// written before that is known.
fn is_of_no_use(listener: &Listener, error: &anyhow::Error) -> bool {
    let captured =
        matches!(&listener.listen, Listen::Outbound(to) if to.target == Target::OriginalAddress);
    let no_family = error.downcast_ref::<io::Error>().is_some_and(|error| {
        let without = [nix::libc::EAFNOSUPPORT, nix::libc::EADDRNOTAVAIL];
        error
            .raw_os_error()
            .is_some_and(|code| without.contains(&code))
    });
    captured && listener.bind.is_ipv6() && no_family
}

async fn bind(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}"))
}

/// A mesh that has started, and what runs beside it once it has an identity.
pub(super) struct Started {
    pub(super) mesh: Mesh,
    beside: Beside,
    /// What this agent hands on, where it is a control plane.
    plane: Option<ControlPlane>,
    /// Opens the access log anew, where it is a file.
    access_log: Option<Reopen>,
    waiting: Waiting,
}

/// What waits for the first identity.
struct Waiting {
    crypto: Crypto,
    identity: IdentityReader,
    writer: Arc<IdentityWriter>,
    jwt: Option<DynJwtIssuer>,
    api: Option<Socket>,
    federation: Opened,
    web_roots: Vec<CertificateDer<'static>>,
}

// === impl Started ===

impl Started {
    /// Waits for the first identity, and starts what needs one: the Workload API, which is returned, and
    /// federation.
    pub(super) async fn identified(self, agent: &Agent) -> anyhow::Result<Option<ServingApi>> {
        let waiting = self.waiting;
        if waiting.identity.load().default_svid().is_none() {
            tracing::info!("waiting for an identity");
        }
        let ready = waiting.identity.ready().await;
        ready.context("waiting for an identity")?;
        let mut served = None;
        if let (Some(api), Some(socket)) = (&agent.workload_api, waiting.api) {
            let reader = waiting.identity.clone();
            let (running, serving) = api.serve(socket, reader, waiting.jwt, &waiting.crypto);
            self.beside.workload_api.set(Arc::new(running));
            served = Some(serving);
        }
        if let Some(federation) = &agent.federation {
            let running = federation.run(
                waiting.federation,
                &waiting.identity,
                waiting.writer,
                waiting.web_roots,
                &waiting.crypto,
            )?;
            self.beside.federation.set(Arc::new(running));
        }
        Ok(served)
    }
}

/// The roots of the operating system that can be read.
fn system_roots() -> Vec<CertificateDer<'static>> {
    let roots = rustls_native_certs::load_native_certs();
    for error in roots.errors {
        tracing::debug!(%error, "a root of the operating system cannot be read");
    }
    roots.certs
}

/// Adds the access log, and returns how it is opened anew where it is a file.
async fn access_log(
    mut builder: MeshBuilder<WantsNothing>,
    agent: &Agent,
) -> anyhow::Result<(MeshBuilder<WantsNothing>, Option<Reopen>)> {
    let mut access_log = None;
    if let Some(AccessLogTo { to, sample }) = &agent.access_log {
        builder = match to {
            LogTo::Stderr => builder.access_log(tokio::io::stderr(), *sample),
            LogTo::Stdout => builder.access_log(tokio::io::stdout(), *sample),
            LogTo::File(path) => {
                let opened = log_file::open(path).await;
                let (file, reopen) =
                    opened.with_context(|| format!("opening the access log {}", path.display()))?;
                access_log = Some(reopen);
                builder.access_log(file, *sample)
            }
        };
    }
    Ok((builder, access_log))
}

/// Adds what is followed beside the folder.
async fn followed(
    mut builder: MeshBuilder<WantsNothing>,
    agent: &Agent,
    identity: &IdentityReader,
    crypto: &Crypto,
    stages: &Stages,
) -> anyhow::Result<MeshBuilder<WantsNothing>> {
    builder = match &agent.followed.control_plane {
        // It sends nothing to what it knows of.
        Some(_) => builder.without_checks(),
        None => builder
            .stale_after(agent.stale_after.dns)
            .source(DnsSource::new().loopback(agent.loopback_endpoints)),
    };
    if let Some(cluster) = &agent.followed.kubernetes {
        let source = cluster.source(agent.defaults()).await?;
        let plane = agent.followed.control_plane.as_ref();
        let lease = plane.and_then(|plane| plane.lease(&agent.workload.namespace));
        let source = match lease {
            Some(lease) => source.write_status(lease).stages(stages, crypto.clone()),
            None => source,
        };
        builder = builder
            .stale_after(agent.stale_after.kubernetes)
            .source(source);
    }
    if let Some(control) = &agent.followed.control {
        let source = control.source(identity, crypto, agent.defaults());
        builder = builder
            .stale_after(agent.stale_after.control)
            .source(source);
    }
    Ok(builder)
}

/// Starts the mesh that the agent's file describes. It may have no identity yet.
pub(super) async fn start(agent: &Agent, dir: PathBuf) -> anyhow::Result<Started> {
    let beside = Beside::new(
        agent.followed.control_plane.is_some(),
        agent.federation.is_some(),
        agent.workload_api.is_some(),
    );
    let crypto = Crypto::aws_lc_rs();
    let api = agent.workload_api.as_ref();
    let api = api.map(WorkloadApiConfig::bind).transpose()?;
    let federation = match &agent.federation {
        Some(federation) => federation.open(agent.trust_domain(), &crypto).await?,
        None => Opened::default(),
    };
    let source::Identity {
        reader,
        writer,
        jwt,
        task,
        ..
    } = identify(agent, &crypto).await?;
    tokio::spawn(task);
    let roots = system_roots();
    let waiting = Waiting {
        crypto: crypto.clone(),
        identity: reader.clone(),
        writer,
        jwt,
        api,
        federation,
        web_roots: roots.clone(),
    };
    let mut builder = Mesh::builder()
        .crypto(crypto.clone())
        .limits(agent.limits.clone())
        .eject(agent.eject)
        .system_roots(roots)
        .identity(reader.clone())
        .workload(agent.workload.clone(), agent.default_action)
        .paths(agent.paths)
        .outbound_traffic_policy(agent.outbound)
        .locality(agent.locality.clone())
        .stale_after(agent.stale_after.documents)
        .source(file::FileSource::new(dir, agent.defaults()));
    let stages = Stages::new();
    builder = followed(builder, agent, &reader, &crypto, &stages).await?;
    if let Some(namespace) = &agent.mesh_namespace {
        builder = builder.mesh_namespace(namespace.clone());
    }
    let (mut builder, access_log) = access_log(builder, agent).await?;
    if let Some(tracing) = &agent.tracing {
        let sink = otlp::Spans::new(&tracing.otlp, &agent.workload)?;
        builder.metrics().collect(sink.counts());
        builder = builder
            .exchanges(Arc::new(sink))
            .trace_sample(tracing.sample);
    }
    beside.register(builder.metrics());
    let mesh = builder.start()?;
    let plane = agent.followed.control_plane.as_ref();
    let plane = plane.map(|_| ControlPlane::new(&mesh, crypto).stages(&stages));
    if let Some(plane) = &plane {
        beside.control_plane.set(Arc::new(plane.clone()));
    }
    Ok(Started {
        mesh,
        beside,
        plane,
        access_log,
        waiting,
    })
}

/// The path of the ID that a workload has, whatever its trust domain.
fn id_path(workload: &Workload) -> String {
    let (namespace, account) = (&workload.namespace, &workload.service_account);
    format!("/ns/{namespace}/sa/{account}")
}

/// The identity that the agent's file asks for; the first SVID is there.
pub(super) async fn identify(agent: &Agent, crypto: &Crypto) -> anyhow::Result<source::Identity> {
    let identity = match &agent.identity {
        Identity::Ca {
            address,
            ca,
            trust_bundle,
            token,
            keep,
        } => {
            let id = agent.workload.spiffe_id(ca.trust_domain())?;
            let mut source = CaSource::new(id, address, ca.clone()).trust_bundle(trust_bundle);
            if let Some(token) = token {
                source = source.token(token);
            }
            if let Some(dir) = keep {
                source = source.keep(dir);
            }
            source.start(crypto).await?
        }
        Identity::Files {
            certificate,
            key,
            bundle,
            revocation_lists,
        } => {
            let path = id_path(&agent.workload);
            let mut source = FileSource::new(certificate, key, bundle, crypto).with_id_path(path);
            if let Some(lists) = revocation_lists {
                source = source.with_crls(lists);
            }
            let started = source.start().await;
            started.context("reading the identity's files")?
        }
        Identity::PodCertificate { chain, key, bundle } => {
            let files = pod_certificate().key_and_chain(key, chain).roots(bundle);
            let source = files.source(crypto).with_id_path(id_path(&agent.workload));
            let started = source.start().await;
            started.context("reading the Pod certificate")?
        }
        Identity::WorkloadApi(endpoint) => {
            let source = WorkloadApiSource::new(endpoint.clone());
            let mut source = source.id_path(id_path(&agent.workload));
            if agent.workload_api.is_some() {
                // The processes that this agent serves may verify tokens through it.
                source = source.jwt_bundles();
            }
            source.start(crypto)
        }
        Identity::DevelopmentCa { dir, lifetime } => {
            let ca = DevCa::open_with(dir, *lifetime, crypto, SystemClock::shared())
                .with_context(|| format!("opening the development CA in {}", dir.display()))?;
            let id = agent.workload.spiffe_id(ca.trust_domain())?;
            let entries = agent.workload_api.iter().flat_map(|api| &api.entries);
            let others = entries.map(|entry| entry.id().clone());
            DevSource::new(ca, id).also(others).start(crypto).await?
        }
    };
    Ok(identity)
}
