//! The parts of an explanation: texts and numbers in the words of documents, to be printed or sent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::balance::{Choice, Member, Shown, TierShare};
use crate::error::Error;
use crate::model::{AppProtocol, ObjectKey, ServiceName};
use crate::plan::{Planned, PlannedBackend};

/// What becomes of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Verdict {
    /// In a word.
    pub outcome: Outcome,
    /// The status of an answer that no endpoint gives.
    pub status: Option<u16>,
    /// The status of a call of gRPC that is refused.
    pub grpc_status: Option<u8>,
    /// What a route answers.
    pub answer: Option<Answer>,
    /// Why it is refused, as `x-mesh-reason` has it.
    pub reason: Option<String>,
    /// The same in more words.
    pub detail: Option<String>,
    /// The policy that refuses it.
    pub policy: Option<String>,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// The endpoint that it is sent to.
    pub endpoint: Option<String>,
}

/// What becomes of a request, in a word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Outcome {
    /// A route answers it.
    Answered,
    /// It is not sent, or the server's policy denies it.
    #[default]
    Refused,
    /// It reaches an endpoint.
    Sent,
}

/// What a route answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Answer {
    /// What a request of another origin may do.
    Preflight,
    /// Where it is to be sent instead.
    Redirect,
    /// A status.
    Respond,
}

/// A policy's decision, and how it came about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Judgement {
    /// The workload whose policy it is, as `namespace/name`.
    pub workload: String,
    /// Its labels, as far as they are known.
    pub labels: BTreeMap<String, String>,
    /// Whether this process serves it, so that nothing about it is assumed.
    pub local: bool,
    /// The peer that it sees.
    pub peer: Option<String>,
    /// Whether its decision is the one that counts.
    pub decisive: bool,
    /// Whether it permits the request.
    pub permitted: bool,
    /// Why.
    pub why: String,
    /// The external authorizer that is asked before it is served.
    pub asks: Option<String>,
    /// What happens where no ALLOW policy is about the workload.
    pub default_action: String,
    /// The policies that were looked at, in order.
    pub policies: Vec<PolicySeen>,
    /// Policies that were never good, for which everything is denied.
    pub broken: Vec<String>,
    /// Policies that select by labels which are not known to be the workload's.
    pub unsure: Vec<String>,
    /// How many such requests it takes, if a policy says it.
    pub limit: Option<LimitSeen>,
    /// How many it takes at once, if a policy says it.
    pub concurrency: Option<LimitSeen>,
}

/// How many requests a workload takes that are like the one in question. What is left of it is not
/// looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LimitSeen {
    /// The policy.
    pub object: Option<String>,
    /// The rule of it that the request meets, counted from 0.
    pub rule: Option<usize>,
    /// The rates that count, in the order in which they are asked.
    pub rates: Vec<String>,
}

/// A policy that was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PolicySeen {
    /// The object.
    pub object: String,
    /// ALLOW, DENY or CUSTOM.
    pub action: String,
    /// The rule that matched, counted from 0.
    pub rule: Option<usize>,
    /// Why each rule did not, where none did.
    pub lost: Vec<String>,
}

/// A rule of a route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RuleName {
    /// The route.
    pub object: String,
    /// The rule, counted from 0.
    pub rule: usize,
}

/// A rule of a route that was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RuleSeen {
    /// The route.
    pub object: String,
    /// The rule, counted from 0.
    pub rule: usize,
    /// Whether it matched.
    pub matched: bool,
    /// Why it did not.
    pub missed: Option<String>,
}

/// A backend of a split.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Share {
    /// The Service.
    pub service: String,
    /// The port; 0 of a backend that is no Service and names none.
    pub port: u16,
    /// Its weight.
    pub weight: u32,
    /// Whether it was drawn.
    pub drawn: bool,
}

/// What keeps the user of a request in one part of a split.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SplitBy {
    /// The part of requests that is the key, such as `header x-user`.
    pub key: String,
    /// Whether the request has it, so that it leads to the backend; else that is drawn.
    pub found: bool,
    /// Whether the answer hands it out, so that it leads there from now on.
    pub handed: bool,
    /// The policy.
    pub object: Option<String>,
}

/// The session of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SessionSeen {
    /// The name of its token.
    pub name: String,
    /// Whether the request shows one of this rule and backend. Whether it has ended is not looked at.
    pub found: bool,
    /// Whether its endpoint takes the request; else another does, whose token the answer hands out.
    pub stays: bool,
    /// The policy.
    pub object: Option<String>,
}

/// The port of a Service that a request is sent to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Backend {
    /// The Service.
    pub service: String,
    /// The port; 0 of a backend that is no Service and names none.
    pub port: u16,
    /// What it speaks.
    pub protocol: String,
    /// Whether a key of the request leads to the endpoint.
    pub by_key: bool,
}

/// A setting that applies to a request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Setting {
    /// The block of a TrafficPolicy.
    pub name: String,
    /// What it says.
    pub value: Value,
    /// The object that says it; `None` is what the process was built with.
    pub object: Option<String>,
}

