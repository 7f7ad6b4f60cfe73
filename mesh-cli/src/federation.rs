//! The agent's federation: bundles of foreign trust domains fetched into its store, and its own
//! trust domain's bundle served to them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use inmesh_pki::bundle::federate::endpoint::BundleEndpoint;
use inmesh_pki::bundle::federate::{
    self, BundleUrl, FederationStatus, Profile, Relationship, WebCertificate, WebCertificateError,
    WebCertificateStatus,
};
use inmesh_pki::clock::SystemClock;
use inmesh_pki::status::StatusReader;
use inmesh_pki::store::{IdentityReader, IdentityWriter};
use inmesh_pki::{CertificateDer, Crypto, SpiffeId, TrustBundle, TrustDomain};
use tokio::net::TcpListener;

/// What is fetched, and what is served.
#[derive(Debug)]
pub(crate) struct FederationConfig {
    pub(crate) relationships: Vec<Foreign>,
    pub(crate) endpoint: Option<Endpoint>,
    /// Where bundles of foreign trust domains are kept over a restart.
    pub(crate) keep: Option<PathBuf>,
}

/// A foreign trust domain.
#[derive(Debug)]
pub(crate) struct Foreign {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) url: BundleUrl,
    /// The endpoint's ID, for the profile https_spiffe; its host name counts without.
    pub(crate) spiffe: Option<Spiffe>,
    pub(crate) max_age: Option<Duration>,
}

/// An endpoint that is known by its SPIFFE ID.
#[derive(Debug)]
pub(crate) struct Spiffe {
    pub(crate) id: SpiffeId,
    /// The bundle for the first connection: JSON, or PEM under any other name than `*.json`.
    pub(crate) bundle: Option<PathBuf>,
}

/// Where our own bundle is served.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) bind: SocketAddr,
    pub(crate) path: String,
    /// The certificate of the profile https_web; the agent's SVID without.
    pub(crate) web: Option<WebFiles>,
}

/// A certificate of the web, in files that are read again when they change.
#[derive(Clone, Debug)]
pub(crate) struct WebFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// What is bound and read before there is an identity.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    listener: Option<TcpListener>,
    relationships: Vec<Relationship>,
    web: Option<WebCertificate>,
}

/// Federation as it runs.
#[derive(Debug, Default)]
pub(crate) struct RunningFederation {
    /// `None` if no foreign trust domain is known.
    pub(crate) relationships: Option<StatusReader<FederationStatus>>,
    pub(crate) endpoint: Option<RunningEndpoint>,
}

/// The bundle endpoint as it runs.
#[derive(Debug)]
pub(crate) struct RunningEndpoint {
    pub(crate) file: Endpoint,
    pub(crate) web: Option<StatusReader<WebCertificateStatus>>,
}

impl FederationConfig {
    /// Listens and reads files, so that what is wrong shows at start. `own` is the trust domain that the
    /// agent will be of, where its file says it.
    pub(crate) async fn open(
        &self,
        own: Option<&TrustDomain>,
        crypto: &Crypto,
    ) -> anyhow::Result<Opened> {
        let mut opened = Opened::default();
        if let Some(endpoint) = &self.endpoint {
            let bound = TcpListener::bind(endpoint.bind).await;
            let bound = bound.with_context(|| format!("listening on {}", endpoint.bind))?;
            opened.listener = Some(bound);
            let web = endpoint.web.as_ref().map(|files| files.open(crypto));
            let web = web.transpose();
            opened.web = web.context("reading the certificate of the bundle endpoint")?;
        }
        for foreign in &self.relationships {
            if let Some(own) = own {
                foreign.is_foreign_to(own)?;
            }
            opened.relationships.push(foreign.relationship()?);
        }
        Ok(opened)
    }

