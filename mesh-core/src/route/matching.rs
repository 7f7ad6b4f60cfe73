//! Conditions of a route's rule on a request, checked when they are made.
//!
//! In come texts of a document, out come conditions that can match: what never could, or is out of
//! bounds, is refused here.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

use http::header::HOST;
use http::{HeaderMap, HeaderName, Method};

use super::invalid::InvalidRoute;
use crate::authorize::{PathForm, never_matches, spelling};
use crate::balance::is_cookie_path;
use crate::model::Text;

/// The longest regular expression, in characters.
const REGEX_CHARS: usize = 1024;
/// The largest compiled regular expression, in bytes.
const REGEX_BYTES: usize = 256 * 1024;
/// A regular expression that must match the whole text; linear in time, bounded in size.
#[derive(Clone)]
pub struct Regex(regex::Regex);

/// How a path is compared: as it stands, in its one [`spelling`]. Escaped slashes are no slashes,
/// and `//` is an empty segment, unless a setting changes them in what is forwarded.
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

/// How a header's or query parameter's value is compared: by its bytes, which an expression reads as UTF-8.
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

/// Refuses a condition on a field by which requests of one version of HTTP would match and others not.
///
/// # Errors
///
/// [`InvalidRoute`] for `host`: over HTTP/2 it is the authority of a request, and no field.
pub fn check_header(name: &HeaderName) -> Result<(), InvalidRoute> {
    match *name == HOST {
        true => Err(InvalidRoute::new(
            "the host is no header field over HTTP/2: it leads a request to its Service, whose routes are for \
             all its hosts (and hostnames for gateways)",
        )),
        false => Ok(()),
    }
}

/// The first of the fields that is not there with a value that matches.
pub(super) fn missing_field<'m>(
    wanted: &'m [(HeaderName, ValueMatch)],
    headers: &HeaderMap,
) -> Option<&'m HeaderName> {
    let missing = wanted.iter().find(|(name, wanted)| {
        let mut values = headers.get_all(name).iter();
        !values.any(|value| wanted.matches_bytes(value.as_bytes()))
    });
    missing.map(|(name, _)| name)
}

// === impl Regex ===

impl Regex {
    /// Compiles an expression (RE2-like syntax, no look-around, no back-references).
    ///
    /// # Errors
    ///
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

    /// The expression as it was written, without the anchors around it.
    pub(super) fn written(&self) -> &str {
        let whole = self.0.as_str();
        let inner = whole
            .strip_prefix("^(?:")
            .and_then(|w| w.strip_suffix(")$"));
        inner.unwrap_or(whole)
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
    /// A path as a document writes it for `Exact` and `PathPrefix`, its escapes in any spelling.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if it does not begin with `/` or could never match (`//`, `/./`, `/../`, a
    /// backslash, an escape of a character that needs none, a query), or has an escaped slash, which
    /// the Gateway API does not allow.
    pub fn literal(path: &str, prefix: bool) -> Result<Self, InvalidRoute> {
        let refuse = |why: &str| Err(InvalidRoute::new(format!("{path:?}{why}")));
        if !path.starts_with('/') {
            return refuse(" does not begin with '/'");
        }
        if let Some(why) = never_matches(path, (false, false)) {
            return Err(InvalidRoute::new(why));
        }
        let spelled = spelling(path);
        if spelled.contains("%2F") {
            return refuse(": an escaped slash is not allowed");
        }
        Ok(if prefix {
            Self::prefix(&spelled)
        } else {
            Self::Exact((&*spelled).into())
        })
    }

    /// The same for requests whose paths come in a form. A regular expression stays as it is.
    fn in_form(&self, form: PathForm) -> Self {
        let seen = |text: &Text| form.canonical(text.as_str()).ok().map(Cow::into_owned);
        match self {
            Self::Exact(text) => {
                seen(text).map_or_else(|| self.clone(), |t| Self::Exact((&*t).into()))
            }
            Self::Prefix(text) => seen(text).map_or_else(|| self.clone(), |t| Self::prefix(&t)),
            Self::Regex(_) => self.clone(),
        }
    }

    fn prefix(path: &str) -> Self {
        Self::Prefix(match path.trim_end_matches('/') {
            "" => "/".into(),
            trimmed => trimmed.into(),
        })
    }

    /// Whether every path matches.
    pub(super) fn is_everything(&self) -> bool {
        matches!(self, Self::Prefix(prefix) if prefix.as_bytes() == b"/")
    }

    /// Whether a path in its one spelling matches.
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

    /// The path of a cookie for what matches (GEP-1619, "Path"): of an expression, what comes before the
    /// first segment that is not plain.
    pub(crate) fn of_cookie(&self) -> Box<str> {
        let path = match self {
            Self::Exact(path) | Self::Prefix(path) => path.as_str(),
            Self::Regex(regex) if regex.written().contains('|') => "/",
            Self::Regex(regex) => {
                let special = |c: char| r"\.+*?()[]{}^$".contains(c);
                let plain = regex.written().split(special).next().unwrap_or_default();
                plain.rsplit_once('/').map_or("/", |(path, _)| path)
            }
        };
        match is_cookie_path(path) {
            true => path.into(),
            false => "/".into(),
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

    /// The same of a value that may be no text: an expression sees U+FFFD for what is not UTF-8.
    pub(super) fn matches_bytes(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == value,
            Self::Regex(regex) => regex.is_match(&String::from_utf8_lossy(value)),
        }
    }

    /// How many characters it has as it was written.
    pub(super) fn characters(&self) -> usize {
        match self {
            Self::Exact(exact) => exact.chars().count(),
            Self::Regex(regex) => regex.written().chars().count(),
        }
    }
}

// === impl Match ===

impl Match {
    /// Conditions on a path alone.
    ///
    /// ```
    /// use inmesh_core::route::{Match, PathMatch};
    /// let items = Match::path(PathMatch::literal("/items", true)?).method(http::Method::GET);
    /// assert!(items.headers.is_empty());
    /// # Ok::<(), inmesh_core::route::InvalidRoute>(())
    /// ```
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

    /// The same conditions for requests whose paths come in a form.
    pub(super) fn in_form(&self, form: PathForm) -> Self {
        Self {
            path: self.path.in_form(form),
            method: self.method.clone(),
            headers: self.headers.clone(),
            query: self.query.clone(),
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
