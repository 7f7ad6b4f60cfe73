//! A folder of documents as the commands see it that answer questions: read as its agent reads it, or,
//! without an agent's file, as a program that embeds the mesh may.

use std::path::Path;

use anyhow::{Context, bail};
use inmesh_core::authorize::DefaultAction;
use inmesh_core::model::{Namespace, Workload};
use inmesh_core::snapshot::Settings;
use inmesh_core::traffic::Traffic;
use inmesh_discovery::file::FileSource;
use inmesh_discovery::manifest::{Defaults, Merged};
use inmesh_discovery::testing::World;
use inmesh_pki::TrustDomain;
use inmesh_pki::issue::dev::DevCa;
use inmesh_pki::svid::id_in_pem;

use crate::agent::{self, Agent, Identity};
use crate::term;

/// How a folder is read: as which workload, with what its agent says, and of which trust domain.
struct Reading {
    settings: Settings,
    defaults: Defaults,
    own: Result<TrustDomain, String>,
}

/// Reads a folder. `said` is the trust domain of its workload, where a flag says it.
///
/// # Errors
///
/// If it cannot be listed, its agent's file is refused or is of another trust domain, or it holds no
/// document at all.
pub(crate) fn read(dir: &Path, said: Option<&TrustDomain>) -> anyhow::Result<World> {
    let reading = Reading::of(dir)?;
    let merged = FileSource::read_once(dir, &reading.defaults);
    let merged = merged.with_context(|| format!("reading {}", dir.display()))?;
    check(&merged, dir)?;
    reading.world(said, |settings| World::new(&merged, settings))
}

/// Reads a folder as an edit of another one, whose agent runs: of what is refused, the last good version
/// serves on. Its agent's file counts as after a restart.
///
/// # Errors
///
/// As [`read`].
pub(crate) fn read_edit(
    before: &Path,
    dir: &Path,
    said: Option<&TrustDomain>,
) -> anyhow::Result<World> {
    let reading = Reading::of(dir)?;
    let read = FileSource::read_edit(before, dir, &reading.defaults);
    let [before, after] = read.with_context(|| format!("reading {}", dir.display()))?;
    check(&after, dir)?;
    reading.world(said, |settings| World::edited(&before, &after, settings))
}

fn check(merged: &Merged, dir: &Path) -> anyhow::Result<()> {
    if merged.change.ops.is_empty() {
        bail!("{} holds no document for the mesh", dir.display());
    }
    Ok(())
}

// === impl Reading ===

impl Reading {
    fn of(dir: &Path) -> anyhow::Result<Self> {
        match agent::find(dir)? {
            agent::Found::Agent(agent) => Ok(Self {
                settings: settings(&agent),
                defaults: agent.defaults(),
                own: of_agent(&agent),
            }),
            agent::Found::Refused(problems) => {
                for problem in problems {
                    term::warn(&problem.to_string());
                }
                bail!("the agent's file in {} is refused", dir.display());
            }
            agent::Found::None(_) => without_agent(),
        }
    }

    fn world(
        self,
        said: Option<&TrustDomain>,
        of: impl FnOnce(Settings) -> World,
    ) -> anyhow::Result<World> {
        let world = of(self.settings).of_trust_domain(self.own);
        match said {
            None => Ok(world),
            Some(said) => world.said_to_be_of(said).map_err(anyhow::Error::msg),
        }
    }
}

/// The trust domain that an agent will be of, by its file and what that names; `Err` is why it is not
/// known.
fn of_agent(agent: &Agent) -> Result<TrustDomain, String> {
    match &agent.identity {
        Identity::Ca { ca, .. } => Ok(ca.trust_domain().clone()),
        Identity::DevelopmentCa { dir, .. } => {
            DevCa::trust_domain_in(dir).map_err(|error| format!("{:#}", anyhow::Error::from(error)))
        }
        Identity::Files { certificate, .. }
        | Identity::PodCertificate {
            chain: certificate, ..
        } => {
            let read = || -> anyhow::Result<_> {
                let text = std::fs::read(certificate)?;
                Ok(id_in_pem(&text)?.trust_domain().clone())
            };
            let at = || format!("reading {}", certificate.display());
            read()
                .with_context(at)
                .map_err(|error| format!("{error:#}"))
        }
        Identity::WorkloadApi(_) => Err("the agent gets it from a Workload API".into()),
    }
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
fn without_agent() -> anyhow::Result<Reading> {
    let namespace = Namespace::new("default")?;
    let workload = Workload::new(namespace.as_str(), "caller", "default")?;
    let defaults = agent::strict_defaults(&workload).loopback(true);
    Ok(Reading {
        settings: Settings::new(workload, DefaultAction::Deny),
        defaults,
        own: Err("the folder has no agent's file".into()),
    })
}
