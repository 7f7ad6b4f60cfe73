//! Routes as their author writes them, checked when they are made, and the table of one Service.
//!
//! The table is sorted once by the precedence of the Gateway API (HTTPRouteRule, "Proxy or Load
//! Balancer routing configuration"), so that the first entry that matches is the answer.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use crate::model::{Namespace, ObjectKey, ServiceName};

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
    Exact(Arc<str>),
    /// Whole segments at the start: `/a` matches `/a` and `/a/b`, not `/ab`.
    Prefix(Arc<str>),
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

/// The routes of one Service, sorted by precedence.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    pub(super) entries: Vec<Entry>,
}

/// One match of one rule.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// `Some` for a consumer route: the namespace whose callers it is for.
    pub(super) consumer: Option<Namespace>,
    pub(super) port: Option<u16>,
    /// `None` matches every request.
    pub(super) when: Option<Match>,
    pub(super) rule: Arc<RuleView>,
}

/// A rule with the name of its route.
#[derive(Debug)]
pub(super) struct RuleView {
    pub(super) route: ObjectKey,
    pub(super) index: usize,
    pub(super) request: HeaderChanges,
    pub(super) response: HeaderChanges,
    pub(super) backends: Vec<Backend>,
    pub(super) timeouts: Timeouts,
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

    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) if &**prefix == "/" => true,
            Self::Prefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Regex(regex) => regex.is_match(path),
        }
    }

    /// Exact before prefix before regular expression; longer before shorter.
    fn precedence(&self) -> (u8, Reverse<usize>) {
        match self {
            Self::Exact(path) => (0, Reverse(path.chars().count())),
            Self::Prefix(path) => (1, Reverse(path.chars().count())),
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

// === impl RouteTable ===

impl RouteTable {
    /// Builds the table of one Service from the routes attached to it. Precedence:
    ///
    /// 1. the path: exact, then the longest prefix, then regular expressions (longest first);
    /// 2. a match on the method;
    /// 3. the most header matches; 4. the most query parameter matches;
    /// 5. the oldest route; 6. the route first by namespace and name; 7. the rule written first.
    pub fn build<'a>(
        service: &ServiceName,
        routes: impl IntoIterator<Item = &'a Arc<Route>>,
    ) -> Self {
        let mut keyed = Vec::new();
        for route in routes {
            let rules: Vec<_> = route
                .rules
                .iter()
                .enumerate()
                .map(|(index, rule)| {
                    let view = RuleView {
                        route: route.key.clone(),
                        index,
                        request: rule.request.clone(),
                        response: rule.response.clone(),
                        backends: rule.backends.clone(),
                        timeouts: rule.timeouts,
                    };
                    (&rule.matches, Arc::new(view))
                })
                .collect();
            let consumer =
                (route.key.namespace != *service.namespace()).then(|| route.key.namespace.clone());
            for parent in route.parents.iter().filter(|p| p.service == *service) {
                for (matches, view) in &rules {
                    let whens: Vec<_> = match matches.as_slice() {
                        [] => vec![None],
                        some => some.iter().cloned().map(Some).collect(),
                    };
                    for when in whens {
                        keyed.push((
                            precedence(route, view.index, when.as_ref()),
                            Entry {
                                consumer: consumer.clone(),
                                port: parent.port,
                                when,
                                rule: view.clone(),
                            },
                        ));
                    }
                }
            }
        }
        keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self {
            entries: keyed.into_iter().map(|(_, entry)| entry).collect(),
        }
    }

    /// Whether no route is attached, so that requests go to the Service itself.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

type Precedence = (
    (u8, Reverse<usize>),
    Reverse<bool>,
    Reverse<usize>,
    Reverse<usize>,
    i64,
    ObjectKey,
    usize,
);

fn precedence(route: &Route, rule: usize, when: Option<&Match>) -> Precedence {
    // No match at all is `PathPrefix: /` (Gateway API's default).
    let path = when.map_or((1, Reverse(1)), |m| m.path.precedence());
    (
        path,
        Reverse(when.is_some_and(|m| m.method.is_some())),
        Reverse(when.map_or(0, |m| m.headers.len())),
        Reverse(when.map_or(0, |m| m.query.len())),
        route.created.unwrap_or(i64::MAX),
        route.key.clone(),
        rule,
    )
}
