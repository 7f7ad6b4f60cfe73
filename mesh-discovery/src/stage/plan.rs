//! The next step of a stage, for the replica that leads. Pure.

use std::time::Duration;

use super::annotation::{Running, Stage, State};
use super::judge::{Evidence, Verdict, judge};
use super::share::choose;
use super::tally::Tally;

/// How long it is waited for members to answer: a few reports of each, and of each replica.
const SETTLE: Duration = Duration::from_secs(5);
/// How long there have to be as many of them.
const STEADY: Duration = Duration::from_secs(2);
/// How long it is waited where too few have answered, or others still do.
const MEMBERS: Duration = Duration::from_secs(30);

/// How often it is written how requests fare.
const NOTE: Duration = Duration::from_secs(5);

/// What the replica that leads knows of a stage.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) stage: &'a Stage,
    /// The generation of its object now.
    pub(crate) generation: i64,
    /// Why it cannot be staged.
    pub(crate) unfit: Option<&'a str>,
    /// Another stage that runs.
    pub(crate) other: Option<&'a str>,
    /// How requests fare.
    pub(crate) tally: &'a Tally,
    /// For how long it has been known.
    pub(crate) seen_for: Duration,
    /// For how long its annotation has been as it is.
    pub(crate) noted_for: Duration,
    /// For how long as many members have answered.
    pub(crate) steady_for: Duration,
    /// Milliseconds since 1970.
    pub(crate) now: u64,
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// The annotation.
    Note(Stage),
    /// The annotation, and what was staged as the `spec` of the object.
    Promote(Stage),
    /// Nothing.
    Wait,
}

