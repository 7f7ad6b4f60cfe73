//! The flags that say what is put beside Pods, of each command that renders it.

use anyhow::Context;
use clap::{Args, ValueEnum};
use inmesh_core::model::Namespace;
use inmesh_discovery::inject::Sidecar;
use inmesh_discovery::layout;
use inmesh_pki::TrustDomain;

#[derive(Debug, Args)]
pub(super) struct Beside {
    /// The image of the mesh, with the binary at /usr/local/bin/mesh.
    #[arg(long)]
    image: String,
    /// When the image is pulled.
    #[arg(long, value_enum, default_value = "if-not-present")]
    image_pull_policy: Pull,
    /// The namespace of the CA and the control plane.
    #[arg(long, value_name = "NAMESPACE", default_value = layout::SYSTEM)]
    system_namespace: String,
    /// The trust domain of service accounts.
    #[arg(long, default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// Whether plaintext is refused where a Pod does not say it (annotation `inmesh.dev/peers`).
    #[arg(long, value_enum, default_value = "permissive")]
    peers: Peers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pull {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peers {
    Permissive,
    Strict,
}

// === impl Beside ===

impl Beside {
    /// What they say.
    pub(super) fn sidecar(&self) -> anyhow::Result<Sidecar> {
        Namespace::new(&self.system_namespace).context("--system-namespace")?;
        let mut sidecar = Sidecar::new(&self.image, self.trust_domain.clone());
        sidecar.system.clone_from(&self.system_namespace);
        sidecar.strict = self.peers == Peers::Strict;
        sidecar.pull = match self.image_pull_policy {
            Pull::Always => "Always",
            Pull::IfNotPresent => "IfNotPresent",
            Pull::Never => "Never",
        }
        .to_owned();
        Ok(sidecar)
    }
}
