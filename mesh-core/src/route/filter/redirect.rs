//! An answer that leads elsewhere (Gateway API, HTTPRequestRedirectFilter).

use std::fmt::Write;
use std::sync::Arc;

use http::StatusCode;
use http::uri::Authority;

use super::path::PathRewrite;
use crate::route::invalid::InvalidRoute;
use crate::route::matching::PathMatch;

/// Answers with another location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    scheme: Option<Scheme>,
    pub(in crate::route) host: Option<Arc<str>>,
    pub(in crate::route) port: Option<u16>,
    pub(in crate::route) path: Option<PathRewrite>,
    pub(in crate::route) status: StatusCode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

// === impl Redirect ===

impl Redirect {
    /// A redirect to the same location with status 302.
    ///
    /// ```
    /// use inmesh_core::route::Redirect;
    /// let redirect = Redirect::new().with_scheme("https")?.with_status(301)?;
    /// let location = redirect.location("cart:8080", 8080, "/items", Some("page=2"), None);
    /// assert_eq!(location, "https://cart/items?page=2");
    /// # Ok::<(), inmesh_core::route::InvalidRoute>(())
    /// ```
    pub fn new() -> Self {
        Self {
            scheme: None,
            host: None,
            port: None,
            path: None,
            status: StatusCode::FOUND,
        }
    }

    /// The same to another scheme, `http` or `https`.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] for any other scheme.
    pub fn with_scheme(mut self, scheme: &str) -> Result<Self, InvalidRoute> {
        self.scheme = Some(match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => {
                let message = format!("{scheme:?}: the scheme is http or https");
                return Err(InvalidRoute::new(message));
            }
        });
        Ok(self)
    }

    /// The scheme, if it is another one.
    pub(in crate::route) fn scheme(&self) -> Option<&'static str> {
        Some(match self.scheme? {
            Scheme::Http => "http",
            Scheme::Https => "https",
        })
    }

    /// The same to another host.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if `host` is not a host name.
    pub fn with_host(mut self, host: &str) -> Result<Self, InvalidRoute> {
        match host.parse::<Authority>() {
            Ok(authority) if authority.port().is_none() && !host.contains('@') => {
                self.host = Some(host.into());
                Ok(self)
            }
            _ => Err(InvalidRoute::new(format!("{host:?} is not a valid host"))),
        }
    }

    /// The same to another port.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The same to another path.
    #[must_use]
    pub fn with_path(mut self, path: PathRewrite) -> Self {
        self.path = Some(path);
        self
    }

    /// The same with another status.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] unless it is 301, 302, 303, 307 or 308.
    pub fn with_status(mut self, status: u16) -> Result<Self, InvalidRoute> {
        self.status = match status {
            301 | 302 | 303 | 307 | 308 => StatusCode::from_u16(status).unwrap_or_default(),
            _ => {
                let message = format!("{status}: a redirect has 301, 302, 303, 307 or 308");
                return Err(InvalidRoute::new(message));
            }
        };
        Ok(self)
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The value of `Location` for a request to `authority` that was meant for `port`; `matched`
    /// is the condition that its path met.
    ///
    /// Without a port of its own it has the well-known one of the redirect's scheme; without a
    /// scheme either, the port of the request. The well-known port of a scheme is not written.
    pub fn location(
        &self,
        authority: &str,
        port: u16,
        path: &str,
        query: Option<&str>,
        matched: Option<&PathMatch>,
    ) -> String {
        let (scheme, known) = match self.scheme.unwrap_or(Scheme::Http) {
            Scheme::Http => ("http", 80),
            Scheme::Https => ("https", 443),
        };
        let asked = authority
            .rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
            .map_or(authority, |(host, _)| host);
        let host = self.host.as_deref().unwrap_or(asked);
        let port = match (self.port, self.scheme) {
            (Some(port), _) => port,
            (None, Some(_)) => known,
            (None, None) => port,
        };
        let mut location = format!("{scheme}://{host}");
        if port != known {
            // Writing to a String cannot fail.
            let _written = write!(location, ":{port}");
        }
        match &self.path {
            Some(rewrite) => location.push_str(&rewrite.apply(path, matched)),
            None => location.push_str(path),
        }
        if let Some(query) = query {
            location.push('?');
            location.push_str(query);
        }
        location
    }

    pub(in crate::route) fn needs_prefix(&self) -> bool {
        self.path.as_ref().is_some_and(PathRewrite::needs_prefix)
    }
}

impl Default for Redirect {
    fn default() -> Self {
        Self::new()
    }
}
