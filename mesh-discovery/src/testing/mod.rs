//! Documents under test: what would become of requests, in milliseconds and without a socket.
//!
//! In come documents and questions, or a file of cases; out come explanations by the functions that
//! decide live requests ([`inmesh_core::explain`]), or a report of what came out otherwise.
//!
//! ```
//! use inmesh_discovery::testing::Suite;
//!
//! let file = "
//! apiVersion: inmesh.dev/v1alpha1
//! kind: Test
//! documents:
//!   inline: |
//!     {apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 80}]}}
//! cases:
//! - name: a cart without endpoints cannot be reached
//!   request: GET http://cart/
//!   expect: {verdict: refused, status: 503, reason: no-endpoint}
//! ";
//! let suite = &Suite::parse("cases.yaml", file).expect("it is read")[0];
//! let report = suite.run(|_| Err("no folder is read here".into())).expect("they are read");
//! assert!(report.is_good(), "{report}");
//! ```

mod cases;
mod diff;
mod requests;
mod run;
#[cfg(feature = "simulate")]
mod simulation;
mod world;

pub use cases::{API_VERSION, Case, Documents, Expect, KIND, Shares, Suite};
pub use diff::{Changed, Diff, Refused, diff};
pub use requests::Requests;
pub use run::{CaseReport, Report};
#[cfg(feature = "simulate")]
#[cfg_attr(docsrs, doc(cfg(feature = "simulate")))]
pub use simulation::{Expected, Met, SIMULATION, Simulation, SimulationReport};
pub use world::World;

#[cfg(feature = "file")]
use crate::manifest::Defaults;

// === impl Suite ===

impl Suite {
    /// Runs all cases. `read` reads a folder of documents, named as the file names it.
    ///
    /// # Errors
    ///
    /// Why the documents cannot be read. Documents that are refused are left out, as an agent leaves
    /// them out.
    pub fn run(&self, read: impl FnOnce(&str) -> Result<World, String>) -> Result<Report, String> {
        let world = self.documents.world(self.trust_domain.as_ref(), read)?;
        let cases = self.cases.iter().map(|case| world.run(case));
        Ok(Report {
            cases: cases.collect(),
            problems: world.problems().to_vec(),
        })
    }
}

/// Runs the cases of a file, for a `#[test]`: `assert!(report.is_good(), "{report}")`. A folder is read
/// as a program that embeds the mesh reads it, with `defaults`.
///
/// # Errors
///
/// Why the file or its documents cannot be read, a line for each problem.
#[cfg(feature = "file")]
pub fn run_file(file: impl AsRef<std::path::Path>, defaults: &Defaults) -> Result<Report, String> {
    let file = file.as_ref();
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|e| format!("{name}: {e}"))?;
    let lines = |problems: Vec<inmesh_core::snapshot::Problem>| {
        let lines = problems.iter().map(ToString::to_string);
        lines.collect::<Vec<_>>().join("\n")
    };
    let mut report = Report::default();
    for suite in Suite::parse(&name, &text).map_err(lines)? {
        let read = |folder: &str| {
            let dir = file
                .parent()
                .unwrap_or_else(|| std::path::Path::new("."))
                .join(folder);
            World::from_folder(&dir, defaults).map_err(|e| format!("{}: {e}", dir.display()))
        };
        report.add(suite.run(read)?);
    }
    Ok(report)
}

#[cfg(test)]
mod tests;
