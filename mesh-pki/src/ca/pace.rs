//! A caller and the time in, whether it is its turn, or how long to wait, out. Pure; sans-io.
//!
//! A mesh that starts, or that a CA has been away from, asks all at once. At most `rate` leaves are
//! signed in any second, whatever comes. A caller that comes while others wait is given a slot of its own
//! behind theirs, and asked to come back then; a slot whose caller does not come back is free again
//! after a while. So a thousand wait for twenty seconds, each once, and no caller is overtaken by one that
//! asks more often.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How many leaves are signed in a second, unless configured otherwise.
pub const DEFAULT_RATE: u32 = 50;

/// How long a slot is kept for a caller that does not come back in time.
pub(crate) const HOLD: Duration = Duration::from_secs(10);

/// How many slots are given out at once; a later caller gets none, and tries again.
pub(crate) const MAX_WAITING: usize = 10_000;

/// How many slots one ID has at once: many processes share one, but none may take all.
pub(crate) const MAX_WAITING_EACH: usize = 1_000;

const SECOND: Duration = Duration::from_secs(1);

/// The pace of one CA; times count from any fixed moment.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    rate: u32,
    admitted: VecDeque<Duration>,
    waiting: BTreeMap<(String, String), Duration>,
    last_slot: Duration,
    swept: Duration,
}

impl Pace {
    /// At most `rate` in any second, at least one.
    #[must_use]
    pub(crate) fn new(rate: u32) -> Self {
        Self {
            rate: rate.max(1),
            admitted: VecDeque::new(),
            waiting: BTreeMap::new(),
            last_slot: Duration::ZERO,
            swept: Duration::ZERO,
        }
    }

    /// A process of `id`, named `instance`, asks at `now`.
    ///
    /// 1. Admissions older than a second, and slots whose callers did not come, are forgotten.
    /// 2. A caller whose slot has come is admitted, if this second has room.
    /// 3. A caller without a slot is admitted if no other waits and this second has room.
    /// 4. Any other caller waits: for its slot, for a new one behind the last, or for room.
    ///
    /// # Errors
    ///
    /// How long to stay away.
    pub(crate) fn handle_request(
        &mut self,
        id: &str,
        instance: &str,
        now: Duration,
    ) -> Result<(), Duration> {
        while self.admitted.front().is_some_and(|at| *at + SECOND <= now) {
            self.admitted.pop_front();
        }
        if self.last_slot + HOLD < now {
            self.waiting.clear();
            self.swept = now;
        } else if self.swept + SECOND <= now {
            self.swept = now;
            self.waiting.retain(|_, slot| *slot + HOLD >= now);
        }
        let room = self.admitted.len() < self.rate as usize;
        let next_room = self.admitted.front().map_or(now, |at| *at + SECOND);
        let caller = (id.to_owned(), instance.to_owned());
        match self.waiting.get(&caller) {
            Some(slot) if *slot <= now && room => {
                self.waiting.remove(&caller);
                self.admitted.push_back(now);
                Ok(())
            }
            Some(slot) if *slot <= now => Err(next_room - now),
            Some(slot) => Err(*slot - now),
            None if room && self.waiting.is_empty() => {
                self.admitted.push_back(now);
                Ok(())
            }
            None => {
                let slot = self.last_slot.max(next_room.max(now)) + SECOND / self.rate;
                if self.waiting.len() < MAX_WAITING && self.slots_of(id) < MAX_WAITING_EACH {
                    self.last_slot = slot;
                    self.waiting.insert(caller, slot);
                }
                Err(slot - now)
            }
        }
    }

    fn slots_of(&self, id: &str) -> usize {
        self.waiting
            .range((id.to_owned(), String::new())..)
            .take_while(|((of, _), _)| of == id)
            .count()
    }

    /// How many have a slot and have not come yet.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BinaryHeap;
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::rotate::schedule;
    use crate::testing::noon;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn nobody_waits_while_there_is_room() {
        let mut pace = Pace::new(3);
        for n in 0..3 {
            assert_eq!(pace.handle_request("a", "", ms(n)), Ok(()));
        }
        assert!(pace.handle_request("a", "", ms(4)).is_err());
        assert_eq!(pace.waiting(), 1);
        let mut pace = Pace::new(0);
        assert_eq!(pace.handle_request("a", "", ms(0)), Ok(()));
        assert!(
            pace.handle_request("a", "", ms(999)).is_err(),
            "one at least"
        );
    }

