//! Any chain, each certificate behind its length in two bytes, against one root and one revocation
//! list. Their keys are gone: a peer that is accepted presented one of the good leaves, byte by byte.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use inmesh_pki::svid::{Usage, read_unverified, validate};
use inmesh_pki::{CertificateDer, Crl, CrlSet, Crypto, IdentityState, TrustBundle};
use libfuzzer_sys::fuzz_target;

const ROOT: &[u8] = include_bytes!("../fixtures/svid/root.der");
const GOOD: [&[u8]; 2] = [
    include_bytes!("../fixtures/svid/leaf.der"),
    include_bytes!("../fixtures/svid/web.der"),
];
const LIST: &[u8] = include_bytes!("../fixtures/svid/crl.der");

static WORLD: LazyLock<(IdentityState, Crypto, SystemTime)> = LazyLock::new(|| {
    let domain: inmesh_pki::TrustDomain = "td".parse().expect("a trust domain");
    let root = CertificateDer::from(ROOT.to_vec());
    let bundle = TrustBundle::new(domain.clone(), [root]).expect("a root");
    let mut state = IdentityState::from_bundles(bundle.into());
    let mut lists = CrlSet::new();
    let list = Crl::from_der(LIST).expect("a list");
    lists.insert(domain, list).expect("one list");
    state.replace_crls(lists);
    let noon = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    (state, Crypto::aws_lc_rs(), noon)
});

fuzz_target!(|data: &[u8]| {
    let mut chain = Vec::new();
    let mut rest = data;
    while let Some((len, behind)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(behind.len());
        let (cert, behind) = behind.split_at(len);
        chain.push(CertificateDer::from(cert));
        rest = behind;
    }
    if let Some(peer) = chain.first().and_then(|leaf| read_unverified(leaf).ok()) {
        assert!(!peer.id.path().is_empty(), "a leaf names a workload");
    }
    let (state, crypto, now) = &*WORLD;
    for usage in [Usage::Client, Usage::Server] {
        match validate(&chain, state, *now, usage, crypto) {
            Ok(verified) => {
                assert!(GOOD.contains(&chain[0].as_ref()), "{verified:?}");
                assert_eq!(verified.id.as_str(), "spiffe://td/ns/shop/sa/cart");
            }
            // The reason is for logs, whatever the peer wrote.
            Err(rejected) => assert!(rejected.to_string().len() < 8 * 1024),
        }
    }
});
