//! A canonical path has one spelling: nothing is left in it that could be read in a second way.
#![no_main]

use inmesh_core::authorize::canonical_path;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &str| {
    let Ok(canonical) = canonical_path(path) else {
        return;
    };
    assert_eq!(
        canonical_path(&canonical).as_deref(),
        Ok(&*canonical),
        "not idempotent"
    );
    if canonical == "*" {
        return;
    }
    assert!(canonical.starts_with('/'));
    assert!(!canonical.contains("//"), "{canonical:?}");
    assert!(!canonical.contains(['\\', '\0']), "{canonical:?}");
    assert!(
        !canonical.split('/').any(|part| matches!(part, "." | "..")),
        "{canonical:?}"
    );
    // What is still escaped could not be decoded without changing its meaning.
    for (at, _) in canonical.match_indices('%') {
        let digits = &canonical.as_bytes()[at + 1..at + 3];
        let digits = std::str::from_utf8(digits).expect("an escape is ASCII");
        let byte = u8::from_str_radix(digits, 16).expect("an escape has two digits");
        let plain = byte.is_ascii_alphanumeric() || b"-._~/\\\0".contains(&byte);
        assert!(!plain, "{canonical:?} keeps %{digits}");
    }
});
