//! Authorize: may this peer send this request to this workload?
//!
//! In come the compiled policy of the workload, the peer and a view of the request; out comes a
//! [`Verdict`]: a [`Permit`], which only [`decide`] can make, a [`Denied`] that names the policy, or
//! an [`Ask`] for an external authorizer. Evaluation is Istio's: DENY first, then ALLOW, then the
//! default that the operator wrote. What cannot be evaluated (an absent identity, HTTP fields on an
//! opaque connection, a policy that was never good) never allows and always denies.

mod ask;
mod canonical;
mod decide;
mod form;
mod layer;
mod met;
mod pattern;
mod plain;
mod policy;
mod reading;
mod shown;
mod trace;
mod view;

pub use ask::{Asking, Authorizer, Authorizers, Question};
#[cfg(feature = "runtime")]
pub(crate) use canonical::Came;
pub(crate) use canonical::canonicalize;
#[cfg(feature = "runtime")]
pub(crate) use canonical::seen_probes;
pub use canonical::{InvalidPath, PathForm, canonical_path};
pub use decide::{Answer, Ask, Denied, DenyReason, Permit, PermitReason, Verdict, decide};
pub(crate) use decide::{Met, met};
pub use layer::{Authorize, AuthorizeFuture, AuthorizeLayer};
pub(crate) use met::first_met;
pub use pattern::{InvalidPolicy, Pattern};
pub use policy::{
    Action, DefaultAction, FailureMode, Operation, OperationBuilder, Policy, PolicyRule,
    PolicySource, Provider, Selects, SourceBuilder, WorkloadPolicy,
};
pub(crate) use reading::never_matches;
pub use reading::{Readings, spelling};
pub use trace::{Missed, Step, Trace};
pub use view::{HttpView, RequestView};

#[cfg(test)]
mod tests;
