//! What follows from how requests fare with what is staged and without. Pure.
//!
//! 1. A member that refuses it takes it back at once.
//! 2. So do failures: where a larger share of requests fails with it than without. Larger is what chance explains
//!    once in 30,000 (the z-test of two proportions, at [`SIGMAS`]), by one request in 100 at least, and with
//!    [`FEWEST`] that failed.
//! 3. So does time: the same rule over requests that took more than twice as long as 99 of 100 do without it.
//! 4. Otherwise it is for all, once its time has passed, every member of the canary still reports and each side has
//!    had [`ENOUGH`] requests: of so many, one failure in 20 would have shown (5 or more of 250 in 199 cases of 200,
//!    which are more than 4 errors beside 1,000 without). Where that is not so within [`GRACE`], it is taken back:
//!    nothing is for all that was not seen.

use std::time::Duration;

use super::tally::{BOUNDS, Counted};

/// How far beyond chance a difference lies: 4 standard errors. It is looked at every second.
const SIGMAS: f64 = 4.0;
/// The least difference that counts.
const LEAST: f64 = 0.01;
/// The fewest requests that failed, or were slow, that count.
const FEWEST: u64 = 5;
/// The fewest requests of a side that are compared.
const SOME: u64 = 20;
/// The fewest requests with it and without, before it is for all.
const ENOUGH: (u64, u64) = (250, 1_000);
/// How much longer these are waited for.
const GRACE: Duration = Duration::from_secs(20);

/// What is known of a stage that runs.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Evidence<'a> {
    /// How requests fared with what is staged.
    pub canary: &'a Counted,
    /// The same without it.
    pub rest: &'a Counted,
    /// How many members were chosen.
    pub chosen: u64,
    /// Why a member refuses it.
    pub refused: Option<&'a str>,
    /// For how long it has run.
    pub elapsed: Duration,
    /// For how long it is compared.
    pub lasts: Duration,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is for all, and why.
    Promote(String),
    /// It is taken back, and why.
    Revert(String),
    /// It is too early to say.
    Wait,
}

// === impl Evidence ===

impl<'a> Evidence<'a> {
    /// How both sides have fared after `elapsed`, of `lasts`; none refuses it.
    #[must_use]
    pub fn new(
        (canary, rest): (&'a Counted, &'a Counted),
        chosen: u64,
        elapsed: Duration,
        lasts: Duration,
    ) -> Self {
        Self {
            canary,
            rest,
            chosen,
            refused: None,
            elapsed,
            lasts,
        }
    }
}

/// Says what follows.
///
/// ```
/// use std::time::Duration;
/// use inmesh_discovery::stage::{Counted, Evidence, Verdict, judge};
/// let (canary, rest) = (Counted::of_one(600, 31, &[600]), Counted::of_one(5_400, 0, &[5_400]));
/// let after = Duration::from_secs(9);
/// let evidence = Evidence::new((&canary, &rest), 1, after, Duration::from_secs(30));
/// let why = "5.2 % of 600 requests failed with it, 0.0 % of 5400 without";
/// assert_eq!(judge(&evidence), Verdict::Revert(why.into()));
/// ```
#[must_use]
pub fn judge(of: &Evidence<'_>) -> Verdict {
    let (canary, rest) = (of.canary, of.rest);
    if let Some(why) = of.refused {
        return Verdict::Revert(format!("a member refuses it: {why}"));
    }
    if more(canary, canary.failed, rest, rest.failed) {
        return Verdict::Revert(compared("failed", canary.failed, rest.failed, of));
    }
    if let Some((bound, slow, slow_without)) = slow(canary, rest)
        && more(canary, slow, rest, slow_without)
    {
        let took = format!("took longer than {bound} ms");
        return Verdict::Revert(compared(&took, slow, slow_without, of));
    }
    if of.elapsed < of.lasts {
        return Verdict::Wait;
    }
    let lacks = if canary.members < of.chosen {
        let gone = of.chosen - canary.members;
        format!(
            "{gone} of {} members that have it report no longer",
            of.chosen
        )
    } else if canary.requests < ENOUGH.0 || rest.requests < ENOUGH.1 {
        format!(
            "too few requests to tell: {} with it and {} without, of {} and {}",
            canary.requests, rest.requests, ENOUGH.0, ENOUGH.1
        )
    } else {
        return Verdict::Promote(compared("failed", canary.failed, rest.failed, of));
    };
    if of.elapsed < of.lasts + GRACE {
        return Verdict::Wait;
    }
    Verdict::Revert(lacks)
}

