//! Policies as their author writes them, checked when they are made, and the compiled policy of
//! one workload.
//!
//! Field names and meaning are those of Istio's AuthorizationPolicy. A rule matches if one of its
//! sources and one of its operations match; all fields of a source or operation must match; a
//! field matches if one of its patterns does. An absent list matches any; an empty one is an error
//! of the author and is refused where documents are read.

use std::fmt;
use std::sync::Arc;

use crate::model::{Namespace, ObjectKey, Workload};

/// What a policy does with what it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Permits it; requests that no ALLOW policy of the workload matches are denied.
    Allow,
    /// Asks an external authorizer, once all other policies permit it.
    Custom(Provider),
    /// Denies it, whatever else allows it.
    Deny,
}

/// An external authorizer, as a policy names it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Provider {
    /// The name that the runtime knows it by.
    pub name: Arc<str>,
    /// What happens to a request that it gives no answer for.
    pub on_failure: FailureMode,
}

/// What happens to a request that an external authorizer gives no answer for in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum FailureMode {
    /// It is permitted.
    Allow,
    /// It is denied.
    #[default]
    Deny,
}

/// What happens to requests of a workload that no ALLOW policy selects. It must be written.
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

/// Conditions on the peer. At least one field is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicySource {
    /// SPIFFE IDs without `spiffe://`, e.g. `example.org/ns/shop/sa/web`.
    pub principals: Vec<Pattern>,
    /// IDs that must not match.
    pub not_principals: Vec<Pattern>,
    /// The namespace in the ID.
    pub namespaces: Vec<Pattern>,
    /// Namespaces that must not match.
    pub not_namespaces: Vec<Pattern>,
}

/// Conditions on the request. At least one field is given.
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
pub struct PolicyRule {
    /// One of them must match; empty matches any peer.
    pub from: Vec<PolicySource>,
    /// One of them must match; empty matches any request.
    pub to: Vec<Operation>,
}

/// An authorization policy.
///
/// ```
/// use inmesh_core::authorize::{Action, Operation, Policy, PolicyRule, PolicySource};
/// use inmesh_core::model::{Kind, Namespace, ObjectKey};
///
/// let ops = PolicySource::builder().namespaces(["ops"]).build()?;
/// let metrics = Operation::builder().methods(["GET"]).paths(["/metrics"]).build()?;
/// let shop = Namespace::new("shop")?;
/// let key = ObjectKey::new(Kind::AuthorizationPolicy, &shop, "scrape")?;
/// let policy = Policy::new(key, Action::Allow, vec![PolicyRule::new(vec![ops], vec![metrics])]);
/// let policy = policy.select("app", "cart");
/// assert_eq!(policy.selector.len(), 1);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
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
    pub rules: Vec<PolicyRule>,
}

/// All policies of one workload, in the order of evaluation.
///
/// ```
/// use std::sync::Arc;
///
/// use inmesh_core::authorize::{Action, DefaultAction, Policy, PolicyRule, WorkloadPolicy};
/// use inmesh_core::model::{Kind, Namespace, ObjectKey};
///
/// let shop = Namespace::new("shop")?;
/// let key = ObjectKey::new(Kind::AuthorizationPolicy, &shop, "nothing-leaves")?;
/// let policy = Policy::new(key, Action::Deny, vec![PolicyRule::default()]);
/// // An egress policy, for `Local::with_egress`.
/// let egress = WorkloadPolicy::compile(DefaultAction::Allow, [Arc::new(policy)], vec![]);
/// # drop(egress);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct WorkloadPolicy {
    pub(super) default: DefaultAction,
    pub(super) broken: Vec<ObjectKey>,
    pub(super) deny: Vec<Arc<Policy>>,
    pub(super) allow: Vec<Arc<Policy>>,
    pub(super) custom: Vec<Arc<Policy>>,
}

/// Builds a [`PolicySource`] from lists of patterns; an absent list matches any peer.
#[derive(Debug, Clone)]
#[must_use]
pub struct SourceBuilder(Result<PolicySource, InvalidPolicy>);

/// Builds an [`Operation`] from lists of patterns; an absent list matches any request.
#[derive(Debug, Clone)]
#[must_use]
pub struct OperationBuilder(Result<Operation, InvalidPolicy>);

