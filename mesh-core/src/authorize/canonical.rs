//! The path that is forwarded: dot segments are resolved, escapes have one spelling.
//!
//! In comes the path of a request target without its query; out comes the path that policies,
//! routes and the application are given. Nothing else is changed unless a setting asks for it, since
//! servers give a meaning to `%2F`, `%5C` and `//` (virtual hosts of brokers, keys of object stores,
//! signed URLs). It refuses what has no single meaning: NUL, a broken escape, a path that does not
//! begin with `/`.

use std::borrow::Cow;
use std::sync::Arc;

use http::{Method, Request, Uri};

use super::plain::is_plain;
use crate::error::{Error, Reason};

/// A path that has no canonical form; the answer is 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPath {
    /// A `%` without two hexadecimal digits after it.
    #[error("the path has a '%' that begins no escape")]
    BrokenEscape,
    /// It is not `*` and does not begin with `/`.
    #[error("the path does not begin with '/'")]
    NoLeadingSlash,
    /// A NUL byte, plain or escaped.
    #[error("the path has a NUL byte")]
    Nul,
}

/// What is changed in a path beyond its canonical form. Both together are the form that Istio calls
/// `DECODE_AND_MERGE_SLASHES`.
///
/// What is changed has one reading left, so a mesh whose servers all read paths that way decides
/// more requests and forwards what its servers would see anyway.
///
/// ```
/// use inmesh_core::authorize::PathForm;
/// let form = PathForm::default().merge_slashes(true).decode_slashes(true);
/// assert_eq!(form.canonical("/app/%2e%2E%2f/admin")?, "/admin");
/// # Ok::<(), inmesh_core::authorize::InvalidPath>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathForm {
    merge: bool,
    decode: bool,
}

/// Brings a path into its canonical form, as [`PathForm::canonical`] does without a setting.
///
/// ```
/// use inmesh_core::authorize::canonical_path;
/// assert_eq!(canonical_path("/app/%2e%2E/v/%2f")?, "/v/%2F");
/// assert!(canonical_path("/admin%00").is_err());
/// # Ok::<(), inmesh_core::authorize::InvalidPath>(())
/// ```
///
/// # Errors
///
/// [`InvalidPath`] says which rule the path breaks.
pub fn canonical_path(path: &str) -> Result<Cow<'_, str>, InvalidPath> {
    PathForm::default().canonical(path)
}

/// How the path of a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// In its canonical form, with one reading and in its one spelling.
    Plain,
    /// In its canonical form.
    Canonical,
    /// In another form.
    Otherwise,
}

/// Rewrites the path of a request into its canonical form; says how it came.
pub(crate) fn canonicalize<B>(form: PathForm, request: &mut Request<B>) -> Result<Came, Error> {
    let invalid = |what: String| Error::new(Reason::InvalidRequest, what);
    let path = request.uri().path();
    if path.starts_with('/') && is_plain(path.as_bytes()) {
        // Nothing in it is ever changed.
        return Ok(Came::Plain);
    }
    if path == "*" && request.method() != Method::OPTIONS {
        return Err(invalid("only OPTIONS asks for '*'".to_owned()));
    }
    let canonical = form.canonical(path).map_err(|e| invalid(e.to_string()))?;
    let changed = *canonical != *path;
    if changed {
        let mut parts = request.uri().clone().into_parts();
        let query = request.uri().query();
        let target = match query {
            Some(query) => format!("{canonical}?{query}"),
            None => canonical.into_owned(),
        };
        parts.path_and_query = Some(
            target
                .try_into()
                .map_err(|e: http::uri::InvalidUri| invalid(e.to_string()))?,
        );
        *request.uri_mut() = Uri::from_parts(parts).map_err(|e| invalid(e.to_string()))?;
    }
    Ok(match changed {
        true => Came::Otherwise,
        false => Came::Canonical,
    })
}

/// Paths of probes as requests come; those that no request can have are left out.
pub(crate) fn seen_probes<'a>(
    form: PathForm,
    paths: impl IntoIterator<Item = &'a str>,
) -> Arc<[Arc<str>]> {
    let seen = |path: &'a str| match form.canonical(path) {
        Ok(seen) if seen.starts_with('/') && !seen.contains(['?', '#']) => {
            Some(seen.as_ref().into())
        }
        _ => {
            tracing::warn!(path, "a probe path that no request can have is left out");
            None
        }
    };
    paths.into_iter().filter_map(seen).collect()
}

// === impl PathForm ===

impl PathForm {
    /// Whether runs of `/` become one.
    #[must_use]
    pub fn merge_slashes(mut self, merge: bool) -> Self {
        self.merge = merge;
        self
    }

    /// Whether `\`, `%2F` and `%5C` become `/`, and escapes of unreserved characters (RFC 3986
    /// section 2.3) these characters.
    #[must_use]
    pub fn decode_slashes(mut self, decode: bool) -> Self {
        self.decode = decode;
        self
    }

    /// Whether `//` becomes `/`.
    pub fn merges_slashes(self) -> bool {
        self.merge
    }