/// Whether a larger share of `canary` is `bad` than of `rest`, by more than chance.
fn more(canary: &Counted, bad: u64, rest: &Counted, bad_without: u64) -> bool {
    if bad < FEWEST || canary.requests.min(rest.requests) < SOME {
        return false;
    }
    let (of, without) = (float(canary.requests), float(rest.requests));
    let difference = float(bad) / of - float(bad_without) / without;
    let both = (float(bad) + float(bad_without)) / (of + without);
    let error = (both * (1.0 - both) * (1.0 / of + 1.0 / without)).sqrt();
    // All of both are bad: there is no error, and no difference.
    difference >= LEAST && difference >= SIGMAS * error
}

/// Twice the time within which 99 of 100 requests of the rest are answered, in milliseconds, and how many took
/// longer on each side; `None` where there is no such bound.
fn slow(canary: &Counted, rest: &Counted) -> Option<(u64, u64, u64)> {
    let mut within = 0_u64;
    let all = rest
        .took
        .iter()
        .fold(0_u64, |sum, n| sum.saturating_add(*n));
    let nth = rest.took.iter().position(|count| {
        within = within.saturating_add(*count);
        within >= all - all / 100
    })?;
    // The last has no bound.
    let twice = nth + 1;
    if all == 0 || twice + 1 >= BOUNDS {
        return None;
    }
    let beyond = |of: &Counted| {
        let beyond = of.took.iter().skip(twice + 1);
        beyond.fold(0_u64, |sum, n| sum.saturating_add(*n))
    };
    Some((1 << twice, beyond(canary), beyond(rest)))
}

fn compared(what: &str, bad: u64, bad_without: u64, of: &Evidence<'_>) -> String {
    format!(
        "{:.1} % of {} requests {what} with it, {:.1} % of {} without",
        percent(bad, of.canary.requests),
        of.canary.requests,
        percent(bad_without, of.rest.requests),
        of.rest.requests
    )
}

fn percent(part: u64, of: u64) -> f64 {
    100.0 * float(part) / float(of.max(1))
}

