//! The decision, pure: policy, peer and request in, permit or denial out.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Method};
use inmesh_pki::id::SpiffeId;

use super::WorkloadPolicy;
use super::policy::{Action, DefaultAction, Operation, Pattern, Policy, Rule, Source};
use crate::model::ObjectKey;

/// Who sends the request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// This process itself, outbound.
    Local,
    /// Nobody knows: a plaintext connection where that is permitted.
    Unauthenticated,
    /// The holder of this SPIFFE ID, verified by the TLS handshake.
    Verified(SpiffeId),
}

/// What is asked, as far as it can be seen.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum RequestView<'a> {
    /// An HTTP request.
    Http(HttpView<'a>),
    /// A connection whose bytes nobody looks into.
    Tcp,
}

/// The parts of an HTTP request that policies and routes speak of.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct HttpView<'a> {
    /// The method.
    pub method: &'a Method,
    /// The canonical path, without the query.
    pub path: &'a str,
    /// The query, without the `?`.
    pub query: Option<&'a str>,
    /// The header fields.
    pub headers: &'a HeaderMap,
}

/// Proof that a request was permitted. Only [`decide`] makes one, and no route is decided without.
#[derive(Debug, Clone)]
pub struct Permit {
    reason: PermitReason,
}

/// Why a request was permitted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PermitReason {
    /// No policy selects the workload and the written default allows.
    Default,
    /// It is this process's own request.
    Local,
    /// This ALLOW policy matched.
    Policy(Arc<Policy>),
    /// The path is one of the probe paths that the configuration names.
    Probe,
}

/// Why a request was denied, and by what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}{}", Named(.policy.as_ref()))]
#[non_exhaustive]
pub struct Denied {
    /// What decided.
    pub reason: DenyReason,
    /// The policy that decided, where one did.
    pub policy: Option<ObjectKey>,
}

/// The kinds of denial; each is a stable value in logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DenyReason {
    /// A policy that was never good selects the workload.
    BrokenPolicy,
    /// No ALLOW policy selects the workload and the written default denies.
    Default,
    /// A DENY policy matched.
    Matched,
    /// ALLOW policies select the workload and none matched.
    NotAllowed,
    /// The listener is strict and the peer has no identity.
    Plaintext,
}

/// One step of a decision, for whoever wants to know how it came about.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Step<'a> {
    /// A policy was looked at.
    Policy {
        /// Which.
        policy: &'a Policy,
        /// The rule that matched, counted from 0; `None` where none did.
        rule: Option<usize>,
    },
    /// A route's rule was looked at.
    Rule {
        /// The route.
        route: &'a ObjectKey,
        /// The rule, counted from 0.
        rule: usize,
        /// Whether it matched.
        matched: bool,
    },
}

/// Sees the steps of a decision; `()` sees nothing and costs nothing.
pub trait Trace {
    /// A step was made.
    fn saw(&mut self, step: Step<'_>);
}

/// Decides whether a request is permitted.
///
/// 1. A policy that was never good denies.
/// 2. A DENY policy with a rule that matches denies. A rule that cannot be evaluated (the peer has
///    no identity, or the connection is opaque and the rule speaks of HTTP) counts as matching.
/// 3. Where ALLOW policies select the workload, one must have a rule that matches; a rule that
///    cannot be evaluated does not.
/// 4. Else the written default decides.
///
/// ```
/// use inmesh_core::authorize::{decide, DefaultAction, Peer, RequestView, WorkloadPolicy};
/// let policy = WorkloadPolicy::empty(DefaultAction::Deny);
/// assert!(decide(&policy, &Peer::Unauthenticated, &RequestView::Tcp, &mut ()).is_err());
/// ```
///
/// # Errors
/// [`Denied`] with the reason and the policy that decided.
pub fn decide(
    policy: &WorkloadPolicy,
    peer: &Peer,
    request: &RequestView<'_>,
    trace: &mut impl Trace,
) -> Result<Permit, Denied> {
    if *peer == Peer::Local {
        return Ok(Permit::new(PermitReason::Local));
    }
    if let Some(broken) = policy.broken.first() {
        return Err(Denied::new(DenyReason::BrokenPolicy, Some(broken)));
    }
    let peer = PeerParts::of(peer);
    for deny in &policy.deny {
        if first_match(deny, &peer, request, trace) {
            return Err(Denied::new(DenyReason::Matched, Some(&deny.key)));
        }
    }
    for allow in &policy.allow {
        if first_match(allow, &peer, request, trace) {
            return Ok(Permit::new(PermitReason::Policy(allow.clone())));
        }
    }
    match policy.default {
        _ if !policy.allow.is_empty() => Err(Denied::new(DenyReason::NotAllowed, None)),
        DefaultAction::Allow => Ok(Permit::new(PermitReason::Default)),
        DefaultAction::Deny => Err(Denied::new(DenyReason::Default, None)),
    }
}

/// The parts of a peer's name that patterns are compared with.
struct PeerParts<'a> {
    principal: Option<&'a str>,
    namespace: Option<&'a str>,
}

