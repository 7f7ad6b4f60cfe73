//! Processes of this machine in, their own identities out: the Workload API served on a Unix socket.
//!
//! 1. The kernel identifies the caller: user, group and process at the moment of the connection, and the
//!    control group while the process surely lives.
//! 2. [`attest()`] decides, purely, which [`Entry`]s that process matches; it is decided once for a
//!    connection. A process that matches none gets PermissionDenied from every call.
//! 3. Each stream sends the full state at once, and again whenever it changes for this caller.
//!
//! SVIDs come from an [`IdentityReader`]: what fills that store, a [`Rotation`] for each ID or
//! another Workload API, renews them. An expired SVID is not handed out. Nothing that a
//! caller says about itself counts; calls without the security metadata are refused (S35).
//! Libraries that name the socket's path as the `:authority` of their calls, as gRPC's C core and grpc-java
//! do, are understood too (`authority`). Connections, in all and for each user, calls for each connection and the size of messages are
//! bounded.
//!
//! [`Rotation`]: crate::rotate::Rotation

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::clock::Clock;
use crate::crypto::Crypto;
use crate::jwt::DynJwtIssuer;
use crate::proto::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use crate::serve;
use crate::status::StatusReader;
use crate::store::IdentityReader;

pub mod attest;
mod authority;
mod front;
mod process;
mod service;
mod shared;
mod socket;
mod status;

pub use attest::{Caller, Entry, EntryError, Selector, attest};
#[cfg(fuzzing)]
pub use authority::rewrite_authorities;
pub use socket::Socket;
pub use status::{Refusals, ServerStatus};

use front::Fronted;
use service::CallerApi;
use shared::ApiShared;
use status::ServerCounts;

/// The largest request: a token to be verified, with room around it.
const MAX_REQUEST: usize = 64 * 1024;

/// The largest header block of a call.
const MAX_HEADERS: u32 = 16 * 1024;

/// How many calls one connection may have at a time; a library needs three streams.
const MAX_CALLS: u32 = 32;

/// How long open streams have for their last message when the server ends, and how long connections have
/// to write what is left then.
const LAST_WORD: Duration = Duration::from_millis(500);
const FLUSH: Duration = Duration::from_millis(100);

/// How many connections there may be in all, and of one user, so that no user takes them all.
const MAX_CONNECTIONS: usize = 1024;
const MAX_CONNECTIONS_OF_USER: usize = 128;

/// A Workload API for local processes.
///
/// ```
/// # use inmesh_pki::workload_api::server::Entry;
/// # async fn serve(entries: Vec<Entry>, reader: inmesh_pki::IdentityReader) -> std::io::Result<()> {
/// use std::future::pending;
///
/// use inmesh_pki::Crypto;
/// use inmesh_pki::clock::SystemClock;
/// use inmesh_pki::workload_api::server::{Server, Socket};
///
/// let server = Server::new(entries, reader, &Crypto::aws_lc_rs(), SystemClock::shared());
/// let socket = Socket::bind("/run/mesh/agent.sock", 0o777)?;
/// server.serve(socket, pending()).await;
/// # Ok(())
/// # }
/// ```
pub struct Server {
    shared: ApiShared,
    stop: watch::Sender<bool>,
}

/// Counts connections by user, for as long as they live.
#[derive(Clone, Default)]
struct Connections(Arc<Mutex<HashMap<u32, usize>>>);

/// One connection that is counted.
struct Counted {
    connections: Connections,
    uid: u32,
}

impl Server {
    /// A server of the identities in `reader`, to the processes that `entries` select.
    ///
    /// An entry whose ID is not in the store yet is answered Unavailable, so clients come back.
    #[must_use]
    pub fn new(
        entries: Vec<Entry>,
        reader: IdentityReader,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self {
            stop,
            shared: ApiShared {
                stopped,
                entries,
                reader,
                jwt: None,
                crypto: crypto.clone(),
                clock,
                counts: ServerCounts::new(crate::status::status(ServerStatus::default())),
            },
        }
    }

    /// Serves JWT-SVIDs too, minted by `issuer`, which is only asked for IDs that the caller has;
    /// without one that call is answered Unimplemented.
    #[must_use]
    pub fn with_jwt_issuer(mut self, issuer: DynJwtIssuer) -> Self {
        self.shared.jwt = Some(issuer);
        self
    }

