use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::bundle::{BundleSet, TrustBundle};
use crate::clock::ManualClock;
use crate::id::IdError;
use crate::issue::IssueError;
use crate::testing::{crypto, domain, fixture, id, minutes, noon};

const NOON: i64 = 1_800_000_000;

fn issuer(trust_domain: &str) -> LocalJwtIssuer {
    let clock = ManualClock::new(noon()).shared();
    LocalJwtIssuer::generate(domain(trust_domain), &crypto(), clock).unwrap()
}

/// Bundles of trust domains with the keys of these issuers, and of no others.
fn trusting(issuers: &[(&str, &LocalJwtIssuer)]) -> BundleSet {
    issuers
        .iter()
        .map(|(name, issuer)| {
            let keys = KeySet::from_keys([issuer.public_key().clone()]).unwrap();
            TrustBundle::distrusted(domain(name)).with_jwt_keys(keys)
        })
        .collect()
}

async fn mint(issuer: &LocalJwtIssuer, subject: &str, audiences: &[&str]) -> JwtSvid {
    let audiences: Vec<String> = audiences.iter().map(|&one| one.to_owned()).collect();
    issuer.mint(&id(subject), &audiences).await.unwrap()
}

fn encode(part: &Value) -> String {
    data_encoding::BASE64URL_NOPAD.encode(part.to_string().as_bytes())
}

/// A token with this header and these claims, signed by `issuer` whatever they say.
fn signed(issuer: &LocalJwtIssuer, header: &Value, claims: &Value) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    issuer.seal(message.into()).unwrap().to_string()
}

fn header(issuer: &LocalJwtIssuer) -> Value {
    json!({"alg": "ES256", "kid": issuer.public_key().id(), "typ": "JWT"})
}

fn claims() -> Value {
    json!({"sub": "spiffe://td/w", "aud": "us", "exp": NOON + 60})
}

/// `base` with `changes` put over it; null takes a member out.
fn with(mut base: Value, changes: Value) -> Value {
    let members = base.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
    base
}

// === what is minted verifies ===

#[tokio::test]
async fn a_minted_token_verifies_for_each_of_its_audiences() {
    let issuer = issuer("td");
    let bundles = trusting(&[("td", &issuer)]);
    for audiences in [&["us"][..], &["them", "us"]] {
        let svid = mint(&issuer, "spiffe://td/ns/shop/sa/cart", audiences).await;
        assert_eq!(svid.expires(), noon() + minutes(5));
        for audience in audiences {
            let verified =
                validate(svid.secret_token(), audience, &bundles, noon(), &crypto()).unwrap();
            assert_eq!(&verified.id, svid.id());
            assert_eq!(verified.claims.subject(), svid.id().as_str());
            assert_eq!(verified.claims.audiences(), audiences);
            assert_eq!(verified.claims.expires(), svid.expires());
            assert_eq!(verified.claims.issued_at(), Some(noon()));
            assert_eq!(verified.claims.issuer(), None);
        }
        let shown = format!("{svid:?} {issuer:?}");
        assert!(!shown.contains(svid.secret_token()), "{shown}");
        assert!(!shown.contains(svid.secret_token().rsplit('.').next().unwrap()));
    }
}

#[tokio::test]
async fn who_cannot_be_minted_for_is_refused() {
    let issuer = DynJwtIssuer::new(issuer("td"));
    let us = &["us".to_owned()][..];
    let long = &["x".repeat(MAX_TOKEN_LEN)][..];
    let many = &vec!["us".to_owned(); MAX_AUDIENCES + 1][..];
    for (subject, audiences, reason) in [
        ("spiffe://other/w", us, "this CA is of trust domain td"),
        ("spiffe://td", us, "has no path"),
        ("spiffe://td/w", &[], "1 to 16 audiences"),
        ("spiffe://td/w", many, "1 to 16 audiences"),
        ("spiffe://td/w", long, "too long for a token"),
    ] {
        let error = issuer.mint(&id(subject), audiences).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn a_key_has_the_same_id_everywhere_and_only_p256_signs() {
    let (clock, crypto) = (ManualClock::new(noon()).shared(), crypto());
    let new = |key: &rcgen::KeyPair| {
        let key = crate::svid::PrivateKey::from_pkcs8_der(key.serialize_der());
        LocalJwtIssuer::new(domain("td"), &key, &crypto, Arc::clone(&clock))
    };
    let pair = rcgen::KeyPair::generate().unwrap();
    let (one, other) = (new(&pair).unwrap(), new(&pair).unwrap());
    assert_eq!(one.public_key(), other.public_key());
    assert_eq!(one.public_key().id().unwrap().len(), 40);
    for kind in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let pair = rcgen::KeyPair::generate_for(kind).unwrap();
        assert!(matches!(new(&pair), Err(IssueError::Key { .. })));
    }
}

// === what others sign verifies ===

/// Tokens that OpenSSL signed, with their keys; good from noon on for five minutes.
fn vectors() -> (KeySet, Vec<(String, String)>) {
    let vectors: Value = serde_json::from_str(include_str!("vectors.json")).unwrap();
    let keys = KeySet::from_jwks(vectors["jwks"].to_string().as_bytes()).unwrap();
    let tokens = vectors["tokens"].as_object().unwrap().iter();
    let tokens = tokens.map(|(alg, token)| (alg.clone(), token.as_str().unwrap().to_owned()));
    (keys, tokens.collect())
}

const EXPECT: Expect<'static> = Expect {
    issuer: "https://issuer.example",
    audience: "us",
};

