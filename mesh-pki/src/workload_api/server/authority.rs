//! The bytes of an HTTP/2 client in, the same with an `:authority` that every HTTP library takes out. Pure.
//!
//! On a Unix socket gRPC's C core names the socket's path as its authority, escaped, and grpc-java bare;
//! neither is one by RFC 3986, and the HTTP/2 library here refuses such a stream before any code of ours
//! sees it. What an authority says counts for nothing here, so one that is invalid becomes `localhost`.
//!
//! 1. Everything but header blocks passes as it is.
//! 2. A block is read whole, bounded in size, and decoded with the table of this connection.
//! 3. It is written anew without that table, so that the library's own stays empty and agrees.
//!
//! Padding and priorities, which mean nothing to a server of calls, are left out of such a frame.

use std::borrow::Cow;

use http::uri::Authority;
use loona_hpack::Decoder;

/// What a client sends first (RFC 9113, section 3.4).
const PREFACE: usize = 24;

const FRAME_HEAD: usize = 9;

/// The largest frame: the library announces no other size.
const MAX_FRAME: usize = 16_384;

/// The table that a client may use: the library announces no other size.
const TABLE: usize = 4_096;

/// The largest block that is decoded, as it comes and as it is meant.
const MAX_BLOCK: usize = 32 * 1024;

/// How many octets each field costs in the size of a list (RFC 9113, section 6.5.2).
const FIELD: usize = 32;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// What the client sends is no HTTP/2, or too much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header block of a client cannot be read: {0}")]
pub(super) struct BadBlock(&'static str);

/// The state of one connection.
pub(super) struct Rewriter {
    decoder: Decoder<'static>,
    /// Bytes that pass as they are: of the preface, or of a frame that is no header block.
    passing: usize,
    /// A frame's head, or a whole frame of a header block, as far as it has come.
    frame: Vec<u8>,
    /// A block whose end has not come.
    block: Option<Block>,
}

struct Block {
    stream: [u8; 4],
    end_stream: bool,
    fragments: Vec<u8>,
}

impl Rewriter {
    pub(super) fn new() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(TABLE);
        Self {
            decoder,
            passing: PREFACE,
            frame: Vec::new(),
            block: None,
        }
    }

    /// Takes what a client has sent, and appends to `out` what is to be read.
    ///
    /// # Errors
    ///
    /// [`BadBlock`]; then the connection cannot be read on.
    pub(super) fn handle_bytes(
        &mut self,
        mut input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), BadBlock> {
        while !input.is_empty() {
            if self.passing > 0 {
                let (passed, rest) = input.split_at(self.passing.min(input.len()));
                out.extend_from_slice(passed);
                self.passing -= passed.len();
                input = rest;
                continue;
            }
            let wanted = self.wanted()?;
            let (more, rest) = input.split_at((wanted - self.frame.len()).min(input.len()));
            self.frame.extend_from_slice(more);
            input = rest;
            if self.frame.len() < FRAME_HEAD {
                continue;
            }
            match self.kind() {
                HEADERS | CONTINUATION => {
                    if self.frame.len() == self.wanted()? {
                        self.handle_frame(out)?;
                    }
                }
                _ if self.block.is_some() => return Err(BadBlock("it is interrupted")),
                _ => {
                    self.passing = self.payload();
                    out.append(&mut self.frame);
                }
            }
        }
        Ok(())
    }

    /// How many bytes the frame has up to the next decision.
    fn wanted(&self) -> Result<usize, BadBlock> {
        if self.frame.len() < FRAME_HEAD || !matches!(self.kind(), HEADERS | CONTINUATION) {
            return Ok(FRAME_HEAD);
        }
        match self.payload() {
            payload if payload > MAX_FRAME => Err(BadBlock("its frame is too large")),
            payload => Ok(FRAME_HEAD + payload),
        }
    }

    fn payload(&self) -> usize {
        let len = &self.frame[..3];
        len.iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    }

    fn kind(&self) -> u8 {
        self.frame[3]
    }

    /// Takes a whole frame of a header block.
    fn handle_frame(&mut self, out: &mut Vec<u8>) -> Result<(), BadBlock> {
        let frame = std::mem::take(&mut self.frame);
        let (kind, flags) = (frame[3], frame[4]);
        let stream = [frame[5], frame[6], frame[7], frame[8]];
        let payload = &frame[FRAME_HEAD..];
        let block = match (kind, self.block.take()) {
            (HEADERS, None) => Block {
                stream,
                end_stream: flags & END_STREAM != 0,
                fragments: fragment(payload, flags)?.to_vec(),
            },
            (CONTINUATION, Some(mut block)) if block.stream == stream => {
                block.fragments.extend_from_slice(payload);
                block
            }
            _ => return Err(BadBlock("its frames are out of order")),
        };
        if block.fragments.len() > MAX_BLOCK {
            return Err(BadBlock("it is too large"));
        }
        if flags & END_HEADERS == 0 {
            self.block = Some(block);
            return Ok(());
        }
        let fields = self.rewrite(&block.fragments)?;
        write(&block, &fields, out);
        Ok(())
    }

    /// The fields of a block, each as a literal that no table takes.
    fn rewrite(&mut self, fragments: &[u8]) -> Result<Vec<u8>, BadBlock> {
        let (mut fields, mut size) = (Vec::new(), 0_usize);
        let decoded = self.decoder.decode_with_cb(fragments, |name, value| {
            size += name.len() + value.len() + FIELD;
            if size <= MAX_BLOCK {
                literal(&name, &valid(&name, &value), &mut fields);
            }
        });
        match decoded {
            Err(_) => Err(BadBlock("it cannot be decoded")),
            Ok(()) if size > MAX_BLOCK => Err(BadBlock("it is too large")),
            Ok(()) => Ok(fields),
        }
    }
}

