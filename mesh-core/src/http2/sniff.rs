//! The settings of a server, of which the library shows nothing: read along as they come by.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// The length of a frame's header (RFC 9113 section 4.1).
const HEAD: usize = 9;
const SETTINGS: u8 = 4;
const MAX_HEADER_LIST_SIZE: u16 = 6;
/// The longest settings that are read; six bytes each, there are not so many.
const LONGEST: usize = 1024;

/// What a server's first frame says (RFC 9113 section 3.4); later changes are not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PeerSettings {
    /// The bytes of a header list that it takes.
    pub(super) header_list: Option<u32>,
}

/// The connection.
pub(super) struct Sniffed<T> {
    inner: T,
    /// What of the first frame has come; `None` once it is known.
    begin: Option<Vec<u8>>,
    tell: watch::Sender<Option<PeerSettings>>,
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

// === impl Sniffed ===

impl<T> Sniffed<T> {
    pub(super) fn new(inner: T) -> (Self, watch::Receiver<Option<PeerSettings>>) {
        let (tell, told) = watch::channel(None);
        let this = Self {
            inner,
            begin: Some(Vec::new()),
            tell,
        };
        (this, told)
    }

    fn heard(&mut self, bytes: &[u8]) {
        if let Some(begin) = &mut self.begin {
            let room = (HEAD + LONGEST).saturating_sub(begin.len());
            begin.extend_from_slice(&bytes[..bytes.len().min(room)]);
            if let Some(settings) = parse(begin) {
                self.begin = None;
                self.tell.send_replace(Some(settings));
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Sniffed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if self.begin.is_some() {
            self.heard(&buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Sniffed<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
