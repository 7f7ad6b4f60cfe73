//! The agent's file: what one agent is, in one small strict document of kind `Agent`.
//!
//! In comes a folder with exactly one such document, out goes an [`Agent`], or every problem with
//! file, line and field. It refuses unknown fields and hidden defaults: `defaultAction` and
//! `peers` must be written.

mod control;
mod kubernetes;
mod listener;
mod optional;
mod read;
mod write;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use inmesh_core::authorize::{DefaultAction, PathForm};
use inmesh_core::balance::EjectPolicy;
use inmesh_core::model::{Locality, Namespace, Workload};
use inmesh_core::runtime::{Limits, Listen};
use inmesh_core::snapshot::{OutboundTrafficPolicy, Problem};
use inmesh_discovery::file;
use inmesh_discovery::manifest::Defaults;
use inmesh_discovery::manifest::strict::{self, Document};
use inmesh_pki::id::{SpiffeId, TrustDomain};
use inmesh_pki::workload_api::Endpoint;

use crate::federation::FederationConfig;
use crate::workload_api::WorkloadApiConfig;

pub(crate) use control::{ControlConfig, ControlPlaneConfig, lease};
pub(crate) use kubernetes::{KubernetesConfig, cluster};
pub(crate) use read::duration;
pub(crate) use write::document;

/// The group and version of our own kinds.
pub(crate) const API_VERSION: &str = "inmesh.dev/v1alpha1";
/// The kind of the agent's file.
pub(crate) const KIND: &str = "Agent";

/// What one agent is.
#[derive(Debug)]
pub(crate) struct Agent {
    /// What it was read from, which knows where each field stands.
    pub(crate) document: Document,
    pub(crate) workload: Workload,
    pub(crate) default_action: DefaultAction,
    /// Whether listeners that do not say otherwise refuse plaintext.
    pub(crate) strict: bool,
    pub(crate) mesh_namespace: Option<Namespace>,
    pub(crate) identity: Identity,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) loopback_endpoints: bool,
    pub(crate) paths: PathForm,
    pub(crate) outbound: OutboundTrafficPolicy,
    pub(crate) limits: Limits,
    pub(crate) eject: EjectPolicy,
    pub(crate) locality: Locality,
    /// How long the folder, the name servers, the API server and the control plane may be out of sync before
    /// they are stale.
    pub(crate) stale_after: StaleAfter,
    pub(crate) access_log: Option<AccessLogTo>,
    pub(crate) tracing: Option<Tracing>,
    pub(crate) workload_api: Option<WorkloadApiConfig>,
    pub(crate) federation: Option<FederationConfig>,
    pub(crate) followed: Followed,
}

/// What is followed beside the folder, and handed on.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) kubernetes: Option<KubernetesConfig>,
    pub(crate) control: Option<ControlConfig>,
    pub(crate) control_plane: Option<ControlPlaneConfig>,
}

/// How long each source may be out of sync before it is stale; [`Duration::MAX`] is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StaleAfter {
    pub(crate) documents: Duration,
    pub(crate) dns: Duration,
    pub(crate) kubernetes: Duration,
    pub(crate) control: Duration,
}

/// Where the agent's identity comes from.
#[derive(Debug)]
pub(crate) enum Identity {
    /// A CA over gRPC.
    Ca {
        address: String,
        ca: SpiffeId,
        trust_bundle: PathBuf,
        token: Option<PathBuf>,
        /// Where it keeps its certificate over a restart.
        keep: Option<PathBuf>,
    },
    /// A development CA's folder, from which the agent mints its own workload's ID.
    DevelopmentCa { dir: PathBuf, lifetime: Duration },
    /// Files, read again when they change.
    Files {
        certificate: PathBuf,
        key: PathBuf,
        bundle: PathBuf,
        revocation_lists: Option<PathBuf>,
    },
    /// The Pod certificate that the kubelet keeps in a volume; key and chain may stand in one file.
    PodCertificate {
        chain: PathBuf,
        key: PathBuf,
        bundle: PathBuf,
    },
    /// The Workload API of another agent: SPIRE's, or one of ours.
    WorkloadApi(Endpoint),
}

/// One listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) bind: SocketAddr,
    pub(crate) listen: Listen,
}

/// Where the access log goes.
#[derive(Debug)]
pub(crate) struct AccessLogTo {
    pub(crate) to: LogTo,
    /// The share of exchanges that went well which is kept.
    pub(crate) sample: f64,
}

/// A file, or a descriptor of this process.
#[derive(Debug)]
pub(crate) enum LogTo {
    File(PathBuf),
    /// `/dev/stderr`.
    Stderr,
    /// `-` or `/dev/stdout`.
    Stdout,
}

/// Where spans go.
#[derive(Debug)]
pub(crate) struct Tracing {
    /// The OTLP/gRPC endpoint, e.g. `http://127.0.0.1:4317`.
    pub(crate) otlp: String,
    /// The share of new traces that is recorded.
    pub(crate) sample: f64,
}

/// What a folder holds of agents.
#[derive(Debug)]
pub(crate) enum Found {
    Agent(Box<Agent>),
    /// No such document; what is wrong with files that may hold one.
    None(Vec<Problem>),
    Refused(Vec<Problem>),
}

// === impl StaleAfter ===

impl Default for StaleAfter {
    fn default() -> Self {
        let five = Duration::from_secs(300);
        Self {
            documents: five,
            dns: five,
            kubernetes: five,
            control: five,
        }
    }
}

