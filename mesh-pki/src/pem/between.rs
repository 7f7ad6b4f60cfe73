//! The text between sections in, whether it is a comment out.
//!
//! Tools write comments there (`Bag Attributes`, `subject=`, the output of `openssl x509 -text`, names in
//! bundles of systems), and people do. What is meant as a section and is not read as one must not pass as a
//! comment. It is known by any of these:
//!
//! - bytes that are no UTF-8, or control characters: DER, or PEM in UTF-16;
//! - two dashes of any kind, then the word BEGIN or END in any case;
//! - the word BEGIN or END in capitals, then a label, whatever stands around them;
//! - base64: as much of it in a row as a line of PEM has, or a shorter line of nothing else. Digits in
//!   hexadecimal are none, since these have letters of one case only.

use super::PemError;

/// A line of PEM has 64 characters, or 76 in MIME.
const MANY_IN_A_ROW: usize = 60;

/// A hash of 256 bits has 44 characters, and may stand alone.
const MANY_ALONE: usize = 48;

/// How many characters may stand between BEGIN or END and its label.
const MAX_GAP: usize = 8;

/// The labels that such text is known by.
const LABELS: [&str; 20] = [
    "CERTIFICATE",
    "CERTIFICATE REQUEST",
    "CMS",
    "CRL",
    "DH PARAMETERS",
    "DSA PRIVATE KEY",
    "EC PARAMETERS",
    "EC PRIVATE KEY",
    "ENCRYPTED PRIVATE KEY",
    "NEW CERTIFICATE REQUEST",
    "OPENSSH PRIVATE KEY",
    "PKCS7",
    "PRIVATE KEY",
    "PUBLIC KEY",
    "RSA PRIVATE KEY",
    "RSA PUBLIC KEY",
    "TRUSTED CERTIFICATE",
    "X.509 CERTIFICATE",
    "X509 CERTIFICATE",
    "X509 CRL",
];

/// Passes a comment.
pub(super) fn check(text: &[u8]) -> Result<(), PemError> {
    let text = std::str::from_utf8(text).map_err(|_| PemError::NotText)?;
    // `copy a.pem + b.pem` of DOS and Windows ends a file with this one.
    let control = |c: char| c.is_control() && !c.is_whitespace() && c != '\u{1a}';
    if text.contains(control) {
        return Err(PemError::NotText);
    }
    let words = text.char_indices().filter(|(_, c)| "BbEe".contains(*c));
    for (at, _) in words {
        let (before, rest) = text.split_at(at);
        if is_marker(before, rest) {
            return Err(PemError::Section);
        }
    }
    if text.lines().any(has_base64) {
        return Err(PemError::Unarmoured);
    }
    Ok(())
}

/// Whether `rest` begins with BEGIN or END, and means a section.
fn is_marker(before: &str, rest: &str) -> bool {
    let starts = |word: &&str| {
        let found = rest.as_bytes().get(..word.len());
        found.is_some_and(|found| found.eq_ignore_ascii_case(word.as_bytes()))
    };
    let Some(word) = ["BEGIN", "END"].into_iter().find(starts) else {
        return false;
    };
    let mut back = before.trim_end_matches(is_space).chars().rev();
    if back.next().is_some_and(is_dash) && back.next().is_some_and(is_dash) {
        return true;
    }
    if before.ends_with(char::is_alphanumeric) {
        return false;
    }
    let Some(rest) = rest.strip_prefix(word) else {
        return false;
    };
    let gap = rest.chars().take_while(|c| !c.is_alphanumeric());
    let gap: usize = gap.take(MAX_GAP).map(char::len_utf8).sum();
    LABELS.iter().any(|label| is_label(&rest[gap..], label))
}

/// Whether `text` begins with `label`, and the line ends there.
fn is_label(text: &str, label: &str) -> bool {
    let mut rest = text;
    for word in label.split(' ') {
        match rest.trim_start_matches(is_space).strip_prefix(word) {
            Some(more) => rest = more,
            None => return false,
        }
    }
    let line = rest.split(['\n', '\r']).next().unwrap_or_default();
    !line
        .trim_start_matches(is_space)
        .starts_with(char::is_alphanumeric)
}

fn is_space(c: char) -> bool {
    // Those without a width stand where text was copied from a page.
    c.is_whitespace() || matches!(c, '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}

fn is_dash(c: char) -> bool {
    matches!(
        c,
        '-' | '\u{ad}' | '\u{2010}'
            ..='\u{2015}'
                | '\u{2212}'
                | '\u{2e3a}'
                | '\u{2e3b}'
                | '\u{fe58}'
                | '\u{fe63}'
                | '\u{ff0d}'
    )
}

fn has_base64(line: &str) -> bool {
    let digit = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
    let alone = line.trim_matches(is_space).trim_end_matches('=');
    let least = match alone.chars().all(digit) {
        true => MANY_ALONE,
        false => MANY_IN_A_ROW,
    };
    let mut runs = line.split(|c| !digit(c));
    runs.any(|run| {
        let has = |class: fn(&u8) -> bool| run.as_bytes().iter().any(class);
        run.len() >= least
            && has(u8::is_ascii_uppercase)
            && has(u8::is_ascii_lowercase)
            && has(u8::is_ascii_digit)
    })
}
