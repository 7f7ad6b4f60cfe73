//! Faults that are made on purpose: a wait, an answer in place of the server's, a slow answer. Pure: a draw
//! comes in, what happens to one request comes out.

use std::time::Duration;

use http::StatusCode;

use super::bandwidth::Bandwidth;
use super::invalid::InvalidFault;
use crate::error::{Error, Reason};
use crate::model::{Draw, parts};

/// A share is counted in parts of so many.
const PARTS: u32 = 1_000_000;
/// The longest wait that is made.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Faults, each for a share of requests (Istio, HTTPFaultInjection).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FaultInjection {
    delay: Option<(Percentage, Duration)>,
    abort: Option<(Percentage, Abort)>,
    bandwidth: Option<(Percentage, Bandwidth)>,
}

/// A share of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percentage(u32);

/// An answer in place of the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Abort {
    /// A status of HTTP. A call of gRPC gets the code that stands for it.
    Http(StatusCode),
    /// A status code of gRPC, for calls of gRPC alone.
    Grpc(u8),
}

/// What happens to one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Injected {
    /// It waits before anything else.
    pub delay: Option<Duration>,
    /// It is answered then, and not sent.
    pub abort: Option<Abort>,
    /// The body of its answer comes as slowly.
    pub bandwidth: Option<Bandwidth>,
}

// === impl Percentage ===

impl Percentage {
    /// All requests.
    pub const ALL: Self = Self(PARTS);

    /// So many percent of them, with up to four digits after the point.
    ///
    /// ```
    /// use inmesh_core::traffic::Percentage;
    /// assert_eq!(Percentage::new(100.0)?, Percentage::ALL);
    /// assert!(Percentage::new(100.1).is_err() && Percentage::new(0.00001).is_err());
    /// # Ok::<(), inmesh_core::traffic::InvalidFault>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidFault`] if it is not 0 to 100, or has more digits.
    pub fn new(percent: f64) -> Result<Self, InvalidFault> {
        if !(0.0..=100.0).contains(&percent) {
            return Err(InvalidFault::new(format!("{percent} is not 0 to 100")));
        }
        let Some(parts) = parts(percent, PARTS / 100) else {
            let message = format!("{percent} has more than four digits after the point");
            return Err(InvalidFault::new(message));
        };
        Ok(Self(parts))
    }

    /// In percent.
    pub fn get(self) -> f64 {
        f64::from(self.0) / f64::from(PARTS / 100)
    }

    fn hits(self, draw: &mut Draw) -> bool {
        draw.below(PARTS.into()) < self.0.into()
    }
}

// === impl Injected ===

impl Injected {
    /// How long a request waits that has so much time left, and the error if that is not enough.
    pub(crate) fn wait(self, left: Option<Duration>) -> (Duration, Option<Error>) {
        let Some(delay) = self.delay else {
            return (Duration::ZERO, None);
        };
        match left.filter(|left| *left < delay) {
            Some(left) => {
                let why = "a policy delays it on purpose beyond its time";
                let error = Error::new(Reason::RequestTimeout, why).never_sent();
                (left, Some(error))
            }
            None => (delay, None),
        }
    }
}

// === impl FaultInjection ===

impl FaultInjection {
    /// The same with a wait.
    ///
    /// # Errors
    ///
    /// [`InvalidFault`] if it is 0, or longer than an hour.
    pub fn with_delay(mut self, of: Percentage, wait: Duration) -> Result<Self, InvalidFault> {
        if wait.is_zero() || wait > LONGEST {
            return Err(InvalidFault::new("a delay is above 0s and at most 1h"));
        }
        self.delay = Some((of, wait));
        Ok(self)
    }

    /// The same with an answer.
    ///
    /// # Errors
    ///
    /// [`InvalidFault`] for an HTTP status that is not 200 to 599, and a gRPC code that is not 1 to 16.
    pub fn with_abort(mut self, of: Percentage, abort: Abort) -> Result<Self, InvalidFault> {
        let valid = match abort {
            Abort::Http(status) => (200..600).contains(&status.as_u16()),
            Abort::Grpc(code) => (1..17).contains(&code),
        };
        if !valid {
            let message = "an abort has an HTTP status of 200 to 599 or a gRPC code of 1 to 16";
            return Err(InvalidFault::new(message));
        }
        self.abort = Some((of, abort));
        Ok(self)
    }

    /// The same with a bandwidth of answers.
    #[must_use]
    pub fn with_bandwidth(mut self, of: Percentage, bandwidth: Bandwidth) -> Self {
        self.bandwidth = Some((of, bandwidth));
        self
    }

