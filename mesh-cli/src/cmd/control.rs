//! `mesh control`: the control plane, an agent that hands on what it knows.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use super::proxy::Run;

/// Runs until SIGTERM or SIGINT, and goes down in order: its subscribers go on with another replica.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh control --dir /etc/mesh/control
  mesh control --dir /etc/mesh/control --log inmesh_discovery=debug,info --log-format json")]
pub(crate) struct Control {
    #[command(flatten)]
    run: Run,
}

impl Control {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let agent = super::agent_of(self.run.dir())?;
        if agent.followed.control_plane.is_none() {
            bail!("the agent's file does not say controlPlane: see `mesh-cli/docs/control.md`");
        }
        self.run.agent(agent)
    }
}