// === impl Agent ===

impl Agent {
    /// The ports that it binds itself.
    pub(crate) fn ports(&self) -> Vec<u16> {
        let listeners = self.listeners.iter().map(|listener| listener.bind);
        let bundles = self.federation.iter().filter_map(|f| f.endpoint.as_ref());
        let plane = self.followed.control_plane.iter().flat_map(|plane| {
            let inject = plane.inject.iter().map(|inject| inject.bind);
            std::iter::once(plane.bind).chain(inject)
        });
        let pages = self.admin.into_iter().chain(bundles.map(|e| e.bind));
        listeners
            .chain(pages)
            .chain(plane)
            .map(|at| at.port())
            .collect()
    }

    /// The trust domain that it will be of, where its file says so; else its source of identity does.
    pub(crate) fn trust_domain(&self) -> Option<&TrustDomain> {
        match &self.identity {
            Identity::Ca { ca, .. } => Some(ca.trust_domain()),
            Identity::DevelopmentCa { .. }
            | Identity::Files { .. }
            | Identity::PodCertificate { .. }
            | Identity::WorkloadApi(_) => None,
        }
    }

    /// How documents beside the agent's file are read.
    pub(crate) fn defaults(&self) -> Defaults {
        let defaults = strict_defaults(&self.workload).loopback(self.loopback_endpoints);
        // It gives what its own server federates with; no other source brings foreign bundles.
        let defaults = defaults.may_federate(matches!(self.identity, Identity::WorkloadApi(_)));
        let defaults = defaults.paths(self.paths);
        let defaults = match self.followed.control_plane {
            // What is read is handed on.
            Some(_) => defaults.documents(),
            None => defaults,
        };
        let others = self.federation.iter().flat_map(|f| &f.relationships);
        others.fold(defaults, |defaults, other| {
            defaults.federate(other.trust_domain.as_str())
        })
    }
}

/// How documents are read where nothing more is allowed.
pub(crate) fn strict_defaults(workload: &Workload) -> Defaults {
    Defaults::new(workload.namespace.clone()).skip(API_VERSION, KIND)
}

/// Looks for the agent's file in a folder, as the source of documents reads it: what cannot be read
/// is no agent's file, and is reported by that source.
///
/// # Errors
///
/// If the folder cannot be listed.
pub(crate) fn find(dir: &Path) -> anyhow::Result<Found> {
    let files = file::contents(dir).with_context(|| format!("reading {}", dir.display()))?;
    let (mut agents, mut unread) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let documents = content.text(&name).and_then(|text| {
            let documents = strict::documents(&name, text);
            documents.map_err(|error| error.problem())
        });
        match documents {
            Ok(documents) => agents.extend(documents.into_iter().filter(is_agent)),
            Err(problem) => unread.push(problem),
        }
    }
    let Some((first, further)) = agents.split_first() else {
        return Ok(Found::None(unread));
    };
    let second = further.iter().map(|document| {
        let first = first.place("");
        let message = format!("a second {KIND} document; the first is at {first}");
        Problem::refused("", message).at(document.place(""))
    });
    Ok(match read::agent(first, dir) {
        Ok(agent) if further.is_empty() => Found::Agent(Box::new(agent)),
        Ok(_) => Found::Refused(second.collect()),
        Err(problems) => Found::Refused(problems.into_iter().chain(second).collect()),
    })
}

fn is_agent(document: &Document) -> bool {
    document.kind() == Some(KIND) && document.api_version() == Some(API_VERSION)
}

/// How often the agent's file is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Says in the log when the agent's file is no longer what it was at the start, for it is read once:
/// a restart is needed. Runs until it is dropped.
pub(crate) async fn watch(dir: PathBuf, started_with: Option<String>) {
    let mut seen = started_with.clone();
    loop {
        tokio::time::sleep(LOOK).await;
        let of = dir.clone();
        let Ok(now) = tokio::task::spawn_blocking(move || text(&of)).await else {
            return;
        };
        if now == seen {
            continue;
        }
        if now == started_with {
            tracing::info!("the agent's file is again what it was at the start");
        } else if now.is_none() {
            tracing::warn!("the agent's file is gone or cannot be read; a restart would fail");
        } else {
            tracing::warn!("the agent's file has changed; restart the agent to apply it");
        }
        seen = now;
    }
}

/// The text of the documents of kind `Agent` in a folder, without those around them; `None` if there
/// are none that can be read.
pub(crate) fn text(dir: &Path) -> Option<String> {
    let mut texts = Vec::new();
    for (name, content) in file::contents(dir).ok()? {
        let Ok(text) = content.text(&name) else {
            continue;
        };
        let documents = strict::documents(&name, text).unwrap_or_default();
        for (nth, document) in documents.iter().enumerate() {
            if !is_agent(document) {
                continue;
            }
            let line = |n: u32| usize::try_from(n).unwrap_or(usize::MAX).saturating_sub(1);
            let next = documents.get(nth + 1).map(Document::line);
            let end = next.map_or(usize::MAX, line);
            let lines = text.lines().take(end).skip(line(document.line()));
            texts.push(lines.collect::<Vec<_>>().join("\n"));
        }
    }
    texts.sort();
    (!texts.is_empty()).then(|| texts.join("\n"))
}

#[cfg(test)]
mod tests;
