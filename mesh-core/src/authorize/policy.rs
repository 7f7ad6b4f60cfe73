//! Policies as their author writes them, checked when they are made, and the compiled policy of
//! one workload.
//!
//! Field names and meaning are those of Istio's AuthorizationPolicy. A rule matches if one of its
//! sources and one of its operations match; all fields of a source or operation must match; a
//! field matches if one of its patterns does. An absent list matches any; an empty one is an error
//! of the author and is refused where documents are read.

use std::sync::Arc;

use inmesh_pki::id::TrustDomain;

use super::pattern::{InvalidPolicy, Pattern, Texts, unread};
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

/// Conditions on the peer. At least one field is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicySource {
    /// SPIFFE IDs without `spiffe://`, e.g. `example.org/ns/shop/sa/web`.
    pub principals: Vec<Pattern>,
    /// IDs that must not match.
    pub not_principals: Vec<Pattern>,
    /// The namespace in the ID. Peers of other trust domains than the workload's have none.
    pub namespaces: Vec<Pattern>,
    /// Namespaces that must not match.
    pub not_namespaces: Vec<Pattern>,
    /// The trust domain of the ID.
    pub trust_domains: Vec<Pattern>,
    /// Trust domains that must not match.
    pub not_trust_domains: Vec<Pattern>,
}

/// Conditions on the request. At least one field is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operation {
    /// HTTP methods, in upper case.
    pub methods: Vec<Pattern>,
    /// Methods that must not match.
    pub not_methods: Vec<Pattern>,
    /// Paths without the query, in their one [`spelling`](super::spelling). They are compared with
    /// every [reading](super::Readings) of a request's path.
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
    /// The workload's own trust domain, where it is known before a peer is.
    pub(super) own: Option<TrustDomain>,
    /// Whether a condition on a path is in it.
    pub(super) paths: bool,
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
        self.add("principals", list, Texts::Principals, |s| &mut s.principals)
    }

    /// SPIFFE IDs that the peer must not have.
    pub fn not_principals<T: AsRef<str>>(self, list: impl IntoIterator<Item = T>) -> Self {
        self.add("notPrincipals", list, Texts::Principals, |s| {
            &mut s.not_principals
        })
    }

    /// Namespaces, one of which the peer's ID must name. They are those of the workload's own trust
    /// domain: a peer of another has no namespace, so an ALLOW does not match it and a DENY does.
    pub fn namespaces<T: AsRef<str>>(self, list: impl IntoIterator<Item = T>) -> Self {
        self.add("namespaces", list, Texts::Namespaces, |s| &mut s.namespaces)
    }

    /// Namespaces that the peer's ID must not name.
    pub fn not_namespaces<T: AsRef<str>>(self, list: impl IntoIterator<Item = T>) -> Self {
        self.add("notNamespaces", list, Texts::Namespaces, |s| {
            &mut s.not_namespaces
        })
    }

    /// Trust domains, one of which the peer's ID must be of.
    pub fn trust_domains<T: AsRef<str>>(self, list: impl IntoIterator<Item = T>) -> Self {
        self.add("trustDomains", list, Texts::TrustDomains, |s| {
            &mut s.trust_domains
        })
    }

    /// Trust domains that the peer's ID must not be of.
    pub fn not_trust_domains<T: AsRef<str>>(self, list: impl IntoIterator<Item = T>) -> Self {
        self.add("notTrustDomains", list, Texts::TrustDomains, |s| {
            &mut s.not_trust_domains
        })
    }

    /// The source.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] if all lists are empty, a pattern is malformed or can never match, or a
    /// principal also means other trust domains.
    pub fn build(self) -> Result<PolicySource, InvalidPolicy> {
        let source = self.0?;
        if source == PolicySource::default() {
            let message = "names no condition that is evaluated";
            return Err(InvalidPolicy::new("source", message));
        }
        Ok(source)
    }

    fn add<T: AsRef<str>>(
        self,
        field: &'static str,
        list: impl IntoIterator<Item = T>,
        of: Texts,
        place: fn(&mut PolicySource) -> &mut Vec<Pattern>,
    ) -> Self {
        Self(add(self.0, field, list, of, place))
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

    /// In an ALLOW rule, the place of a path that permits no request as long as one of its readings
    /// is not named too, and that reading.
    ///
    /// ```
    /// use inmesh_core::authorize::Operation;
    /// let half = Operation::builder().paths(["/repos/a%2Fb"]).build()?;
    /// assert_eq!(half.unread(), Some((0, "/repos/a/b".into())));
    /// let whole = Operation::builder().paths(["/repos/a%2Fb", "/repos/a/b"]).build()?;
    /// assert_eq!(whole.unread(), None);
    /// # Ok::<(), inmesh_core::authorize::InvalidPolicy>(())
    /// ```
    pub fn unread(&self) -> Option<(usize, String)> {
        unread(&self.paths)
    }
}

