//! `mesh crds`: the CustomResourceDefinitions of our own kinds.

use std::process::ExitCode;

use clap::Args;
use inmesh_discovery::manifest::{definitions, to_yaml};
use serde_json::json;

use crate::term;

/// Prints the CustomResourceDefinitions of AuthorizationPolicy, ServiceEntry and TrafficPolicy of inmesh.dev.
///
/// Their schemas have the fields that this binary reads, so that an API server refuses all others.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh crds | kubectl apply --server-side -f -
  mesh crds --json | jq '.items[].metadata.name'")]
pub(crate) struct Crds {
    /// Print JSON, a list, instead of YAML.
    #[arg(long)]
    json: bool,
}

impl Crds {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let all = definitions();
        if self.json {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": all});
            term::print(&serde_json::to_string_pretty(&list)?);
            return Ok(ExitCode::SUCCESS);
        }
        let texts: Vec<_> = all.iter().map(to_yaml).collect();
        term::print(texts.join("---\n").trim_end());
        Ok(ExitCode::SUCCESS)
    }
}
