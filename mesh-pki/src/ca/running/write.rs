//! A change of the state in, the same written down and published out: the one way in which a
//! [`Ca`] changes.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::MutexGuard;

use super::effects::{crl_life, crls_of, keep_keys, publication, signer_of};
use super::{Ca, CaInner, TURNS};
use crate::ca::authority::NewAuthority;
use crate::ca::error::CaError;
use crate::ca::members::Members;
use crate::ca::state::{CaState, KeyPlace, StepError};
use crate::ca::store::{Store, StoreError, Version};
use crate::crl::Crl;

impl<S: Store> Ca<S> {
    /// Signs the lists again when half of their time is gone, or a certificate on them has expired.
    pub(super) async fn refresh_crls(
        &self,
        inner: &CaInner,
        now: SystemTime,
    ) -> Result<(), CaError> {
        let published = self.published.borrow().clone();
        let due = published.crls.first().is_some_and(|first| {
            let half = first.next_update() - crl_life(self.lifetimes) / 2;
            now >= half || inner.state.revoked(now).count() != first.len()
        });
        if due || inner.state.revoked_ids(now) != published.revoked_ids {
            let crls = self.crls(&inner.state).await?;
            self.publish(&inner.state, crls);
        }
        Ok(())
    }

    pub(super) async fn crls(&self, state: &CaState) -> Result<Vec<Crl>, CaError> {
        crls_of(&self.store, state, self.lifetimes, self.clock.now()).await
    }

    pub(super) fn successor(
        &self,
        state: &CaState,
        given: Option<NewAuthority>,
    ) -> Result<NewAuthority, CaError> {
        match (given, state.active().root_key()) {
            (Some(new), _) => Ok(new),
            (None, KeyPlace::Held) => Ok(NewAuthority::create(
                state.trust_domain(),
                self.lifetimes,
                self.clock.now(),
                &self.crypto,
            )?),
            (None, KeyPlace::Offline) => Err(CaError::Step(StepError::Offline {
                key_id: state.active().key_id().to_owned(),
            })),
        }
    }

