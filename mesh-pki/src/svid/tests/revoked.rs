use std::slice::from_ref;

use super::*;
use crate::crl::{Crl, CrlSet};

/// A state that trusts `ca` for `td` and has these lists for it.
fn state_with(ca: &Ca, lists: impl IntoIterator<Item = Crl>) -> IdentityState {
    let mut state = ca.state("td");
    let mut crls = CrlSet::new();
    crls.replace(domain("td"), lists).unwrap();
    state.replace_crls(crls);
    state
}

#[test]
fn c8_a_revoked_leaf_is_refused_and_named() {
    let ca = Ca::new("root");
    let (gone, fine) = (leaf(CART).signed_by(&ca), leaf(CART).signed_by(&ca));
    let state = state_with(&ca, [ca.crl().revoking(&gone).list()]);
    check(&[fine], &state).unwrap();
    let serial = read_unverified(&gone).unwrap().serial;
    let rejected = check(from_ref(&gone), &state).unwrap_err();
    assert_eq!(
        rejected,
        Rejected::Revoked {
            id: id(CART),
            place: Place::Leaf,
            serial: serial.clone(),
            since: noon() - minutes(1),
            reason: Some("keyCompromise"),
        }
    );
    assert_eq!(
        rejected.to_string(),
        format!(
            "the certificate of {CART} (serial {serial}) is revoked since 2027-01-15T07:59:00Z (keyCompromise)"
        )
    );
    // The same in the other role, and once more with a signature that is known by now.
    let again = validate(&[gone], &state, noon(), Usage::Server, &crypto());
    assert_eq!(again, Err(rejected));
}

#[test]
fn c8_a_stale_list_allows_nobody() {
    let ca = Ca::new("root");
    let (gone, fine) = (leaf(CART).signed_by(&ca), leaf(CART).signed_by(&ca));
    let next_update = noon() + minutes(10);
    let list = ca.crl().with(|p| p.next_update = next_update.into());
    let state = state_with(&ca, [list.revoking(&gone).list()]);
    let at = |cert: &CertificateDer<'static>, now| {
        validate(from_ref(cert), &state, now, Usage::Client, &crypto())
    };
    let second = std::time::Duration::from_secs(1);
    at(&fine, next_update - second).unwrap();
    for now in [next_update, next_update + minutes(1)] {
        assert_eq!(
            at(&fine, now),
            Err(Rejected::RevocationStale {
                id: id(CART),
                place: Place::Leaf,
                next_update,
                now,
            })
        );
        // What it said remains said.
        assert_eq!(name_of(&at(&gone, now).unwrap_err()), "Revoked");
    }
    // A list from a clock ahead of ours counts all the same.
    at(&fine, noon() - minutes(5)).unwrap();
}

#[test]
fn c8_a_list_that_cannot_be_relied_on_allows_nobody() {
    let unknown = |state: &IdentityState, ca: &Ca| match check(&[leaf(CART).signed_by(ca)], state)
        .unwrap_err()
    {
        Rejected::RevocationUnknown {
            id: got,
            place: Place::Leaf,
            why,
        } => {
            assert_eq!(got, id(CART));
            why
        }
        other => panic!("{other:?}"),
    };
    // A signature that is not the issuer's.
    let ca = Ca::new("root");
    let mut forged = ca.crl().der();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let state = state_with(&ca, [Crl::from_der(&forged).unwrap()]);
    assert_eq!(unknown(&state, &ca), "its signature is not its issuer's");

    // Nor does a key id of its own make it another's.
    let mut forged = ca
        .crl()
        .with(|p| p.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(vec![7; 20]))
        .der();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let state = state_with(&ca, [Crl::from_der(&forged).unwrap()]);
    let nobodys = "it has its issuer's name, but neither its issuer nor a root signed it";
    assert_eq!(unknown(&state, &ca), nobodys);
    // As is the list of a root that is gone, whose name the next one has.
    let next = Ca::new("root");
    let state = state_with(&next, [ca.crl().list()]);
    assert_eq!(unknown(&state, &next), nobodys);
    let state = state_with(&next, [ca.crl().list(), next.crl().list()]);
    check(&[leaf(CART).signed_by(&next)], &state).unwrap();

    // An issuer that may not sign lists; a holder of its key does it all the same.
    let draft = authority("root");
    let key = KeyPair::try_from(&draft.key.serialize_der()[..]).unwrap();
    let ca = draft
        .with(|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign])
        .root();
    let twin = Draft {
        params: authority("root").params,
        key,
    };
    let state = state_with(&ca, [twin.root().crl().list()]);
    assert_eq!(unknown(&state, &ca), "its issuer's key usage lacks cRLSign");

    // One without a key usage may do anything.
    let free = authority("free").with(|p| p.key_usages.clear()).root();
    let state = state_with(&free, [free.crl().list()]);
    check(&[leaf(CART).signed_by(&free)], &state).unwrap();
}

