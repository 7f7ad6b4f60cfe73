//! `mesh uninstall`: a mesh out of its cluster.

use std::io::{IsTerminal, Write, stderr, stdin};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use inmesh_core::model::Namespace;
use inmesh_discovery::kube::{Removal, Removed};
use inmesh_discovery::layout;
use serde_json::json;

use crate::{agent, term};

/// How many of a kind of names are printed.
const SHOWN: usize = 10;

/// Removes all that `mesh install` has brought into a cluster, and all that the mesh has made since: roots,
/// keys, Leases, entries in the statuses of routes, the definitions of our kinds with their objects.
///
/// Before that it says what goes, and asks. It refuses while Pods have the mesh beside them, since their
/// certificates end without a CA: take the label inmesh.dev/inject off their Namespaces and restart them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh uninstall --dry-run
  kubectl label namespace shop inmesh.dev/inject- && kubectl rollout restart deployment -n shop && mesh uninstall")]
pub(crate) struct Uninstall {
    /// The kubeconfig file [default: as kubectl finds it].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A context of that file, instead of its current one.
    #[arg(long, requires = "kubeconfig")]
    context: Option<String>,
    /// The namespace of the CA and the control plane.
    #[arg(long, value_name = "NAMESPACE", default_value = layout::SYSTEM)]
    system_namespace: String,
    /// Say what would go, and end.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Go ahead although Pods have the mesh beside them, or Helm has installed it.
    #[arg(long)]
    force: bool,
    /// Print JSON: what goes, or has gone.
    #[arg(long)]
    json: bool,
}

impl Uninstall {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        super::runtime(None)?.block_on(self.uninstall())
    }

    async fn uninstall(self) -> anyhow::Result<ExitCode> {
        let home = Namespace::new(&self.system_namespace).context("--system-namespace")?;
        let cluster = agent::cluster(self.kubeconfig.as_deref(), self.context.as_deref()).await?;
        let removal = Removal::look(&cluster, &home).await;
        let removal = removal.with_context(|| cluster.server().to_owned())?;
        if removal.objects.is_empty() {
            self.say(
                &removal,
                &format!("{} has nothing of a mesh", cluster.server()),
            );
            return Ok(ExitCode::SUCCESS);
        }
        if self.dry_run {
            let all: Vec<_> = removal.objects.iter().map(line).collect();
            self.say(&removal, &all.join("\n"));
        }
        warn(&removal);
        self.refuse(&removal)?;
        if self.dry_run {
            return Ok(ExitCode::SUCCESS);
        }
        if !self.yes && !confirmed(cluster.server(), removal.objects.len())? {
            bail!("nothing is removed");
        }
        let removed = removal.remove(|object| {
            let _gone = writeln!(stderr(), "{}", line(object));
        });
        removed
            .await
            .context("begin again once its cause is gone")?;
        let left = removal.left().await?;
        if !left.is_empty() {
            bail!("still there after two minutes: {}", left.join(", "));
        }
        self.say(&removal, "the cluster has nothing of the mesh");
        Ok(ExitCode::SUCCESS)
    }

    /// What keeps it from going ahead.
    fn refuse(&self, removal: &Removal) -> anyhow::Result<()> {
        if self.force {
            return Ok(());
        }
        if let Some(release) = &removal.helm {
            bail!(
                "Helm has installed it: `helm uninstall` the release {release}, then run this for what that leaves (or --force)"
            );
        }
        if !removal.injected.is_empty() {
            bail!(
                "these Pods would lose their CA: take the label {} off their Namespaces and restart them first (or --force)",
                layout::INJECT
            );
        }
        Ok(())
    }

    fn say(&self, removal: &Removal, text: &str) {
        if !self.json {
            return term::print(text);
        }
        let names: Vec<_> = removal.objects.iter().map(ToString::to_string).collect();
        let all = json!({
            "objects": names, "lost": removal.lost, "injected": removal.injected,
            "helm": removal.helm, "namespaceStays": removal.stays, "removed": !self.dry_run,
        });
        term::print(&all.to_string());
    }
}

fn line(object: &Removed) -> String {
    if object.stays() {
        format!("{object}: what the mesh wrote there goes")
    } else {
        format!("{object} goes")
    }
}

/// Says what an operator may not expect.
fn warn(removal: &Removal) {
    let some = |names: &[String]| {
        let more = names.len().saturating_sub(SHOWN);
        let mut text = names
            .iter()
            .take(SHOWN)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        if more > 0 {
            text += &format!(" and {more} more");
        }
        text
    };
    if !removal.lost.is_empty() {
        term::warn(&format!(
            "with their definitions go {}",
            some(&removal.lost)
        ));
    }
    if !removal.injected.is_empty() {
        term::warn(&format!("the mesh is beside {}", some(&removal.injected)));
    }
    if let Some(why) = &removal.stays {
        term::warn(&format!("the Namespace of the mesh stays: {why}"));
    }
    if removal
        .objects
        .iter()
        .any(|one| one.to_string().starts_with("Secret "))
    {
        term::warn(
            "the keys of the CA go too: no certificate of this mesh proves anything to a later one",
        );
    }
}

/// Asks, where there is a terminal to ask at.
fn confirmed(server: &str, objects: usize) -> anyhow::Result<bool> {
    if !stdin().is_terminal() {
        bail!("nothing is removed: say --yes where there is no terminal to ask at");
    }
    let _gone = write!(stderr(), "Remove {objects} objects from {server}? [y/N] ");
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}
