//! How much of its share an endpoint takes for now, pure: less while it is new, less while it says that
//! it has too much to do.
//!
//! In come the settings, an endpoint's age and the time; out comes a [`Share`], by which it is drawn
//! less often, and its load counts for more. Each share is above 0, so that an endpoint of a set that
//! has no other still gets all.

use std::time::Duration;

use super::strategy::InvalidStrategy;
use crate::model::parts;

/// What an endpoint takes that has too much to do: a tenth.
const SHED: u64 = Share::WHOLE / 10;
/// How long it takes less if it says no time, and the longest that it may ask for.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The longest slow start.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// A new endpoint takes its share little by little (`warmup` of a DestinationRule).
///
/// ```
/// use std::time::Duration;
/// use inmesh_core::balance::SlowStart;
/// let minute = Duration::from_secs(60);
/// assert!(SlowStart::new(minute, 10, 1.0).is_ok());
/// assert!(SlowStart::new(minute, 0, 1.0).is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowStart {
    window: Duration,
    percent: u8,
    /// In thousandths.
    aggression: u32,
}

/// A part of [`WHOLE`](Self::WHOLE), above 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Share(u64);

// === impl SlowStart ===

impl SlowStart {
    /// Over so long (`duration`), from so much of its share in percent (`minimumPercent`) to all of it.
    /// At an `aggression` of 1 the share grows evenly; above, faster at first.
    ///
    /// # Errors
    ///
    /// [`InvalidStrategy`] if the time is 0 or above a day, the percentage not 1 to 100, or the
    /// aggression not 0.1 to 100 or between two thousandths.
    pub fn new(
        window: Duration,
        minimum_percent: u8,
        aggression: f64,
    ) -> Result<Self, InvalidStrategy> {
        let refuse = |why: String| Err(InvalidStrategy::new(why));
        if window.is_zero() || window > LONGEST {
            return refuse("a slow start takes more than 0s and at most 24h".into());
        }
        if !(1..=100).contains(&minimum_percent) {
            return refuse(format!("{minimum_percent} percent are not 1 to 100"));
        }
        if !(0.1..=100.0).contains(&aggression) {
            return refuse(format!("an aggression of {aggression} is not 0.1 to 100"));
        }
        let Some(aggression) = parts(aggression, 1_000) else {
            return refuse(format!(
                "an aggression has three digits after the point, not {aggression}"
            ));
        };
        Ok(Self {
            window,
            percent: minimum_percent,
            aggression,
        })
    }

    /// How long it takes.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// The share of a new endpoint, in percent.
    pub fn minimum_percent(&self) -> u8 {
        self.percent
    }

    /// How fast the share grows at first.
    pub fn aggression(&self) -> f64 {
        f64::from(self.aggression) / 1_000.0
    }

    /// The share at an age: the age's part of the window to the power of 1 / aggression (Envoy, "Slow
    /// start mode"), and the minimum at least.
    pub(super) fn share(&self, age: Duration) -> Share {
        if age >= self.window {
            return Share::whole();
        }
        let least = Share::WHOLE * u64::from(self.percent) / 100;
        let part = age.as_secs_f64() / self.window.as_secs_f64();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of 65,536"
        )]
        let grown = (part.powf(1.0 / self.aggression()) * Share::WHOLE as f64) as u64;
        Share(grown.clamp(least, Share::WHOLE))
    }
}

// === impl Share ===

impl Share {
    /// All of its share.
    pub(super) const WHOLE: u64 = 1 << 16;

    pub(super) fn whole() -> Self {
        Self(Self::WHOLE)
    }

    /// What is left of it while the endpoint has too much to do.
    pub(super) fn shed(self) -> Self {
        Self((self.0 * SHED / Self::WHOLE).max(1))
    }

    /// Whether a number, uniform in 64 bits, falls into it.
    pub(super) fn takes(self, drawn: u64) -> bool {
        drawn >> 48 < self.0
    }

    /// What a load counts for beside that of an endpoint which takes all of its share.
    pub(super) fn weigh(self, load: u64) -> u64 {
        let weighed = u128::from(load) * u128::from(Self::WHOLE) / u128::from(self.0);
        u64::try_from(weighed).unwrap_or(u64::MAX)
    }
}

/// How long an endpoint takes less that has asked for a pause of so long, or for none.
pub(super) fn pause(asked: Option<Duration>) -> Duration {
    let (default, longest) = PAUSE;
    asked.unwrap_or(default).min(longest)
}
