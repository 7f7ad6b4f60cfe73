//! `mesh inject`: documents in, the same with the mesh beside each Pod out.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use inmesh_core::model::Namespace;
use inmesh_discovery::inject::{Injected, inject};
use inmesh_discovery::manifest::strict::documents;
use inmesh_discovery::manifest::to_yaml;

use super::beside::Beside;
use crate::term;

/// The most bytes that are read of a file, or of standard input: that of the reader of documents.
const MAX: u64 = inmesh_discovery::manifest::strict::FILE_BYTES as u64;

/// Reads documents and prints them with an agent as a native sidecar of each Pod, of a workload's template
/// or a Pod itself; all else is printed as it is.
///
/// A Pod with the label `inmesh.dev/inject: disabled`, or in the network of its node, is left as it is.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh inject -f cart.yaml --image registry.example/mesh:1.0 | kubectl apply -f -
  kubectl get deployment cart -o yaml | mesh inject -f - --image registry.example/mesh:1.0 | kubectl apply -f -")]
pub(crate) struct Inject {
    /// A file with documents; may be repeated. `-` is standard input.
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The namespace of documents that name none.
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    sidecar: Beside,
}

impl Inject {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let namespace = Namespace::new(&self.namespace).context("--namespace")?;
        let sidecar = self.sidecar.sidecar()?;
        let mut texts = Vec::new();
        let mut refused = false;
        for file in &self.files {
            let (name, text) = read(file)?;
            for document in documents(&name, &text)? {
                let mut value = document.to_value();
                let at = document.place("");
                match inject(&mut value, &sidecar, &namespace) {
                    Ok(Injected::Declined(why)) => {
                        term::warn(&format!("{at}: is left as it is: {why}"));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        term::warn(&format!("{}: {error}", document.place(&error.field)));
                        refused = true;
                    }
                }
                texts.push(to_yaml(&value));
            }
        }
        if refused {
            // Half of it would be applied, in plaintext.
            bail!("nothing is printed: a workload cannot have the mesh beside it as it is written");
        }
        term::print(texts.join("---\n").trim_end());
        Ok(ExitCode::SUCCESS)
    }
}

/// The text of a file, and its name in messages.
fn read(file: &Path) -> anyhow::Result<(String, String)> {
    let mut text = String::new();
    let name = if file == Path::new("-") {
        std::io::stdin().take(MAX + 1).read_to_string(&mut text)?;
        "standard input".to_owned()
    } else {
        let opened = std::fs::File::open(file);
        let opened = opened.with_context(|| format!("reading {}", file.display()))?;
        opened.take(MAX + 1).read_to_string(&mut text)?;
        file.display().to_string()
    };
    Ok((name, text))
}
