//! The bytes of a path, and whether a look at each of them is enough.
//!
//! In comes a path; out comes whether it has one reading and one spelling, and has both. Pure.

/// A byte that is escaped in the one spelling of a path: all but `pchar` (RFC 3986) and `/`.
pub(super) const ESCAPED: u8 = 1;
/// `/`.
const SLASH: u8 = 2;
/// A byte after which, if it follows a `/`, a path needs a second look: `/` or `.`.
const AFTER_SLASH: u8 = 4;

/// What the bytes of a path are.
pub(super) const CLASS: [u8; 256] = {
    let mut class = [ESCAPED; 256];
    let mut b = 0;
    while b < 128 {
        #[expect(clippy::cast_possible_truncation, reason = "below 128")]
        let byte = b as u8;
        let plain = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'/'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b';'
                    | b'='
                    | b':'
                    | b'@'
            );
        if plain {
            class[b] = match byte {
                b'/' => SLASH | AFTER_SLASH,
                b'.' => AFTER_SLASH,
                _ => 0,
            };
        }
        b += 1;
    }
    class
};

/// Whether a path has one reading and one spelling, and has both: no escape, no `//`, nothing
/// outside a path's characters, no segment that begins with a dot.
#[inline]
pub(super) fn is_plain(path: &[u8]) -> bool {
    let (mut before, mut odd) = (0, 0);
    for &b in path {
        let class = CLASS[usize::from(b)];
        odd |= (class & ESCAPED) | (((before & SLASH) << 1) & class);
        before = class;
    }
    odd == 0
}
