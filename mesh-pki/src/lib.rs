//! SPIFFE identity for Rust: the identity of this process, and the peers that it trusts.
//!
//! A source (files, an issuer) writes SVIDs and trust bundles through the one
//! [`store::IdentityWriter`]; [`tls`] makes rustls configurations that read the current state at
//! every handshake, so a leaf, an issuer or a root is replaced without a restart.
//!
//! - [`id`]: trust domains and SPIFFE IDs;
//! - [`bundle`]: the roots of each trust domain, never merged into one pool;
//! - [`crl`]: revocation lists, by trust domain as well;
//! - [`svid`]: X.509-SVIDs, and [`svid::validate`], the pure decision whether a chain proves the ID in its leaf;
//! - [`store`]: the current identities and bundles, swapped whole;
//! - [`issue`]: signing requests, the [`issue::Issuer`] port, a local and a development CA;
//! - `ca`: a CA that rotates its own root, with its state on disk (feature `ca`), and over gRPC
//!   (feature `ca-server`);
//! - [`jwt`]: JWT-SVIDs and other signed tokens, verified and minted;
//! - `serve`: pages about a process, for scrapers (feature `ca-server`), and the check of their `Host`;
//! - [`disk`]: why what is kept on disk cannot be used;
//! - [`source`]: identity from our CA, PEM files, a Workload API or a development CA, kept fresh by
//!   one task and on disk over a reboot;
//! - [`rotate`]: when to renew, and the task that does it;
//! - [`status`]: how a running source is doing;
//! - `workload_api`: the SPIFFE Workload API as client and server (feature `workload-api`);
//! - [`crypto`]: the crypto provider, which every verification and TLS entry takes as an argument;
//! - [`tls`]: with [`crypto`], the only module whose public signatures name rustls types.
//!
//! ```
//! # #[cfg(feature = "aws-lc-rs")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use inmesh_pki::clock::SystemClock;
//! use inmesh_pki::issue::ca::LocalCa;
//! use inmesh_pki::{Crypto, IdentityState, SpiffeId, identity, rotate, tls};
//!
//! let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
//! let day = Duration::from_secs(24 * 60 * 60);
//! let ca = LocalCa::create("prod.example".parse()?, day, &crypto, Arc::clone(&clock))?;
//!
//! let id = SpiffeId::for_workload(ca.trust_domain(), "shop", "cart")?;
//! let (svid, bundle) = rotate::obtain(&ca, &id, &crypto, &*clock).await?;
//! let (_writer, reader) = identity(IdentityState::new(svid, bundle.into()));
//!
//! let server = tls::server_config(reader, &crypto, &[b"h2"], tls::ClientAuth::Required);
//! assert_eq!(server.alpn_protocols, [b"h2"]);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "aws-lc-rs"))]
//! # fn main() {}
//! ```
//!
//! Nothing here is global: the crypto provider, the clock and the randomness are arguments.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod bundle;
#[cfg(all(feature = "ca", any(feature = "aws-lc-rs", feature = "ring")))]
pub mod ca;
#[cfg(feature = "channel")]
pub mod channel;
pub mod clock;
pub mod crl;
pub mod crypto;
#[cfg_attr(
    not(all(feature = "ca", any(feature = "aws-lc-rs", feature = "ring"))),
    expect(dead_code, reason = "each of the things that are kept uses some of it")
)]
pub mod disk;
pub mod id;
pub mod issue;
pub mod jwt;
pub mod rotate;
pub mod source;
pub mod status;
pub mod store;
pub mod svid;
pub mod tls;
#[cfg(feature = "workload-api")]
pub mod workload_api;

mod der;
mod error;
mod json;
#[cfg(all(
    any(feature = "ca-client", feature = "ca-server"),
    any(feature = "aws-lc-rs", feature = "ring")
))]
mod metadata;
mod pem;
#[cfg(feature = "grpc")]
mod proto;
pub mod serve;
mod signed;
mod task;
mod time;

#[cfg(test)]
mod testing;

pub use bundle::{BundleSet, TrustBundle};
pub use crl::{Crl, CrlSet, RevokedIds};
pub use crypto::{Crypto, CryptoError};
pub use id::{SpiffeId, TrustDomain};
/// A certificate as DER.
pub use rustls_pki_types::CertificateDer;
pub use store::{IdentityReader, IdentityState, IdentityWriter, identity};
pub use svid::{X509Svid, read_certificates};
