//! Answers that a policy lists, by their status and by their gRPC status code.

use http::StatusCode;

use super::invalid::InvalidRetry;

/// The gRPC status codes there are.
const GRPC_CODES: u8 = 17;

/// Answers that a policy lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Codes {
    statuses: Vec<StatusCode>,
    /// A bit for each gRPC status code.
    grpc: u32,
}

// === impl Codes ===

impl Codes {
    /// Adds a status of 400 to 599.
    pub(super) fn add_status(&mut self, status: u16) -> Result<(), InvalidRetry> {
        let failed = |status: &StatusCode| status.is_client_error() || status.is_server_error();
        let Some(status) = StatusCode::from_u16(status).ok().filter(failed) else {
            return Err(InvalidRetry::new(format!("{status} is not 400 to 599")));
        };
        self.statuses.push(status);
        Ok(())
    }

    /// Adds a gRPC status code of 1 to 16.
    pub(super) fn add_grpc(&mut self, code: u8) -> Result<(), InvalidRetry> {
        if !(1..GRPC_CODES).contains(&code) {
            return Err(InvalidRetry::new(format!("{code} is not 1 to 16")));
        }
        self.grpc |= 1 << code;
        Ok(())
    }

    pub(super) fn statuses(&self) -> &[StatusCode] {
        &self.statuses
    }

    pub(super) fn grpc(&self) -> impl Iterator<Item = u8> {
        (1..GRPC_CODES).filter(|code| self.grpc & (1 << code) != 0)
    }

    /// Whether such an answer is listed.
    pub(super) fn covers(&self, status: StatusCode, grpc: Option<u8>) -> bool {
        self.statuses.contains(&status)
            || grpc.is_some_and(|code| code < GRPC_CODES && self.grpc & (1 << code) != 0)
    }
}
