//! The path of a rewrite or a redirect (Gateway API, HTTPPathModifier).

use std::borrow::Cow;
use std::sync::Arc;

use crate::authorize::canonical_path;
use crate::route::invalid::InvalidRoute;
use crate::route::matching::PathMatch;

/// What takes the place of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRewrite(PathChange);

#[derive(Debug, Clone, PartialEq, Eq)]
enum PathChange {
    Full(Arc<str>),
    /// Without a slash at its end unless it is `/`.
    Prefix(Arc<str>),
}

// === impl PathRewrite ===

impl PathRewrite {
    /// Replaces the whole path.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if `path` is not canonical (see [`canonical_path`]) or holds a query.
    pub fn full(path: &str) -> Result<Self, InvalidRoute> {
        Ok(Self(PathChange::Full(checked(path)?.into())))
    }

    /// Replaces the prefix that the request's path was matched by. An empty replacement is `/`.
    ///
    /// ```
    /// use inmesh_core::route::{PathMatch, PathRewrite};
    /// let v2 = PathRewrite::prefix("/v2")?;
    /// let matched = PathMatch::literal("/v1", true)?;
    /// assert_eq!(v2.apply("/v1/items", Some(&matched)), "/v2/items");
    /// # Ok::<(), inmesh_core::route::InvalidRoute>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if `path` is not canonical (see [`canonical_path`]) or holds a query.
    pub fn prefix(path: &str) -> Result<Self, InvalidRoute> {
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self(PathChange::Prefix(checked(path)?.into())))
    }

    /// The field of a document that asks for it, and its text.
    pub(in crate::route) fn parts(&self) -> (&'static str, &str) {
        match &self.0 {
            PathChange::Full(path) => ("replaceFullPath", path),
            PathChange::Prefix(path) => ("replacePrefixMatch", path),
        }
    }

    /// The path in place of `path`, which was matched by `matched`; `None` is the prefix `/`. A
    /// path that was matched by something other than a prefix stays, which no valid route does.
    pub fn apply<'p>(&'p self, path: &'p str, matched: Option<&PathMatch>) -> Cow<'p, str> {
        let replacement = match &self.0 {
            PathChange::Full(path) => return Cow::Borrowed(path),
            PathChange::Prefix(replacement) => replacement,
        };
        let prefix = match matched {
            None => "",
            Some(PathMatch::Prefix(prefix)) => prefix.as_str().trim_end_matches('/'),
            Some(_) => return Cow::Borrowed(path),
        };
        // As many segments as the prefix has: the path may spell them in another way.
        let segments = prefix.matches('/').count();
        match path.match_indices('/').nth(segments) {
            None => Cow::Borrowed(replacement),
            Some((at, _)) => {
                let rest = &path[at..];
                Cow::Owned(format!("{}{rest}", replacement.trim_end_matches('/')))
            }
        }
    }

    /// Whether it replaces the prefix that was matched.
    pub(super) fn needs_prefix(&self) -> bool {
        matches!(self.0, PathChange::Prefix(_))
    }
}

fn checked(path: &str) -> Result<&str, InvalidRoute> {
    if path.contains(['?', '#']) {
        let message = format!("{path:?}: a path holds no query and no fragment");
        return Err(InvalidRoute::new(message));
    }
    match canonical_path(path) {
        Ok(canonical) if canonical == path && path != "*" => Ok(path),
        Ok(canonical) => Err(InvalidRoute::new(format!(
            "{path:?} is not in canonical form; write {canonical:?}"
        ))),
        Err(e) => Err(InvalidRoute::new(format!("{path:?}: {e}"))),
    }
}
