//! An ID that is accepted is canonical: it prints as it was read, and its parts are within bounds.
#![no_main]

use std::str;

use inmesh_pki::id::{SpiffeId, TrustDomain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    if let Ok(domain) = text.parse::<TrustDomain>() {
        assert_eq!(domain.as_str(), text);
        assert!(
            text.len() <= 255 && !text.contains(['/', ':', '@', '%']),
            "{text:?}"
        );
    }
    let Ok(id) = text.parse::<SpiffeId>() else {
        return;
    };
    assert_eq!(id.to_string(), text, "something was normalised");
    assert_eq!(text.parse().as_ref(), Ok(&id));
    assert!(text.len() <= 2048 && text.is_ascii());
    let rest = text
        .strip_prefix("spiffe://")
        .expect("the scheme is lower case");
    let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    assert_eq!(id.trust_domain().as_str(), domain);
    assert!(path.is_empty() || !path.ends_with('/'), "{text:?}");
    let dotted = path
        .split('/')
        .skip(1)
        .any(|part| matches!(part, "" | "." | ".."));
    assert!(!dotted, "{text:?}");
});
