//! Why a call to a Workload API failed, and how long one may take.

use std::io;
use std::time::Duration;

use super::super::Endpoint;
use super::super::message::MessageError;

/// How long the agent may take to accept a connection, and to send the first message of a stream; less near
/// the end of the SVID.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What can fail between us and the agent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadApiError {
    /// The socket cannot be reached.
    #[error("the Workload API at {} cannot be reached", endpoint.path().display())]
    Connect {
        /// Where it should be.
        endpoint: Endpoint,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The agent has no identity for us, or took it back.
    #[error("the agent has no identity for this process: {reason}")]
    Denied {
        /// What it says.
        reason: String,
    },
    /// The agent ended the stream.
    #[error("the agent ended the stream")]
    Ended,
    /// The agent says that the call itself is wrong, or that it knows no such call; asking again
    /// would not help.
    #[error("the agent refuses the call: {reason}")]
    Fatal {
        /// What it says.
        reason: String,
    },
    /// A message cannot be used, and was discarded.
    #[error("a message of the Workload API cannot be used")]
    Message(#[from] MessageError),
    /// The agent has not renewed an SVID that is overdue.
    #[error("the agent says nothing, and the SVID should have been renewed by now")]
    Silent,
    /// The agent did not answer in time.
    #[error("the agent did not answer in time")]
    Timeout,
    /// Any other failure of a call.
    #[error("the call failed: {reason}")]
    Unavailable {
        /// What gRPC says.
        reason: String,
    },
}
