//! An operator's commands in, on a Unix socket that only the owner of the CA's folder can open; the
//! CA's answers out. HTTP/1.1 with JSON, one exchange for each connection.
//!
//! The socket is the permission: it lies in a folder of mode 0700 and has mode 0600 itself, so a
//! process that can open it could read the keys beside it as well.
//!
//! ```text
//! GET  /status                                           the status
//! POST /rotate    {"step", "force", "successor"}         {"step"}
//! POST /distrust  {"keyId", "successor"}                 {}
//! POST /revoke    {"serial"}                             {}
//! POST /recover   {"windowSeconds", "expiredSeconds"}    {}
//! POST /token     {"id", "lifetimeSeconds"}              {"token"}
//! ```
//!
//! A refusal is 400 or 409 with `{"error"}`. `successor` is a new root as PEM text, as
//! [`NewAuthority::from_pem`] reads it. Moments are seconds since 1970.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

mod client;
mod page;
mod server;

#[cfg(doc)]
use super::NewAuthority;

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

// The messages have no `Debug`: a successor holds a key, a token is one.

/// Takes the next step of a rotation, or the one that is named.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Rotate {
    #[serde(default)]
    step: Option<String>,
    /// Does not ask whether the mesh is ready.
    #[serde(default)]
    force: bool,
    #[serde(default)]
    successor: Option<String>,
}

/// The step that was taken.
#[derive(Deserialize, Serialize)]
struct Rotated {
    step: String,
}

/// Takes the authority of a compromised key out of the bundle at once.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Distrust {
    key_id: String,
    #[serde(default)]
    successor: Option<String>,
}

/// Refuses a certificate from now on.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Revoke {
    serial: String,
}

/// Opens the window in which expired SVIDs may be renewed, or closes it.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Recover {
    /// The window closes after this many seconds; 0 closes it now.
    window_seconds: u64,
    /// SVIDs that expired more than this many seconds ago are refused all the same.
    expired_seconds: u64,
}

/// Makes a join token for one ID.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CreateToken {
    id: String,
    lifetime_seconds: u64,
}

/// The join token.
#[derive(Deserialize, Serialize)]
struct Created {
    token: String,
}

/// An answer without content.
#[derive(Deserialize, Serialize)]
struct Done {}

/// Why a command was refused.
#[derive(Deserialize, Serialize)]
struct Refused {
    error: String,
}
