//! Policies as their author writes them, checked when they are made, and the compiled policy of
//! one workload.
//!
//! Field names and meaning are those of Istio's AuthorizationPolicy. A rule matches if one of its
//! sources and one of its operations match; all fields of a source or operation must match; a
//! field matches if one of its patterns does. An absent list matches any; an empty one is an error
//! of the author and is refused where documents are read.

use std::fmt;
use std::sync::Arc;

use crate::model::{Namespace, ObjectKey, Selects, Workload};

/// What a policy does with what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Permits it; whatever no ALLOW policy of the workload matches is denied.
    Allow,
    /// Denies it, whatever else allows it.
    Deny,
}

/// What happens to a workload that no ALLOW policy selects. It must be written; nothing is hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DefaultAction {
    /// All but what a DENY policy matches is permitted.
    Allow,
    /// All is denied.
    Deny,
}

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

/// Who may be the peer. At least one field is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Source {
    /// SPIFFE IDs without `spiffe://`, e.g. `example.org/ns/shop/sa/web`.
    pub principals: Vec<Pattern>,
    /// IDs that must not match.
    pub not_principals: Vec<Pattern>,
    /// The namespace in the ID.
    pub namespaces: Vec<Pattern>,
    /// Namespaces that must not match.
    pub not_namespaces: Vec<Pattern>,
}

/// What may be asked. At least one field is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operation {
    /// HTTP methods, in upper case.
    pub methods: Vec<Pattern>,
    /// Methods that must not match.
    pub not_methods: Vec<Pattern>,
    /// Canonical paths, without the query.
    pub paths: Vec<Pattern>,
    /// Paths that must not match.
    pub not_paths: Vec<Pattern>,
}

/// One rule. Without sources and operations it matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rule {
    /// One of them must match; empty matches any peer.
    pub from: Vec<Source>,
    /// One of them must match; empty matches any request.
    pub to: Vec<Operation>,
}

/// An authorization policy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// The object it was read from; its namespace is the one it governs.
    pub key: ObjectKey,
    /// Labels that a workload must have; empty selects all of the namespace.
    pub selector: Vec<(Arc<str>, Arc<str>)>,
    /// What happens to what it matches.
    pub action: Action,
    /// Its rules; without any it matches nothing, so an ALLOW policy without rules denies all.
    pub rules: Vec<Rule>,
}

/// All policies of one workload, in the order of evaluation.
#[derive(Debug, Clone)]
pub struct WorkloadPolicy {
    pub(super) default: DefaultAction,
    pub(super) broken: Vec<ObjectKey>,
    pub(super) deny: Vec<Arc<Policy>>,
    pub(super) allow: Vec<Arc<Policy>>,
}

