//! The server that a TLS handshake names, read from its first message while the TLS stays whole.
//!
//! rustls parses the ClientHello, from one record or several; nothing is answered, and what was read is
//! handed on. It refuses to read more than [`MOST`] bytes: a ClientHello has one or two thousand.

use std::io::Cursor;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

/// The most bytes of a ClientHello that are read: one full record with its header (RFC 8446 section 5.1).
const MOST: usize = 5 + (1 << 14);
/// How much room is made at once; most messages fit.
const ROOM: usize = 2 * 1024;

/// The begin of a connection.
#[derive(Debug, Default)]
pub(crate) struct Hello {
    /// What was read, all of it.
    pub(crate) bytes: Vec<u8>,
    /// What it says; `None` if it is no whole ClientHello.
    pub(crate) said: Option<Said>,
}

/// What a ClientHello says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// The server that it names, in lower case.
    pub(crate) server: Option<String>,
}

/// What is known after some bytes.
enum Known {
    NeedMore,
    No,
    Yes(Said),
}

/// Reads until the ClientHello is whole, or what comes cannot be one, or the deadline.
pub(crate) async fn hello(stream: &mut (impl AsyncRead + Unpin), deadline: Instant) -> Hello {
    let mut hello = Hello::default();
    let mut acceptor = Acceptor::default();
    loop {
        let seen = hello.bytes.len();
        let room = ROOM.min(MOST.saturating_sub(seen));
        if room == 0 {
            return hello;
        }
        hello.bytes.resize(seen + room, 0);
        let read = timeout_at(deadline, stream.read(&mut hello.bytes[seen..])).await;
        let read = match read {
            Ok(Ok(read)) => read,
            Ok(Err(_)) | Err(_) => 0,
        };
        hello.bytes.truncate(seen + read);
        if read == 0 {
            return hello;
        }
        match take(&mut acceptor, &hello.bytes[seen..]) {
            Known::NeedMore => {}
            Known::No => return hello,
            Known::Yes(said) => {
                hello.said = Some(said);
                return hello;
            }
        }
    }
}

/// Takes more bytes.
fn take(acceptor: &mut Acceptor, bytes: &[u8]) -> Known {
    let mut rest = Cursor::new(bytes);
    loop {
        // It takes a part at a time.
        match acceptor.read_tls(&mut rest) {
            Ok(0) => return Known::NeedMore,
            Ok(_) => {}
            Err(_) => return Known::No,
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let server = accepted
                    .client_hello()
                    .server_name()
                    .map(str::to_ascii_lowercase);
                return Known::Yes(Said { server });
            }
            Err(_) => return Known::No,
        }
    }
}

#[cfg(test)]
mod tests;
