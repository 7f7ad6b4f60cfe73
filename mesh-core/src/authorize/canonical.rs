//! One canonical path: what is decided on is what is forwarded.
//!
//! In comes the path of a request target without its query; out comes the path that policies,
//! routes and the application all see. The form is the one that Istio calls
//! `DECODE_AND_MERGE_SLASHES`, so that no spelling of a path slips past a rule for it. It refuses
//! what has no single meaning: NUL, a broken escape, a path that does not begin with `/`.

use std::borrow::Cow;

use http::{Method, Request, Uri};

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

/// Brings a path into its canonical form.
///
/// 1. `\`, `%2F` and `%5C` become `/`.
/// 2. Escapes of unreserved characters (RFC 3986 section 2.3) are decoded, once; all others stay.
/// 3. `.` and `..` segments are resolved (RFC 3986 section 5.2.4) and never climb above the root;
///    an empty segment counts as one, so `/a//../b` is `/a/b`, as Envoy has it.
/// 4. Runs of `/` become one.
///
/// A path that is canonical already is borrowed, so the common case allocates nothing. The
/// function is idempotent.
///
/// ```
/// use inmesh_core::authorize::canonical_path;
/// assert_eq!(canonical_path("/app/%2e%2E%2f/admin")?, "/admin");
/// assert!(canonical_path("/admin%00").is_err());
/// # Ok::<(), inmesh_core::authorize::InvalidPath>(())
/// ```
///
/// # Errors
///
/// [`InvalidPath`] says which rule the path breaks.
pub fn canonical_path(path: &str) -> Result<Cow<'_, str>, InvalidPath> {
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    let first = path.as_bytes().first().copied();
    if !matches!(first, Some(b'/' | b'\\')) {
        return Err(InvalidPath::NoLeadingSlash);
    }
    if is_canonical(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    decode(path.as_bytes()).map(|decoded| Cow::Owned(resolve(&decoded)))
}

/// Rewrites the path of a request into its canonical form; says whether it had another.
pub(crate) fn canonicalize<B>(request: &mut Request<B>) -> Result<bool, Error> {
    let invalid = |what: String| Error::new(Reason::InvalidRequest, what);
    let path = request.uri().path();
    if path == "*" && request.method() != Method::OPTIONS {
        return Err(invalid("only OPTIONS asks for '*'".to_owned()));
    }
    let canonical = canonical_path(path).map_err(|e| invalid(e.to_string()))?;
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
    Ok(changed)
}

/// Whether nothing in it needs a look: no escape, no backslash, no `//`, no segment that begins
/// with a dot.
fn is_canonical(path: &[u8]) -> bool {
    let mut after_slash = false;
    for &b in path {
        match b {
            b'%' | b'\\' | 0 => return false,
            b'/' | b'.' if after_slash => return false,
            _ => after_slash = b == b'/',
        }
    }
    true
}

fn decode(path: &[u8]) -> Result<String, InvalidPath> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.iter().copied();
    while let Some(b) = rest.next() {
        match b {
            0 => return Err(InvalidPath::Nul),
            b'\\' => out.push(b'/'),
            b'%' => {
                let (Some(high), Some(low)) = (rest.next(), rest.next()) else {
                    return Err(InvalidPath::BrokenEscape);
                };
                let value = hex(high)? * 16 + hex(low)?;
                match value {
                    0 => return Err(InvalidPath::Nul),
                    b'/' | b'\\' => out.push(b'/'),
                    b'-' | b'.' | b'_' | b'~' => out.push(value),
                    _ if value.is_ascii_alphanumeric() => out.push(value),
                    _ => out.extend([b'%', high, low]),
                }
            }
            _ => out.push(b),
        }
    }
    // Only ASCII was put in or taken out, so what was UTF-8 still is.
    String::from_utf8(out).map_err(|_| InvalidPath::BrokenEscape)
}

fn hex(digit: u8) -> Result<u8, InvalidPath> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(InvalidPath::BrokenEscape),
    }
}

fn resolve(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in path.split('/').skip(1) {
        directory = matches!(segment, "" | "." | "..");
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in kept.iter().filter(|s| !s.is_empty()) {
        out.push('/');
        out.push_str(segment);
    }
    if directory || out.is_empty() {
        out.push('/');
    }
    out
}
