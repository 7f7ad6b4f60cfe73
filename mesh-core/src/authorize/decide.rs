//! The decision, pure: policy, peer and request in, permit or denial out.

use std::fmt;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Request};
use inmesh_pki::id::{SpiffeId, TrustDomain};

use super::pattern::Pattern;
use super::policy::{
    Action, DefaultAction, FailureMode, Operation, Policy, PolicyRule, PolicySource, Provider,
    WorkloadPolicy,
};
use super::reading::Readings;
use super::trace::{Step, Trace};
use super::view::{HttpView, RequestView};
use crate::error::{Error, Reason};
use crate::identify::Peer;
use crate::model::ObjectKey;

/// What [`decide`] says of a request.
#[derive(Debug, Clone)]
#[must_use]
#[non_exhaustive]
pub enum Verdict {
    /// It is permitted if external authorizers permit it too.
    Ask(Ask),
    /// It is denied.
    Denied(Denied),
    /// It is permitted.
    Permitted(Permit),
}

/// A request that all policies permit but those that leave it to external authorizers.
#[derive(Debug, Clone)]
pub struct Ask(Box<AskState>);

/// In a box, because most verdicts are none.
#[derive(Debug, Clone)]
struct AskState {
    permit: Permit,
    /// The CUSTOM policies to ask, the next one last.
    policies: Vec<Arc<Policy>>,
}

/// What an external authorizer said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// It permits the request.
    Allow,
    /// It denies the request.
    Deny,
    /// It did not answer, or not in time: the policy's failure mode decides.
    Failed,
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
    /// An external authorizer denied it, or gave no answer where the policy then denies.
    Authorizer,
    /// A policy that was never good selects the workload.
    BrokenPolicy,
    /// No ALLOW policy selects the workload and the written default denies.
    Default,
    /// A DENY policy matched.
    Matched,
    /// No policy of the workload is known yet.
    NoPolicy,
    /// ALLOW policies select the workload and none matched.
    NotAllowed,
    /// The listener is strict and the peer has no identity.
    Plaintext,
}

/// What of a policy's rule a request meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Met {
    pub(crate) sources: bool,
    pub(crate) operations: bool,
}

/// Decides whether a request is permitted.
///
/// 1. A policy that was never good denies.
/// 2. A DENY policy with a rule that matches denies. A rule that cannot be evaluated (the peer has
///    no identity or, for namespaces, one of another trust domain; or the connection is opaque and
///    the rule is about HTTP) counts as matching. It matches if any reading of the path does, and
///    of the method: many servers take `delete` for DELETE.
/// 3. If ALLOW policies select the workload, one must have a rule that matches, for each reading of
///    the path and of the method; a rule that cannot be evaluated does not.
/// 4. Else the written default decides.
/// 5. What is permitted by then and matched by CUSTOM policies is left to their authorizers, with
///    the rule of 2. They are asked last, which permits the same requests as asking them first and
///    spares them those that are denied anyway.
///
/// An outbound request has the peer [`Peer::Local`], which satisfies no condition on the source.
///
/// ```
/// use inmesh_core::authorize::{DefaultAction, RequestView, Verdict, WorkloadPolicy, decide};
/// use inmesh_core::identify::Peer;
/// let policy = WorkloadPolicy::empty(DefaultAction::Deny);
/// let verdict = decide(&policy, &Peer::Unauthenticated, &RequestView::Tcp, &mut ());
/// assert!(matches!(verdict, Verdict::Denied(_)));
/// ```
pub fn decide(
    policy: &WorkloadPolicy,
    peer: &Peer,
    request: &RequestView<'_>,
    trace: &mut impl Trace,
) -> Verdict {
    if let Some(broken) = policy.broken.first() {
        return Denied::new(DenyReason::BrokenPolicy, Some(broken)).into();
    }
    let peer = PeerParts::of(peer, policy.own.as_ref());
    let request = &RequestParts::of(request, policy.paths);
    for deny in &policy.deny {
        if first_match(deny, &peer, request, trace) {
            return Denied::new(DenyReason::Matched, Some(&deny.key)).into();
        }
    }
    let allowed = policy
        .allow
        .iter()
        .find(|allow| first_match(allow, &peer, request, trace));
    let permit = Permit::new(match (allowed, policy.default) {
        (Some(allow), _) => PermitReason::Policy(Arc::clone(allow)),
        _ if !policy.allow.is_empty() => {
            return Denied::new(DenyReason::NotAllowed, None).into();
        }
        (None, DefaultAction::Allow) => PermitReason::Default,
        (None, DefaultAction::Deny) => return Denied::new(DenyReason::Default, None).into(),
    });
    if policy.custom.is_empty() {
        return Verdict::Permitted(permit);
    }
    let custom = policy.custom.iter().rev();
    let policies: Vec<_> = custom
        .filter(|custom| first_match(custom, &peer, request, trace))
        .cloned()
        .collect();
    if policies.is_empty() {
        Verdict::Permitted(permit)
    } else {
        Verdict::Ask(Ask(Box::new(AskState { permit, policies })))
    }
}

