//! `mesh ca serve`: the CA of a mesh. Its state, keys and the operator's socket lie in one folder, or the
//! first two in Secrets of a cluster; it runs until a signal.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail};
use clap::{ArgAction, ArgGroup, Args};
use inmesh_core::drain::{Drain, Phase, drain};
use inmesh_core::model::{InvalidName, Namespace};
use inmesh_discovery::kube::{
    CertificateSigner, Cluster, RootPublisher, SecretStore, TokenReviews,
};
use inmesh_discovery::layout;
use inmesh_pki::Crypto;
use inmesh_pki::ca::admin::AdminSocket;
use inmesh_pki::ca::attest::{Attestors, TokenIssuer};
use inmesh_pki::ca::server::{CaServer, ServerConfigOf};
use inmesh_pki::ca::store::{FileStore, Store, StoreError};
use inmesh_pki::ca::{Ca, Lifetimes, NewAuthority, Published};
use inmesh_pki::clock::SystemClock;
use inmesh_pki::disk;
use inmesh_pki::id::{SpiffeId, TrustDomain};
use inmesh_pki::issue::policy::{OidcRule, Rules};
use inmesh_pki::source::keys::KeyFile;
use tokio::net::TcpListener;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::metrics::Pages;
use crate::agent::{self, duration};
use crate::log;
use crate::signals::Signals;

/// The CA's own ID below its trust domain, unless another one is given.
const OWN_PATH: &str = "/inmesh/ca";

/// The first pause before a store is asked again that does not answer, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("cluster").multiple(true)))]
#[command(after_help = "Examples:
  mesh ca serve --dir /var/lib/mesh-ca --trust-domain prod.example
  mesh ca serve --dir /var/lib/mesh-ca --trust-domain prod.example --metrics 127.0.0.1:15014 \\
    --kubernetes-jwks jwks.json --audience inmesh-ca
  mesh ca serve --dir /run/mesh-ca --trust-domain prod.example --kubernetes-secrets mesh-system \\
    --kubernetes-review --audience inmesh-ca")]