    /// The state as it is written.
    pub(super) async fn current(&self) -> Result<MutexGuard<'_, CaInner>, CaError> {
        let mut inner = self.inner.lock().await;
        if inner.stale {
            self.reload(&mut inner).await?;
        }
        Ok(inner)
    }

    /// Takes over what another process has written since, where others may write. The lock is not held
    /// while the store is asked, so an outage of it holds up no leaf.
    pub(super) async fn follow(&self) -> Result<(), CaError> {
        if !self.store.shared() {
            return Ok(());
        }
        let seen = self.inner.lock().await.version;
        let found = self.store.latest().await?;
        if found == Some(seen) {
            return Ok(());
        }
        if found.is_none_or(|found| found < seen) {
            return Err(went_back(found, seen).into());
        }
        let mut inner = self.inner.lock().await;
        // This process may have read or written it meanwhile.
        if found > Some(inner.version) {
            self.reload(&mut inner).await?;
            tracing::info!(
                generation = inner.state.generation(),
                "what another process has written is taken over"
            );
        }
        Ok(())
    }

    pub(super) async fn reload(&self, inner: &mut CaInner) -> Result<(), CaError> {
        let seen = inner.version;
        let loaded = self.store.load().await?;
        let found = loaded.as_ref().map(|(_, version)| *version);
        let (bytes, version) = loaded
            .filter(|(_, version)| *version >= seen)
            .ok_or_else(|| went_back(found, seen))?;
        let state = CaState::from_bytes(&bytes)?;
        let signer = signer_of(&self.store, &state).await?;
        // Its writer may have issued under it.
        inner.members.expect_unknown(state.leaf_until());
        // A write that seemed to fail may have dropped an authority.
        let before: Vec<_> = inner.state.held_keys().map(str::to_owned).collect();
        inner.orphans.extend(before);
        let crls = self.crls(&state).await?;
        inner.signer = signer;
        self.install(inner, state, version, crls);
        Ok(())
    }

    /// Writes `change`d state down and makes it ours; keys of `new` are kept before.
    pub(super) async fn change<T>(
        &self,
        inner: &mut CaInner,
        new: Option<&NewAuthority>,
        change: impl Fn(&CaState) -> Result<(CaState, T), CaError>,
    ) -> Result<T, CaError> {
        self.change_knowing(inner, new, |state, _| change(state))
            .await
    }

    /// The same for a change that depends on the members, as they are known with each state: another
    /// writer's leaves are unknown once its state was read.
    pub(super) async fn change_knowing<T>(
        &self,
        inner: &mut CaInner,
        new: Option<&NewAuthority>,
        change: impl Fn(&CaState, &Members) -> Result<(CaState, T), CaError>,
    ) -> Result<T, CaError> {
        if let Some(new) = new {
            let authority = &new.authority;
            let ids = [authority.key_id(), authority.issuer_key_id()];
            inner.orphans.extend(ids.map(str::to_owned));
            let kept = keep_keys(&self.store, new).await;
            inner.written(kept)?;
        }
        for _ in 0..TURNS {
            let (next, out) = change(&inner.state, &inner.members)?;
            inner.stale = true;
            match self.store.swap(Some(inner.version), next.to_bytes()).await {
                Ok(version) => {
                    let rekeyed = next.active().issuer() != inner.state.active().issuer();
                    let before: Vec<_> = inner.state.held_keys().map(str::to_owned).collect();
                    inner.orphans.extend(before);
                    // What is published together is made before anything of it is.
                    let crls = self.crls(&next).await?;
                    if rekeyed {
                        inner.signer = signer_of(&self.store, &next).await?;
                    }
                    self.install(inner, next, version, crls);
                    self.forget(inner).await;
                    return Ok(out);
                }
                Err(StoreError::Conflict) => self.reload(inner).await?,
                Err(error) => {
                    inner.write_failures += 1;
                    return Err(error.into());
                }
            }
        }
        Err(StoreError::Conflict.into())
    }

    /// Forgets keys of this process that the state does not name any more; what fails is tried again.
    pub(super) async fn forget(&self, inner: &mut CaInner) {
        let state = &inner.state;
        let held = |key_id: &String| state.held_keys().any(|held| held == key_id);
        inner.orphans.retain(|key_id| !held(key_id));
        if inner.orphans.is_empty() {
            return;
        }
        let gone = inner.orphans.iter().cloned().collect();
        let forgotten = self.store.forget_keys(gone).await;
        match inner.written(forgotten) {
            Ok(()) => inner.orphans.clear(),
            Err(error) => tracing::warn!(%error, "keys of a former root cannot be removed yet"),
        }
    }

    pub(super) fn install(
        &self,
        inner: &mut CaInner,
        state: CaState,
        version: Version,
        crls: Vec<Crl>,
    ) {
        // First, for what is published wakes watchers, which ask it.
        self.revocations.send_replace(Arc::new(state.revocations()));
        self.publish(&state, crls);
        self.window.send_replace(state.window());
        inner.state = state;
        inner.version = version;
        inner.stale = false;
    }

    pub(super) fn publish(&self, state: &CaState, crls: Vec<Crl>) {
        match publication(state, crls, self.clock.now()) {
            Ok(publication) => {
                self.published.send_if_modified(|published| {
                    let changed = **published != publication;
                    if changed {
                        *published = Arc::new(publication);
                    }
                    changed
                });
            }
            // Every certificate in a state was read as a CA's.
            Err(error) => tracing::error!(%error, "the bundle cannot be made"),
        }
    }
}

/// What members have heard is not taken back because a store was brought back from a copy.
fn went_back(found: Option<Version>, seen: Version) -> StoreError {
    StoreError::WentBack {
        found: found.map(|version| version.0),
        seen: seen.0,
    }
}

impl CaInner {
    /// Counts a write that has failed.
    pub(super) fn written<T>(&mut self, write: Result<T, StoreError>) -> Result<T, StoreError> {
        if write.is_err() {
            self.write_failures += 1;
        }
        write
    }
}
