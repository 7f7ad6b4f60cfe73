//! A folder of documents as the commands see it that answer questions: read as its agent reads it, or,
//! without an agent's file, as a program that embeds the mesh may.

use std::path::Path;

use anyhow::{Context, bail};
use inmesh_core::authorize::DefaultAction;
use inmesh_core::model::{Namespace, Workload};
use inmesh_core::snapshot::Settings;
use inmesh_core::traffic::Traffic;
use inmesh_discovery::file::FileSource;
use inmesh_discovery::manifest::Defaults;
use inmesh_discovery::testing::World;

use crate::agent::{self, Agent};
use crate::term;

/// Reads a folder.
///
/// # Errors
///
/// If it cannot be listed, its agent's file is refused, or it holds no document at all.
pub(crate) fn read(dir: &Path) -> anyhow::Result<World> {
    let (settings, defaults) = match agent::find(dir)? {
        agent::Found::Agent(agent) => (settings(&agent), agent.defaults()),
        agent::Found::Refused(problems) => {
            for problem in problems {
                term::warn(&problem.to_string());
            }
            bail!("the agent's file in {} is refused", dir.display());
        }
        agent::Found::None(_) => without_agent()?,
    };
    let merged = FileSource::read_once(dir, &defaults);
    let merged = merged.with_context(|| format!("reading {}", dir.display()))?;
    if merged.change.ops.is_empty() {
        bail!("{} holds no document for the mesh", dir.display());
    }
    Ok(World::new(&merged, settings))
}

/// What an agent starts with.
pub(crate) fn settings(agent: &Agent) -> Settings {
    let mut settings = Settings::new(agent.workload.clone(), agent.default_action);
    settings.mesh_namespace.clone_from(&agent.mesh_namespace);
    settings.paths = agent.paths;
    settings.outbound = agent.outbound;
    settings.locality = agent.locality.clone();
    settings.traffic = Traffic::built(Default::default(), agent.eject).into();
    settings
}

/// How documents are read where there is no agent: nothing is allowed by default, and loopback addresses
/// are, as in tests.
fn without_agent() -> anyhow::Result<(Settings, Defaults)> {
    let namespace = Namespace::new("default")?;
    let workload = Workload::new(namespace.as_str(), "caller", "default")?;
    let defaults = agent::strict_defaults(&workload).loopback(true);
    Ok((Settings::new(workload, DefaultAction::Deny), defaults))
}