    /// Where to read how it is doing, before and while it serves.
    #[must_use]
    pub fn status(&self) -> StatusReader<ServerStatus> {
        self.shared.counts.reader()
    }

    /// Serves until `shutdown` is ready; each stream ends with Unavailable then, so that its client comes
    /// back, and the socket's file is removed.
    pub async fn serve(self, socket: Socket, shutdown: impl Future<Output = ()>) {
        let (stop, stopped) = (self.stop, self.shared.counts.reader());
        let shutdown = async move {
            shutdown.await;
            stop.send_replace(true);
            // The ends of streams are on their way; a caller that does not read is not waited for.
            let mut stopped = stopped;
            let ended =
                async { while stopped.load().streams > 0 && stopped.changed().await.is_ok() {} };
            let _late = timeout(LAST_WORD, ended).await;
            sleep(FLUSH).await;
        };
        let (shared, connections) = (Arc::new(self.shared), Connections::default());
        let serve = |stream, _| serve_one(stream, Arc::clone(&shared), &connections);
        serve::accept(&socket, "Workload API", usize::MAX, serve, shutdown).await;
    }
}

/// The future that serves one connection; nothing, if it is one too many or its process is unknown.
fn serve_one(
    stream: UnixStream,
    shared: Arc<ApiShared>,
    connections: &Connections,
) -> Option<impl Future<Output = ()> + use<>> {
    let caller = match process::caller(&stream) {
        Ok(caller) => caller,
        Err(error) => {
            tracing::warn!(%error, "the kernel does not identify a caller of the Workload API");
            shared
                .counts
                .refused(|refusals| &mut refusals.unknown_caller);
            return None;
        }
    };
    let Some(counted) = connections.count(caller.uid) else {
        tracing::warn!(
            uid = caller.uid,
            "too many connections to the Workload API, one is closed"
        );
        shared.counts.refused(|refusals| &mut refusals.too_many);
        return None;
    };
    let granted: Vec<Entry> = attest(&caller, &shared.entries)
        .into_iter()
        .cloned()
        .collect();
    tracing::debug!(
        uid = caller.uid,
        gid = caller.gid,
        pid = caller.pid,
        cgroup = caller.cgroup,
        ids = granted.len(),
        "Workload API"
    );
    let open = shared.counts.open(|status| &mut status.connections);
    let api = SpiffeWorkloadApiServer::new(CallerApi::new(shared, granted))
        .max_decoding_message_size(MAX_REQUEST);
    Some(async move {
        let _counted = (counted, open);
        let stream = TokioIo::new(Fronted::new(stream));
        let served = http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(MAX_CALLS)
            .max_header_list_size(MAX_HEADERS)
            .serve_connection(stream, TowerToHyperService::new(api))
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection to the Workload API broke");
        }
    })
}

// === impl Connections ===

impl Connections {
    fn count(&self, uid: u32) -> Option<Counted> {
        let mut by_user = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if by_user.values().sum::<usize>() >= MAX_CONNECTIONS {
            return None;
        }
        let of_user = by_user.entry(uid).or_default();
        if *of_user >= MAX_CONNECTIONS_OF_USER {
            return None;
        }
        *of_user += 1;
        Some(Counted {
            connections: self.clone(),
            uid,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut by_user = self
            .connections
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(of_user) = by_user.get_mut(&self.uid) {
            *of_user -= 1;
            if *of_user == 0 {
                by_user.remove(&self.uid);
            }
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("entries", &self.shared.entries)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_takes_all_connections() {
        let connections = Connections::default();
        let count = |uid, many: usize| -> Vec<Counted> {
            let counted = (0..many).map_while(|_| connections.count(uid));
            counted.collect()
        };
        let mut first = count(1, MAX_CONNECTIONS);
        assert_eq!(first.len(), MAX_CONNECTIONS_OF_USER);
        assert_eq!(count(2, 5).len(), 5, "and five are given back at once");
        first.pop();
        assert_eq!(count(1, 2).len(), 1, "one was given back");

        let others: Vec<_> = (2..100)
            .flat_map(|uid| count(uid, MAX_CONNECTIONS_OF_USER))
            .collect();
        assert_eq!(first.len() + others.len(), MAX_CONNECTIONS);
        drop((first, others));
        assert!(connections.0.lock().unwrap().is_empty());
    }
}
