//! The end of a connection that was cut, which its peer is not to take for an end in order.
//!
//! TLS has a word for its end, so that one without it is noticed (RFC 8446 section 6.1). TCP has none: a
//! socket that is closed ends in order, however much was to come, and only a reset says that something broke.
//! But a reset takes back what its sender's kernel still holds, and a peer that writes meets it before
//! it has read. So what was said before leaves first, and a peer that still sends is heard for a moment.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use inmesh_pki::serve::read_on;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::socket::Socket;

/// How long a peer that does not read what was said is waited for; the kernel waits as long.
const LIMIT: Duration = Duration::from_secs(30);
/// How long one that still sends is heard.
const HEARD: Duration = Duration::from_secs(2);
/// A peer that sends nothing for so long sends nothing more, and what has left by then has arrived.
const QUIET: Duration = Duration::from_millis(20);

/// What a connection runs over.
pub(crate) enum Wire<'a> {
    Plain(&'a mut Socket),
    Tls(&'a mut Socket),
    /// What notices by itself that it is let go before its end.
    Noticed,
}

/// A connection that can be broken off.
pub(crate) trait Breaking: AsyncRead + AsyncWrite + Unpin {
    /// What it runs over.
    fn wire(&mut self) -> Wire<'_>;
}

impl Breaking for Socket {
    fn wire(&mut self) -> Wire<'_> {
        Wire::Plain(self)
    }
}

/// Has the peer notice that the connection broke off, once it has got what was said before: 30 s at most.
/// What is left to do is to let the connection go.
pub(crate) async fn break_off<T: Breaking>(peer: &mut T) {
    break_at_end(peer);
    let ended = async {
        let flushed = poll_fn(|cx| Pin::new(&mut *peer).poll_flush(cx));
        if flushed.await.is_ok()
            && let Wire::Tls(socket) = peer.wire()
            && socket.shutdown().await.is_ok()
        {
            read_on(socket).await;
        }
        if let Wire::Plain(socket) = peer.wire() {
            heard_out(socket).await;
        }
    };
    let _late = timeout(LIMIT, ended).await;
}

/// Has a connection break off once it is let go, which a process that ends meanwhile does too.
pub(super) fn break_at_end<T: Breaking>(peer: &mut T) {
    if let Wire::Plain(socket) = peer.wire() {
        let _gone = SockRef::from(&**socket).set_linger(Some(Duration::ZERO));
    }
}

/// Reads and drops what a peer still sends, until it is quiet and has got what was said to it.
async fn heard_out(socket: &mut Socket) {
    let mut buffer = vec![0; 16 * 1024];
    let until = Instant::now() + HEARD;
    let (mut ended, mut left) = (false, false);
    loop {
        if ended {
            sleep(QUIET).await;
        } else if let Ok(read) = timeout(QUIET, socket.read(&mut buffer)).await {
            match read {
                Ok(1..) if Instant::now() < until => continue,
                Ok(_) => ended = true,
                Err(_) => return,
            }
        }
        // Twice: what left just before the first look may be under way.
        if std::mem::replace(&mut left, socket.has_sent_all()) && left {
            return;
        }
    }
}
