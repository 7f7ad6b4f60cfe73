//! Which endpoints of a set answer so much worse than the others that they are ejected, pure: what each
//! answered in an interval comes in, out come those to eject (gRPC A50, "success rate" and "failure
//! percentage"; Envoy has the same).

use super::strategy::InvalidStrategy;

/// Ejects those whose share of successes is below the mean of all by so many standard deviations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuccessRate {
    /// Thousandths of a standard deviation (`stdev_factor`).
    factor: u32,
    volume: Volume,
}

/// Ejects those that fail more than so many of a hundred requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailurePercentage {
    threshold: u8,
    volume: Volume,
}

/// What a comparison needs, so that it says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Volume {
    /// As many endpoints with enough requests (`minimum_hosts`).
    pub hosts: u32,
    /// As many requests to an endpoint in an interval (`request_volume`).
    pub requests: u32,
}

/// What became of the requests to an endpoint in an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Those that were answered as they should be.
    pub successes: u32,
    /// Those that failed by the endpoint's fault.
    pub failures: u32,
}

// === impl SuccessRate ===

impl SuccessRate {
    /// Below the mean by so many thousandths of a standard deviation, at 5 endpoints and 100 requests.
    /// gRPC and Envoy have 1,900.
    ///
    /// ```
    /// use inmesh_core::balance::SuccessRate;
    /// assert!(SuccessRate::new(1_900).is_ok());
    /// assert!(SuccessRate::new(0).is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidStrategy`] for 0, which would eject every endpoint below the mean, and above 10,000.
    pub fn new(factor: u32) -> Result<Self, InvalidStrategy> {
        if !(1..=10_000).contains(&factor) {
            return Err(InvalidStrategy::new(format!(
                "a factor of {factor} thousandths is not 1 to 10,000"
            )));
        }
        let volume = Volume::new(5, 100);
        Ok(Self { factor, volume })
    }

    /// The same with other needs.
    #[must_use]
    pub fn at(mut self, volume: Volume) -> Self {
        self.volume = volume;
        self
    }

    /// Thousandths of a standard deviation.
    pub fn factor(&self) -> u32 {
        self.factor
    }

    /// What it needs.
    pub fn volume(&self) -> Volume {
        self.volume
    }
}

// === impl FailurePercentage ===

impl FailurePercentage {
    /// More than so many of a hundred, at 5 endpoints and 50 requests. gRPC and Envoy have 85.
    ///
    /// # Errors
    ///
    /// [`InvalidStrategy`] above 100.
    pub fn new(threshold: u8) -> Result<Self, InvalidStrategy> {
        if threshold > 100 {
            return Err(InvalidStrategy::new(format!(
                "{threshold} percent are not 0 to 100"
            )));
        }
        let volume = Volume::new(5, 50);
        Ok(Self { threshold, volume })
    }

    /// The same with other needs.
    #[must_use]
    pub fn at(mut self, volume: Volume) -> Self {
        self.volume = volume;
        self
    }

    /// The percentage that ejects, if it is exceeded.
    pub fn threshold(&self) -> u8 {
        self.threshold
    }

    /// What it needs.
    pub fn volume(&self) -> Volume {
        self.volume
    }
}

// === impl Volume ===

impl Volume {
    /// So many endpoints, and so many requests to each; one at least.
    pub fn new(hosts: u32, requests: u32) -> Self {
        let (hosts, requests) = (hosts.max(1), requests.max(1));
        Self { hosts, requests }
    }
}

/// The places of those to eject, the worst first.
///
/// ```
/// use inmesh_core::balance::{SuccessRate, Tally, outliers};
/// let by_rate = SuccessRate::new(1_900)?;
/// let well = Tally { successes: 100, failures: 0 };
/// let bad = Tally { successes: 60, failures: 40 };
/// let all = [well, well, bad, well, well, well];
/// assert_eq!(outliers(Some(by_rate), None, &all), [2]);
/// # Ok::<(), inmesh_core::balance::InvalidStrategy>(())
/// ```
pub fn outliers(
    success_rate: Option<SuccessRate>,
    failure_percentage: Option<FailurePercentage>,
    tallies: &[Tally],
) -> Vec<usize> {
    let mut out = Vec::new();
    if let Some(by) = success_rate {
        let rates = rates(tallies, by.volume);
        #[expect(clippy::cast_precision_loss, reason = "a count of endpoints")]
        let count = rates.len() as f64;
        let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
        let squares = rates.iter().map(|(_, rate)| (rate - mean).powi(2));
        let deviation = (squares.sum::<f64>() / count).sqrt();
        let least = mean - deviation * f64::from(by.factor) / 1_000.0;
        out.extend(rates.into_iter().filter(|(_, rate)| *rate < least));
    }
    if let Some(by) = failure_percentage {
        let least = 1.0 - f64::from(by.threshold) / 100.0;
        // Rates are quotients: one at the threshold is not below it by a rounding.
        let below = |(_, rate): &(usize, f64)| *rate < least - 1e-9;
        out.extend(rates(tallies, by.volume).into_iter().filter(below));
    }
    out.sort_by(|(a, x), (b, y)| x.total_cmp(y).then(a.cmp(b)));
    // One that is found by both stands twice in a row.
    let mut places: Vec<_> = out.into_iter().map(|(place, _)| place).collect();
    places.dedup();
    places
}

/// The share of successes of those with enough requests; none if they are too few.
fn rates(tallies: &[Tally], volume: Volume) -> Vec<(usize, f64)> {
    let enough = tallies.iter().enumerate().filter_map(|(place, tally)| {
        let all = tally.successes.saturating_add(tally.failures);
        let rate = f64::from(tally.successes) / f64::from(all);
        (all >= volume.requests).then_some((place, rate))
    });
    let rates: Vec<_> = enough.collect();
    match u32::try_from(rates.len()) {
        Ok(hosts) if hosts < volume.hosts => Vec::new(),
        _ => rates,
    }
}
