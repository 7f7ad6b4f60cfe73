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
/// The place of no header, which is uncertain in every request and every gate.
const NO_FIELD: u8 = 8;
/// A header that is not there.
const ABSENT: u64 = 0xfe;
/// The first byte of a header that says nothing: it was not looked up yet, or may have any value.
const UNKNOWN: u64 = 0xff;
/// A header that may have any value: it is there more than once, or is no text.
const UNCERTAIN: u64 = UNKNOWN;
/// A header that was not looked up yet.
const UNASKED: u64 = 1 << 8 | UNKNOWN;
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
    /// The place of that header, or [`NO_FIELD`].
    field: u8,
}

/// A request before the gates of a table. Each header is looked up once, when the first gate asks.
pub(in crate::route) struct Knock<'a> {
    names: &'a [HeaderName],
    headers: &'a HeaderMap,
    path: u64,
    /// A power of two of them, so that none is out of range.
    seen: [u64; FIELDS * 2],
}

/// What is seen of a request before it is asked.
const UNSEEN: [u64; FIELDS * 2] = {
    let mut seen = [UNASKED; FIELDS * 2];
    seen[NO_FIELD as usize] = UNCERTAIN;
    seen
};

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
            value: UNCERTAIN,
            field: NO_FIELD,
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
            field: u8::try_from(field).unwrap_or(NO_FIELD),
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
            seen: UNSEEN,
        }
    }

    /// Whether a gate is shut: the request does not meet the conditions of its entry.
    #[inline]
    pub(in crate::route) fn is_shut(&mut self, gate: &Gate) -> bool {
        if self.path & gate.mask != gate.path {
            return true;
        }
        let seen = self.seen[usize::from(gate.field) % (FIELDS * 2)];
        if seen == gate.value {
            return false;
        }
        match seen & 0xff {
            UNKNOWN => self.is_shut_to(gate),
            _ => true,
        }
    }

    /// The same where the header was not looked up yet, or may have any value.
    #[inline(never)]
    fn is_shut_to(&mut self, gate: &Gate) -> bool {
        let place = usize::from(gate.field);
        let Some(seen) = self.seen.get_mut(place) else {
            return false;
        };
        if *seen == UNASKED {
            let name = self.names.get(place);
            *seen = name.map_or(UNCERTAIN, |name| look(self.headers, name));
        }
        *seen != gate.value && *seen != UNCERTAIN
    }
}