/// The parts of a peer's name that patterns are compared with.
pub(super) struct PeerParts<'a> {
    pub(super) principal: Option<&'a str>,
    pub(super) namespace: Option<&'a str>,
    pub(super) id: Option<&'a SpiffeId>,
}

/// The parts of a request that patterns are compared with.
pub(super) struct RequestParts<'a> {
    pub(super) method: Option<&'a str>,
    pub(super) path: Option<&'a str>,
    /// What else it may mean, where it may mean several things.
    pub(super) others: Option<Box<Others<'a>>>,
}

/// What a request may mean to the server that gets it, besides what it says.
pub(super) struct Others<'a> {
    /// The method in upper case, where it is not written so.
    method: Option<String>,
    /// The readings of the path, where it may have several and a policy asks for them.
    paths: Option<Readings<'a>>,
}

/// A method and a path, where there are any.
type Reading<'a> = (Option<&'a str>, Option<&'a str>);

fn first_match(
    policy: &Policy,
    peer: &PeerParts<'_>,
    request: &RequestParts<'_>,
    trace: &mut impl Trace,
) -> bool {
    // What cannot be known counts against the request: it matches unless a match allows.
    let unknown = policy.action != Action::Allow;
    let rule = match &request.others {
        None => rule_for(policy, peer, request.method, request.path, unknown),
        Some(others) => rule_for_each(policy, peer, request, others, unknown),
    };
    trace.saw(Step::Policy { policy, rule });
    rule.is_some()
}

/// The first rule that matches.
#[inline]
fn rule_for(
    policy: &Policy,
    peer: &PeerParts<'_>,
    method: Option<&str>,
    path: Option<&str>,
    unknown: bool,
) -> Option<usize> {
    let mut rules = policy.rules.iter();
    rules.position(|rule| rule_matches(rule, peer, method, path, unknown))
}

/// The same where a request has several readings: one that matches is enough, unless a match allows.
#[cold]
fn rule_for_each(
    policy: &Policy,
    peer: &PeerParts<'_>,
    request: &RequestParts<'_>,
    others: &Others<'_>,
    unknown: bool,
) -> Option<usize> {
    let each = others.readings(request).into_iter();
    let mut rules = each.map(|(method, path)| rule_for(policy, peer, method, path, unknown));
    if unknown {
        return rules.find_map(|rule| rule);
    }
    let first = rules.next().flatten();
    first.filter(|_| rules.all(|rule| rule.is_some()))
}

#[inline]
fn rule_matches(
    rule: &PolicyRule,
    peer: &PeerParts<'_>,
    method: Option<&str>,
    path: Option<&str>,
    unknown: bool,
) -> bool {
    sources_match(rule, peer, unknown) && operations_match(rule, method, path, unknown)
}

#[inline]
pub(super) fn sources_match(rule: &PolicyRule, peer: &PeerParts<'_>, unknown: bool) -> bool {
    rule.from.is_empty() || rule.from.iter().any(|s| source_matches(s, peer, unknown))
}

#[inline]
pub(super) fn operations_match(
    rule: &PolicyRule,
    method: Option<&str>,
    path: Option<&str>,
    unknown: bool,
) -> bool {
    let operation = |o: &Operation| {
        field(&o.methods, &o.not_methods, method, unknown)
            && field(&o.paths, &o.not_paths, path, unknown)
    };
    rule.to.is_empty() || rule.to.iter().any(operation)
}

