//! What the kernel answers, read from bytes. Pure.

/// One message of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer<'a> {
    /// All of what was asked for was sent.
    Done,
    /// A message was taken (0), or refused with this `errno`.
    Outcome { sequence: u32, errno: i32 },
    /// What was asked for: its kind, and its attributes.
    Told { kind: u16, attributes: &'a [u8] },
}

// NLMSG_*
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// `struct nlmsghdr`, and `struct nfgenmsg` behind it.
const HEADER: usize = 16;
const GENERAL: usize = 4;

/// The messages of one datagram; `None` if it is cut or malformed.
pub(super) fn answers(mut bytes: &[u8]) -> Option<Vec<Answer<'_>>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let length = usize::try_from(word(bytes, 0)?).ok()?;
        let (kind, sequence) = (half(bytes, 4)?, word(bytes, 8)?);
        let body = bytes.get(HEADER..length)?;
        all.push(match kind {
            ERROR => Answer::Outcome {
                sequence,
                errno: word(body, 0)?.cast_signed().checked_neg()?,
            },
            DONE => Answer::Done,
            _ => Answer::Told {
                kind,
                attributes: body.get(GENERAL..)?,
            },
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(all)
}

/// What an attribute holds, if it is there.
pub(super) fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    while !bytes.is_empty() {
        let (length, kind) = (usize::from(half(bytes, 0)?), half(bytes, 2)?);
        let value = bytes.get(4..length)?;
        // The two highest bits say how it is laid out.
        if kind & 0x3fff == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// A text up to the 0 that ends it.
pub(super) fn text(value: &[u8]) -> String {
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let found = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*found))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let found = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*found))
}
