//! Any bytes as a signing request: one that is accepted is read whole, and what is signed for it
//! has its key, our ID and nothing else that it wished for.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use inmesh_pki::clock::ManualClock;
use inmesh_pki::issue::Csr;
use inmesh_pki::issue::ca::LocalCa;
use inmesh_pki::svid::{Usage, validate};
use inmesh_pki::{Crypto, IdentityState, SpiffeId};
use libfuzzer_sys::fuzz_target;

static WORLD: LazyLock<(LocalCa, Crypto, SpiffeId)> = LazyLock::new(|| {
    let crypto = Crypto::aws_lc_rs();
    let clock = ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let day = Duration::from_secs(24 * 60 * 60);
    let domain = "td".parse().expect("a trust domain");
    let ca = LocalCa::create(domain, day, &crypto, clock.shared()).expect("a CA");
    (ca, crypto, "spiffe://td/ours".parse().expect("an ID"))
});

fuzz_target!(|data: &[u8]| {
    let (ca, crypto, id) = &*WORLD;
    let Ok(csr) = Csr::from_der(data, crypto) else {
        return;
    };
    assert_eq!(csr.der(), data, "read whole");
    let key = csr.public_key_der();
    assert!(data.windows(key.len()).any(|part| part == key));
    // A key of a kind that cannot be certified is refused; whatever is issued is valid.
    let Ok(issued) = ca.sign(id, &csr) else {
        return;
    };
    let leaf = &issued.chain[0];
    assert!(leaf.windows(key.len()).any(|part| part == key));
    let state = IdentityState::from_bundles(issued.bundle.into());
    let now = issued.issued_at;
    let verified = validate(&issued.chain, &state, now, Usage::Client, crypto);
    assert_eq!(verified.expect("what we issue is valid").id, *id);
});
