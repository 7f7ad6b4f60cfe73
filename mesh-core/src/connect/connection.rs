//! The connections to an endpoint, as a pool keeps them and requests take them.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::client::conn::http1;
use inmesh_pki::id::SpiffeId;
use tokio::time::Instant;

use super::driven::Driven;
use super::read_on::Refused;
use super::rest::Resting;
use crate::body::Body;
use crate::http2;
use crate::identify::LiveConnection;

/// Streams on one HTTP/2 connection before another is opened.
const STREAMS: usize = 100;

/// A connection. It moves between the pool, a request and the record of its answer often, and is one
/// pointer for that.
pub(super) struct Http1(Box<Connection>);

pub(super) struct Connection {
    pub(super) sender: http1::SendRequest<Body>,
    /// What runs it, for the request that has taken it.
    pub(super) driven: Arc<Driven>,
    pub(super) peer: Option<SpiffeId>,
    /// When it was last used, and when it may no longer be.
    pub(super) since: Instant,
    pub(super) until: Option<Instant>,
    pub(super) live: Option<Arc<LiveConnection>>,
    /// Whether the server takes no more of the present request.
    pub(super) refused: Arc<Refused>,
    pub(super) resting: Arc<Resting>,
    /// Whether it reads answers of more than 100 fields.
    pub(super) many_fields: bool,
}

pub(super) struct Http2 {
    pub(super) sender: http2::Sender,
    pub(super) peer: Option<SpiffeId>,
    pub(super) streams: AtomicUsize,
    pub(super) until: Option<Instant>,
    /// Since when it has no stream; there once a request asks how long it has rested.
    pub(super) rests: OnceLock<Resting>,
}

// === impl Http2 ===

impl Http2 {
    /// How many streams it takes: what the server says, up to [`STREAMS`].
    pub(super) fn most_streams(&self) -> usize {
        self.sender.most_streams().min(STREAMS)
    }

    /// How long it has had no stream; nothing while it has one, or if that is asked for the first time.
    pub(super) fn rested(&self, now: Instant) -> Option<Duration> {
        let rested = self.rests.get_or_init(Resting::default).rested(now);
        rested.filter(|_| self.streams.load(Ordering::Relaxed) == 0)
    }

    /// A stream has ended.
    pub(super) fn leave(&self) {
        let last = self.streams.fetch_sub(1, Ordering::Relaxed) == 1;
        if let Some(rests) = self.rests.get()
            && last
        {
            rests.begin(Instant::now());
        }
    }
}

// === impl Http1 ===

impl From<Connection> for Http1 {
    fn from(connection: Connection) -> Self {
        Self(Box::new(connection))
    }
}

impl Deref for Http1 {
    type Target = Connection;

    #[inline]
    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl DerefMut for Http1 {
    #[inline]
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}

// === impl Connection ===

impl Drop for Connection {
    fn drop(&mut self) {
        // It ends by our own will.
        self.resting.end();
    }
}