pub(crate) struct Serve {
    /// The CA's folder; made if needed, for its owner alone. With --kubernetes-secrets it has the
    /// operator's socket and the bundle alone.
    #[arg(long)]
    dir: PathBuf,
    /// The trust domain.
    #[arg(long)]
    trust_domain: TrustDomain,
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15012")]
    listen: SocketAddr,
    /// The CA's own SPIFFE ID [default: /inmesh/ca of the trust domain].
    #[arg(long)]
    id: Option<SpiffeId>,
    /// A host name in the CA's own certificate, for clients that verify one; may be repeated.
    #[arg(long, value_name = "NAME")]
    host_name: Vec<String>,
    /// A host name in the leaves of another ID, for clients that verify one, as an API server does a webhook:
    /// ID=NAME; may be repeated.
    #[arg(long, value_name = "ID=NAME")]
    host_name_of: Vec<String>,
    /// The first root, as PEM with its key, or with an issuing CA and that one's key where the
    /// root stays offline; without it, one is made.
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// Where the bundle is written whenever it changes [default: bundle.pem in the folder].
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// How long a leaf lives.
    #[arg(long, default_value = "1h", value_parser = duration)]
    leaf_lifetime: Duration,
    /// How long a root that is made here lives; half of it later, it is rotated.
    #[arg(long, default_value = "8760h", value_parser = duration)]
    root_lifetime: Duration,
    /// How long an issuing CA that is made here lives.
    #[arg(long, default_value = "2160h", value_parser = duration)]
    issuer_lifetime: Duration,
    /// How many leaves are signed in a second at most.
    #[arg(long, default_value_t = inmesh_pki::ca::DEFAULT_RATE)]
    rate: u32,
    /// The keys of a cluster (the JWK set that its API server publishes), to accept its
    /// service-account tokens.
    #[arg(long, value_name = "FILE", requires = "audience")]
    kubernetes_jwks: Option<PathBuf>,
    /// The issuer in the cluster's tokens.
    #[arg(
        long,
        value_name = "URL",
        default_value = "https://kubernetes.default.svc.cluster.local"
    )]
    kubernetes_issuer: String,
    /// Ask the API server of a cluster to which service account a token belongs: it also knows whether
    /// account and Pod still exist. It is found as kubectl finds it.
    #[arg(long, requires = "audience", group = "cluster")]
    kubernetes_review: bool,
    /// Keep state and keys in Secrets of this namespace, instead of in the folder. Any number of
    /// processes may serve from them at once. The API server is found as kubectl finds it.
    #[arg(long, value_name = "NAMESPACE", group = "cluster", value_parser = namespace)]
    kubernetes_secrets: Option<Namespace>,
    /// Whether the roots are published in the cluster too: as the ConfigMap mesh-root there and in each
    /// Namespace with the label inmesh.dev/inject: enabled, and as a ClusterTrustBundle.
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        action = ArgAction::Set,
        requires = "kubernetes_secrets"
    )]
    kubernetes_publish: bool,
    /// The MutatingWebhookConfiguration that has the roots as its caBundle too, where it is labelled
    /// app.kubernetes.io/part-of: inmesh.
    #[arg(long, value_name = "NAME", requires = "kubernetes_secrets")]
    kubernetes_webhook: Option<String>,
    /// Whether PodCertificateRequests and CertificateSigningRequests of that cluster are signed, for the
    /// signer inmesh.dev/ca: each service account gets its own ID.
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = false,
        action = ArgAction::Set,
        requires = "kubernetes_secrets"
    )]
    kubernetes_sign: bool,
    /// How that API server is reached, instead.
    #[arg(long, value_name = "FILE", requires = "cluster")]
    kubeconfig: Option<PathBuf>,
    /// The audience that tokens must be meant for.
    #[arg(long)]
    audience: Option<String>,
    /// An OpenID issuer whose tokens are accepted: `issuer=URL,jwks=FILE`; may be repeated.
    #[arg(long, value_name = "NAME=VALUE,...", requires = "audience")]
    oidc: Vec<String>,
    /// Which token of an OpenID issuer gets which ID: `issuer=URL,id=SPIFFE-ID,CLAIM=VALUE,...`; every
    /// claim must have exactly that value; may be repeated.
    #[arg(long, value_name = "NAME=VALUE,...", requires = "oidc")]
    oidc_grant: Vec<String>,
    /// Where metrics and readiness are served over HTTP; keep it on loopback, it asks for no
    /// identity [default: nowhere].
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// What is logged, as in RUST_LOG.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "MESH_LOG")]
    log: String,
    /// The form of the log's lines, on standard error.
    #[arg(long, value_enum, default_value = "text")]
    log_format: log::Format,
}

