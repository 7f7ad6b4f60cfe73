//! `mesh completions`: for bash, zsh, fish and others.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  source <(mesh completions bash)
  mesh completions fish > ~/.config/fish/completions/mesh.fish")]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::Cli::command(), "mesh", &mut script);
        // A reader that has gone wants no more of it.
        let _gone = std::io::stdout().write_all(&script);
        Ok(ExitCode::SUCCESS)
    }
}
