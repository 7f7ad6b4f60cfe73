//! Any bytes for a review of an API server: no panic; a Pod that is admitted with a patch is admitted as it is
//! when it is reviewed again.

#![no_main]

use inmesh_core::model::Namespace;
use inmesh_discovery::inject::{Injected, Sidecar, inject, review};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let sidecar = Sidecar::new("mesh:1", "cluster.local".parse().expect("a trust domain"));
    let Ok(answer) = review(text, &sidecar) else {
        return;
    };
    let asked: serde_json::Value = serde_json::from_slice(text).expect("it was read");
    assert_eq!(answer["response"]["uid"], asked["request"]["uid"]);
    let mut object = asked["request"]["object"].clone();
    let namespace = Namespace::new("default").expect("a name");
    if inject(&mut object, &sidecar, &namespace) == Ok(Injected::Added) {
        let once = object.clone();
        assert_eq!(
            inject(&mut object, &sidecar, &namespace),
            Ok(Injected::Already)
        );
        assert_eq!(object, once);
    }
});
