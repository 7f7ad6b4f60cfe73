//! Relationships and a clock in, foreign bundles in the identity store out: one task for all.
//!
//! It obeys [`decide`] and [`refresh_after`]. What could not be fetched is tried again at the next
//! turn and not before, so that a server in trouble is left alone; where there is no bundle at all,
//! with pauses that grow from a second to a minute. What is too old is taken out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::fetch::{Fetch, FetchError, OverHttps, ServerProof};
use super::keep::{self, BundleKeep, BundleKeepError, KeptBundle};
use super::{Profile, Relationship, RelationshipError, Stale, decide, refresh_after};
use crate::bundle::TrustBundle;
use crate::clock::{Clock, Span};
use crate::crypto::Crypto;
use crate::id::TrustDomain;
use crate::rotate::schedule;
use crate::status::{StatusReader, StatusWriter, status};
use crate::store::{IdentityState, IdentityWriter};

/// Keeps the bundles of foreign trust domains.
pub struct Federation {
    relationships: Vec<Relationship>,
    keeper: Arc<Keeper>,
    /// Where bundles are kept over a restart.
    dir: Option<PathBuf>,
}

/// What every relationship needs.
struct Keeper {
    fetch: Box<dyn Fetch>,
    clock: Arc<dyn Clock>,
    draw: Mutex<Box<dyn FnMut() -> f64 + Send>>,
    status: StatusWriter<FederationStatus>,
}

/// How each relationship is doing; for metrics and for people.
pub type FederationStatus = BTreeMap<TrustDomain, RelationshipStatus>;

/// How one relationship is doing.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RelationshipStatus {
    /// How many bundles were fetched and taken.
    pub fetches: u64,
    /// How many attempts failed.
    pub failures: u64,
    /// What failed last; gone with the next success.
    pub last_error: Option<Arc<FederationError>>,
    /// When a bundle was last fetched; by an earlier process, if it was kept.
    pub fetched_at: Option<SystemTime>,
    /// Why the last bundle is not kept on disk, or why the one there cannot be used; gone with the
    /// next one that is kept.
    pub keep_error: Option<Arc<BundleKeepError>>,
    /// How its endpoint proves its identity: `https_spiffe` or `https_web`.
    pub profile: &'static str,
    /// After how long without a refresh its bundle is taken out.
    pub max_age: Duration,
    /// When a bundle is looked for again.
    pub next_try: Option<SystemTime>,
    /// How often the domain asks for that, by the last bundle that was taken.
    pub refresh_hint: Option<Duration>,
    /// How many roots the bundle in use has.
    pub roots: usize,
    /// The sequence number of the last bundle that was taken; no lower one is taken.
    pub sequence: Option<u64>,
    /// Whether a bundle of this domain is in use; one without keys is, and refuses every peer.
    pub trusted: bool,
}

/// Why no new bundle is there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FederationError {
    /// None was fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The one that was fetched is older than the one that is there.
    #[error(transparent)]
    Stale(#[from] Stale),
}

impl Federation {
    /// Federation with `relationships`; `web_roots` vouch for endpoints of the profile https_web,
    /// and `draw` gives numbers that are uniform in 0..1.
    ///
    /// # Errors
    ///
    /// [`RelationshipError::Twice`] for two of the same trust domain, [`RelationshipError::Root`]
    /// for a root that is no certificate.
    pub fn new(
        relationships: Vec<Relationship>,
        web_roots: impl IntoIterator<Item = CertificateDer<'static>>,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
        draw: impl FnMut() -> f64 + Send + 'static,
    ) -> Result<Self, RelationshipError> {
        let mut once = BTreeSet::new();
        for relationship in &relationships {
            let trust_domain = relationship.trust_domain.clone();
            if !once.insert(trust_domain.clone()) {
                return Err(RelationshipError::Twice { trust_domain });
            }
        }
        let roots = web_roots.into_iter().collect();
        let fetch = OverHttps::new(roots, crypto, Arc::clone(&clock))?;
        Ok(Self::with(relationships, fetch, clock, draw))
    }

