//! `mesh config`: all settings of an agent, those that its file leaves out with their defaults.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use inmesh_discovery::manifest::to_yaml;
use serde_json::Value;

use super::status::At;
use crate::{agent, fetch, term};

/// Of a folder, as an agent would start with it, or of a running agent, as it has started.
///
/// What is printed is an agent's file with every setting written down; nothing in it is secret.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh config                             # of the agent that runs
  mesh config --admin 127.0.0.1:15010 --json
  mesh config --dir /etc/mesh             # of the folder, nothing runs")]
pub(crate) struct Config {
    #[command(flatten)]
    at: At,
    /// The folder with the agent's file; without it, the running agent is asked.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON instead of YAML.
    #[arg(long)]
    json: bool,
}

impl Config {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let settings = match &self.dir {
            Some(dir) => agent::document(&super::agent_of(dir)?),
            None => {
                let asking = fetch::admin(http::Method::GET, &self.at.admin, "/status");
                let status: Value = serde_json::from_str(&super::runtime(None)?.block_on(asking)?)?;
                let settings = status.get("agent").cloned();
                settings.context("a program that embeds the mesh has no agent's file")?
            }
        };
        if self.json {
            term::print(&serde_json::to_string_pretty(&settings)?);
        } else {
            term::print(to_yaml(&settings).trim_end());
        }
        Ok(ExitCode::SUCCESS)
    }
}
