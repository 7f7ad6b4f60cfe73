//! Route: where does a permitted request go?
//!
//! In come the routes attached to the destination Service, the caller's namespace, a permit and a
//! view of the request; out comes a [`RouteMatch`]: the backend that the split drew, the header
//! changes and the timeouts. Precedence is that of the Gateway API (HTTPRoute v1), decided once
//! when the table is built, so that a request only walks a list. It refuses to guess: where routes
//! are attached and none matches, the answer is 404.

mod decide;
#[cfg(feature = "runtime")]
mod layer;
mod rule;
mod split;
mod table;

pub use decide::{NoRoute, RouteMatch, decide};
#[cfg(feature = "runtime")]
pub(crate) use layer::route;
pub use rule::{
    Backend, HeaderChanges, InvalidRoute, Match, Parent, PathMatch, Regex, Route, Rule, Timeouts,
    ValueMatch,
};
pub use split::split;
pub use table::RouteTable;

#[cfg(test)]
mod tests;