/// An endpoint of the backend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Endpoint {
    /// Its address.
    pub address: String,
    /// mesh, plain or tls.
    pub transport: String,
    /// The workload behind it; empty if it is not known.
    pub workload: String,
    /// Its version; empty if it is not known.
    pub version: String,
    /// Its zone; empty if it is not known.
    pub zone: String,
    /// Its weight.
    pub weight: u32,
    /// Its tier.
    pub priority: u32,
    /// What it shares with the process that asks, or its zone, where near endpoints are preferred.
    pub near: Option<String>,
    /// What all that are as near take of the requests, in thousandths, where near endpoints are
    /// preferred.
    pub permille: Option<u32>,
    /// Its conditions.
    pub ready: bool,
    /// It still serves, perhaps while it terminates.
    pub serving: bool,
    /// It is going away.
    pub terminating: bool,
    /// Whether it may be chosen.
    pub eligible: bool,
    /// The source that it comes from, where that is stale: out of sync for too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale: Option<String>,
    /// Whether it is ejected.
    pub ejected: bool,
    /// Requests in flight to it.
    pub in_flight: u32,
    /// Why it has failed last.
    pub last_failure: Option<String>,
    /// Whether the request is sent to it.
    pub taken: bool,
}

// === impl Verdict ===

impl Verdict {
    /// That it is refused.
    pub(super) fn refused(error: &Error, grpc: bool) -> Self {
        Self {
            outcome: Outcome::Refused,
            grpc_status: grpc.then(|| error.reason().grpc_status()),
            status: Some(error.reason().status().as_u16()),
            reason: Some(error.reason().as_str().into()),
            detail: Some(error.detail().into()),
            policy: error.policy().map(ToString::to_string),
            ..Self::default()
        }
    }

    /// That it reaches an endpoint.
    pub(super) fn sent(member: &Member) -> Self {
        Self {
            outcome: Outcome::Sent,
            endpoint: Some(member.endpoint.address().to_string()),
            ..Self::default()
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// Its name in documents and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Sent => "sent",
        }
    }
}

// === impl Answer ===

impl Answer {
    /// Its name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Redirect => "redirect",
            Self::Respond => "respond",
        }
    }
}

// === impl RuleName ===

impl RuleName {
    pub(super) fn of((route, rule): (&ObjectKey, usize)) -> Self {
        Self {
            object: route.to_string(),
            rule,
        }
    }
}

// === impl Share ===

impl Share {
    pub(super) fn of((service, port, weight, drawn): (&ServiceName, u16, u32, bool)) -> Self {
        Self {
            service: service.to_string(),
            port,
            weight,
            drawn,
        }
    }
}

// === impl SessionSeen ===

impl SessionSeen {
    pub(super) fn of(planned: &Planned, taken: Option<&Member>) -> Option<Self> {
        let session = planned.session()?;
        Some(Self {
            name: session.name(),
            found: session.endpoint().is_some(),
            stays: taken.is_some_and(|taken| session.is_at(&taken.endpoint)),
            object: session.policy().from.as_ref().map(ToString::to_string),
        })
    }
}

// === impl SplitBy ===

impl SplitBy {
    pub(super) fn of(planned: &Planned, shown: Shown<'_>) -> Option<Self> {
        let by = planned.split_key()?;
        planned.backend()?;
        Some(Self {
            key: by.value.key().to_string(),
            found: planned.has_split_key(shown),
            handed: planned.hands_out_split_key(),
            object: by.from.as_ref().map(ToString::to_string),
        })
    }
}

// === impl Backend ===

impl Backend {
    pub(super) fn of(to: PlannedBackend<'_>, choice: Choice, protocol: AppProtocol) -> Self {
        Self {
            service: to.service.to_string(),
            port: to.port,
            protocol: protocol.to_string(),
            by_key: matches!(choice, Choice::Hash(_)),
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    pub(super) fn of(member: &Member, eligible: bool, taken: bool) -> Self {
        let (endpoint, state) = (&member.endpoint, &member.state);
        let conditions = endpoint.conditions;
        Self {
            address: endpoint.address().to_string(),
            transport: endpoint.transport.as_str().into(),
            workload: endpoint.workload.to_string(),
            version: endpoint.version.to_string(),
            zone: endpoint.locality.zone.to_string(),
            weight: endpoint.weight,
            priority: endpoint.priority,
            ready: conditions.ready,
            serving: conditions.serving,
            terminating: conditions.terminating,
            eligible,
            ejected: state.is_ejected(),
            in_flight: state.in_flight(),
            last_failure: state.last_failure().map(|last| last.error.into()),
            taken,
            near: None,
            permille: None,
            stale: None,
        }
    }

    /// The same of a tier.
    pub(super) fn with(mut self, tier: Option<&TierShare>) -> Self {
        self.near = tier.map(|tier| tier.name.to_string());
        self.permille = tier.map(|tier| tier.permille);
        self
    }
}
