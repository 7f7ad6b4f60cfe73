//! An operator's commands in, on a Unix socket that only the owner of the CA's folder can open; the
//! CA's answers out. HTTP/1.1 with JSON, one exchange for each connection.
//!
//! The socket is the permission: it lies in a folder of mode 0700 and has mode 0600 itself, so a
//! process that can open it could read the keys beside it as well.
//!
//! A command is the body of `POST /`, for example `{"revoke": {"serial": "0a"}}`; its answer is JSON
//! too, and a refusal is 400 or 409 with `{"error"}`. A successor is a new root as PEM text, as
//! [`NewAuthority::from_pem`] reads it.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

mod client;
mod server;

#[cfg(doc)]
use super::NewAuthority;
use super::state::Step;
use crate::id::SpiffeId;

pub use client::AdminClient;
pub use server::AdminSocket;

/// The name of the socket in the CA's folder.
pub const SOCKET: &str = "admin.sock";

/// The largest body of a request or an answer, in bytes: a status with thousands of members.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// Why the CA did not do what its operator asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// No CA runs there, or this process may not open the socket.
    #[error("no CA answers on {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The CA refuses, or failed.
    #[error("{reason}")]
    Refused {
        /// What it says.
        reason: String,
    },
}

/// What an operator asks for; no `Debug`, for a successor holds a key.
#[derive(Deserialize, Serialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
enum Command {
    /// Makes a join token for one ID; answers `{"token"}`.
    CreateToken { id: SpiffeId, lifetime_seconds: u64 },
    /// Takes the authority of a compromised key out of the bundle at once.
    Distrust {
        key_id: String,
        successor: Option<String>,
    },
    /// Opens the window in which SVIDs that expired at most `expired_seconds` ago may be renewed,
    /// for `window_seconds`; 0 closes it.
    Recover {
        window_seconds: u64,
        expired_seconds: u64,
    },
    /// Answers the members, as many as fit: `{"members", "more"}`.
    Members,
    /// Refuses a certificate from now on.
    Revoke { serial: String },
    /// Refuses all certificates of an ID that were issued until now.
    RevokeId { id: SpiffeId },
    /// Takes the next step of a rotation, or the one that is named, if need be without asking
    /// whether the mesh is ready; answers `{"step"}`.
    Rotate {
        step: Option<Step>,
        force: bool,
        successor: Option<String>,
    },
    /// Answers the status.
    Status,
}
