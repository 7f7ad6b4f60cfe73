//! IDs and moments in, whether a leaf of such an ID is revoked out. Pure.
//!
//! A list of serial numbers cannot name leaves that its CA does not know any more; the ID and the
//! moment before which they began can. What our CA says of IDs goes beside its lists.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::id::SpiffeId;

/// How many IDs may be revoked at once in one trust domain.
pub const MAX_REVOKED_IDS: usize = 1_000;

/// IDs whose leaves are revoked, those that begin before a moment.
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use inmesh_pki::RevokedIds;
///
/// let id = "spiffe://prod.example/ns/shop/sa/cart".parse()?;
/// let now = SystemTime::now();
/// let mut revoked = RevokedIds::default();
/// revoked.insert("spiffe://prod.example/ns/shop/sa/cart".parse()?, now);
/// assert!(revoked.covers(&id, now - Duration::from_secs(1)));
/// assert!(!revoked.covers(&id, now), "a new one is good");
/// # Ok::<(), inmesh_pki::id::IdError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RevokedIds(BTreeMap<SpiffeId, SystemTime>);

impl RevokedIds {
    /// Revokes the leaves of `id` that begin before `before`; an earlier moment changes nothing.
    pub fn insert(&mut self, id: SpiffeId, before: SystemTime) {
        let moment = self.0.entry(id).or_insert(before);
        *moment = before.max(*moment);
    }

    /// Whether a leaf of `id` that begins at `not_before` is revoked.
    #[must_use]
    pub fn covers(&self, id: &SpiffeId, not_before: SystemTime) -> bool {
        self.before(id).is_some_and(|before| not_before < before)
    }

    /// The moment before which a leaf of `id` must not begin.
    #[must_use]
    pub fn before(&self, id: &SpiffeId) -> Option<SystemTime> {
        self.0.get(id).copied()
    }

    /// All IDs with their moments, ordered by ID.
    pub fn iter(&self) -> impl Iterator<Item = (&SpiffeId, SystemTime)> {
        self.0.iter().map(|(id, before)| (id, *before))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
