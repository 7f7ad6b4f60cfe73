//! Tokens: any text is refused with a reason, or is exactly one that its issuer signed.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use inmesh_pki::jwt::{Expect, KeySet, validate, verify_token};
use inmesh_pki::{BundleSet, Crypto, TrustBundle};
use libfuzzer_sys::fuzz_target;

static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
    let jwks = include_bytes!("../corpus/bundle_json/jwks.json");
    KeySet::from_jwks(jwks).expect("the seed is a key set")
});
static BUNDLES: LazyLock<BundleSet> = LazyLock::new(|| {
    let trust_domain = "td".parse().expect("the name is valid");
    TrustBundle::distrusted(trust_domain)
        .with_jwt_keys(KEYS.clone())
        .into()
});
static CRYPTO: LazyLock<Crypto> = LazyLock::new(Crypto::aws_lc_rs);

fuzz_target!(|data: &str| {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let expect = Expect {
        issuer: "https://issuer.example",
        audience: "us",
    };
    if let Ok(claims) = verify_token(data, &KEYS, &expect, now, &CRYPTO) {
        assert!(claims.expires() > now && claims.subject() == "spiffe://td/w");
    }
    match validate(data, "us", &BUNDLES, now, &CRYPTO) {
        Ok(verified) => assert_eq!(verified.id.as_str(), "spiffe://td/w"),
        Err(rejected) => assert!(rejected.to_string().len() < 4_096),
    }
});
