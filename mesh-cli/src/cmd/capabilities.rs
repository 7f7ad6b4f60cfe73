//! `mesh capabilities`: what becomes of each field of each kind of document.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use inmesh_discovery::manifest::{Capability, capabilities};
use serde_json::json;

use crate::term;

/// Says of each field of each kind of document whether it is used, ignored or refused.
///
/// The readers of documents are asked for it, so this binary does what it says. A field that is not listed
/// is not known: it refuses its object, or is warned of in a Service or EndpointSlice.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh capabilities
  mesh capabilities HTTPRoute TrafficPolicy
  mesh capabilities --json | jq '.kinds[] | {kind, api_versions}'")]
pub(crate) struct Capabilities {
    /// The kinds; without one, all.
    #[arg(value_name = "KIND")]
    kinds: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Capabilities {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut all = capabilities();
        let same = |kind: &Capability, name: &str| kind.kind.eq_ignore_ascii_case(name);
        for name in &self.kinds {
            if !all.iter().any(|kind| same(kind, name)) {
                let known: Vec<_> = all.iter().map(|kind| &*kind.kind).collect();
                bail!(
                    "the kind {name} is not read; these are: {}",
                    known.join(", ")
                );
            }
        }
        all.retain(|kind| self.kinds.is_empty() || self.kinds.iter().any(|name| same(kind, name)));
        if self.json {
            let kinds: Vec<_> = all.iter().map(shown).collect();
            term::print(&serde_json::to_string_pretty(&json!({ "kinds": kinds }))?);
            return Ok(ExitCode::SUCCESS);
        }
        for (n, kind) in all.iter().enumerate() {
            if n > 0 {
                term::print("");
            }
            term::print(&format!("{} ({})", kind.kind, kind.api_versions.join(", ")));
            let rows = kind.fields.iter().map(|field| {
                let place = match &*field.place {
                    "" => "-".to_owned(),
                    place => place.to_owned(),
                };
                vec![place, field.name.clone(), field.what.as_str().into()]
            });
            term::print(&term::table(&["IN", "FIELD", "WHAT"], rows));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn shown(kind: &Capability) -> serde_json::Value {
    let fields = kind
        .fields
        .iter()
        .map(|field| json!({ "in": field.place, "name": field.name, "what": field.what.as_str() }));
    json!({
        "kind": kind.kind,
        "api_versions": kind.api_versions,
        "fields": fields.collect::<Vec<_>>(),
    })
}
