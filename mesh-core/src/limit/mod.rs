//! Limit: how many requests a workload takes, of all callers and of each. Token buckets, local to this
//! process; pure.
//!
//! In come a caller, a request and the time, out comes that it is taken, or how long to wait. A
//! [`RateLimit`] is what a policy says, a `Limiter` what is left of it. It counts requests of HTTP, not
//! opaque connections, and asks no other process.

mod bucket;
mod limiter;
mod policy;

pub(crate) use limiter::Limiter;
pub use policy::{InvalidLimit, Rate, RateLimit, RateRule, Rates};
