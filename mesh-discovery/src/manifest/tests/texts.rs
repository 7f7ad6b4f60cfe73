//! The small texts, by table.

use super::super::text::{duration, host_name, object_name, timestamp};
use inmesh_core::model::{Kind, Namespace, ObjectKey};
use proptest::prelude::*;

#[test]
fn durations() {
    let good = [
        ("1h", 3_600_000),
        ("1m", 60_000),
        ("10s", 10_000),
        ("500ms", 500),
        ("0s", 0),
        ("1h2m3s4ms", 3_723_004),
        ("99999h", 359_996_400_000),
    ];
    for (text, millis) in good {
        assert_eq!(duration(text).map(|d| d.as_millis()), Ok(millis), "{text}");
    }
    for text in [
        "",
        "1",
        "s",
        "1.5s",
        "-1s",
        "1d",
        "100000s",
        "1s1s1s1s1s",
        " 1s",
        "1 s",
        "1µs",
    ] {
        assert!(duration(text).is_err(), "{text}");
    }
}

#[test]
fn timestamps() {
    let good = [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-01-31T12:00:00Z", 1_769_860_800),
        ("2026-01-31T12:00:00.123456Z", 1_769_860_800),
        ("2026-01-31T13:30:00+01:30", 1_769_860_800),
        ("2000-02-29T00:00:00Z", 951_782_400),
        ("1969-12-31T23:59:59Z", -1),
    ];
    for (text, seconds) in good {
        assert_eq!(timestamp(text), Ok(seconds), "{text}");
    }
    let bad = [
        "",
        "2026-01-31",
        "2026-01-31T12:00:00",
        "2026-02-30T12:00:00Z",
        "1900-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01 00:00:00Z",
        "2026-01-01T00:00:00+25:00",
        "2026-01-01T00:00:00é",
    ];
    for text in bad {
        assert!(timestamp(text).is_err(), "{text}");
    }
}

#[test]
fn host_names() {
    assert_eq!(
        host_name("API.Example.com.").as_deref(),
        Ok("api.example.com")
    );
    for text in [
        "",
        ".",
        "a..b",
        "-a",
        "a_b",
        "10.0.0.1",
        "::1",
        "*.a",
        &"a".repeat(64),
    ] {
        assert!(host_name(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn any_file_name_names_an_object(file in any::<String>()) {
        let namespace = Namespace::new("default").expect("a name");
        let kind = Kind::Other("File".into());
        prop_assert!(ObjectKey::new(kind, &namespace, &object_name(&file)).is_ok());
    }
}
