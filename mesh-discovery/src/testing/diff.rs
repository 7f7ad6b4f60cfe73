//! What a change of documents does to requests: each decided by both, and what differs.
//!
//! A request is decided once for each backend that may be drawn for it, so that a share that goes to a
//! backend which refuses it is seen. What is compared is a set of texts for each aspect.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use inmesh_core::explain::{Explanation, Head, Outcome, Question, Scene, seeds};

use super::World;
use super::requests::Requests;

/// How many seeds are tried to meet each backend of a split.
const SEEDS: u32 = 10_000;

/// What differs between two worlds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diff {
    /// How many requests were decided, each as often as it was given.
    pub requests: u64,
    /// What differs, those first whose verdict does.
    pub changes: Vec<Changed>,
}

/// A request that the two decide otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changed {
    /// The request line.
    pub request: String,
    /// The caller.
    pub from: Option<String>,
    /// How often it was given.
    pub count: u64,
    /// The routes that decide it, before and after.
    pub routes: BTreeSet<String>,
    /// Whether the verdict differs: what is sent, answered or refused, and with which status and reason.
    pub verdict: bool,
    /// What differs: the aspect, before, after.
    pub aspects: Vec<(&'static str, String, String)>,
}

/// What is decided of a request, aspect by aspect, over all backends that may be drawn.
type Decided = BTreeMap<&'static str, BTreeSet<String>>;

/// Decides requests by two worlds.
#[must_use]
pub fn diff(old: &World, new: &World, requests: &Requests) -> Diff {
    let mut out = Diff::default();
    for (question, count) in requests.each() {
        out.requests += count;
        let (before, after) = (decided(old, question), decided(new, question));
        let mut aspects = Vec::new();
        let names: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
        for name in names {
            let text = |of: &Decided| match of.get(name) {
                Some(texts) => texts.iter().cloned().collect::<Vec<_>>().join(" | "),
                None => "nothing".into(),
            };
            if before.get(name) != after.get(name) {
                aspects.push((name, text(&before), text(&after)));
            }
        }
        if aspects.is_empty() {
            continue;
        }
        let routes = [&before, &after].into_iter().filter_map(|of| of.get(ROUTE));
        out.changes.push(Changed {
            request: question.line(),
            from: question.caller().map(ToString::to_string),
            count,
            routes: routes.flatten().cloned().collect(),
            verdict: aspects.iter().any(|(name, ..)| *name == VERDICT),
            aspects,
        });
    }
    out.changes.sort_by_key(|change| !change.verdict);
    out
}

const ROUTE: &str = "route";
const VERDICT: &str = "verdict";

fn decided(world: &World, question: &Question) -> Decided {
    let question = world.asked(question);
    let scene = Scene::new(world.snapshot(), world.local());
    let mut out = Decided::new();
    for seed in seeds(&scene, &question, SEEDS) {
        let seen = world.ask(&question.clone().draw(seed));
        for (name, text) in aspects(&seen) {
            out.entry(name).or_default().insert(text);
        }
    }
    out
}

