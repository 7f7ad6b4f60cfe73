//! A state in, what follows from it out: its keys in the store, its signer, its revocation lists, its
//! bundle.

use std::time::{Duration, SystemTime};

use crate::bundle::BundleError;
use crate::ca::authority::{Lifetimes, NewAuthority, Signer, revocation_list};
use crate::ca::error::CaError;
use crate::ca::report::Published;
use crate::ca::state::CaState;
use crate::ca::store::{Store, StoreError};
use crate::crl::Crl;
use crate::svid::PrivateKey;

pub(super) async fn keep_keys(store: &impl Store, new: &NewAuthority) -> Result<(), StoreError> {
    if let Some(root_key) = &new.root_key {
        store.keep_key(new.authority.key_id(), root_key).await?;
    }
    let issuer = new.authority.issuer_key_id();
    store.keep_key(issuer, &new.issuer_key).await
}

pub(super) async fn signer_of(store: &impl Store, state: &CaState) -> Result<Signer, CaError> {
    let active = state.active();
    let key: PrivateKey = store.key(active.issuer_key_id()).await?;
    Ok(Signer::new(active, &key)?)
}

/// The lists of all issuing CAs; none, while nothing is revoked, so that no member depends on lists
/// without need.
pub(super) async fn crls_of(
    store: &impl Store,
    state: &CaState,
    lifetimes: Lifetimes,
    now: SystemTime,
) -> Result<Vec<Crl>, CaError> {
    let mut crls = Vec::new();
    if state.revoked(now).next().is_none() {
        return Ok(crls);
    }
    for authority in state.authorities() {
        let key = store.key(authority.issuer_key_id()).await?;
        let until = now + crl_life(lifetimes);
        let revoked = state.revoked(now);
        crls.push(revocation_list(authority, &key, revoked, now, until)?);
    }
    Ok(crls)
}

/// How long a list is valid: a member that got no update for so long has no live leaf any more.
pub(super) fn crl_life(lifetimes: Lifetimes) -> Duration {
    (2 * lifetimes.leaf).max(Duration::from_secs(60 * 60))
}

pub(super) fn publication(
    state: &CaState,
    crls: Vec<Crl>,
    now: SystemTime,
) -> Result<Published, BundleError> {
    Ok(Published {
        generation: state.generation(),
        bundle: state.bundle()?,
        active: state.active().key_id().to_owned(),
        crls,
        revoked_ids: state.revoked_ids(now),
    })
}