/// What is ready before the state is read.
struct Prepared {
    signals: Signals,
    config: ServerConfigOf,
    key_files: Vec<KeyFile>,
    listener: TcpListener,
    metrics: Option<TcpListener>,
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let _level = log::init(&self.log, self.log_format)?;
        crate::cmd::runtime(None)?.block_on(self.serve())?;
        Ok(ExitCode::SUCCESS)
    }

    async fn serve(self) -> anyhow::Result<()> {
        let signals = Signals::new()?;
        let (mut config, key_files) = self.config()?;
        let cluster = self.cluster().await?;
        if let Some(cluster) = cluster.as_ref().filter(|_| self.kubernetes_review) {
            let audience = self.audience.clone().unwrap_or_default();
            let reviews = TokenReviews::of(cluster);
            config.attestors = config.attestors.with_review(audience, reviews);
        }
        let mut prepared = Prepared {
            signals,
            config,
            key_files,
            listener: listen(self.listen).await?,
            metrics: match self.metrics {
                None => None,
                Some(address) => Some(listen(address).await?),
            },
        };
        match (&self.kubernetes_secrets, cluster) {
            (Some(namespace), Some(cluster)) => {
                make_folder(&self.dir)?;
                let store = SecretStore::of(&cluster, namespace, layout::CA)?;
                if !answers(&store, &mut prepared.signals).await {
                    return Ok(());
                }
                let publisher = self.publisher(namespace, &cluster);
                let signer = self.kubernetes_sign.then(|| {
                    let lease = agent::lease(namespace, layout::SIGNER_LEASE);
                    let rules = prepared.config.rules.clone();
                    move |ca, until| CertificateSigner::new(&cluster, lease, ca, rules).run(until)
                });
                self.run_in(store, prepared, publisher, signer).await
            }
            _ => {
                let store = FileStore::open(&self.dir)
                    .with_context(|| format!("opening the CA's folder {}", self.dir.display()))?;
                self.run_in(
                    store,
                    prepared,
                    None,
                    None::<fn(_, _) -> std::future::Ready<()>>,
                )
                .await
            }
        }
    }

    /// Serves a CA whose state and keys are in `store`.
    async fn run_in<S: Store, F: Future<Output = ()> + Send + 'static>(
        self,
        store: S,
        prepared: Prepared,
        publisher: Option<RootPublisher>,
        signer: Option<impl FnOnce(Arc<Ca<S>>, Drain) -> F>,
    ) -> anyhow::Result<()> {
        let Prepared {
            mut signals,
            config,
            key_files,
            listener,
            metrics,
        } = prepared;
        let ca = Arc::new(self.open(store).await?);
        let socket = AdminSocket::bind(&self.dir)
            .with_context(|| format!("listening in {}", self.dir.display()))?;
        let own = config.rules.own().clone();
        let server = CaServer::new(Arc::clone(&ca), config).await?;
        let bundle = self
            .bundle
            .clone()
            .unwrap_or_else(|| self.dir.join("bundle.pem"));
        write_bundle(&bundle, &ca.published().borrow())?;
        let address = listener.local_addr()?;
        tracing::info!(%address, trust_domain = %self.trust_domain, "the CA serves");

        if let Some(listener) = metrics {
            warn_if_open(listener.local_addr()?);
            let pages = Pages {
                ca: Arc::clone(&ca),
                own,
                counts: server.counts(),
                identity: server.identity(),
            };
            tokio::spawn(pages.serve(listener));
        }

        for file in key_files {
            tokio::spawn(file.run(std::future::pending()));
        }
        let (stop, stopped) = watch::channel(false);
        let until = |mut stopped: watch::Receiver<bool>| async move {
            let _gone = stopped.wait_for(|stop| *stop).await;
        };
        let mut serving = tokio::spawn(server.serve(listener, until(stopped.clone())));
        let operating = tokio::spawn(socket.serve(Arc::clone(&ca), until(stopped.clone())));
        let writing = tokio::spawn(keep_bundle(bundle, ca.published()));
        let (ended, until_ended) = drain();
        let signing = signer.map(|run| tokio::spawn(run(Arc::clone(&ca), until_ended.clone())));
        let publishing = publisher.map(|it| tokio::spawn(it.run(ca.published(), until_ended)));
        tokio::select! {
            // It has no log file: the log goes to standard error.
            () = signals.end(async || {}) => {}
            ended = &mut serving => match ended {
                Ok(()) => bail!("the server has ended"),
                Err(error) => bail!("the server has ended: {error}"),
            },
        }
        tracing::info!("ended by a signal");
        let _gone = stop.send(true);
        ended.advance(Phase::Closed);
        writing.abort();
        serving.await?;
        operating.await?;
        for task in [publishing, signing].into_iter().flatten() {
            task.await?;
        }
        // Without it the next start waits for leaves to end, as after a crash.
        if let Err(error) = ca.leave().await {
            tracing::warn!(%error, "the members are not written down");
        }
        Ok(())
    }

    async fn open<S: Store>(&self, store: S) -> anyhow::Result<Ca<S>> {
        let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
        let lifetimes = Lifetimes {
            root: at_least_a_second("root", self.root_lifetime)?,
            issuer: at_least_a_second("issuer", self.issuer_lifetime)?,
            leaf: at_least_a_second("leaf", self.leaf_lifetime)?,
        };
        let first = self.first_root(lifetimes, clock.now(), &crypto)?;
        let ca = Ca::open(store, &self.trust_domain, first, lifetimes, &crypto, clock);
        ca.await.with_context(|| match &self.kubernetes_secrets {
            Some(namespace) => format!(
                "opening the CA in the Secrets {} of {namespace}",
                layout::CA
            ),
            None => format!("opening the CA in {}", self.dir.display()),
        })
    }

    /// The cluster, where one is asked for.
    async fn cluster(&self) -> anyhow::Result<Option<Cluster>> {
        let flag = match (&self.kubernetes_secrets, self.kubernetes_review) {
            (None, false) => return Ok(None),
            (Some(_), _) => "--kubernetes-secrets",
            (None, true) => "--kubernetes-review",
        };
        let cluster = agent::cluster(self.kubeconfig.as_deref(), None).await;
        let cluster = cluster.context(flag)?;
        let server = cluster.server();
        if self.kubernetes_review {
            tracing::info!(server, "tokens are reviewed by a cluster");
        }
        if let Some(namespace) = &self.kubernetes_secrets {
            tracing::info!(server, %namespace, "state and keys are in Secrets");
        }
        Ok(Some(cluster))
    }

    fn publisher(&self, namespace: &Namespace, cluster: &Cluster) -> Option<RootPublisher> {
        if !self.kubernetes_publish {
            return None;
        }
        let publisher = RootPublisher::new(cluster, agent::lease(namespace, layout::ROOTS));
        Some(match &self.kubernetes_webhook {
            Some(name) => publisher.webhook(name),
            None => publisher,
        })
    }

    /// The root that an operator brings, with its key.
    fn first_root(
        &self,
        lifetimes: Lifetimes,
        now: SystemTime,
        crypto: &Crypto,
    ) -> anyhow::Result<Option<NewAuthority>> {
        let Some(path) = &self.root else {
            return Ok(None);
        };
        let pem = read_secret(path)?;
        let root = NewAuthority::from_pem(&self.trust_domain, &pem, lifetimes, now, crypto)
            .with_context(|| format!("the root in {}", path.display()))?;
        Ok(Some(root))
    }

    /// The server's configuration, and the files with keys of tokens, which are kept up to date.
    fn config(&self) -> anyhow::Result<(ServerConfigOf, Vec<KeyFile>)> {
        let own = match &self.id {
            Some(id) => id.clone(),
            None => format!("{}{OWN_PATH}", self.trust_domain.id()).parse()?,
        };
        if own.trust_domain() != &self.trust_domain || own.path().is_empty() {
            bail!("{own} is no ID of the trust domain {}", self.trust_domain);
        }
        let mut rules = Rules::new(self.trust_domain.clone(), own);
        let mut attestors = Attestors::none();
        let mut files = Vec::new();
        let mut keys = |path: &Path| {
            let file = KeyFile::open(path)?;
            let keys = file.keys();
            files.push(file);
            anyhow::Ok(keys)
        };
        let audience = self.audience.clone().unwrap_or_default();
        if self.kubernetes_review || self.kubernetes_sign {
            rules = rules.with_kubernetes();
        }
        if let Some(path) = &self.kubernetes_jwks {
            rules = rules.with_kubernetes();
            attestors = attestors.with_kubernetes(TokenIssuer {
                issuer: self.kubernetes_issuer.clone(),
                audience: audience.clone(),
                keys: keys(path)?,
            });
        }
        for text in &self.oidc {
            let mut fields = fields("--oidc", text)?;
            attestors = attestors.with_oidc(TokenIssuer {
                issuer: take(&mut fields, "--oidc", "issuer")?,
                audience: audience.clone(),
                keys: keys(Path::new(&take(&mut fields, "--oidc", "jwks")?))?,
            });
            if let Some(name) = fields.keys().next() {
                bail!("--oidc: unknown field {name:?}");
            }
        }
        for text in &self.oidc_grant {
            let mut fields = fields("--oidc-grant", text)?;
            let issuer = take(&mut fields, "--oidc-grant", "issuer")?;
            let id = take(&mut fields, "--oidc-grant", "id")?;
            rules = rules.with_oidc(OidcRule {
                issuer,
                id: id.parse().with_context(|| format!("--oidc-grant: {id}"))?,
                claims: fields,
            })?;
        }
        for text in &self.host_name_of {
            let (id, name) = text
                .split_once('=')
                .with_context(|| format!("--host-name-of: {text:?} is not ID=NAME"))?;
            let id: SpiffeId = id
                .parse()
                .with_context(|| format!("--host-name-of: {id}"))?;
            rules = rules.with_host_name(id, name).context("--host-name-of")?;
        }
        let mut config = ServerConfigOf::new(rules);
        config.attestors = attestors;
        config.rate = self.rate;
        config.host_names.clone_from(&self.host_name);
        Ok((config, files))
    }
}

