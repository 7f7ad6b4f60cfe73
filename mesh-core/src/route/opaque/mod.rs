//! Routes of opaque connections, TLSRoute and TCPRoute, as their author writes them, checked when they are
//! made.
//!
//! A connection is matched once, when it opens: by the server that its TLS handshake names, or by nothing.
//! What it is routed by is read and passed on; the TLS ends at the server.

use std::cmp::Reverse;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::invalid::InvalidRoute;
use super::rule::{Backend, Parent, Route, Rule};
use crate::model::{Kind, ObjectKey, is_subdomain};

/// A name of servers: one, or all below a domain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerNames {
    /// The name, or the domain with a dot before it.
    text: Arc<str>,
    below: bool,
}

/// A TLSRoute or TCPRoute attached to Services.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpaqueRoute {
    /// The object it was read from, whose kind says whether TLS is asked for. In its Service's namespace
    /// it is a producer route, for every caller; in another it is a consumer route, for callers of that
    /// namespace.
    pub key: ObjectKey,
    /// When it was created, in seconds since 1970; older routes win ties.
    pub created: Option<i64>,
    /// What it is attached to.
    pub parents: Vec<Parent>,
    /// The servers that a TLSRoute is for; empty is any.
    pub names: Vec<ServerNames>,
    /// Its rule, which forwards.
    pub rule: Rule,
}

// === impl ServerNames ===

impl ServerNames {
    /// A host name in lower case, or `*.` and a domain: any name below it, by one label or more.
    ///
    /// ```
    /// use inmesh_core::route::ServerNames;
    /// let names = ServerNames::new("*.example.com")?;
    /// assert!(names.matches("a.b.example.com") && !names.matches("example.com"));
    /// assert!(ServerNames::new("a.*.com").is_err() && ServerNames::new("10.0.0.1").is_err());
    /// # Ok::<(), inmesh_core::route::InvalidRoute>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if it is no such name, or an address (Gateway API, Hostname).
    pub fn new(name: &str) -> Result<Self, InvalidRoute> {
        let domain = name.strip_prefix("*.");
        if domain.is_none() && name.parse::<IpAddr>().is_ok() {
            return Err(InvalidRoute::new(format!("{name:?} is an address")));
        }
        if name.len() > 253 || !is_subdomain(domain.unwrap_or(name)) {
            return Err(InvalidRoute::new(format!(
                "{name:?} is not a host name in lower case, nor one with *. before it"
            )));
        }
        Ok(Self {
            text: domain.map_or(name, |_| &name[1..]).into(),
            below: domain.is_some(),
        })
    }

    /// Whether a name in lower case is one of them.
    pub fn matches(&self, name: &str) -> bool {
        match self.below {
            true => name.len() > self.text.len() && name.ends_with(&*self.text),
            false => *name == *self.text,
        }
    }

    /// What sorts them as the Gateway API does (TLSRoute, `hostnames`): the most characters of a name
    /// without a wildcard, then of any.
    pub(super) fn precedence(&self) -> (bool, Reverse<usize>) {
        (self.below, Reverse(self.text.len()))
    }
}

/// As it is written.
impl fmt::Display for ServerNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = if self.below { "*" } else { "" };
        write!(f, "{any}{}", self.text)
    }
}

// === impl OpaqueRoute ===

impl OpaqueRoute {
    /// A TCPRoute of unknown age.
    ///
    /// ```
    /// use inmesh_core::model::{Kind, Namespace, ObjectKey, ServiceName};
    /// use inmesh_core::route::{Backend, OpaqueRoute, Parent};
    /// let shop = Namespace::new("shop")?;
    /// let db = ServiceName::new(&shop, "db")?;
    /// let to = vec![Backend::new(db.clone(), 5432, 1)?];
    /// let key = ObjectKey::new(Kind::TcpRoute, &shop, "db")?;
    /// let route = OpaqueRoute::new(key, vec![Parent::new(db, None)], to)?;
    /// assert!(route.names.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A key of a TLSRoute makes it one that any TLS connection meets.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if the key is of another kind, it has no parent or no backend, or a backend has
    /// filters.
    pub fn new(
        key: ObjectKey,
        parents: Vec<Parent>,
        backends: Vec<Backend>,
    ) -> Result<Self, InvalidRoute> {
        let refuse = |why: &str| Err(InvalidRoute::new(why.to_owned()));
        if !matches!(key.kind, Kind::TcpRoute | Kind::TlsRoute) {
            return refuse("a route of opaque connections is a TLSRoute or a TCPRoute");
        }
        if backends.is_empty() {
            return refuse("a route of opaque connections has a backend");
        }
        if backends.iter().any(|backend| !backend.filters.is_empty()) {
            return refuse("opaque connections pass no filter");
        }
        let rule = Rule::to(backends);
        // What else is asked of a route is asked of any.
        Route::new(key.clone(), parents.clone(), vec![rule.clone()])?;
        Ok(Self {
            key,
            created: None,
            parents,
            names: Vec::new(),
            rule,
        })
    }

    /// The same TLSRoute for servers of some names.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if it is no TLSRoute, or there is no name.
    pub fn with_names(mut self, names: Vec<ServerNames>) -> Result<Self, InvalidRoute> {
        if self.key.kind != Kind::TlsRoute {
            return Err(InvalidRoute::new("a TCPRoute asks for no name".to_owned()));
        }
        if names.is_empty() {
            return Err(InvalidRoute::new("no server is named".to_owned()));
        }
        self.names = names;
        Ok(self)
    }

    /// The same with the name that its rule is known by.
    #[must_use]
    pub fn named(mut self, rule: &str) -> Self {
        self.rule = self.rule.named(rule);
        self
    }

    /// The same route created at a time, in seconds since 1970.
    #[must_use]
    pub fn with_created(mut self, created: Option<i64>) -> Self {
        self.created = created;
        self
    }
}

#[cfg(test)]
mod tests;
