//! What is compared before the conditions of an entry are read: eight bytes of the path, and one number for
//! a header.
//!
//! A table of a hundred entries is walked for each request, and most entries are of other paths and
//! other tenants. A gate that is shut says so of one of them without a look at its texts. One that is
//! open says nothing: the conditions decide.

use http::{HeaderMap, HeaderName};

use crate::route::matching::{Match, PathMatch, ValueMatch};

/// The headers of a table that gates are about; a further one has none.
const FIELDS: usize = 8;
/// A header that is not there.
const ABSENT: u64 = 0xfe;
/// A header that may have any value: it is there more than once, or is no text.
const UNCERTAIN: u64 = 0xff;
/// The longest value that a word tells from longer ones, in bytes.
const LENGTH: u8 = 0xfd;

/// What an entry asks for, in words.
#[derive(Debug, Clone, Copy)]
pub(in crate::route) struct Gate {
    /// The beginning of the path, and the bits of it that count.
    path: u64,
    mask: u64,
    /// The first header with a value of its own.
    value: u64,
    /// The place of that header; none if it is out of range.
    field: u8,
}

/// A request before the gates of a table. Each header is looked up once, when the first gate asks.
pub(in crate::route) struct Knock<'a> {
    names: &'a [HeaderName],
    headers: &'a HeaderMap,
    path: u64,
    seen: [Option<u64>; FIELDS],
}

/// The first eight bytes; those that are missing are 0, which is in no path.
fn word(text: &[u8]) -> u64 {
    match text.first_chunk() {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => text
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// The length of a value and its first seven bytes.
fn value(text: &[u8]) -> u64 {
    word(text) << 8 | u64::from(u8::try_from(text.len()).unwrap_or(LENGTH).min(LENGTH))
}

/// What a request says in a header.
#[inline(never)]
fn look(headers: &HeaderMap, name: &HeaderName) -> u64 {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => ABSENT,
        (Some(one), None) => value(one.as_bytes()),
        (Some(_), Some(_)) => UNCERTAIN,
    }
}

// === impl Gate ===

impl Gate {
    /// The gate of an entry with these conditions, and the header that it is about among those of the
    /// table.
    pub(in crate::route) fn of(when: Option<&Match>, names: &mut Vec<HeaderName>) -> Self {
        let open = Self {
            path: 0,
            mask: 0,
            value: 0,
            field: u8::MAX,
        };
        let Some(when) = when else { return open };
        let (path, mask) = match &when.path {
            // A shorter one ends within the word, and the path with it.
            PathMatch::Exact(path) => (word(path.as_bytes()), u64::MAX),
            path if path.is_everything() => (0, 0),
            PathMatch::Prefix(path) => {
                let counted = path.as_bytes().iter().map(|_| 0xff);
                let counted: Vec<u8> = counted.collect();
                (word(path.as_bytes()), word(&counted))
            }
            PathMatch::Regex(_) => (0, 0),
        };
        let mut exact = when.headers.iter().filter_map(|(name, wanted)| {
            let ValueMatch::Exact(wanted) = wanted else {
                return None;
            };
            let known = names.iter().position(|n| n == name);
            let place = known.unwrap_or(names.len());
            Some((place, name, value(wanted.as_bytes()))).filter(|_| place < FIELDS)
        });
        let Some((field, name, value)) = exact.next() else {
            return Self { path, mask, ..open };
        };
        if field == names.len() {
            names.push(name.clone());
        }
        Self {
            path,
            mask,
            value,
            field: u8::try_from(field).unwrap_or(u8::MAX),
        }
    }
}

// === impl Knock ===

impl<'a> Knock<'a> {
    /// A request with its path in its one spelling, before a table whose gates are about these headers.
    pub(in crate::route) fn at(
        names: &'a [HeaderName],
        path: &str,
        headers: &'a HeaderMap,
    ) -> Self {
        Self {
            names,
            headers,
            path: word(path.as_bytes()),
            seen: [None; FIELDS],
        }
    }

    /// Whether a gate is shut: the request does not meet the conditions of its entry.
    #[inline]
    pub(in crate::route) fn is_shut(&mut self, gate: &Gate) -> bool {
        if self.path & gate.mask != gate.path {
            return true;
        }
        let Some(seen) = self.seen.get_mut(usize::from(gate.field)) else {
            return false;
        };
        let seen = match *seen {
            Some(seen) => seen,
            None => {
                let name = self.names.get(usize::from(gate.field));
                *seen.insert(name.map_or(UNCERTAIN, |name| look(self.headers, name)))
            }
        };
        seen != gate.value && seen != UNCERTAIN
    }
}
