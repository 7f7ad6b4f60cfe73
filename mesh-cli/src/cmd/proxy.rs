//! `mesh proxy`: the agent.
//!
//! All sockets are bound before anything is spawned, so that what is wrong shows at start. It runs
//! until a signal: the first drains, a second ends at once.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use inmesh_core::Mesh;
use inmesh_core::runtime::{Admin, Listen, LogLevel};
use inmesh_discovery::dns::DnsSource;
use inmesh_discovery::file;
use inmesh_pki::Crypto;
use inmesh_pki::clock::SystemClock;
use inmesh_pki::issue::dev::DevCa;
use inmesh_pki::source;
use inmesh_pki::source::ca::CaSource;
use inmesh_pki::source::dev::DevSource;
use inmesh_pki::source::files::FileSource;
use inmesh_pki::source::workload_api::WorkloadApiSource;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::agent::{self, AccessLogTo, Agent, Found, Identity};
use crate::beside::Beside;
use crate::{log, otlp, term};

#[derive(Debug, Args)]
pub(crate) struct Proxy {
    /// The folder with the agent's file and the documents; it is watched.
    #[arg(long, value_name = "DIR")]
    config: PathBuf,
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
        let agent = match agent::find(&self.config)? {
            Found::Agent(agent) => *agent,
            Found::Refused(problems) => {
                for problem in problems {
                    term::warn(&problem.to_string());
                }
                bail!("the agent's file is refused");
            }
            Found::None => bail!(
                "{} holds no document of kind {} ({}); see `mesh-cli/docs/agent.md`",
                self.config.display(),
                agent::KIND,
                agent::API_VERSION
            ),
        };
        let level = log::init(&self.log, self.log_format)?;
        let workers = self.workers.unwrap_or_else(half_the_cores);
        super::runtime(Some(workers))?.block_on(run(agent, self.config, level))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The signals that end the agent. They are watched before anything is served, so that none falls
/// to the operating system's default, which cuts what is being served.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

// === impl Signals ===

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn run(agent: Agent, dir: PathBuf, level: LogLevel) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mut sockets = Vec::new();
    for listener in &agent.listeners {
        sockets.push((bind(listener.bind).await?, listener.listen.clone()));
    }
    let admin = match agent.admin {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let (mesh, beside) = tokio::select! {
        started = start(&agent, dir) => started?,
        () = signals.next() => {
            tracing::info!("ended by a signal before anything was served");
            return Ok(());
        }
    };
    for (socket, listen) in sockets {
        let (mesh, address) = (mesh.clone(), socket.local_addr()?);
        tracing::info!(%address, ?listen, "listening");
        tokio::spawn(serve(mesh, socket, listen));
    }
    if let Some(socket) = admin {
        let (mesh, address) = (mesh.clone(), socket.local_addr()?);
        tracing::info!(%address, "admin");
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "the admin address is not loopback: any client that reaches it can drain the agent");
        }
        let admin = beside.sections(Admin::with_log_level(level));
        tokio::spawn(async move { mesh.serve_admin(socket, admin).await });
    }
    tokio::spawn({
        let mesh = mesh.clone();
        async move {
            mesh.ready().await;
            tracing::info!("ready");
        }
    });
    down(&mesh, signals).await;
    Ok(())
}

/// Serves one listener of an agent.
pub(super) async fn serve(mesh: Mesh, socket: TcpListener, listen: Listen) {
    match listen {
        Listen::Inbound(to) => mesh.serve_behind(socket, to).await,
        Listen::Outbound(to) => mesh.serve_outbound(socket, to).await,
        other => tracing::error!(
            ?other,
            "a listener of a kind that this agent does not serve"
        ),
    }
}

/// Waits for a signal or a drain asked for on the admin address, and goes down in order.
async fn down(mesh: &Mesh, mut signals: Signals) {
    let mut watch = mesh.watch_drain();
    tokio::select! {
        () = signals.next() => {}
        () = watch.closed() => return,
    }
    tracing::info!("draining; a second signal ends at once");
    tokio::select! {
        () = mesh.drain() => tracing::info!("drained"),
        () = signals.next() => tracing::warn!("ended by a second signal"),
    }
}

async fn bind(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}"))
}

/// Starts the mesh that the agent's file describes, and what runs beside it.
pub(super) async fn start(agent: &Agent, dir: PathBuf) -> anyhow::Result<(Mesh, Beside)> {
    let mut beside = Beside::default();
    let crypto = Crypto::aws_lc_rs();
    let api = match &agent.workload_api {
        Some(api) => Some((api, api.bind()?)),
        None => None,
    };
    let federation = match &agent.federation {
        Some(federation) => Some((federation, federation.bind().await?)),
        None => None,
    };
    let source::Identity {
        reader,
        writer,
        jwt,
        task,
        ..
    } = identify(agent, &crypto).await?;
    tokio::spawn(task);
    if reader.load().default_svid().is_none() {
        tracing::info!("waiting for an identity");
    }
    reader.ready().await.context("waiting for an identity")?;
    if let Some((api, socket)) = api {
        let serving = api.serve(socket, reader.clone(), jwt, &crypto);
        beside.workload_api = Some(Arc::new(serving));
    }
    let roots = rustls_native_certs::load_native_certs();
    for error in roots.errors {
        tracing::debug!(%error, "a root of the operating system cannot be read");
    }
    if let Some((federation, listener)) = federation {
        let web_roots = roots.certs.clone();
        let running = federation.run(listener, &reader, writer, web_roots, &crypto)?;
        beside.federation = Some(Arc::new(running));
    }
    let mut builder = Mesh::builder()
        .crypto(crypto)
        .limits(agent.limits.clone())
        .eject(agent.eject)
        .system_roots(roots.certs)
        .identity(reader)
        .workload(agent.workload.clone(), agent.default_action)
        .source(file::FileSource::new(dir, agent.defaults()))
        .source(DnsSource::new().loopback(agent.loopback_endpoints));
    if let Some(namespace) = &agent.mesh_namespace {
        builder = builder.mesh_namespace(namespace.clone());
    }
    if let Some(AccessLogTo { path, sample }) = &agent.access_log {
        builder = match path {
            None => builder.access_log(tokio::io::stdout(), *sample),
            Some(path) => {
                let file = tokio::fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .await
                    .with_context(|| format!("opening the access log {}", path.display()))?;
                builder.access_log(file, *sample)
            }
        };
    }
    if let Some(tracing) = &agent.tracing {
        let sink = otlp::Spans::new(&tracing.otlp, &agent.workload)?;
        builder = builder
            .exchanges(Arc::new(sink))
            .trace_sample(tracing.sample);
    }
    beside.register(builder.metrics());
    Ok((builder.start()?, beside))
}

/// The identity that the agent's file asks for; the first SVID is there.
async fn identify(agent: &Agent, crypto: &Crypto) -> anyhow::Result<source::Identity> {
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
            let mut source = FileSource::new(certificate, key, bundle, crypto);
            if let Some(lists) = revocation_lists {
                source = source.with_crls(lists);
            }
            let started = source.start().await;
            started.context("reading the identity's files")?
        }
        Identity::WorkloadApi(endpoint) => {
            let mut source = WorkloadApiSource::new(endpoint.clone());
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
