//! `mesh validate`: what an agent would say of a folder, without running one.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use inmesh_core::authorize::DefaultAction;
use inmesh_core::model::Workload;
use inmesh_core::snapshot::{Serving, Settings, Severity, Snapshot};
use inmesh_discovery::file::FileSource;
use serde_json::json;

use super::status::problem_line;
use crate::{agent, term};

/// Exits 1 if anything is refused or dangles, 0 if all is well.
#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// The folder.
    dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Validate {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut problems = Vec::new();
        // Without an agent file the documents are read as the strictest agent would.
        let (workload, action, defaults) = match agent::find(&self.dir)? {
            agent::Found::Agent(agent) => {
                let defaults = agent.defaults();
                (agent.workload, agent.default_action, defaults)
            }
            agent::Found::Refused(refused) => {
                problems.extend(refused);
                fallback()?
            }
            agent::Found::None => fallback()?,
        };
        let (change, _) = FileSource::read_once(&self.dir, &defaults)
            .with_context(|| format!("reading {}", self.dir.display()))?;
        let snapshot = Snapshot::new(Settings::new(workload, action)).apply(change);
        let status = snapshot.status();
        let objects = status.len();
        let mut bad = !problems.is_empty();
        let mut rows: Vec<_> = problems
            .iter()
            .map(|p| json!({"object": "Agent", "problem": p}))
            .collect();
        for object in &status {
            bad |= object.serving != Serving::Current || !object.problems.is_empty();
            rows.extend(
                object
                    .problems
                    .iter()
                    .map(|p| json!({"object": object.object, "problem": p})),
            );
        }
        if self.json {
            let out = json!({"valid": !bad, "objects": objects, "problems": rows});
            term::print(&serde_json::to_string_pretty(&out)?);
        } else {
            for row in &rows {
                let object = row["object"].as_str().unwrap_or_default();
                term::print(&format!("{object}: {}", problem_line(&row["problem"])));
            }
            let refused = status
                .iter()
                .flat_map(|o| &o.problems)
                .chain(&problems)
                .filter(|p| p.severity == Severity::Refused)
                .count();
            term::print(&format!(
                "{objects} objects, {refused} problems that refuse one, {} warnings",
                rows.len() - refused
            ));
        }
        Ok(if bad {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

fn fallback() -> anyhow::Result<(
    Workload,
    DefaultAction,
    inmesh_discovery::manifest::Defaults,
)> {
    let workload = Workload::new("default", "validate", "default")?;
    let defaults = agent::strict_defaults(&workload);
    Ok((workload, DefaultAction::Deny, defaults))
}
