//! The source of a CA before the CA: the few lines that an embedder writes.

use super::*;
use crate::source::ca::{CaSource, CaSourceError};
use crate::source::keep::Keep;
use crate::store::SourceEnded;

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
