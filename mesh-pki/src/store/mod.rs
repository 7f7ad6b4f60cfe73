//! Identities, bundles and revocation lists in, one immutable state out to every reader: one writer, many readers,
//! swapped whole, so that no handshake ever sees a new leaf with an old bundle.
//!
//! Readers load without a lock (arc-swap), once per handshake; tasks that wait for a change sleep on
//! a watch channel. Nothing is stored on disk here.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::bundle::{BundleSet, TrustBundle};
use crate::crl::{CrlSet, RevokedIds};
use crate::id::{SpiffeId, TrustDomain};
use crate::svid::X509Svid;

mod health;
#[cfg(test)]
mod tests;

pub use health::Renewal;

/// How many distrusted keys of a trust domain are remembered: as many as four bundles may name.
const MAX_REMEMBERED: usize = 4 * crate::bundle::jwks::MAX_DISTRUSTED_KEYS;

/// Our identities and what we trust, at one moment.
///
/// ```
/// use inmesh_pki::{BundleSet, IdentityState, identity};
///
/// // Trusts no peer and has no SVID, until a source writes.
/// let (writer, reader) = identity(IdentityState::from_bundles(BundleSet::new()));
/// writer.update(|state| state.replace_bundles(BundleSet::new()));
/// assert_eq!(reader.load().epoch(), 1);
/// ```
#[derive(Debug, Clone, Default)]
pub struct IdentityState {
    svids: BTreeMap<SpiffeId, Arc<X509Svid>>,
    default: Option<SpiffeId>,
    /// What the source of identity says, and what federation fetched; kept apart, so that neither
    /// takes the other's out.
    own: BundleSet,
    federated: BundleSet,
    /// Both without the roots that are distrusted, which is what is trusted; the source's own bundle
    /// has precedence.
    bundles: BundleSet,
    /// The key ids of all roots that any bundle has ever distrusted.
    distrusted: BTreeMap<TrustDomain, Arc<BTreeSet<String>>>,
    crls: CrlSet,
    /// What the CA of our own trust domain says of whole IDs.
    revoked_ids: Arc<RevokedIds>,
    /// SVIDs of ours that the CA has revoked, by their serial number, and since when.
    revoked_svids: BTreeMap<SpiffeId, (Arc<str>, SystemTime)>,
    epoch: u64,
}

/// Writes the state; there is one, and readers get no more updates once it is dropped.
#[derive(Debug)]
pub struct IdentityWriter {
    shared: Arc<ArcSwap<IdentityState>>,
    writes: watch::Sender<Writes>,
    health: health::Shared,
}

/// Reads the state; cheap to clone, and a clone waits for changes on its own.
#[derive(Debug, Clone)]
pub struct IdentityReader {
    shared: Arc<ArcSwap<IdentityState>>,
    writes: watch::Receiver<Writes>,
    health: health::Shared,
}

/// What wakes readers.
#[derive(Debug, Clone, Copy)]
struct Writes {
    /// The epoch of the latest state.
    epoch: u64,
    /// The source has ended, and nothing that it could give will come.
    ended: bool,
}

/// The writer is gone: the state that a reader has is the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the source of identity has ended")]
pub struct SourceEnded;

/// Makes a store that holds `initial`, which may be empty until a source has answered.
#[must_use]
pub fn identity(initial: IdentityState) -> (IdentityWriter, IdentityReader) {
    let (sender, receiver) = watch::channel(Writes {
        epoch: initial.epoch,
        ended: false,
    });
    let shared = Arc::new(ArcSwap::from_pointee(initial));
    let health = health::Shared::default();
    let writer = IdentityWriter {
        shared: Arc::clone(&shared),
        writes: sender,
        health: health.clone(),
    };
    (
        writer,
        IdentityReader {
            shared,
            writes: receiver,
            health,
        },
    )
}

// === impl IdentityState ===

impl IdentityState {
    /// A state with one SVID, which is the default, and bundles.
    #[must_use]
    pub fn new(svid: X509Svid, bundles: BundleSet) -> Self {
        let mut state = Self::from_bundles(bundles);
        state.insert_svid(svid);
        state
    }

    /// A state that trusts but has no identity: it can verify, and cannot be served.
    #[must_use]
    pub fn from_bundles(bundles: BundleSet) -> Self {
        let mut state = Self::default();
        state.replace_bundles(bundles);
        state
    }

    /// The SVID of `id`.
    #[must_use]
    pub fn svid(&self, id: &SpiffeId) -> Option<&Arc<X509Svid>> {
        self.svids.get(id)
    }

