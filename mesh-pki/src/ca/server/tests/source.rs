//! The source of a CA before the CA: the few lines that an embedder writes.

use super::*;
use crate::source::ca::{CaSource, CaSourceError};
use crate::source::keep::Keep;
use crate::store::SourceEnded;
use crate::svid::validate_own;

fn from(world: &World, address: String) -> CaSource {
    CaSource::new(id(CART), address, id(OWN))
        .fixed_trust_bundle(world.bundle.clone())
        .clock(world.clock.shared())
}

#[tokio::test]
async fn an_identity_is_obtained_follows_the_bundle_and_is_kept() {
    let world = world().await;
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("identity");
    let source = from(&world, world.address.to_string())
        .join_token(world.join_token().await)
        .keep(&kept);
    let mut keeping = source.keep_status().unwrap();
    let identity = source.start(&crypto()).await.unwrap();
    assert!(identity.reader.load().default_svid().is_none());
    let task = tokio::spawn(identity.task);
    let first = identity.reader.ready().await.unwrap();
    let serial = first.default_svid().unwrap().serial().to_owned();

    // A root that the CA publishes arrives without a new leaf.
    world.ca.prepare(None).await.unwrap();
    let mut reader = identity.reader.clone();
    let roots = |state: &IdentityState| state.bundles().get(&domain("td")).unwrap().roots().len();
    while roots(&reader.latest()) < 2 {
        reader.changed().await.unwrap();
    }
    assert_eq!(reader.load().default_svid().unwrap().serial(), serial);
    let keep = Keep::new(id(CART), &kept);
    let on_disk = || keep.load(noon(), &crypto()).map(|state| roots(&state));
    while on_disk().ok() != Some(2) {
        keeping.changed().await.unwrap();
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());

    // Nothing listens at this address: what was kept counts.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap().to_string();
    drop(closed);
    let again = from(&world, address).keep(&kept).start(&crypto()).await;
    let state = again.unwrap().reader.ready().await.unwrap();
    assert_eq!(state.default_svid().unwrap().serial(), serial);
    assert_eq!(roots(&state), 2);
}

/// A member that the CA has revoked hears of it, knows it after a restart although no CA answers, and asks
/// with a new token before its SVID is due.
#[tokio::test]
async fn a_revoked_member_knows_it_and_a_new_token_is_tried_at_once() {
    let world = world().await;
    let dir = tempfile::tempdir().unwrap();
    let (kept, token) = (dir.path().join("identity"), dir.path().join("token"));
    std::fs::write(&token, world.join_token().await.as_bytes()).unwrap();
    let source = |address| from(&world, address).token(&token).keep(&kept);
    let own = |state: &IdentityState| {
        let svid = state.default_svid().unwrap();
        validate_own(svid, state, world.clock.now(), &crypto())
    };
    let starting = source(world.address.to_string());
    let mut keeping = starting.keep_status().unwrap();
    let identity = starting.start(&crypto()).await.unwrap();
    let task = tokio::spawn(identity.task);
    let first = identity.reader.ready().await.unwrap();
    let serial = first.default_svid().unwrap().serial().to_owned();
    assert_eq!(own(&first), Ok(()));
    // Once the stream is there.
    world.ca.prepare(None).await.unwrap();
    let mut reader = identity.reader.clone();
    let roots = |state: &IdentityState| state.bundles().get(&domain("td")).unwrap().roots().len();
    while roots(&reader.latest()) < 2 {
        reader.changed().await.unwrap();
    }
    world.ca.revoke(&serial).await.unwrap();
    while own(&reader.latest()).is_ok() {
        reader.changed().await.unwrap();
    }
    let why = own(&reader.load()).unwrap_err();
    assert!(matches!(why, Rejected::Revoked { .. }), "{why}");
    let keep = Keep::new(id(CART), &kept);
    while !keep
        .load(world.clock.now(), &crypto())
        .is_ok_and(|kept| own(&kept).is_err())
    {
        keeping.changed().await.unwrap();
    }
    task.abort();
    let _ = task.await;

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap().to_string();
    drop(closed);
    let again = source(address).start(&crypto()).await.unwrap();
    let why = own(&again.reader.load()).unwrap_err();
    assert!(matches!(why, Rejected::Revoked { .. }), "{why}");

    world.clock.advance(secs(10));
    std::fs::write(&token, world.join_token().await.as_bytes()).unwrap();
    let again = source(world.address.to_string());
    let again = again.start(&crypto()).await.unwrap();
    let mut reader = again.reader.clone();
    let task = tokio::spawn(again.task);
    while own(&reader.latest()).is_err() {
        reader.changed().await.unwrap();
    }
    assert_ne!(reader.load().default_svid().unwrap().serial(), serial);
    task.abort();
}