#[test]
fn tokens_of_another_library_verify_with_each_algorithm() {
    let (keys, tokens) = vectors();
    assert_eq!((keys.len(), tokens.len()), (4, 9));
    let bundle = TrustBundle::distrusted(domain("td")).with_jwt_keys(keys.clone());
    for (algorithm, token) in &tokens {
        let outcome = verify_token(token, &keys, &EXPECT, noon(), &crypto());
        // *ring* has no P-521, and a provider that lacks an algorithm says so.
        if algorithm == "ES512" && cfg!(not(feature = "aws-lc-rs")) {
            let unsupported = TokenRejected::Unsupported { algorithm: "ES512" };
            assert_eq!(outcome.unwrap_err(), unsupported);
            continue;
        }
        let claims = outcome.unwrap_or_else(|error| panic!("{algorithm}: {error}"));
        assert_eq!(claims.issuer(), Some(EXPECT.issuer));
        validate(token, "them", &bundle.clone().into(), noon(), &crypto()).unwrap();

        // One bit of the signature, or of what is signed, is enough.
        for at in [token.len() - 10, token.rfind('.').unwrap() - 10] {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            let error = verify_token(&changed, &keys, &EXPECT, noon(), &crypto()).unwrap_err();
            assert_eq!(error, TokenRejected::BadSignature, "{algorithm}");
        }
    }
}

#[test]
fn a_key_verifies_only_the_algorithm_that_its_owner_names() {
    let (_, tokens) = vectors();
    let mut vectors: Value = serde_json::from_str(include_str!("vectors.json")).unwrap();
    vectors["jwks"]["keys"][0]["alg"] = "RS256".into();
    let keys = KeySet::from_jwks(vectors["jwks"].to_string().as_bytes()).unwrap();
    for (algorithm, token) in tokens.iter().filter(|(alg, _)| !alg.starts_with("ES")) {
        let outcome = verify_token(token, &keys, &EXPECT, noon(), &crypto());
        match algorithm.as_str() {
            "RS256" => drop(outcome.unwrap()),
            _ => assert!(
                matches!(outcome, Err(TokenRejected::KeyMismatch { .. })),
                "{algorithm}"
            ),
        }
    }
}

// === what is wrong is refused, each for its own reason ===

#[track_caller]
fn refused(token: &str, bundles: &BundleSet, expected: TokenRejected) {
    let error = validate(token, "us", bundles, noon(), &crypto()).unwrap_err();
    assert_eq!(error, expected, "{token}");
}

