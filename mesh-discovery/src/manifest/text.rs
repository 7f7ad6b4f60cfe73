//! The small texts inside documents: host names, labels, durations, times. Pure.
//!
//! A text comes in, a checked value or the rule that it breaks comes out. Written out rather than
//! taken from a library, since each format is a strict subset of what libraries accept.

use std::time::Duration;

use inmesh_core::model::InvalidName;

/// The longest label of a DNS name, in bytes.
const LABEL: usize = 63;

/// A host name in lower case and without a trailing dot.
pub(crate) fn host_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |label: &str| label.len() <= LABEL && is_label(label);
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Err(format!("{text:?} is an address, not a host name"));
    }
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(format!("{text:?} is not a host name (RFC 1123)"));
    }
    Ok(name)
}

/// Whether a text is a DNS subdomain in lower case (RFC 1123).
pub(super) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Whether a text is made as a label of a DNS name in lower case is, of any length.
fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && !text.starts_with('-') && !text.ends_with('-') && text.bytes().all(inner)
}

/// A text that is one.
pub(super) fn subdomain(text: &str) -> Result<&str, String> {
    if is_subdomain(text) {
        Ok(text)
    } else {
        Err(format!("{text:?} is not a DNS subdomain in lower case"))
    }
}

/// The name of a port: a DNS label.
pub(super) fn port_name(text: &str) -> Result<&str, String> {
    if text.len() <= LABEL && is_label(text) {
        Ok(text)
    } else {
        Err(format!(
            "{text:?} is not the name of a port (lower case letters, digits and '-')"
        ))
    }
}

/// A Gateway API duration (GEP-2257): up to four of `<1-5 digits><h|m|s|ms>`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as \"1h30m\", \"10s\" or \"500ms\"");
    let (mut rest, mut total, mut parts) = (text, Duration::ZERO, 0);
    while !rest.is_empty() {
        parts += 1;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        if parts > 4 || !(1..=5).contains(&number.len()) {
            return Err(wrong());
        }
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let (unit, millis) = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]
            .into_iter()
            .find(|(unit, _)| tail.starts_with(unit))
            .ok_or_else(wrong)?;
        total += Duration::from_millis(number * millis);
        rest = &tail[unit.len()..];
    }
    if parts == 0 {
        return Err(wrong());
    }
    Ok(total)
}

/// A time as Kubernetes writes it (RFC 3339), in seconds since 1970; fractions are dropped.
pub(super) fn timestamp(text: &str) -> Result<i64, String> {
    parse_time(text).ok_or_else(|| format!("{text:?} is not a time such as 2026-01-31T12:00:00Z"))
}

fn parse_time(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        let fine = digits.bytes().all(|b| b.is_ascii_digit());
        fine.then(|| digits.parse().ok()).flatten()
    };
    let marks = [(4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":")];
    if !marks
        .iter()
        .all(|(at, mark)| text.get(*at..at + 1) == Some(mark))
    {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let days_of_month = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days_of_month).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = text.get(19..)?;
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction.find(|c: char| !c.is_ascii_digit())?;
        if end == 0 {
            return None;
        }
        rest = &fraction[end..];
    }
    let offset = match rest.as_bytes() {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let two = |a: u8, b: u8| {
                let fine = a.is_ascii_digit() && b.is_ascii_digit();
                fine.then(|| i64::from(a - b'0') * 10 + i64::from(b - b'0'))
            };
            let (hours, minutes) = (two(*h1, *h2)?, two(*m1, *m2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 3600 + minutes * 60) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    Some(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, counted in eras of 400 years that
/// begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The name of a file as the name of an object: what Kubernetes does not allow becomes `-`, with a
/// number behind it so that two files never share a name.
pub(super) fn object_name(file: &str) -> String {
    let mapped: String = file
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() || c == '.' => c,
            _ => '-',
        })
        .collect();
    let labels: Vec<_> = mapped
        .split('.')
        .map(|label| label.trim_matches('-'))
        .filter(|label| !label.is_empty())
        .collect();
    let name = labels.join(".");
    if name == file && (1..=180).contains(&name.len()) {
        return name;
    }
    // FNV-1a: two names may collide only where their author means them to.
    let hash = file.bytes().fold(0x811c_9dc5_u32, |hash, b| {
        (hash ^ u32::from(b)).wrapping_mul(0x0100_0193)
    });
    let short: String = name.chars().take(180).collect();
    let short = short.trim_end_matches(['.', '-']);
    let short = if short.is_empty() { "file" } else { short };
    format!("{short}.{hash:08x}")
}

/// The reason alone, for a problem that names the field already.
pub(super) fn invalid_name(e: InvalidName) -> String {
    format!("{:?}: {}", e.name, e.why)
}
