//! Identify: which workload is the peer?
//!
//! In comes the connection after its handshake; out comes a [`PeerInfo`] that every request of the
//! connection has in its extensions. inmesh-pki has verified chain, SPIFFE rules and bundle;
//! here IDs are compared with those that may serve an endpoint, before a byte is written.

#[cfg(feature = "runtime")]
mod live;
mod peer;
#[cfg(feature = "runtime")]
mod tls;

#[cfg(feature = "runtime")]
pub(crate) use live::{Guarded, Live, LiveConnection};
pub use peer::{Peer, PeerInfo};
#[cfg(feature = "runtime")]
pub(crate) use tls::{Inner, RECORD, Tls, failure_reason};
