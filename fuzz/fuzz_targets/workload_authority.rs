//! The front of the Workload API's socket: however a client's bytes are cut, they become the same, and what
//! has become of them stays as it is when it passes a second front.
#![no_main]

use inmesh_pki::workload_api::server::rewrite_authorities;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((cut, sent)) = data.split_first() else {
        return;
    };
    let once = rewrite_authorities([sent]);
    let step = usize::from(*cut).max(1);
    assert_eq!(
        rewrite_authorities(sent.chunks(step)),
        once,
        "cut at {step}"
    );
    if let Some(once) = once {
        let again = rewrite_authorities([&once[..]]);
        assert_eq!(again.as_ref(), Some(&once), "it was valid already");
    }
});
