//! What a scalar without quotes is, as `kubectl` and an API server read it: YAML 1.1 without its
//! sexagesimal numbers and dates (the rules of go-yaml 2, which Kubernetes keeps).
//!
//! Written out, since libraries for YAML 1.2 read `010`, `1_000`, `0x1f` and `yes` in other ways: a
//! document would mean one thing here and another in a cluster.

use std::borrow::Cow;

/// A scalar without quotes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scalar {
    Boolean(bool),
    /// A number with a fraction, an exponent or too many digits.
    Float(f64),
    Integer(i64),
    Null,
    Text,
}

impl Scalar {
    /// Resolves a scalar.
    ///
    /// 1. The words for null, booleans, infinity and not-a-number, in three cases each.
    /// 2. What begins with a digit or a sign: an integer with `_` between digits and the prefixes
    ///    `0x`, `0o`, `0b` and `0` (octal), else a decimal number.
    /// 3. What begins with a dot: a decimal number.
    /// 4. All else is a text.
    pub(super) fn of(plain: &str) -> Self {
        match plain {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Null,
            "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
                return Self::Boolean(true);
            }
            "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off"
            | "OFF" => return Self::Boolean(false),
            ".nan" | ".NaN" | ".NAN" => return Self::Float(f64::NAN),
            ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
                return Self::Float(f64::INFINITY);
            }
            "-.inf" | "-.Inf" | "-.INF" => return Self::Float(f64::NEG_INFINITY),
            _ => {}
        }
        let first = plain.as_bytes()[0];
        let digits;
        let number = match first {
            b'0'..=b'9' | b'+' | b'-' => {
                digits = plain.replace('_', "");
                if let Some(integer) = integer(&digits) {
                    return Self::Integer(integer);
                }
                &digits
            }
            b'.' => plain,
            _ => return Self::Text,
        };
        match decimal(number) {
            Some(float) => Self::Float(float),
            None if is_large_integer(number) => Self::Float(f64::INFINITY),
            None => Self::Text,
        }
    }

    /// The whole number that it is, also where it is written with a fraction or an exponent.
    pub(super) fn whole(self) -> Option<i64> {
        /// Above it a 64-bit float is no longer exact.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        match self {
            Self::Integer(integer) => Some(integer),
            Self::Float(float) if float.fract() == 0.0 && float.abs() <= EXACT => {
                #[expect(clippy::cast_possible_truncation, reason = "whole and within 53 bits")]
                let whole = float as i64;
                Some(whole)
            }
            _ => None,
        }
    }
}

/// The name that a key without quotes has for `kubectl`, which makes JSON of it; `None` for null and
/// for numbers whose text is not plain.
pub(super) fn key(plain: &str) -> Option<Cow<'_, str>> {
    match Scalar::of(plain) {
        Scalar::Text => Some(plain.into()),
        Scalar::Boolean(boolean) => Some(boolean.to_string().into()),
        Scalar::Integer(integer) => Some(integer.to_string().into()),
        // Within these its shortest text, of 32 bits, has no exponent.
        Scalar::Float(float) if float == 0.0 || (1e-4..1e6).contains(&float.abs()) => {
            #[expect(clippy::cast_possible_truncation, reason = "as it is written there")]
            let short = float as f32;
            Some(short.to_string().into())
        }
        Scalar::Float(_) | Scalar::Null => None,
    }
}

/// An integer of any base that a prefix names.
fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        _ => ("", text),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = match based(&lower) {
        Some(based) => based,
        None => match lower.strip_prefix('0') {
            Some(octal) if !octal.is_empty() => (octal, 8),
            _ => (&*lower, 10),
        },
    };
    // What follows the prefix begins with a digit: no second sign.
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

/// A decimal number: digits, a fraction, an exponent.
fn decimal(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let fine = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.contains(|c: char| c.is_ascii_digit())
        && unsigned
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    fine.then(|| text.parse().ok()).flatten()
}

/// A number with a prefix and more digits than 64 bits hold: no text, and no number of ours.
fn is_large_integer(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    based(&unsigned.to_ascii_lowercase()).is_some_and(|(digits, radix)| {
        !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix))
    })
}

/// The digits behind a prefix that names their base, and the base.
fn based(lower: &str) -> Option<(&str, u32)> {
    [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find_map(|(prefix, radix)| Some((lower.strip_prefix(prefix)?, radix)))
}
