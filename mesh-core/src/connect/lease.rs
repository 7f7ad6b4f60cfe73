//! What an exchange holds of its connection, until it is given back to its pool.

use std::sync::Arc;

use tokio::time::Instant;

use super::connection::{Http1, Http2};
use super::pool::Pool;

/// What an exchange holds of its connection until the answer is whole: all of it, or one stream.
pub(crate) struct Lease(pub(super) Leased);

pub(super) enum Leased {
    Http1(Arc<Pool>, Option<Http1>),
    Http2(Arc<Http2>),
}

// === impl Lease ===

impl Lease {
    /// Its connection has left HTTP and serves no other request.
    pub(crate) fn switched(self) {
        if let Leased::Http1(_, Some(connection)) = &self.0
            && let Some(live) = &connection.live
        {
            live.becomes_opaque();
        }
    }

    /// The answer is whole: the connection may serve another request.
    pub(crate) fn release(mut self, now: Instant) {
        if let Leased::Http1(pool, connection) = &mut self.0
            && let Some(connection) = connection.take()
        {
            pool.give_h1(connection, now);
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Self::Http2(connection) = self {
            connection.leave();
        }
    }
}