/// What a request meets of each rule of a policy that is a part of `of`. A request with several
/// readings meets operations as it does for [`decide`].
pub(crate) fn met(
    policy: &Policy,
    of: &WorkloadPolicy,
    peer: &Peer,
    request: &RequestView<'_>,
) -> Vec<Met> {
    let (peer, parts) = (
        PeerParts::of(peer, of.own.as_ref()),
        RequestParts::of(request, of.paths),
    );
    let unknown = policy.action != Action::Allow;
    let met = |rule: &PolicyRule| Met {
        sources: sources_match(rule, &peer, unknown),
        operations: match &parts.others {
            None => operations_match(rule, parts.method, parts.path, unknown),
            Some(others) => {
                let mut each = others.readings(&parts).into_iter();
                let one = |(method, path)| operations_match(rule, method, path, unknown);
                if unknown {
                    each.any(one)
                } else {
                    each.all(one)
                }
            }
        },
    };
    policy.rules.iter().map(met).collect()
}

#[inline]
fn source_matches(source: &PolicySource, peer: &PeerParts<'_>, unknown: bool) -> bool {
    let (principals, not_principals) = (&source.principals, &source.not_principals);
    let (namespaces, not_namespaces) = (&source.namespaces, &source.not_namespaces);
    let (domains, not_domains) = (&source.trust_domains, &source.not_trust_domains);
    field(principals, not_principals, peer.principal, unknown)
        && field(namespaces, not_namespaces, peer.namespace, unknown)
        && ((domains.is_empty() && not_domains.is_empty())
            || field(domains, not_domains, peer.trust_domain(), unknown))
}

/// Whether a value satisfies a field and its negation; `unknown` is the answer for a value that is
/// not there while the field asks for one.
#[inline]
fn field(wanted: &[Pattern], unwanted: &[Pattern], value: Option<&str>, unknown: bool) -> bool {
    if wanted.is_empty() && unwanted.is_empty() {
        return true;
    }
    let Some(value) = value else { return unknown };
    (wanted.is_empty() || wanted.iter().any(|p| p.matches(value)))
        && !unwanted.iter().any(|p| p.matches(value))
}

/// Whether a head announces no body and wishes for no other protocol.
fn is_bare(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    !headers.contains_key(UPGRADE)
        && !headers.contains_key(TRANSFER_ENCODING)
        && lengths.all(|length| length == "0")
}

// === impl Verdict ===

impl Verdict {
    /// The permit, without asking any authorizer.
    ///
    /// # Errors
    ///
    /// [`Denied`] if the request is denied, or if an authorizer would have to be asked.
    pub fn permit(self) -> Result<Permit, Denied> {
        match self {
            Self::Ask(ask) => Err(Denied::new(
                DenyReason::Authorizer,
                ask.0.policies.last().map(|policy| &policy.key),
            )),
            Self::Denied(denied) => Err(denied),
            Self::Permitted(permit) => Ok(permit),
        }
    }
}

impl From<Denied> for Verdict {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

// === impl Ask ===

impl Ask {
    /// The policy that is next, and the authorizer that it names.
    pub fn poll_question(&self) -> Option<(&Policy, &Provider)> {
        let policy = self.0.policies.last()?;
        match &policy.action {
            Action::Custom(provider) => Some((policy, provider)),
            Action::Allow | Action::Deny => None,
        }
    }

    /// Takes the answer to the question that was next.
    pub fn handle_answer(mut self, answer: Answer) -> Verdict {
        let Some((policy, provider)) = self.poll_question() else {
            return Verdict::Permitted(self.0.permit);
        };
        let permitted = match (answer, provider.on_failure) {
            (Answer::Allow, _) | (Answer::Failed, FailureMode::Allow) => true,
            (Answer::Deny, _) | (Answer::Failed, FailureMode::Deny) => false,
        };
        if !permitted {
            return Denied::new(DenyReason::Authorizer, Some(&policy.key)).into();
        }
        self.0.policies.pop();
        if self.0.policies.is_empty() {
            Verdict::Permitted(self.0.permit)
        } else {
            Verdict::Ask(self)
        }
    }
}

// === impl Permit ===

impl Permit {
    fn new(reason: PermitReason) -> Self {
        Self { reason }
    }

