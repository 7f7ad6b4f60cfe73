//! What is left of the limit of one workload.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use inmesh_pki::id::{SpiffeId, TrustDomain};

use super::bucket::Bucket;
use super::policy::{Rate, RateLimit};
use crate::authorize::{PathForm, RequestView};
#[cfg(feature = "runtime")]
use crate::error::{Error, Reason};
use crate::identify::Peer;
use crate::model::Block;

/// The most callers that are counted apart for each rule; further ones are counted as one.
const IDENTITIES: usize = 4_096;
/// How often room for others is looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// What a rate is of.
const EACH: &str = "each caller";
const SUCH: &str = "all callers for such requests";
const ALL: &str = "all callers";

/// The buckets of one workload.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// As its author has written it.
    block: Block<Arc<RateLimit>>,
    /// As requests meet it.
    limit: RateLimit,
    own: Option<TrustDomain>,
    total: Bucket,
    callers: Callers,
    /// In the order of the rules.
    rules: Box<[(Bucket, Callers)]>,
}

/// A bucket for each caller.
#[derive(Debug, Default)]
struct Callers {
    known: Mutex<Known>,
    /// Of all that have no ID.
    without: Bucket,
    /// Of all that there is no room for.
    others: Bucket,
}

#[derive(Debug, Default)]
struct Known {
    buckets: HashMap<SpiffeId, Bucket>,
    /// When full ones may be left out again.
    sweep: Duration,
}

/// A request that is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limited {
    /// How long until one like it is.
    pub(crate) wait: Duration,
    rate: Rate,
    of: &'static str,
}

// === impl Limiter ===

impl Limiter {
    pub(crate) fn new(
        block: Block<Arc<RateLimit>>,
        own: Option<&TrustDomain>,
        form: PathForm,
    ) -> Self {
        let limit = block.value.in_form(form);
        let rules = limit.rules().iter();
        Self {
            total: Bucket::default(),
            callers: Callers::default(),
            rules: rules.map(|_| Default::default()).collect(),
            own: own.cloned(),
            limit,
            block,
        }
    }

    /// What it is made of.
    pub(crate) fn block(&self) -> &Block<Arc<RateLimit>> {
        &self.block
    }

    /// The rule that a request meets.
    pub(crate) fn rule_of(&self, peer: &Peer, request: &RequestView<'_>) -> Option<usize> {
        self.limit.rule_of(self.own.as_ref(), peer, request)
    }

    /// The rates that count for what meets a rule or none, in the order in which they are asked, and what
    /// they are of.
    pub(crate) fn rates(&self, rule: Option<usize>) -> impl Iterator<Item = (Rate, &'static str)> {
        let limit = &self.limit;
        let rates = [
            (limit.per_identity(rule), EACH),
            (limit.total_of(rule), SUCH),
            (limit.all().total, ALL),
        ];
        rates.into_iter().filter_map(|(rate, of)| Some((rate?, of)))
    }

    /// Takes a request, at a moment on the monotonic clock of the caller.
    ///
    /// 1. The caller's own bucket is asked first, so that what it sends in vain takes nothing of others.
    /// 2. Then that of the rule, then that of all.
    /// 3. What one has no room for is given back to those before.
    ///
    /// # Errors
    ///
    /// [`Limited`] if there are too many.
    pub(crate) fn admit(
        &self,
        peer: &Peer,
        request: &RequestView<'_>,
        now: Duration,
    ) -> Result<(), Limited> {
        let rule = self.rule_of(peer, request);
        let of_rule = rule.and_then(|nth| self.rules.get(nth));
        let callers = of_rule.map_or(&self.callers, |(_, callers)| callers);
        let each = self.limit.per_identity(rule);
        if let Some(rate) = each {
            let taken = callers.with(peer.id(), now, |bucket| bucket.take(rate, now));
            taken.map_err(|wait| Limited::new(wait, rate, EACH))?;
        }
        let give_back = || {
            if let Some(rate) = each {
                callers.with(peer.id(), now, |bucket| bucket.give_back(rate));
            }
        };
        let part = of_rule.zip(self.limit.total_of(rule));
        if let Some(((bucket, _), rate)) = part {
            bucket.take(rate, now).map_err(|wait| {
                give_back();
                Limited::new(wait, rate, SUCH)
            })?;
        }
        if let Some(rate) = self.limit.all().total {
            self.total.take(rate, now).map_err(|wait| {
                give_back();
                if let Some(((bucket, _), rate)) = part {
                    bucket.give_back(rate);
                }
                Limited::new(wait, rate, ALL)
            })?;
        }
        Ok(())
    }

    /// That a request is not taken.
    #[cfg(feature = "runtime")]
    #[cold]
    pub(crate) fn refuse(&self, limited: &Limited) -> Error {
        let (rate, of) = (limited.rate, limited.of);
        let error = Error::new(Reason::RateLimited, format!("{rate}, of {of}"));
        let error = error.with_wait(limited.wait);
        match &self.block.from {
            Some(from) => error.with_policy(from.clone()),
            None => error,
        }
    }
}

// === impl Callers ===