    /// The wait, and for which share.
    pub fn delay(&self) -> Option<(Percentage, Duration)> {
        self.delay
    }

    /// The answer, and for which share.
    pub fn abort(&self) -> Option<(Percentage, Abort)> {
        self.abort
    }

    /// The bandwidth of answers, and for which share.
    pub fn bandwidth(&self) -> Option<(Percentage, Bandwidth)> {
        self.bandwidth
    }

    /// What happens to a request, one of gRPC or not. Each fault is drawn apart.
    pub fn inject(&self, grpc: bool, draw: &mut Draw) -> Injected {
        let delay = self.delay.filter(|(of, _)| of.hits(draw));
        let abort = self.abort.filter(|(of, _)| of.hits(draw));
        let bandwidth = self.bandwidth.filter(|(of, _)| of.hits(draw));
        Injected {
            bandwidth: bandwidth.map(|(_, bandwidth)| bandwidth),
            delay: delay.map(|(_, wait)| wait),
            abort: abort
                .map(|(_, abort)| abort)
                .filter(|abort| grpc || matches!(abort, Abort::Http(_))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn both(delay: f64, abort: f64, with: Abort) -> FaultInjection {
        let fault = FaultInjection::default();
        let fault = fault.with_delay(Percentage::new(delay).unwrap(), SECOND);
        let fault = fault.unwrap();
        fault
            .with_abort(Percentage::new(abort).unwrap(), with)
            .unwrap()
    }

    #[test]
    fn each_fault_is_drawn_for_its_share() {
        let http = Abort::Http(StatusCode::BAD_GATEWAY);
        for (delay, abort) in [(0.0, 100.0), (100.0, 0.0), (50.0, 10.0), (0.01, 12.5)] {
            let (fault, mut draw) = (both(delay, abort, http), Draw::new(7));
            let (mut waits, mut aborts, mut together) = (0_u32, 0_u32, 0_u32);
            for _ in 0..100_000 {
                let made = fault.inject(false, &mut draw);
                waits += u32::from(made.delay.is_some());
                aborts += u32::from(made.abort.is_some());
                together += u32::from(made.delay.is_some() && made.abort.is_some());
            }
            let near = |count: u32, percent: f64| {
                let wanted = percent * 1_000.0;
                (f64::from(count) - wanted).abs() <= wanted.sqrt() * 4.0
            };
            assert!(near(waits, delay), "{waits} of {delay} %");
            assert!(near(aborts, abort), "{aborts} of {abort} %");
            assert!(near(together, delay * abort / 100.0), "{together}");
        }
    }

    #[test]
    fn a_status_of_grpc_is_for_grpc_alone() {
        let http = Abort::Http(StatusCode::BAD_GATEWAY);
        for (abort, grpc, made) in [
            (http, false, true),
            (http, true, true),
            (Abort::Grpc(8), false, false),
            (Abort::Grpc(8), true, true),
        ] {
            let fault = both(100.0, 100.0, abort);
            let wanted = Injected {
                delay: Some(SECOND),
                abort: made.then_some(abort),
                bandwidth: None,
            };
            assert_eq!(fault.inject(grpc, &mut Draw::new(1)), wanted);
        }
    }

    #[test]
    fn a_delay_ends_with_the_time_of_its_request() {
        let millis = Duration::from_millis;
        for (delay, left, wanted, late) in [
            (None, Some(millis(0)), millis(0), false),
            (Some(SECOND), None, SECOND, false),
            (Some(SECOND), Some(SECOND), SECOND, false),
            (Some(SECOND), Some(millis(999)), millis(999), true),
            (Some(SECOND), Some(millis(0)), millis(0), true),
        ] {
            let made = Injected {
                delay,
                ..Injected::default()
            };
            let (wait, error) = made.wait(left);
            let late = late.then_some(Reason::RequestTimeout);
            assert_eq!((wait, error.map(|e| e.reason())), (wanted, late));
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for percent in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert!(Percentage::new(percent).is_err(), "{percent}");
        }
        let fault = FaultInjection::default();
        for wait in [Duration::ZERO, LONGEST + SECOND] {
            let refused = fault.clone().with_delay(Percentage::ALL, wait);
            assert!(refused.is_err(), "{wait:?}");
        }
        for abort in [
            Abort::Http(StatusCode::CONTINUE),
            Abort::Http(StatusCode::from_u16(600).unwrap()),
            Abort::Grpc(0),
            Abort::Grpc(17),
        ] {
            let refused = fault.clone().with_abort(Percentage::ALL, abort);
            assert!(refused.is_err(), "{abort:?}");
        }
    }
}
