//! What a file expects of a simulation.

use std::time::Duration;

use inmesh_core::pki::clock::Span;
use inmesh_core::simulate::Tally;

use super::select::{Known, Selector, select};
use crate::testing::World;

/// What is expected of a time; what is absent may be anything.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// From when to when; `None` is all of it.
    pub(super) window: Option<(Duration, Duration)>,
    pub(super) success: Option<f64>,
    pub(super) amplification: Option<f64>,
    pub(super) p50_millis: Option<f64>,
    pub(super) p99_millis: Option<f64>,
    pub(super) ejections: (Option<u64>, Option<u64>),
    /// The most that endpoints take together, in percent of all attempts.
    pub(super) shares: Vec<(Selector, f64)>,
}

/// An expectation, and what it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Met {
    /// Whether it came out so.
    pub good: bool,
    /// What was expected and what came out, in a line.
    pub line: String,
}

// === impl Expected ===

impl Expected {
    /// Whether it names what the documents have.
    pub(super) fn check(&self, world: &World, known: &Known) -> Result<(), String> {
        let mut named = self.shares.iter().map(|(selector, _)| selector);
        named.try_for_each(|of| select(world, known, std::slice::from_ref(of)).map(drop))
    }

    /// Compares what was counted.
    pub(super) fn compare(
        &self,
        tally: &Tally,
        world: &World,
        known: &Known,
    ) -> Result<Vec<Met>, String> {
        let window = match self.window {
            Some((from, to)) => format!(" from {} to {}", Span(from), Span(to)),
            None => String::new(),
        };
        let mut out = Vec::new();
        let mut met = |good: bool, what: String| {
            let line = format!("{what}{window}");
            out.push(Met { good, line });
        };
        if let Some(least) = self.success {
            let got = tally.success_percent;
            met(
                got >= least,
                format!("success {got:.3} %, at least {least} %"),
            );
        }
        if let Some(most) = self.amplification {
            let got = tally.amplification;
            met(
                got <= most,
                format!("amplification {got:.3}, at most {most}"),
            );
        }
        let latency = tally.latency;
        for (name, most, got) in [
            ("p50", self.p50_millis, latency.p50_micros),
            ("p99", self.p99_millis, latency.p99_micros),
        ] {
            if let Some(most) = most {
                let got = millis(got);
                met(got <= most, format!("{name} {got} ms, at most {most} ms"));
            }
        }
        let (least, most) = self.ejections;
        let got = tally.ejections;
        if let Some(least) = least {
            met(got >= least, format!("{got} ejections, at least {least}"));
        }
        if let Some(most) = most {
            met(got <= most, format!("{got} ejections, at most {most}"));
        }
        for (selector, most) in &self.shares {
            let of = select(world, known, std::slice::from_ref(selector))?;
            let attempts = of.iter().filter_map(|at| tally.endpoints.get(at));
            let got = percent(attempts.sum(), tally.attempts);
            met(
                got <= *most,
                format!("share of {selector} {got:.3} %, at most {most} %"),
            );
        }
        Ok(out)
    }
}

fn millis(micros: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "an hour at most")]
    let micros = micros as f64;
    micros / 1_000.0
}

fn percent(part: u64, of: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let (part, of) = (part as f64, of as f64);
    if of > 0.0 { 100.0 * part / of } else { 0.0 }
}
