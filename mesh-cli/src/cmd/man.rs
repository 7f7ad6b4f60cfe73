//! `mesh man`: the manual pages of all commands.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory};
use inmesh_pki::disk;

use crate::term;

/// One page for each command: mesh.1, mesh-proxy.1, mesh-ca-serve.1 and so on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh man --out /usr/local/share/man/man1
  mesh man --out . && man ./mesh-status.1")]
pub(crate) struct Man {
    /// The folder to write them to; made if needed.
    #[arg(long, value_name = "DIR", required_unless_present = "once")]
    out: Option<PathBuf>,
    /// The folder, as it was given before.
    #[arg(value_name = "DIR", hide = true, conflicts_with = "out")]
    once: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let out = super::folder(self.out, self.once)?;
        let writing = || format!("writing manual pages to {}", out.display());
        std::fs::create_dir_all(&out).with_context(writing)?;
        // Its writer follows links, so it writes to a folder of its own.
        let made = tempfile::tempdir().with_context(writing)?;
        clap_mangen::generate_to(crate::Cli::command(), made.path()).with_context(writing)?;
        for page in std::fs::read_dir(made.path()).with_context(writing)? {
            let page = page.with_context(writing)?;
            let text = std::fs::read(page.path()).with_context(writing)?;
            disk::write_public(&out.join(page.file_name()), &text).with_context(writing)?;
        }
        term::print(&format!("wrote the manual pages to {}", out.display()));
        Ok(ExitCode::SUCCESS)
    }
}
