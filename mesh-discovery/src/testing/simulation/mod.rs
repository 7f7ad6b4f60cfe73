//! Documents under simulated load: a file of requests, of what goes wrong, and of what is expected.
//!
//! In come the file and its documents; out comes what [`inmesh_core::simulate`] has counted, each
//! expectation with what it came to.
//!
//! ```
//! use inmesh_discovery::testing::Simulation;
//!
//! let file = "
//! apiVersion: inmesh.dev/v1alpha1
//! kind: Simulation
//! documents:
//!   inline: |
//!     {apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 80}]}}
//! duration: 10s
//! requests:
//! - {request: GET http://cart/, rate: 10}
//! expect:
//! - {successAtLeast: 99}
//! ";
//! let simulation = &Simulation::parse("cart.yaml", file).expect("it is read")[0];
//! let report = simulation.run(|_| Err("no folder is read here".into())).expect("it runs");
//! assert!(!report.is_good(), "cart has no endpoint");
//! ```

mod draft;
mod expect;
mod read;
mod select;

use inmesh_core::pki::id::TrustDomain;
use inmesh_core::simulate::{Outcome, Scenario, endpoints, run};
use inmesh_core::snapshot::Problem;

use draft::Draft;
pub use expect::{Expected, Met};
pub use read::SIMULATION;

use super::cases::Documents;
use super::world::World;

/// One document of kind Simulation.
#[derive(Debug, Clone)]
pub struct Simulation {
    /// The documents under load.
    documents: Documents,
    /// The trust domain of the local workload, where no agent's file says it.
    trust_domain: Option<TrustDomain>,
    draft: Draft,
}

/// What a simulation has come to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SimulationReport {
    /// What was counted.
    pub outcome: Outcome,
    /// What was expected, in the order of the file.
    pub met: Vec<Met>,
    /// Requests that documents refuse or no endpoint can take from the start: the request line, and
    /// why.
    pub refused: Vec<(String, String)>,
    /// What is refused of the documents, or warned of.
    pub problems: Vec<Problem>,
}

// === impl Simulation ===

impl Simulation {
    /// Reads the simulations of a file. `file` is its name in problems.
    ///
    /// # Errors
    ///
    /// Every problem with file, line and field, if the text cannot be read or a document is no such one.
    pub fn parse(file: &str, text: &str) -> Result<Vec<Self>, Vec<Problem>> {
        let read = read::parse(file, text)?.into_iter();
        Ok(read
            .map(|((documents, trust_domain), draft)| Self {
                documents,
                trust_domain,
                draft,
            })
            .collect())
    }

    /// The same with another seed.
    #[must_use]
    pub fn seeded(mut self, seed: u64) -> Self {
        self.draft.seed = seed;
        self
    }

    /// Runs it. `read` reads a folder of documents, named as the file names it.
    ///
    /// # Errors
    ///
    /// Why the documents cannot be read, or the simulation cannot be run with them.
    pub fn run(
        &self,
        read: impl FnOnce(&str) -> Result<World, String>,
    ) -> Result<SimulationReport, String> {
        let world = self.documents.world(self.trust_domain.as_ref(), read)?;
        self.run_in(&world)
    }

    fn run_in(&self, world: &World) -> Result<SimulationReport, String> {
        let known = endpoints(world.snapshot());
        let scenario = self.draft.scenario(world, &known)?;
        for expected in &self.draft.expected {
            expected.check(world, &known)?;
        }
        let refused = refused(world, &scenario);
        let outcome = run(&scenario, || world.anew()).map_err(|error| error.to_string())?;
        let mut windows = outcome.windows.iter();
        let mut met = Vec::new();
        for expected in &self.draft.expected {
            let tally = match expected.window {
                Some(_) => windows.next().unwrap_or(&outcome.whole),
                None => &outcome.whole,
            };
            met.extend(expected.compare(tally, world, &known)?);
        }
        let mut problems = world.problems().to_vec();
        problems.extend(anonymous(world, &scenario));
        Ok(SimulationReport {
            met,
            refused,
            problems,
            outcome,
        })
    }
}

/// The requests that no endpoint would get at the begin, each load's first.
fn refused(world: &World, scenario: &Scenario) -> Vec<(String, String)> {
    let asked = scenario
        .loads
        .iter()
        .filter_map(|load| load.questions.first());
    let refused = asked.filter_map(|question| {
        let why = world.ask(question).verdict.detail?;
        Some((question.line(), why))
    });
    refused.collect()
}

/// A warning if requests are those of the local workload, whose identity is not known.
fn anonymous(world: &World, scenario: &Scenario) -> Option<Problem> {
    let asked = scenario.loads.iter().flat_map(|load| &load.questions);
    let mut asked = asked.filter(|question| question.caller().is_none());
    let why = asked.find_map(|question| world.anonymous(&world.ask(question)))?;
    let message = format!("{why}; say from, or documents.trustDomain");
    Some(Problem::warning("documents", message))
}

// === impl SimulationReport ===

impl SimulationReport {
    /// Whether all came out as expected.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.met.iter().all(|met| met.good)
    }
}

#[cfg(test)]
mod tests;
