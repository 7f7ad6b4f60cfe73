//! A request as decisions see it: no body, no connection.

use std::borrow::Cow;

use http::{HeaderMap, Method, Request};

#[cfg(doc)]
use super::Readings;
use super::plain::is_plain;
use super::reading::spelling;

/// A request, as far as it can be seen.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum RequestView<'a> {
    /// An HTTP request.
    Http(HttpView<'a>),
    /// A connection whose bytes are opaque.
    Tcp,
    /// An opaque connection that begins with a handshake of TLS. Policies see no more of it than of any.
    Tls {
        /// The server that it names, in lower case.
        server: Option<&'a str>,
    },
}

/// The parts of an HTTP request that policies and routes match on.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct HttpView<'a> {
    /// The method.
    pub method: &'a Method,
    path: &'a str,
    /// Whether the path has one reading and is in its one spelling, which is seen once for all that
    /// ask.
    plain: bool,
    /// Whether a session that the request shows leads it.
    sessions: bool,
    /// The query, without the `?`.
    pub query: Option<&'a str>,
    /// The header fields.
    pub headers: &'a HeaderMap,
}

// === impl HttpView ===

impl<'a> HttpView<'a> {
    /// A view of a request's parts; `path` is the one that is forwarded.
    pub fn new(
        method: &'a Method,
        path: &'a str,
        query: Option<&'a str>,
        headers: &'a HeaderMap,
    ) -> Self {
        Self {
            method,
            path,
            plain: is_plain(path.as_bytes()),
            sessions: true,
            query,
            headers,
        }
    }

    /// The same of a request whose session has ended.
    #[must_use]
    pub fn without_sessions(mut self) -> Self {
        self.sessions = false;
        self
    }

    pub(crate) fn heeds_sessions(&self) -> bool {
        self.sessions
    }

    /// The path as it is forwarded, without the query. Policies are asked about all its
    /// [`Readings`], routes about the first.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// Whether the path has one reading and is in its one spelling.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.plain
    }

    /// The path in its one spelling.
    pub(crate) fn spelling(&self) -> Cow<'a, str> {
        if self.plain {
            Cow::Borrowed(self.path)
        } else {
            spelling(self.path)
        }
    }

    /// The same as [`of`](Self::of) for a request whose path may have been found plain before, so that it
    /// is not looked at again.
    #[cfg(feature = "runtime")]
    #[inline]
    pub(crate) fn seen<B>(request: &'a Request<B>, plain: bool) -> Self {
        let uri = request.uri();
        let look = || is_plain(uri.path().as_bytes());
        debug_assert!(!plain || look(), "{uri}");
        Self {
            method: request.method(),
            path: uri.path(),
            plain: plain || look(),
            sessions: true,
            query: uri.query(),
            headers: request.headers(),
        }
    }

    /// A view of a request whose path is the one that is forwarded.
    pub fn of<B>(request: &'a Request<B>) -> Self {
        let uri = request.uri();
        Self::new(request.method(), uri.path(), uri.query(), request.headers())
    }
}
