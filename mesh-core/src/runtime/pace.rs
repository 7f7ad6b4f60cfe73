//! The pace of a body that a policy slows on purpose. Pure: parts of the body and the time come in, what
//! may pass now and when the rest may comes out.

use std::time::Duration;

use crate::traffic::Bandwidth;

/// Parts of a body pass so often at least, if they are there.
const TICK: Duration = Duration::from_millis(50);
const SECOND: u128 = Duration::from_secs(1).as_nanos();

/// The pace of one body.
#[derive(Debug)]
pub(super) struct Pace {
    bytes: u64,
    /// When the next byte may pass, since the body began.
    next: Duration,
}

impl Pace {
    pub(super) fn new(bandwidth: Bandwidth) -> Self {
        Self {
            bytes: bandwidth.bits() / 8,
            next: Duration::ZERO,
        }
    }

    /// How many of `there` bytes pass now.
    ///
    /// # Errors
    ///
    /// When the next may.
    pub(super) fn pass(&mut self, there: usize, now: Duration) -> Result<usize, Duration> {
        if now < self.next {
            return Err(self.next);
        }
        let in_tick = u128::from(self.bytes) * TICK.as_nanos() / SECOND;
        let most = usize::try_from(in_tick).unwrap_or(usize::MAX).max(1);
        let part = there.min(most);
        let nanos = part as u128 * SECOND / u128::from(self.bytes);
        // What was not used is gone: a server that pauses saves nothing up.
        self.next = now + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_takes_the_time_of_its_length() {
        for (bits, bytes, least) in [
            (8_000, 1_000, Duration::from_millis(950)),
            (1_000, 125, Duration::from_millis(950)),
            (80_000_000, 10_000_000, Duration::from_millis(950)),
            (8_000, 1, Duration::ZERO),
        ] {
            let mut pace = Pace::new(Bandwidth::new(bits).unwrap());
            let (mut left, mut now, mut parts) = (bytes, Duration::ZERO, 0);
            while left > 0 {
                match pace.pass(left, now) {
                    Ok(part) => {
                        assert!(part > 0);
                        left -= part;
                        parts += 1;
                    }
                    Err(next) => {
                        assert!(next > now);
                        assert!(next - now <= Duration::from_secs(1));
                        now = next;
                    }
                }
            }
            let most = least + Duration::from_millis(50);
            assert!((least..=most).contains(&now), "{bits}: {now:?}");
            assert!(parts <= 125, "{bits}: {parts}");
        }
    }

    #[test]
    fn a_pause_saves_nothing_up() {
        let mut pace = Pace::new(Bandwidth::new(8_000).unwrap());
        let later = Duration::from_secs(60);
        assert_eq!(pace.pass(1_000, Duration::ZERO), Ok(50));
        assert_eq!(pace.pass(1_000, later), Ok(50));
        let next = later + Duration::from_millis(50);
        assert_eq!(pace.pass(1_000, later), Err(next));
    }
}