    /// Federation by whatever way of fetching.
    pub(super) fn with(
        relationships: Vec<Relationship>,
        fetch: impl Fetch + 'static,
        clock: Arc<dyn Clock>,
        draw: impl FnMut() -> f64 + Send + 'static,
    ) -> Self {
        let all = relationships.iter().map(|relationship| {
            let trust_domain = relationship.trust_domain.clone();
            let first = RelationshipStatus {
                profile: relationship.profile.as_str(),
                max_age: relationship.max_age,
                ..RelationshipStatus::default()
            };
            (trust_domain, first)
        });
        let status = status(all.collect());
        Self {
            relationships,
            keeper: Arc::new(Keeper {
                fetch: Box::new(fetch),
                clock,
                draw: Mutex::new(Box::new(draw)),
                status,
            }),
            dir: None,
        }
    }

    /// Keeps each bundle that is taken in `dir`, a folder of this process alone, which is made with
    /// mode 0700 if it is missing.
    ///
    /// After a restart the last one counts for what is left of its maximum age, and no lower sequence
    /// number is taken. An endpoint of its own trust domain is verified by it, and no longer by the
    /// bootstrap bundle. Where a domain begins anew, with a lower number or with keys that no bundle
    /// vouches for, an operator removes its file, `TRUST-DOMAIN.json`, while no process runs.
    ///
    /// A file that cannot be used counts for nothing, and a disk that fails or hangs keeps no bundle
    /// from being used; both are logged, and stand in [`RelationshipStatus::keep_error`].
    #[must_use]
    pub fn with_keep(self, dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: Some(dir.into()),
            ..self
        }
    }

    /// Where to read how it is doing, before and while it runs.
    #[must_use]
    pub fn status(&self) -> StatusReader<FederationStatus> {
        self.keeper.status.reader()
    }

    /// Fetches now and again until `shutdown` is ready; what was fetched stays in `writer` then.
    pub async fn run(self, writer: Arc<IdentityWriter>, shutdown: impl Future<Output = ()>) {
        let mut tasks = JoinSet::new();
        for relationship in self.relationships {
            let keeper = Arc::clone(&self.keeper);
            let writer = Arc::clone(&writer);
            let disk = self.dir.clone();
            let disk = disk.map(|dir| BundleKeep::new(relationship.trust_domain.clone(), dir));
            tasks.spawn(async move { keeper.keep(relationship, disk, &writer).await });
        }
        // Tasks end with the set, and none ends before.
        pin!(shutdown).await;
    }
}

