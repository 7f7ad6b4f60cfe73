//! `mesh test`: a user's own cases, decided without a socket.

mod junit;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use inmesh_discovery::testing::{Report, Suite};
use inmesh_pki::clock::Span;
use inmesh_pki::disk;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::term::{self, Colour};
use crate::world;

/// Runs cases of requests and what is expected of them against documents, in milliseconds and without a
/// socket.
///
/// A case has a name, a request, its caller, and what is expected: verdict, status, route, backend, shares
/// over many draws, header fields. Exits 0 if all came out as expected, 1 if one did not, 2 if a file or
/// its documents cannot be read, or a file has no case.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh test cases.yaml
  mesh test tests/*.yaml --junit report.xml      # for a CI
  mesh test cases.yaml --json

A file of cases, of which mesh-cli/docs/testing.md says more:
  apiVersion: inmesh.dev/v1alpha1
  kind: Test
  documents: {folder: deploy}
  cases:
  - name: web may read
    request: GET http://cart/items
    from: spiffe://td.test/ns/shop/sa/web
    expect: {verdict: sent, backend: cart.shop}")]
pub(crate) struct Test {
    /// The files of cases.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Write a report in JUnit's format to this file too.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What became of the cases of a file, and how long they took.
struct Ran {
    file: String,
    report: Report,
    took: Duration,
}

impl Test {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.all() {
            Ok(true) => Ok(ExitCode::SUCCESS),
            Ok(false) => Ok(ExitCode::from(1)),
            Err(error) => {
                term::error(&error);
                Ok(ExitCode::from(2))
            }
        }
    }

    /// Whether all cases came out as expected.
    fn all(&self) -> anyhow::Result<bool> {
        let files = self.files.iter();
        let all: Vec<Ran> = files.map(|file| ran(file)).collect::<Result<_, _>>()?;
        if let Some(to) = &self.junit {
            let text = junit::text(&all);
            let writing = || format!("writing {}", to.display());
            disk::write_public(to, text.as_bytes()).with_context(writing)?;
        }
        if self.json {
            let files: Vec<_> = all.iter().map(Ran::shown).collect();
            term::print(&serde_json::to_string_pretty(&json!({ "files": files }))?);
        } else {
            all.iter().for_each(Ran::print);
        }
        Ok(all.iter().all(|ran| ran.report.is_good()))
    }
}

/// Runs the cases of a file.
fn ran(file: &Path) -> anyhow::Result<Ran> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {name}"))?;
    let suites = match Suite::parse(&name, &text) {
        Ok(suites) => suites,
        Err(problems) => {
            for problem in &problems {
                term::warn(&problem.to_string());
            }
            bail!("{name} is refused");
        }
    };
    if suites.is_empty() {
        bail!("{name} holds no case");
    }
    let (mut report, start) = (Report::default(), Instant::now());
    for suite in suites {
        let read = |folder: &str| {
            let dir = file.parent().unwrap_or_else(|| Path::new("")).join(folder);
            world::read(&dir, None).map_err(|error| format!("{error:#}"))
        };
        let ran = suite.run(read).map_err(anyhow::Error::msg);
        report.add(ran.with_context(|| name.clone())?);
    }
    Ok(Ran {
        file: name,
        report,
        took: start.elapsed(),
    })
}

// === impl Ran ===

impl Ran {
    fn print(&self) {
        for problem in &self.report.problems {
            term::warn(&problem.to_string());
        }
        for case in &self.report.cases {
            let verdict = match case.failures.is_empty() {
                true => term::paint(Colour::Green, "ok  "),
                false => term::paint(Colour::Red, "FAIL"),
            };
            term::print(&format!("{verdict} {} ({})", case.name, case.place));
            for failure in &case.failures {
                term::print(&format!("     {failure}"));
            }
        }
        let (file, cases, failed) = (&self.file, self.report.cases.len(), self.report.failed());
        let took = Span(self.took);
        term::print(&format!("{file}: {cases} cases, {failed} failed, {took}"));
    }

    fn shown(&self) -> Value {
        let cases = self.report.cases.iter().map(|case| {
            json!({
                "name": case.name,
                "place": case.place.to_string(),
                "ok": case.failures.is_empty(),
                "failures": case.failures,
            })
        });
        json!({
            "file": self.file,
            "cases": cases.collect::<Vec<_>>(),
            "failed": self.report.failed(),
            "problems": self.report.problems,
            "milliseconds": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
        })
    }
}
