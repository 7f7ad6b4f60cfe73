//! The next hop of a request: where it is sent, and how its head is edited on the way. Pure.

use http::Request;

use crate::balance::Choice;
use crate::model::ServiceName;
use crate::route::RequestHead;

/// A port of a Service that a request is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedBackend<'a> {
    /// The Service.
    pub service: &'a ServiceName,
    /// The port's number on the Service.
    pub port: u16,
    /// How one of its endpoints is chosen.
    pub choice: Choice,
}

/// Edits a request's head.
pub(super) fn edit<B: Default>(request: &mut Request<B>, edit: impl FnOnce(&mut RequestHead<'_>)) {
    // Head and body are parted, because fields of a request cannot be borrowed apart.
    let (mut head, body) = std::mem::take(request).into_parts();
    edit(&mut RequestHead {
        uri: &mut head.uri,
        headers: &mut head.headers,
    });
    *request = Request::from_parts(head, body);
}
