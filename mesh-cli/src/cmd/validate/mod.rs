//! `mesh validate`: what an agent would say of a folder, without running one.

mod seen;
mod start;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use inmesh_core::authorize::DefaultAction;
use inmesh_core::model::{Namespace, ObjectKey, Workload};
use inmesh_core::snapshot::{Location, Problem, Settings, Severity, Snapshot};
use inmesh_discovery::file::FileSource;
use inmesh_discovery::manifest::{Defaults, Merged};
use inmesh_pki::TrustDomain;
use serde_json::{Value, json};

use super::status::problem_line;
use crate::agent::Agent;
use crate::fetch::AdminAddress;
use crate::{agent, fetch, term, world};

/// Says what an agent, or a program that embeds the mesh, would make of a folder.
///
/// Exits 1 if anything is refused, or would keep the agent from starting or from being ready, 0
/// otherwise; with --strict warnings exit 1 too.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh validate --dir /etc/mesh              what `mesh proxy --dir /etc/mesh` would say
  mesh validate --strict --json --dir deploy   for CI: warnings fail too
  mesh validate --dir /etc/mesh --admin localhost:15000   and what its agent has seen
  mesh validate --embedded --namespace shop --dir documents   a folder of `FileSource`")]
pub(crate) struct Validate {
    /// The folder.
    #[arg(long, value_name = "DIR", required_unless_present = "once")]
    dir: Option<PathBuf>,
    /// The folder, as it was given before.
    #[arg(value_name = "DIR", hide = true, conflicts_with = "dir")]
    once: Option<PathBuf>,
    /// Exit 1 for warnings too.
    #[arg(long)]
    strict: bool,
    /// Check the folder of a program that embeds the mesh: it needs no document of kind Agent.
    #[arg(long)]
    embedded: bool,
    /// The namespace of documents that name none, for --embedded.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "default",
        requires = "embedded"
    )]
    namespace: String,
    /// A foreign trust domain whose bundle the program trusts, for --embedded; may be repeated.
    #[arg(long, value_name = "TRUST-DOMAIN", requires = "embedded")]
    federated: Vec<TrustDomain>,
    /// Endpoints may have loopback addresses, for --embedded.
    #[arg(long, requires = "embedded")]
    loopback: bool,
    /// A running agent, as HOST:PORT or http://HOST:PORT, which is asked what it has seen of ports that
    /// are not declared: those whose server speaks first are named.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<AdminAddress>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What is said of one object, or of the folder.
struct Row {
    object: String,
    problem: Problem,
}

/// All that is said, and of how much.
struct Findings {
    rows: Vec<Row>,
    objects: usize,
    merged: Merged,
}