#[expect(clippy::cast_precision_loss, reason = "a share of a count")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LASTS: Duration = Duration::from_secs(30);

    fn side(requests: u64, failed: u64) -> Counted {
        Counted::of_one(requests, failed, &[requests])
    }

    fn after(secs: u64, canary: &Counted, rest: &Counted) -> Verdict {
        let elapsed = Duration::from_secs(secs);
        judge(&Evidence::new((canary, rest), 1, elapsed, LASTS))
    }

    fn word(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Promote(_) => "promote",
            Verdict::Revert(_) => "revert",
            Verdict::Wait => "wait",
        }
    }

    #[test]
    fn what_fails_is_taken_back_and_what_does_not_is_for_all() {
        for (secs, canary, rest, expected) in [
            // One in 20 fails.
            (5, (200, 10), (1_800, 0), "revert"),
            (5, (1_000, 50), (9_000, 90), "revert"),
            // All of it, as soon as there is something to compare with.
            (1, (20, 20), (20, 0), "revert"),
            (1, (20, 20), (19, 0), "wait"),
            // A few: by chance, or too few to count.
            (5, (200, 4), (1_800, 0), "wait"),
            (5, (200, 7), (1_800, 40), "wait"),
            // As much as the rest, or less.
            (29, (500, 500), (1_000, 1_000), "wait"),
            (30, (500, 500), (1_000, 1_000), "promote"),
            (30, (500, 0), (1_000, 200), "promote"),
            // Significant, and less than one in 100.
            (30, (100_000, 900), (100_000, 100), "promote"),
            (30, (100_000, 1_200), (100_000, 100), "revert"),
            // Too few to tell.
            (30, (249, 0), (9_000, 0), "wait"),
            (49, (9_000, 0), (999, 0), "wait"),
            (50, (249, 0), (9_000, 0), "revert"),
            (50, (0, 0), (0, 0), "revert"),
            (50, (250, 0), (1_000, 0), "promote"),
        ] {
            let (canary, rest) = (side(canary.0, canary.1), side(rest.0, rest.1));
            let verdict = after(secs, &canary, &rest);
            assert_eq!(
                word(&verdict),
                expected,
                "{secs} s, {canary:?} {rest:?}: {verdict:?}"
            );
        }
    }

    #[test]
    fn what_is_slow_is_taken_back() {
        // Nearly all of the rest take 4 ms at most.
        let rest = Counted::of_one(10_000, 0, &[5_000, 3_000, 1_950, 50]);
        for (took, expected) in [
            (&[500, 300, 195, 5][..], "promote"),
            // Up to twice as long is no difference that is seen.
            (&[0, 0, 0, 1_000], "promote"),
            (&[500, 300, 150, 0, 50], "revert"),
            (&[992, 0, 0, 0, 4, 4], "promote"),
        ] {
            let verdict = after(30, &Counted::of_one(1_000, 0, took), &rest);
            assert_eq!(word(&verdict), expected, "{took:?}: {verdict:?}");
        }
        let slow = after(
            9,
            &Counted::of_one(1_000, 0, &[500, 300, 150, 0, 50]),
            &rest,
        );
        let why = "5.0 % of 1000 requests took longer than 8 ms with it, 0.0 % of 10000 without";
        assert_eq!(slow, Verdict::Revert(why.into()));
        // Beyond the last bound nothing is twice as long.
        let mut last = Counted::of_one(1_000, 0, &[0; BOUNDS]);
        last.took[BOUNDS - 1] = 1_000;
        assert_eq!(word(&after(30, &last, &last)), "promote");
    }

    #[test]
    fn a_member_that_refuses_or_is_gone_takes_it_back() {
        let good = side(1_000, 0);
        let mut evidence = Evidence::new((&good, &good), 2, LASTS, LASTS);
        assert_eq!(word(&judge(&evidence)), "wait");
        evidence.elapsed += GRACE;
        let gone = "1 of 2 members that have it report no longer";
        assert_eq!(judge(&evidence), Verdict::Revert(gone.into()));
        evidence.elapsed = Duration::ZERO;
        evidence.refused = Some("spec.rules: is empty");
        let why = "a member refuses it: spec.rules: is empty";
        assert_eq!(judge(&evidence), Verdict::Revert(why.into()));
    }

    fn counted() -> impl Strategy<Value = Counted> {
        let took = proptest::array::uniform16(0..9_000_u64);
        (took, 0.0..=1.0).prop_map(|(took, failed): (_, f64)| {
            let requests: u64 = took.iter().sum();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of it"
            )]
            let failed = (float(requests) * failed) as u64;
            Counted::of_one(requests, failed, &took)
        })
    }

    proptest! {
        /// What fares alike is never taken back for it, and is for all in the end.
        #[test]
        fn alike_is_for_all(both in counted(), secs in 0..100_u64) {
            let verdict = after(secs, &both, &both);
            let enough = both.requests >= ENOUGH.1;
            let expected = match secs {
                0..30 => "wait",
                _ if enough => "promote",
                30..50 => "wait",
                _ => "revert",
            };
            prop_assert_eq!(word(&verdict), expected, "{:?}", verdict);
        }

        /// Nothing is for all before its time, or of few requests; nothing is taken back of very few before the end.
        #[test]
        fn nothing_follows_from_too_little(canary in counted(), rest in counted(), secs in 0..100_u64) {
            match after(secs, &canary, &rest) {
                Verdict::Promote(_) => {
                    prop_assert!(secs >= 30 && canary.requests >= ENOUGH.0 && rest.requests >= ENOUGH.1);
                }
                Verdict::Revert(_) => {
                    prop_assert!(secs >= 50 || canary.requests.min(rest.requests) >= SOME);
                }
                Verdict::Wait => prop_assert!(secs < 50),
            }
        }

        /// More failures never make it better.
        #[test]
        fn worse_is_no_better(rest in counted(), canary in counted(), more in 0..9_000_u64, secs in 0..100_u64) {
            let mut worse = canary;
            worse.failed = (worse.failed + more).min(worse.requests);
            if word(&after(secs, &canary, &rest)) == "revert" {
                prop_assert_eq!(word(&after(secs, &worse, &rest)), "revert");
            }
        }
    }
}