impl Keeper {
    /// Keeps one relationship, for ever.
    ///
    /// 1. Recall what an earlier process has kept; if it is not too old, it is written.
    /// 2. Fetch. A bundle that [`decide`] accepts is kept, then written, and its age begins anew;
    ///    one that withdraws a root or key is written first.
    /// 3. Wait for the next turn.
    ///
    /// Should the age reach its limit meanwhile, also during a fetch, take the bundle out.
    async fn keep(
        &self,
        relationship: Relationship,
        mut disk: Option<BundleKeep>,
        writer: &IdentityWriter,
    ) {
        let trust_domain = &relationship.trust_domain;
        let mut last: Option<TrustBundle> = None;
        let mut too_old: Option<Instant> = None;
        let mut failures = 0;
        if let Some(disk) = &mut disk
            && let Some(kept) = self.recall(&relationship, disk).await
        {
            let left = keep::left(self.clock.now(), kept.fetched_at, relationship.max_age);
            if let Some(left) = left {
                tracing::info!(%trust_domain, left = %Span(left), "the bundle from before the restart is used");
                too_old = Some(Instant::now() + left);
                writer.update(|state| state.insert_federated(kept.bundle.clone()));
            } else {
                tracing::warn!(%trust_domain, "the bundle from before the restart is too old");
            }
            self.recalled(&kept, left.is_some());
            last = Some(kept.bundle);
        }
        loop {
            let fetched = self.aging(&relationship, last.as_ref(), &mut too_old, writer);
            match fetched.await {
                Ok(bundle) => {
                    failures = 0;
                    too_old = Some(Instant::now() + relationship.max_age);
                    let kept = KeptBundle {
                        bundle,
                        fetched_at: self.clock.now(),
                    };
                    let take = || {
                        writer.update(|state| state.insert_federated(kept.bundle.clone()));
                        self.taken(&kept);
                    };
                    // No disk makes a root or key last that was withdrawn.
                    let at_once = withdraws(last.as_ref(), &kept.bundle);
                    if at_once {
                        take();
                    }
                    if let Some(disk) = &mut disk {
                        // First, so that no crash lets a lower number in that was seen before.
                        let saved = disk.save(&kept, relationship.max_age).await;
                        self.kept(trust_domain, saved);
                    }
                    if !at_once {
                        take();
                    }
                    last = Some(kept.bundle);
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%trust_domain, %error, failures, "no new bundle of a foreign domain");
                    self.update(trust_domain, |status| {
                        status.failures += 1;
                        status.last_error = Some(Arc::new(error));
                    });
                }
            }
            let pause = match too_old {
                Some(_) => self.turn(&relationship, last.as_ref()),
                None => schedule::pause(self.clock.now(), None, failures, None, self.draw()),
            };
            let next = Instant::now() + pause;
            let at = self.clock.now() + pause;
            self.update(trust_domain, |status| status.next_try = Some(at));
            if let Some(end) = too_old.filter(|end| *end <= next) {
                sleep_until(end).await;
                self.expire(&relationship, writer);
                too_old = None;
            }
            sleep_until(next).await;
        }
    }

    /// Fetches, and takes the bundle out that is there should it become `too_old` meanwhile.
    async fn aging(
        &self,
        relationship: &Relationship,
        last: Option<&TrustBundle>,
        too_old: &mut Option<Instant>,
        writer: &IdentityWriter,
    ) -> Result<TrustBundle, FederationError> {
        let mut once = pin!(self.once(relationship, last, writer));
        if let Some(end) = *too_old {
            if let Ok(fetched) = timeout_at(end, &mut once).await {
                return fetched;
            }
            self.expire(relationship, writer);
            *too_old = None;
        }
        once.await
    }

    async fn once(
        &self,
        relationship: &Relationship,
        last: Option<&TrustBundle>,
        writer: &IdentityWriter,
    ) -> Result<TrustBundle, FederationError> {
        let proof = proof(relationship, last, &writer.load())?;
        let fetched = self.fetch.fetch(relationship, proof).await?;
        decide(last, &fetched)?;
        // Distrust only grows: a later bundle that does not name a key any more gives it back no trust.
        let fetched = writer.load().without_distrusted(fetched);
        let before = last.into_iter().flat_map(TrustBundle::distrusted_keys);
        Ok(fetched.distrusting(before.map(str::to_owned)))
    }

    /// Takes a bundle out that is too old.
    fn expire(&self, relationship: &Relationship, writer: &IdentityWriter) {
        let trust_domain = &relationship.trust_domain;
        tracing::error!(
            %trust_domain,
            max_age = %Span(relationship.max_age),
            "the bundle could not be refreshed for too long, no peer of this domain is trusted"
        );
        writer.update(|state| state.remove_federated(trust_domain));
        self.update(trust_domain, |status| {
            status.trusted = false;
            status.roots = 0;
        });
    }

    /// How long a bundle that is there is left as it is.
    fn turn(&self, relationship: &Relationship, last: Option<&TrustBundle>) -> Duration {
        let hint = last.and_then(TrustBundle::refresh_hint);
        refresh_after(hint, relationship.max_age, self.draw())
    }

    fn draw(&self) -> f64 {
        (*self.draw.lock().unwrap_or_else(PoisonError::into_inner))()
    }

    /// What was kept; what cannot be used is logged, and counts as nothing.
    async fn recall(
        &self,
        relationship: &Relationship,
        disk: &mut BundleKeep,
    ) -> Option<KeptBundle> {
        let trust_domain = &relationship.trust_domain;
        disk.load().await.unwrap_or_else(|error| {
            let reason: &dyn std::error::Error = &error;
            tracing::error!(
                %trust_domain,
                error = reason,
                "the kept bundle cannot be used: no peer of this domain is trusted until one is \
                 fetched, whatever its sequence number"
            );
            self.update(trust_domain, |status| {
                status.keep_error = Some(Arc::new(error))
            });
            None
        })
    }

    fn kept(&self, trust_domain: &TrustDomain, saved: Result<(), BundleKeepError>) {
        let error = saved.err().map(Arc::new);
        if let Some(error) = &error {
            let reason: &dyn std::error::Error = &**error;
            tracing::warn!(%trust_domain, error = reason, "a foreign bundle is not kept on disk");
        }
        self.update(trust_domain, |status| status.keep_error = error);
    }

    fn recalled(&self, kept: &KeptBundle, trusted: bool) {
        let bundle = &kept.bundle;
        self.update(bundle.trust_domain(), |status| {
            status.fetched_at = Some(kept.fetched_at);
            status.refresh_hint = bundle.refresh_hint();
            status.roots = if trusted { bundle.roots().len() } else { 0 };
            status.sequence = bundle.sequence();
            status.trusted = trusted;
        });
    }

    fn taken(&self, kept: &KeptBundle) {
        let trust_domain = kept.bundle.trust_domain();
        if kept.bundle.is_distrusted() {
            tracing::warn!(%trust_domain, "the bundle has no root: no peer of this domain is trusted");
        }
        self.recalled(kept, true);
        self.update(trust_domain, |status| {
            status.fetches += 1;
            status.last_error = None;
        });
    }

    fn update(&self, trust_domain: &TrustDomain, change: impl FnOnce(&mut RelationshipStatus)) {
        self.status.update(|all| {
            // Each has been there since the beginning.
            if let Some(one) = all.get_mut(trust_domain) {
                change(one);
            }
        });
    }
}

