//! The classes C1 to C7 of known faults in verifiers, each with inputs that others fell for.

use super::*;

/// A leaf whose alternative names are these bytes: tag and content of each.
fn named(names: &[(u8, &[u8])]) -> Draft {
    let mut content = Vec::new();
    for (tag, name) in names {
        content.extend([*tag, u8::try_from(name.len()).unwrap()]);
        content.extend(*name);
    }
    let mut all = vec![0x30, u8::try_from(content.len()).unwrap()];
    all.extend(content);
    let mut names = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], all);
    names.set_criticality(true);
    leaf(CART).with(|p| {
        p.subject_alt_names.clear();
        p.custom_extensions.push(names);
    })
}

const URI: u8 = 0x86;
const DNS: u8 = 0x82;
const OTHER: u8 = 0xa0;

#[test]
fn c1_names_are_compared_whole() {
    let malformed = Rejected::Malformed {
        place: Place::Leaf,
        what: "subject alternative name",
    };
    let bad = |reason| {
        move |rejected: Rejected| match rejected {
            Rejected::BadId { reason: got, .. } => assert_eq!(got, reason),
            other => panic!("{other:?}"),
        }
    };
    // A NUL ends no name, wherever it stands.
    bad(IdError::PathChar { got: '\0' })(refused(named(&[(URI, b"spiffe://td/a\0.evil")])));
    bad(IdError::PathChar { got: '\0' })(refused(named(&[(URI, b"spiffe://td/a\0")])));
    bad(IdError::TrustDomainChar { got: '\0' })(refused(named(&[(URI, b"spiffe://td\0.evil/a")])));
    bad(IdError::PathChar { got: '\n' })(refused(named(&[(URI, b"spiffe://td/a\n")])));
    bad(IdError::Empty)(refused(named(&[(URI, b"")])));
    // What is no IA5String is not left to the other parser.
    assert_eq!(refused(named(&[(URI, b"spiffe://td/\xe4")])), malformed);
    bad(IdError::NotAscii)(refused(named(&[(URI, "spiffe://td/ä".as_bytes())])));
    // An ID in a name of another kind is no ID.
    assert_eq!(
        refused(named(&[(DNS, b"spiffe://td/a")])),
        Rejected::NoUriSan
    );
    let other_name = b"\x06\x03\x55\x04\x03\xa0\x0f\x16\x0dspiffe://td/a";
    assert_eq!(refused(named(&[(OTHER, other_name)])), Rejected::NoUriSan);
    // And beside one it makes no second.
    let ca = Ca::new("root");
    let both = named(&[(OTHER, other_name), (URI, b"spiffe://td/b")]).signed_by(&ca);
    assert_eq!(
        check(&[both], &ca.state("td")).unwrap().id,
        id("spiffe://td/b")
    );
}

#[test]
fn c2_a_wildcard_is_a_character_that_no_id_has() {
    let reason = |uri: &str| match refused(leaf(uri)) {
        Rejected::BadId { reason, .. } => reason,
        other => panic!("{uri}: {other:?}"),
    };
    assert_eq!(
        reason("spiffe://*.td/a"),
        IdError::TrustDomainChar { got: '*' }
    );
    assert_eq!(reason("spiffe://td/*"), IdError::PathChar { got: '*' });
    assert_eq!(
        reason("spiffe://[fe80::1%25eth0]/a"),
        IdError::TrustDomainChar { got: '[' }
    );
    // A name for the web stands beside the ID, and says nothing about it.
    let ca = Ca::new("root");
    let cert = named(&[(DNS, b"*.td"), (URI, b"spiffe://td/b")]).signed_by(&ca);
    assert_eq!(
        check(&[cert], &ca.state("td")).unwrap().id,
        id("spiffe://td/b")
    );
}

/// What rustls' own client verifier accepts, measured; all but the last must fail here.
#[test]
fn c3_what_a_verifier_for_the_web_lets_through() {
    let uris = |uris: &'static [&'static str]| {
        leaf(CART).with(move |p| p.subject_alt_names = uris.iter().map(|uri| san(uri)).collect())
    };
    let usage = |usage| leaf(CART).with(move |p| p.key_usages.push(usage));
    let table: [(Draft, &str); 16] = [
        (uris(&["spiffe://td/a", "spiffe://td/b"]), "many-uri-sans"),
        (uris(&["spiffe://td/a", "https://td/b"]), "many-uri-sans"),
        (uris(&[]), "no-uri-san"),
        (named(&[(DNS, b"td")]), "no-uri-san"),
        (uris(&["spiffe://td.test"]), "no-path"),
        (uris(&["spiffe://foreign/a"]), "unknown-trust-domain"),
        (uris(&["SPIFFE://td/a"]), "bad-id"),
        (uris(&["spiffe://td/a?q"]), "bad-id"),
        (uris(&["spiffe://td/%61"]), "bad-id"),
        (uris(&["spiffe://td/a/../b"]), "bad-id"),
        (uris(&["spiffe://u@td:443/a"]), "bad-id"),
        (uris(&["https://td/a"]), "bad-id"),
        (usage(KeyUsagePurpose::KeyCertSign), "leaf-may-sign"),
        (usage(KeyUsagePurpose::CrlSign), "leaf-may-sign"),
        (leaf(CART).with(|p| p.key_usages.clear()), "no-key-usage"),
        (
            leaf(CART).with(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            "leaf-is-ca",
        ),
    ];
    for (draft, expected) in table {
        let rejected = refused(draft);
        assert_eq!(rejected.as_str(), expected, "{rejected}");
    }
    // Without basic constraints a certificate is no CA, and that is all that is asked.
    let ca = Ca::new("root");
    let plain = leaf(CART).with(|p| p.is_ca = IsCa::NoCa).signed_by(&ca);
    check(&[plain], &ca.state("td")).unwrap();
}

#[test]
fn c4_trust_domains_that_share_a_root_stay_apart() {
    // A federates B and shares its key: B's bundle has A's root beside its own.
    let (a, b) = (Ca::new("a"), Ca::new("b"));
    let shared = TrustBundle::new(domain("b"), [a.cert.clone(), b.cert.clone()]).unwrap();
    let state = IdentityState::from_bundles(BundleSet::from_iter([a.bundle("a"), shared]));
    let by = |uri: &str, ca: &Ca| check(&[leaf(uri).signed_by(ca)], &state);
    by("spiffe://a/x", &a).unwrap();
    by("spiffe://b/x", &b).unwrap();
    // Its owner said so, for its own domain ...
    by("spiffe://b/x", &a).unwrap();
    // ... which makes B's root no root of A.
    assert_eq!(
        by("spiffe://a/x", &b).unwrap_err().as_str(),
        "unknown-issuer"
    );
    // A foreign root that is presented is no root either.
    let chain = [leaf("spiffe://a/x").signed_by(&b), b.cert.clone()];
    assert_eq!(
        check(&chain, &state).unwrap_err().as_str(),
        "unknown-issuer"
    );
}

#[test]
fn c6_one_second_past_the_end_is_past_the_end() {
    let ca = Ca::new("root");
    let second = std::time::Duration::from_secs(1);
    let ends = |at: SystemTime| leaf(CART).with(move |p| p.not_after = at.into());
    check(&[ends(noon()).signed_by(&ca)], &ca.state("td")).unwrap();
    assert_eq!(
        check(&[ends(noon() - second).signed_by(&ca)], &ca.state("td")),
        Err(Rejected::Expired {
            id: id(CART),
            place: Place::Leaf,
            not_after: noon() - second,
            now: noon(),
        })
    );
}