/// One that was away while the CA revoked it hears that when it comes back.
#[tokio::test]
async fn a_member_that_was_away_hears_that_it_is_revoked() {
    let world = world().await;
    let (client, writer) = world.client(Token::Text(world.join_token().await));
    let (svid, bundle) = world.obtain(&client).await.unwrap();
    let serial = svid.serial().to_owned();
    writer.set(svid, bundle.into());
    world.ca.revoke(&serial).await.unwrap();
    let mut reader = writer.reader();
    let (_status, watch) = client.watch(Arc::clone(&writer), || 0.5, std::future::pending());
    let task = tokio::spawn(watch);
    let heard = |state: &IdentityState| {
        let svid = state.default_svid().unwrap();
        state.revoked_since(svid).is_some()
    };
    while !heard(&reader.latest()) {
        reader.changed().await.unwrap();
    }
    task.abort();
}

#[tokio::test]
async fn a_reader_does_not_wait_for_a_source_that_has_ended() {
    let world = world().await;
    let identity = from(&world, world.address.to_string())
        .start(&crypto())
        .await
        .unwrap();
    let reader = identity.reader.clone();
    drop((identity.task, identity.writer));
    assert_eq!(reader.ready().await.unwrap_err(), SourceEnded);
}

#[tokio::test]
async fn a_start_needs_something_to_verify_the_ca_against() {
    let started = CaSource::new(id(CART), "127.0.0.1:1", id(OWN))
        .start(&crypto())
        .await;
    assert_eq!(started.unwrap_err(), CaSourceError::NoTrustBundle);
}

/// A root that was distrusted vouches for no CA again, neither once the SVID has ended nor after a
/// restart, although the operator's file still has it.
#[tokio::test]
async fn a_distrusted_root_in_the_trust_bundle_counts_no_more() {
    let world = world().await;
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("identity");
    let identity = from(&world, world.address.to_string())
        .join_token(world.join_token().await)
        .keep(&kept)
        .start(&crypto())
        .await
        .unwrap();
    let task = tokio::spawn(identity.task);
    identity.reader.ready().await.unwrap();
    // Once the stream is there: a new root arrives on it, and takes the place of the old one.
    world.ca.prepare(None).await.unwrap();
    let mut reader = identity.reader.clone();
    let roots = |state: &IdentityState| state.bundles().get(&domain("td")).unwrap().roots().len();
    while roots(&reader.latest()) < 2 {
        reader.changed().await.unwrap();
    }
    let old = world.bundle.roots()[0].key_id().to_owned();
    world.ca.distrust(&old, None).await.unwrap();
    let keep = Keep::new(id(CART), &kept);
    let known = |state: &IdentityState| state.distrusted_keys(&domain("td")).any(|key| key == old);
    while !known(&reader.latest()) {
        reader.changed().await.unwrap();
    }
    while !keep.load_distrusted().unwrap().contains(&old) {
        tokio::task::yield_now().await;
    }
    task.abort();
    let _ = task.await;

    // The SVID has ended; the CA would be verified against the file, whose one root is distrusted.
    world.clock.advance(secs(3600));
    let again = from(&world, world.address.to_string()).keep(&kept);
    let again = again.start(&crypto()).await.unwrap();
    assert!(known(&again.reader.load()));
    let client = CaClient::new(
        CaClientConfig {
            id: id(CART),
            address: world.address.to_string(),
            ca: id(OWN),
            bootstrap: Bootstrap::Bundle(world.bundle.clone()),
            token: Token::None,
        },
        again.reader.clone(),
        &crypto(),
        world.clock.shared(),
    );
    let error = world
        .obtain(&client.unwrap())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("every root of the trust bundle is distrusted"),
        "{error}"
    );

    std::fs::write(kept.join("distrusted-keys"), "\n").unwrap();
    let broken = from(&world, world.address.to_string())
        .keep(&kept)
        .start(&crypto())
        .await;
    assert!(matches!(broken, Err(CaSourceError::Distrusted { .. })));
}
