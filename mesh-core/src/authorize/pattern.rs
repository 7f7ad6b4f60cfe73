//! Patterns of a policy's fields: texts that can match, or the reason why one never could.
//!
//! A pattern that matches nothing would look like protection and be none, so each field refuses
//! texts that no value of its kind has. It refuses, too, a principal whose `*` stands for other
//! trust domains.

use std::fmt;
use std::sync::Arc;

use http::Method;
use inmesh_pki::id::{SpiffeId, TrustDomain};

use super::canonical::PathForm;
use super::reading::{Readings, has_dots, never_matches, spelling};
use crate::model::Namespace;

/// A policy that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
#[non_exhaustive]
pub struct InvalidPolicy {
    /// The field, relative to the rule's part it belongs to.
    pub field: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// How a text is compared: `*` alone is any non-empty text, at the end a prefix, at the start a
/// suffix. Nothing is ever a regular expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Matcher);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Matcher {
    Any,
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
}

/// What the texts of a field are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Texts {
    Methods,
    Namespaces,
    Paths,
    Principals,
    TrustDomains,
}

// === impl InvalidPolicy ===

impl InvalidPolicy {
    pub(crate) fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self {
            field,
            message: message.into(),
        }
    }
}

// === impl Pattern ===

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] if it is empty or has a `*` anywhere but alone, at the start or at the
    /// end: such a text would look like a pattern and be none.
    pub fn new(field: &'static str, text: &str) -> Result<Self, InvalidPolicy> {
        let fail = |message: String| Err(InvalidPolicy { field, message });
        let (star_first, star_last) = (text.starts_with('*'), text.ends_with('*'));
        let inner = text
            .strip_prefix('*')
            .unwrap_or_else(|| text.strip_suffix('*').unwrap_or(text));
        if text.is_empty() {
            return fail("an empty text matches nothing; name what to match, or \"*\"".into());
        }
        if inner.contains('*') {
            return fail(format!(
                "{text:?}: '*' may stand alone, at the start or at the end, once"
            ));
        }
        Ok(Self(match (star_first, star_last) {
            (true, true) => Matcher::Any,
            (true, false) => Matcher::Suffix(inner.into()),
            (false, true) => Matcher::Prefix(inner.into()),
            (false, false) => Matcher::Exact(text.into()),
        }))
    }

    /// Reads a pattern of a field.
    pub(super) fn of(field: &'static str, text: &str, of: Texts) -> Result<Self, InvalidPolicy> {
        let check = match of {
            Texts::Methods => never_a_method,
            Texts::Namespaces => never_a_namespace,
            Texts::Paths => never_a_path,
            Texts::Principals => never_a_principal,
            Texts::TrustDomains => never_a_trust_domain,
        };
        let pattern = Self::new(field, text)?;
        if let Some(message) = check(&pattern.0) {
            return Err(InvalidPolicy::new(field, message));
        }
        Ok(match of {
            Texts::Paths => pattern.spelled(),
            _ => pattern,
        })
    }

    /// The pattern in the one spelling of paths.
    fn spelled(&self) -> Self {
        self.map(|text| spelling(text).into())
    }

    /// The pattern of a path, in the form in which requests come.
    pub(super) fn in_form(
        &self,
        field: &'static str,
        form: PathForm,
    ) -> Result<Self, InvalidPolicy> {
        let seen = self.map(|text| form.of_pattern(text).into());
        let (text, open) = seen.0.parts();
        if seen != *self && has_dots(text, open) {
            let message = format!(
                "\"{self}\" can never match: requests are seen as \"{seen}\", its dot segments resolved"
            );
            return Err(InvalidPolicy::new(field, message));
        }
        Ok(seen)
    }

    fn map(&self, change: impl Fn(&str) -> Arc<str>) -> Self {
        Self(match &self.0 {
            Matcher::Any => Matcher::Any,
            Matcher::Exact(text) => Matcher::Exact(change(text)),
            Matcher::Prefix(text) => Matcher::Prefix(change(text)),
            Matcher::Suffix(text) => Matcher::Suffix(change(text)),
        })
    }

    /// A path that matches, to ask about its readings.
    pub(super) fn example(&self) -> String {
        match &self.0 {
            Matcher::Any => "/".into(),
            Matcher::Exact(text) => text.to_string(),
            Matcher::Prefix(text) => format!("{text}x"),
            Matcher::Suffix(text) => format!("/x{text}"),
        }
    }

    /// Whether what it matches may begin with anything: it is `*` or a suffix.
    pub fn is_open(&self) -> bool {
        matches!(self.0, Matcher::Any | Matcher::Suffix(_))
    }

    /// Whether `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        match &self.0 {
            Matcher::Any => !text.is_empty(),
            Matcher::Exact(exact) => **exact == *text,
            Matcher::Prefix(prefix) => text.starts_with(&**prefix),
            Matcher::Suffix(suffix) => text.ends_with(&**suffix),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A reading of a path that one of the patterns names which none of them matches. While there is
