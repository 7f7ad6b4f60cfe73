//! What a change of documents does to requests: each decided by both, and what differs.
//!
//! A request is decided once for each backend that may be drawn for it, so that a share that goes to a
//! backend which refuses it is seen. What is compared is a set of texts for each aspect.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use inmesh_core::explain::{Explanation, Head, Outcome, Question, Scene, seeds};
use inmesh_core::snapshot::{Problem, Serving, Severity};

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
    /// What is refused of the new documents, and was not before.
    pub refused: Vec<Refused>,
}

/// A document that is refused by an edit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// `Kind/namespace/name`, or the file that cannot be read.
    pub object: String,
    /// Whether its last good version serves on until a restart.
    pub last_good: bool,
    /// Why, and where.
    pub problem: Problem,
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
    out.refused = refused(old, new);
    out
}

/// What is refused of the new world and not of the old one, for the same reason.
fn refused(old: &World, new: &World) -> Vec<Refused> {
    let of = |world: &World| -> Vec<Refused> {
        let status = world.snapshot().status();
        let each = status.into_iter().flat_map(|status| {
            let (object, last_good) = (status.object, status.serving == Serving::LastGood);
            let problems = status.problems.into_iter();
            let problems = problems.filter(|problem| problem.severity == Severity::Refused);
            problems.map(move |problem| Refused {
                object: object.clone(),
                last_good,
                problem,
            })
        });
        each.collect()
    };
    let before = of(old);
    let known = |new: &Refused| {
        before.iter().any(|old| {
            let (was, is) = (&old.problem, &new.problem);
            old.object == new.object && was.field == is.field && was.message == is.message
        })
    };
    // All that an unreadable file said before is kept, under the names of its objects.
    let stays = |one: &Refused| {
        let at = one.problem.location.as_ref();
        one.object.starts_with("File/") && at.is_some_and(|at| old.reads(&at.file))
    };
    let new = of(new).into_iter().filter(|one| !known(one));
    new.map(|one| Refused {
        last_good: one.last_good || stays(&one),
        ..one
    })
    .collect()
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
    out.extend(ports(seen).map(|ports| ("endpoint ports", ports)));
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

/// The ports of the endpoints: addresses come and go, and a port is configured.
fn ports(seen: &Explanation) -> Option<String> {
    let ports = seen.endpoints.iter().filter_map(|endpoint| {
        let (_, port) = endpoint.address.rsplit_once(':')?;
        port.parse::<u16>().ok()
    });
    let ports: BTreeSet<u16> = ports.collect();
    let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
    (!ports.is_empty()).then(|| ports.join(", "))
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

    /// Whether a gate lets it pass: no verdict differs, and nothing is refused that was not.
    #[must_use]
    pub fn passes(&self) -> bool {
        !self.changes_verdicts() && self.refused.is_empty()
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

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let serves = match self.last_good {
            true => "its last good version serves until a restart",
            false => "nothing of it serves",
        };
        write!(f, "{} ({serves})\n    {}", self.object, self.problem)
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
