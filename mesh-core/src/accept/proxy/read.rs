//! Takes a PROXY header off a connection, and not a byte more.

use std::io;

use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use super::{Header, InvalidHeader, LONGEST_V2, Parsed, parse};
use crate::accept::Socket;

/// Why a connection has no header.
#[derive(Debug)]
pub(crate) enum Unread {
    /// It ended before; after so many bytes.
    Ended(usize, Option<io::Error>),
    Invalid(InvalidHeader),
    /// It was not whole in time.
    Late,
}

/// Reads the header with which a connection begins. What follows stays in the socket.
///
/// 1. Look at what has come, without taking it.
/// 2. Where the header is whole, take it and no more.
/// 3. Where more must come, all that was looked at is of the header: take that, and wait for more.
pub(crate) async fn read(stream: &mut Socket, deadline: Instant) -> Result<Header, Unread> {
    let mut bytes = Box::new([0; LONGEST_V2]);
    let mut taken = 0;
    let reading = async {
        loop {
            let seen = match stream.peek(&mut bytes[taken..]).await {
                Ok(0) => return Err(Unread::Ended(taken, None)),
                Ok(seen) => taken + seen,
                Err(e) => return Err(Unread::Ended(taken, Some(e))),
            };
            let parsed = parse(&bytes[..seen]).map_err(Unread::Invalid)?;
            let (header, end) = match parsed {
                Parsed::NeedMore => (None, seen),
                Parsed::Whole(header, end) => (Some(header), end),
            };
            let took = stream.read_exact(&mut bytes[taken..end]).await;
            took.map_err(|e| Unread::Ended(taken, Some(e)))?;
            taken = end;
            if let Some(header) = header {
                return Ok(header);
            }
        }
    };
    match timeout_at(deadline, reading).await {
        Ok(read) => read,
        Err(_) => Err(Unread::Late),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";

    /// Both ends of a connection.
    async fn pair() -> io::Result<(TcpStream, Socket)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let far = TcpStream::connect(listener.local_addr()?).await?;
        far.set_nodelay(true)?;
        Ok((far, listener.accept().await?.0.into()))
    }

    fn is_late(read: Result<Header, Unread>) -> bool {
        matches!(read, Err(Unread::Late))
    }

    /// What follows the header stays in the socket, in whatever pieces it has come.
    #[tokio::test]
    async fn the_header_is_taken_and_no_byte_more() -> io::Result<()> {
        let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x10\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01\x00\x02\x04\x00\x01z";
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
        let headers: [&[u8]; 4] = [LINE, b"PROXY UNKNOWN\r\n", binary, local];
        for header in headers {
            for pieces in [1, 2, 7, usize::MAX] {
                let (mut far, mut near) = pair().await?;
                let all = [header, b"\r\nPROXY more"].concat();
                let writing = async {
                    for piece in all.chunks((all.len() / pieces).max(1)) {
                        far.write_all(piece).await?;
                        tokio::task::yield_now().await;
                    }
                    far.shutdown().await
                };
                let deadline = Instant::now() + LIMIT;
                let (wrote, read) = tokio::join!(writing, read(&mut near, deadline));
                wrote?;
                assert!(read.is_ok(), "{read:?} of {}", header.escape_ascii());
                let mut rest = Vec::new();
                near.read_to_end(&mut rest).await?;
                assert_eq!(rest, b"\r\nPROXY more");
            }
        }
        Ok(())
    }

    /// Bytes that drip in do not move the deadline, and neither does silence.
    #[tokio::test(start_paused = true)]
    async fn a_header_that_is_not_whole_in_time_is_late() -> io::Result<()> {
        for drips in [true, false] {
            let (mut far, mut near) = pair().await?;
            let dripping = tokio::spawn(async move {
                for byte in LINE {
                    if drips {
                        far.write_all(&[*byte]).await?;
                    }
                    sleep(Duration::from_secs(1)).await;
                }
                Ok::<_, io::Error>(far)
            });
            let start = Instant::now();
            assert!(is_late(read(&mut near, start + LIMIT).await));
            assert_eq!(start.elapsed(), LIMIT);
            dripping.abort();
        }
        Ok(())
    }

    #[tokio::test]
    async fn an_end_says_how_much_there_was() -> io::Result<()> {
        for sent in [0, 1, 20] {
            let (mut far, mut near) = pair().await?;
            far.write_all(&LINE[..sent]).await?;
            drop(far);
            let read = read(&mut near, Instant::now() + LIMIT).await;
            assert!(
                matches!(read, Err(Unread::Ended(bytes, _)) if bytes == sent),
                "{read:?}"
            );
        }
        Ok(())
    }
}
