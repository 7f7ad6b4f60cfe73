//! The steps of a decision, kept as they are made.

use super::value::{Judgement, PolicySeen, RuleSeen};
use crate::authorize::{
    Denied, Met, Permit, PermitReason, Policy, RequestView, Step, Trace, WorkloadPolicy, met,
};
use crate::identify::Peer;
use crate::local::Local;

/// What was looked at.
#[derive(Debug, Default)]
pub(super) struct Seen {
    policies: Vec<(Policy, Option<usize>)>,
    rules: Vec<RuleSeen>,
}

impl Trace for Seen {
    fn saw(&mut self, step: Step<'_>) {
        match step {
            Step::Policy { policy, rule } => self.policies.push((policy.clone(), rule)),
            Step::Rule {
                route,
                rule,
                matched,
                missed,
            } => self.rules.push(RuleSeen {
                object: route.to_string(),
                rule,
                matched,
                missed: missed.map(|missed| missed.0.to_string()),
            }),
        }
    }
}

impl Seen {
    pub(super) fn into_rules(self) -> Vec<RuleSeen> {
        self.rules
    }

    /// How a policy judges what a peer asks.
    pub(super) fn judgement(
        &self,
        policy: &WorkloadPolicy,
        (peer, view): (&Peer, &RequestView<'_>),
    ) -> Judgement {
        let policies = self.policies.iter().map(|(seen, rule)| PolicySeen {
            object: seen.key.to_string(),
            action: seen.action.as_str().into(),
            rule: *rule,
            lost: match rule {
                Some(_) => Vec::new(),
                None => lost(&met(seen, policy, peer, view)),
            },
        });
        Judgement {
            peer: peer.id().map(ToString::to_string),
            default_action: policy.default_action().as_str().into(),
            policies: policies.collect(),
            broken: policy.broken().iter().map(ToString::to_string).collect(),
            ..Judgement::default()
        }
    }
}

/// Why each rule of a policy did not match.
fn lost(rules: &[Met]) -> Vec<String> {
    if rules.is_empty() {
        return vec!["it has no rule".into()];
    }
    let each = rules.iter().enumerate().map(|(n, met)| {
        let why = match (met.sources, met.operations) {
            (false, false) => "neither the caller nor the operation matches",
            (false, true) => "the caller does not match",
            (true, false) => "the operation does not match",
            // Each reading of the path or method meets another rule.
            (true, true) => "not every reading of the request matches",
        };
        format!("rule {n}: {why}")
    });
    each.collect()
}

// === impl Judgement ===

impl Judgement {
    pub(super) fn of(mut self, local: &Local, is_local: bool) -> Self {
        let labels = &local.workload().labels;
        let text = |(key, value): (&std::sync::Arc<str>, &std::sync::Arc<str>)| {
            (key.to_string(), value.to_string())
        };
        self.workload = local.shown().to_string();
        self.labels = labels.iter().map(text).collect();
        self.local = is_local;
        self
    }

    /// The same with what was decided; neither a permit nor a denial is a permit that was not needed.
    pub(super) fn decided(mut self, permit: Option<&Permit>, denied: Option<&Denied>) -> Self {
        self.permitted = denied.is_none();
        self.why = match (permit.map(Permit::reason), denied) {
            (_, Some(denied)) => denied.to_string(),
            (Some(PermitReason::Policy(policy)), None) => format!("allowed by {}", policy.key),
            (Some(PermitReason::Probe), None) => "a probe".into(),
            (Some(PermitReason::Default) | None, None) => {
                format!(
                    "no ALLOW policy is about it, and the default action is {}",
                    self.default_action
                )
            }
        };
        self
    }
}
