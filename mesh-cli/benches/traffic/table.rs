//! What was seen, as a table of Markdown and as JSON.

use std::time::Duration;

use serde_json::{Value, json};

use crate::load::Sample;
use crate::proxy::Kind;
use crate::scenario::{Envoy, Scenario};

/// What one round of a scenario has shown of one way.
pub(crate) struct Seen {
    /// In percent of the requests.
    success: f64,
    /// Milliseconds: of what succeeded, or of all if nothing did.
    p50: f64,
    p99: f64,
    /// Attempts that a backend has got or refused, for each request.
    amplification: f64,
    /// Good answers in a second at the backends' capacity, and at three times as much.
    pub(crate) goodput: Option<[f64; 2]>,
}

/// How requests come to the backends.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// By turns, and without a proxy.
    Directly,
    Through(Kind),
}

/// One line of the table.
pub(crate) struct Line {
    pub(crate) scenario: Scenario,
    pub(crate) way: Way,
    /// The proxy lacks the feature, so there is nothing to measure.
    pub(crate) lacks: bool,
    pub(crate) rounds: Vec<Seen>,
    differs: &'static str,
}

// === impl Seen ===

impl Seen {
    pub(crate) fn new(samples: &[Sample], attempts: u64) -> Self {
        let good: Vec<_> = samples.iter().filter(|one| one.good()).collect();
        let of = match good.is_empty() {
            true => samples.iter().collect(),
            false => good.clone(),
        };
        let mut took: Vec<_> = of.iter().map(|one| one.took).collect();
        took.sort_unstable();
        let at = |percent: usize| {
            let nth = took.len().saturating_sub(1) * percent / 100;
            took.get(nth).copied().unwrap_or_default().as_secs_f64() * 1e3
        };
        Self {
            success: ratio(good.len(), samples.len()) * 100.0,
            p50: at(50),
            p99: at(99),
            amplification: ratio(
                usize::try_from(attempts).unwrap_or(usize::MAX),
                samples.len(),
            ),
            goodput: None,
        }
    }
}

// === impl Way ===

impl Way {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Directly => "directly",
            Self::Through(Kind::Envoy) => "Envoy",
            Self::Through(Kind::Mesh) => "mesh",
        }
    }
}

// === impl Line ===

impl Line {
    /// The lines of a scenario.
    pub(crate) fn of(scenario: Scenario) -> Vec<Self> {
        let line = |way, differs, lacks| Self {
            scenario,
            way,
            lacks,
            rounds: Vec::new(),
            differs,
        };
        let mut lines = Vec::new();
        if scenario.directly {
            lines.push(line(Way::Directly, "", false));
        }
        lines.push(line(Way::Through(Kind::Mesh), scenario.mesh_differs, false));
        lines.push(match scenario.envoy {
            Envoy::Has(differs) => line(Way::Through(Kind::Envoy), differs, false),
            Envoy::Lacks(why) => line(Way::Through(Kind::Envoy), why, true),
        });
        lines
    }

    fn median(&self, of: impl Fn(&Seen) -> f64) -> [f64; 3] {
        let mut all: Vec<_> = self.rounds.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        [all[(all.len() - 1) / 2], all[0], all[all.len() - 1]]
    }

    fn markdown(&self) -> String {
        let (name, way, differs) = (self.scenario.name, self.way.name(), self.differs);
        if self.rounds.is_empty() {
            return format!("| {name} | {way} | | | | | | {differs} |");
        }
        let figure = |digits: usize, of: fn(&Seen) -> f64| {
            let [median, low, high] = self.median(of).map(|value| format!("{value:.digits$}"));
            match low == high {
                true => median,
                false => format!("{median} [{low}-{high}]"),
            }
        };
        let goodput = match self.rounds[0].goodput {
            Some(_) => format!(
                "{} of {}",
                figure(0, |seen| seen.goodput.unwrap_or_default()[1]),
                figure(0, |seen| seen.goodput.unwrap_or_default()[0]),
            ),
            None => String::new(),
        };
        format!(
            "| {name} | {way} | {} | {} | {} | {} | {goodput} | {differs} |",
            figure(2, |seen| seen.success),
            figure(1, |seen| seen.p50),
            figure(1, |seen| seen.p99),
            figure(2, |seen| seen.amplification),
        )
    }

    fn json(&self) -> Value {
        let rounds = self.rounds.iter().map(|seen| {
            json!({
                "success_percent": seen.success,
                "p50_ms": seen.p50,
                "p99_ms": seen.p99,
                "amplification": seen.amplification,
                "peak_and_goodput_per_s": seen.goodput,
            })
        });
        json!({
            "scenario": self.scenario.name,
            "way": self.way.name(),
            "differs": self.differs,
            "rounds": rounds.collect::<Vec<_>>(),
        })
    }
}

/// The goodput of a load from a third of its time on.
pub(crate) fn goodput(samples: &[Sample], lasts: Duration) -> f64 {
    let from = lasts / 3;
    let late = samples.iter().filter(|one| one.at >= from);
    let good = late.filter(|one| one.good()).count();
    ratio(good, 1) / (lasts - from).as_secs_f64()
}

pub(crate) fn markdown(lines: &[Line]) -> String {
    let mut out = vec![
        "| scenario | way | success % | p50 ms | p99 ms | amplification | goodput of peak, 1/s | differs |"
            .to_owned(),
        "| --- | --- | --- | --- | --- | --- | --- | --- |".to_owned(),
    ];
    out.extend(lines.iter().map(Line::markdown));
    out.join("\n")
}

pub(crate) fn json(head: &str, lines: &[Line]) -> Value {
    let lines: Vec<_> = lines.iter().map(Line::json).collect();
    json!({"head": head, "lines": lines})
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn ratio(of: usize, all: usize) -> f64 {
    of as f64 / all.max(1) as f64
}