    /// The permit of a probe: a GET of exactly one of the paths that the configuration names, whose
    /// head asks for nothing but an answer: it announces no body and wishes for no other protocol.
    /// `None` for all other requests, which [`decide`] judges.
    ///
    /// A view has no body, and a head of HTTP/2 need not announce one: the caller checks that the body
    /// has ended.
    pub fn probe<P: AsRef<str>>(probes: &[P], request: &RequestView<'_>) -> Option<Self> {
        match request {
            RequestView::Http(http) if *http.method == Method::GET => probes
                .iter()
                .any(|probe| probe.as_ref() == http.path())
                .then(|| is_bare(http.headers).then(|| Self::new(PermitReason::Probe)))?,
            _ => None,
        }
    }

    /// The permit of a probe, if the whole request is one.
    pub(crate) fn probe_of<P, B>(probes: &[P], request: &Request<B>) -> Option<Self>
    where
        P: AsRef<str>,
        B: http_body::Body,
    {
        if probes.is_empty() || !request.body().is_end_stream() {
            return None;
        }
        Self::probe(probes, &RequestView::Http(HttpView::of(request)))
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

    /// The denial of every request to a workload whose policy is not known.
    pub fn no_policy() -> Self {
        Self::new(DenyReason::NoPolicy, None)
    }
}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Self {
        let error = Self::new(Reason::Denied, denied.reason.to_string());
        match denied.policy {
            Some(policy) => error.with_policy(policy),
            None => error,
        }
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
    #[inline]
    pub(super) fn of<'a>(peer: &'a Peer, own: Option<&TrustDomain>) -> PeerParts<'a> {
        let id = peer.id();
        let ours = match peer {
            Peer::Verified(id) => own.is_none_or(|own| id.trust_domain() == own),
            Peer::Foreign(_) | Peer::Local | Peer::Unauthenticated => false,
        };
        PeerParts {
            principal: id.and_then(|id| id.as_str().strip_prefix("spiffe://")),
            namespace: id.filter(|_| ours).and_then(|id| Some(id.workload()?.0)),
            id,
        }
    }

    fn trust_domain(&self) -> Option<&str> {
        self.id.map(|id| id.trust_domain().as_str())
    }
}

impl Others<'_> {
    /// Every method with every path that a request may mean.
    pub(super) fn readings<'s>(&'s self, request: &'s RequestParts<'_>) -> Vec<Reading<'s>> {
        let paths: Vec<_> = match &self.paths {
            None => vec![request.path],
            Some(readings) => readings.iter().map(Some).collect(),
        };
        let upper = self.method.as_deref().map(Some);
        let methods = std::iter::once(request.method).chain(upper);
        methods
            .flat_map(|method| paths.iter().map(move |path| (method, *path)))
            .collect()
    }
}

impl<'a> RequestParts<'a> {
    #[inline]
    pub(super) fn of(request: &RequestView<'a>, paths: bool) -> Self {
        match request {
            RequestView::Http(http) => {
                let method = http.method.as_str();
                // Most paths have one reading and are in their one spelling.
                let paths = paths && !http.is_plain();
                let lower = method.bytes().any(|b| b.is_ascii_lowercase());
                let others = || Others {
                    method: lower.then(|| method.to_ascii_uppercase()),
                    paths: paths.then(|| Readings::of(http.path())),
                };
                Self {
                    method: Some(method),
                    path: Some(http.path()),
                    others: (paths || lower).then(|| Box::new(others())),
                }
            }
            RequestView::Tcp | RequestView::Tls { .. } => Self {
                method: None,
                path: None,
                others: None,
            },
        }
    }
}

// === impl DenyReason ===

impl DenyReason {
    /// Its stable name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorizer => "authorizer",
            Self::BrokenPolicy => "broken-policy",
            Self::Default => "default-deny",
            Self::Matched => "deny-policy",
            Self::NoPolicy => "no-policy",
            Self::NotAllowed => "not-allowed",
            Self::Plaintext => "plaintext",
        }
    }
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authorizer => "denied by an external authorizer",
            Self::BrokenPolicy => "denied: a policy that selects this workload was refused",
            Self::Default => "denied: no policy allows it and the default action is deny",
            Self::Matched => "denied by a DENY policy",
            Self::NoPolicy => "denied: the policy of this workload is not known yet",
            Self::NotAllowed => "denied: no ALLOW policy matches",
            Self::Plaintext => "denied: plaintext where mutual TLS is required",
        })
    }
}