/// The next step.
pub(crate) fn step(of: &Known<'_>) -> Step {
    let stage = of.stage;
    if !stage.lives() {
        return Step::Wait;
    }
    let mut next = stage.clone();
    next.canary = of.tally.canary.side();
    next.rest = of.tally.rest.side();
    let revert = |next: Stage, why: &str| Step::Note(next.ended(State::Reverted, why));
    if of.generation != stage.generation {
        return revert(next, "the object was changed meanwhile");
    }
    if let Some(why) = of.unfit {
        return revert(next, why);
    }
    if let Some(other) = of.other {
        return revert(
            next,
            &format!("{other} is staged already, and one is at a time"),
        );
    }
    let Some(running) = &stage.running else {
        let is_steady = of.steady_for >= STEADY || of.seen_for >= MEMBERS;
        if of.seen_for < SETTLE || !is_steady {
            return Step::Wait;
        }
        let (members, others) = (of.tally.members, of.tally.others);
        return match choose((members, others), &of.tally.lowest, stage.percent) {
            Some(chosen) => {
                next.state = State::Running;
                let all = members.saturating_add(others);
                next.running = Some(Running::new(chosen.bound, of.now, all, chosen.chosen));
                Step::Note(next)
            }
            None if of.seen_for < MEMBERS => Step::Wait,
            None => {
                let why = format!(
                    "too few members have the object and answer: {members} that can be chosen, {others} that cannot"
                );
                revert(next, &why)
            }
        };
    };
    // Clocks of machines differ: of a begin that is to come no time has passed.
    let elapsed = Duration::from_millis(of.now.saturating_sub(running.began));
    let sides = (&of.tally.canary, &of.tally.rest);
    let lasts = Duration::from_secs(stage.seconds.into());
    let mut evidence = Evidence::new(sides, running.chosen, elapsed, lasts);
    evidence.refused = of.tally.refused.first().map(String::as_str);
    match judge(&evidence) {
        Verdict::Promote(why) => Step::Promote(next.ended(State::Promoted, &why)),
        Verdict::Revert(why) => revert(next, &why),
        Verdict::Wait => {
            let says_more = (next.canary, next.rest) != (stage.canary, stage.rest);
            match says_more && of.noted_for >= NOTE {
                true => Step::Note(next),
                false => Step::Wait,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tally::Counted;
    use super::*;

    const BEGAN: u64 = 1_000_000;

    fn staged() -> Stage {
        Stage::new("a1", 10, 30, 4, json!({}))
    }

    fn running() -> Stage {
        let mut stage = staged();
        stage.state = State::Running;
        stage.running = Some(Running::new(7, BEGAN, 10, 1));
        stage
    }

    fn members(of: u64) -> Tally {
        let mut tally = Tally::default();
        (1..=of).for_each(|mark| tally.member(mark));
        tally
    }

    fn sides(canary: (u64, u64), rest: (u64, u64)) -> Tally {
        let mut tally = members(10);
        tally.canary = Counted::of_one(canary.0, canary.1, &[canary.0]);
        tally.rest = Counted::of_one(rest.0, rest.1, &[rest.0]);
        tally
    }

    fn known<'a>(stage: &'a Stage, tally: &'a Tally, secs: u64) -> Known<'a> {
        Known {
            stage,
            generation: 4,
            unfit: None,
            other: None,
            tally,
            seen_for: Duration::from_secs(secs),
            noted_for: Duration::ZERO,
            steady_for: STEADY,
            now: BEGAN + secs * 1_000,
        }
    }

    fn word(step: &Step) -> String {
        match step {
            Step::Note(stage) => format!("{:?} {}", stage.state, stage.why),
            Step::Promote(stage) => format!("promote {:?}", stage.state),
            Step::Wait => "wait".into(),
        }
    }

    #[test]
    fn members_are_chosen_once_they_have_answered() {
        let (stage, ten, one) = (staged(), members(10), members(1));
        assert_eq!(step(&known(&stage, &ten, 4)), Step::Wait);
        let Step::Note(next) = step(&known(&stage, &ten, 5)) else {
            panic!("members are chosen");
        };
        assert_eq!(next.state, State::Running);
        assert_eq!(next.running, Some(Running::new(1, BEGAN + 5_000, 10, 1)));
        assert_eq!(next.spec, stage.spec);
        // While others still answer it is waited for them, and not for ever.
        for (secs, waits) in [(5, true), (29, true), (30, false)] {
            let mut of = known(&stage, &ten, secs);
            of.steady_for = Duration::from_secs(1);
            assert_eq!(step(&of) == Step::Wait, waits, "{secs}");
        }
        assert_eq!(step(&known(&stage, &one, 29)), Step::Wait);
        let reverted = step(&known(&stage, &one, 30));
        assert!(
            word(&reverted).starts_with("Reverted too few members"),
            "{reverted:?}"
        );
    }

    #[test]
    fn one_that_runs_ends_as_it_is_judged() {
        let stage = running();
        for (secs, tally, expected) in [
            (
                9,
                sides((600, 30), (5_400, 0)),
                "Reverted 5.0 % of 600 requests failed with it, 0.0 % of 5400 without",
            ),
            (9, sides((600, 0), (5_400, 0)), "wait"),
            (30, sides((600, 0), (5_400, 0)), "promote Promoted"),
        ] {
            let next = step(&known(&stage, &tally, secs));
            assert_eq!(word(&next), expected);
        }
        let Step::Promote(next) = step(&known(&stage, &sides((600, 1), (5_400, 2)), 30)) else {
            panic!("it is for all");
        };
        assert_eq!(
            (next.canary.failed, next.rest.requests, next.spec),
            (1, 5_400, None)
        );
        // How requests fare is written now and then, where there is something to say.
        let tally = sides((600, 0), (5_400, 0));
        let mut of = known(&stage, &tally, 9);
        of.noted_for = NOTE;
        let Step::Note(noted) = step(&of) else {
            panic!("it is noted");
        };
        assert_eq!((noted.state, noted.canary.requests), (State::Running, 600));
        let mut again = known(&noted, &tally, 15);
        again.noted_for = NOTE;
        assert_eq!(step(&again), Step::Wait);
        // A leader whose clock is behind begins anew.
        let tally = sides((600, 0), (5_400, 0));
        let mut early = known(&stage, &tally, 30);
        early.now = BEGAN - 1;
        assert_eq!(step(&early), Step::Wait);
    }

    #[test]
    fn what_has_no_place_any_more_is_taken_back() {
        let tally = sides((600, 0), (5_400, 0));
        for stage in [staged(), running()] {
            let of = known(&stage, &tally, 3);
            let changed = Known {
                generation: 5,
                ..of
            };
            let unfit = Known {
                unfit: Some("it is refused"),
                ..of
            };
            let other = Known {
                other: Some("HTTPRoute/a/b"),
                ..of
            };
            for (of, why) in [
                (changed, "changed meanwhile"),
                (unfit, "it is refused"),
                (other, "HTTPRoute/a/b"),
            ] {
                let next = step(&of);
                assert!(
                    word(&next).starts_with("Reverted ") && word(&next).contains(why),
                    "{next:?}"
                );
            }
        }
        let mut refuses = tally.clone();
        refuses.refuse("spec: no");
        let next = step(&known(&running(), &refuses, 1));
        assert_eq!(word(&next), "Reverted a member refuses it: spec: no");
        // What has ended stays as it is.
        let ended = running().ended(State::Stopped, "");
        assert_eq!(step(&known(&ended, &refuses, 99)), Step::Wait);
    }
}