    /// The SVID that is used where no ID is asked for: the first that was put in.
    #[must_use]
    pub fn default_svid(&self) -> Option<&Arc<X509Svid>> {
        self.svids.get(self.default.as_ref()?)
    }

    /// All SVIDs, ordered by ID.
    pub fn svids(&self) -> impl Iterator<Item = &Arc<X509Svid>> {
        self.svids.values()
    }

    /// The bundles.
    #[must_use]
    pub fn bundles(&self) -> &BundleSet {
        &self.bundles
    }

    /// The revocation lists.
    #[must_use]
    pub fn crls(&self) -> &CrlSet {
        &self.crls
    }

    /// The IDs of our own trust domain whose leaves are revoked, up to a moment each.
    #[must_use]
    pub fn revoked_ids(&self) -> &RevokedIds {
        &self.revoked_ids
    }

    /// Since when `svid`, which is ours, is revoked, if the CA has said so to us.
    #[must_use]
    pub fn revoked_since(&self, svid: &X509Svid) -> Option<SystemTime> {
        let (serial, since) = self.revoked_svids.get(svid.id())?;
        (**serial == *svid.serial()).then_some(*since)
    }

    /// Notes that the CA says of the SVID of `id` that it is revoked. It changes nothing if there is no SVID
    /// of that ID, or one with another serial number.
    pub fn revoke_svid(&mut self, id: &SpiffeId, serial: &str, since: SystemTime) {
        if self.svid(id).is_some_and(|svid| svid.serial() == serial) {
            let revoked = (serial.into(), since);
            self.revoked_svids.insert(id.clone(), revoked);
        }
    }

    /// How many writes came before this state; it never goes back.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Puts `svid` in place of the one with the same ID; the first one becomes the default.
    pub fn insert_svid(&mut self, svid: X509Svid) {
        self.share_svid(Arc::new(svid));
    }

    /// The same for an SVID that is shared.
    pub fn share_svid(&mut self, svid: Arc<X509Svid>) {
        let id = svid.id().clone();
        self.default.get_or_insert_with(|| id.clone());
        if self.revoked_since(&svid).is_none() {
            self.revoked_svids.remove(&id);
        }
        self.svids.insert(id, svid);
    }

    /// Takes the SVID of `id` out; if it was the default, there is none until the next is put in.
    pub fn remove_svid(&mut self, id: &SpiffeId) -> Option<Arc<X509Svid>> {
        if self.default.as_ref() == Some(id) {
            self.default = None;
        }
        self.revoked_svids.remove(id);
        self.svids.remove(id)
    }

    /// Replaces all SVIDs; the first becomes the default.
    pub fn replace_svids(&mut self, svids: Vec<X509Svid>) {
        self.svids.clear();
        self.revoked_svids.clear();
        self.default = None;
        for svid in svids {
            self.insert_svid(svid);
        }
    }

    /// Replaces all bundles but those that federation has put in.
    pub fn replace_bundles(&mut self, bundles: BundleSet) {
        self.own = bundles;
        self.join();
    }

    /// Puts `bundle` in place of the one of the same trust domain.
    pub fn insert_bundle(&mut self, bundle: TrustBundle) {
        self.own.insert(bundle);
        self.join();
    }

    /// Takes the bundle of `trust_domain` out; one that federation has put in stays.
    pub fn remove_bundle(&mut self, trust_domain: &TrustDomain) {
        self.own.remove(trust_domain);
        self.join();
    }

    /// Puts in a bundle that was fetched from a foreign trust domain. Where the source of identity
    /// has a bundle of the same domain, that one has precedence.
    pub fn insert_federated(&mut self, bundle: TrustBundle) {
        self.federated.insert(bundle);
        self.join();
    }

    /// Takes out what [`insert_federated`](Self::insert_federated) has put in.
    pub fn remove_federated(&mut self, trust_domain: &TrustDomain) {
        self.federated.remove(trust_domain);
        self.join();
    }

    /// Distrusts these root keys of `trust_domain` from now on, in whatever bundle they come: distrust
    /// only grows.
    pub fn distrust(
        &mut self,
        trust_domain: &TrustDomain,
        key_ids: impl IntoIterator<Item = String>,
    ) {
        self.remember(trust_domain, key_ids);
        self.join();
    }

    /// The root keys of `trust_domain` that were distrusted at any time, in order.
    pub fn distrusted_keys(&self, trust_domain: &TrustDomain) -> impl Iterator<Item = &str> {
        let known = self.distrusted.get(trust_domain);
        known
            .into_iter()
            .flat_map(|keys| keys.iter())
            .map(String::as_str)
    }

