//! Lines that strangers can cause, at most one in a while for each reason: a byte of theirs costs a
//! connection, not a line. What is left out is counted, and said with the next line. Pure but for
//! the lock; time is an argument.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// How far apart two lines of one reason are at least.
const APART: Duration = Duration::from_secs(10);

/// What was said last of each reason. There are few reasons.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<Vec<Said>>);

#[derive(Debug)]
struct Said {
    reason: &'static str,
    at: SystemTime,
    left_out: u64,
}

impl Seldom {
    /// Whether a line of `reason` may be written now, and how many were left out since the last one.
    pub(crate) fn admit(&self, reason: &'static str, now: SystemTime) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(said) = all.iter_mut().find(|said| said.reason == reason) else {
            all.push(Said {
                reason,
                at: now,
                left_out: 0,
            });
            return Some(0);
        };
        // A clock that was set back begins anew.
        if now.duration_since(said.at).is_ok_and(|since| since < APART) {
            said.left_out += 1;
            return None;
        }
        said.at = now;
        Some(std::mem::take(&mut said.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_reason_in_a_while() {
        let (seldom, begin) = (Seldom::default(), SystemTime::UNIX_EPOCH + APART);
        let at = |millis| begin + Duration::from_millis(millis);
        assert_eq!(seldom.admit("a", at(0)), Some(0));
        assert_eq!(seldom.admit("b", at(1)), Some(0));
        for millis in 1..1_000 {
            assert_eq!(seldom.admit("a", at(millis)), None);
        }
        assert_eq!(seldom.admit("a", at(9_999)), None);
        assert_eq!(seldom.admit("a", at(10_000)), Some(1_000));
        assert_eq!(seldom.admit("a", at(20_000)), Some(0));
        assert_eq!(seldom.admit("a", at(0)), Some(0), "the clock was set back");
    }
}
