//! A presented chain and the current state in, a verified identity or the reason against it out.
//! Pure: it serves TLS handshakes, and the sweep that closes connections which a new state forbids.
//!
//! What SPIFFE says of the leaf is checked here; [`path`](super::path) finds out whether a root of
//! the right trust domain vouches for it. Neither knows the other's rules, so both have to say yes.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use super::path::{Search, check_time};
use super::rejected::{Place, Rejected};
use super::{Usage, Verified, X509Svid, inspect};
use crate::bundle::TrustBundle;
use crate::crypto::Crypto;
use crate::id::SpiffeId;
use crate::store::IdentityState;

/// How many bytes all presented certificates may have together; how many there are is free.
pub const MAX_PRESENTED_BYTES: usize = 64 * 1024;

/// Decides whether `chain` (leaf first, the rest in any number and order) is a peer that `state`
/// trusts for `usage` at the moment `now`.
///
/// 1. What is presented is bounded in bytes before anything is parsed.
/// 2. The leaf alone is a SPIFFE leaf: S1 to S5, S7, S8, S10, S12 to S15.
/// 3. The bundle of the ID's own trust domain is looked up; no other root takes part (S6).
/// 4. The leaf is valid at `now`.
/// 5. If more intermediates are presented than a path can have, those that no root of the bundle
///    vouches for are left out, so that a peer cannot make the search expensive.
/// 6. rustls-webpki builds a path to one of those roots: signatures, validity, cA, path length,
///    extended key usage, name constraints (those for URIs always refuse).
/// 7. The path found is short ([`MAX_PATH_LEN`](super::MAX_PATH_LEN)), its intermediates may sign
///    and have no workload's ID (S11), its root is valid at `now`, and no revocation list of the
///    trust domain names a certificate on it. Otherwise the search continues with the next
///    path.
/// 8. The trust domain's CA has not revoked all leaves of the ID that begin before a moment after
///    this one's beginning.
///
/// # Errors
///
/// [`Rejected`]: the first step that fails, or for 6 and 7 what came closest to a path.
pub fn validate(
    chain: &[CertificateDer<'_>],
    state: &IdentityState,
    now: SystemTime,
    usage: Usage,
    crypto: &Crypto,
) -> Result<Verified, Rejected> {
    let first = chain.first().ok_or(Rejected::NoCertificate)?;
    let bytes = chain.iter().map(|cert| cert.len()).sum();
    if bytes > MAX_PRESENTED_BYTES {
        return Err(Rejected::ChainTooLarge {
            got: bytes,
            max: MAX_PRESENTED_BYTES,
        });
    }

    let leaf = inspect::leaf(first)?;
    let bundle = bundle_of(&leaf.id, state)?;
    check_time(&leaf.id, Place::Leaf, leaf.not_before, leaf.not_after, now)?;

    let search = Search {
        id: &leaf.id,
        bundle,
        crls: state.crls().get(leaf.id.trust_domain()),
        now,
        usage,
        crypto,
    };
    let root = search.root_of(chain)?;
    if let Some(before) = state.revoked_ids().before(&leaf.id)
        && leaf.not_before < before
    {
        return Err(Rejected::Revoked {
            id: leaf.id,
            place: Place::Leaf,
            serial: leaf.serial,
            since: before,
            reason: None,
        });
    }
    Ok(Verified {
        not_before: leaf.not_before,
        not_after: leaf.not_after,
        root_key_id: root.key_id().to_owned(),
        id: leaf.id,
        serial: leaf.serial,
    })
}

/// Decides whether peers that trust what `state` trusts accept `svid`, which is ours, at the moment `now`:
/// as a server and as a client. One that its CA has revoked is refused, also before a list names it.
///
/// # Errors
///
/// [`Rejected`]: why they refuse it, as [`validate`] says it.
pub fn validate_own(
    svid: &X509Svid,
    state: &IdentityState,
    now: SystemTime,
    crypto: &Crypto,
) -> Result<(), Rejected> {
    for usage in [Usage::Client, Usage::Server] {
        validate_own_as(usage, svid, state, now, crypto)?;
    }
    Ok(())
}

/// The same in one role.
pub(crate) fn validate_own_as(
    usage: Usage,
    svid: &X509Svid,
    state: &IdentityState,
    now: SystemTime,
    crypto: &Crypto,
) -> Result<(), Rejected> {
    validate(svid.chain(), state, now, usage, crypto)?;
    match state.revoked_since(svid) {
        None => Ok(()),
        Some(since) => Err(Rejected::Revoked {
            id: svid.id().clone(),
            place: Place::Leaf,
            serial: svid.serial().to_owned(),
            since,
            reason: None,
        }),
    }
}

/// Step 3: the bundle of the ID's own trust domain.
fn bundle_of<'a>(id: &SpiffeId, state: &'a IdentityState) -> Result<&'a TrustBundle, Rejected> {
    let trust_domain = id.trust_domain();
    match state.bundles().get(trust_domain) {
        Some(bundle) if bundle.is_distrusted() => Err(Rejected::Distrusted {
            id: id.clone(),
            trust_domain: trust_domain.clone(),
        }),
        Some(bundle) => Ok(bundle),
        None => Err(Rejected::UnknownTrustDomain {
            id: id.clone(),
            known: state
                .bundles()
                .iter()
                .map(|b| b.trust_domain().clone())
                .collect(),
        }),
    }
}
