//! Bundle documents: any text is read without a panic and within bounds, and what is read comes
//! back when it is written. As a map too, and as a plain set of keys.
#![no_main]

use inmesh_pki::bundle::jwks::BundleJsonError;
use inmesh_pki::jwt::KeySet;
use inmesh_pki::{BundleSet, TrustBundle};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let trust_domain = || "td".parse().expect("the name is valid");
    if let Ok(bundle) = TrustBundle::from_json(trust_domain(), data) {
        assert_eq!(bundle.trust_domain().as_str(), "td");
        assert!(bundle.jwt_keys().iter().all(|key| key.id().is_some()));
        match bundle.to_json() {
            Ok(text) => {
                let back = TrustBundle::from_json(trust_domain(), text.as_bytes());
                assert_eq!(back.as_ref(), Ok(&bundle));
            }
            Err(BundleJsonError::Key { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    if let Ok(set) = BundleSet::from_json(data) {
        assert!(set.iter().all(|bundle| bundle.refresh_hint().is_none()));
        if let Ok(text) = set.to_json() {
            assert_eq!(BundleSet::from_json(text.as_bytes()), Ok(set));
        }
    }
    if let Ok(keys) = KeySet::from_jwks(data) {
        assert_eq!(KeySet::from_jwks(keys.to_jwks().as_bytes()), Ok(keys));
    }
});
