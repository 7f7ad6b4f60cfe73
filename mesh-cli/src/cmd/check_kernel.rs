//! `mesh kernel`: the feature probe.

use std::process::ExitCode;

use clap::Args;

use crate::term;

/// Exits 0 whatever it finds: nothing that runs today needs these features.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh kernel
  mesh kernel --json")]
pub(crate) struct Kernel {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Kernel {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let report = inmesh_ebpf::probe();
        if self.json {
            term::print(&serde_json::to_string_pretty(&report)?);
        } else {
            term::print(report.to_string().trim_end());
        }
        Ok(ExitCode::SUCCESS)
    }
}
