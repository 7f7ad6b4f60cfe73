//! Protocol detection: the answer, once given, does not change with the bytes that follow.
#![no_main]

use inmesh_core::accept::{Detected, detect};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut decided = None;
    for end in 0..=bytes.len().min(64) {
        let now = detect(&bytes[..end]);
        match decided {
            None if now != Detected::NeedMore => decided = Some(now),
            None => {}
            Some(before) => assert_eq!(before, now, "{:?}", &bytes[..end]),
        }
    }
});