/// Workloads that a policy selects, as far as that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selects {
    /// Every workload of the namespace: the selector cannot be read.
    Namespace(Namespace),
    /// Every workload, and none of them is ready: not even the namespace can be read.
    Unknown,
    /// Workloads of the namespace with all these labels.
    Workloads(Namespace, Vec<(Arc<str>, Arc<str>)>),
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

// === impl InvalidPolicy ===

impl InvalidPolicy {
    pub(crate) fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self {
            field,
            message: message.into(),
        }
    }
}

// === impl Provider ===

impl Provider {
    /// An authorizer without whose answer a request is denied.
    ///
    /// ```
    /// use inmesh_core::authorize::{FailureMode, Provider};
    /// assert_eq!(Provider::new("opa").on_failure, FailureMode::Deny);
    /// ```
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            on_failure: FailureMode::Deny,
        }
    }

    /// The same authorizer with another failure mode.
    #[must_use]
    pub fn with_failure_mode(mut self, mode: FailureMode) -> Self {
        self.on_failure = mode;
        self
    }
}

// === impl PolicySource ===

impl PolicySource {
    /// Begins a source.
    ///
    /// ```
    /// use inmesh_core::authorize::PolicySource;
    /// let shop = PolicySource::builder()
    ///     .namespaces(["shop"])
    ///     .not_principals(["example.org/ns/shop/sa/guest"])
    ///     .build()?;
    /// assert_eq!(shop.namespaces.len(), 1);
    /// assert!(PolicySource::builder().build().is_err(), "it would match any peer");
    /// # Ok::<(), inmesh_core::authorize::InvalidPolicy>(())
    /// ```
    pub fn builder() -> SourceBuilder {
        SourceBuilder(Ok(Self::default()))
    }
}

// === impl SourceBuilder ===

impl SourceBuilder {
    /// SPIFFE IDs without `spiffe://`, one of which the peer must have.
    pub fn principals<T: AsRef<str>>(self, list: impl IntoIterator<Item = T>) -> Self {
        self.add("principals", list, is_principal, |s| &mut s.principals)
    }

    /// SPIFFE IDs that the peer must not have.
    pub fn not_principals<T: AsRef<str>>(self, list: impl IntoIterator<Item = T>) -> Self {
        self.add("notPrincipals", list, is_principal, |s| {
            &mut s.not_principals
        })
    }

    /// Namespaces, one of which the peer's ID must name.
    pub fn namespaces<T: AsRef<str>>(self, list: impl IntoIterator<Item = T>) -> Self {
        self.add("namespaces", list, is_any, |s| &mut s.namespaces)
    }

    /// Namespaces that the peer's ID must not name.
    pub fn not_namespaces<T: AsRef<str>>(self, list: impl IntoIterator<Item = T>) -> Self {
        self.add("notNamespaces", list, is_any, |s| &mut s.not_namespaces)
    }

    /// The source.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] if all lists are empty, a pattern is malformed, or a principal is written
    /// with its scheme.
    pub fn build(self) -> Result<PolicySource, InvalidPolicy> {
        let source = self.0?;
        if source == PolicySource::default() {
            let message = "it is empty; leave out `from` to match any peer";
            return Err(InvalidPolicy::new("source", message));
        }
        Ok(source)
    }

    fn add<T: AsRef<str>>(
        self,
        field: &'static str,
        list: impl IntoIterator<Item = T>,
        check: Check,
        place: fn(&mut PolicySource) -> &mut Vec<Pattern>,
    ) -> Self {
        Self(add(self.0, field, list, check, place))
    }
}

// === impl Operation ===

impl Operation {
    /// Begins an operation.
    ///
    /// ```
    /// use inmesh_core::authorize::Operation;
    /// let read = Operation::builder().methods(["GET"]).paths(["/items/*"]).build()?;
    /// assert_eq!((read.methods.len(), read.paths.len()), (1, 1));
    /// assert!(Operation::builder().methods(["get"]).build().is_err(), "it would never match");
    /// # Ok::<(), inmesh_core::authorize::InvalidPolicy>(())
    /// ```
    pub fn builder() -> OperationBuilder {
        OperationBuilder(Ok(Self::default()))
    }
}

// === impl OperationBuilder ===

impl OperationBuilder {
    /// Methods in upper case, one of which the request must have.
    pub fn methods<T: AsRef<str>>(self, list: impl IntoIterator<Item = T>) -> Self {
        self.add("methods", list, is_method, |o| &mut o.methods)
    }

