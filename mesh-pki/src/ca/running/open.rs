//! A store in, the state that a CA begins with out: the one that is written, or the first one of a new CA.

use std::time::SystemTime;

use super::effects::keep_keys;
use crate::ca::authority::{Lifetimes, NewAuthority};
use crate::ca::error::OpenError;
use crate::ca::state::CaState;
use crate::ca::store::{Store, StoreError, Version};
use crate::crypto::Crypto;
use crate::id::TrustDomain;

/// How often a start looks again because another process made the CA at the same time.
const LOOKS: usize = 8;

/// What a CA is opened with.
pub(super) struct Opening<'a> {
    pub(super) trust_domain: &'a TrustDomain,
    pub(super) first: Option<NewAuthority>,
    pub(super) lifetimes: Lifetimes,
    pub(super) crypto: &'a Crypto,
    pub(super) now: SystemTime,
}

/// The state that is written, or the first one, which is written here. Of several processes that begin at
/// once one makes the CA, and the others find it.
pub(super) async fn state_in(
    store: &impl Store,
    opening: &Opening<'_>,
) -> Result<(CaState, Version), OpenError> {
    for _ in 1..LOOKS {
        let error = match written_or_made(store, opening).await {
            Err(
                error @ (OpenError::Store(StoreError::Conflict)
                | OpenError::KeysWithoutState { .. }),
            ) => error,
            other => return other,
        };
        if !store.shared() || store.latest().await?.is_none() {
            return Err(error);
        }
    }
    written_or_made(store, opening).await
}

async fn written_or_made(
    store: &impl Store,
    opening: &Opening<'_>,
) -> Result<(CaState, Version), OpenError> {
    match store.load().await? {
        Some(_) if opening.first.is_some() => Err(OpenError::Exists),
        Some((bytes, version)) => {
            store.finish().await?;
            Ok((CaState::from_bytes(&bytes)?, version))
        }
        None => {
            let unfinished = unfinished(store).await?;
            let made;
            let new = match &opening.first {
                Some(brought) => brought,
                None => {
                    made = NewAuthority::create(
                        opening.trust_domain,
                        opening.lifetimes,
                        opening.now,
                        opening.crypto,
                    )?;
                    &made
                }
            };
            let authority = &new.authority;
            let own = [authority.key_id(), authority.issuer_key_id()].map(str::to_owned);
            store.begin([&unfinished[..], &own].concat()).await?;
            keep_keys(store, new).await?;
            let state = CaState::new(opening.trust_domain.clone(), authority.clone(), opening.now);
            let version = match store.swap(None, state.to_bytes()).await {
                Err(StoreError::Conflict) => {
                    // Another process was first. A root that was brought may be its root too.
                    if opening.first.is_none() {
                        store.forget_keys(own.to_vec()).await?;
                    }
                    return Err(StoreError::Conflict.into());
                }
                swapped => swapped?,
            };
            store.finish().await?;
            Ok((state, version))
        }
    }
}

/// The keys in a store without a state, all of which are of a CA that was never finished.
async fn unfinished(store: &impl Store) -> Result<Vec<String>, OpenError> {
    let (key_ids, begun) = (store.key_ids().await?, store.begun().await?);
    if key_ids.iter().any(|key_id| !begun.contains(key_id)) {
        return Err(OpenError::KeysWithoutState { key_ids });
    }
    if !key_ids.is_empty() {
        tracing::warn!("the CA was not made to the end the last time; it is made anew");
    }
    Ok(key_ids)
}

/// Says which keys no state names: a crash left them, or the state is older than they are.
pub(super) async fn warn_of_orphans(store: &impl Store, state: &CaState) -> Result<(), StoreError> {
    let mut orphans = store.key_ids().await?;
    orphans.retain(|key_id| state.held_keys().all(|held| held != key_id));
    if !orphans.is_empty() {
        tracing::warn!(
            orphans = orphans.join(", "),
            "the CA's state does not name these keys; none is removed"
        );
    }
    Ok(())
}
