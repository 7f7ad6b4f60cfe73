use super::*;
use crate::testing::{Ca, domain, id, leaf};

const CART: &str = "spiffe://td/ns/shop/sa/cart";

fn state(ca: &Ca) -> IdentityState {
    IdentityState::new(leaf(CART).svid(ca), BundleSet::from(ca.bundle("td")))
}

#[test]
fn every_write_is_seen_whole_and_counted() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let (writer, reader) = identity(state(&old));
    let before = reader.load();
    assert_eq!(before.epoch(), 0);

    assert_eq!(
        writer.set(leaf(CART).svid(&new), new.bundle("td").into()),
        1
    );
    let after = reader.load();
    assert_eq!(after.epoch(), 1);
    assert_eq!(after.bundles().get(&domain("td")), Some(&new.bundle("td")));
    assert_ne!(
        after.default_svid().unwrap().serial(),
        before.default_svid().unwrap().serial()
    );
    // A holder of the old state keeps all of it.
    assert_eq!(before.bundles().get(&domain("td")), Some(&old.bundle("td")));

    assert_eq!(writer.remove_bundle(&domain("td")), 2);
    assert!(writer.load().bundles().is_empty());
    assert_eq!(writer.set_bundle(old.bundle("td")), 3);
    assert_eq!(writer.set_bundles(BundleSet::new()), 4);
    assert_eq!(writer.remove_svid(&id(CART)), 5);
    assert!(reader.load().default_svid().is_none());
}

#[test]
fn the_default_is_the_first_until_it_is_taken_out() {
    let ca = Ca::new("root");
    let mut state = IdentityState::from_bundles(BundleSet::new());
    assert!(state.default_svid().is_none());
    state.insert_svid(leaf("spiffe://td/b").svid(&ca));
    state.insert_svid(leaf("spiffe://td/a").svid(&ca));
    let default = |state: &IdentityState| state.default_svid().map(|svid| svid.id().clone());
    assert_eq!(default(&state), Some(id("spiffe://td/b")));
    assert!(state.remove_svid(&id("spiffe://td/b")).is_some());
    assert_eq!(default(&state), None);
    assert_eq!(state.svids().count(), 1);
    assert!(state.svid(&id("spiffe://td/a")).is_some());
}

/// What the CA says of an SVID holds for that one, until another takes its place.
#[test]
fn a_revocation_is_of_one_svid() {
    let ca = Ca::new("root");
    let mut state = state(&ca);
    let svid = Arc::clone(state.default_svid().unwrap());
    state.revoke_svid(svid.id(), "another", crate::testing::noon());
    state.revoke_svid(&id("spiffe://td/b"), svid.serial(), crate::testing::noon());
    assert_eq!(state.revoked_since(&svid), None);
    state.revoke_svid(svid.id(), svid.serial(), crate::testing::noon());
    state.share_svid(Arc::clone(&svid));
    assert_eq!(state.revoked_since(&svid), Some(crate::testing::noon()));
    let next = leaf(CART).svid(&ca);
    assert_ne!(next.serial(), svid.serial());
    state.insert_svid(next);
    assert_eq!(state.revoked_since(&svid), None);
    state.revoke_svid(svid.id(), svid.serial(), crate::testing::noon());
    assert_eq!(state.revoked_since(&svid), None, "it is not there any more");
}

#[tokio::test]
async fn readers_wait_for_news_each_on_its_own() {
    let ca = Ca::new("root");
    let (writer, mut first) = identity(state(&ca));
    let mut second = first.clone();
    writer.set_svid(leaf(CART).svid(&ca));
    writer.set_svid(leaf(CART).svid(&ca));
    assert_eq!(
        first.changed().await.unwrap().epoch(),
        2,
        "two writes are one change"
    );
    assert_eq!(second.changed().await.unwrap().epoch(), 2);

    let mut third = writer.reader();
    let waiting = tokio::spawn(async move { third.changed().await.map(|state| state.epoch()) });
    tokio::task::yield_now().await;
    writer.set_bundle(ca.bundle("td"));
    assert_eq!(waiting.await.unwrap(), Ok(3));

    drop(writer);
    assert_eq!(
        first.changed().await.unwrap().epoch(),
        3,
        "the last write is reported"
    );
    assert_eq!(first.changed().await.unwrap_err(), SourceEnded);
    assert_eq!(first.load().epoch(), 3, "and stays");
}

#[test]
fn writers_on_many_threads_lose_nothing() {
    let ca = Ca::new("root");
    let (writer, reader) = identity(IdentityState::default());
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (writer, ca) = (&writer, &ca);
            scope.spawn(move || writer.set_bundle(ca.bundle(&format!("td{n}"))));
        }
    });
    assert_eq!(
        (reader.load().bundles().len(), reader.load().epoch()),
        (8, 8)
    );
}