impl Callers {
    /// Does something with the bucket of a caller.
    fn with<T>(&self, id: Option<&SpiffeId>, now: Duration, act: impl Fn(&Bucket) -> T) -> T {
        let Some(id) = id else {
            return act(&self.without);
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = known.buckets.get(id) {
            return act(bucket);
        }
        if known.buckets.len() >= IDENTITIES && now >= known.sweep {
            known.sweep = now + SWEEP;
            known.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        if known.buckets.len() >= IDENTITIES {
            return act(&self.others);
        }
        act(known.buckets.entry(id.clone()).or_default())
    }
}

// === impl Limited ===

impl Limited {
    #[cold]
    fn new(wait: Duration, rate: Rate, of: &'static str) -> Self {
        Self { wait, rate, of }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::super::policy::{RateRule, Rates};
    use super::*;
    use crate::authorize::{HttpView, Operation, PolicyRule, PolicySource};

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(requests: u32) -> Option<Rate> {
        Some(Rate::new(requests, SECOND, requests).unwrap())
    }

    fn limiter(all: Rates, rules: Vec<RateRule>) -> Limiter {
        let limit = RateLimit::new(all, rules).unwrap();
        Limiter::new(Block::built(limit.into()), None, PathForm::default())
    }

    fn web(nth: u32) -> Peer {
        Peer::Verified(
            format!("spiffe://a.org/ns/shop/sa/web{nth}")
                .parse()
                .unwrap(),
        )
    }

    /// How many of so many requests of a peer are taken at a moment.
    fn taken(limiter: &Limiter, peer: &Peer, path: &str, count: u32, now: Duration) -> u32 {
        let headers = HeaderMap::new();
        let view = RequestView::Http(HttpView::new(&Method::GET, path, None, &headers));
        let admitted = (0..count).filter(|_| limiter.admit(peer, &view, now).is_ok());
        u32::try_from(admitted.count()).unwrap()
    }

    #[test]
    fn each_caller_has_its_own_and_all_have_one_total() {
        let limiter = limiter(Rates::new(rate(25), rate(10)), Vec::new());
        let of = |peer: &Peer, count| taken(&limiter, peer, "/", count, SECOND);
        assert_eq!(of(&web(1), 12), 10);
        assert_eq!(of(&Peer::Unauthenticated, 12), 10);
        // The total is used up; what is refused for that costs its caller nothing.
        assert_eq!(of(&web(2), 12), 5);
        assert_eq!(taken(&limiter, &web(2), "/", 20, 2 * SECOND), 10);
    }

    #[test]
    fn the_first_rule_that_is_met_counts_in_place_of_the_rate_of_each() {
        let batch = PolicySource::builder().principals(["a.org/ns/shop/sa/web7"]);
        let from = PolicyRule::new(vec![batch.build().unwrap()], Vec::new());
        let slow = Operation::builder().paths(["/slow"]).build().unwrap();
        let to = PolicyRule::new(Vec::new(), vec![slow]);
        let rules = vec![
            RateRule::new(from, Rates::new(None, rate(30))).unwrap(),
            RateRule::new(to, Rates::new(rate(3), None)).unwrap(),
        ];
        let limiter = limiter(Rates::new(None, rate(10)), rules);
        for (peer, path, wanted) in [
            (web(1), "/", 10),
            (web(7), "/", 30),
            // The rule of the caller comes first.
            (web(7), "/slow", 0),
            (web(1), "/slow", 3),
            (web(2), "/slow", 0),
            // Another reading of the path.
            (web(3), "/%73low", 0),
            // Callers without an ID meet no rule that names one.
            (Peer::Unauthenticated, "/", 10),
        ] {
            assert_eq!(taken(&limiter, &peer, path, 40, SECOND), wanted, "{path}");
        }
    }

    #[test]
    fn a_bounded_number_of_callers_is_kept() {
        let limiter = limiter(Rates::new(None, rate(1)), Vec::new());
        let many = u32::try_from(IDENTITIES).unwrap();
        for nth in 0..many {
            assert_eq!(taken(&limiter, &web(nth), "/", 1, SECOND), 1);
        }
        // There is no room: two more have one bucket.
        assert_eq!(taken(&limiter, &web(many), "/", 1, SECOND), 1);
        assert_eq!(taken(&limiter, &web(many + 1), "/", 1, SECOND), 0);
        // Those that rest make room.
        let later = 3 * SECOND;
        assert_eq!(taken(&limiter, &web(many), "/", 1, later), 1);
        assert_eq!(taken(&limiter, &web(many + 1), "/", 1, later), 1);
        let known = limiter.callers.known.lock().unwrap();
        assert_eq!(known.buckets.len(), 2);
    }

    #[cfg(feature = "runtime")]
    #[test]
    fn a_refusal_says_how_long_to_wait_and_by_which_limit() {
        let limiter = limiter(Rates::new(None, rate(2)), Vec::new());
        assert_eq!(taken(&limiter, &web(1), "/", 2, SECOND), 2);
        let headers = HeaderMap::new();
        let view = RequestView::Http(HttpView::new(&Method::GET, "/", None, &headers));
        let limited = limiter.admit(&web(1), &view, SECOND).unwrap_err();
        assert_eq!(limited.wait, SECOND / 2);
        let error = limiter.refuse(&limited);
        assert_eq!(error.detail(), "2 in 1 s, 2 at once, of each caller");
        let plain = error.response(false);
        assert_eq!(
            (plain.status().as_u16(), &plain.headers()["retry-after"]),
            (429, &"1".parse().unwrap())
        );
        let call = error.response(true);
        assert_eq!(call.headers()["grpc-status"], "8");
        assert_eq!(call.headers()["grpc-retry-pushback-ms"], "500");
    }
}
