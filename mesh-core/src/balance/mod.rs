//! Balance: which endpoint of the backend gets the request?
//!
//! In come the ready endpoints in tiers, their load, health and weights, a [`Choice`] and a draw;
//! out comes one of them. Least request is the power of two choices: nearly as even as asking every
//! endpoint, in constant time, and it never herds onto the one that looked idle a moment ago. Peak EWMA
//! asks the same two how fast they answer. A consistent hash keeps a key on its endpoint while others
//! come and leave, by scores, a ring or Maglev's table. Round robin and random look at no load. A tier
//! is used while it has an endpoint that can be chosen; where near endpoints are preferred, what is too
//! much for those that are well is sent to the next near. Endpoints that fail in a row, or far more often
//! than the others, are ejected for a while and return through a single probe; never more of
//! them than a share of the set, so that a bad release cannot empty a Service.

mod check;
mod decide;
mod eject;
mod ewma;
mod health;
mod limits;
mod persist;
mod pick;
mod picked;
mod rates;
mod set;
mod share;
mod spread;
mod state;
mod strategy;
mod table;
mod tiers;
#[cfg(any(feature = "runtime", feature = "simulate"))]
pub(crate) mod verdict;

pub use check::{CheckKind, CheckPolicy, Checked};
pub use decide::{Availability, LoadView, consistent_hash, p2c, random, round_robin};
pub use eject::{Breaker, EjectPolicy, Ejection, Failure};
#[cfg(feature = "runtime")]
pub(crate) use limits::PortState;
pub use limits::RequestLimits;
pub(crate) use persist::foresee_kept;
#[cfg(any(feature = "runtime", feature = "simulate"))]
pub(crate) use pick::pick_again;
pub use pick::{NoEndpoint, foresee, pick};
pub use picked::Picked;
pub use rates::{FailurePercentage, SuccessRate, Tally, Volume, outliers};
pub use set::EndpointSet;
pub use share::SlowStart;
pub use spread::{Level, Nearness, Preference, ZoneAware};
pub use state::{EndpointState, LastFailure, Member};
pub use strategy::{
    Choice, ConsistentHash, HashCookie, HashKey, HashTable, InvalidStrategy, Issued, RingSize,
    Shown, Strategy, TableSize,
};
pub(crate) use strategy::{cookies, is_cookie_name, is_cookie_path};
pub use tiers::TierShare;

#[cfg(test)]
mod tests;
