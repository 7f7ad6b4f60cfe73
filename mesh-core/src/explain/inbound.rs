//! The other side: the policies of the workloads behind a backend.

use std::sync::Arc;

use http::Request;
use inmesh_pki::id::TrustDomain;

use super::seen::Seen;
use super::value::{Judgement, LimitSeen, Verdict as Judged};
use super::{Question, Scene, admitted};
use crate::authorize::{RequestView, Verdict, WorkloadPolicy, decide};
use crate::balance::{EndpointSet, Member};
use crate::error::Error;
use crate::identify::Peer;
use crate::local::Local;
use crate::model::{Namespace, Transport, Workload};
use crate::plan::PlannedBackend;
use crate::snapshot::Snapshot;

/// Labels by which workloads are most often named and selected, and those of their versions.
const NAMES: [&str; 2] = ["app", "app.kubernetes.io/name"];
const VERSIONS: [&str; 2] = ["version", "app.kubernetes.io/version"];

/// Has each workload behind a backend judge a request as it arrives there. That of the endpoint which
/// is taken decides; an endpoint outside the mesh has no policy.
pub(super) fn judge(
    scene: &Scene<'_>,
    question: &Question,
    (backend, set, taken): (PlannedBackend<'_>, &EndpointSet, &Member),
    request: &mut Request<()>,
    out: &mut Vec<Judgement>,
) -> Result<Judged, Error> {
    if !question.opaque && matches!(taken.endpoint.transport, Transport::Mesh { .. }) {
        // A server of the mesh checks it once more.
        admitted(scene, question, request)?;
    }
    let mut denied = None;
    let mut known: Vec<(&str, &str)> = Vec::new();
    // The one that decides is named first.
    for member in std::iter::once(taken).chain(set.ready()) {
        let endpoint = &member.endpoint;
        let Transport::Mesh { ids } = &endpoint.transport else {
            continue;
        };
        let name = (&*endpoint.workload, &*endpoint.version);
        if known.contains(&name) {
            continue;
        }
        known.push(name);
        let callee = Callee::of(scene.snapshot, question, backend, member);
        let own = ids
            .iter()
            .next()
            .map(inmesh_pki::id::SpiffeId::trust_domain);
        let policy = match own {
            Some(own) => callee.policy.clone().of_trust_domain(own),
            None => callee.policy.clone(),
        };
        let peer = match (&question.from, own) {
            (Some(id), Some(own)) => Peer::verified(id.clone(), own),
            (Some(id), None) => Peer::Verified(id.clone()),
            (None, _) => Peer::Unauthenticated,
        };
        let (mut seen, view) = (Seen::default(), question.view(request));
        let verdict = decide(&policy, &peer, &view, &mut seen);
        let judgement = seen.judgement(&policy, (&peer, &view));
        let mut judgement = judgement.of(&callee.local, callee.known);
        judgement.unsure = callee.unsure;
        judgement.decisive = std::ptr::eq(member, taken);
        if !question.opaque {
            judgement.limit = limit(scene.snapshot, &callee.local, own, (&peer, &view));
            let at_once = scene.snapshot.adaptive_for(&callee.local);
            judgement.concurrency = at_once.map(|block| LimitSeen {
                object: block.from.map(|from| from.to_string()),
                rule: None,
                rates: vec![block.value.to_string()],
            });
        }
        out.push(settled(judgement, &verdict));
        if std::ptr::eq(member, taken)
            && let Verdict::Denied(why) = verdict
        {
            denied = Some(why);
        }
    }
    match denied {
        Some(denied) => Err(denied.into()),
        None => Ok(Judged::sent(taken)),
    }
}

/// How many such requests a workload takes, by the function that live ones are counted with.
fn limit(
    snapshot: &Snapshot,
    local: &Local,
    own: Option<&TrustDomain>,
    (peer, view): (&Peer, &RequestView<'_>),
) -> Option<LimitSeen> {
    let limiter = snapshot.limiter_for(local, own)?;
    let rule = limiter.rule_of(peer, view);
    let rates = limiter.rates(rule);
    Some(LimitSeen {
        object: limiter.block().from.as_ref().map(ToString::to_string),
        rule,
        rates: rates.map(|(rate, of)| format!("{rate}, of {of}")).collect(),
    })
}

/// What an authorizer would say is not known, and not asked.
fn settled(judgement: Judgement, verdict: &Verdict) -> Judgement {
    match verdict {
        Verdict::Permitted(permit) => judgement.decided(Some(permit), None),
        Verdict::Denied(denied) => judgement.decided(None, Some(denied)),
        Verdict::Ask(ask) => {
            let asked = ask.poll_question();
            let asked = asked.map(|(_, provider)| provider.name.to_string());
            let mut judgement = judgement.decided(None, None);
            judgement.why = "an external authorizer decides".into();
            judgement.asks = asked;
            judgement
        }
    }
}

/// A workload behind a backend, with its policy.
struct Callee {
    local: Arc<Local>,
    policy: WorkloadPolicy,
    /// Whether this process serves it.
    known: bool,
    unsure: Vec<String>,
}

impl Callee {
    /// The local workload of that name, or what the endpoint says of it.
    fn of(
        snapshot: &Snapshot,
        question: &Question,
        backend: PlannedBackend<'_>,
        member: &Member,
    ) -> Self {
        let endpoint = &member.endpoint;
        let namespace = backend.service.namespace();
        let version = |local: &Local| {
            let own = VERSIONS
                .iter()
                .find_map(|v| local.workload().labels.get(*v));
            own.is_none_or(|own| endpoint.version.is_empty() || *own == endpoint.version)
        };
        let served = snapshot.locals().find(|local| {
            let own = local.workload();
            own.namespace == *namespace && own.name == endpoint.workload && version(local)
        });
        if let (Some(local), true) = (served, question.labels.is_empty()) {
            let policy = snapshot.policy_of(local);
            let policy = policy.map_or_else(|| snapshot.policy_for(local), |p| (**p).clone());
            return Self {
                local: Arc::clone(local),
                policy,
                known: true,
                unsure: Vec::new(),
            };
        }
        let name = match &*endpoint.workload {
            "" => backend.service.name(),
            name => name,
        };
        let default = snapshot.settings().local.default_action();
        let mut workload = workload_of(namespace, name);
        for (labels, value) in [(NAMES, &endpoint.workload), (VERSIONS, &endpoint.version)] {
            if !value.is_empty() {
                for label in labels {
                    workload = workload.label(label, value);
                }
            }
        }
        for (label, value) in &question.labels {
            workload = workload.label(label, value);
        }
        let local = Arc::new(Local::new(workload, default));
        Self {
            policy: snapshot.policy_for(&local),
            unsure: unsure(snapshot, &local),
            local,
            known: false,
        }
    }
}

/// A workload of a namespace; a label that is no name of a workload names none.
fn workload_of(namespace: &Namespace, name: &str) -> Workload {
    let of = |name: &str| Workload::new(namespace.as_str(), name, name);
    of(name)
        .or_else(|_| of("unnamed"))
        .expect("a namespace and a DNS label make a workload")
}

/// Policies that may select a workload of which more labels are not known.
fn unsure(snapshot: &Snapshot, local: &Local) -> Vec<String> {
    let workload = local.workload();
    let known = |label: &str| workload.labels.contains_key(label);
    let policies = snapshot.policies_in(&workload.namespace);
    let policies = policies.filter(|policy| policy.selector.iter().any(|(label, _)| !known(label)));
    let mut found: Vec<_> = policies.map(|policy| policy.key.to_string()).collect();
    found.sort();
    found
}
