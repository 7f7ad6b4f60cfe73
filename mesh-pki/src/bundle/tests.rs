use rcgen::KeyUsagePurpose;
use serde_json::{Value, json};

use super::jwks::BundleJsonError;
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

// === SPIFFE bundle JSON ===

const KID: &str = "C6vs25welZOx6WksNYfbMfiw9l96pMnD";

/// A key for JWT-SVIDs under `kid`.
fn jwt_jwk(kid: &str) -> Value {
    json!({
        "use": "jwt-svid", "kty": "EC", "kid": kid, "crv": "P-256",
        "x": "ngLYQnlfF6GsojUwqtcEE3WgTNG2RUlsGhK73RNEl5k",
        "y": "tKbiDSUSsQ3F1P7wteeHNXIcU-cx6CgSbroeQrQHTLM",
    })
}

/// The members that the key of a root has, with `x5c` as it is given.
fn root_jwk(x5c: &Value) -> Value {
    json!({"use": "x509-svid", "kty": "EC", "crv": "P-256", "x5c": x5c})
}

fn base64(der: &[u8]) -> String {
    data_encoding::BASE64.encode(der)
}

fn read(keys: &[Value]) -> Result<TrustBundle, BundleJsonError> {
    TrustBundle::from_json(domain("td"), json!({"keys": keys}).to_string().as_bytes())
}