/// Waits until a store answers, and says why it does not; `false` is to end meanwhile. An orchestrator starts a
/// process that ends ever later, and the CA would be away for minutes after an API server is back.
async fn answers(store: &impl Store, signals: &mut Signals) -> bool {
    let mut pause = RETRY.0;
    // What does not pass is said, with its context, by the one that opens it.
    while let Err(error @ StoreError::Unavailable { passes: true, .. }) = store.latest().await {
        tracing::warn!(%error, "the state of the CA cannot be read; it is tried again");
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY.1),
            () = signals.end(async || {}) => return false,
        }
    }
    true
}

/// Says where the pages are, and that they ask for no identity.
fn warn_if_open(address: SocketAddr) {
    tracing::info!(%address, "metrics");
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "the metrics' address is not loopback: it asks for no identity");
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}"))
}

fn at_least_a_second(what: &str, lifetime: Duration) -> anyhow::Result<Duration> {
    if lifetime < Duration::from_secs(1) {
        bail!("the {what} lifetime is below a second");
    }
    Ok(lifetime)
}

/// `name=value,name=value`; a value has no comma.
fn fields(flag: &str, text: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    for field in text.split(',') {
        let (name, value) = field
            .split_once('=')
            .ok_or_else(|| anyhow!("{flag}: {field:?} is not NAME=VALUE"))?;
        if fields.insert(name.to_owned(), value.to_owned()).is_some() {
            bail!("{flag}: {name} stands twice");
        }
    }
    Ok(fields)
}

