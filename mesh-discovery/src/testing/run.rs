//! Cases in, what came out otherwise than expected out.

use std::collections::BTreeMap;
use std::fmt;

use http::HeaderName;
use inmesh_core::explain::{Explanation, Fields, Outcome, Question, Scene, shares as drawn};
use inmesh_core::snapshot::{Location, Problem};

use super::World;
use super::cases::{Case, Expect, Shares};

/// What became of the cases of one or more documents.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// The cases in their order.
    pub cases: Vec<CaseReport>,
    /// What is refused of the documents, or warned of.
    pub problems: Vec<Problem>,
}

/// What became of a case.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CaseReport {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub place: Location,
    /// What came out otherwise, a line each; empty if all is as expected.
    pub failures: Vec<String>,
}

// === impl World ===

impl World {
    /// Runs a case.
    #[must_use]
    pub fn run(&self, case: &Case) -> CaseReport {
        let question = self.asked(&case.question);
        let seen = self.ask(&question);
        let mut failures = compare(&case.expect, &seen);
        failures.extend(compare_sent(&case.expect, &seen));
        if case.expect.judges()
            && let Some(why) = self.anonymous(&seen)
        {
            failures.push(format!("from: {why}; say from, or documents.trustDomain"));
        }
        if let Some(shares) = &case.expect.shares {
            failures.extend(self.compare_shares(shares, &question));
        }
        CaseReport {
            name: case.name.clone(),
            place: case.place.clone(),
            failures,
        }
    }

    fn compare_shares(&self, shares: &Shares, question: &Question) -> Vec<String> {
        let scene = Scene::new(self.snapshot(), self.local());
        let drawn = drawn(&scene, question, shares.draws).into_iter();
        let counts: BTreeMap<String, u64> = drawn
            .map(|(to, count)| {
                let name = to.map(|(service, port)| format!("{service}:{port}"));
                (name.unwrap_or_default(), count.into())
            })
            .collect();
        let (draws, within) = (u64::from(shares.draws), u64::from(shares.within));
        let wanted = |name: &str| {
            let named = shares.of.iter().find(|(of, _)| is_backend(of, name));
            named.map_or(0, |(_, percent)| *percent)
        };
        let mut names: Vec<&str> = counts.keys().map(String::as_str).collect();
        let missing = shares.of.iter().map(|(name, _)| &**name);
        let missing = missing.filter(|of| !counts.keys().any(|name| is_backend(of, name)));
        names.extend(missing);
        let off = names.into_iter().filter_map(|name| {
            let got = counts.get(name).copied().unwrap_or_default();
            let percent = u64::from(wanted(name));
            // Compared without a division, so that no share is rounded.
            if (got * 100).abs_diff(percent * draws) <= within * draws {
                return None;
            }
            let name = if name.is_empty() { "no backend" } else { name };
            Some(format!(
                "shares: {name}: expected {percent}% (within {within}), got {got} of {draws}"
            ))
        });
        off.collect()
    }
}

/// The backend as `name.namespace:port`; `None` if there is no one.
fn backend(seen: &Explanation) -> Option<String> {
    let to = seen.backend.as_ref()?;
    Some(format!("{}:{}", to.service, to.port))
}

/// Whether a backend is named so, with its port or without.
fn is_backend(named: &str, backend: &str) -> bool {
    let service = backend
        .rsplit_once(':')
        .map_or(backend, |(service, _)| service);
    named == backend || named == service
}

