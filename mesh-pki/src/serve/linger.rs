//! The end of a connection whose peer may still send.
//!
//! A socket that is closed with bytes unread resets the connection, and the reset takes back what the
//! peer has not read yet: mostly the very answer or alert that says why (RFC 9112 section 9.6). So
//! what comes after our end is read and dropped, for a bounded while.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

/// How long is read on, and how much at most.
const LIMIT: Duration = Duration::from_secs(2);
const BYTES: usize = 4 << 20;
const BUFFER: usize = 16 * 1024;

/// Reads what a peer still sends and drops it, until the peer ends too: 2 s and 4 MiB at most.
pub async fn read_on<T: AsyncRead + Unpin>(peer: &mut T) {
    let drained = async {
        let mut buffer = vec![0; BUFFER];
        let mut left = BYTES;
        while let Some(read @ 1..) = read(peer, &mut buffer).await {
            left = left.saturating_sub(read);
            if left == 0 {
                return;
            }
        }
    };
    let _gone_or_late = timeout(LIMIT, drained).await;
}

/// Ends our side of a connection, and [`read_on`].
pub async fn linger<T: AsyncRead + AsyncWrite + Unpin>(peer: &mut T) {
    let ended = poll_fn(|cx| Pin::new(&mut *peer).poll_shutdown(cx));
    if let Ok(Ok(())) = timeout(LIMIT, ended).await {
        read_on(peer).await;
    }
}

async fn read<T: AsyncRead + Unpin>(peer: &mut T, buffer: &mut [u8]) -> Option<usize> {
    let mut buffer = ReadBuf::new(buffer);
    let polled = poll_fn(|cx| Pin::new(&mut *peer).poll_read(cx, &mut buffer));
    polled.await.ok()?;
    Some(buffer.filled().len())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_reads_our_last_word_and_is_read_until_it_ends() {
        let (mut near, mut far) = duplex(64);
        near.write_all(b"why").await.unwrap();
        let lingering = tokio::spawn(async move { linger(&mut near).await });
        far.write_all(&[0; 1_000]).await.unwrap();
        let mut last = String::new();
        far.read_to_string(&mut last).await.unwrap();
        assert_eq!(last, "why");
        drop(far);
        lingering.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_ends_is_left_in_time() {
        let (mut near, far) = duplex(64);
        let begin = Instant::now();
        linger(&mut near).await;
        assert_eq!(begin.elapsed(), LIMIT);
        drop(far);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_without_end_is_left_too() {
        let (mut near, far) = duplex(BUFFER);
        let (_, mut far) = tokio::io::split(far);
        let sending =
            tokio::spawn(async move { while far.write_all(&[0; 1_024]).await.is_ok() {} });
        let begin = Instant::now();
        linger(&mut near).await;
        assert!(begin.elapsed() < LIMIT);
        drop(near);
        sending.await.unwrap();
    }
}
