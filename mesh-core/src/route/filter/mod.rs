//! Filters: edits of a request's or an answer's head, one kind a file, each a pure function.
//!
//! A rule and each of its backends have a list of them, applied in its order. A filter never sees a
//! body, and none may touch the fields that frame a message. A mirror edits nothing: where it stands in
//! the list, a copy is taken of the request as the filters before it have left it.

mod cors;
mod headers;
mod mirror;
mod path;
mod redirect;
mod respond;
mod rewrite;

pub use cors::Cors;
pub(super) use cors::{asked_for, is_preflight};
pub use headers::HeaderChanges;
pub(crate) use mirror::MIRRORED;
pub use mirror::Mirror;
pub use path::PathRewrite;
pub use redirect::Redirect;
pub use respond::Respond;
pub use rewrite::Rewrite;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Uri};

use super::matching::PathMatch;

/// The most filters of a rule or backend (Gateway API).
pub(super) const FILTERS: usize = 16;

/// One edit of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Filter {
    /// Answers preflights, and says in answers which origin may read them.
    Cors(Arc<Cors>),
    /// Sends a copy of the request elsewhere.
    Mirror(Mirror),
    /// Changes header fields of the request.
    RequestHeaders(HeaderChanges),
    /// Changes header fields of the answer.
    ResponseHeaders(HeaderChanges),
    /// Changes host and path of the request.
    Rewrite(Rewrite),
}

/// The head of a request on its way to the next hop.
#[derive(Debug)]
pub struct RequestHead<'a> {
    /// The target, with an authority over HTTP/2 and without one over HTTP/1.1.
    pub uri: &'a mut Uri,
    /// The header fields.
    pub headers: &'a mut HeaderMap,
}

// === impl Filter ===

impl Filter {
    /// Edits a request's head; `matched` is the condition on the path that the request met, `None`
    /// for a rule without one.
    pub fn edit_request(&self, head: &mut RequestHead<'_>, matched: Option<&PathMatch>) {
        match self {
            Self::RequestHeaders(changes) => changes.apply(head.headers),
            Self::Cors(_) | Self::Mirror(_) | Self::ResponseHeaders(_) => {}
            Self::Rewrite(rewrite) => rewrite.apply(head, matched),
        }
    }

    /// Edits an answer's header; `origin` is what its request says of where it comes from.
    pub fn edit_response(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
        match self {
            Self::Cors(cors) => cors.edit_answer(origin, headers),
            Self::ResponseHeaders(changes) => changes.apply(headers),
            Self::Mirror(_) | Self::RequestHeaders(_) | Self::Rewrite(_) => {}
        }
    }

    /// The answer to requests of other origins that it is.
    pub(super) fn cors(&self) -> Option<&Cors> {
        match self {
            Self::Cors(cors) => Some(cors),
            _ => None,
        }
    }

    /// The mirror that it is.
    pub(super) fn mirror(&self) -> Option<&Mirror> {
        match self {
            Self::Mirror(mirror) => Some(mirror),
            _ => None,
        }
    }

    /// Whether it replaces the prefix that was matched, so that there must be one.
    pub(super) fn needs_prefix(&self) -> bool {
        match self {
            Self::Rewrite(rewrite) => rewrite.needs_prefix(),
            Self::Cors(_)
            | Self::Mirror(_)
            | Self::RequestHeaders(_)
            | Self::ResponseHeaders(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