#[test]
fn headers_that_no_svid_has() {
    let issuer = issuer("td");
    let bundles = trusting(&[("td", &issuer)]);
    let key_id = issuer.public_key().id().map(str::to_owned);
    let algorithm = |got: &str| TokenRejected::Algorithm { got: got.into() };
    let malformed = TokenRejected::Malformed { part: "header" };
    for (change, expected) in [
        (json!({"alg": "none"}), algorithm("none")),
        (json!({"alg": "HS256"}), algorithm("HS256")),
        (json!({"alg": "es256"}), algorithm("es256")),
        (json!({"alg": "EdDSA"}), algorithm("EdDSA")),
        (
            json!({"alg": "x".repeat(1_000)}),
            algorithm(&"x".repeat(64)),
        ),
        (json!({"alg": null}), malformed.clone()),
        (json!({"alg": ["ES256"]}), malformed.clone()),
        (json!({"kid": 1}), malformed.clone()),
        (json!({"typ": 1}), malformed.clone()),
        (
            json!({"typ": "at+jwt"}),
            TokenRejected::Type {
                got: "at+jwt".into(),
            },
        ),
        (
            json!({"typ": "jwt"}),
            TokenRejected::Type { got: "jwt".into() },
        ),
        (json!({"crit": []}), TokenRejected::CriticalHeader),
        (
            json!({"kid": "other"}),
            TokenRejected::UnknownKey {
                id: Some("other".into()),
            },
        ),
        (json!({"alg": "ES384"}), TokenRejected::BadSignature),
        (
            json!({"alg": "RS256"}),
            TokenRejected::KeyMismatch {
                id: key_id.unwrap(),
                algorithm: "RS256",
            },
        ),
        (
            json!({"alg": "RS256", "kid": null}),
            TokenRejected::UnknownKey { id: None },
        ),
    ] {
        let token = signed(&issuer, &with(header(&issuer), change), &claims());
        refused(&token, &bundles, expected);
    }
    for change in [
        json!({"typ": null}),
        json!({"typ": "JOSE"}),
        json!({"kid": null}),
        // A key that the token brings along is not looked at.
        json!({"jwk": {"kty": "oct", "k": "AAAA"}, "jku": "https://169.254.169.254/"}),
    ] {
        let token = signed(&issuer, &with(header(&issuer), change), &claims());
        validate(&token, "us", &bundles, noon(), &crypto()).unwrap();
    }
}

#[test]
fn claims_that_no_svid_has() {
    let issuer = issuer("td");
    let bundles = trusting(&[("td", &issuer)]);
    let expired = |secs| TokenRejected::Expired {
        expires: crate::time::from_unix(secs),
        now: noon(),
    };
    let audience = TokenRejected::Audience {
        expected: "us".into(),
    };
    let missing = |claim| TokenRejected::Missing { claim };
    let malformed = |part| TokenRejected::Malformed { part };
    for (change, expected) in [
        (json!({"exp": null}), missing("exp")),
        (json!({"exp": "soon"}), malformed("exp")),
        (json!({"exp": NOON}), expired(NOON)),
        (json!({"exp": NOON as f64 - 0.5}), expired(NOON - 1)),
        (json!({"exp": -1}), expired(-1)),
        // Later than any calendar is no moment, and no everlasting token.
        (json!({"exp": 1e300}), malformed("exp")),
        (json!({"exp": i64::MAX}), malformed("exp")),
        (
            json!({"nbf": NOON + 121}),
            TokenRejected::NotYetValid {
                not_before: noon() + Duration::from_secs(121),
                now: noon(),
            },
        ),
        (json!({"nbf": []}), malformed("nbf")),
        (json!({"aud": null}), missing("aud")),
        (json!({"aud": []}), audience.clone()),
        (json!({"aud": "US"}), audience.clone()),
        (json!({"aud": ["them", "u"]}), audience),
        (json!({"aud": ["us", 1]}), malformed("aud")),
        (json!({"aud": {"us": 1}}), malformed("aud")),
        (json!({"sub": null}), missing("sub")),
        (json!({"sub": 7}), malformed("sub")),
        (
            json!({"sub": "cart"}),
            TokenRejected::Subject(IdError::Scheme),
        ),
        (
            json!({"sub": "spiffe://td"}),
            TokenRejected::SubjectHasNoPath {
                trust_domain: domain("td"),
            },
        ),
        (
            json!({"sub": "spiffe://other/w"}),
            TokenRejected::UnknownTrustDomain {
                trust_domain: domain("other"),
            },
        ),
        (json!({"iss": 1}), malformed("iss")),
        (json!({"iat": "now"}), malformed("iat")),
    ] {
        let token = signed(&issuer, &header(&issuer), &with(claims(), change));
        refused(&token, &bundles, expected);
    }
    for change in [
        json!({"nbf": NOON + 120}),
        json!({"exp": NOON + 1}),
        json!({"exp": NOON as f64 + 1.5}),
        json!({"aud": ["them", "us"]}),
    ] {
        let token = signed(&issuer, &header(&issuer), &with(claims(), change));
        validate(&token, "us", &bundles, noon(), &crypto()).unwrap();
    }
}

