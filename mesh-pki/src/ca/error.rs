//! Why a CA was not opened, or did not do what it was asked for.

use super::authority::AuthorityError;
use super::plan::Wait;
use super::state::{RevokeError, StateError, StepError, TokenError};
use super::store::StoreError;
use crate::id::TrustDomain;
use crate::issue::IssueError;

/// Why a CA could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Its root, issuing CA or keys cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A first root was given, but there is one.
    #[error("there is a CA already; a new root goes in by a rotation")]
    Exists,
    /// There are keys, but no state that names them: a CA was here, and a new root in its place would be
    /// trusted by no member.
    #[error(
        "there are keys of a CA, but no state: bring its state back, or begin in an empty folder \
         (the keys are {})", key_ids.join(", ")
    )]
    KeysWithoutState {
        /// The ids of the keys.
        key_ids: Vec<String>,
    },
    /// Its state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is of another trust domain.
    #[error("the CA is of trust domain {got}, not {expected}")]
    WrongTrustDomain {
        /// What was expected.
        expected: TrustDomain,
        /// The trust domain of the CA.
        got: TrustDomain,
    },
}

/// Why a CA did not do what it was asked for; the state is as it was, unless the store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// A root or issuing CA could not be made or used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A leaf could not be signed.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The mesh is not ready for the step.
    #[error("not yet: {} members are missing{}", .0.missing.len(), if .0.unknown { ", and unknown ones" } else { "" })]
    NotYet(Wait),
    /// A serial number cannot be revoked.
    #[error(transparent)]
    Revoke(#[from] RevokeError),
    /// It is not the turn of the step.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The state that is written cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A join token does not serve.
    #[error(transparent)]
    Token(#[from] TokenError),
}