// === impl Pattern ===

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
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
        match &self.0 {
            Matcher::Any => f.write_str("*"),
            Matcher::Exact(exact) => f.write_str(exact),
            Matcher::Prefix(prefix) => write!(f, "{prefix}*"),
            Matcher::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

// === impl Source ===

impl Source {
    /// Reads a source from its four lists.
    ///
    /// # Errors
    /// [`InvalidPolicy`] if all lists are empty, a pattern is malformed, or a principal is written
    /// with its scheme.
    pub fn new(
        principals: &[&str],
        not_principals: &[&str],
        namespaces: &[&str],
        not_namespaces: &[&str],
    ) -> Result<Self, InvalidPolicy> {
        for (field, list) in [
            ("principals", principals),
            ("notPrincipals", not_principals),
        ] {
            if let Some(id) = list.iter().find(|id| id.starts_with("spiffe://")) {
                let message = format!("{id:?}: write the principal without \"spiffe://\"");
                return Err(InvalidPolicy { field, message });
            }
        }
        let source = Self {
            principals: patterns("principals", principals)?,
            not_principals: patterns("notPrincipals", not_principals)?,
            namespaces: patterns("namespaces", namespaces)?,
            not_namespaces: patterns("notNamespaces", not_namespaces)?,
        };
        if source == Self::default() {
            return Err(InvalidPolicy {
                field: "source",
                message: "it is empty; leave out `from` to match any peer".into(),
            });
        }
        Ok(source)
    }
}

// === impl Operation ===

impl Operation {
    /// Reads an operation from its four lists.
    ///
    /// # Errors
    /// [`InvalidPolicy`] if all lists are empty, a pattern is malformed, a method is not in upper
    /// case, or a path is neither a pattern nor begins with `/`.
    pub fn new(
        methods: &[&str],
        not_methods: &[&str],
        paths: &[&str],
        not_paths: &[&str],
    ) -> Result<Self, InvalidPolicy> {
        for (field, list) in [("methods", methods), ("notMethods", not_methods)] {
            if let Some(method) = list
                .iter()
                .find(|m| m.bytes().any(|b| b.is_ascii_lowercase()))
            {
                let message = format!("{method:?}: methods are case-sensitive and upper case");
                return Err(InvalidPolicy { field, message });
            }
        }
        for (field, list) in [("paths", paths), ("notPaths", not_paths)] {
            if let Some(path) = list.iter().find(|p| !p.starts_with(['/', '*'])) {
                let message = format!("{path:?}: a path begins with '/'");
                return Err(InvalidPolicy { field, message });
            }
            if let Some(path) = list.iter().find(|p| p.contains('{')) {
                let message = format!("{path:?}: path templates are not evaluated");
                return Err(InvalidPolicy { field, message });
            }
        }
        let operation = Self {
            methods: patterns("methods", methods)?,
            not_methods: patterns("notMethods", not_methods)?,
            paths: patterns("paths", paths)?,
            not_paths: patterns("notPaths", not_paths)?,
        };
        if operation == Self::default() {
            return Err(InvalidPolicy {
                field: "operation",
                message: "it is empty; leave out `to` to match any request".into(),
            });
        }
        Ok(operation)
    }
}

fn patterns(field: &'static str, list: &[&str]) -> Result<Vec<Pattern>, InvalidPolicy> {
    list.iter().map(|text| Pattern::new(field, text)).collect()
}

// === impl Rule ===

impl Rule {
    /// A rule of sources and operations; an empty list matches any.
    pub fn new(from: Vec<Source>, to: Vec<Operation>) -> Self {
        Self { from, to }
    }
}

// === impl Policy ===

impl Policy {
    /// A policy for all workloads of its object's namespace.
    pub fn new(key: ObjectKey, action: Action, rules: Vec<Rule>) -> Self {
        Self {
            key,
            selector: Vec::new(),
            action,
            rules,
        }
    }

    /// The same policy for workloads with this label as well.
    #[must_use]
    pub fn select(mut self, label: &str, value: &str) -> Self {
        self.selector.push((label.into(), value.into()));
        self
    }

    /// What it selects.
    pub fn selects(&self) -> Selects {
        Selects::Workloads(self.key.namespace.clone(), self.selector.clone())
    }
}

impl Selects {
    /// Whether it selects a workload; `mesh_wide` is the namespace whose policies govern all.
    pub(crate) fn covers(&self, workload: &Workload, mesh_wide: Option<&Namespace>) -> bool {
        let (namespace, labels): (_, &[_]) = match self {
            Self::Unknown => return true,
            Self::Namespace(namespace) => (namespace, &[]),
            Self::Workloads(namespace, labels) => (namespace, labels),
        };
        (*namespace == workload.namespace || Some(namespace) == mesh_wide)
            && labels
                .iter()
                .all(|(key, value)| workload.labels.get(key) == Some(value))
    }
}

// === impl WorkloadPolicy ===

impl WorkloadPolicy {
    /// The policy of a workload that nothing selects.
    pub fn empty(default: DefaultAction) -> Self {
        Self {
            default,
            broken: Vec::new(),
            deny: Vec::new(),
            allow: Vec::new(),
        }
    }

    /// Compiles the policies that select a workload. `broken` are those that were never good:
    /// while there is one, everything is denied.
    pub fn compile(
        default: DefaultAction,
        policies: impl IntoIterator<Item = Arc<Policy>>,
        broken: Vec<ObjectKey>,
    ) -> Self {
        let (mut deny, mut allow): (Vec<_>, Vec<_>) = policies
            .into_iter()
            .partition(|policy| policy.action == Action::Deny);
        // Names order the evaluation, so that the policy that is named as the reason is stable.
        deny.sort_by(|a, b| a.key.cmp(&b.key));
        allow.sort_by(|a, b| a.key.cmp(&b.key));
        Self {
            default,
            broken,
            deny,
            allow,
        }
    }
}
