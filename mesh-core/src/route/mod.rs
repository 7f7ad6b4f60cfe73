//! Route: where does the request go, and what happens to it on the way?
//!
//! In come the table of the Service that was asked for, the caller's namespace, a permit and a view
//! of the request; out comes the rule that matched with its [`Outcome`]: a backend drawn by weight,
//! a redirect or an answer. Precedence is the Gateway API's, and consumer routes come before
//! producer routes (GAMMA). It refuses to guess: with routes attached and none matching there is no
//! route.

mod decide;
mod filter;
mod grpc;
mod invalid;
mod matched;
mod matching;
mod missed;
mod opaque;
mod rule;
mod seen;
mod shown;
mod split;
mod sticky;
mod table;

pub use decide::{NoRoute, decide};
pub(crate) use filter::MIRRORED;
pub use filter::{
    Cors, Filter, HeaderChanges, Mirror, PathRewrite, Redirect, RequestHead, Respond, Rewrite,
};
pub use grpc::{GrpcMatch, GrpcRoute, GrpcRule};
pub use invalid::InvalidRoute;
pub use matched::Matched;
pub(crate) use matched::MirrorPlace;
pub use matching::{Match, PathMatch, Regex, ValueMatch, check_header};
pub use opaque::{OpaqueRoute, ServerNames};
pub use rule::{Backend, Inherited, Outcome, Parent, Route, Rule, Timeouts};
pub use shown::RuleOf;
pub(crate) use shown::is_credential;
pub use split::split;
pub use sticky::stay;
pub use table::{RouteTable, RoutedAs};

#[cfg(test)]
mod tests;