    #[test]
    fn who_waits_is_served_before_who_comes() {
        let mut pace = Pace::new(2);
        pace.handle_request("x", "", ms(0)).unwrap();
        pace.handle_request("x", "", ms(0)).unwrap();
        let first = pace.handle_request("a", "", ms(0)).unwrap_err();
        let second = pace.handle_request("b", "", ms(0)).unwrap_err();
        assert_eq!((first, second), (ms(1500), ms(2000)));
        // Asking again does not help, nor does it harm.
        assert_eq!(pace.handle_request("a", "", ms(500)), Err(ms(1000)));
        assert_eq!(pace.handle_request("new", "", ms(1400)), Err(ms(1100)));
        assert_eq!(pace.handle_request("a", "", ms(1500)), Ok(()));
        assert_eq!(pace.handle_request("b", "", ms(2000)), Ok(()));
        // The last one never comes: after a while all may.
        assert!(pace.handle_request("late", "", ms(12_400)).is_err());
        assert_eq!(pace.handle_request("later", "", ms(40_000)), Ok(()));
    }

    #[test]
    fn a_table_that_is_full_only_says_when() {
        let mut pace = Pace::new(1);
        pace.handle_request("x", "", ms(0)).unwrap();
        for n in 0..=MAX_WAITING {
            pace.handle_request(&n.to_string(), "", ms(0)).unwrap_err();
        }
        assert_eq!(pace.waiting(), MAX_WAITING);
    }

    #[test]
    fn one_id_does_not_take_all_slots() {
        let mut pace = Pace::new(50);
        for n in 0..5_000 {
            let _ = pace.handle_request("greedy", &n.to_string(), ms(0));
        }
        assert_eq!(pace.waiting(), MAX_WAITING_EACH);
        let wait = pace.handle_request("other", "", ms(0)).unwrap_err();
        assert!(wait <= ms(21_100), "{wait:?}");
    }

    proptest! {
        #[test]
        fn no_second_has_more_than_the_rate(
            rate in 1..20_u32,
            asks in proptest::collection::vec((0..40_u8, 0..300_u64), 1..400),
        ) {
            let mut pace = Pace::new(rate);
            let (mut now, mut admitted) = (Duration::ZERO, Vec::new());
            for (caller, pause) in asks {
                now += ms(pause);
                match pace.handle_request(&caller.to_string(), "", now) {
                    Ok(()) => admitted.push(now),
                    Err(wait) => prop_assert!(wait > Duration::ZERO),
                }
            }
            for (at, first) in admitted.iter().enumerate() {
                let within = admitted[at..].iter().filter(|t| **t - *first < SECOND).count();
                prop_assert!(within <= rate as usize);
            }
        }
    }

    /// Leaves of 400 s, a CA that is away for 40 % of that from their half life on, and a thousand
    /// that all started in the same second: each is renewed before its leaf expires.
    #[test]
    fn a_thousand_survive_a_ca_that_is_away() {
        let life = Duration::from_secs(400);
        let (away, back) = (life / 2, life / 2 + life.mul_f64(0.4));
        let mut pace = Pace::new(DEFAULT_RATE);
        // A cheap sequence that fills 0..1 evenly; a draw for each decision.
        let mut seed = 0.0_f64;
        let mut draw = || {
            seed = (seed + 0.618_033_988_749_895).fract();
            seed
        };
        let at = |moment: SystemTime| moment.duration_since(noon()).unwrap();
        let mut events = BinaryHeap::new();
        for caller in 0..1000_u32 {
            let issued = Duration::from_millis(u64::from(caller));
            let end = issued + life;
            let due = at(schedule::renew_at(noon() + issued, noon() + end, draw()));
            events.push((std::cmp::Reverse(due), caller, end, 0_u32));
        }
        let (mut admitted, mut tries, mut slack) = (Vec::new(), 0, life);
        while let Some((std::cmp::Reverse(now), caller, end, failures)) = events.pop() {
            assert!(now < end, "the leaf of {caller} has expired");
            tries += 1;
            let asked = if (away..back).contains(&now) {
                None
            } else {
                match pace.handle_request(&caller.to_string(), "", now) {
                    Ok(()) => {
                        admitted.push(now);
                        slack = slack.min(end - now);
                        continue;
                    }
                    Err(wait) => Some(wait),
                }
            };
            let left = Some(noon() + end);
            let pause = schedule::pause(noon() + now, left, failures + 1, asked, draw());
            events.push((std::cmp::Reverse(now + pause), caller, end, failures + 1));
        }
        assert_eq!(admitted.len(), 1000);
        let most = admitted
            .iter()
            .enumerate()
            .map(|(n, first)| {
                admitted[n..]
                    .iter()
                    .filter(|t| **t - *first < SECOND)
                    .count()
            })
            .max()
            .unwrap();
        let last = *admitted.last().unwrap();
        println!(
            "1000 renewed, the last {:?} after the CA came back with {slack:?} left, {tries} tries, {most} in the busiest second",
            last - back
        );
        assert!(most <= 50, "{most} in one second");
        assert!(slack > Duration::from_secs(5), "{slack:?} left");
    }
}