    /// `bundle` without the roots that were distrusted at any time: what every bundle goes through
    /// before a peer is verified with it, wherever it comes from.
    #[must_use]
    pub fn without_distrusted(&self, bundle: TrustBundle) -> TrustBundle {
        match self.distrusted.get(bundle.trust_domain()) {
            Some(keys) => bundle.distrusting(keys.iter().cloned()),
            None => bundle,
        }
    }

    /// Up to [`MAX_REMEMBERED`] for each trust domain; a further key is distrusted while its bundle says so.
    fn remember(&mut self, trust_domain: &TrustDomain, key_ids: impl IntoIterator<Item = String>) {
        let mut new = key_ids.into_iter().peekable();
        if new.peek().is_none() {
            return;
        }
        let known = self.distrusted.entry(trust_domain.clone()).or_default();
        for key_id in new {
            if known.len() < MAX_REMEMBERED && !known.contains(&key_id) {
                Arc::make_mut(known).insert(key_id);
            }
        }
    }

    fn join(&mut self) {
        let both: Vec<_> = self
            .federated
            .iter()
            .chain(self.own.iter())
            .cloned()
            .collect();
        for bundle in &both {
            let key_ids = bundle.distrusted_keys().map(str::to_owned);
            self.remember(bundle.trust_domain(), key_ids);
        }
        let trusted = both
            .into_iter()
            .map(|bundle| self.without_distrusted(bundle));
        self.bundles = trusted.collect();
    }

    /// The same, unless the one that is there has this sequence number or a greater one: trust
    /// never goes back, and of one generation the first stays, which may hold more than a plain
    /// list of roots. Bundles without a number are taken as they come.
    pub fn insert_newer_bundle(&mut self, bundle: TrustBundle) {
        let there = self.own.get(bundle.trust_domain());
        let there = there.and_then(TrustBundle::sequence);
        if there
            .zip(bundle.sequence())
            .is_none_or(|(there, new)| there < new)
        {
            self.insert_bundle(bundle);
        }
    }

    /// Replaces bundle and revocations of one trust domain together, unless the bundle that is
    /// there has a greater sequence number or the lists are too many; says whether it has.
    #[cfg(all(
        any(feature = "ca-client", feature = "ca-server"),
        any(feature = "aws-lc-rs", feature = "ring")
    ))]
    pub(crate) fn replace_trust(
        &mut self,
        bundle: TrustBundle,
        crls: Vec<crate::crl::Crl>,
        revoked_ids: RevokedIds,
    ) -> bool {
        let trust_domain = bundle.trust_domain().clone();
        let there = self.own.get(&trust_domain);
        let there = there.and_then(TrustBundle::sequence);
        if there
            .zip(bundle.sequence())
            .is_some_and(|(there, new)| there > new)
        {
            return false;
        }
        if crls.is_empty() {
            self.crls.remove(&trust_domain);
        } else if self.crls.replace(trust_domain, crls).is_err() {
            return false;
        }
        self.replace_revoked_ids(revoked_ids);
        self.insert_bundle(bundle);
        true
    }

    /// Replaces all revocation lists; of one issuer the later list stays, by its number.
    pub fn replace_crls(&mut self, crls: CrlSet) {
        self.crls.replace_all(crls);
    }

    /// Replaces what is said of whole IDs.
    pub fn replace_revoked_ids(&mut self, revoked_ids: RevokedIds) {
        if *self.revoked_ids != revoked_ids {
            self.revoked_ids = Arc::new(revoked_ids);
        }
    }
}

// === impl IdentityWriter ===

impl IdentityWriter {
    /// The current state.
    #[must_use]
    pub fn load(&self) -> Arc<IdentityState> {
        self.shared.load_full()
    }

    /// Another reader of the same state.
    #[must_use]
    pub fn reader(&self) -> IdentityReader {
        IdentityReader {
            shared: Arc::clone(&self.shared),
            writes: self.writes.subscribe(),
            health: self.health.clone(),
        }
    }

    /// Notes that the source has given an identity; what it gave is written beside this.
    pub fn renewed(&self) {
        self.health.renewed();
    }

