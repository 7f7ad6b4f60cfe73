//! `mesh man`: the manual pages of all commands.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory};

use crate::term;

/// One page for each command: mesh.1, mesh-proxy.1, mesh-ca-serve.1 and so on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh man /usr/local/share/man/man1
  mesh man . && man ./mesh-status.1")]
pub(crate) struct Man {
    /// The folder to write them to; made if needed.
    dir: PathBuf,
}

impl Man {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let writing = || format!("writing manual pages to {}", self.dir.display());
        std::fs::create_dir_all(&self.dir).with_context(writing)?;
        clap_mangen::generate_to(crate::Cli::command(), &self.dir).with_context(writing)?;
        term::print(&format!("wrote the manual pages to {}", self.dir.display()));
        Ok(ExitCode::SUCCESS)
    }
}
