use rcgen::KeyUsagePurpose;

use super::*;
use crate::testing::{Ca, authority, domain, fixture, leaf, minutes, noon};

#[test]
fn a_bundle_reads_what_it_writes() {
    let (a, b) = (Ca::new("a"), Ca::new("b"));
    let bundle = TrustBundle::new(domain("td"), [a.cert.clone(), b.cert, a.cert]).unwrap();
    assert_eq!(
        bundle.roots().len(),
        2,
        "a root that is listed twice counts once"
    );
    let back = TrustBundle::from_pem(domain("td"), bundle.to_pem().as_bytes()).unwrap();
    assert_eq!(back, bundle);
    let root = &back.roots()[0];
    assert_eq!(
        (root.not_before(), root.not_after()),
        (noon() - minutes(720), noon() + minutes(720))
    );
    assert_eq!(root.key_id().len(), 40);
}

#[test]
fn an_empty_bundle_is_an_error_unless_it_is_asked_for() {
    let trust_domain = domain("td");
    assert_eq!(
        TrustBundle::new(trust_domain.clone(), []),
        Err(BundleError::Empty {
            trust_domain: trust_domain.clone()
        })
    );
    assert_eq!(
        TrustBundle::from_pem(trust_domain.clone(), b"no certificates here"),
        Err(BundleError::Pem {
            trust_domain: trust_domain.clone(),
            source: PemError::NoCertificate
        })
    );
    let distrusted = TrustBundle::distrusted(trust_domain);
    assert!(distrusted.is_distrusted());
    assert_eq!(distrusted.to_pem(), "");
}

#[test]
fn a_root_is_a_ca_certificate() {
    let ca = Ca::new("root");
    let cert = leaf("spiffe://td/a").signed_by(&ca);
    let trust_domain = domain("td");
    let lists_only = authority("lists").with(|p| p.key_usages = vec![KeyUsagePurpose::CrlSign]);
    assert_eq!(
        TrustBundle::new(trust_domain.clone(), [lists_only.root().cert]),
        Err(BundleError::NotACa {
            trust_domain: trust_domain.clone(),
            index: 0
        })
    );
    let anything = authority("old").with(|p| p.key_usages.clear()).root();
    TrustBundle::new(trust_domain.clone(), [anything.cert]).unwrap();
    assert_eq!(
        TrustBundle::new(trust_domain.clone(), [ca.cert, cert]),
        Err(BundleError::NotACa {
            trust_domain: trust_domain.clone(),
            index: 1
        })
    );
    assert_eq!(
        TrustBundle::new(trust_domain.clone(), [vec![0x30, 0].into()]),
        Err(BundleError::Malformed {
            trust_domain,
            index: 0
        })
    );
}

#[test]
fn the_number_of_roots_is_bounded() {
    let roots: Vec<_> = (0..=MAX_ROOTS).map(|_| Ca::new("root").cert).collect();
    let trust_domain = domain("td");
    TrustBundle::new(trust_domain.clone(), roots[1..].to_vec()).unwrap();
    assert_eq!(
        TrustBundle::new(trust_domain.clone(), roots),
        Err(BundleError::TooManyRoots {
            trust_domain,
            got: MAX_ROOTS + 1
        })
    );
}

#[test]
fn a_set_replaces_whole_bundles_and_never_merges() {
    let (a, b) = (Ca::new("a"), Ca::new("b"));
    let mut set = BundleSet::from(a.bundle("td"));
    assert_eq!(set.insert(b.bundle("td")), Some(a.bundle("td")));
    assert_eq!(set.get(&domain("td")), Some(&b.bundle("td")));
    assert_eq!(set.get(&domain("other")), None);
    set.insert(a.bundle("other"));
    assert_eq!(set.len(), 2);
    assert_eq!(set.remove(&domain("td")), Some(b.bundle("td")));
    assert_eq!(set.iter().collect::<Vec<_>>(), [&a.bundle("other")]);
    assert!(!set.is_empty() && BundleSet::new().is_empty());
}

#[test]
fn a_root_without_a_key_id_is_named_by_its_serial() {
    // An intermediate has the same shape; rcgen writes the key id of CAs always, so the fixture
    // for a root without one is a certificate whose extension is hidden under another number.
    let ca = authority("root").root();
    let mut der = ca.cert.to_vec();
    let at = der
        .windows(3)
        .position(|w| w == [0x55, 0x1d, 0x0e])
        .unwrap();
    der[at + 2] = 0x7f;
    let bundle = TrustBundle::new(domain("td"), [der.into()]).unwrap();
    let (_, cert) = x509_parser::parse_x509_certificate(&ca.cert).unwrap();
    assert_eq!(bundle.roots()[0].key_id(), serial(&cert));
}

#[test]
fn go_spiffe_bundles() {
    let load = |name: &str| {
        let text = fixture(&format!("spiffe/go-spiffe/x509bundle/{name}"), 1)?;
        Some(TrustBundle::from_pem(domain("td"), &text))
    };
    let Some(certs) = load("certs.pem") else {
        return;
    };
    // Their certificates for PEM tests have no extensions, so they are no signing certificates
    // (S11); go-spiffe does not look.
    assert!(matches!(certs, Err(BundleError::NotACa { index: 0, .. })));
    assert!(matches!(
        load("cert.pem").unwrap(),
        Err(BundleError::NotACa { index: 0, .. })
    ));
    for name in ["not-pem.pem", "empty.pem", "key.pem"] {
        assert!(
            matches!(
                load(name).unwrap(),
                Err(BundleError::Pem {
                    source: PemError::NoCertificate,
                    ..
                })
            ),
            "{name}"
        );
    }
    assert!(matches!(
        load("corrupted.pem").unwrap(),
        Err(BundleError::Malformed { index: 0, .. })
    ));
}
