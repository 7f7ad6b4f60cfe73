//! Which of several processes writes: a `coordination.k8s.io/v1 Lease`, decided upon without a clock of
//! its own. Pure.
//!
//! 1. A Lease that is not there, or has no holder, is taken.
//! 2. The holder renews it. It leads for less than the time that others wait, so that two never do.
//! 3. Another waits until the Lease has not changed for its duration, by its own clock: clocks of machines
//!    differ, and what a Lease says of a time is not compared with them.

use std::time::Duration;

use serde_json::{Value as Json, json};

/// How long others wait for the holder.
const DURATION: Duration = Duration::from_secs(15);
/// How long the holder leads after it has renewed.
const LEADS: Duration = Duration::from_secs(10);
/// How often it renews, and others look.
pub(super) const LOOK: Duration = Duration::from_secs(2);

/// One of those that may hold the Lease. Times are of one clock, from any begin.
#[derive(Debug)]
pub(super) struct Candidate {
    me: String,
    /// The Lease as it was seen last, and since when it has been so.
    seen: Option<(Json, Duration)>,
    leads_until: Option<Duration>,
}

/// What is to be written.
#[derive(Debug, PartialEq)]
pub(super) enum Write {
    /// There is no Lease: make one with this `spec`.
    Create(Json),
    /// Put this `spec` in the place of the one that was seen.
    Update(Json),
}

// === impl Candidate ===

impl Candidate {
    pub(super) fn new(me: &str) -> Self {
        Self {
            me: me.into(),
            seen: None,
            leads_until: None,
        }
    }

    /// Looks at the `spec` of the Lease, if there is one; `wall` is the time of day, which is only
    /// written. Returns what to write; once that has succeeded [`held`](Self::held) is to be called.
    pub(super) fn look(&mut self, spec: Option<&Json>, now: Duration, wall: &str) -> Option<Write> {
        let Some(spec) = spec else {
            return Some(Write::Create(self.spec(0, wall, wall)));
        };
        let holder = spec["holderIdentity"].as_str().unwrap_or_default();
        let transitions = spec["leaseTransitions"].as_i64().unwrap_or(0);
        if holder == self.me {
            let since = spec["acquireTime"].as_str().unwrap_or(wall);
            return Some(Write::Update(self.spec(transitions, since, wall)));
        }
        self.leads_until = None;
        let since = match &self.seen {
            Some((seen, since)) if seen == spec => *since,
            _ => {
                self.seen = Some((spec.clone(), now));
                now
            }
        };
        let seconds = spec["leaseDurationSeconds"].as_u64();
        let lasts = seconds.map_or(DURATION, Duration::from_secs);
        let over = holder.is_empty() || now.saturating_sub(since) > lasts;
        over.then(|| Write::Update(self.spec(transitions + 1, wall, wall)))
    }

    /// What was to be written at `now` has been.
    pub(super) fn held(&mut self, now: Duration) {
        self.leads_until = Some(now + LEADS);
    }

    /// Until when it leads, if it has led at all and has not lost that since.
    pub(super) fn until(&self) -> Option<Duration> {
        self.leads_until
    }

    /// Whether it leads.
    #[cfg(test)]
    pub(super) fn leads(&self, now: Duration) -> bool {
        self.leads_until.is_some_and(|until| now < until)
    }

    /// The `spec` that leaves the Lease to others at once, if it is held.
    pub(super) fn release(&mut self, spec: &Json) -> Option<Json> {
        self.leads_until = None;
        (spec["holderIdentity"] == self.me).then(|| {
            let mut spec = spec.clone();
            spec["holderIdentity"] = "".into();
            spec["leaseDurationSeconds"] = 1.into();
            spec
        })
    }

    fn spec(&self, transitions: i64, acquired: &str, renewed: &str) -> Json {
        json!({
            "holderIdentity": self.me, "leaseDurationSeconds": DURATION.as_secs(),
            "acquireTime": acquired, "renewTime": renewed, "leaseTransitions": transitions,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: &str = "2026-01-31T12:00:00.000000Z";

    const fn s(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn written(write: Option<Write>) -> Json {
        match write {
            Some(Write::Create(spec) | Write::Update(spec)) => spec,
            None => panic!("nothing is to be written"),
        }
    }

    #[test]
    fn one_leads_and_another_takes_over_once_it_is_silent() {
        let (mut a, mut b) = (Candidate::new("a"), Candidate::new("b"));
        let first = a.look(None, s(0), WALL);
        assert!(matches!(first, Some(Write::Create(_))) && !a.leads(s(0)));
        a.held(s(0));
        assert!(a.leads(s(9)) && !a.leads(s(10)));
        let mut lease = written(first);
        for at in [1, 10, 16] {
            assert_eq!(b.look(Some(&lease), s(at), WALL), None, "{at}");
        }
        // A renewal is another Lease, whatever times it says.
        lease["renewTime"] = "2026-01-31T12:00:09.000000Z".into();
        assert_eq!(b.look(Some(&lease), s(17), WALL), None);
        assert_eq!(b.look(Some(&lease), s(32), WALL), None);
        let taken = written(b.look(Some(&lease), s(33), WALL));
        assert_eq!(
            (&taken["holderIdentity"], &taken["leaseTransitions"]),
            (&"b".into(), &1.into())
        );
        b.held(s(33));
        // The other has not led since long before, and sees that it has lost.
        assert!(b.leads(s(34)) && !a.leads(s(33)));
        assert_eq!(a.look(Some(&taken), s(34), WALL), None);
        let renewed = written(b.look(Some(&taken), s(35), "later"));
        assert_eq!(
            (&renewed["acquireTime"], &renewed["renewTime"]),
            (&WALL.into(), &"later".into())
        );
    }

    #[test]
    fn a_lease_that_is_released_is_taken_at_once() {
        let (mut a, mut b) = (Candidate::new("a"), Candidate::new("b"));
        let lease = written(a.look(None, s(0), WALL));
        a.held(s(0));
        assert_eq!(b.release(&lease), None);
        let released = a.release(&lease).expect("it is held");
        assert!(!a.leads(s(1)));
        assert!(b.look(Some(&released), s(1), WALL).is_some());
    }
}