impl Validate {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let dir = super::folder(self.dir.clone(), self.once.clone())?;
        let findings = self.find(&dir)?;
        let count = |severity| {
            let of = findings.rows.iter().map(|row| row.problem.severity);
            of.filter(|s| *s == severity).count()
        };
        let refused = count(Severity::Refused);
        let warnings = count(Severity::Warning);
        let valid = refused == 0 && (warnings == 0 || !self.strict);
        if self.json {
            let row = |row: &Row| json!({"object": row.object, "problem": row.problem});
            let rows: Vec<_> = findings.rows.iter().map(row).collect();
            let skipped = &findings.merged.skipped;
            let skipped: serde_json::Map<_, _> = skipped
                .iter()
                .map(|(kind, count)| (kind.to_string(), Value::from(*count)))
                .collect();
            let out = json!({
                "valid": valid, "objects": findings.objects, "problems": rows, "skipped": skipped,
            });
            term::print(&serde_json::to_string_pretty(&out)?);
        } else {
            for row in &findings.rows {
                let problem = serde_json::to_value(&row.problem)?;
                term::print(&format!("{}: {}", row.object, problem_line(&problem)));
            }
            for (kind, count) in &findings.merged.skipped {
                term::print(&format!(
                    "skipped: {count} of kind {kind}, for other programs"
                ));
            }
            term::print(&format!(
                "{} objects, {refused} problems that refuse one, {warnings} warnings",
                findings.objects
            ));
        }
        Ok(if valid {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn find(&self, dir: &Path) -> anyhow::Result<Findings> {
        let mut rows = Vec::new();
        let mut say = |problem| {
            rows.push(Row {
                object: agent::KIND.into(),
                problem,
            });
        };
        let mut running = None;
        // Without an agent's file the documents are read as the strictest agent would.
        let (settings, defaults, agent) = match agent::find(dir)? {
            agent::Found::Agent(agent) if !self.embedded => {
                start::problems(&agent)?.into_iter().for_each(&mut say);
                let read = (world::settings(&agent), agent.defaults(), true);
                running = Some(agent);
                read
            }
            agent::Found::Refused(refused) if !self.embedded => {
                refused.into_iter().for_each(&mut say);
                let (settings, defaults) = self.without_agent()?;
                (settings, defaults, true)
            }
            _ => {
                let (settings, defaults) = self.without_agent()?;
                (settings, defaults, self.embedded)
            }
        };
        let merged = FileSource::read_once(dir, &defaults)
            .with_context(|| format!("reading {}", dir.display()))?;
        let snapshot = Snapshot::new(settings).apply(merged.change.clone());
        let (seen, spoken) = self.seen(&merged, running.as_deref())?;
        spoken.into_iter().for_each(&mut say);
        let status = snapshot.status();
        // A route for gateways is read, and left to them with a note.
        if !agent {
            say(without(
                dir,
                status.is_empty() && merged.problems.is_empty(),
            ));
        }
        for object in &status {
            // What dangles is found in the snapshot, which knows no lines.
            let mut places = merged.places.iter();
            let place = places.find(|(key, _)| key.to_string() == object.object);
            for problem in &object.problems {
                let mut problem = problem.clone();
                if let (None, Some((_, place))) = (&problem.location, place) {
                    problem.location = Some(place.clone());
                }
                rows.push(Row {
                    object: object.object.clone(),
                    problem,
                });
            }
        }
        let notes = merged.problems.iter();
        // One on an object that was applied or refused stands there already.
        let stands = |problem: &Problem| rows.iter().any(|row| row.problem == *problem);
        let notes = notes.filter(|problem| problem.severity == Severity::Note);
        let notes = notes.filter(|problem| !stands(problem)).map(|problem| Row {
            object: "note".into(),
            problem: problem.clone(),
        });
        let notes: Vec<_> = notes.collect();
        rows.extend(notes);
        let placed = start::roots(&merged).into_iter().chain(seen);
        rows.extend(placed.map(|(key, problem)| Row {
            object: key.to_string(),
            problem,
        }));
        Ok(Findings {
            rows,
            objects: status.len(),
            merged,
        })
    }

    /// What a running agent has seen: of objects, and of its own listeners.
    fn seen(&self, merged: &Merged, running: Option<&Agent>) -> anyhow::Result<Seen> {
        let Some(admin) = &self.admin else {
            return Ok(Default::default());
        };
        let status = status_of(admin)?;
        let listeners = running.map(|agent| seen::first_listeners(&status, agent));
        let ports = seen::first_speakers(&status, merged);
        Ok((ports, listeners.unwrap_or_default()))
    }

    fn without_agent(&self) -> anyhow::Result<(Settings, Defaults)> {
        let namespace = Namespace::new(&self.namespace)?;
        let workload = Workload::new(namespace.as_str(), "validate", "default")?;
        let defaults = agent::strict_defaults(&workload).loopback(self.loopback);
        let others = self.federated.iter();
        let defaults = others.fold(defaults, |defaults, other| {
            defaults.federate(other.as_str())
        });
        Ok((Settings::new(workload, DefaultAction::Deny), defaults))
    }
}

/// Problems of objects, and of the agent's own listeners.
type Seen = (Vec<(ObjectKey, Problem)>, Vec<Problem>);

/// That a folder has no Agent: a folder with other documents may be one that lost it.
fn without(dir: &Path, nothing: bool) -> Problem {
    let message = "the folder holds no document of this kind";
    let missing = match nothing {
        true => Problem::refused("", format!("{message}, and no other for the mesh")),
        false => Problem::warning(
            "",
            format!(
                "{message}, without which no agent starts; the folder of a program that embeds the \
                 mesh is checked with --embedded"
            ),
        ),
    };
    missing.at(Location::new(&*dir.to_string_lossy(), 1))
}

/// What a running agent says of itself.
fn status_of(agent: &AdminAddress) -> anyhow::Result<Value> {
    let asked = fetch::admin(http::Method::GET, agent, "/status");
    Ok(serde_json::from_str(
        &super::runtime(None)?.block_on(asked)?,
    )?)
}
