//! Limit: how many requests a workload takes, in a time (token buckets, of all callers and of each) and at
//! once (as its latency allows it). Local to this process; pure.
//!
//! In come a caller, a request and the time, out comes that it is taken, or how long to wait. A
//! [`RateLimit`] is what a policy says, a `Limiter` what is left of it. It counts requests of HTTP, not
//! opaque connections, and asks no other process.

mod adaptive;
mod bucket;
mod limiter;
mod policy;

pub(crate) use adaptive::Adaptive;
pub use adaptive::AdaptiveConcurrency;
pub(crate) use limiter::Limiter;
pub use policy::{InvalidLimit, Rate, RateLimit, RateRule, Rates};
