//! What is hedged: sent to another endpoint too while no answer has come, how often, and when (gRPC, A6).
//!
//! In comes what is known of a request; out comes whether it may be sent to several endpoints at once.
//! What may do harm twice is not: a method that is not idempotent, unless it is a call of gRPC whose policy
//! says so, as nothing in the call itself does.

use std::time::Duration;

use http::{Method, StatusCode};

use super::codes::Codes;
use super::invalid::InvalidRetry;

/// The most attempts of one request (A6).
const MOST: u32 = 5;
/// The longest time until the next attempt.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Which requests are hedged, how often, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HedgePolicy {
    attempts: u32,
    delay: Duration,
    /// The answers that do not end the race.
    codes: Codes,
    grpc: bool,
}

/// Why a request is sent to one endpoint alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unhedged {
    /// It is a call of gRPC.
    #[error("it is a call of gRPC, and the policy does not say that calls may run twice")]
    Grpc,
    /// Its method is not idempotent.
    #[error("its method is not idempotent")]
    Method,
    /// A session leads it to one endpoint.
    #[error("a session leads it to one endpoint")]
    Session,
    /// It may leave HTTP, or waits to be asked for its body.
    #[error("it is not kept: it may leave HTTP, or waits to be asked for its body")]
    Unkept,
}

// === impl HedgePolicy ===

impl HedgePolicy {
    /// Makes up to so many attempts at once, the next one after each `delay` without an answer; 0 is at
    /// once.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use http::{Method, StatusCode};
    /// use inmesh_core::retry::HedgePolicy;
    ///
    /// let policy = HedgePolicy::new(2, Duration::from_millis(50))?.on_status(503)?;
    /// assert!(policy.covers(StatusCode::SERVICE_UNAVAILABLE, None));
    /// assert!(!policy.covers(StatusCode::BAD_GATEWAY, None));
    /// assert!(policy.admits(&Method::GET, false).is_ok());
    /// assert!(policy.admits(&Method::POST, false).is_err());
    /// # Ok::<(), inmesh_core::retry::InvalidRetry>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidRetry`] if there are not 2 to 5 attempts, or the delay is above an hour.
    pub fn new(attempts: u32, delay: Duration) -> Result<Self, InvalidRetry> {
        if !(2..=MOST).contains(&attempts) {
            return Err(InvalidRetry::new(format!("{attempts} is not 2 to {MOST}")));
        }
        if delay > LONGEST {
            return Err(InvalidRetry::new("the delay is at most 1h"));
        }
        Ok(Self {
            attempts,
            delay,
            codes: Codes::default(),
            grpc: false,
        })
    }

    /// The same where an answer of this status does not end the race.
    ///
    /// # Errors
    ///
    /// [`InvalidRetry`] for a status that is not one of 400 to 599.
    pub fn on_status(mut self, status: u16) -> Result<Self, InvalidRetry> {
        self.codes.add_status(status)?;
        Ok(self)
    }

    /// The same where an answer of this gRPC status code does not end it.
    ///
    /// # Errors
    ///
    /// [`InvalidRetry`] for 0 (OK) and for codes that gRPC does not have.
    pub fn on_grpc(mut self, code: u8) -> Result<Self, InvalidRetry> {
        self.codes.add_grpc(code)?;
        Ok(self)
    }

    /// The same for calls of gRPC too, which may run twice.
    #[must_use]
    pub fn with_grpc(mut self) -> Self {
        self.grpc = true;
        self
    }

    /// How many attempts there are at most, the first included.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How long after an attempt the next one begins.
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// Whether calls of gRPC are hedged.
    pub fn is_for_grpc(&self) -> bool {
        self.grpc
    }

    /// The statuses that do not end the race.
    pub fn statuses(&self) -> &[StatusCode] {
        self.codes.statuses()
    }

    /// The gRPC status codes that do not.
    pub fn grpc_codes(&self) -> impl Iterator<Item = u8> {
        self.codes.grpc()
    }

    /// Whether the race continues after such an answer.
    pub fn covers(&self, status: StatusCode, grpc: Option<u8>) -> bool {
        self.codes.covers(status, grpc)
    }

    /// Whether a request of that method, or a call of gRPC, may run twice.
    ///
    /// # Errors
    ///
    /// [`Unhedged`] if not.
    pub fn admits(&self, method: &Method, grpc: bool) -> Result<(), Unhedged> {
        match grpc {
            true if !self.grpc => Err(Unhedged::Grpc),
            false if !method.is_idempotent() => Err(Unhedged::Method),
            _ => Ok(()),
        }
    }

    /// The same of a request that a session may lead to one endpoint, and that may be kept or not.
    pub(crate) fn admits_whole(
        &self,
        method: &Method,
        grpc: bool,
        (led, kept): (bool, bool),
    ) -> Result<(), Unhedged> {
        self.admits(method, grpc)?;
        match (led, kept) {
            (true, _) => Err(Unhedged::Session),
            (_, false) => Err(Unhedged::Unkept),
            _ => Ok(()),
        }
    }
}
