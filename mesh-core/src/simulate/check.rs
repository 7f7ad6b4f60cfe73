//! An endpoint that a caller checks, and what a reply says of it.

use std::sync::Arc;

use super::server::Reply;
use crate::balance::{CheckKind, CheckPolicy, Checked, Member};
use crate::model::ServiceName;
use crate::snapshot::Checkable;

/// An endpoint that a caller checks.
pub(super) struct Check {
    pub(super) caller: usize,
    pub(super) service: ServiceName,
    pub(super) port: u16,
    pub(super) member: Member,
    pub(super) policy: Arc<CheckPolicy>,
    pub(super) checked: Checked,
    /// The number of the check that has no answer yet.
    pub(super) open: Option<u64>,
    /// Whether it is checked no longer.
    pub(super) ended: bool,
}

// === impl Check ===

impl Check {
    pub(super) fn is_of(&self, caller: usize, of: &Checkable) -> bool {
        let state = &self.member.state;
        !self.ended && self.caller == caller && Arc::ptr_eq(state, &of.member.state)
    }

    /// Whether a reply says that the endpoint serves.
    pub(super) fn passes(&self, reply: Reply) -> bool {
        match (&self.policy.kind, reply) {
            (CheckKind::Tcp, Reply::Broken) => true,
            (_, Reply::Broken | Reply::Refused) => false,
            (CheckKind::Tcp, Reply::Answered(_)) => true,
            (CheckKind::Http(_, statuses), Reply::Answered(answer)) => {
                statuses.contains(&answer.status.as_u16())
            }
            (CheckKind::Grpc(_), Reply::Answered(answer)) => {
                answer.status.is_success() && answer.grpc.is_none_or(|code| code == 0)
            }
        }
    }
}
