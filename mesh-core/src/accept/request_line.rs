//! A request of HTTP in bytes that are said to be opaque.
//!
//! Where an inbound listener declares nothing, its peer says what it speaks, or it is seen by the first
//! bytes. A server may take for a request what is not one to us, or what its peer calls opaque; nothing would be
//! decided on it then, and its fields would name whatever identity its sender likes. All that servers
//! take begins with a line that ends with a version of HTTP, after any empty ones, or with one of HTTP/0.9. So
//! the first line is looked at as it passes. Pure but for the connection around it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::breaking::{Breaking, Wire};
use super::detect::speaks_http;
use crate::error::{Error, Reason};

/// The longest version that a server reads: two numbers of ten digits.
const VERSION: usize = 32;
/// A line that is longer is no request line to a server that bounds them.
const LINE: usize = 256 * 1024;

/// The first line of a connection, as far as it has come.
#[derive(Debug, Default)]
struct FirstLine {
    /// Its last word, as much as is compared.
    word: [u8; VERSION],
    length: usize,
    ends: bool,
    words: usize,
    /// Whether its first word is `GET`.
    gets: bool,
    seen: usize,
    over: bool,
}

/// An opaque connection on which no request may come.
pub(crate) struct NoRequest<'a, T> {
    inner: &'a mut T,
    line: FirstLine,
    /// Whether the server has said something.
    answered: bool,
}

// === impl FirstLine ===

impl FirstLine {
    /// Whether it is a request line with these bytes, which follow those before.
    fn is_request(&mut self, bytes: &[u8]) -> bool {
        if self.over {
            return false;
        }
        for byte in bytes {
            self.seen += 1;
            match byte {
                b'\n' if self.words > 0 => {
                    self.over = true;
                    return self.is_whole();
                }
                // Whether a line ends at these, or a word, depends on the language of the server.
                b'\n'..=b'\r' | 0x1c..=0x1e | 0x85 => {
                    if self.is_whole() {
                        self.over = true;
                        return true;
                    }
                    self.end_word();
                }
                b'\t' | 0x1f | b' ' | 0xa0 => self.end_word(),
                _ => self.add(*byte),
            }
            if self.seen == LINE {
                self.over = true;
                return false;
            }
        }
        false
    }

    fn end_word(&mut self) {
        if self.words == 1 && !self.ends {
            self.gets = self.said() == b"GET";
        }
        self.ends = true;
    }

    fn add(&mut self, byte: u8) {
        if self.words == 0 || self.ends {
            (self.words, self.length, self.ends) = (self.words + 1, 0, false);
        }
        if let Some(place) = self.word.get_mut(self.length) {
            *place = byte;
        }
        // Beyond the room: too long for a version.
        self.length += 1;
    }

    fn said(&self) -> &[u8] {
        self.word.get(..self.length).unwrap_or_default()
    }

    /// Whether it is a request line if it ends here.
    fn is_whole(&self) -> bool {
        self.is_version() || (self.gets && self.words == 2)
    }

    fn is_version(&self) -> bool {
        let Some((name, number)) = self.said().split_at_checked(5) else {
            return false;
        };
        let number = number.iter().all(|b| b.is_ascii_digit() || *b == b'.');
        number && name.eq_ignore_ascii_case(b"HTTP/")
    }
}

// === impl NoRequest ===

impl<'a, T> NoRequest<'a, T> {
    pub(crate) fn new(inner: &'a mut T) -> Self {
        Self {
            inner,
            line: FirstLine::default(),
            answered: false,
        }
    }
}

impl<T: Breaking> Breaking for NoRequest<'_, T> {
    fn wire(&mut self) -> Wire<'_> {
        self.inner.wire()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for NoRequest<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(&mut *this.inner).poll_read(cx, buf))?;
        if this.line.is_request(&buf.filled()[before..]) {
            buf.set_filled(before);
            let detail = "HTTP in opaque bytes to a port that declares no protocol; \
                          declare it at the listener: appProtocol";
            let error = Error::new(Reason::InvalidRequest, detail);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for NoRequest<'_, T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !std::mem::replace(&mut self.answered, true) && self.line.seen == 0 {
            // A server of HTTP does not speak first, or not so.
            self.line.over = !speaks_http(buf);
        }
        Pin::new(&mut *self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: [&[u8]; 19] = [
        b"GET / HTTP/1.1\r\n",
        b"get / HTTP/1.1\n",
        b"\r\n\n \r\nGET / HTTP/1.0\r\n",
        b"\xef\xbb\xbfGET / HTTP/1.1\r\n",
        b"G\xc3ET / HTTP/1.1\r\n",
        b"\x01 / HTTP/1.1   \r\n",
        b"M-SEARCH * http/1.1\r",
        b"GET /a b HTTP/0000000001.0000000001\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"\x00\x00\xa0/\xa0HTTP/1.1\x85",
        b"GET /\r\n",
        b" GET\t/ \n",
        b"GET\x0b/ HTTP/1.1\r\n",
        b"GET\x0c/ HTTP/1.1\r\n",
        b"GET\r/ HTTP/1.1\r\n",
        b"GET\x1c/\x1dHTTP/1.1\x1e\r\n",
        b"GET\x85/\x85HTTP/1.1\r\n",
        b"\x0c\r\nget\x0c/ HTTP/1.1\r\n",
        b"GET\x1f/ HTTP/1.1 \x0b\n",
    ];

    const OTHERS: [&[u8]; 10] = [
        b"EHLO there\r\nGET / HTTP/1.1\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"INVITE sip:a@b SIP/2.0\r\n",
        b"<134>Oct 1 a nginx: \"GET / HTTP/1.1\" 200\n",
        b"<134>Oct 1 a nginx: \"GET / HTTP/1.1\"\n",
        b"\x01\x01\0\x01SERVER_PROTOCOLHTTP/1.1\r\n",
        b"get k\r\n",
        b"GET k v\r\n",
        b"HTTP/1.1x\r\n",
    ];

    /// However the bytes are cut.
    #[test]
    fn a_line_is_a_request_where_a_server_may_read_one() {
        for (lines, wanted) in [(&REQUESTS[..], true), (&OTHERS[..], false)] {
            for line in lines {
                for cut in 0..line.len() {
                    let mut first = FirstLine::default();
                    let (one, two) = line.split_at(cut);
                    let said = first.is_request(one) || first.is_request(two);
                    let shown = line.escape_ascii();
                    assert_eq!(said, wanted, "{shown} at {cut}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_looked_at_after_the_first_line_or_too_long_a_one() {
        let mut first = FirstLine::default();
        assert!(!first.is_request(b"hello\n"));
        assert!(!first.is_request(b"GET / HTTP/1.1\r\n"));
        let mut first = FirstLine::default();
        assert!(!first.is_request(&vec![b'x'; LINE]));
        assert!(!first.is_request(b" / HTTP/1.1\r\n"));
    }
}
