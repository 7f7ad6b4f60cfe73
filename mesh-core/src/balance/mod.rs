//! Balance: which endpoint of the backend gets the request?
//!
//! In come the endpoints that are ready, their load and health, and a draw; out comes one of them.
//! The algorithm is the power of two choices over requests in flight: nearly as even as asking
//! everyone, in constant time, and it never herds onto the one that looked idle a moment ago.
//! Endpoints that fail in a row are ejected for a while and come back through a single probe.
//! It refuses to eject more than its share, so that a bad release cannot empty a service.

mod decide;
mod eject;
mod health;
#[cfg(feature = "runtime")]
mod layer;

pub use decide::{Availability, LoadView, p2c};
pub use eject::{Breaker, EjectPolicy, Verdict};
pub(crate) use health::{Health, SetHealth};
pub use health::{NoEndpoint, Picked, pick};
#[cfg(feature = "runtime")]
pub(crate) use layer::{Balancer, Carried};

#[cfg(test)]
mod tests;
