use data_encoding::HEXLOWER;

use super::*;

fn pem_of(draft: &Draft, ca: &Ca) -> (String, String) {
    let svid = draft.svid(ca);
    (svid.chain_pem(), svid.key().to_secret_pem().to_string())
}

#[test]
fn pem_goes_in_and_out() {
    let ca = Ca::new("root");
    let (chain, key) = pem_of(&leaf(CART), &ca);
    let svid = X509Svid::from_pem(chain.as_bytes(), key.as_bytes(), &crypto()).unwrap();
    assert_eq!(svid.id(), &id(CART));
    assert_eq!(svid.not_after(), noon() + minutes(30));
    assert_eq!(svid.issued_at(), svid.not_before());
    assert_eq!(svid.chain_pem(), chain);
    assert_eq!(*svid.key().to_secret_pem(), key);
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let ca = Ca::new("root");
    let (chain, _) = pem_of(&leaf(CART), &ca);
    let (_, key) = pem_of(&leaf(CART), &ca);
    match X509Svid::from_pem(chain.as_bytes(), key.as_bytes(), &crypto()).unwrap_err() {
        SvidError::KeyMismatch { id: got, .. } => assert_eq!(got, id(CART)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_we_would_refuse_we_do_not_present() {
    let ca = Ca::new("root");
    let draft = leaf(CART).with(|p| p.key_usages.clear());
    let key = PrivateKey::from_pkcs8_der(draft.key.serialize_der());
    assert_eq!(
        X509Svid::from_der(vec![draft.signed_by(&ca)], key, None, &crypto()).unwrap_err(),
        SvidError::Chain(Rejected::NoKeyUsage)
    );
}

#[test]
fn no_debug_or_error_shows_a_key() {
    let ca = Ca::new("root");
    let draft = leaf(CART);
    let secret = draft.key.serialize_der();
    let svid = draft.svid(&ca);
    let state = IdentityState::new(svid, BundleSet::new());
    let svid = state.default_svid().unwrap();
    let said = format!("{state:?} {svid:?} {:?} {:#?}", svid.key(), state);
    // The 32 bytes of a P-256 key begin at 36 in its PKCS#8 form.
    let scalar = &secret[36..68];
    let shown = [
        format!("{scalar:?}"),
        HEXLOWER.encode(scalar),
        format!("{:?}", &scalar[..4])
            .trim_matches(['[', ']'])
            .to_owned(),
        svid.key()
            .to_secret_pem()
            .lines()
            .nth(1)
            .unwrap()
            .to_owned(),
    ];
    for secret in shown {
        assert!(!said.contains(&secret), "{said}");
    }
    assert!(said.contains(CART));
}

// === go-spiffe's certificates ===

const FIXTURES: [(&str, Option<&str>); 9] = [
    ("good-leaf-only.pem", None),
    ("good-leaf-and-intermediate.pem", None),
    (
        "wrong-intermediate-no-ca.pem",
        Some("IssuerMayNotSign { missing: \"cA\" }"),
    ),
    (
        "wrong-intermediate-no-key-cert-sign.pem",
        Some("IssuerMayNotSign { missing: \"keyCertSign\" }"),
    ),
    ("wrong-leaf-ca-true.pem", Some("LeafIsCa")),
    (
        "wrong-leaf-cert-sign.pem",
        Some("LeafMaySign { usage: \"keyCertSign\" }"),
    ),
    (
        "wrong-leaf-crl-sign.pem",
        Some("LeafMaySign { usage: \"cRLSign\" }"),
    ),
    ("wrong-leaf-empty-id.pem", Some("NoUriSan")),
    (
        "wrong-leaf-no-digital-signature.pem",
        Some("NoDigitalSignature"),
    ),
];

#[test]
fn go_spiffe_certificates_fail_each_for_its_own_reason() {
    for (name, expected) in FIXTURES {
        let Some(pem) = fixture(&format!("spiffe/go-spiffe/x509svid/{name}"), 1) else {
            continue;
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .map(Result::unwrap)
            .collect();
        // Their keys are not in the files; the shape of the chain is checked before the key.
        let key = PrivateKey::from_pkcs8_der(KeyPair::generate().unwrap().serialize_der());
        let error = X509Svid::from_der(chain, key, None, &crypto()).unwrap_err();
        match (expected, error) {
            (None, SvidError::KeyMismatch { .. }) => {}
            (Some(expected), SvidError::Chain(got)) => {
                assert_eq!(format!("{got:?}"), expected, "{name}");
            }
            (_, other) => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn go_spiffe_files_parse_or_say_why_not() {
    let file = |name: &str| fixture(&format!("spiffe/go-spiffe/x509svid/{name}"), 1);
    for name in ["good-key-and-cert.pem", "good-cert-and-key.pem"] {
        let Some(text) = file(name) else { return };
        let svid = X509Svid::from_pem(&text, &text, &crypto()).unwrap();
        assert!(!svid.id().path().is_empty(), "{name}");
    }
    let load = |cert: &str, key: &str| {
        X509Svid::from_pem(&file(cert).unwrap(), &file(key).unwrap(), &crypto()).unwrap_err()
    };
    let good = "good-leaf-only.pem";
    assert!(matches!(
        load("not-pem", "key-pkcs8-ecdsa.pem"),
        SvidError::Pem(PemError::NoCertificate)
    ));
    assert!(matches!(
        load(good, "not-pem"),
        SvidError::Pem(PemError::NoKey)
    ));
    assert!(matches!(
        load(good, "corrupt-key.pem"),
        SvidError::Key { .. }
    ));
    assert!(matches!(
        load("corrupt-cert.pem", "key-pkcs8-ecdsa.pem"),
        SvidError::Chain(Rejected::Malformed { .. })
    ));
    assert!(matches!(
        load(good, "key-pkcs8-ecdsa.pem"),
        SvidError::KeyMismatch { .. }
    ));
}
