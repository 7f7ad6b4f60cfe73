//! An answer of the route's own.

use bytes::Bytes;
use http::StatusCode;

use crate::route::invalid::InvalidRoute;

/// The largest body of an answer, in bytes: it lies in the configuration.
const BODY: usize = 64 * 1024;

/// Answers with a status and a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Respond {
    status: StatusCode,
    body: Bytes,
}

// === impl Respond ===

impl Respond {
    /// An answer.
    ///
    /// ```
    /// use inmesh_core::route::Respond;
    /// let closed = Respond::new(503, "closed for today\n")?;
    /// assert_eq!(closed.status(), http::StatusCode::SERVICE_UNAVAILABLE);
    /// # Ok::<(), inmesh_core::route::InvalidRoute>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if the status is not one of 200 to 599 or the body longer than 64 KiB.
    pub fn new(status: u16, body: impl Into<Bytes>) -> Result<Self, InvalidRoute> {
        let body = body.into();
        let status = StatusCode::from_u16(status)
            .ok()
            .filter(|status| (200..600).contains(&status.as_u16()));
        let Some(status) = status else {
            return Err(InvalidRoute::new("an answer's status is 200 to 599"));
        };
        if body.len() > BODY {
            let message = format!("the body is {} bytes, at most {BODY} are kept", body.len());
            return Err(InvalidRoute::new(message));
        }
        Ok(Self { status, body })
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}
