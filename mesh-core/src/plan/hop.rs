//! The next hop of a request: where it is sent, and how its head is edited on the way. Pure.

use std::num::NonZeroU64;

use http::Request;

use crate::balance::{Choice, HashKey, Issued};
use crate::model::{Asked, ServiceName};
use crate::route::RequestHead;
use crate::traffic::Traffic;

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
    /// The host outside the mesh that is asked for, where no document lists its endpoints.
    pub asked: Option<&'a Asked>,
    /// The endpoint that a session leads to before that.
    pub(crate) session: Option<NonZeroU64>,
}

/// Where one value serves as the cookie of the split and the cookie that leads to an endpoint, since they
/// are the same cookie, it decides on both; `key` is that of the split, `handed` what is handed out for it.
pub(super) fn one_cookie(
    key: &HashKey,
    handed: Issued,
    traffic: Option<&Traffic>,
    of_endpoint: (Choice, Option<Issued>),
) -> (Choice, Option<Issued>) {
    let is_same = |traffic: &Traffic| traffic.strategy.value.is_of_cookie(key);
    match of_endpoint.1.is_some() && traffic.is_some_and(is_same) {
        true => (handed.choice(), None),
        false => of_endpoint,
    }
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