fn first_match(
    policy: &Policy,
    peer: &PeerParts<'_>,
    request: &RequestView<'_>,
    trace: &mut impl Trace,
) -> bool {
    // What cannot be known counts against the request: matching in DENY, not matching in ALLOW.
    let unknown = policy.action == Action::Deny;
    let rule = policy
        .rules
        .iter()
        .position(|rule| rule_matches(rule, peer, request, unknown));
    trace.saw(Step::Policy { policy, rule });
    rule.is_some()
}

fn rule_matches(
    rule: &Rule,
    peer: &PeerParts<'_>,
    request: &RequestView<'_>,
    unknown: bool,
) -> bool {
    (rule.from.is_empty() || rule.from.iter().any(|s| source_matches(s, peer, unknown)))
        && (rule.to.is_empty()
            || rule
                .to
                .iter()
                .any(|o| operation_matches(o, request, unknown)))
}

fn source_matches(source: &Source, peer: &PeerParts<'_>, unknown: bool) -> bool {
    field(
        &source.principals,
        &source.not_principals,
        peer.principal,
        unknown,
    ) && field(
        &source.namespaces,
        &source.not_namespaces,
        peer.namespace,
        unknown,
    )
}

fn operation_matches(operation: &Operation, request: &RequestView<'_>, unknown: bool) -> bool {
    let (method, path) = match request {
        RequestView::Http(http) => (Some(http.method.as_str()), Some(http.path)),
        RequestView::Tcp => (None, None),
    };
    field(&operation.methods, &operation.not_methods, method, unknown)
        && field(&operation.paths, &operation.not_paths, path, unknown)
}

/// Whether a value satisfies a field and its negation; `unknown` is the answer for a value that is
/// not there while the field asks for one.
fn field(wanted: &[Pattern], unwanted: &[Pattern], value: Option<&str>, unknown: bool) -> bool {
    if wanted.is_empty() && unwanted.is_empty() {
        return true;
    }
    let Some(value) = value else { return unknown };
    (wanted.is_empty() || wanted.iter().any(|p| p.matches(value)))
        && !unwanted.iter().any(|p| p.matches(value))
}

// === impl HttpView ===

impl<'a> HttpView<'a> {
    /// A view of a request's parts; `path` is the canonical one.
    pub fn new(
        method: &'a Method,
        path: &'a str,
        query: Option<&'a str>,
        headers: &'a HeaderMap,
    ) -> Self {
        Self {
            method,
            path,
            query,
            headers,
        }
    }
}

// === impl Permit ===

impl Permit {
    fn new(reason: PermitReason) -> Self {
        Self { reason }
    }

    /// The permit of a probe: a GET of exactly one of the paths that the configuration names.
    /// `None` for all other requests, which [`decide`] judges.
    pub fn probe<P: AsRef<str>>(probes: &[P], request: &RequestView<'_>) -> Option<Self> {
        match request {
            RequestView::Http(http) if *http.method == Method::GET => probes
                .iter()
                .any(|probe| probe.as_ref() == http.path)
                .then(|| Self::new(PermitReason::Probe)),
            _ => None,
        }
    }

    /// Why.
    pub fn reason(&self) -> &PermitReason {
        &self.reason
    }
}

// === impl Denied ===

impl Denied {
    fn new(reason: DenyReason, policy: Option<&ObjectKey>) -> Self {
        Self {
            reason,
            policy: policy.cloned(),
        }
    }

    /// The denial of a plaintext connection by a strict listener.
    pub fn plaintext() -> Self {
        Self::new(DenyReason::Plaintext, None)
    }
}

struct Named<'a>(Option<&'a ObjectKey>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(key) => write!(f, ": {key}"),
            None => Ok(()),
        }
    }
}

impl PeerParts<'_> {
    fn of(peer: &Peer) -> PeerParts<'_> {
        match peer {
            Peer::Verified(id) => PeerParts {
                principal: Some(id.as_str().trim_start_matches("spiffe://")),
                namespace: id.workload().map(|(namespace, _)| namespace),
            },
            Peer::Local | Peer::Unauthenticated => PeerParts {
                principal: None,
                namespace: None,
            },
        }
    }
}

// === impl DenyReason ===

impl DenyReason {
    /// Its stable name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BrokenPolicy => "broken-policy",
            Self::Default => "default-deny",
            Self::Matched => "deny-policy",
            Self::NotAllowed => "not-allowed",
            Self::Plaintext => "plaintext",
        }
    }
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BrokenPolicy => "denied: a policy that selects this workload was refused",
            Self::Default => "denied: no policy allows it and the default action is deny",
            Self::Matched => "denied by a DENY policy",
            Self::NotAllowed => "denied: no ALLOW policy matches",
            Self::Plaintext => "denied: plaintext where mutual TLS is required",
        })
    }
}

// === impl Trace ===

impl Trace for () {
    fn saw(&mut self, _: Step<'_>) {}
}