#[test]
fn bundles_and_revocation_lists_change_together() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let (writer, reader) = identity(state(&old));
    assert!(reader.load().crls().is_empty());
    let lists = |ca: &Ca| {
        let mut set = CrlSet::new();
        set.insert(domain("td"), ca.crl().list()).unwrap();
        set
    };
    let (of_old, of_new) = (lists(&old), lists(&new));
    assert_eq!(writer.set_crls(of_old.clone()), 1);
    assert_eq!(reader.load().crls(), &of_old);
    assert_eq!(writer.set_trust(new.bundle("td").into(), of_new.clone()), 2);
    let state = reader.load();
    assert_eq!(state.crls(), &of_new);
    assert_eq!(state.bundles().get(&domain("td")), Some(&new.bundle("td")));
    assert!(state.default_svid().is_some());
}

#[test]
fn trust_never_goes_back() {
    let bundle = |name: &str, sequence| {
        let bundle = Ca::new(name).bundle("td");
        match sequence {
            Some(sequence) => bundle.with_sequence(sequence),
            None => bundle,
        }
    };
    let mut state = IdentityState::default();
    let mut insert = |bundle: &TrustBundle| {
        state.insert_newer_bundle(bundle.clone());
        state.bundles().get(&domain("td")) == Some(bundle)
    };
    assert!(insert(&bundle("a", None)));
    assert!(insert(&bundle("b", None)), "without numbers, as they come");
    assert!(insert(&bundle("c", Some(3))));
    assert!(!insert(&bundle("d", Some(2))), "older");
    assert!(
        !insert(&bundle("e", Some(3))),
        "the first bundle of a generation stays"
    );
    assert!(insert(&bundle("f", Some(4))));
    assert!(insert(&bundle("g", None)), "from another kind of source");
}

/// What the CA's stream has brought stays through everything that comes after it: a leaf's answer
/// that was on its way, and what federation fetches.
#[cfg(feature = "ca-client")]
#[test]
fn what_a_stream_has_brought_is_not_taken_back() {
    let [first, second] = ["first", "second"].map(Ca::new);
    let generation = |ca: &Ca, n| ca.bundle("td").with_sequence(n);
    let mut state = IdentityState::default();
    state.insert_newer_bundle(generation(&first, 1));
    assert!(state.replace_trust(generation(&second, 3), Vec::new(), RevokedIds::default()));
    let trusted = |state: &IdentityState| state.bundles().get(&domain("td")).cloned();
    for change in [
        |state: &mut IdentityState, first: &Ca| {
            state.insert_newer_bundle(first.bundle("td").with_sequence(2));
        },
        |state: &mut IdentityState, first: &Ca| state.insert_federated(first.bundle("foreign")),
        |state: &mut IdentityState, _: &Ca| state.remove_federated(&domain("foreign")),
    ] {
        change(&mut state, &first);
        assert_eq!(trusted(&state), Some(generation(&second, 3)));
    }
    assert!(!state.replace_trust(generation(&first, 2), Vec::new(), RevokedIds::default()));
    assert_eq!(trusted(&state), Some(generation(&second, 3)));
}

/// A root that was distrusted once comes back by no bundle, of whatever number and from whatever side.
#[test]
fn distrust_only_grows() {
    let [good, bad, foreign] = ["good", "bad", "foreign"].map(Ca::new);
    let key_id = |ca: &Ca| ca.bundle("td").roots()[0].key_id().to_owned();
    let both = || TrustBundle::new(domain("td"), [good.cert.clone(), bad.cert.clone()]).unwrap();
    let mut state = IdentityState::from_bundles(both().into());
    state.insert_bundle(both().with_sequence(3).distrusting([key_id(&bad)]));
    let roots = |state: &IdentityState| -> Vec<String> {
        let bundle = state.bundles().get(&domain("td")).unwrap();
        bundle
            .roots()
            .iter()
            .map(|root| root.key_id().to_owned())
            .collect()
    };
    for change in [
        |state: &mut IdentityState, both: TrustBundle| state.insert_bundle(both),
        |state: &mut IdentityState, both: TrustBundle| {
            state.insert_newer_bundle(both.with_sequence(4));
        },
        |state: &mut IdentityState, both: TrustBundle| state.replace_bundles(both.into()),
        |state: &mut IdentityState, both: TrustBundle| {
            state.remove_bundle(&domain("td"));
            state.insert_federated(both);
        },
    ] {
        change(&mut state, both());
        assert_eq!(roots(&state), [key_id(&good)]);
        let bundle = state.bundles().get(&domain("td")).unwrap();
        assert!(
            bundle.distrusts_key(&key_id(&bad)),
            "live connections ask this"
        );
    }
    assert_eq!(state.without_distrusted(both()).roots().len(), 1);
    // It is of its own trust domain alone.
    state.insert_federated(bad.bundle("other"));
    assert!(
        !state
            .bundles()
            .get(&domain("other"))
            .unwrap()
            .is_distrusted()
    );
    state.insert_federated(foreign.bundle("other").distrusting([key_id(&good)]));
    assert_eq!(roots(&state), [key_id(&good)]);
}

#[test]
fn what_is_remembered_of_distrust_is_bounded() {
    let mut state = IdentityState::default();
    let many = (0..3 * MAX_REMEMBERED).map(|n| n.to_string());
    state.distrust(&domain("td"), many);
    assert_eq!(state.distrusted_keys(&domain("td")).count(), MAX_REMEMBERED);
}