#[test]
fn a_claim_that_stands_twice_is_refused() {
    let issuer = issuer("td");
    let twice = r#"{"sub":"spiffe://td/w","aud":"us","exp":1800000060,"exp":9999999999}"#;
    let claims = data_encoding::BASE64URL_NOPAD.encode(twice.as_bytes());
    let message = format!("{}.{claims}", encode(&header(&issuer)));
    let token = issuer.seal(message.into()).unwrap();
    let bundles = trusting(&[("td", &issuer)]);
    refused(
        &token,
        &bundles,
        TokenRejected::Malformed { part: "claims" },
    );
}

#[test]
fn keys_come_from_the_bundle_of_the_subjects_own_domain() {
    let (a, b) = (issuer("a"), issuer("b"));
    let bundles = trusting(&[("a", &a), ("b", &b)]);
    let of = |subject: &str, changed: Value, by: &LocalJwtIssuer| {
        let header = with(header(by), changed);
        signed(by, &header, &with(claims(), json!({"sub": subject})))
    };
    let b_id = b.public_key().id().unwrap().to_owned();
    let a_id = a.public_key().id().unwrap().to_owned();
    // B's issuer signs for a workload of A: by its own key's name, by no name, by A's key's name.
    let token = of("spiffe://a/w", json!({}), &b);
    refused(
        &token,
        &bundles,
        TokenRejected::UnknownKey { id: Some(b_id) },
    );
    refused(
        &of("spiffe://a/w", json!({"kid": null}), &b),
        &bundles,
        TokenRejected::BadSignature,
    );
    refused(
        &of("spiffe://a/w", json!({"kid": a_id}), &b),
        &bundles,
        TokenRejected::BadSignature,
    );
    validate(
        &of("spiffe://a/w", json!({}), &a),
        "us",
        &bundles,
        noon(),
        &crypto(),
    )
    .unwrap();

    // A domain with roots and without keys for tokens supports none.
    let bare = BundleSet::from(crate::testing::Ca::new("root").bundle("a"));
    let token = of("spiffe://a/w", json!({"kid": null}), &a);
    refused(&token, &bare, TokenRejected::UnknownKey { id: None });
}

#[test]
fn a_token_without_key_id_is_tried_with_few_keys() {
    let issuers: Vec<_> = (0..=MAX_TRIED).map(|_| issuer("td")).collect();
    // An RSA key before them fits no such token, and does not count.
    let (vectors, _) = vectors();
    let rsa = vectors.iter().find(|key| key.id() == Some("rsa")).cloned();
    let keys = issuers.iter().map(|issuer| issuer.public_key().clone());
    let keys = KeySet::from_keys(rsa.into_iter().chain(keys)).unwrap();
    let bundle = TrustBundle::distrusted(domain("td")).with_jwt_keys(keys);
    let bundles = BundleSet::from(bundle);
    let nameless = |nth: usize| {
        let issuer = &issuers[nth];
        signed(
            issuer,
            &with(header(issuer), json!({"kid": null})),
            &claims(),
        )
    };
    let last = nameless(MAX_TRIED - 1);
    validate(&last, "us", &bundles, noon(), &crypto()).unwrap();
    refused(&nameless(MAX_TRIED), &bundles, TokenRejected::BadSignature);
}

#[test]
fn an_rsa_public_key_is_no_hmac_secret() {
    // The forged tokens of CVE-2015-9235 and its kin: whatever the signature, HS* is never tried.
    let (keys, _) = vectors();
    for algorithm in ["HS256", "HS384", "HS512", "none", "None", "NONE", ""] {
        let header = json!({"alg": algorithm, "kid": "rsa"});
        for signature in ["", "AAAA"] {
            let token = format!("{}.{}.{signature}", encode(&header), encode(&claims()));
            let error = verify_token(&token, &keys, &EXPECT, noon(), &crypto()).unwrap_err();
            assert_eq!(
                error,
                TokenRejected::Algorithm {
                    got: algorithm.into()
                }
            );
        }
    }
}

#[test]
fn the_signature_of_ecdsa_has_one_length_and_is_never_zero() {
    let issuer = issuer("td");
    let bundles = trusting(&[("td", &issuer)]);
    let message = format!("{}.{}", encode(&header(&issuer)), encode(&claims()));
    for bytes in [0, 1, 63, 64, 65, 72, 128] {
        let zeros = data_encoding::BASE64URL_NOPAD.encode(&vec![0; bytes]);
        refused(
            &format!("{message}.{zeros}"),
            &bundles,
            TokenRejected::BadSignature,
        );
    }
}