    /// Methods that the request must not have.
    pub fn not_methods<T: AsRef<str>>(self, list: impl IntoIterator<Item = T>) -> Self {
        self.add("notMethods", list, is_method, |o| &mut o.not_methods)
    }

    /// Canonical paths, one of which the request must have.
    pub fn paths<T: AsRef<str>>(self, list: impl IntoIterator<Item = T>) -> Self {
        self.add("paths", list, is_path, |o| &mut o.paths)
    }

    /// Paths that the request must not have.
    pub fn not_paths<T: AsRef<str>>(self, list: impl IntoIterator<Item = T>) -> Self {
        self.add("notPaths", list, is_path, |o| &mut o.not_paths)
    }

    /// The operation.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] if all lists are empty, a pattern is malformed, a method is not in upper
    /// case, or a path is neither a pattern nor begins with `/`.
    pub fn build(self) -> Result<Operation, InvalidPolicy> {
        let operation = self.0?;
        if operation == Operation::default() {
            let message = "it is empty; leave out `to` to match any request";
            return Err(InvalidPolicy::new("operation", message));
        }
        Ok(operation)
    }

    fn add<T: AsRef<str>>(
        self,
        field: &'static str,
        list: impl IntoIterator<Item = T>,
        check: Check,
        place: fn(&mut Operation) -> &mut Vec<Pattern>,
    ) -> Self {
        Self(add(self.0, field, list, check, place))
    }
}

/// What is wrong with a text of a field, beyond its being a pattern.
type Check = fn(&str) -> Option<String>;

/// Adds patterns to a list; the first error stays.
fn add<B, T: AsRef<str>>(
    of: Result<B, InvalidPolicy>,
    field: &'static str,
    list: impl IntoIterator<Item = T>,
    check: Check,
    place: fn(&mut B) -> &mut Vec<Pattern>,
) -> Result<B, InvalidPolicy> {
    let mut of = of?;
    for text in list {
        let text = text.as_ref();
        if let Some(message) = check(text) {
            return Err(InvalidPolicy::new(field, message));
        }
        place(&mut of).push(Pattern::new(field, text)?);
    }
    Ok(of)
}

fn is_any(_: &str) -> Option<String> {
    None
}

fn is_principal(id: &str) -> Option<String> {
    id.starts_with("spiffe://")
        .then(|| format!("{id:?}: write the principal without \"spiffe://\""))
}

fn is_method(method: &str) -> Option<String> {
    method
        .bytes()
        .any(|b| b.is_ascii_lowercase())
        .then(|| format!("{method:?}: methods are case-sensitive and upper case"))
}

fn is_path(path: &str) -> Option<String> {
    if !path.starts_with(['/', '*']) {
        Some(format!("{path:?}: a path begins with '/'"))
    } else if path.contains('{') {
        Some(format!("{path:?}: path templates are not evaluated"))
    } else {
        None
    }
}

// === impl PolicyRule ===

impl PolicyRule {
    /// A rule of sources and operations; an empty list matches any.
    pub fn new(from: Vec<PolicySource>, to: Vec<Operation>) -> Self {
        Self { from, to }
    }
}

// === impl Policy ===

impl Policy {
    /// A policy for all workloads of its object's namespace.
    pub fn new(key: ObjectKey, action: Action, rules: Vec<PolicyRule>) -> Self {
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
            custom: Vec::new(),
        }
    }

    /// Compiles the policies that select a workload. `broken` are those that were never good:
    /// while there is one, everything is denied.
    pub fn compile(
        default: DefaultAction,
        policies: impl IntoIterator<Item = Arc<Policy>>,
        broken: Vec<ObjectKey>,
    ) -> Self {
        // Names order the evaluation, so that the policy that is named as the reason is stable.
        let mut policies: Vec<_> = policies.into_iter().collect();
        policies.sort_by(|a, b| a.key.cmp(&b.key));
        let of = |wanted: fn(&Action) -> bool| -> Vec<_> {
            let of_action = policies.iter().filter(|policy| wanted(&policy.action));
            of_action.cloned().collect()
        };
        Self {
            default,
            broken,
            deny: of(|action| *action == Action::Deny),
            allow: of(|action| *action == Action::Allow),
            custom: of(|action| matches!(action, Action::Custom(_))),
        }
    }
}