    /// Whether escaped slashes and backslashes become `/`.
    pub fn decodes_slashes(self) -> bool {
        self.decode
    }

    /// Brings a path into its canonical form.
    ///
    /// 1. The digits of escapes become upper case; with `decode_slashes` they are decoded, once.
    /// 2. `.` and `..` segments, escaped or not, are resolved (RFC 3986 section 5.2.4) and never
    ///    climb above the root; an empty segment counts as one, so `/a//../b` is `/a/b`.
    /// 3. With `merge_slashes` runs of `/` become one.
    ///
    /// A path that is canonical already is borrowed, so the common case allocates nothing. The
    /// function is idempotent.
    ///
    /// # Errors
    ///
    /// [`InvalidPath`] says which rule the path breaks.
    pub fn canonical(self, path: &str) -> Result<Cow<'_, str>, InvalidPath> {
        if path == "*" {
            return Ok(Cow::Borrowed(path));
        }
        match path.as_bytes().first() {
            Some(b'/') => {}
            Some(b'\\') if self.decode => {}
            _ => return Err(InvalidPath::NoLeadingSlash),
        }
        if self.is_canonical(path.as_bytes()) {
            return Ok(Cow::Borrowed(path));
        }
        let spelled = self.respell(path)?;
        let resolved = resolve(&spelled, self.merge);
        Ok(if resolved == path {
            Cow::Borrowed(path)
        } else {
            Cow::Owned(resolved)
        })
    }

    /// The text of a pattern, in its one spelling, as requests come: with all that is changed in a
    /// path but dot segments, of which it has none.
    pub(super) fn of_pattern(self, text: &str) -> String {
        let mut seen = text.to_owned();
        if self.decode {
            seen = seen.replace("%2F", "/").replace("%5C", "/");
        }
        if self.merge { merged(&seen) } else { seen }
    }

    /// Whether nothing in it needs a look: no escape, no NUL, no segment that begins with a dot,
    /// and nothing that a setting changes.
    fn is_canonical(self, path: &[u8]) -> bool {
        let mut after_slash = false;
        for &b in path {
            match b {
                b'%' | 0 => return false,
                b'\\' if self.decode => return false,
                b'.' if after_slash => return false,
                b'/' if after_slash && self.merge => return false,
                _ => after_slash = b == b'/',
            }
        }
        true
    }

    #[cold]
    fn respell(self, path: &str) -> Result<String, InvalidPath> {
        let mut out = Vec::with_capacity(path.len());
        let mut rest = path.bytes();
        while let Some(b) = rest.next() {
            match b {
                0 => return Err(InvalidPath::Nul),
                b'\\' if self.decode => out.push(b'/'),
                b'%' => {
                    let (Some(high), Some(low)) = (rest.next(), rest.next()) else {
                        return Err(InvalidPath::BrokenEscape);
                    };
                    match hex(high)? * 16 + hex(low)? {
                        0 => return Err(InvalidPath::Nul),
                        b'/' | b'\\' if self.decode => out.push(b'/'),
                        value if self.decode && is_unreserved(value) => out.push(value),
                        _ => {
                            out.extend([b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()])
                        }
                    }
                }
                _ => out.push(b),
            }
        }
        // Only ASCII was put in or taken out, so what was UTF-8 still is.
        String::from_utf8(out).map_err(|_| InvalidPath::BrokenEscape)
    }
}

/// A character whose escape means the same as itself (RFC 3986 section 2.3).
pub(super) fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

fn hex(digit: u8) -> Result<u8, InvalidPath> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(InvalidPath::BrokenEscape),
    }
}

/// The value of two hexadecimal digits.
pub(super) fn escaped(high: u8, low: u8) -> Option<u8> {
    Some(hex(high).ok()? * 16 + hex(low).ok()?)
}

/// How many levels a segment goes up, escaped or not; `None` is a name.
pub(super) fn dots(segment: &str) -> Option<u8> {
    let mut rest = segment;
    let mut dots = 0;
    while !rest.is_empty() {
        let dot = rest.strip_prefix('.').or_else(|| {
            let (escape, rest) = rest.split_at_checked(3)?;
            escape.eq_ignore_ascii_case("%2e").then_some(rest)
        });
        rest = dot?;
        dots += 1;
        if dots > 2 {
            return None;
        }
    }
    (dots > 0).then(|| dots - 1)
}

/// Resolves dot segments; then, where it is asked for, leaves out empty segments.
pub(super) fn resolve(path: &str, merge: bool) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in path.split('/').skip(1) {
        let up = dots(segment);
        match up {
            Some(0) => {}
            Some(_) => {
                kept.pop();
            }
            None => kept.push(segment),
        }
        directory = up.is_some() || segment.is_empty();
    }
    if path.ends_with('/') {
        // The empty segment after the last slash is written as that slash.
        kept.pop();
    }
    let mut out = String::with_capacity(path.len());
    for segment in kept.iter().filter(|s| !merge || !s.is_empty()) {
        out.push('/');
        out.push_str(segment);
    }
    if directory || out.is_empty() {
        out.push('/');
    }
    out
}

/// A path with its runs of `/` merged.
pub(super) fn merged(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}
