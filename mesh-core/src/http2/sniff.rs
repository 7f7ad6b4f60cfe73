//! The settings of a peer, of which the library shows nothing: read along as they come by.

use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::io::InspectReader;

use super::room::Room;

/// The length of a frame's header (RFC 9113 section 4.1).
const HEAD: usize = 9;
const SETTINGS: u8 = 4;
const MAX_HEADER_LIST_SIZE: u16 = 6;
/// The longest settings that are read; six bytes each, there are not so many.
const LONGEST: usize = 1024;
/// What a caller says before its first frame, and how long that is (RFC 9113 section 3.4).
pub(super) const PREFACE: usize = 24;

/// What a peer's first frame says (RFC 9113 section 3.4); later changes are not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct PeerSettings {
    /// The bytes of a header list that it takes.
    header_list: Option<u32>,
}

/// What a peer takes, once that is known.
#[derive(Debug, Clone)]
pub(super) struct Limits(watch::Receiver<Option<PeerSettings>>);

/// A connection that is read along.
pub(super) type Sniffed<T> = InspectReader<T, OnRead>;

/// What is called with each read.
pub(super) type OnRead = Box<dyn FnMut(&[u8]) + Send>;

/// Reads along with a connection until its first frame is known, before which so many bytes come.
pub(super) fn sniff<T: AsyncRead>(io: T, before: usize) -> (Sniffed<T>, Limits) {
    let (tell, settings) = watch::channel(None);
    let mut begin = Some(Vec::new());
    let hear = move |bytes: &[u8]| {
        let Some(heard) = &mut begin else { return };
        let room = (before + HEAD + LONGEST).saturating_sub(heard.len());
        heard.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if let Some(settings) = parse(heard.get(before..).unwrap_or_default()) {
            begin = None;
            tell.send_replace(Some(settings));
        }
    };
    (InspectReader::new(io, Box::new(hear)), Limits(settings))
}

// === impl Limits ===

impl Limits {
    /// What it takes of a header list; `None` if it does not say, or has not yet.
    pub(super) fn room(&self) -> Option<Room> {
        self.0.borrow().as_ref()?.header_list.map(Room)
    }

    /// Waits until its settings are known, but not for long.
    pub(super) async fn known(&self, patience: Duration) {
        let mut settings = self.0.clone();
        // Else the connection has ended, or will say so.
        let _known = timeout(patience, settings.wait_for(Option::is_some)).await;
    }
}

/// Reads the first frame; `None` while it is not whole. What is no frame of settings says nothing,
/// and ends the connection elsewhere.
fn parse(begin: &[u8]) -> Option<PeerSettings> {
    let mut settings = PeerSettings::default();
    let (head, rest) = begin.split_at_checked(HEAD)?;
    let length = head[..3].iter().fold(0, |n, b| n << 8 | usize::from(*b));
    if head[3] != SETTINGS || length > LONGEST {
        return Some(settings);
    }
    for setting in rest.get(..length)?.chunks_exact(6) {
        if let [a, b, value @ ..] = setting
            && u16::from_be_bytes([*a, *b]) == MAX_HEADER_LIST_SIZE
        {
            let value = value.iter().fold(0, |n, b| n << 8 | u32::from(*b));
            settings.header_list = Some(value);
        }
    }
    Some(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_callers_settings_follow_its_preface() {
        use tokio::io::AsyncReadExt;
        let bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x06\0\0\x20\0";
        assert_eq!(bytes.len(), PREFACE + HEAD + 6);
        // In one piece, and byte by byte.
        for part in [1, 1024] {
            let (mut io, limits) = sniff(bytes.as_slice(), PREFACE);
            let mut buffer = vec![0; part];
            while io.read(&mut buffer).await.unwrap() > 0 {}
            limits.known(Duration::ZERO).await;
            assert_eq!(limits.room(), Some(Room(8_192)));
        }
    }

    #[test]
    fn the_limit_is_found_whatever_stands_before_it_and_however_it_comes() {
        let limited = b"\0\0\x0c\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\x06\0\0\x20\0\0\0\0\x04\x01";
        for end in 0..21 {
            assert_eq!(parse(&limited[..end]), None, "{end}");
        }
        let known = |header_list| Some(PeerSettings { header_list });
        assert_eq!(parse(limited), known(Some(8_192)));
        assert_eq!(parse(b"\0\0\0\x04\0\0\0\0\0"), known(None));
        assert_eq!(
            parse(b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"),
            known(None)
        );
        assert_eq!(parse(b"HTTP/1.1 400"), known(None), "that is no HTTP/2");
        assert_eq!(
            parse(b"\xff\xff\xff\x04\0\0\0\0\0"),
            known(None),
            "too long"
        );
    }
}