#[test]
fn what_is_no_compact_token_is_refused_before_it_is_decoded() {
    let issuer = issuer("td");
    let bundles = trusting(&[("td", &issuer)]);
    let good = signed(&issuer, &header(&issuer), &claims());
    for text in [
        "",
        ".",
        "a.b",
        &format!("{good}.x"),
        &"a.".repeat(100),
        "{}",
    ] {
        refused(text, &bundles, TokenRejected::NotCompact);
    }
    for text in [
        "..",
        "a.b.c",
        "e30.e30.",
        "é.é.é",
        "e30=.e30=.",
        "e30 .e30.",
        "bnVsbA..",
        "W10..",
    ] {
        refused(text, &bundles, TokenRejected::Malformed { part: "header" });
    }
    let got = 2_000_000;
    refused(
        &"a.".repeat(1_000_000),
        &bundles,
        TokenRejected::TooLong { got },
    );
    let deep = data_encoding::BASE64URL_NOPAD.encode("[".repeat(10_000).as_bytes());
    refused(
        &format!("{deep}.e30.AA"),
        &bundles,
        TokenRejected::Malformed { part: "header" },
    );
    for part in ["AA", "e30", "bnVsbA", &deep] {
        let token = format!("{}.{part}.AA", encode(&header(&issuer)));
        let error = validate(&token, "us", &bundles, noon(), &crypto()).unwrap_err();
        assert!(
            matches!(
                error,
                TokenRejected::Malformed { part: "claims" } | TokenRejected::Missing { .. }
            ),
            "{error}"
        );
    }
}

#[test]
fn no_message_holds_the_token() {
    let issuer = issuer("td");
    let bundles = trusting(&[("other", &issuer)]);
    let token = signed(&issuer, &header(&issuer), &claims());
    let error = validate(&token, "us", &bundles, noon(), &crypto()).unwrap_err();
    for part in token.split('.') {
        assert!(!format!("{error} {error:?}").contains(part));
    }
}

// === tokens of other issuers ===

#[test]
fn a_service_account_token_tells_who_it_is() {
    let issuer = issuer("td");
    let keys = KeySet::from_keys([issuer.public_key().clone()]).unwrap();
    let token = signed(
        &issuer,
        &header(&issuer),
        &json!({
            "iss": EXPECT.issuer, "aud": ["us"], "exp": NOON + 60, "nbf": NOON, "iat": NOON,
            "sub": "system:serviceaccount:shop:cart",
            "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "cart", "uid": 7}},
        }),
    );
    let claims = verify_token(&token, &keys, &EXPECT, noon(), &crypto()).unwrap();
    assert_eq!(claims.subject(), "system:serviceaccount:shop:cart");
    assert_eq!(claims.text(&["kubernetes.io", "namespace"]), Some("shop"));
    assert_eq!(
        claims.text(&["kubernetes.io", "serviceaccount", "name"]),
        Some("cart")
    );
    for path in [
        &[][..],
        &["kubernetes.io"],
        &["kubernetes.io", "serviceaccount", "uid"],
        &["x"],
    ] {
        assert_eq!(claims.text(path), None, "{path:?}");
    }
    let all: Value = serde_json::from_str(&claims.to_json()).unwrap();
    assert_eq!(all["kubernetes.io"]["serviceaccount"]["uid"], 7);
    assert!(!format!("{claims:?}").contains("kubernetes.io"));

    for issuer in ["", "https://issuer.example/", "HTTPS://issuer.example"] {
        let expect = Expect { issuer, ..EXPECT };
        let error = verify_token(&token, &keys, &expect, noon(), &crypto()).unwrap_err();
        assert_eq!(
            error,
            TokenRejected::Issuer {
                expected: issuer.into()
            }
        );
    }
    let no_key = verify_token(&token, &KeySet::new(), &EXPECT, noon(), &crypto());
    assert!(matches!(no_key, Err(TokenRejected::UnknownKey { .. })));
}

// === key sets ===

#[test]
fn key_sets_read_what_they_write() {
    let (keys, _) = vectors();
    assert_eq!(KeySet::from_jwks(keys.to_jwks().as_bytes()), Ok(keys));
}

