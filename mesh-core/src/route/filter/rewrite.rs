//! Another host or path for the next hop (Gateway API, HTTPURLRewriteFilter).

use http::header::{HOST, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Uri, uri};

use super::RequestHead;
use super::path::PathRewrite;
use crate::route::invalid::InvalidRoute;
use crate::route::matching::PathMatch;

/// Changes host and path of a request. Routes are decided before, and not again after.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    pub(in crate::route) host: Option<(HeaderValue, Authority)>,
    pub(in crate::route) path: Option<PathRewrite>,
}

// === impl Rewrite ===

impl Rewrite {
    /// Changes nothing.
    ///
    /// ```
    /// use inmesh_core::route::{PathRewrite, Rewrite};
    /// let rewrite = Rewrite::new().with_path(PathRewrite::full("/v2")?).with_host("cart.lab")?;
    /// assert_ne!(rewrite, Rewrite::new());
    /// # Ok::<(), inmesh_core::route::InvalidRoute>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with another host.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if `host` is not a host name.
    pub fn with_host(mut self, host: &str) -> Result<Self, InvalidRoute> {
        let invalid = || InvalidRoute::new(format!("{host:?} is not a valid host"));
        let authority: Authority = host.parse().map_err(|_| invalid())?;
        let value = HeaderValue::from_str(host).map_err(|_| invalid())?;
        if authority.port().is_some() || host.contains('@') {
            return Err(invalid());
        }
        self.host = Some((value, authority));
        Ok(self)
    }

    /// The same with another path.
    #[must_use]
    pub fn with_path(mut self, path: PathRewrite) -> Self {
        self.path = Some(path);
        self
    }

    pub(super) fn needs_prefix(&self) -> bool {
        self.path.as_ref().is_some_and(PathRewrite::needs_prefix)
    }

    pub(super) fn apply(&self, head: &mut RequestHead<'_>, matched: Option<&PathMatch>) {
        let path = self.path.as_ref().and_then(|rewrite| {
            let path = rewrite.apply(head.uri.path(), matched);
            let target = match head.uri.query() {
                Some(query) => format!("{path}?{query}"),
                None => path.into_owned(),
            };
            PathAndQuery::try_from(target).ok()
        });
        let mut parts = uri::Parts::from(std::mem::take(head.uri));
        if let Some(path) = path {
            parts.path_and_query = Some(path);
        }
        if let Some((value, authority)) = &self.host {
            if parts.authority.is_some() {
                parts.authority = Some(authority.clone());
            } else {
                head.headers.insert(HOST, value.clone());
            }
        }
        // Parts of one valid URI, some of them replaced by valid ones, are a valid URI.
        *head.uri = Uri::from_parts(parts).unwrap_or_default();
    }
}
