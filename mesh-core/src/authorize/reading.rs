//! What a path may mean to the server that gets it: its readings, in one spelling.
//!
//! In comes a path as it is forwarded; out come the texts that patterns are compared with. Two
//! spellings of one path (the case of escapes, an escape of a character that needs none, bytes
//! outside ASCII) are one text. Where a path has `%2F`, `%5C`, `\` or `//`, servers disagree: some
//! decode, some merge, and some resolve dot segments after that. Each of these is a reading.

use std::borrow::Cow;

use super::canonical::{dots, escaped, is_unreserved, merged, resolve};
use super::plain::{CLASS, ESCAPED, is_plain};

/// The readings of a path: the first as it stands, then each that differs.
///
/// ```
/// use inmesh_core::authorize::Readings;
/// let plain = Readings::of("/items/1");
/// assert_eq!(plain.iter().collect::<Vec<_>>(), ["/items/1"]);
/// let odd = Readings::of("/api/%2f/x");
/// assert_eq!(odd.iter().collect::<Vec<_>>(), ["/api/%2F/x", "/api///x", "/api/x"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readings<'a> {
    stands: Cow<'a, str>,
    others: Vec<String>,
}

// === impl Readings ===

impl<'a> Readings<'a> {
    /// The readings of a path.
    ///
    /// 1. The path in its one [spelling](spelling), its dot segments resolved.
    /// 2. Where it has escaped slashes or backslashes: with the ones, the others and both decoded.
    /// 3. Of each of these the same with runs of `/` merged, before and after dot segments are
    ///    resolved.
    ///
    /// A path that has none of these allocates nothing.
    #[must_use]
    pub fn of(path: &'a str) -> Self {
        if is_plain(path.as_bytes()) {
            return Self {
                stands: Cow::Borrowed(path),
                others: Vec::new(),
            };
        }
        let mut stands = spelling(path);
        if stands.split('/').any(|segment| dots(segment).is_some()) {
            stands = Cow::Owned(resolve(&stands, false));
        }
        let mut others: Vec<String> = Vec::new();
        let [slash, backslash] = ["%2F", "%5C"].map(|escape| stands.contains(escape));
        for (decode_slash, decode_backslash) in
            [(false, false), (true, false), (false, true), (true, true)]
        {
            if (decode_slash && !slash) || (decode_backslash && !backslash) {
                continue;
            }
            let mut text = stands.clone();
            for (escape, decode) in [("%2F", decode_slash), ("%5C", decode_backslash)] {
                if decode {
                    text = Cow::Owned(text.replace(escape, "/"));
                }
            }
            let mut add = |reading: String| {
                if reading != *stands && !others.contains(&reading) {
                    others.push(reading);
                }
            };
            add(resolve(&text, false));
            if text.contains("//") {
                add(resolve(&text, true));
                add(resolve(&merged(&text), true));
            }
        }
        Self { stands, others }
    }

    /// The readings, as it stands first.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.stands).chain(self.others.iter().map(String::as_str))
    }
}

/// The one spelling of a path: characters that a path may hold stand for themselves, all others are
/// escaped, with digits in upper case. `%2F`, `%5C` and `%25` stay escaped, and a `\` is escaped.
///
/// ```
/// use inmesh_core::authorize::spelling;
/// assert_eq!(spelling("/%61/%3a/ü"), "/a/:/%C3%BC");
/// assert_eq!(spelling("/a%2fb\\c"), "/a%2Fb%5Cc");
/// ```
#[must_use]
#[inline]
pub fn spelling(path: &str) -> Cow<'_, str> {
    // No branch for each byte: this is asked of every request that meets a route.
    let all = path.bytes().fold(0, |all, b| all | CLASS[usize::from(b)]);
    if all & ESCAPED == 0 {
        return Cow::Borrowed(path);
    }
    Cow::Owned(respelled(path))
}

#[cold]
fn respelled(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 16);
    let mut rest = path.as_bytes();
    while let [b, tail @ ..] = rest {
        rest = tail;
        let mut byte = *b;
        let is_plain = |b: u8| CLASS[usize::from(b)] & ESCAPED == 0;
        let mut raw = is_plain(byte);
        if let (b'%', [high, low, after @ ..]) = (byte, tail)
            && let Some(value) = escaped(*high, *low)
        {
            (byte, rest) = (value, after);
            raw = is_plain(value) && value != b'/';
        }
        if raw {
            out.push(char::from(byte));
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

/// Why a path that a document names can match no request; `None` where one can. `open` says whether
/// more may stand before and after it.
pub(crate) fn never_matches(path: &str, open: (bool, bool)) -> Option<String> {
    let named = format!("{path:?} can never match");
    if path.contains(['?', '#']) {
        return Some(format!("{named}: a path holds no query and no fragment"));
    }
    if path.contains('\\') {
        return Some(format!("{named}: write a backslash as %5C"));
    }
    if path.contains("//") {
        return Some(format!(
            "{named}: write one slash; paths with more are read so too"
        ));
    }
    let bytes = path.as_bytes();
    for (at, _) in path.match_indices('%') {
        let value = match bytes.get(at + 1..at + 3) {
            Some([high, low]) => escaped(*high, *low),
            _ => None,
        };
        match value {
            None => return Some(format!("{named}: a '%' in it begins no escape")),
            Some(0) => return Some(format!("{named}: it has a NUL byte")),
            Some(value) if is_unreserved(value) => {
                let plain = spelling(path);
                return Some(format!("{named}: requests are seen as {plain:?}"));
            }
            Some(_) => {}
        }
    }
    if path.contains('\0') {
        return Some(format!("{named}: it has a NUL byte"));
    }
    has_dots(path, open)
        .then(|| format!("{named}: dot segments are resolved before it is compared"))
}

/// Whether a path that a document names has a whole dot segment. `open` says whether more may stand
/// before and after it.
pub(super) fn has_dots(path: &str, open: (bool, bool)) -> bool {
    let segments: Vec<&str> = path.split('/').collect();
    let last = segments.len() - 1;
    let whole = segments.iter().enumerate().filter(|(n, _)| {
        let cut = (*n == 0 && open.0) || (*n == last && open.1);
        !cut
    });
    let mut whole = whole.map(|(_, segment)| *segment);
    whole.any(|segment| dots(segment).is_some())
}
