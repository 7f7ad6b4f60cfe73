//! How many requests may be in flight at once: a circuit breaker, pure.

use std::sync::atomic::{AtomicU32, Ordering};

use super::strategy::InvalidStrategy;

/// What an endpoint takes by default, as Envoy's clusters do.
const REQUESTS: u32 = 1_024;

/// How many requests and opaque connections may be in flight at once (`connectionPool` of a
/// DestinationRule). What is above is refused at once, and does not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    endpoint: u32,
    service: Option<u32>,
}

/// How many are in flight.
#[derive(Debug, Default)]
pub(super) struct InFlight(AtomicU32);

// === impl InFlight ===

impl InFlight {
    /// Counts one more, if there are fewer than `most`.
    pub(super) fn enter(&self, most: u32) -> bool {
        let counted = self.0.fetch_add(1, Ordering::Relaxed) < most;
        if !counted {
            self.leave();
        }
        counted
    }

    pub(super) fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl RequestLimits ===

impl RequestLimits {
    /// So many to each endpoint, and to all of a Service's port together (`http2MaxRequests`); `None` is
    /// as many as its endpoints take.
    ///
    /// ```
    /// use inmesh_core::balance::RequestLimits;
    /// let limits = RequestLimits::new(100, Some(500))?;
    /// assert_eq!((limits.endpoint(), limits.service()), (100, Some(500)));
    /// # Ok::<(), inmesh_core::balance::InvalidStrategy>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidStrategy`] for 0, which would refuse every request.
    pub fn new(endpoint: u32, service: Option<u32>) -> Result<Self, InvalidStrategy> {
        if endpoint == 0 || service == Some(0) {
            return Err(InvalidStrategy::new("a limit of 0 refuses all".into()));
        }
        Ok(Self { endpoint, service })
    }

    /// How many to one endpoint.
    pub fn endpoint(&self) -> u32 {
        self.endpoint
    }

    /// How many to all endpoints together.
    pub fn service(&self) -> Option<u32> {
        self.service
    }
}

/// 1,024 to each endpoint.
impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            endpoint: REQUESTS,
            service: None,
        }
    }
}
