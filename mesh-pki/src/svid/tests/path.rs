use super::*;

#[test]
fn s6_c4_only_the_roots_of_the_ids_own_trust_domain_count() {
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    let state = IdentityState::from_bundles(BundleSet::from_iter([
        ours.bundle("td"),
        theirs.bundle("other"),
    ]));
    // Each root vouches for its own domain ...
    check(&[leaf(CART).signed_by(&ours)], &state).unwrap();
    check(&[leaf("spiffe://other/a").signed_by(&theirs)], &state).unwrap();
    // ... and for no other that we trust as well.
    let foreign = leaf("spiffe://other/a").signed_by(&ours);
    match check(&[foreign], &state).unwrap_err() {
        Rejected::UnknownIssuer {
            id: got,
            authority_key_id,
            roots,
        } => {
            assert_eq!(got, id("spiffe://other/a"));
            assert_eq!(
                authority_key_id.as_deref(),
                Some(ours.bundle("td").roots()[0].key_id())
            );
            assert_eq!(roots, [theirs.bundle("other").roots()[0].key_id()]);
        }
        other => panic!("{other:?}"),
    }
    // A domain that we know nothing of.
    assert_eq!(
        check(&[leaf("spiffe://third/a").signed_by(&ours)], &state),
        Err(Rejected::UnknownTrustDomain {
            id: id("spiffe://third/a"),
            known: vec![domain("other"), domain("td")],
        })
    );
    // A domain that we know and distrust (S18).
    let distrusted = TrustBundle::distrusted(domain("td"));
    assert_eq!(
        check(
            &[leaf(CART).signed_by(&ours)],
            &IdentityState::from_bundles(distrusted.into())
        ),
        Err(Rejected::Distrusted {
            id: id(CART),
            trust_domain: domain("td")
        })
    );
}

#[test]
fn s6_c6_the_path_is_valid_in_time() {
    let ca = Ca::new("root");
    let cert = leaf(CART).signed_by(&ca);
    let at = |now| {
        validate(
            std::slice::from_ref(&cert),
            &ca.state("td"),
            now,
            Usage::Client,
            &crypto(),
        )
    };
    let (from, to) = (noon() - minutes(30), noon() + minutes(30));
    let second = std::time::Duration::from_secs(1);
    let place = Place::Leaf;
    at(from).unwrap();
    at(to).unwrap();
    assert_eq!(
        at(from - second),
        Err(Rejected::NotYetValid {
            id: id(CART),
            place,
            not_before: from,
            now: from - second
        })
    );
    assert_eq!(
        at(to + second),
        Err(Rejected::Expired {
            id: id(CART),
            place,
            not_after: to,
            now: to + second
        })
    );
    // A clock before 1970 is no reason to panic.
    let before = std::time::UNIX_EPOCH - second;
    assert!(matches!(at(before), Err(Rejected::NotYetValid { .. })));

    // An intermediate, and the root in our own bundle, have an end too.
    let past = noon() - minutes(1);
    let middle = authority("middle")
        .with(|p| p.not_after = past.into())
        .under(&ca);
    let chain = [leaf(CART).signed_by(&middle), middle.cert.clone()];
    assert_eq!(
        check(&chain, &ca.state("td")),
        Err(Rejected::Expired {
            id: id(CART),
            place: Place::Intermediate,
            not_after: past,
            now: noon()
        })
    );
    let old = authority("old").with(|p| p.not_after = past.into()).root();
    assert_eq!(
        check(&[leaf(CART).signed_by(&old)], &old.state("td")),
        Err(Rejected::Expired {
            id: id(CART),
            place: Place::Root,
            not_after: past,
            now: noon()
        })
    );
}

#[test]
fn s6_the_root_that_vouches_is_named() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let past = noon() - minutes(1);
    let ended = authority("ended")
        .with(|p| p.not_after = past.into())
        .root();
    let roots = [old.cert.clone(), ended.cert.clone(), new.cert.clone()];
    let bundle = TrustBundle::new(domain("td"), roots).unwrap();
    let state = IdentityState::from_bundles(bundle.clone().into());
    let by = |ca: &Ca| check(&[leaf(CART).signed_by(ca)], &state);
    assert_eq!(by(&old).unwrap().root_key_id, bundle.roots()[0].key_id());
    assert_eq!(by(&new).unwrap().root_key_id, bundle.roots()[2].key_id());
    assert!(matches!(
        by(&ended),
        Err(Rejected::Expired {
            place: Place::Root,
            ..
        })
    ));

    // A root that was signed again with its own key and name: the one that is valid counts.
    let mut draft = authority("again");
    draft.params.not_after = past.into();
    let short = draft.params.self_signed(&draft.key).unwrap().der().clone();
    let long = draft
        .with(|p| p.not_after = (noon() + minutes(60)).into())
        .root();
    let bundle = TrustBundle::new(domain("td"), [short, long.cert.clone()]).unwrap();
    let state = IdentityState::from_bundles(bundle.into());
    check(&[leaf(CART).signed_by(&long)], &state).unwrap();
}

