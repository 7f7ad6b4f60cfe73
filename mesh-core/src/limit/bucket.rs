//! One token bucket, as the one number that it needs: when it will be full again (GCRA, ITU-T I.371).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::policy::Rate;

/// What is left of a rate. All times are on one monotonic clock of the caller.
#[derive(Debug, Default)]
pub(super) struct Bucket(AtomicU64);

impl Bucket {
    /// Takes a request, if there is room for it.
    ///
    /// # Errors
    ///
    /// How long until there is.
    pub(super) fn take(&self, rate: Rate, now: Duration) -> Result<(), Duration> {
        let (now, each) = (nanos(now), rate.each());
        let room = each.saturating_mul(rate.burst().into());
        let fill = |full: u64| {
            let after = full.max(now).saturating_add(each);
            (after - now <= room).then_some(after)
        };
        let (here, there) = (Ordering::Relaxed, Ordering::Relaxed);
        match self.0.fetch_update(here, there, fill) {
            Ok(_) => Ok(()),
            Err(full) => {
                let after = full.max(now).saturating_add(each);
                Err(Duration::from_nanos(after - now - room))
            }
        }
    }

    /// Puts back what was taken for a request that another bucket has no room for.
    pub(super) fn give_back(&self, rate: Rate) {
        let back = |full: u64| Some(full.saturating_sub(rate.each()));
        let (here, there) = (Ordering::Relaxed, Ordering::Relaxed);
        // It is always set.
        let _before = self.0.fetch_update(here, there, back);
    }

    /// Whether it is as good as new.
    pub(super) fn is_full(&self, now: Duration) -> bool {
        self.0.load(Ordering::Relaxed) <= nanos(now)
    }
}

fn nanos(now: Duration) -> u64 {
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_is_taken_at_once_and_the_rest_at_the_rate() {
        let (bucket, rate) = (Bucket::default(), Rate::new(10, SECOND, 3).unwrap());
        let taken = |now| bucket.take(rate, now).is_ok();
        assert_eq!([SECOND; 4].map(taken), [true, true, true, false]);
        let wait = bucket.take(rate, SECOND).unwrap_err();
        assert_eq!(wait, SECOND / 10);
        assert!(!taken(SECOND + wait - Duration::from_nanos(1)));
        assert!(taken(SECOND + wait));
        assert!(!taken(SECOND + wait));
        // A long rest fills it, and no more than that.
        assert!(!bucket.is_full(SECOND + SECOND / 4));
        assert!(bucket.is_full(SECOND + 2 * SECOND / 5));
        assert_eq!([60 * SECOND; 4].map(taken), [true, true, true, false]);
        bucket.give_back(rate);
        assert!(taken(60 * SECOND));
    }

    proptest! {
        /// In any span of time at most the burst and what flows in meanwhile.
        #[test]
        fn no_span_has_more_than_its_rate(
            requests in 1_u32..1_000,
            burst in 1_u32..50,
            steps in proptest::collection::vec(0_u64..20_000_000, 1..300),
        ) {
            let (bucket, rate) = (Bucket::default(), Rate::new(requests, SECOND, burst).unwrap());
            let mut now = Duration::ZERO;
            let mut taken = Vec::new();
            for step in steps {
                now += Duration::from_nanos(step);
                match bucket.take(rate, now) {
                    Ok(()) => taken.push(now),
                    Err(wait) => prop_assert!(!wait.is_zero()),
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let span = (*to - *from).as_secs_f64();
                    let most = f64::from(burst) + span * f64::from(requests) + 1e-6;
                    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
                    let count = (last - first + 1) as f64;
                    prop_assert!(count <= most + 1e-3, "{count} in {span}s");
                }
            }
        }
    }
}
