//! What does a connection speak? Pure over its first bytes.

/// The connection preface of HTTP/2 (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method that is taken for HTTP/1.
const METHOD: usize = 24;

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Detected {
    /// HTTP/1: a method of upper case letters, perhaps with hyphens, a space, and a target that begins like one.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Too few bytes to tell; more may come.
    NeedMore,
    /// Neither: opaque bytes.
    Opaque,
    /// A TLS record that holds a handshake.
    Tls,
}

/// Whether more bytes may still show HTTP/2.
#[cfg(feature = "runtime")]
pub(crate) fn may_be_http2(bytes: &[u8]) -> bool {
    PREFACE.starts_with(bytes)
}

/// Whether bytes may be the begin of a text. A server of HTTP that takes more for a request line than
/// [`detect`] does still reads a text, or a word and whatever it takes for a space after it: some
/// take bytes above ASCII in a target, and some skip what is empty before the method.
#[cfg(feature = "runtime")]
pub(crate) fn is_text(bytes: &[u8]) -> bool {
    // What `str.split` of one language or another splits at, in ASCII and in Latin-1.
    let space = |b: &u8| matches!(b, b'\t'..=b'\r' | 0x1c..=b' ' | 0x85 | 0xa0);
    let word = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let begin = bytes.iter().position(|b| !space(b)).unwrap_or(bytes.len());
    let rest = &bytes[begin..];
    let after = rest.iter().position(|b| !word(b));
    let request = match after {
        Some(0) => false,
        Some(end) => space(&rest[end]),
        // The word continues, or is still to come.
        None => true,
    };
    request || bytes.iter().all(|b| space(b) || matches!(b, b' '..=b'~'))
}

/// Whether a server's first word is one of HTTP: the SETTINGS that some servers of HTTP/2 send before
/// the preface has come (RFC 9113 section 3.4), or an answer to a request that did not come in time.
#[cfg(feature = "runtime")]
pub(crate) fn speaks_http(word: &[u8]) -> bool {
    const SETTINGS: u8 = 4;
    const CONNECTION: [u8; 4] = [0; 4];
    let settings = word.get(3) == Some(&SETTINGS) && word.get(5..9) == Some(&CONNECTION);
    settings || word.starts_with(b"HTTP/")
}

/// Looks at the first bytes of a connection. Whatever is not surely HTTP or TLS is opaque; the
/// answer never changes once it is not [`Detected::NeedMore`], however many bytes follow.
///
/// ```
/// use inmesh_core::accept::{detect, Detected};
/// assert_eq!(detect(b"GET /"), Detected::Http1);
/// assert_eq!(detect(b"PRI * HT"), Detected::NeedMore);
/// assert_eq!(detect(b"\x16\x03\x01"), Detected::Tls);
/// assert_eq!(detect(b"SSH-2.0"), Detected::Opaque);
/// ```
pub fn detect(bytes: &[u8]) -> Detected {
    // A TLS record: handshake, version 3.x (RFC 8446 section 5.1).
    match bytes {
        [] | [0x16] => return Detected::NeedMore,
        [0x16, 0x03, ..] => return Detected::Tls,
        _ => {}
    }
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] == PREFACE[..common] {
        return if common == PREFACE.len() {
            Detected::Http2
        } else {
            Detected::NeedMore
        };
    }
    let of_method = |b: &&u8| b.is_ascii_uppercase() || **b == b'-';
    let letters = bytes.iter().take_while(of_method).count();
    let hyphen = bytes[..letters].contains(&b'-');
    match (bytes.get(letters), bytes.get(letters + 1)) {
        _ if letters == 0 || letters > METHOD || bytes[0] == b'-' => Detected::Opaque,
        (None, _) | (Some(b' '), None) => Detected::NeedMore,
        // origin-form, absolute-form, authority-form or asterisk-form (RFC 9112 section 3.2).
        (Some(b' '), Some(b'/' | b'*' | b'[')) => Detected::Http1,
        (Some(b' '), Some(b)) if b.is_ascii_alphanumeric() && !hyphen => Detected::Http1,
        _ => Detected::Opaque,
    }
}
