//! `mesh proxy`: the agent.
//!
//! All sockets are bound before anything is spawned, so that what is wrong shows at start. It runs
//! until a signal: the first drains, a second ends at once.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use inmesh_core::Mesh;
use inmesh_core::runtime::{Admin, Listen, LogLevel};
use inmesh_discovery::dns::DnsSource;
use inmesh_discovery::file::FileSource;
use inmesh_pki::ca::client::{Bootstrap, CaClient, CaClientConfig, Token};
use inmesh_pki::clock::SystemClock;
use inmesh_pki::issue::dev::DevCa;
use inmesh_pki::jwt::DynJwtIssuer;
use inmesh_pki::rotate::{Rotation, obtain};
use inmesh_pki::source::files;
use inmesh_pki::source::keep::{Keep, KeepError};
use inmesh_pki::store::{IdentityState, IdentityWriter, identity};
use inmesh_pki::tls::Crypto;
use inmesh_pki::workload_api::client::{WorkloadApi, WorkloadApiJwt};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::agent::{self, AccessLogTo, Agent, Found, Identity};
use crate::workload_api::Identified;
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
    let mesh = tokio::select! {
        mesh = start(&agent, dir) => mesh?,
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
            tracing::warn!(%address, "the admin address is not loopback: anybody who reaches it can drain the agent");
        }
        tokio::spawn(async move {
            mesh.serve_admin(socket, Admin::with_log_level(level)).await;
        });
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

/// Starts the mesh that the agent's file describes.
pub(super) async fn start(agent: &Agent, dir: PathBuf) -> anyhow::Result<Mesh> {
    let crypto = Crypto::aws_lc_rs();
    let api = match &agent.workload_api {
        Some(api) => Some((api, api.bind()?)),
        None => None,
    };
    let federation = match &agent.federation {
        Some(federation) => Some((federation, federation.bind().await?)),
        None => None,
    };
    let identified = identify(agent, &crypto).await?;
    if let Some((api, socket)) = api {
        api.serve(socket, &identified, &crypto);
    }
    let roots = rustls_native_certs::load_native_certs();
    for error in roots.errors {
        tracing::debug!(%error, "a root of the operating system cannot be read");
    }
    if let Some((federation, listener)) = federation {
        let (reader, writer) = (&identified.reader, Arc::clone(&identified.writer));
        federation.run(listener, reader, writer, roots.certs.clone(), &crypto)?;
    }
    let mut builder = Mesh::builder()
        .crypto(crypto)
        .limits(agent.limits.clone())
        .eject(agent.eject)
        .system_roots(roots.certs)
        .identity(identified.reader)
        .workload(agent.workload.clone(), agent.default_action)
        .source(FileSource::new(dir, agent.defaults()))
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
    Ok(builder.start()?)
}

