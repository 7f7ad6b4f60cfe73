//! `mesh simulate`: documents under load, in virtual time.

mod chart;
mod svg;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use inmesh_core::simulate::Outcome;
use inmesh_discovery::testing::{Simulation, SimulationReport};
use inmesh_pki::disk;
use serde_json::{Value, json};

use crate::term::{self, Colour};
use crate::world;

/// Puts documents under simulated load while endpoints fail, slow, come and go, and says what callers see.
///
/// A file says which requests come how often, how endpoints behave, what changes when, and what is
/// expected. Time is simulated: ten minutes take seconds, and equal seeds give equal results. The
/// functions that decide live requests decide: routes, balancer, ejection, checks, repeats and their
/// budget, limits. Exits 0 if all came out as expected, 1 if one did not, 2 if a file or its documents
/// cannot be read.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh simulate overload.yaml
  mesh simulate overload.yaml --seed 7 --svg overload.svg
  mesh simulate scenarios/*.yaml --json      # for a CI

A file, of which mesh-cli/docs/simulate.md says more:
  apiVersion: inmesh.dev/v1alpha1
  kind: Simulation
  documents: {folder: deploy}
  duration: 1m
  requests:
  - {request: GET http://cart.shop/items, rate: 1000, callers: 4}
  endpoints:
  - {latencyMillis: 5, p99Millis: 20}
  events:
  - {at: 20s, for: 10s, endpoints: [10.0.0.1], connections: refuse}
  expect:
  - {successAtLeast: 99.9, amplificationAtMost: 1.1}")]
pub(crate) struct Simulate {
    /// The files of simulations.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// What everything is drawn from, in place of what the file says.
    #[arg(long)]
    seed: Option<u64>,
    /// Write a chart of the one simulation to this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What a simulation of a file has come to.
struct Ran {
    file: String,
    report: SimulationReport,
}

impl Simulate {
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

    /// Whether all came out as expected.
    fn all(&self) -> anyhow::Result<bool> {
        let mut simulations = Vec::new();
        for file in &self.files {
            let read = read(file)?.into_iter();
            simulations.extend(read.map(|simulation| (file, simulation)));
        }
        if self.svg.is_some() && simulations.len() != 1 {
            bail!(
                "--svg is for one simulation, and there are {}",
                simulations.len()
            );
        }
        let mut all = Vec::new();
        for (file, simulation) in simulations {
            let simulation = match self.seed {
                Some(seed) => simulation.seeded(seed),
                None => simulation,
            };
            let ran = ran(file, &simulation)?;
            if let Some(to) = &self.svg {
                let text = svg::text(&ran.file, &ran.report.outcome);
                let writing = || format!("writing {}", to.display());
                disk::write_public(to, text.as_bytes()).with_context(writing)?;
            }
            if !self.json {
                ran.print();
            }
            all.push(ran);
        }
        if self.json {
            let shown: Vec<_> = all.iter().map(Ran::shown).collect();
            let shown = json!({ "simulations": shown });
            term::print(&serde_json::to_string_pretty(&shown)?);
        }
        Ok(all.iter().all(|ran| ran.report.is_good()))
    }
}

/// The simulations of a file.
fn read(file: &Path) -> anyhow::Result<Vec<Simulation>> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {name}"))?;
    match Simulation::parse(&name, &text) {
        Ok(found) if found.is_empty() => bail!("{name} holds no simulation"),
        Ok(found) => Ok(found),
        Err(problems) => {
            for problem in &problems {
                term::warn(&problem.to_string());
            }
            bail!("{name} is refused");
        }
    }
}

fn ran(file: &Path, simulation: &Simulation) -> anyhow::Result<Ran> {
    let read = |folder: &str| {
        let dir = file.parent().unwrap_or_else(|| Path::new("")).join(folder);
        world::read(&dir, None).map_err(|error| format!("{error:#}"))
    };
    let name = file.display().to_string();
    let report = simulation.run(read).map_err(anyhow::Error::msg);
    Ok(Ran {
        report: report.with_context(|| name.clone())?,
        file: name,
    })
}

// === impl Ran ===

impl Ran {
    fn print(&self) {
        let SimulationReport {
            outcome,
            met,
            refused,
            problems,
            ..
        } = &self.report;
        for problem in problems {
            term::warn(&problem.to_string());
        }
        for (request, why) in refused {
            term::warn(&format!("{request} is refused at the begin: {why}"));
        }
        summary(&self.file, outcome);
        term::print("");
        for line in chart::lines(outcome) {
            term::print(&line);
        }
        if !met.is_empty() {
            term::print("");
        }
        for met in met {
            let verdict = match met.good {
                true => term::paint(Colour::Green, "ok  "),
                false => term::paint(Colour::Red, "FAIL"),
            };
            term::print(&format!("{verdict} {}", met.line));
        }
    }

    fn shown(&self) -> Value {
        let met = self.report.met.iter();
        let met = met.map(|met| json!({ "ok": met.good, "what": met.line }));
        let refused = self.report.refused.iter();
        let refused = refused.map(|(request, why)| json!({ "request": request, "why": why }));
        json!({
            "file": self.file,
            "outcome": self.report.outcome,
            "expected": met.collect::<Vec<_>>(),
            "refused": refused.collect::<Vec<_>>(),
            "problems": self.report.problems,
        })
    }
}

fn summary(file: &str, outcome: &Outcome) {
    let whole = &outcome.whole;
    let seconds = whole.length().as_secs_f64();
    term::print(&format!("{file}: {seconds} s, seed {}", outcome.seed));
    let line = |name: &str, what: String| term::print(&format!("{name:<14}{what}"));
    let ends = whole.ends.iter();
    let ends: Vec<_> = ends.map(|(end, times)| format!("{end}: {times}")).collect();
    let latency = &whole.latency;
    line(
        "requests",
        format!(
            "{}, {:.3} % succeeded",
            whole.requests, whole.success_percent
        ),
    );
    line("ended", ends.join(", "));
    line(
        "attempts",
        format!(
            "{}, amplification {:.3}",
            whole.attempts, whole.amplification
        ),
    );
    if whole.copies > 0 {
        line("copies", whole.copies.to_string());
    }
    line(
        "latency",
        [
            ("p50", latency.p50_micros),
            ("p90", latency.p90_micros),
            ("p99", latency.p99_micros),
            ("p99.9", latency.p999_micros),
            ("max", latency.max_micros),
        ]
        .map(|(name, micros)| format!("{name} {}", chart::span(micros)))
        .join(", "),
    );
    let (most, of) = outcome.most_ejected;
    let ejected = match whole.ejections {
        0 => "0".into(),
        times => format!("{times}, at most {most} of {of} at once"),
    };
    line("ejections", ejected);
    let panic = outcome
        .timeline
        .iter()
        .filter(|column| column.panic)
        .count();
    if panic > 0 {
        let columns = outcome.timeline.len();
        line("panic", format!("in {panic} of {columns} columns"));
    }
}
