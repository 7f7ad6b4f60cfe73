//! SPIFFE identity for Rust: who am I, and whom do I trust.
//!
//! A source (files, an issuer) writes SVIDs and trust bundles through the one
//! [`store::IdentityWriter`]; [`tls`] makes rustls configurations that read the current state at
//! every handshake, so a leaf, an issuer or a root is replaced without a restart.
//!
//! - [`id`]: trust domains and SPIFFE IDs;
//! - [`bundle`]: the roots of each trust domain, never merged into one pool;
//! - [`svid`]: X.509-SVIDs, and [`svid::validate`], the pure decision whether a chain is who it says;
//! - [`store`]: the current identities and bundles, swapped whole;
//! - [`issue`]: signing requests, the [`issue::Issuer`] port, a local and a development CA;
//! - [`source`]: identity from PEM files, reloaded while running;
//! - [`rotate`]: when to renew, and the task that does it;
//! - [`status`]: how a running source is doing;
//! - [`tls`]: the only module whose public signatures name rustls types.
//!
//! Nothing here is global: the crypto provider, the clock and the randomness are arguments.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod bundle;
pub mod clock;
pub mod id;
pub mod issue;
pub mod rotate;
pub mod source;
pub mod status;
pub mod store;
pub mod svid;
pub mod tls;

mod fs;
mod hex;
mod pem;
mod time;

#[cfg(test)]
mod testing;

pub use bundle::{BundleSet, TrustBundle};
pub use id::{SpiffeId, TrustDomain};
pub use store::{IdentityReader, IdentityState, IdentityWriter, identity};
pub use svid::X509Svid;