/// Whether `next` lacks a root or a JWT key that `last` has.
fn withdraws(last: Option<&TrustBundle>, next: &TrustBundle) -> bool {
    last.is_some_and(|last| {
        let stays = |key| next.jwt_keys().iter().any(|kept| kept == key);
        let roots = last.roots().iter().all(|root| next.roots().contains(root));
        !roots || !last.jwt_keys().iter().all(stays)
    })
}

/// How the endpoint proves itself now: by its ID, with the latest bundle of its trust domain. For an
/// endpoint of the very domain that is the one that was fetched last, and before the first fetch the
/// one that was configured (section 5.2.2.4); for any other it is what the store has.
fn proof(
    relationship: &Relationship,
    last: Option<&TrustBundle>,
    state: &IdentityState,
) -> Result<ServerProof, FetchError> {
    let Profile::Spiffe { id, bootstrap } = &relationship.profile else {
        return Ok(ServerProof::Web);
    };
    let trust_domain = id.trust_domain();
    let own = *trust_domain == relationship.trust_domain;
    let bundle = match last.filter(|_| own) {
        Some(last) => Some(last),
        None => state.bundles().get(trust_domain).or(bootstrap.as_ref()),
    };
    match bundle {
        Some(bundle) => Ok(ServerProof::Spiffe {
            id: id.clone(),
            bundle: state.without_distrusted(bundle.clone()),
        }),
        None => Err(FetchError::NoBundle {
            trust_domain: trust_domain.clone(),
        }),
    }
}

impl fmt::Debug for Federation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Federation")
            .field("relationships", &self.relationships)
            .finish_non_exhaustive()
    }
}
