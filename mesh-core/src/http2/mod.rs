//! HTTP/2 to both sides: the connections of callers and those to servers, over the `h2` library.
//!
//! In come sockets, out come requests and answers whose bodies arrive by themselves. The connection's
//! own task takes every frame off the library as it comes, into a buffer that the stream's window
//! bounds, and opens the window again when the reader has taken the bytes. So a reader that pauses
//! costs its own stream alone, and thousands of small frames cost their bytes. hyper's driver, which
//! leaves frames in the library until they are asked for, loses the whole connection by them; it also
//! takes a stream that was reset for one that has ended.
//!
//! What it refuses: to open a window for bytes that nothing has read, and to guess what a reset means.

mod arrival;
mod client;
mod outflow;
mod pulse;
mod room;
mod server;
mod sniff;
mod stream;
mod window;

use std::sync::Arc;
use std::time::Duration;

use crate::budget::Budget;

pub(crate) use client::{Broken, Cause, Sender, connect};
pub(crate) use room::{Room, TooLarge};
pub(crate) use server::Server;
pub(crate) use stream::{Parked, StreamIo};

/// The bounds of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The bytes of a stream that may be on their way or unread, at first and at most. The most is
    /// reached only where a round trip takes long enough to need it, and only between mesh peers,
    /// whose answer to a ping is known to come.
    pub(crate) window: (u32, u32),
    /// The bytes of a header list (RFC 9113 section 6.5.2).
    pub(crate) header_list: u32,
    /// The streams of a caller at once.
    pub(crate) streams: u32,
    /// How often a silent peer is pinged, and how long its answer may take; `None` never pings.
    pub(crate) ping: Option<(Duration, Duration)>,
    /// How long a body may wait for its reader to open the stream's window.
    pub(crate) unread: Duration,
    /// What all connections together may hold.
    pub(crate) budget: Arc<Budget>,
}

/// The window of a stream at first, and between mesh peers at most, so that one stream can fill a fast
/// network. A side may hold as much of each stream that is not read.
const WINDOW: u32 = 128 * 1024;
const LARGE_WINDOW: u32 = 4 << 20;

/// The windows of a connection, for a mesh peer or another.
pub(crate) fn windows(mesh: bool) -> (u32, u32) {
    (WINDOW, if mesh { LARGE_WINDOW } else { WINDOW })
}

/// The bytes of all streams of a connection that may be unread, at most. More than what all streams may
/// hold at first, so that none of them waits for another's reader, as far as the budget goes.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// What frames may cost while they are in the library, by its own count: 256 bytes for each small
/// one. They are there for a turn of the connection's task at most, which reads about 2 MiB; so much
/// in frames of one byte is 50 MiB.
const FRAME_BUDGET: usize = 64 << 20;
/// The largest frame that is taken.
const FRAME: u32 = 64 * 1024;
/// What may wait to be sent on a stream; the library asks for more only below that.
const SEND_BUFFER: usize = 64 * 1024;
