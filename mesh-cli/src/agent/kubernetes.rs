//! The cluster that an agent follows: `kubernetes` of its file.

use std::path::{Path, PathBuf};

use anyhow::Context;
use inmesh_discovery::kube::{Cluster, ClusterError, KubeSource};
use inmesh_discovery::manifest::strict::{Fields, Value};
use inmesh_discovery::manifest::{Defaults, Unsaid};
use inmesh_pki::TrustDomain;

use super::Identity;
use super::optional::optional;

/// A cluster whose objects the agent follows, beside the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KubernetesConfig {
    /// How its API server is reached; as kubectl finds it where it is not written.
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) context: Option<String>,
    /// That of the service accounts of its Pods.
    pub(crate) trust_domain: TrustDomain,
}

/// Reads it; relative paths are relative to `dir`.
pub(super) fn kubernetes(
    fields: &mut Fields<'_>,
    dir: &Path,
    identity: Option<&Identity>,
) -> Option<KubernetesConfig> {
    let text = |v: Value<'_>| {
        let text = v.text()?;
        if text.is_empty() {
            v.refuse("is empty");
        }
        Some(text.to_owned())
    };
    let kubeconfig = optional(fields, "kubeconfig", text);
    let context = optional(fields, "context", text);
    let written = optional(fields, "trustDomain", |v| v.parsed::<TrustDomain>());
    let (kubeconfig, context, written) = (kubeconfig?, context?, written?);
    if context.is_some() && kubeconfig.is_none() {
        fields.missing("kubeconfig", "is missing: a context is one of a file");
    }
    let trust_domain = match (written, identity) {
        (Some(written), _) => written,
        (None, Some(Identity::Ca { ca, .. })) => ca.trust_domain().clone(),
        // What is wrong with it is said there.
        (None, None) => return None,
        (None, Some(_)) => {
            let why = "is missing: the identity of this agent does not say before it is there of which \
                       trust domain the service accounts of Pods are";
            fields.missing("trustDomain", why);
            return None;
        }
    };
    Some(KubernetesConfig {
        kubeconfig: kubeconfig.map(|file| dir.join(file)),
        context,
        trust_domain,
    })
}

/// The API server of a kubeconfig file, or the one that kubectl would find.
pub(crate) async fn cluster(
    kubeconfig: Option<&Path>,
    context: Option<&str>,
) -> Result<Cluster, ClusterError> {
    match kubeconfig {
        Some(file) => Cluster::kubeconfig(file, context).await,
        None => Cluster::infer().await,
    }
}

// === impl KubernetesConfig ===

impl KubernetesConfig {
    /// The source of its objects. They are read as those of the folder, but that what is no Pod is
    /// reached in plaintext where nothing else is said, and that no endpoint is on loopback.
    pub(crate) async fn source(&self, defaults: Defaults) -> anyhow::Result<KubeSource> {
        let cluster = cluster(self.kubeconfig.as_deref(), self.context.as_deref()).await;
        let cluster = cluster.context("kubernetes of the agent's file")?;
        tracing::info!(
            server = cluster.server(),
            "the objects of a cluster are followed"
        );
        let defaults = defaults
            .loopback(false)
            .trust_domain(self.trust_domain.clone())
            .unsaid(Unsaid::Plain);
        Ok(KubeSource::new(cluster, defaults))
    }
}