/// What is compared of an explanation.
fn aspects(seen: &Explanation) -> Vec<(&'static str, String)> {
    let mut out = vec![(VERDICT, verdict(seen))];
    if let Some(policy) = &seen.verdict.policy {
        out.push(("policy", policy.clone()));
    }
    match &seen.route {
        Some(route) => out.push((ROUTE, format!("{} rule {}", route.object, route.rule))),
        None => out.push((ROUTE, "no route".into())),
    }
    let total: u64 = seen.split.iter().map(|share| u64::from(share.weight)).sum();
    let shares = seen.split.iter().map(|share| {
        let percent = u64::from(share.weight) * 100 / total.max(1);
        format!("{}:{} {percent}%", share.service, share.port)
    });
    let shares: Vec<_> = shares.collect();
    match &seen.backend {
        Some(to) if shares.len() < 2 => {
            out.push(("backends", format!("{}:{}", to.service, to.port)))
        }
        _ if shares.is_empty() => {}
        _ => out.push(("backends", shares.join(", "))),
    }
    // Which one is drawn depends on the seed, unless a key leads there.
    if let Some(by) = seen.split_by.as_ref().filter(|by| by.found) {
        let to = seen.split.iter().filter(|share| share.drawn);
        let to: Vec<_> = to.map(|s| format!("{}:{}", s.service, s.port)).collect();
        out.push(("kept at", format!("{} by {}", to.join(", "), by.key)));
    }
    // Whether one is drawn depends on the seed, and its share does not.
    let copies = seen.copies.iter().map(|copy| {
        let (service, port) = (&copy.service, copy.port);
        format!(
            "{service}:{port} {} of {}",
            copy.numerator, copy.denominator
        )
    });
    let copies: Vec<_> = copies.collect();
    if !copies.is_empty() {
        out.push(("copies", copies.join(", ")));
    }
    if let Some(sent) = &seen.sent {
        out.push(("sent as", head(sent)));
    }
    let fields = seen
        .response
        .shown()
        .map(|(name, value)| format!("{name}: {value}"));
    let fields: Vec<_> = fields.collect();
    if !fields.is_empty() {
        out.push(("answer's header", fields.join(", ")));
    }
    if let Some(fault) = &seen.fault {
        let wait = fault.delay_millis.map(|ms| format!("waits {ms} ms"));
        let abort = fault.aborted.then(|| "aborted".to_owned());
        let slow = fault.bits_per_second.map(|bits| format!("{bits} bit/s"));
        let made: Vec<_> = wait.into_iter().chain(abort).chain(slow).collect();
        out.push(("fault drawn", made.join(", ")));
    }
    for judged in &seen.inbound {
        for (name, limit) in [
            ("rateLimit", &judged.limit),
            ("adaptiveConcurrency", &judged.concurrency),
        ] {
            out.extend(limit.iter().map(|limit| (name, limit.rates.join("; "))));
        }
    }
    for setting in &seen.settings {
        out.push((block(&setting.name), setting.value.to_string()));
    }
    out
}

/// The aspect that a block of settings is.
fn block(name: &str) -> &'static str {
    match name {
        "connectionPool" => "connectionPool",
        "fault" => "fault",
        "hedge" => "hedge",
        "loadBalancer" => "loadBalancer",
        "locality" => "locality",
        "outlierDetection" => "outlierDetection",
        "proxyProtocol" => "proxyProtocol",
        "retry" => "retry",
        "retryConstraint" => "retryConstraint",
        "sessionPersistence" => "sessionPersistence",
        "timeouts" => "timeouts",
        "trafficSplit" => "trafficSplit",
        "warmup" => "warmup",
        _ => "settings",
    }
}

/// What is sent is compared without its endpoint, which a draw chooses.
fn verdict(seen: &Explanation) -> String {
    let verdict = &seen.verdict;
    let status = verdict.status.map(|status| format!(" {status}"));
    let (status, reason) = (status.unwrap_or_default(), verdict.reason.as_deref());
    match verdict.outcome {
        Outcome::Sent => "sent".into(),
        Outcome::Answered => {
            let to = verdict.location.as_ref().map(|to| format!(" to {to}"));
            format!("answered{status}{}", to.unwrap_or_default())
        }
        _ => format!("refused{status} {}", reason.unwrap_or_default()),
    }
}

fn head(sent: &Head) -> String {
    let query = sent.query.as_ref().map(|query| format!("?{query}"));
    let fields = sent
        .headers
        .shown()
        .map(|(name, value)| format!(", {name}: {value}"));
    format!(
        "{} {}{}{}{}",
        sent.method,
        sent.authority,
        sent.path,
        query.unwrap_or_default(),
        fields.collect::<String>()
    )
}

// === impl Diff ===

impl Diff {
    /// Whether the verdict of a request differs.
    #[must_use]
    pub fn changes_verdicts(&self) -> bool {
        self.changes.iter().any(|change| change.verdict)
    }

    /// How many requests differ by what `of` says of a change, and of how many the verdict does.
    #[must_use]
    pub fn count<'d>(
        &'d self,
        of: impl Fn(&'d Changed) -> Vec<&'d str>,
    ) -> BTreeMap<&'d str, (u64, u64)> {
        let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for change in &self.changes {
            for name in of(change) {
                let at = counts.entry(name).or_default();
                at.0 += change.count;
                at.1 += if change.verdict { change.count } else { 0 };
            }
        }
        counts
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.from.as_deref().unwrap_or("without an identity");
        write!(f, "{} from {from}", self.request)?;
        if self.count > 1 {
            write!(f, " ({} times)", self.count)?;
        }
        for (name, before, after) in &self.aspects {
            write!(f, "\n    {name}: {before} -> {after}")?;
        }
        Ok(())
    }
}
