//! Simulate: what becomes of requests while endpoints fail, slow, come and go?
//!
//! In come a [`Scenario`] and a function that makes the snapshot of a caller; out comes an [`Outcome`]:
//! success, amplification, ejections, latencies and the share of each endpoint over time. Time is a
//! number, and what is to come stands in a queue in its order; nothing waits, and there is no thread, so
//! that ten minutes at ten thousand requests a second take seconds. What decides a request are the
//! functions that decide live ones: [`plan`](crate::plan), [`pick`](crate::balance::pick) and its
//! verdicts, [`Attempts`](crate::retry::Attempts), [`Race`](crate::retry::Race) and their budget, deadlines, checks, and
//! [`Snapshot::apply`](crate::snapshot::Snapshot::apply) where endpoints come and go. What stands for
//! the world is a model: processes with a latency, a room and faults ([`Behaviour`]), and no network
//! between. Pure: equal scenarios, snapshots and seeds give equal outcomes.
//!
//! It does not simulate connections: pools, TLS, streams and bodies take no time, and requests that
//! limits of connections would hold up are not held up.

mod announce;
mod asked;
mod attempt;
mod check;
mod checks;
mod engine;
mod flight;
mod hedge;
mod queue;
mod record;
mod scenario;
mod server;
mod slab;
mod state;

pub use engine::run;
pub use record::{Column, EndpointSeen, Latencies, Outcome, Tally};
pub use scenario::{
    Action, Announced, Behaviour, Event, Fault, Latency, Load, Reached, Room, Scenario, endpoints,
};

/// A scenario that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidScenario(String);

// === impl InvalidScenario ===

impl InvalidScenario {
    fn new(why: String) -> Self {
        Self(why)
    }
}

#[cfg(test)]
mod tests;
