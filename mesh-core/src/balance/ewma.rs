//! How fast an endpoint answers, as an estimate that follows peaks at once and forgets them over time
//! (Finagle's peak EWMA). Pure: answers and the time come in.
//!
//! It differs in two points. Reading it does not change it. An answer that failed or was shed counts
//! for more than the estimate, however fast it came, so that an endpoint which refuses all it gets is
//! not the fastest.

use std::time::Duration;

/// An estimate falls to 1/e within this time, if no answer comes.
const DECAY: f32 = 10.0;
/// What a failed answer counts for at least, in seconds, and at most.
const FAILED: (f32, f32) = (1.0, 10.0);
/// Below this an endpoint counts as unknown, in seconds.
const UNKNOWN: f32 = 1e-6;
/// What a request to an unknown endpoint counts for until it is answered, in seconds: one is sent
/// there to see, not many.
const PENDING: f32 = 10.0;

/// An estimate, in 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Ewma {
    /// Seconds, at that moment.
    estimate: f32,
    /// Milliseconds of the caller's clock. They come round after 49 days: an estimate that is older
    /// than half of that seems to be of now.
    at: u32,
}

// === impl Ewma ===

impl Ewma {
    /// After an answer that took so long.
    pub(super) fn answered(self, took: Duration, now: Duration) -> Self {
        let (took, known) = (took.as_secs_f32(), self.at(now));
        let estimate = if took > known {
            took
        } else {
            // The older the estimate, the more an answer counts.
            known + took * (1.0 - self.fade(now))
        };
        Self::of(estimate, now)
    }

    /// After an answer that was not waited for any longer: it takes longer than that.
    #[cfg(any(feature = "runtime", feature = "simulate"))]
    pub(super) fn outrun(self, took: Duration, now: Duration) -> Self {
        match took.as_secs_f32() > self.at(now) {
            true => Self::of(took.as_secs_f32(), now),
            false => self,
        }
    }

    /// After an answer that failed or was shed.
    pub(super) fn failed(self, took: Duration, now: Duration) -> Self {
        let (least, most) = FAILED;
        let worse = (2.0 * self.at(now)).clamp(least, most);
        Self::of(worse.max(took.as_secs_f32()), now)
    }

    /// The estimate in seconds; 0 is unknown.
    pub(super) fn at(self, now: Duration) -> f32 {
        let known = self.estimate * self.fade(now);
        if known < UNKNOWN { 0.0 } else { known }
    }

    /// What one more request to an endpoint costs that has some in flight: nanoseconds.
    pub(super) fn cost(self, in_flight: u32, now: Duration) -> u64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a load is compared, not counted"
        )]
        let requests = in_flight as f32;
        let seconds = match self.at(now) {
            0.0 if in_flight == 0 => 0.0,
            0.0 => PENDING + requests,
            known => known * (requests + 1.0),
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is above 0, and the cast saturates"
        )]
        let nanos = (seconds * 1e9) as u64;
        nanos
    }

    /// As one word.
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.estimate.to_bits()) << 32 | u64::from(self.at)
    }

    /// From what [`to_bits`](Self::to_bits) gave.
    pub(super) fn from_bits(bits: u64) -> Self {
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
        Self {
            estimate: f32::from_bits(half(bits >> 32)),
            at: half(bits),
        }
    }

    fn of(estimate: f32, now: Duration) -> Self {
        let at = millis(now);
        Self { estimate, at }
    }

    /// What is left of an estimate of 1.
    fn fade(self, now: Duration) -> f32 {
        let age = millis(now).wrapping_sub(self.at);
        // A clock that was read earlier than another task's is not 49 days ahead.
        let age = if age > u32::MAX / 2 { 0 } else { age };
        let age = Duration::from_millis(age.into()).as_secs_f32();
        (-age / DECAY).exp()
    }
}

fn millis(now: Duration) -> u32 {
    let wrapped = now.as_millis() & u128::from(u32::MAX);
    u32::try_from(wrapped).unwrap_or_default()
}
