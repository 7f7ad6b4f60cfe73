//! How requests fared: of a member, of the members of a replica, of all. Pure.

use serde::{Deserialize, Serialize};

use super::annotation::Sided;
use super::share::LOWEST;

/// Between how many bounds it is counted how long requests took: 1, 2, 4 ms and so on; the last has none.
pub const BOUNDS: usize = 16;
/// How many refusals are said.
const REFUSED: usize = 4;
/// The longest in characters.
const LONGEST: usize = 256;

/// How the requests of some members fared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Counted {
    /// How many members.
    pub members: u64,
    /// Their requests.
    pub requests: u64,
    /// How many of these failed.
    pub failed: u64,
    /// How many took no longer than 2^n ms, and longer than half of that.
    pub took: [u64; BOUNDS],
}

/// How requests fared with what is staged, and without; of the members that a replica has, or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Tally {
    /// Members that have answered and can be chosen, whichever side they are on.
    pub members: u64,
    /// Those that cannot.
    pub others: u64,
    /// The lowest of their marks, in order.
    pub lowest: Vec<u64>,
    /// Members that have what is staged.
    pub canary: Counted,
    /// All others.
    pub rest: Counted,
    /// Why members refuse it.
    pub refused: Vec<String>,
}

// === impl Counted ===

impl Counted {
    /// What one member has counted.
    #[must_use]
    pub fn of_one(requests: u64, failed: u64, took: &[u64]) -> Self {
        let mut counted = Self {
            members: 1,
            requests,
            failed: failed.min(requests),
            took: [0; BOUNDS],
        };
        for (sum, count) in counted.took.iter_mut().zip(took) {
            *sum = *count;
        }
        counted
    }

    /// Adds what others have counted.
    ///
    /// ```
    /// use inmesh_discovery::stage::Counted;
    /// let mut sum = Counted::of_one(10, 1, &[10]);
    /// sum.add(&Counted::of_one(5, 0, &[0, 5]));
    /// assert_eq!((sum.members, sum.requests, sum.failed, sum.took[1]), (2, 15, 1, 5));
    /// ```
    pub fn add(&mut self, other: &Self) {
        // What members say is not to be believed that far.
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.members, other.members);
        add(&mut self.requests, other.requests);
        add(&mut self.failed, other.failed);
        for (sum, count) in self.took.iter_mut().zip(other.took) {
            add(sum, count);
        }
    }

    /// The same without how long requests took.
    #[must_use]
    pub fn side(&self) -> Sided {
        Sided {
            members: self.members,
            requests: self.requests,
            failed: self.failed,
        }
    }
}

// === impl Tally ===

impl Tally {
    /// Notes a member with its mark.
    pub fn member(&mut self, mark: u64) {
        self.members += 1;
        let at = self.lowest.partition_point(|known| *known <= mark);
        if at < LOWEST {
            self.lowest.insert(at, mark);
            self.lowest.truncate(LOWEST);
        }
    }

    /// Notes why a member refuses what is staged.
    pub fn refuse(&mut self, why: &str) {
        if self.refused.len() < REFUSED {
            self.refused.push(why.chars().take(LONGEST).collect());
        }
    }

    /// Adds that of another replica.
    pub fn add(&mut self, other: &Self) {
        self.members = self.members.saturating_add(other.members);
        self.others = self.others.saturating_add(other.others);
        self.lowest.extend(&other.lowest);
        self.lowest.sort_unstable();
        self.lowest.truncate(LOWEST);
        self.canary.add(&other.canary);
        self.rest.add(&other.rest);
        other.refused.iter().for_each(|why| self.refuse(why));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Members that are spread over replicas are the same as all at one.
        #[test]
        fn replicas_add_up(members in proptest::collection::vec((0..3_usize, any::<u64>(), any::<bool>(), 0..9_u64), 0..600)) {
            let mut one = Tally::default();
            let mut each = [Tally::default(), Tally::default(), Tally::default()];
            for (replica, mark, canary, requests) in members {
                for tally in [&mut one, &mut each[replica]] {
                    tally.member(mark);
                    let side = if canary { &mut tally.canary } else { &mut tally.rest };
                    side.add(&Counted::of_one(requests, requests / 2, &[requests]));
                }
            }
            let mut sum = Tally::default();
            each.iter().for_each(|tally| sum.add(tally));
            prop_assert_eq!(&sum, &one);
            prop_assert!(sum.lowest.len() <= LOWEST && sum.lowest.is_sorted());
        }
    }

    #[test]
    fn what_members_say_is_bounded() {
        let mut sum = Counted::of_one(u64::MAX, u64::MAX, &[u64::MAX; 99]);
        sum.add(&sum.clone());
        assert_eq!((sum.requests, sum.failed), (u64::MAX, u64::MAX));
        assert_eq!(
            Counted::of_one(1, 7, &[]).failed,
            1,
            "no more fail than there are"
        );
        let mut tally = Tally::default();
        for _ in 0..9 {
            tally.refuse(&"x".repeat(999));
        }
        assert_eq!(
            (tally.refused.len(), tally.refused[0].len()),
            (REFUSED, LONGEST)
        );
    }
}