#[test]
fn s6_signatures_are_verified() {
    let ca = Ca::new("root");
    let mut der = leaf(CART).signed_by(&ca).to_vec();
    let last = der.len() - 1;
    der[last] ^= 1;
    let rejected = check(&[der.into()], &ca.state("td")).unwrap_err();
    assert_eq!(rejected, Rejected::BadSignature { id: id(CART) });
}

#[test]
fn s6_a_new_root_under_an_old_name_is_an_unknown_issuer_and_no_forgery() {
    let (old, new) = (Ca::new("root"), Ca::new("root"));
    let rejected = check(&[leaf(CART).signed_by(&new)], &old.state("td")).unwrap_err();
    assert_eq!(name_of(&rejected), "UnknownIssuer");
}

#[test]
fn s11_an_intermediate_may_sign_and_is_no_workload() {
    let ca = Ca::new("root");
    let through = |middle: Draft| {
        let middle = middle.under(&ca);
        check(
            &[leaf(CART).signed_by(&middle), middle.cert.clone()],
            &ca.state("td"),
        )
    };
    through(authority("middle")).unwrap();
    through(authority("middle").with(|p| p.subject_alt_names = vec![san("spiffe://td")])).unwrap();
    assert_eq!(
        through(authority("middle").with(|p| p.key_usages = vec![KeyUsagePurpose::CrlSign])),
        Err(Rejected::IssuerMayNotSign {
            missing: "keyCertSign"
        })
    );
    assert_eq!(
        through(authority("middle").with(|p| p.key_usages.clear())),
        Err(Rejected::IssuerMayNotSign {
            missing: "keyCertSign"
        })
    );
    assert_eq!(
        through(authority("middle").with(|p| p.is_ca = IsCa::ExplicitNoCa)),
        Err(Rejected::IssuerMayNotSign { missing: "cA" })
    );
    assert_eq!(
        through(authority("middle").with(|p| p.subject_alt_names = vec![san("spiffe://td/ca")])),
        Err(Rejected::IssuerHasPath {
            id: id(CART),
            got: id("spiffe://td/ca")
        })
    );
}

#[test]
fn a_leaf_signs_nobody() {
    let ca = Ca::new("root");
    let fake = leaf("spiffe://td/a").with(|p| {
        p.distinguished_name.push(rcgen::DnType::CommonName, "fake");
    });
    let fake = fake.under(&ca);
    let chain = [leaf(CART).signed_by(&fake), fake.cert.clone()];
    assert_eq!(
        check(&chain, &ca.state("td")),
        Err(Rejected::IssuerMayNotSign { missing: "cA" })
    );
}

#[test]
fn c2_uri_name_constraints_fail_closed() {
    let ca = Ca::new("root");
    // permittedSubtrees with one URI name, "td".
    let constraint = vec![0x30, 8, 0xa0, 6, 0x30, 4, 0x86, 2, b't', b'd'];
    let mut constraint = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], constraint);
    constraint.set_criticality(true);
    let middle = authority("middle")
        .with(|p| p.custom_extensions.push(constraint))
        .under(&ca);
    let chain = [leaf(CART).signed_by(&middle), middle.cert.clone()];
    assert_eq!(
        check(&chain, &ca.state("td")),
        Err(Rejected::NameConstraint { id: id(CART) })
    );
}

/// A leaf under `n` intermediates under `ca`, leaf first.
pub(super) fn chain_of(ca: &Ca, n: usize) -> Vec<CertificateDer<'static>> {
    let mut chain = Vec::new();
    let mut above = ca.clone();
    for depth in 0..n {
        above = authority(&format!("middle {depth}")).under(&above);
        chain.insert(0, above.cert.clone());
    }
    chain.insert(0, leaf(CART).signed_by(&above));
    chain
}

#[test]
fn c7_a_path_has_six_certificates_at_most() {
    let ca = Ca::new("root");
    check(&chain_of(&ca, 4), &ca.state("td")).unwrap();
    for n in [5, 6, 8, 9, 20] {
        assert_eq!(
            check(&chain_of(&ca, n), &ca.state("td")),
            Err(Rejected::PathTooLong {
                id: id(CART),
                max: 6
            }),
            "{n} intermediates"
        );
    }
    // A CA's own limit counts too, the root's and an intermediate's.
    let limited = |name: &str, most| {
        authority(name).with(move |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(most)))
    };
    for (most, n, fits) in [(0, 0, true), (0, 1, false), (1, 1, true), (1, 2, false)] {
        let root = limited("root", most).root();
        let result = check(&chain_of(&root, n), &root.state("td"));
        let name = result.map_err(|rejected| name_of(&rejected)).map(drop);
        let expected = if fits {
            Ok(())
        } else {
            Err("PathTooLong".to_owned())
        };
        assert_eq!(name, expected, "{n} below a root that allows {most}");
        let middle = limited("limited", most).under(&ca);
        let mut chain = chain_of(&middle, n);
        chain.push(middle.cert.clone());
        let result = check(&chain, &ca.state("td"));
        let name = result.map_err(|rejected| name_of(&rejected)).map(drop);
        assert_eq!(name, expected, "{n} below a CA that allows {most}");
    }
}

