//! The connection of a caller, where endpoints are to know it: a PROXY header names it.
//!
//! A header is about the connection that it begins, and so is each request on that. HTTP connections to
//! such endpoints are therefore those of one connection of a caller, never of several: kept with it, used
//! again for its own requests, and closed with it. Counted at the gate of their port they are as all
//! others. Requests of this process itself, and its checks of endpoints, share connections that say so.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::io::AsyncWriteExt;

use super::gate::Gate;
use super::kept::Kept;
use super::pool::Pool;
use crate::accept::Socket;
use crate::accept::proxy::{Ends, Header};
use crate::balance::{EndpointState, Member};
use crate::error::{Error, Reason};
use crate::local::Local;
use crate::model::ProxyVersion;

/// The most endpoints for which one connection of a caller keeps connections.
const ENDPOINTS: usize = 16;

/// A connection of a caller, and the connections to endpoints that are its alone.
pub(crate) struct Origin {
    /// As all that follows knows it: what a trusted proxy has named, if one did.
    ends: Ends,
    /// The address that it was really made to.
    reached: SocketAddr,
    own: Mutex<Vec<(Arc<EndpointState>, Arc<Kept>)>>,
}

// === impl Origin ===

impl Origin {
    /// The connection with these ends, which was really made to the address `reached`.
    pub(crate) fn new(ends: Ends, reached: SocketAddr) -> Self {
        Self {
            ends,
            reached,
            own: Mutex::default(),
        }
    }

    /// Where it comes from, by its own address or by that which a trusted proxy has named.
    pub(crate) fn source(&self) -> SocketAddr {
        self.ends.source
    }

    /// The address that it was really made to, which leads on.
    pub(crate) fn reached(&self) -> SocketAddr {
        self.reached
    }

    /// What it keeps with an endpoint; made at first use, in the place of the oldest where there are too
    /// many.
    #[cold]
    pub(super) fn kept(&self, member: &Member, local: &Arc<Local>, idle_max: usize) -> Arc<Kept> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let known = own.iter().find(|(of, _)| Arc::ptr_eq(of, &member.state));
        if let Some((_, kept)) = known {
            return Arc::clone(kept);
        }
        let kept = Arc::new(Kept {
            pool: Pool::behind(Gate::of(member.state.port(), local), idle_max),
            // Its handles lead to the same counters as those of all others to the endpoint.
            series: OnceLock::new(),
        });
        if own.len() >= ENDPOINTS {
            own.remove(0);
        }
        own.push((Arc::clone(&member.state), Arc::clone(&kept)));
        kept
    }
}

/// Begins a connection with the header that names the caller's.
pub(super) async fn announce(
    stream: &mut Socket,
    version: ProxyVersion,
    origin: Option<&Origin>,
) -> Result<(), Error> {
    let header = origin.map_or(Header::Local, |origin| Header::Proxied(origin.ends));
    let own = stream.local_addr().and_then(|from| {
        let to = stream.peer_addr()?;
        Ok(Ends::new(from, to))
    });
    let wrote = match own {
        Ok(own) => stream.write_all(&header.write(version, own)).await,
        Err(e) => Err(e),
    };
    wrote.map_err(|e| Error::new(Reason::ConnectFailed, "writing the PROXY header").because(e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, Transport, Workload};

    fn local() -> Arc<Local> {
        let workload = Workload::new("shop", "web", "web").expect("names");
        Arc::new(Local::new(workload, crate::authorize::DefaultAction::Allow))
    }

    fn origin(port: u16) -> Origin {
        let ends = Ends::new(([192, 0, 2, 1], port).into(), ([192, 0, 2, 2], 80).into());
        Origin::new(ends, ends.destination)
    }

    fn member(n: u8) -> Member {
        Member::new(Endpoint::new(([10, 0, 0, n], 80).into(), Transport::Plain))
    }

    #[test]
    fn connections_are_those_of_one_caller_and_one_endpoint() {
        let (local, one, other) = (local(), origin(1), origin(2));
        let (cart, shop) = (member(1), member(2));
        let kept = one.kept(&cart, &local, 8);
        assert!(Arc::ptr_eq(&kept, &one.kept(&cart, &local, 8)));
        assert!(!Arc::ptr_eq(&kept, &one.kept(&shop, &local, 8)));
        assert!(!Arc::ptr_eq(&kept, &other.kept(&cart, &local, 8)));
        assert!(!Arc::ptr_eq(&kept, &Kept::of(&cart, &local, 8)));
        let pool = Arc::downgrade(&kept.pool);
        drop(kept);
        assert!(pool.strong_count() > 0, "kept with the caller");
        drop(one);
        assert_eq!(pool.strong_count(), 0, "and gone with it");
    }

    #[test]
    fn one_caller_keeps_connections_to_few_endpoints() {
        let (local, one) = (local(), origin(1));
        let members: Vec<_> = (0..40).map(member).collect();
        let kept: Vec<_> = members.iter().map(|m| one.kept(m, &local, 8)).collect();
        let own = one.own.lock().expect("not poisoned");
        assert_eq!(own.len(), ENDPOINTS);
        let last = kept.last().expect("many");
        assert!(own.iter().any(|(_, known)| Arc::ptr_eq(known, last)));
    }
}