/// What is otherwise than expected.
fn compare(expect: &Expect, seen: &Explanation) -> Vec<String> {
    let mut out = Vec::new();
    let verdict = &seen.verdict;
    if let Some(wanted) = expect.verdict.filter(|wanted| *wanted != verdict.outcome) {
        let why = match (verdict.outcome, &verdict.detail, &verdict.endpoint) {
            (Outcome::Refused, Some(why), _) => format!(" ({why})"),
            (Outcome::Sent, _, Some(to)) => format!(" to {to}"),
            _ => String::new(),
        };
        let (wanted, got) = (wanted.as_str(), verdict.outcome.as_str());
        out.push(format!("verdict: expected {wanted}, got {got}{why}"));
    }
    let mut text = |name: &str, wanted: Option<String>, got: Option<String>| {
        if let Some(wanted) = wanted
            && got.as_ref() != Some(&wanted)
        {
            let got = got.unwrap_or_else(|| "nothing".into());
            out.push(format!("{name}: expected {wanted}, got {got}"));
        }
    };
    let number = |number: Option<u16>| number.map(|n| n.to_string());
    let place = |place: Option<usize>| place.map(|n| n.to_string());
    let route = seen.route.as_ref();
    let sent = seen.sent.as_ref();
    text("status", number(expect.status), number(verdict.status));
    text("reason", expect.reason.clone(), verdict.reason.clone());
    text("policy", expect.policy.clone(), policy(seen));
    text(
        "route",
        expect.route.clone(),
        route.map(|r| r.object.clone()),
    );
    text("rule", place(expect.rule), place(route.map(|r| r.rule)));
    let to = backend(seen);
    let named = expect.backend.clone();
    let same = |named: &String| to.as_ref().is_some_and(|to| is_backend(named, to));
    text("backend", named.filter(|named| !same(named)), to.clone());
    text("path", expect.path.clone(), sent.map(|s| s.path.clone()));
    text(
        "authority",
        expect.authority.clone(),
        sent.map(|s| s.authority.clone()),
    );
    text(
        "location",
        expect.location.clone(),
        verdict.location.clone(),
    );
    let none = Fields::default();
    let headers = sent.map_or(&none, |sent| &sent.headers);
    for (name, wanted) in &expect.headers {
        text(
            &format!("header {name}"),
            Some(wanted.clone()),
            value(headers, name),
        );
    }
    for name in &expect.absent_headers {
        if value(headers, name).is_some() {
            out.push(format!("header {name}: expected to be absent"));
        }
    }
    for (name, wanted) in &expect.response_headers {
        let got = value(&seen.response, name);
        if got.as_ref() != Some(wanted) {
            let got = got.unwrap_or_else(|| "nothing".into());
            out.push(format!(
                "answer's header {name}: expected {wanted}, got {got}"
            ));
        }
    }
    out
}

/// What else is expected of what is sent: its copies, and how long the first attempt has.
fn compare_sent(expect: &Expect, seen: &Explanation) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(named) = &expect.copies {
        let sends = seen.copies.iter().filter(|copy| copy.verdict.is_some());
        let sends: Vec<_> = sends.map(|c| format!("{}:{}", c.service, c.port)).collect();
        let mut pairs = named.iter().zip(&sends);
        if named.len() != sends.len() || !pairs.all(|(named, to)| is_backend(named, to)) {
            let (named, sends) = (named.join(", "), sends.join(", "));
            out.push(format!("copies: expected [{named}], got [{sends}]"));
        }
    }
    let limit = seen.deadline.as_ref().map(|limit| limit.attempt.millis);
    if let Some(wanted) = expect
        .timeout_millis
        .filter(|wanted| Some(*wanted) != limit)
    {
        let got = limit.map_or_else(|| "nothing".into(), |millis| millis.to_string());
        out.push(format!("timeoutMillis: expected {wanted}, got {got}"));
    }
    out
}

/// The values of a field, with commas between.
fn value(fields: &Fields, name: &str) -> Option<String> {
    let name = HeaderName::try_from(name).ok()?;
    let values: Vec<_> = fields.0.get_all(name).iter().collect();
    let texts = values.iter().map(|v| String::from_utf8_lossy(v.as_bytes()));
    let texts: Vec<_> = texts.collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

/// The policy that denied a request, or the one that allowed it at the server's side.
fn policy(seen: &Explanation) -> Option<String> {
    if let Some(policy) = &seen.verdict.policy {
        return Some(policy.clone());
    }
    let decisive = seen.inbound.iter().find(|inbound| inbound.decisive)?;
    let mut allowed = decisive.policies.iter();
    let allowed = allowed.find(|p| p.action == "ALLOW" && p.rule.is_some())?;
    Some(allowed.object.clone())
}

// === impl Report ===

impl Report {
    /// Adds the cases of another document.
    pub fn add(&mut self, other: Self) {
        self.cases.extend(other.cases);
        self.problems.extend(other.problems);
    }

    /// Whether every case came out as expected, and there is one.
    #[must_use]
    pub fn is_good(&self) -> bool {
        !self.cases.is_empty() && self.failed() == 0
    }

    /// How many cases came out otherwise.
    #[must_use]
    pub fn failed(&self) -> usize {
        let failed = self.cases.iter().filter(|case| !case.failures.is_empty());
        failed.count()
    }
}

/// A line for each problem of the documents and for each case, those that failed with why.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "warning: {problem}")?;
        }
        for case in &self.cases {
            let verdict = if case.failures.is_empty() {
                "ok"
            } else {
                "FAIL"
            };
            writeln!(f, "{verdict:<5} {} ({})", case.name, case.place)?;
            for failure in &case.failures {
                writeln!(f, "      {failure}")?;
            }
        }
        write!(f, "{} cases, {} failed", self.cases.len(), self.failed())
    }
}