// === impl OperationBuilder ===

impl OperationBuilder {
    /// Methods in upper case, one of which the request must have.
    pub fn methods<T: AsRef<str>>(self, list: impl IntoIterator<Item = T>) -> Self {
        self.add("methods", list, Texts::Methods, |o| &mut o.methods)
    }

    /// Methods that the request must not have.
    pub fn not_methods<T: AsRef<str>>(self, list: impl IntoIterator<Item = T>) -> Self {
        self.add("notMethods", list, Texts::Methods, |o| &mut o.not_methods)
    }

    /// Paths, one of which the request must have. An escape may be written in any spelling.
    pub fn paths<T: AsRef<str>>(self, list: impl IntoIterator<Item = T>) -> Self {
        self.add("paths", list, Texts::Paths, |o| &mut o.paths)
    }

    /// Paths that the request must not have.
    pub fn not_paths<T: AsRef<str>>(self, list: impl IntoIterator<Item = T>) -> Self {
        self.add("notPaths", list, Texts::Paths, |o| &mut o.not_paths)
    }

    /// The operation.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] if all lists are empty, or a pattern is malformed or can never match: a
    /// method that is no token or not in upper case, a path that holds `//`, a dot segment, a
    /// backslash, an escape of a character that needs none, a query or a fragment.
    pub fn build(self) -> Result<Operation, InvalidPolicy> {
        let operation = self.0?;
        if operation == Operation::default() {
            let message = "names no condition that is evaluated";
            return Err(InvalidPolicy::new("operation", message));
        }
        Ok(operation)
    }

    fn add<T: AsRef<str>>(
        self,
        field: &'static str,
        list: impl IntoIterator<Item = T>,
        of: Texts,
        place: fn(&mut Operation) -> &mut Vec<Pattern>,
    ) -> Self {
        Self(add(self.0, field, list, of, place))
    }
}

/// Adds patterns to a list; the first error stays.
fn add<B, T: AsRef<str>>(
    to: Result<B, InvalidPolicy>,
    field: &'static str,
    list: impl IntoIterator<Item = T>,
    of: Texts,
    place: fn(&mut B) -> &mut Vec<Pattern>,
) -> Result<B, InvalidPolicy> {
    let mut to = to?;
    for text in list {
        let pattern = Pattern::of(field, text.as_ref(), of)?;
        place(&mut to).push(pattern);
    }
    Ok(to)
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
            own: None,
            paths: false,
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
        let on_paths = |rule: &PolicyRule| {
            rule.to
                .iter()
                .any(|o| !(o.paths.is_empty() && o.not_paths.is_empty()))
        };
        Self {
            default,
            own: None,
            paths: policies.iter().any(|p| p.rules.iter().any(on_paths)),
            broken,
            deny: of(|action| *action == Action::Deny),
            allow: of(|action| *action == Action::Allow),
            custom: of(|action| matches!(action, Action::Custom(_))),
        }
    }
    /// The same policy of a workload of a trust domain: a verified peer of another is foreign, even
    /// where it was not compared when it was identified.
    #[must_use]
    pub fn of_trust_domain(mut self, own: &TrustDomain) -> Self {
        self.own = Some(own.clone());
        self
    }
}
