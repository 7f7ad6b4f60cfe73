//! Routes as their author writes them, checked when they are made.
//!
//! In come texts and numbers of a document, out come conditions, changes and targets that can be
//! compiled. What could never match, or is out of bounds, is refused here.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use crate::model::{ObjectKey, ServiceName, Text};

/// The longest regular expression, in characters.
const REGEX_CHARS: usize = 1024;
/// The largest compiled regular expression, in bytes.
const REGEX_BYTES: usize = 256 * 1024;
/// The largest weight that the Gateway API allows.
const WEIGHT_MAX: u32 = 1_000_000;

/// A route that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct InvalidRoute {
    /// What is wrong and what to do.
    pub message: String,
}

/// A regular expression that must match the whole text; linear in time, bounded in size.
#[derive(Clone)]
pub struct Regex(regex::Regex);

/// How a path is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathMatch {
    /// The path is this one.
    Exact(Text),
    /// Whole segments at the start: `/a` matches `/a` and `/a/b`, not `/ab`.
    Prefix(Text),
    /// The whole path matches.
    Regex(Regex),
}

/// How a header's or query parameter's value is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueMatch {
    /// The value is this one.
    Exact(Arc<str>),
    /// The whole value matches.
    Regex(Regex),
}

/// One set of conditions; all must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Match {
    /// The path.
    pub path: PathMatch,
    /// The method; `None` is any.
    pub method: Option<Method>,
    /// Headers that must be there; of several values one must match.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// Query parameters that must be there; the first of a name counts.
    pub query: Vec<(Arc<str>, ValueMatch)>,
}

/// Changes to header fields, applied in the order set, add, remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeaderChanges {
    /// Fields that replace those of the same name.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Fields that are added to those of the same name.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Fields that are removed.
    pub remove: Vec<HeaderName>,
}

/// One target of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backend {
    /// The Service.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// Its share relative to the other backends' weights.
    pub weight: u32,
    /// Changes to the request's header when this backend is chosen.
    pub request: HeaderChanges,
    /// Changes to the response's header when this backend is chosen.
    pub response: HeaderChanges,
}

/// Time limits of a rule (GEP-1742). `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// From the request's arrival to the response's head, all attempts included.
    pub request: Option<Duration>,
    /// The same for one attempt.
    pub backend_request: Option<Duration>,
}

/// One rule: conditions, changes and targets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rule {
    /// One of them must match; empty matches every path.
    pub matches: Vec<Match>,
    /// Changes to the request's header.
    pub request: HeaderChanges,
    /// Changes to the response's header.
    pub response: HeaderChanges,
    /// Where it goes, by weight.
    pub backends: Vec<Backend>,
    /// Its time limits.
    pub timeouts: Timeouts,
}

/// A Service that a route is attached to, all its ports or one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parent {
    /// The Service.
    pub service: ServiceName,
    /// The port; `None` is all.
    pub port: Option<u16>,
}

/// An HTTPRoute attached to Services.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// The object it was read from. In its Service's namespace it is a producer route, for every
    /// caller; in another it is a consumer route, for callers of that namespace.
    pub key: ObjectKey,
    /// When it was created, in seconds since 1970; older routes win ties.
    pub created: Option<i64>,
    /// What it is attached to.
    pub parents: Vec<Parent>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

// === impl InvalidRoute ===

impl InvalidRoute {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}

// === impl Regex ===

impl Regex {
    /// Compiles an expression (RE2-like syntax, no look-around, no back-references).
    ///
    /// # Errors
    /// [`InvalidRoute`] if it is longer than 1,024 characters, malformed, or compiles to more than
    /// 256 KiB.
    pub fn new(pattern: &str) -> Result<Self, InvalidRoute> {
        if pattern.chars().count() > REGEX_CHARS {
            return Err(InvalidRoute::new(format!(
                "the regular expression is longer than {REGEX_CHARS} characters"
            )));
        }
        let compile = |pattern: &str| {
            regex::RegexBuilder::new(pattern)
                .size_limit(REGEX_BYTES)
                .dfa_size_limit(REGEX_BYTES)
                .build()
                .map_err(|e| InvalidRoute::new(format!("the regular expression is refused: {e}")))
        };
        // Alone first, so that no unbalanced parenthesis can escape the anchors.
        compile(pattern)?;
        compile(&format!("^(?:{pattern})$")).map(Self)
    }

    pub(super) fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0.as_str(), f)
    }
}

/// Equal where the expressions are.
impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Regex {}

// === impl PathMatch ===

impl PathMatch {
    /// A path as a document writes it for `Exact` and `PathPrefix`.
    ///
    /// # Errors
    /// [`InvalidRoute`] if it does not begin with `/` or could never match, because it is not
    /// canonical (`//`, `/./`, `/../`, an escaped slash) or holds a query.
    pub fn literal(path: &str, prefix: bool) -> Result<Self, InvalidRoute> {
        if !path.starts_with('/') {
            return Err(InvalidRoute::new(format!(
                "{path:?} does not begin with '/'"
            )));
        }
        if path.contains(['?', '#']) {
            return Err(InvalidRoute::new(format!(
                "{path:?}: a path holds no query and no fragment"
            )));
        }
        match crate::authorize::canonical_path(path) {
            Ok(canonical) if canonical == path => Ok(if prefix {
                Self::Prefix(match path.trim_end_matches('/') {
                    "" => "/".into(),
                    trimmed => trimmed.into(),
                })
            } else {
                Self::Exact(path.into())
            }),
            Ok(canonical) => Err(InvalidRoute::new(format!(
                "{path:?} can never match; requests are seen as {canonical:?}"
            ))),
            Err(e) => Err(InvalidRoute::new(format!("{path:?}: {e}"))),
        }
    }