/// What becomes of a connection whose bytes come in `parts`; `None` where it cannot be read on.
#[cfg(fuzzing)]
pub fn rewrite_authorities<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let (mut rewriter, mut out) = (Rewriter::new(), Vec::new());
    for part in parts {
        rewriter.handle_bytes(part, &mut out).ok()?;
    }
    Some(out)
}

/// The block's part of a HEADERS frame (RFC 9113, section 6.2).
fn fragment(payload: &[u8], flags: u8) -> Result<&[u8], BadBlock> {
    let short = BadBlock("its frame is too short");
    let (padding, rest) = match payload.split_first() {
        _ if flags & PADDED == 0 => (0, payload),
        Some((padding, rest)) => (usize::from(*padding), rest),
        None => return Err(short),
    };
    let before = if flags & PRIORITY == 0 { 0 } else { 5 };
    let end = rest.len().checked_sub(padding).ok_or(short)?;
    rest.get(before..end).ok_or(short)
}

/// The value that is written; any other field than an invalid authority keeps its own.
fn valid<'a>(name: &[u8], value: &'a [u8]) -> Cow<'a, [u8]> {
    if name == b":authority" && Authority::try_from(value).is_err() {
        Cow::Borrowed(b"localhost")
    } else {
        Cow::Borrowed(value)
    }
}

/// A field without indexing, its name and value as they are (RFC 7541, section 6.2.2).
fn literal(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.push(0);
    for text in [name, value] {
        length(text.len(), out);
        out.extend_from_slice(text);
    }
}

/// A length with a prefix of seven bits (RFC 7541, section 5.1); the eighth says that no Huffman code
/// follows.
fn length(len: usize, out: &mut Vec<u8>) {
    const PREFIX: usize = 127;
    let Some(mut rest) = len.checked_sub(PREFIX) else {
        out.push(low(len));
        return;
    };
    out.push(low(PREFIX));
    while rest >= 128 {
        out.push(low(rest) | 0x80);
        rest >>= 7;
    }
    out.push(low(rest));
}

/// The lowest seven bits.
fn low(number: usize) -> u8 {
    let [.., byte] = number.to_be_bytes();
    byte & 0x7f
}

