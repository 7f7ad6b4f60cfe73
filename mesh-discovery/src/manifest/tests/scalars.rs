//! Scalars as an API server reads them. Each row is what `kubectl apply` makes of it (go-yaml 2).

use super::super::strict::{Unknown, documents};

/// What is read of `a: TEXT`: as a number, a boolean and a text.
fn read(text: &str) -> (Option<i64>, Option<bool>, Option<String>) {
    let text = format!("a: {text}\n");
    let document = &documents("x.yaml", &text).expect("it is YAML")[0];
    let number = document.read(Unknown::Refuse, |f| f.need("a")?.integer::<i64>());
    let boolean = document.read(Unknown::Refuse, |f| f.need("a")?.boolean());
    let word = document.read(Unknown::Refuse, |f| Some(f.need("a")?.text()?.to_owned()));
    (
        number.ok().map(|read| read.value),
        boolean.ok().map(|read| read.value),
        word.ok().map(|read| read.value),
    )
}

#[test]
fn numbers() {
    for (text, number) in [
        ("5", 5),
        ("+5", 5),
        ("-5", -5),
        ("0", 0),
        ("1_000", 1_000),
        ("017", 15),
        ("0o17", 15),
        ("0x1F", 31),
        ("-0x1F", -31),
        ("0b101", 5),
        // Octal no more: decimal, with a fraction of nothing.
        ("080", 80),
        ("5.0", 5),
        ("5.", 5),
        ("1e3", 1_000),
        ("1E+3", 1_000),
        ("9223372036854775807", i64::MAX),
    ] {
        assert_eq!(read(text), (Some(number), None, None), "{text}");
    }
    // Numbers that are not whole, or too large: neither numbers of ours nor texts.
    for text in [
        "1.10",
        ".5",
        "-1.5",
        ".inf",
        "-.INF",
        ".NaN",
        "1e400",
        "9223372036854775808",
        "0xFFFFFFFFFFFFFFFFFF",
        "~",
        "null",
    ] {
        assert_eq!(read(text), (None, None, None), "{text}");
    }
}

#[test]
fn booleans() {
    for text in [
        "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON",
    ] {
        assert_eq!(read(text), (None, Some(true), None), "{text}");
    }
    for text in [
        "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF",
    ] {
        assert_eq!(read(text), (None, Some(false), None), "{text}");
    }
}

#[test]
fn texts() {
    for (text, word) in [
        ("'5'", "5"),
        ("\"1.10\"", "1.10"),
        ("'y'", "y"),
        ("'null'", "null"),
        ("v1.10", "v1.10"),
        ("1.2.3", "1.2.3"),
        ("10.0.0.1", "10.0.0.1"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("2026-01-31", "2026-01-31"),
        ("12:30:45", "12:30:45"),
        ("1e", "1e"),
        ("0x", "0x"),
        ("0xZ", "0xZ"),
        ("tRUE", "tRUE"),
        ("yEs", "yEs"),
        ("nil", "nil"),
        ("_1", "_1"),
        (".", "."),
        ("..5", "..5"),
        ("1-2", "1-2"),
        ("+-5", "+-5"),
    ] {
        assert_eq!(read(text), (None, None, Some(word.into())), "{text}");
    }
}