/// The agent's identity, and the tasks that keep it fresh, with the identities that it serves to
/// others where its own source can make them.
async fn identify(agent: &Agent, crypto: &Crypto) -> anyhow::Result<Identified> {
    let clock = SystemClock::shared();
    match &agent.identity {
        Identity::Ca {
            address,
            ca,
            trust_bundle,
            token,
            keep,
        } => {
            let config = CaClientConfig {
                id: agent.workload.spiffe_id(ca.trust_domain())?,
                address: address.clone(),
                ca: ca.clone(),
                bootstrap: Bootstrap::File(trust_bundle.clone()),
                token: token.clone().map_or(Token::None, Token::File),
            };
            from_ca(config, keep.as_deref(), crypto).await
        }
        Identity::Files {
            certificate,
            key,
            bundle,
            revocation_lists,
        } => {
            let mut source = files::FileSource::new(certificate, key, bundle, crypto);
            if let Some(lists) = revocation_lists {
                source = source.with_crls(lists);
            }
            // A start without an identity fails at once and says why.
            let state = source.load().context("reading the identity's files")?;
            let (writer, reader) = identity(state);
            let writer = Arc::new(writer);
            tokio::spawn(source.run(Arc::clone(&writer), std::future::pending()));
            Ok(Identified {
                reader,
                writer,
                jwt: None,
            })
        }
        Identity::WorkloadApi(endpoint) => {
            let mut source = WorkloadApi::new(endpoint.clone(), crypto, clock, rand::random::<f64>);
            if agent.workload_api.is_some() {
                // Whom we serve may verify tokens through us.
                source = source.with_jwt_bundles();
            }
            let (writer, mut reader) = identity(IdentityState::default());
            let writer = Arc::new(writer);
            let run = tokio::spawn(source.run(Arc::clone(&writer), std::future::pending()));
            tracing::info!(socket = %endpoint.path().display(), "waiting for an identity");
            let first = async {
                while reader.latest().default_svid().is_none() {
                    reader.changed().await?;
                }
                anyhow::Ok(())
            };
            tokio::select! {
                found = first => found?,
                // It ends for good only where asking again would not help, and has said why.
                _ = run => bail!("asking {} for an identity", endpoint.path().display()),
            }
            let jwt = DynJwtIssuer::new(WorkloadApiJwt::new(endpoint.clone()));
            Ok(Identified {
                reader,
                writer,
                jwt: Some(jwt),
            })
        }
        Identity::DevelopmentCa { dir, lifetime } => {
            let ca = DevCa::open_with(dir, *lifetime, crypto, clock.clone())
                .with_context(|| format!("opening the development CA in {}", dir.display()))?;
            let id = agent.workload.spiffe_id(ca.trust_domain())?;
            tracing::warn!(
                dir = %dir.display(),
                %id,
                "DEVELOPMENT CA: this agent mints its own identity from a key on disk; \
                 whoever reads that key can be anybody in the trust domain"
            );
            let issuer = ca.for_workload(id.clone())?;
            let (svid, bundle) = obtain(&issuer, &id, crypto, &*clock).await?;
            let (writer, reader): (IdentityWriter, _) =
                identity(IdentityState::new(svid, bundle.into()));
            let writer = Arc::new(writer);
            let mut ids = BTreeSet::from([id]);
            if let Some(api) = &agent.workload_api {
                ids.extend(api.entries.iter().map(|entry| entry.id().clone()));
            }
            for id in ids {
                let issuer = ca.for_workload(id.clone())?;
                let rotation =
                    Rotation::new(id, issuer, crypto, clock.clone(), rand::random::<f64>);
                tokio::spawn(rotation.run(Arc::clone(&writer), std::future::pending()));
            }
            let jwt = DynJwtIssuer::new(ca.jwt_issuer().clone());
            Ok(Identified {
                reader,
                writer,
                jwt: Some(jwt),
            })
        }
    }
}

/// An identity from a CA over gRPC: the first one is waited for, unless one was kept that is still
/// good; later ones and bundles come by themselves.
async fn from_ca(
    config: CaClientConfig,
    keep: Option<&Path>,
    crypto: &Crypto,
) -> anyhow::Result<Identified> {
    let (id, clock) = (config.id.clone(), SystemClock::shared());
    let keep = keep.map(|dir| Keep::new(id.clone(), dir));
    let kept = keep.as_ref().map(|keep| keep.load(clock.now(), crypto));
    let initial = match kept {
        Some(Ok(state)) => {
            tracing::info!(%id, "identity kept from before");
            state
        }
        Some(Err(error)) if !matches!(error, KeepError::Empty { .. }) => {
            let reason: &dyn std::error::Error = &error;
            tracing::warn!(%id, error = reason, "the kept identity cannot be used, the CA is asked");
            IdentityState::default()
        }
        _ => IdentityState::default(),
    };
    let (writer, mut reader) = identity(initial);
    if let Some(keep) = keep {
        tokio::spawn(keep.run(reader.clone(), std::future::pending()));
    }
    let writer = Arc::new(writer);
    let client = CaClient::new(config, reader.clone(), crypto, clock.clone())?;
    let rotation = Rotation::new(id, client.clone(), crypto, clock, rand::random::<f64>);
    tokio::spawn(rotation.run(Arc::clone(&writer), std::future::pending()));
    if reader.latest().default_svid().is_none() {
        tracing::info!("waiting for an identity");
    }
    while reader.latest().default_svid().is_none() {
        reader.changed().await?;
    }
    let news = Arc::clone(&writer);
    let (_status, watch) = client.watch(news, rand::random::<f64>, std::future::pending());
    tokio::spawn(watch);
    Ok(Identified {
        reader,
        writer,
        jwt: None,
    })
}
