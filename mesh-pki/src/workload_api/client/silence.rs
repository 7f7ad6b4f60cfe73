//! The lives of SVIDs in, until when their agent may be silent out. Pure.
//!
//! An agent that hangs, or that has lost its own server, keeps a stream open and says nothing; the
//! only sign is that a renewal does not come. Agents renew at about half of a life, so one that has
//! not at three quarters is asked anew: a new stream begins with the full state.

use std::time::{Duration, SystemTime};

/// The shortest silence that is borne, so that the last moments of a life are not spent in a loop.
const SHORTEST: Duration = Duration::from_secs(1);

/// How long silence is tolerated once an SVID has ended, or while there is none.
const WITHOUT: Duration = Duration::from_secs(10);

/// When an SVID begins and ends to be valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

/// Until when to wait for the next message, where the last one came at `now`.
///
/// 1. Each SVID bears silence for three quarters of its life.
/// 2. After that it bears a quarter of what is left, so that the agent is asked more often as the end
///    comes near; a second at least.
/// 3. After its end it bears ten seconds.
/// 4. The most impatient of them decides.
pub(super) fn until(now: SystemTime, lives: &[Life]) -> SystemTime {
    let bears = lives.iter().map(|life| life.bears(now)).min();
    now.checked_add(bears.unwrap_or(WITHOUT)).unwrap_or(now)
}

impl Life {
    fn bears(self, now: SystemTime) -> Duration {
        let zero = Duration::ZERO;
        let life = self.not_after.duration_since(self.not_before);
        let quarter = life.unwrap_or(zero) / 4;
        match self.not_after.duration_since(now).unwrap_or(zero) {
            left if left.is_zero() => WITHOUT,
            left if left > quarter => left - quarter,
            left => (left / 4).max(SHORTEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{minutes, noon};

    #[test]
    fn silence_is_borne_for_three_quarters_of_a_life_and_less_and_less_after() {
        let life = |from: u64, to: u64| Life {
            not_before: noon() + minutes(from),
            not_after: noon() + minutes(to),
        };
        let secs = Duration::from_secs;
        let hour = [life(0, 60)];
        for (at, lives, expected) in [
            (secs(0), &hour[..], minutes(45)),
            (minutes(20), &hour, minutes(25)),
            (minutes(45) - secs(1), &hour, secs(1)),
            (minutes(45), &hour, minutes(15) / 4),
            (minutes(56), &hour, minutes(1)),
            (minutes(60) - secs(1), &hour, secs(1)),
            (minutes(60), &hour, secs(10)),
            (minutes(600), &hour, secs(10)),
            // Not valid yet, by a clock that is behind.
            (secs(0), &[life(30, 70)], minutes(60)),
            (secs(0), &[life(0, 60), life(0, 20)], minutes(15)),
            (secs(0), &[], secs(10)),
            (minutes(5), &[life(20, 10)], minutes(5)),
        ] {
            let now = noon() + at;
            assert_eq!(until(now, lives), now + expected, "{at:?} {lives:?}");
        }
    }
}
