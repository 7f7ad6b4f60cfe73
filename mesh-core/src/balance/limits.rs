//! How many requests may be in flight at once, and over how many connections: a circuit breaker, pure.

use std::any::Any;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::strategy::InvalidStrategy;

/// What an endpoint takes by default, as Envoy's clusters do.
const REQUESTS: u32 = 1_024;
/// Connections to all endpoints of a port by default: more than one workload needs, and well below the
/// 28,232 local ports that Linux has for connections to one address and port.
const CONNECTIONS: u32 = 8_192;
/// Requests that wait for one of them by default, as in Envoy's clusters.
const PENDING: u32 = 1_024;
/// The longest time that a connection may take or rest.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How many requests and opaque connections may be in flight at once, how many connections open, and how
/// long one may take to be there and may rest (`connectionPool` of a DestinationRule). What is above a limit
/// is refused at once; only for a connection of HTTP/1.1 a bounded number of requests wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    endpoint: u32,
    service: Option<u32>,
    connections: u32,
    pending: u32,
    /// In milliseconds.
    connect: Option<NonZeroU32>,
    idle: Option<NonZeroU32>,
}

/// What bounds the connections to the endpoints of a port, and what is kept to count them by. All sets
/// that replace each other share it, and so do the states of their endpoints.
pub(crate) struct PortState {
    connections: AtomicU32,
    pending: AtomicU32,
    /// In milliseconds; 0 is not said.
    connect: AtomicU32,
    idle: AtomicU32,
    #[cfg_attr(not(feature = "runtime"), expect(dead_code, reason = "of the runtime"))]
    slot: OnceLock<Box<dyn Any + Send + Sync>>,
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
        Ok(Self {
            endpoint,
            service,
            ..Self::default()
        })
    }

    /// The same with so many connections to all endpoints of a port (`maxConnections`), and so many requests
    /// that wait for one (`http1MaxPendingRequests`).
    ///
    /// ```
    /// use inmesh_core::balance::RequestLimits;
    /// let limits = RequestLimits::default();
    /// assert_eq!((limits.connections(), limits.pending()), (8_192, 1_024));
    /// let limits = limits.with_connections(1, 2)?;
    /// assert_eq!((limits.connections(), limits.pending()), (1, 2));
    /// # Ok::<(), inmesh_core::balance::InvalidStrategy>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidStrategy`] for 0, which would refuse every connection or request.
    pub fn with_connections(
        mut self,
        connections: u32,
        pending: u32,
    ) -> Result<Self, InvalidStrategy> {
        if connections == 0 || pending == 0 {
            return Err(InvalidStrategy::new("a limit of 0 refuses all".into()));
        }
        (self.connections, self.pending) = (connections, pending);
        Ok(self)
    }

    /// The same where a TCP connection to an endpoint may take so long (`connectTimeout`), and rest so long
    /// between two requests to be used again (`idleTimeout`); `None` is as long as the process says.
    ///
    /// ```
    /// use std::time::Duration;
    /// use inmesh_core::balance::RequestLimits;
    /// let second = Some(Duration::from_secs(1));
    /// let limits = RequestLimits::default().with_times(second, None)?;
    /// assert_eq!((limits.connect_timeout(), limits.idle_timeout()), (second, None));
    /// # Ok::<(), inmesh_core::balance::InvalidStrategy>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidStrategy`] for a time below a millisecond or above a day.
    pub fn with_times(
        mut self,
        connect: Option<Duration>,
        idle: Option<Duration>,
    ) -> Result<Self, InvalidStrategy> {
        let millis = |time: Duration| {
            let whole = u32::try_from(time.as_millis()).ok();
            let whole = whole.filter(|_| time <= LONGEST).and_then(NonZeroU32::new);
            whole.ok_or_else(|| InvalidStrategy::new("a time is 1 ms to 24 h".into()))
        };
        self.connect = connect.map(millis).transpose()?;
        self.idle = idle.map(millis).transpose()?;
        Ok(self)
    }

    /// How long a TCP connection may take, where it is said.
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect.map(of_millis)
    }

    /// How long a connection may rest and be used again, where it is said.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.idle.map(of_millis)
    }

    /// How many to one endpoint.
    pub fn endpoint(&self) -> u32 {
        self.endpoint
    }

    /// How many to all endpoints together.
    pub fn service(&self) -> Option<u32> {
        self.service
    }

    /// How many connections to all endpoints together.
    pub fn connections(&self) -> u32 {
        self.connections
    }

    /// How many requests may wait for a connection.
    pub fn pending(&self) -> u32 {
        self.pending
    }
}

/// 1,024 requests to each endpoint, over 8,192 connections to all, for which 1,024 more may wait.
impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            endpoint: REQUESTS,
            service: None,
            connections: CONNECTIONS,
            pending: PENDING,
            connect: None,
            idle: None,
        }
    }
}

fn of_millis(time: NonZeroU32) -> Duration {
    Duration::from_millis(time.get().into())
}

// === impl PortState ===

impl PortState {
    /// Takes the limits of the newest set.
    pub(super) fn limit(&self, limits: RequestLimits) {
        self.connections
            .store(limits.connections, Ordering::Relaxed);
        self.pending.store(limits.pending, Ordering::Relaxed);
        for (time, said) in [(&self.connect, limits.connect), (&self.idle, limits.idle)] {
            time.store(said.map_or(0, NonZeroU32::get), Ordering::Relaxed);
        }
    }

    /// How many connections there may be, and how many requests that wait for one.
    #[cfg(feature = "runtime")]
    pub(crate) fn limits(&self) -> (u32, u32) {
        let of = |limit: &AtomicU32| limit.load(Ordering::Relaxed);
        (of(&self.connections), of(&self.pending))
    }

    /// How long a TCP connection may take, where it is said.
    #[cfg(feature = "runtime")]
    pub(crate) fn connect_timeout(&self) -> Option<Duration> {
        NonZeroU32::new(self.connect.load(Ordering::Relaxed)).map(of_millis)
    }

    /// How long a connection may rest and be used again, where it is said.
    #[cfg(feature = "runtime")]
    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        NonZeroU32::new(self.idle.load(Ordering::Relaxed)).map(of_millis)
    }

    /// What `connect` keeps for the port: made at first use, dropped with it.
    #[cfg(feature = "runtime")]
    pub(crate) fn slot<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.slot.get_or_init(|| Box::new(make())).downcast_ref()
    }

    /// The same, if it was made.
    #[cfg(feature = "runtime")]
    pub(crate) fn kept<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.slot.get()?.downcast_ref()
    }
}

/// Without limits, until requests are balanced over a set.
impl Default for PortState {
    fn default() -> Self {
        Self {
            connections: AtomicU32::new(u32::MAX),
            pending: AtomicU32::new(u32::MAX),
            connect: AtomicU32::new(0),
            idle: AtomicU32::new(0),
            slot: OnceLock::new(),
        }
    }
}

impl fmt::Debug for PortState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortState")
            .field("connections", &self.connections)
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}