    /// Notes that the source has failed to give one.
    pub fn renewal_failed(&self, error: &(dyn Error + 'static)) {
        self.health.failed(error);
    }

    /// Puts `svid` in place of the one with the same ID; returns the new epoch.
    pub fn set_svid(&self, svid: X509Svid) -> u64 {
        self.update(|state| state.insert_svid(svid))
    }

    /// Takes the SVID of `id` out; returns the new epoch.
    pub fn remove_svid(&self, id: &SpiffeId) -> u64 {
        self.update(|state| drop(state.remove_svid(id)))
    }

    /// Puts `bundle` in place of the one of the same trust domain; returns the new epoch.
    pub fn set_bundle(&self, bundle: TrustBundle) -> u64 {
        self.update(|state| state.insert_bundle(bundle))
    }

    /// Takes the bundle of `trust_domain` out; returns the new epoch.
    pub fn remove_bundle(&self, trust_domain: &TrustDomain) -> u64 {
        self.update(|state| state.remove_bundle(trust_domain))
    }

    /// Replaces all bundles; returns the new epoch.
    pub fn set_bundles(&self, bundles: BundleSet) -> u64 {
        self.update(|state| state.replace_bundles(bundles))
    }

    /// Replaces all revocation lists; returns the new epoch.
    pub fn set_crls(&self, crls: CrlSet) -> u64 {
        self.update(|state| state.replace_crls(crls))
    }

    /// Replaces all bundles and all revocation lists in one step, so that a new issuer and its list
    /// arrive together; returns the new epoch.
    pub fn set_trust(&self, bundles: BundleSet, crls: CrlSet) -> u64 {
        self.update(|state| {
            state.replace_bundles(bundles);
            state.replace_crls(crls);
        })
    }

    /// Replaces one SVID and all bundles in one step; returns the new epoch.
    pub fn set(&self, svid: X509Svid, bundles: BundleSet) -> u64 {
        self.update(|state| {
            state.insert_svid(svid);
            state.replace_bundles(bundles);
        })
    }

    /// Changes several things in one step; returns the new epoch.
    ///
    /// Readers see all of `change` or nothing of it. Calls take turns, so a change always starts
    /// from the state before it.
    pub fn update(&self, change: impl FnOnce(&mut IdentityState)) -> u64 {
        let mut next_epoch = 0;
        // The closure runs under the channel's lock, which is what makes calls take turns.
        self.writes.send_modify(|writes| {
            let mut next = IdentityState::clone(&self.shared.load());
            change(&mut next);
            next.epoch = writes.epoch + 1;
            next_epoch = next.epoch;
            self.shared.store(Arc::new(next));
            writes.epoch = next_epoch;
        });
        next_epoch
    }

    /// The source has ended: wakes readers that wait for a first SVID. What is written beside it
    /// counts on.
    pub(crate) fn end(&self) {
        self.writes.send_modify(|writes| writes.ended = true);
    }
}

// === impl IdentityReader ===

impl IdentityReader {
    /// How renewal is doing, as far as the source says.
    ///
    /// ```
    /// use inmesh_pki::{IdentityState, identity};
    ///
    /// let (writer, reader) = identity(IdentityState::default());
    /// let error = std::io::Error::other("the CA does not answer");
    /// writer.renewal_failed(&error);
    /// writer.renewal_failed(&error);
    /// writer.renewed();
    /// writer.renewal_failed(&error);
    /// let now = reader.renewal();
    /// assert_eq!((now.renewals, now.failures, now.failing), (1, 3, 1));
    /// assert_eq!(now.last_error.as_deref(), Some("the CA does not answer"));
    /// ```
    #[must_use]
    pub fn renewal(&self) -> Renewal {
        self.health.load()
    }

    /// The current state; never waits.
    #[must_use]
    pub fn load(&self) -> Arc<IdentityState> {
        self.shared.load_full()
    }

    /// The current state, counted as seen: [`changed`](Self::changed) waits for what comes after.
    #[must_use]
    pub fn latest(&mut self) -> Arc<IdentityState> {
        self.writes.mark_unchanged();
        self.load()
    }

    /// Waits for a write that this reader has not seen, and returns the state then.
    ///
    /// Several writes may be reported as one. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`SourceEnded`] once the writer is gone and its last write has been returned.
    pub async fn changed(&mut self) -> Result<Arc<IdentityState>, SourceEnded> {
        self.writes.changed().await.map_err(|_| SourceEnded)?;
        Ok(self.load())
    }

    /// Waits until there is a default SVID, and returns the state that has it. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`SourceEnded`] if the source ends before there is one.
    pub async fn ready(&self) -> Result<Arc<IdentityState>, SourceEnded> {
        let mut reader = self.clone();
        loop {
            let writes = *reader.writes.borrow_and_update();
            let state = reader.load();
            if state.default_svid().is_some() {
                return Ok(state);
            }
            if writes.ended {
                return Err(SourceEnded);
            }
            reader.changed().await?;
        }
    }
}
