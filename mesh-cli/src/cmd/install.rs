//! `mesh install`: the documents by which a mesh is installed in a cluster, or a Helm chart of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use inmesh_discovery::install::Install as Installed;
use inmesh_discovery::manifest::to_yaml;
use serde_json::json;

use super::beside::Beside;
use crate::term;

/// Prints all that a cluster needs to have a mesh: our definitions, the CA and the control plane with their
/// roles, and the webhook that puts the mesh beside the Pods of Namespaces with the label
/// inmesh.dev/inject=enabled. Nothing is sent to a cluster.
///
/// `mesh check` says what is missing, and `mesh uninstall` removes all of it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh install --image registry.example/mesh:1.0 | kubectl apply -f -
  mesh install --image registry.example/mesh:1.0 --pod-certificates --peers strict | kubectl apply -f -
  mesh install --image registry.example/mesh:1.0 --chart ./inmesh && helm install inmesh ./inmesh -n mesh-system --create-namespace")]
pub(crate) struct Install {
    #[command(flatten)]
    sidecar: Beside,
    /// How many replicas of the CA run, and how many of the control plane.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=100))]
    replicas: u16,
    /// Have the CA sign Pod certificates and signing requests of the cluster: a user that may create
    /// PodCertificateRequests has every ID then.
    #[arg(long)]
    pod_certificates: bool,
    /// Write a Helm chart into this folder instead, which is made; its values are what the other flags say.
    #[arg(long, value_name = "DIR", conflicts_with = "json")]
    chart: Option<PathBuf>,
    /// Print JSON, a list, instead of YAML.
    #[arg(long)]
    json: bool,
}

impl Install {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut install = Installed::new(self.sidecar.sidecar()?);
        install.replicas = self.replicas;
        install.sign = self.pod_certificates;
        if let Some(dir) = &self.chart {
            write_chart(&install, dir)?;
            return Ok(ExitCode::SUCCESS);
        }
        let all = install.objects();
        if self.json {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": all});
            term::print(&serde_json::to_string_pretty(&list)?);
            return Ok(ExitCode::SUCCESS);
        }
        let texts: Vec<_> = all.iter().map(to_yaml).collect();
        term::print(texts.join("---\n").trim_end());
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes the chart. A folder that has anything else in it stays as it is.
fn write_chart(install: &Installed, dir: &Path) -> anyhow::Result<()> {
    let files = install.chart(env!("CARGO_PKG_VERSION"));
    let at = |path: &str| dir.join(path);
    let there = dir
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some());
    if there && !at("Chart.yaml").is_file() {
        bail!(
            "{} is not empty and has no chart: name another folder",
            dir.display()
        );
    }
    for file in files {
        let path = at(file.path);
        let parent = path.parent().unwrap_or(dir);
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        fs::write(&path, file.text).with_context(|| format!("writing {}", path.display()))?;
    }
    term::print(&format!("the chart is in {}", dir.display()));
    Ok(())
}
