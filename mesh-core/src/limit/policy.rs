//! How many requests a workload takes, as its author writes it, checked when it is made.

use std::fmt;
use std::time::Duration;

use inmesh_pki::clock::Span;
use inmesh_pki::id::TrustDomain;

use crate::authorize::{PathForm, PolicyRule, RequestView, first_met};
use crate::identify::Peer;

/// The most requests that can be named.
const REQUESTS: u32 = 1_000_000;
/// The shortest and longest time that can.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3_600);
/// The most rules.
const RULES: usize = 32;

/// So many requests in a time, and how many of them at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    requests: u32,
    interval: Duration,
    burst: u32,
}

/// How many requests there may be, of all callers together and of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rates {
    /// Of all callers.
    pub total: Option<Rate>,
    /// Of each, by its SPIFFE ID. Callers without one are counted as one.
    pub per_identity: Option<Rate>,
}

/// Rates of certain requests.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateRule {
    /// Which.
    pub of: PolicyRule,
    /// How many.
    pub rates: Rates,
}

/// What a workload takes: all requests count towards the total; for each one the first rule that it meets
/// says more, or else the rate of each caller holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    all: Rates,
    rules: Vec<RateRule>,
}

/// A limit that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidLimit(String);

// === impl InvalidLimit ===

impl InvalidLimit {
    pub(super) fn new(message: String) -> Self {
        Self(message)
    }
}

// === impl Rate ===

impl Rate {
    /// So many requests in an interval, and `burst` at once after a rest.
    ///
    /// ```
    /// use std::time::Duration;
    /// use inmesh_core::limit::Rate;
    /// let minute = Duration::from_secs(60);
    /// assert_eq!(Rate::new(10, minute, 1)?.to_string(), "10 in 60 s, 1 at once");
    /// assert!(Rate::new(0, minute, 1).is_err());
    /// # Ok::<(), inmesh_core::limit::InvalidLimit>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidLimit`] if a number is not 1 to 1,000,000, or the interval not a second to an hour.
    pub fn new(requests: u32, interval: Duration, burst: u32) -> Result<Self, InvalidLimit> {
        let refuse = |why: String| Err(InvalidLimit(why));
        for number in [requests, burst] {
            if !(1..=REQUESTS).contains(&number) {
                return refuse(format!("{number} is not 1 to {REQUESTS}"));
            }
        }
        if !(SHORTEST..=LONGEST).contains(&interval) {
            return refuse("an interval is between 1s and 1h".into());
        }
        Ok(Self {
            requests,
            interval,
            burst,
        })
    }

    /// How many in an interval.
    pub fn requests(self) -> u32 {
        self.requests
    }

    /// The interval.
    pub fn interval(self) -> Duration {
        self.interval
    }

    /// How many at once.
    pub fn burst(self) -> u32 {
        self.burst
    }

    /// The nanoseconds between two requests.
    pub(super) fn each(self) -> u64 {
        let nanos = u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX);
        nanos.div_ceil(self.requests.into())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interval = Span(self.interval);
        write!(f, "{} in {interval}, {} at once", self.requests, self.burst)
    }
}

// === impl Rates ===

impl Rates {
    /// Of all callers, and of each.
    pub fn new(total: Option<Rate>, per_identity: Option<Rate>) -> Self {
        Self {
            total,
            per_identity,
        }
    }
}

// === impl RateRule ===

impl RateRule {
    /// Rates of what meets a rule.
    ///
    /// # Errors
    ///
    /// [`InvalidLimit`] if it has no rate.
    pub fn new(of: PolicyRule, rates: Rates) -> Result<Self, InvalidLimit> {
        if rates == Rates::default() {
            return Err(InvalidLimit(
                "a rule has a total, a perIdentity, or both".into(),
            ));
        }
        Ok(Self { of, rates })
    }

    /// The same where requests come in a form.
    fn in_form(&self, form: PathForm) -> Self {
        let seen = self.of.to.iter().map(|to| to.in_form(form));
        // What no path can have in that form is left as it is, and met by none.
        let seen: Result<Vec<_>, _> = seen.collect();
        let to = seen.unwrap_or_else(|_| self.of.to.clone());
        Self {
            of: PolicyRule::new(self.of.from.clone(), to),
            rates: self.rates,
        }
    }
}

// === impl RateLimit ===

impl RateLimit {
    /// A limit of rates and of rules.
    ///
    /// # Errors
    ///
    /// [`InvalidLimit`] if it has neither, or more than 32 rules.
    pub fn new(all: Rates, rules: Vec<RateRule>) -> Result<Self, InvalidLimit> {
        if all == Rates::default() && rules.is_empty() {
            let message = "a limit has a total, a perIdentity, rules, or several";
            return Err(InvalidLimit(message.into()));
        }
        if rules.len() > RULES {
            return Err(InvalidLimit(format!("more than {RULES} rules")));
        }
        Ok(Self { all, rules })
    }

    /// What holds for all requests.
    pub fn all(&self) -> Rates {
        self.all
    }

    /// What holds for certain ones.
    pub fn rules(&self) -> &[RateRule] {
        &self.rules
    }

    /// The rule that a request meets: the first of which it meets one in some reading. A caller without an
    /// ID meets none that names callers.
    pub(crate) fn rule_of(
        &self,
        own: Option<&TrustDomain>,
        peer: &Peer,
        request: &RequestView<'_>,
    ) -> Option<usize> {
        if self.rules.is_empty() {
            return None;
        }
        first_met(self.rules.iter().map(|rule| &rule.of), own, peer, request)
    }

    /// The rate of each caller that holds for what meets a rule, or none.
    pub(crate) fn per_identity(&self, rule: Option<usize>) -> Option<Rate> {
        let rule = rule.and_then(|nth| self.rules.get(nth));
        rule.map_or(self.all.per_identity, |rule| rule.rates.per_identity)
    }

    /// The total of a rule.
    pub(crate) fn total_of(&self, rule: Option<usize>) -> Option<Rate> {
        self.rules.get(rule?)?.rates.total
    }

    /// The same where requests come in a form.
    pub(super) fn in_form(&self, form: PathForm) -> Self {
        Self {
            all: self.all,
            rules: self.rules.iter().map(|rule| rule.in_form(form)).collect(),
        }
    }
}