#[test]
fn bundle_json_reads_what_it_writes() {
    let (a, b) = (Ca::new("a"), Ca::new("b"));
    let roots = [a.cert.clone(), b.cert.clone()];
    let plain = TrustBundle::new(domain("td"), roots).unwrap();
    let keys = KeySet::from_jwks(json!({"keys": [jwt_jwk(KID)]}).to_string().as_bytes()).unwrap();
    let full = plain
        .clone()
        .with_jwt_keys(keys.clone())
        .with_sequence(u64::MAX)
        .with_refresh_hint(minutes(5));
    let tokens_only = TrustBundle::distrusted(domain("td")).with_jwt_keys(keys);
    let none = TrustBundle::distrusted(domain("td"));
    for bundle in [&plain, &full, &tokens_only, &none] {
        let text = bundle.to_json().unwrap();
        assert_eq!(
            &TrustBundle::from_json(domain("td"), text.as_bytes()).unwrap(),
            bundle
        );
    }

    // What the standard asks of a publisher.
    let text: Value = serde_json::from_str(&full.to_json().unwrap()).unwrap();
    assert_eq!(text["spiffe_sequence"], u64::MAX);
    assert_eq!(text["spiffe_refresh_hint"], 300);
    let (root, token) = (&text["keys"][0], &text["keys"][2]);
    assert_eq!(
        (&root["use"], &root["kty"]),
        (&json!("x509-svid"), &json!("EC"))
    );
    assert_eq!(root["kid"], Value::Null, "X509-SVID.md 6.1");
    assert_eq!(root["x5c"], json!([base64(&a.cert)]));
    assert_eq!(
        data_encoding::BASE64URL_NOPAD
            .decode(root["x"].as_str().unwrap().as_bytes())
            .unwrap()
            .len(),
        32
    );
    assert_eq!(
        (&token["use"], &token["kid"]),
        (&json!("jwt-svid"), &json!(KID))
    );
    assert_eq!(none.to_json().unwrap(), r#"{"keys":[]}"#);
}

#[test]
fn keys_of_unknown_type_or_use_are_passed_over() {
    let ca = Ca::new("root");
    let root = root_jwk(&json!([base64(&ca.cert)]));
    let with = |name: &str, value: Value| {
        let mut jwk = root.clone();
        jwk[name] = value;
        jwk
    };
    for passed in [
        with("use", json!("wit-svid")),
        with("use", json!("X509-SVID")),
        with("use", json!(["x509-svid"])),
        with("use", Value::Null),
        with("kty", json!("AKP")),
        with("kty", Value::Null),
        root_jwk(&json!([])),
        json!({"use": "x509-svid", "kty": "EC"}),
        json!({"use": "jwt-svid", "kty": "oct", "k": "AAAA"}),
        json!({}),
    ] {
        assert_eq!(
            read(&[passed.clone(), root.clone()]).unwrap(),
            ca.bundle("td"),
            "{passed}"
        );
        // Nothing usable is the same as nothing: the domain is distrusted (S18).
        let alone = read(&[passed]).unwrap();
        assert!(alone.is_distrusted() && alone.jwt_keys().is_empty());
    }
    assert_eq!(read(&[]).unwrap(), TrustBundle::distrusted(domain("td")));
    // A kid on a root is the publisher's fault and says nothing.
    assert_eq!(read(&[with("kid", json!("x"))]).unwrap(), ca.bundle("td"));
}

#[test]
fn only_the_first_certificate_of_a_key_is_taken() {
    let (a, b) = (Ca::new("a"), Ca::new("b"));
    let both = root_jwk(&json!([base64(&a.cert), base64(&b.cert)]));
    assert_eq!(read(&[both]).unwrap(), a.bundle("td"));
    let rubbish_behind = root_jwk(&json!([base64(&a.cert), 7]));
    assert_eq!(read(&[rubbish_behind]).unwrap(), a.bundle("td"));
}

#[test]
fn a_broken_root_makes_the_whole_document_an_error() {
    let ca = Ca::new("root");
    let good = root_jwk(&json!([base64(&ca.cert)]));
    let trust_domain = domain("td");
    let certificate = BundleJsonError::Certificate {
        trust_domain: trust_domain.clone(),
        index: 1,
    };
    let leaf = leaf("spiffe://td/a").signed_by(&ca);
    for (broken, expected) in [
        (root_jwk(&json!("MIIB")), certificate.clone()),
        (root_jwk(&json!([1])), certificate.clone()),
        (root_jwk(&json!(["-_"])), certificate.clone()),
        (
            root_jwk(&json!(["MIIB"])),
            BundleJsonError::Bundle(BundleError::Malformed {
                trust_domain: trust_domain.clone(),
                index: 1,
            }),
        ),
        (
            root_jwk(&json!([base64(&leaf)])),
            BundleJsonError::Bundle(BundleError::NotACa {
                trust_domain: trust_domain.clone(),
                index: 1,
            }),
        ),
    ] {
        assert_eq!(
            read(&[good.clone(), broken.clone()]),
            Err(expected),
            "{broken}"
        );
    }
}

/// A key for JWT-SVIDs with a change.
fn jwt_with(member: &str, value: Value) -> Value {
    let mut jwk = jwt_jwk(KID);
    jwk[member] = value;
    jwk
}

#[test]
fn a_broken_key_for_tokens_is_left_out_and_not_the_bundle() {
    let ca = Ca::new("root");
    let root = root_jwk(&json!([base64(&ca.cert)]));
    let only = jwt_jwk("other");
    let set = json!({"keys": [only]}).to_string();
    let keys = KeySet::from_jwks(set.as_bytes()).unwrap();
    let expected = ca.bundle("td").with_jwt_keys(keys).with_sequence(7);
    let mut nameless = jwt_jwk(KID);
    nameless.as_object_mut().unwrap().remove("kid");
    let mut nameless_and_short = jwt_with("x", json!("AA"));
    nameless_and_short.as_object_mut().unwrap().remove("kid");
    for broken in [
        vec![nameless],
        vec![nameless_and_short],
        vec![jwt_with("kid", Value::Null)],
        vec![jwt_with("kid", json!(5))],
        vec![jwt_with("kid", json!(""))],
        vec![jwt_with("x", json!("AA"))],
        vec![jwt_with("y", Value::Null)],
        vec![jwt_with("crv", json!("P-384"))],
        vec![json!({"use": "jwt-svid", "kty": "RSA", "kid": KID, "n": "AQAB"})],
        // Two keys under one id: none of them is sure to be meant.
        vec![jwt_jwk(KID), jwt_with("x", only["y"].clone())],
        vec![jwt_jwk(KID), jwt_with("alg", json!("ES256"))],
        vec![jwt_jwk(KID), jwt_with("x", only["y"].clone()), jwt_jwk(KID)],
    ] {
        let orders = [
            [vec![root.clone()], broken.clone(), vec![only.clone()]].concat(),
            [vec![only.clone()], broken.clone(), vec![root.clone()]].concat(),
        ];
        for keys in orders {
            let text = json!({"keys": keys, "spiffe_sequence": 7}).to_string();
            let bundle = TrustBundle::from_json(domain("td"), text.as_bytes());
            assert_eq!(bundle.as_ref(), Ok(&expected), "{broken:?}");
        }
        // Alone it leaves the domain no key for tokens, and its roots as they were.
        let keys = [vec![root.clone()], broken].concat();
        assert_eq!(read(&keys).unwrap(), ca.bundle("td"));
    }
    // The same key twice is one key.
    let twice = [root, only.clone(), only].to_vec();
    assert_eq!(read(&twice).unwrap().with_sequence(7), expected);
}

#[test]
fn a_document_is_one_object_of_the_right_shape_and_bounded() {
    let ca = Ca::new("root");
    let key = root_jwk(&json!([base64(&ca.cert)])).to_string();
    let parse = |text: &str| TrustBundle::from_json(domain("td"), text.as_bytes());
    for text in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"keys":null}"#,
        r#"{"keys":[[]]}"#,
        r#"{"keys":{}}"#,
        r#"{"keys":[]} x"#,
        r#"{"keys":[],"keys":[]}"#,
        r#"{"keys":[],"spiffe_sequence":-1}"#,
        r#"{"keys":[],"spiffe_sequence":18446744073709551616}"#,
        r#"{"keys":[],"spiffe_sequence":"1"}"#,
        r#"{"keys":[],"spiffe_sequence":1,"spiffe_sequence":2}"#,
        r#"{"keys":[],"spiffe_refresh_hint":1.5}"#,
        &format!(r#"{{"keys":[],"x":{}}}"#, "[".repeat(100_000)),
    ] {
        let error = parse(text).unwrap_err();
        assert!(
            matches!(error, BundleJsonError::NotABundle { .. }),
            "{error}"
        );
    }
    let extra = format!(r#"{{"keys":[{key}],"spiffe_sequence":7,"note":{{"a":[1]}}}}"#);
    assert_eq!(parse(&extra).unwrap(), ca.bundle("td").with_sequence(7));

    let max = jwks::MAX_BUNDLE_LEN;
    let long = vec![b' '; max + 1];
    let error = TrustBundle::from_json(domain("td"), &long).unwrap_err();
    assert_eq!(error, BundleJsonError::TooLarge { got: max + 1, max });
    let many = vec![json!({}); jwks::MAX_KEYS + 1];
    let got = many.len();
    assert_eq!(
        read(&many),
        Err(BundleJsonError::TooManyKeys {
            trust_domain: domain("td"),
            got
        })
    );
    assert!(read(&many[1..]).is_ok());
}

#[test]
fn a_bundle_map_has_each_trust_domain_once_and_no_refresh_hints() {
    let (a, b) = (Ca::new("a"), Ca::new("b"));
    let set = BundleSet::from_iter([
        a.bundle("a.example")
            .with_sequence(3)
            .with_refresh_hint(minutes(1)),
        b.bundle("b.example"),
    ]);
    let text = set.to_json().unwrap();
    assert!(!text.contains("refresh_hint"), "{text}");
    let back = BundleSet::from_json(text.as_bytes()).unwrap();
    assert_eq!(
        back.get(&domain("a.example")),
        Some(&a.bundle("a.example").with_sequence(3))
    );
    assert_eq!(back.get(&domain("b.example")), Some(&b.bundle("b.example")));

    let parse = |members: &str| {
        BundleSet::from_json(format!(r#"{{"trust_domains":{{{members}}}}}"#).as_bytes())
    };
    let hinted = parse(r#""td":{"keys":[],"spiffe_refresh_hint":5}"#).unwrap();
    assert_eq!(hinted.get(&domain("td")).unwrap().refresh_hint(), None);
    assert!(parse("").unwrap().is_empty());
    for members in [
        r#""td":{"keys":[]},"td":{"keys":[]}"#,
        r#""td":{"keys":[]},"\u0074d":{"keys":[]}"#,
        r#""spiffe://td":{"keys":[]}"#,
        r#""TD":{"keys":[]}"#,
        r#""td":{}"#,
    ] {
        let error = parse(members).unwrap_err();
        assert!(
            matches!(error, BundleJsonError::NotABundle { .. }),
            "{error}"
        );
    }
    assert!(BundleSet::from_json(b"{}").is_err());
}

#[test]
fn go_spiffe_bundle_documents() {
    let load = |name: &str| {
        let text = fixture(&format!("spiffe/go-spiffe/spiffebundle/{name}.json"), 1)?;
        Some(TrustBundle::from_json(domain("td"), &text))
    };
    for (name, tokens) in [
        ("spiffebundle_valid_1", 1),
        ("spiffebundle_valid_2", 6),
        ("spiffebundle_valid_with_wit", 2),
    ] {
        let Some(bundle) = load(name) else { continue };
        let bundle = bundle.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            (bundle.roots().len(), bundle.jwt_keys().len()),
            (1, tokens),
            "{name}"
        );
    }
    if let Some(bundle) = load("spiffebundle_valid_with_wit") {
        let bundle = bundle.unwrap();
        assert_eq!(
            (bundle.sequence(), bundle.refresh_hint()),
            (Some(1), Some(minutes(1)))
        );
    }
    // go-spiffe refuses the document; here the key without an id is left out (RFC 7517, section 5).
    if let Some(bundle) = load("spiffebundle_missing_kid") {
        let bundle = bundle.unwrap();
        assert_eq!((bundle.roots().len(), bundle.jwt_keys().len()), (1, 0));
    }
    if let Some(bundle) = load("spiffebundle_no_keys") {
        assert!(matches!(bundle, Err(BundleJsonError::NotABundle { .. })));
    }
    // The standard tells consumers to ignore all but the first x5c; go-spiffe refuses the document.
    if let Some(bundle) = load("spiffebundle_multiple_x509") {
        assert_eq!(bundle.unwrap().roots().len(), 1);
    }
}

// === distrusted keys ===

#[test]
fn a_distrusted_root_is_out_and_stays_out_over_the_wire() {
    let (good, bad) = (Ca::new("good"), Ca::new("bad"));
    let bundle = TrustBundle::new(domain("td"), [good.cert.clone(), bad.cert.clone()]).unwrap();
    let ids: Vec<String> = bundle
        .roots()
        .iter()
        .map(|r| r.key_id().to_owned())
        .collect();
    let bundle = bundle.distrusting([ids[1].clone()]);
    assert_eq!(bundle.roots().len(), 1);
    assert_eq!(bundle.roots()[0].key_id(), ids[0]);
    assert!(bundle.distrusts_key(&ids[1]) && !bundle.distrusts_key(&ids[0]));

    let read = TrustBundle::from_json(domain("td"), bundle.to_json().unwrap().as_bytes()).unwrap();
    assert_eq!(read, bundle);
    assert_eq!(
        read.distrusted_keys().collect::<Vec<_>>(),
        [ids[1].as_str()]
    );
    // A sender of the root along with the change does not bring it back.
    let mut json: Value = serde_json::from_str(&bundle.to_json().unwrap()).unwrap();
    let both = TrustBundle::new(domain("td"), [good.cert.clone(), bad.cert.clone()]).unwrap();
    let with_both: Value = serde_json::from_str(&both.to_json().unwrap()).unwrap();
    json["keys"] = with_both["keys"].clone();
    let read = TrustBundle::from_json(domain("td"), json.to_string().as_bytes()).unwrap();
    assert_eq!(read.roots().len(), 1);

    assert!(both.distrusting(ids).is_distrusted());
    json["inmesh_distrusted_keys"] = vec!["00"; 1_025].into();
    let refused = TrustBundle::from_json(domain("td"), json.to_string().as_bytes()).unwrap_err();
    assert!(matches!(
        refused,
        BundleJsonError::TooManyDistrustedKeys { got: 1_025, .. }
    ));
}
