//! The SPIFFE Workload API, both halves of it: how a program gets its identity from the agent beside
//! it, over a Unix socket, without a secret of its own (SPIFFE_Workload_Endpoint.md,
//! SPIFFE_Workload_API.md).
//!
//! - [`Endpoint`] is the address, as `SPIFFE_ENDPOINT_SOCKET` holds it;
//! - [`client`] is a source of identity: SPIRE, or any other agent, fills our store;
//! - [`server`] hands out what our store holds to processes that the kernel vouches for.
//!
//! Conversions of messages are pure and stand apart from both. Each message of a stream is the
//! full state, so what is absent in one is gone (S34). TCP endpoints are refused: only a Unix socket
//! identifies the caller. The WIT-SVID profile is not implemented, which its callers are answered.
//!
//! gRPC copies messages through buffers of its own that it does not wipe, so a key is in the memory
//! of both processes for longer than in [`PrivateKey`](crate::svid::PrivateKey); no message with a
//! key or a token has a `Debug`.

use std::path::{Path, PathBuf};

pub mod client;
mod message;
#[cfg(unix)]
pub mod server;

#[cfg(all(test, unix))]
mod tests;

pub use message::MessageError;

/// The metadata of each call, so that a forged plain request gets nothing (S35).
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// The largest message that a client accepts: hundreds of identities with their chains.
const MAX_RESPONSE: usize = 4 * 1024 * 1024;

/// Where a Workload API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    path: PathBuf,
}

/// Why an address is not a valid Workload API endpoint; see SPIFFE_Workload_Endpoint.md, section 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Something stands between the scheme and the path.
    #[error("a unix address has no host: write unix:///path/to/socket")]
    Authority,
    /// The path is not absolute.
    #[error("the path of the socket is not absolute: write unix:///path/to/socket")]
    NotAbsolute,
    /// A query, a fragment or an escape, of which an address has none.
    #[error("an address has no query, fragment or percent-encoding")]
    Extra,
    /// The scheme is neither `unix` nor `tcp`.
    #[error("the address does not begin with unix:")]
    Scheme,
    /// A TCP endpoint: it cannot identify the caller.
    #[error("tcp addresses are not supported: only a Unix socket identifies the caller")]
    Tcp,
}

impl Endpoint {
    /// The endpoint at the socket `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Reads an address: `unix:///run/agent.sock`, or `unix:/run/agent.sock`, which is the same URI
    /// without its empty host.
    ///
    /// # Errors
    ///
    /// [`EndpointError`] for whatever else there is.
    ///
    /// ```
    /// use inmesh_pki::workload_api::{Endpoint, EndpointError};
    ///
    /// let endpoint = Endpoint::parse("unix:///run/spire/agent.sock").unwrap();
    /// assert_eq!(endpoint.path().to_str(), Some("/run/spire/agent.sock"));
    /// assert_eq!(Endpoint::parse("tcp://127.0.0.1:8000"), Err(EndpointError::Tcp));
    /// ```
    pub fn parse(address: &str) -> Result<Self, EndpointError> {
        let (scheme, rest) = address.split_once(':').ok_or(EndpointError::Scheme)?;
        match scheme {
            "unix" => {}
            "tcp" => return Err(EndpointError::Tcp),
            _ => return Err(EndpointError::Scheme),
        }
        let path = match rest.strip_prefix("//") {
            None => rest,
            Some(rest) if rest.starts_with('/') => rest,
            Some(_) => return Err(EndpointError::Authority),
        };
        if path.contains(['?', '#', '%', '\0']) {
            return Err(EndpointError::Extra);
        }
        if !path.starts_with('/') || path == "/" {
            return Err(EndpointError::NotAbsolute);
        }
        Ok(Self::at(path))
    }

    /// The path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}