#[test]
fn intermediates_come_in_any_order_with_strangers_between() {
    let ca = Ca::new("root");
    let mut chain = chain_of(&ca, 3);
    chain[1..].reverse();
    chain.insert(2, Ca::new("stranger").cert);
    check(&chain, &ca.state("td")).unwrap();
}

#[test]
fn what_is_presented_is_bounded_before_it_is_parsed() {
    let ca = Ca::new("root");
    let state = ca.state("td");
    assert_eq!(check(&[], &state), Err(Rejected::NoCertificate));
    let junk = |bytes: usize| CertificateDer::from(vec![0; bytes]);
    assert_eq!(
        check(&[junk(65_537)], &state),
        Err(Rejected::ChainTooLarge {
            got: 65_537,
            max: 65_536
        })
    );
    let mut chain = vec![leaf(CART).signed_by(&ca)];
    let room = MAX_PRESENTED_BYTES - chain[0].len();
    chain.push(junk(room));
    check(&chain, &state).unwrap();
    // In any number: only bytes count.
    chain.pop();
    chain.extend(vec![junk(1); 1_000]);
    check(&chain, &state).unwrap();
}

#[test]
fn strangers_in_any_number_are_left_out() {
    let ca = Ca::new("root");
    let mut chain = chain_of(&ca, 4);
    // Unrelated ones, the root itself, everything twice, and ones that only claim the right name.
    let strangers = (0..40).map(|n| Ca::new(&format!("stranger {n}")).cert);
    let liars = (0..10).map(|_| authority("middle 1").under(&Ca::new("middle 0")).cert);
    let mut others: Vec<_> = strangers.chain(liars).chain([ca.cert.clone()]).collect();
    others.extend(chain[1..].to_vec());
    others.extend(chain[1..].to_vec());
    chain.splice(1.., others);
    let verified = check(&chain, &ca.state("td")).unwrap();
    assert_eq!(verified.root_key_id, ca.bundle("td").roots()[0].key_id());
    // Without the one that the leaf needs, they are of no use.
    let middle = chain_of(&ca, 4).remove(1);
    let subject = |der: &CertificateDer<'_>| {
        let (_, cert) = x509_parser::parse_x509_certificate(der).unwrap();
        cert.subject().as_raw().to_vec()
    };
    let needed = subject(&middle);
    chain.retain(|cert| subject(cert) != needed);
    assert_eq!(
        name_of(&check(&chain, &ca.state("td")).unwrap_err()),
        "UnknownIssuer"
    );
}

#[test]
fn c7_too_many_signatures_are_too_much_work() {
    let ca = Ca::new("root");
    let too_much = Err(Rejected::TooMuchWork { id: id(CART) });
    // Each says that the root signed it.
    let liars = |n: usize| {
        let mut chain = chain_of(&ca, 1);
        let liar = authority("middle 0").under(&Ca::new("root")).cert;
        for serial in 0..n {
            let mut der = liar.to_vec();
            let last = der.len() - 1;
            der[last] = u8::try_from(serial).unwrap();
            chain.insert(1, der.into());
        }
        chain
    };
    check(&liars(63), &ca.state("td")).unwrap();
    assert_eq!(check(&liars(64), &ca.state("td")), too_much);

    // Each is signed by the root: the bundle's owner plays along.
    let real = |n: usize| {
        let mut chain = chain_of(&ca, 1);
        let draft = || authority("middle 0");
        chain.extend((0..n).map(|_| draft().under(&ca).cert));
        chain
    };
    check(&real(7), &ca.state("td")).unwrap();
    assert_eq!(check(&real(8), &ca.state("td")), too_much);
}

/// Certificates that name each other in every order, on the way to a root that is there.
#[test]
fn c7_a_maze_of_names_is_left_before_it_is_walked() {
    let ca = Ca::new("root");
    let maze = |n: usize| {
        let foreign = Ca::new("root");
        let mut chain = vec![leaf(CART).signed_by(&Ca::new("maze"))];
        let inner = authority("maze").under(&Ca::new("maze")).cert.to_vec();
        let at = inner.len() - 1;
        chain.extend((0..n).map(|n| {
            let mut der = inner.clone();
            der[at] = u8::try_from(n).unwrap();
            CertificateDer::from(der)
        }));
        chain.push(authority("maze").under(&foreign).cert);
        chain
    };
    for n in [4, 15, 100] {
        assert_eq!(
            name_of(&check(&maze(n), &ca.state("td")).unwrap_err()),
            "UnknownIssuer",
            "{n}"
        );
    }
}

#[test]
fn c7_a_hostile_bush_of_issuers_is_given_up() {
    // Same names everywhere, so that every certificate may have signed every other one.
    let ca = Ca::new("bush");
    let mut chain = vec![leaf(CART).signed_by(&ca)];
    chain.extend((0..15).map(|_| authority("bush").under(&Ca::new("bush")).cert));
    let rejected = check(&chain, &Ca::new("bush").state("td")).unwrap_err();
    assert_eq!(name_of(&rejected), "UnknownIssuer");
}