/// one, that pattern permits no request.
pub(super) fn unread(paths: &[Pattern]) -> Option<(usize, String)> {
    paths.iter().enumerate().find_map(|(n, pattern)| {
        let example = pattern.example();
        let readings = Readings::of(&example);
        let mut readings = readings.iter();
        let other = readings.find(|reading| !paths.iter().any(|p| p.matches(reading)))?;
        Some((n, other.to_owned()))
    })
}

// === impl Matcher ===

impl Matcher {
    /// The text without its `*`, and whether more may stand before and after it.
    fn parts(&self) -> (&str, (bool, bool)) {
        match self {
            Self::Any => ("", (true, true)),
            Self::Exact(text) => (text, (false, false)),
            Self::Prefix(text) => (text, (false, true)),
            Self::Suffix(text) => (text, (true, false)),
        }
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(exact) => f.write_str(exact),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

// === what never matches ===

fn never_a_method(pattern: &Matcher) -> Option<String> {
    let (text, _) = pattern.parts();
    let named = pattern.to_string();
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        return Some(format!(
            "{named:?}: methods are case-sensitive and upper case"
        ));
    }
    let fine = text.is_empty() || Method::from_bytes(text.as_bytes()).is_ok();
    (!fine).then(|| format!("{named:?} can never match: it is no method"))
}

fn never_a_path(pattern: &Matcher) -> Option<String> {
    let (text, open) = pattern.parts();
    let named = pattern.to_string();
    if !open.0 && !text.starts_with('/') {
        Some(format!("{named:?}: a path begins with '/'"))
    } else if text.contains(['{', '}']) {
        Some(format!("{named:?}: path templates are not evaluated"))
    } else {
        never_matches(text, open)
    }
}

fn never_a_namespace(pattern: &Matcher) -> Option<String> {
    let (text, open) = pattern.parts();
    let named = pattern.to_string();
    // What stands in for the `*` makes a whole name of it.
    let whole = match open {
        (false, false) => text.to_owned(),
        (false, true) => format!("{text}x"),
        (true, false) => format!("x{text}"),
        (true, true) => return None,
    };
    let e = Namespace::new(&whole).err()?;
    Some(format!("{named:?} can never match: {}", e.why))
}

fn never_a_trust_domain(pattern: &Matcher) -> Option<String> {
    let (text, open) = pattern.parts();
    let named = pattern.to_string();
    if open == (true, true) {
        return None;
    }
    if text.contains("://") {
        return Some(format!(
            "{named:?}: write the trust domain without its scheme"
        ));
    }
    // What stands in for the `*` makes a whole name of it.
    let whole = match open {
        (false, true) => format!("{text}x"),
        (true, _) => format!("x{text}"),
        (false, false) => text.to_owned(),
    };
    if let Err(e) = whole.parse::<TrustDomain>() {
        return Some(format!("{named:?} can never match: {e}"));
    }
    if open.1 {
        return Some(format!(
            "{named:?} also means other trust domains, as \"{text}.other\"; name each, or write \"*.\" and \
             what they end with"
        ));
    }
    (open.0 && !text.starts_with('.')).then(|| {
        format!("{named:?} also means other trust domains, as \"other{text}\"; write \"*.{text}\"")
    })
}

fn never_a_principal(pattern: &Matcher) -> Option<String> {
    let (text, open) = pattern.parts();
    let named = pattern.to_string();
    if open == (true, true) {
        return None;
    }
    if text.starts_with("spiffe://") {
        return Some(format!(
            "{named:?}: write the principal without \"spiffe://\""
        ));
    }
    if !open.0 && (text.starts_with("ns/") || text.starts_with('/')) {
        return Some(format!(
            "{named:?} can never match: a principal begins with its trust domain"
        ));
    }
    if !open.0 && !text.contains('/') {
        return Some(if open.1 {
            format!("{named:?} also means other trust domains; write \"{text}/*\"")
        } else {
            format!("{named:?} can never match: a workload's ID has a path after its trust domain")
        });
    }
    if let (true, Some((first, rest))) = (open.0, text.split_once('/'))
        && !matches!(first.as_bytes(), [] | [b'.', ..])
        && rest.starts_with("ns/")
    {
        return Some(format!("{named:?} also means other trust domains"));
    }
    // What stands in for the `*` makes a whole ID of it.
    let whole = match open {
        (false, false) => format!("spiffe://{text}"),
        (false, true) => format!("spiffe://{text}x"),
        _ if text.starts_with('/') => format!("spiffe://x{text}"),
        _ => format!("spiffe://x/x{text}"),
    };
    let e = whole.parse::<SpiffeId>().err()?;
    Some(format!("{named:?} can never match: {e}"))
}
