//! Authorize: may this peer send this request to this workload?
//!
//! In come the compiled policy of the workload, the peer and a view of the request; out comes a
//! [`Permit`], which only [`decide`] can make, or a [`Denied`] that names the policy. Evaluation is
//! Istio's: DENY first, then ALLOW, then the default that the operator wrote. What cannot be
//! evaluated (an absent identity, HTTP fields on an opaque connection, a policy that was never
//! good) never allows and always denies.

mod canonical;
mod decide;
pub(crate) mod layer;
mod policy;

pub use canonical::{InvalidPath, canonical_path};
pub use decide::{
    Denied, DenyReason, HttpView, Peer, Permit, PermitReason, RequestView, Step, Trace, decide,
};
pub use layer::{Authorize, AuthorizeFuture, AuthorizeLayer};
pub use policy::{
    Action, DefaultAction, InvalidPolicy, Operation, Pattern, Policy, Rule, Source, WorkloadPolicy,
};

#[cfg(test)]
mod tests;
