//! Which side of an undeclared connection speaks first.
//!
//! A caller that says nothing may wait for the server, as callers of SMTP, MySQL or NATS do. Then the
//! server is opened as one of opaque bytes, and asked by waiting: what it says first makes the
//! connection opaque, what the caller says first is looked at as ever. No byte of the caller is
//! sent before that.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::accept::speaks_http;
use crate::connect::Io;
use crate::model::ServiceName;

/// The most ports that are remembered.
const PORTS: usize = 1_024;
/// The most of a first word that is read at once; a greeting is a line.
const WORD: usize = 4 * 1024;

/// The first that is heard on both sides of a connection.
#[derive(Debug)]
pub(super) enum FirstWord {
    /// The caller speaks; its bytes are still in the socket.
    Caller,
    /// The server speaks HTTP: what it said answers no request, and is not the caller's.
    Http,
    /// The caller has ended, or neither spoke in time.
    Nothing,
    /// The server said this.
    Server(Vec<u8>),
    /// The server has ended, as one does that takes no opaque bytes.
    ServerGone,
}

/// The ports that are known to speak first, so that their callers are not waited for again.
#[derive(Debug, Default)]
pub(super) struct ServerFirst(Mutex<HashSet<(ServiceName, u16)>>);

/// Waits until one side speaks, for at most `limit`.
pub(super) async fn first_word(caller: &TcpStream, server: &mut Io, limit: Duration) -> FirstWord {
    let mut word = vec![0; WORD];
    let mut peeked = [0];
    let heard = async {
        tokio::select! {
            biased;
            said = server.read(&mut word) => match said {
                Ok(length @ 1..) if speaks_http(&word[..length]) => FirstWord::Http,
                Ok(length @ 1..) => FirstWord::Server(word[..length].to_vec()),
                Ok(_) | Err(_) => FirstWord::ServerGone,
            },
            said = caller.peek(&mut peeked) => match said {
                Ok(1) => FirstWord::Caller,
                Ok(_) | Err(_) => FirstWord::Nothing,
            },
        }
    };
    timeout(limit, heard).await.unwrap_or(FirstWord::Nothing)
}

// === impl ServerFirst ===

impl ServerFirst {
    /// Whether a port was seen to speak first.
    pub(super) fn has(&self, service: &ServiceName, port: u16) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !known.is_empty() && known.contains(&(service.clone(), port))
    }

    /// Notes that a port speaks first, and says at the first time what would spare its callers the
    /// wait.
    pub(super) fn note(&self, service: &ServiceName, port: u16) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < PORTS && known.insert((service.clone(), port)) {
            tracing::info!(
                %service,
                port,
                "the server speaks first, which had to be found out; declare it at the Service's \
                 port: appProtocol: tcp"
            );
        }
    }
}
