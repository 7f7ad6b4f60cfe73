//! PROXY headers: the answer, once given, does not change with the bytes that follow; what is read is
//! written and read again as the same.
#![no_main]

use inmesh_core::accept::proxy::{Ends, Header, Parsed, parse};
use inmesh_core::model::ProxyVersion;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut decided = None;
    for end in 0..=bytes.len().min(600) {
        let now = parse(&bytes[..end]);
        match &decided {
            None if now != Ok(Parsed::NeedMore) => decided = Some(now),
            None => {}
            Some(before) => assert_eq!(before, &now, "{:?}", &bytes[..end]),
        }
    }
    let Ok(Parsed::Whole(header, len)) = parse(bytes) else {
        return;
    };
    assert!(len <= bytes.len());
    let own = Ends::new(([192, 0, 2, 1], 1).into(), ([192, 0, 2, 2], 2).into());
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let written = header.write(version, own);
        let read = parse(&written).expect("a header");
        let same = match (header, version) {
            (Header::Local, ProxyVersion::V1) => Header::Proxied(own),
            (header, _) => header,
        };
        assert_eq!(read, Parsed::Whole(same, written.len()));
    }
});