fn take(fields: &mut BTreeMap<String, String>, flag: &str, name: &str) -> anyhow::Result<String> {
    fields
        .remove(name)
        .ok_or_else(|| anyhow!("{flag}: {name} is missing"))
}

/// Reads a file that holds a key, which no other user may use.
pub(super) fn read_secret(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    disk::read_secret(path).with_context(|| format!("reading {}", path.display()))
}

fn namespace(text: &str) -> Result<Namespace, InvalidName> {
    Namespace::new(text)
}

/// Makes the folder of the socket, or refuses one that other users may use: what comes in there is obeyed.
fn make_folder(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};

    let mut builder = std::fs::DirBuilder::new();
    let found = builder.recursive(true).mode(0o700).create(dir);
    let found = found.and_then(|()| dir.metadata());
    let found = found.with_context(|| format!("making the folder {}", dir.display()))?;
    if found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o077 != 0 {
        bail!(
            "other users may use {}: name a folder below it, which is made",
            dir.display()
        );
    }
    Ok(())
}

/// Writes the bundle whenever it changes.
async fn keep_bundle(path: PathBuf, mut published: watch::Receiver<Arc<Published>>) {
    while published.changed().await.is_ok() {
        let now = published.borrow_and_update().clone();
        if let Err(error) = write_bundle(&path, &now) {
            tracing::error!(error = format!("{error:#}"), "the bundle is not written");
        }
    }
}

/// Replaces the file in one step; nothing is written through a link.
fn write_bundle(path: &Path, published: &Published) -> anyhow::Result<()> {
    disk::write_public(path, published.bundle.to_pem().as_bytes())
        .with_context(|| format!("writing the bundle {}", path.display()))
}