    /// Whether every path matches.
    fn is_everything(&self) -> bool {
        matches!(self, Self::Prefix(prefix) if prefix.as_bytes() == b"/")
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == path.as_bytes(),
            Self::Prefix(_) if self.is_everything() => true,
            Self::Prefix(prefix) => path
                .as_bytes()
                .strip_prefix(prefix.as_bytes())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/")),
            Self::Regex(regex) => regex.is_match(path),
        }
    }

    /// Exact before prefix before regular expression; longer before shorter.
    pub(super) fn precedence(&self) -> (u8, Reverse<usize>) {
        match self {
            Self::Exact(path) => (0, Reverse(path.as_str().chars().count())),
            Self::Prefix(path) => (1, Reverse(path.as_str().chars().count())),
            Self::Regex(regex) => (2, Reverse(regex.0.as_str().chars().count())),
        }
    }
}

// === impl ValueMatch ===

impl ValueMatch {
    pub(super) fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *value,
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

// === impl Match ===

impl Match {
    /// Conditions on a path alone.
    pub fn path(path: PathMatch) -> Self {
        Self {
            path,
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }
    }

    /// Whether every request matches.
    pub(super) fn is_everything(&self) -> bool {
        self.path.is_everything()
            && self.method.is_none()
            && self.headers.is_empty()
            && self.query.is_empty()
    }

    /// The same with a method.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    /// The same with a header. Of several conditions on one header the first counts (Gateway API).
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: ValueMatch) -> Self {
        if !self.headers.iter().any(|(n, _)| *n == name) {
            self.headers.push((name, value));
        }
        self
    }

    /// The same with a query parameter. Of several conditions on one name the first counts.
    #[must_use]
    pub fn query(mut self, name: &str, value: ValueMatch) -> Self {
        if !self.query.iter().any(|(n, _)| &**n == name) {
            self.query.push((name.into(), value));
        }
        self
    }
}

// === impl HeaderChanges ===

impl HeaderChanges {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut http::HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

// === impl Backend ===

impl Backend {
    /// A backend with a weight.
    ///
    /// # Errors
    /// [`InvalidRoute`] if the weight is above 1,000,000 (Gateway API, BackendRef).
    pub fn new(service: ServiceName, port: u16, weight: u32) -> Result<Self, InvalidRoute> {
        if weight > WEIGHT_MAX {
            return Err(InvalidRoute::new(format!(
                "the weight {weight} is above {WEIGHT_MAX}"
            )));
        }
        Ok(Self {
            service,
            port,
            weight,
            request: HeaderChanges::default(),
            response: HeaderChanges::default(),
        })
    }
}

// === impl Timeouts ===

impl Timeouts {
    /// Limits on the request and on each attempt; zero is no limit (GEP-1742).
    ///
    /// # Errors
    /// [`InvalidRoute`] if an attempt is given more time than the request.
    pub fn new(
        request: Option<Duration>,
        backend_request: Option<Duration>,
    ) -> Result<Self, InvalidRoute> {
        let limit = |d: Option<Duration>| d.filter(|d| !d.is_zero());
        let (request, backend_request) = (limit(request), limit(backend_request));
        match (request, backend_request) {
            (Some(all), Some(one)) if one > all => Err(InvalidRoute::new(format!(
                "backendRequest ({one:?}) is longer than request ({all:?})"
            ))),
            _ => Ok(Self {
                request,
                backend_request,
            }),
        }
    }
}

// === impl Rule ===

impl Rule {
    /// A rule that sends every request to the backends.
    pub fn to(backends: Vec<Backend>) -> Self {
        Self {
            backends,
            ..Self::default()
        }
    }

    /// The same for requests that match one of `matches`.
    #[must_use]
    pub fn when(mut self, matches: Vec<Match>) -> Self {
        self.matches = matches;
        self
    }
}

// === impl Parent ===

impl Parent {
    /// All ports of a Service, or one.
    pub fn new(service: ServiceName, port: Option<u16>) -> Self {
        Self { service, port }
    }
}

// === impl Route ===

impl Route {
    /// A route of unknown age.
    ///
    /// # Errors
    /// [`InvalidRoute`] if it has no parent.
    pub fn new(
        key: ObjectKey,
        parents: Vec<Parent>,
        rules: Vec<Rule>,
    ) -> Result<Self, InvalidRoute> {
        if parents.is_empty() {
            return Err(InvalidRoute::new(
                "a mesh route names a Service as its parent",
            ));
        }
        Ok(Self {
            key,
            created: None,
            parents,
            rules,
        })
    }
}
