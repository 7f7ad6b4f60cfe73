//! What every connection of a Workload API reads.

use std::sync::Arc;

use tokio::sync::watch;

use super::attest::Entry;
use super::status::ServerCounts;
use crate::clock::Clock;
use crate::crypto::Crypto;
use crate::jwt::DynJwtIssuer;
use crate::store::IdentityReader;

/// What every connection needs; a caller only ever sees its own entries.
pub(super) struct ApiShared {
    pub(super) entries: Vec<Entry>,
    pub(super) reader: IdentityReader,
    pub(super) jwt: Option<DynJwtIssuer>,
    pub(super) crypto: Crypto,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) counts: ServerCounts,
    /// Whether the server ends.
    pub(super) stopped: watch::Receiver<bool>,
}