    /// Fetches and serves for as long as the process lives, and says how it is doing; `web_roots` vouch for web servers.
    pub(crate) fn run(
        &self,
        opened: Opened,
        reader: &IdentityReader,
        writer: Arc<IdentityWriter>,
        web_roots: Vec<CertificateDer<'static>>,
        crypto: &Crypto,
    ) -> anyhow::Result<RunningFederation> {
        let mut running = RunningFederation::default();
        let clock = SystemClock::shared();
        let state = reader.load();
        let svid = state.default_svid().context("the agent has no identity")?;
        let own = svid.id().trust_domain();
        for foreign in &self.relationships {
            foreign.is_foreign_to(own)?;
        }
        let relationships = opened.relationships;
        if let (Some(endpoint), Some(listener)) = (&self.endpoint, opened.listener) {
            let (path, clock) = (endpoint.path.clone(), Arc::clone(&clock));
            let mut serving = BundleEndpoint::new(own.clone(), path, reader.clone(), crypto, clock);
            let mut status = None;
            if let Some(web) = opened.web {
                status = Some(web.status());
                serving = serving.with_web_certificate(web);
            }
            tracing::info!(
                address = %endpoint.bind,
                path = endpoint.path,
                profile = endpoint.profile(),
                "bundle endpoint"
            );
            tokio::spawn(serving.serve(listener, std::future::pending()));
            running.endpoint = Some(RunningEndpoint {
                file: endpoint.clone(),
                web: status,
            });
        }
        if !relationships.is_empty() {
            // Without a web server to ask, no root of the web is needed.
            let web = self
                .relationships
                .iter()
                .any(|foreign| foreign.spiffe.is_none());
            let mut federation = federate::Federation::new(
                relationships,
                web.then_some(web_roots).into_iter().flatten(),
                crypto,
                clock,
                rand::random::<f64>,
            )?;
            if let Some(dir) = &self.keep {
                federation = federation.with_keep(dir);
            }
            running.relationships = Some(federation.status());
            tokio::spawn(federation.run(writer, std::future::pending()));
        }
        Ok(running)
    }
}

impl Endpoint {
    /// How it proves its identity.
    pub(crate) fn profile(&self) -> &'static str {
        match self.web {
            Some(_) => "https_web",
            None => "https_spiffe",
        }
    }
}

impl WebFiles {
    /// Reads the files, and sees that the key is the certificate's.
    pub(crate) fn open(&self, crypto: &Crypto) -> Result<WebCertificate, WebCertificateError> {
        WebCertificate::open(&self.certificate, &self.key, crypto)
    }
}

impl Foreign {
    /// An error if it is of our own trust domain.
    pub(crate) fn is_foreign_to(&self, own: &TrustDomain) -> anyhow::Result<()> {
        ensure!(
            self.trust_domain != *own,
            "federation with {own}, which is our own trust domain"
        );
        Ok(())
    }

    fn relationship(&self) -> anyhow::Result<Relationship> {
        let profile = match &self.spiffe {
            None => Profile::Web,
            Some(spiffe) => Profile::Spiffe {
                id: spiffe.id.clone(),
                bootstrap: spiffe.read_bundle()?,
            },
        };
        let (trust_domain, url) = (self.trust_domain.clone(), self.url.clone());
        let relationship = Relationship::new(trust_domain, url, profile)?;
        Ok(match self.max_age {
            Some(max_age) => relationship.with_max_age(max_age),
            None => relationship,
        })
    }
}

impl Spiffe {
    /// The bundle for the first connection, if a file with one is named.
    pub(crate) fn read_bundle(&self) -> anyhow::Result<Option<TrustBundle>> {
        let read = |path: &PathBuf| {
            let read = read_bundle(self.id.trust_domain().clone(), path);
            read.with_context(|| format!("reading the bundle {}", path.display()))
        };
        self.bundle.as_ref().map(read).transpose()
    }
}

fn read_bundle(trust_domain: TrustDomain, path: &Path) -> anyhow::Result<TrustBundle> {
    let text = std::fs::read(path)?;
    if path.extension().is_some_and(|kind| kind == "json") {
        return Ok(TrustBundle::from_json(trust_domain, &text)?);
    }
    Ok(TrustBundle::from_pem(trust_domain, &text)?)
}