#[test]
fn c8_an_issuer_without_a_list_is_not_checked() {
    let (ca, other) = (Ca::new("root"), Ca::new("other"));
    let cert = leaf(CART).signed_by(&ca);
    check(from_ref(&cert), &state_with(&ca, [other.crl().list()])).unwrap();
    // A list in another trust domain's place says nothing, even if it is the issuer's.
    let mut state = ca.state("td");
    let mut crls = CrlSet::new();
    let list = ca.crl().revoking(&cert).list();
    crls.insert(domain("elsewhere"), list.clone()).unwrap();
    state.replace_crls(crls.clone());
    check(from_ref(&cert), &state).unwrap();
    crls.insert(domain("td"), list).unwrap();
    state.replace_crls(crls);
    assert_eq!(name_of(&check(&[cert], &state).unwrap_err()), "Revoked");
}

#[test]
fn c8_an_intermediate_is_checked_by_its_own_issuers_list() {
    let ca = Ca::new("root");
    let serial = |n: u64| Some(SerialNumber::from(n));
    let middle = authority("middle")
        .with(|p| p.serial_number = serial(1))
        .under(&ca);
    let cert = leaf(CART)
        .with(|p| p.serial_number = serial(2))
        .signed_by(&middle);
    let chain = [cert.clone(), middle.cert.clone()];
    let verdict = |lists: Vec<CrlDraft>| {
        let lists = lists.iter().map(CrlDraft::list);
        check(&chain, &state_with(&ca, lists)).map(drop)
    };
    let place_of = |result: Result<(), Rejected>| match result.unwrap_err() {
        Rejected::Revoked { place, serial, .. } => (place, serial),
        other => panic!("{other:?}"),
    };
    verdict(vec![ca.crl(), middle.crl()]).unwrap();
    assert_eq!(
        place_of(verdict(vec![ca.crl().revoking(&middle.cert)])),
        (Place::Intermediate, "01".to_owned())
    );
    assert_eq!(
        place_of(verdict(vec![ca.crl(), middle.crl().revoking(&cert)])),
        (Place::Leaf, "02".to_owned())
    );
    // A serial number counts under its own issuer only.
    verdict(vec![
        ca.crl().revoking(&cert),
        middle.crl().revoking(&middle.cert),
    ])
    .unwrap();
    // A stale list of the root covers the intermediate.
    let stale = ca.crl().with(|p| {
        p.this_update = (noon() - minutes(2)).into();
        p.next_update = (noon() - minutes(1)).into();
    });
    match verdict(vec![stale]).unwrap_err() {
        Rejected::RevocationStale { place, .. } => assert_eq!(place, Place::Intermediate),
        other => panic!("{other:?}"),
    }
}

#[test]
fn c8_another_path_may_lead_around_a_revoked_cross_signature() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let draft = authority("middle");
    let key = KeyPair::try_from(&draft.key.serialize_der()[..]).unwrap();
    let params = draft.params.clone();
    let by_old = draft.under(&old);
    let by_new = Draft { params, key }.under(&new);
    let chain = [
        leaf(CART).signed_by(&by_old),
        by_old.cert.clone(),
        by_new.cert.clone(),
    ];
    let bundle = TrustBundle::new(domain("td"), [old.cert.clone(), new.cert.clone()]).unwrap();
    let new_root = bundle.roots()[1].key_id().to_owned();
    let mut state = IdentityState::from_bundles(bundle.into());
    let mut crls = CrlSet::new();
    let old_list = old.crl().revoking(&by_old.cert).list();
    crls.insert(domain("td"), old_list).unwrap();
    state.replace_crls(crls.clone());
    assert_eq!(check(&chain, &state).unwrap().root_key_id, new_root);
    let new_list = new.crl().revoking(&by_new.cert).list();
    crls.insert(domain("td"), new_list).unwrap();
    state.replace_crls(crls);
    assert_eq!(name_of(&check(&chain, &state).unwrap_err()), "Revoked");
}

/// RUSTSEC-2026-0049: of several distribution points in a certificate only the first was looked at.
/// Here none is: a list that is complete covers every certificate of its issuer.
#[test]
fn c8_distribution_points_in_a_certificate_are_no_way_out() {
    let ca = Ca::new("root");
    let point = |uri: &str| rcgen::CrlDistributionPoint {
        uris: vec![uri.to_owned()],
    };
    let gone = leaf(CART)
        .with(|p| p.crl_distribution_points = vec![point("http://a/crl"), point("http://b/crl")])
        .signed_by(&ca);
    let state = state_with(&ca, [ca.crl().revoking(&gone).list()]);
    assert_eq!(name_of(&check(&[gone], &state).unwrap_err()), "Revoked");
}