/// Writes `fields` as a block of one frame or more.
fn write(block: &Block, fields: &[u8], out: &mut Vec<u8>) {
    let mut kind = HEADERS;
    let mut flags = if block.end_stream { END_STREAM } else { 0 };
    let mut parts = fields.chunks(MAX_FRAME).peekable();
    loop {
        let part = parts.next().unwrap_or_default();
        if parts.peek().is_none() {
            flags |= END_HEADERS;
        }
        let [.., high, middle, low] = part.len().to_be_bytes();
        out.extend([high, middle, low, kind, flags]);
        out.extend(block.stream);
        out.extend_from_slice(part);
        if parts.peek().is_none() {
            return;
        }
        (kind, flags) = (CONTINUATION, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Fields = Vec<(Vec<u8>, Vec<u8>)>;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let [.., high, middle, low] = payload.len().to_be_bytes();
        let mut frame = vec![high, middle, low, kind, flags, 0, 0, 0, stream];
        frame.extend_from_slice(payload);
        frame
    }

    fn block(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in fields {
            literal(name.as_bytes(), value.as_bytes(), &mut out);
        }
        out
    }

    /// The blocks in what a client has sent after its preface, as a decoder with a table sees them.
    fn blocks(sent: &[u8], step: usize) -> Result<Vec<(u8, Fields)>, BadBlock> {
        let mut rewriter = Rewriter::new();
        let mut out = Vec::new();
        rewriter.handle_bytes(&[b'p'; PREFACE], &mut out)?;
        for part in sent.chunks(step) {
            rewriter.handle_bytes(part, &mut out)?;
        }
        let (mut rest, mut decoder) = (&out[PREFACE..], Decoder::new());
        let (mut found, mut block) = (Vec::new(), Vec::new());
        while !rest.is_empty() {
            let len = rest[..3]
                .iter()
                .fold(0, |sum, b| sum << 8 | usize::from(*b));
            let (head, payload) = rest[..FRAME_HEAD + len].split_at(FRAME_HEAD);
            rest = &rest[FRAME_HEAD + len..];
            if matches!(head[3], HEADERS | CONTINUATION) {
                assert!(len <= MAX_FRAME && head[4] & (PADDED | PRIORITY) == 0);
                block.extend_from_slice(payload);
                if head[4] & END_HEADERS != 0 {
                    let fields = decoder.decode(&std::mem::take(&mut block));
                    found.push((head[4] & END_STREAM, fields.unwrap()));
                }
            }
        }
        Ok(found)
    }

    fn authority(sent: &str) -> String {
        let block = block(&[(":method", "POST"), (":authority", sent), ("x", sent)]);
        let found = blocks(&frame(HEADERS, END_HEADERS, 1, &block), 1024).unwrap();
        let fields = &found[0].1;
        assert_eq!(fields[0], (b":method".to_vec(), b"POST".to_vec()));
        assert_eq!(fields[2].1, sent.as_bytes(), "no other field is touched");
        String::from_utf8(fields[1].1.clone()).unwrap()
    }

    #[test]
    fn an_authority_that_is_a_path_becomes_a_host() {
        for (sent, read) in [
            ("localhost", "localhost"),
            ("agent.example:8081", "agent.example:8081"),
            ("[::1]:80", "[::1]:80"),
            ("%2Frun%2Fspire%2Fagent.sock", "localhost"),
            ("/run/spire/agent.sock", "localhost"),
            ("run/agent.sock", "localhost"),
            ("", "localhost"),
            ("a b", "localhost"),
        ] {
            assert_eq!(authority(sent), read, "{sent}");
        }
    }

    /// The first call fills the client's table, the second is a few bytes that refer to it.
    #[test]
    fn a_table_of_the_client_is_followed() {
        let first = b"\x83\x86\x44\x02/a\x41\x05/sock".as_slice();
        let second = b"\x83\x86\xbf\xbe".as_slice();
        let mut sent = frame(4, 0, 0, &[]);
        sent.extend(frame(HEADERS, END_HEADERS, 1, first));
        sent.extend(frame(0, END_STREAM, 1, b"message"));
        sent.extend(frame(HEADERS, END_HEADERS | END_STREAM, 3, second));
        for step in [1, 2, 7, 1024] {
            let found = blocks(&sent, step).unwrap();
            assert_eq!((found.len(), found[0].0, found[1].0), (2, 0, END_STREAM));
            assert_eq!(found[0].1, found[1].1, "{step}");
            assert_eq!(found[0].1[3].1, b"localhost");
        }
    }

    #[test]
    fn a_block_may_be_padded_prioritised_continued_or_long() {
        let long = "v".repeat(20_000);
        let plain = block(&[(":authority", "/s"), ("x", &long)]);
        let (one, two) = plain.split_at(9_000);
        let mut first = vec![3];
        first.extend([0, 0, 0, 0, 9]);
        first.extend_from_slice(one);
        first.extend([0, 0, 0]);
        let mut sent = frame(HEADERS, PADDED | PRIORITY, 1, &first);
        sent.extend(frame(CONTINUATION, END_HEADERS, 1, two));
        let found = blocks(&sent, 100).unwrap();
        assert_eq!(found[0].1[0].1, b"localhost");
        assert_eq!(found[0].1[1].1, long.as_bytes());
    }

    #[test]
    fn what_is_no_block_or_too_large_ends_the_connection() {
        let open = frame(HEADERS, 0, 1, &block(&[("a", "b")]));
        let after = |more: Vec<u8>| [open.clone(), more].concat();
        let part = block(&[("x", &"v".repeat(16_000))]);
        let mut endless = open.clone();
        for _ in 0..3 {
            endless.extend(frame(CONTINUATION, 0, 1, &part));
        }
        // A field in the table, and a thousand bytes that each mean it.
        let mut bomb = b"\x40\x01x".to_vec();
        length(3_000, &mut bomb);
        bomb.extend([b'v'; 3_000]);
        bomb.extend([0xbe; 1_000]);
        for (sent, why) in [
            (after(frame(0, 0, 1, b"x")), "it is interrupted"),
            (
                after(frame(CONTINUATION, 4, 3, b"")),
                "its frames are out of order",
            ),
            (after(open.clone()), "its frames are out of order"),
            (
                frame(CONTINUATION, 4, 1, b""),
                "its frames are out of order",
            ),
            (
                frame(HEADERS, 4 | PADDED, 1, &[9, 1]),
                "its frame is too short",
            ),
            (frame(HEADERS, 4 | PADDED, 1, &[]), "its frame is too short"),
            (
                frame(HEADERS, 4 | PRIORITY, 1, &[0; 4]),
                "its frame is too short",
            ),
            (frame(HEADERS, 4, 1, &[0xff, 0xff]), "it cannot be decoded"),
            (
                frame(HEADERS, 4, 1, &[0; MAX_FRAME + 1]),
                "its frame is too large",
            ),
            (endless, "it is too large"),
            (frame(HEADERS, 4, 1, &bomb), "it is too large"),
        ] {
            assert_eq!(blocks(&sent, 512), Err(BadBlock(why)));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(sent in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let mut out = Vec::new();
            let _ = Rewriter::new().handle_bytes(&sent, &mut out);
            prop_assert!(out.len() <= sent.len() * 40 + PREFACE);
        }
    }
}