fn good_key() -> Value {
    json!({
        "kty": "EC", "crv": "P-256", "kid": "a",
        "x": "ngLYQnlfF6GsojUwqtcEE3WgTNG2RUlsGhK73RNEl5k",
        "y": "tKbiDSUSsQ3F1P7wteeHNXIcU-cx6CgSbroeQrQHTLM",
    })
}

/// How many keys a set has of a good key and of one with a change.
fn read(change: Value) -> Result<usize, KeySetError> {
    let key = good_key();
    let keys = json!({"keys": [with(key.clone(), json!({"kid": "b"})), with(key, change)]});
    KeySet::from_jwks(keys.to_string().as_bytes()).map(|keys| keys.len())
}

#[test]
fn keys_of_other_kinds_and_broken_ones_are_left_out() {
    for taken in [
        json!({}),
        json!({"use": "sig"}),
        json!({"use": "jwt-svid"}),
        json!({"kid": null}),
        json!({"alg": "ES256"}),
        json!({"key_ops": ["verify"]}),
        json!({"key_ops": ["sign", "verify"]}),
    ] {
        assert_eq!(read(taken), Ok(2));
    }
    for passed in [
        json!({"kty": "oct", "k": "AAAA"}),
        json!({"kty": null}),
        json!({"crv": "secp256k1"}),
        json!({"use": "enc"}),
        json!({"use": "x509-svid"}),
        json!({"use": 1}),
        json!({"alg": "HS256"}),
        json!({"alg": 1}),
        json!({"key_ops": []}),
        json!({"key_ops": ["sign"]}),
        json!({"key_ops": ["encrypt", "wrapKey"]}),
        json!({"key_ops": "verify"}),
    ] {
        assert_eq!(read(passed.clone()), Ok(1), "{passed}");
    }
    for broken in [
        json!({"x": null}),
        json!({"x": "AA"}),
        json!({"y": "tKbiDSUSsQ3F1P7wteeHNXIcU-cx6CgSbroeQrQHTLM="}),
        json!({"crv": "P-384"}),
        json!({"kid": ""}),
        json!({"kid": 5}),
        json!({"kid": "x".repeat(257)}),
        json!({"kty": "RSA", "n": "AA", "e": "AQAB"}),
        json!({"kty": "RSA", "n": "AQAB"}),
        // The same key under the same id counts once; another one makes the id unclear.
        json!({"kid": "b"}),
    ] {
        assert_eq!(read(broken.clone()), Ok(1), "{broken}");
    }
    let y = good_key()["y"].clone();
    assert_eq!(read(json!({"kid": "b", "x": y})), Ok(0));
    assert_eq!(read(json!({"kid": "b", "alg": "ES256"})), Ok(0));
    let many = |count: usize| {
        let keys: Vec<_> = (0..count)
            .map(|n| with(good_key(), json!({"kid": n.to_string()})))
            .collect();
        KeySet::from_jwks(json!({"keys": keys}).to_string().as_bytes())
    };
    assert_eq!(many(MAX_KEYS).unwrap().len(), MAX_KEYS);
    assert_eq!(many(MAX_KEYS + 1), Err(KeySetError::TooManyKeys));
    for text in [
        "",
        "[]",
        "{}",
        r#"{"keys":null}"#,
        r#"{"keys":[1]}"#,
        r#"{"keys":[],"keys":[]}"#,
    ] {
        let error = KeySet::from_jwks(text.as_bytes()).unwrap_err();
        assert!(
            matches!(error, KeySetError::NotASet { .. }),
            "{text}: {error}"
        );
    }
    let got = MAX_JWKS_LEN + 1;
    assert_eq!(
        KeySet::from_jwks(&vec![b' '; got]),
        Err(KeySetError::TooLarge { got })
    );
}

#[test]
fn go_spiffe_key_sets() {
    for (name, keys) in [
        ("jwks_valid_1", 1),
        ("jwks_valid_2", 2),
        ("jwks_missing_kid", 2),
    ] {
        let Some(text) = fixture(&format!("spiffe/go-spiffe/jwtbundle/{name}.json"), 1) else {
            continue;
        };
        let set = KeySet::from_jwks(&text).unwrap();
        assert_eq!(set.len(), keys, "{name}");
        // go-spiffe refuses a set with a nameless key; here a bundle leaves out that key alone.
        let bundle = TrustBundle::distrusted(domain("td")).with_jwt_keys(set);
        assert_eq!(
            bundle.jwt_keys().len(),
            if keys == 2 && name != "jwks_valid_2" {
                1
            } else {
                keys
            }
        );
    }
}
