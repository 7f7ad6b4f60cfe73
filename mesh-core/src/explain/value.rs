//! An explanation as a value: texts and numbers in the words of documents, to be printed or sent.

use std::collections::BTreeMap;

use http::{HeaderMap, Request};
use serde::de::Deserializer;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::balance::{Choice, Member, TierShare};
use crate::error::Error;
use crate::model::{AppProtocol, ObjectKey, ServiceName};
use crate::plan::PlannedBackend;
use crate::route::is_credential;

/// In place of the value of a field that is a credential.
const HIDDEN: &str = "(hidden)";

/// What becomes of a request, step by step. What was not reached is empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Explanation {
    /// What becomes of it.
    pub verdict: Verdict,
    /// The workload that asks, as `namespace/name`.
    pub caller: String,
    /// The SPIFFE ID that it asks with, if that is known.
    pub from: Option<String>,
    /// The seed of what is drawn.
    pub draw: u64,
    /// The request in its canonical form.
    pub request: Option<Head>,
    /// The Service that was asked for.
    pub service: Option<String>,
    /// The egress policy of the caller.
    pub egress: Option<Judgement>,
    /// The rules of routes that were looked at, in order of precedence.
    pub rules: Vec<RuleSeen>,
    /// The rule that decided; `None` if no route is attached.
    pub route: Option<RuleName>,
    /// The backends that one was drawn from.
    pub split: Vec<Share>,
    /// The port of a Service that it is sent to.
    pub backend: Option<Backend>,
    /// What is asked of the request, each with the object that says so.
    pub settings: Vec<Setting>,
    /// The request as it is sent.
    pub sent: Option<Head>,
    /// What the route adds to the answer.
    #[serde(skip_serializing_if = "Fields::is_empty")]
    pub response: Fields,
    /// The endpoints of the backend.
    pub endpoints: Vec<Endpoint>,
    /// The policies of the workloads behind it.
    pub inbound: Vec<Judgement>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Verdict {
    /// In a word.
    pub outcome: Outcome,
    /// The status of an answer that no endpoint gives.
    pub status: Option<u16>,
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

/// The head of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Head {
    /// The method; empty for a connection of opaque bytes, of which the authority alone is known.
    pub method: String,
    /// The host, with its port if it was named.
    pub authority: String,
    /// The path, without the query.
    pub path: String,
    /// The query, without the `?`.
    pub query: Option<String>,
    /// The header fields.
    pub headers: Fields,
}

/// Header fields. They are written as texts, those that are credentials without their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(pub HeaderMap);

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
    /// The port.
    pub port: u16,
    /// Its weight.
    pub weight: u32,
    /// Whether it was drawn.
    pub drawn: bool,
}

/// The port of a Service that a request is sent to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Backend {
    /// The Service.
    pub service: String,
    /// The port.
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
    pub(super) fn refused(error: &Error) -> Self {
        Self {
            outcome: Outcome::Refused,
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

// === impl Head ===

impl Head {
    /// The head of a connection of opaque bytes, of which no more is seen.
    pub(super) fn opaque(authority: &str) -> Self {
        Self {
            authority: authority.into(),
            ..Self::default()
        }
    }

    pub(super) fn of(request: &Request<()>, authority: &str) -> Self {
        let uri = request.uri();
        Self {
            method: request.method().to_string(),
            authority: authority.into(),
            path: uri.path().into(),
            query: uri.query().map(Into::into),
            headers: Fields(request.headers().clone()),
        }
    }
}

// === impl Fields ===

impl Fields {
    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values as they are shown.
    pub fn shown(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.iter().map(|(name, value)| {
            let hidden = is_credential(name) || value.is_sensitive();
            let value = match hidden {
                true => HIDDEN.into(),
                false => String::from_utf8_lossy(value.as_bytes()).into_owned(),
            };
            (name.as_str(), value)
        })
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(self.shown())
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let mut fields = HeaderMap::new();
        for (name, value) in Vec::<(String, String)>::deserialize(from)? {
            let name = http::HeaderName::try_from(name).map_err(D::Error::custom)?;
            let value = http::HeaderValue::try_from(value).map_err(D::Error::custom)?;
            fields.try_append(name, value).map_err(D::Error::custom)?;
        }
        Ok(Self(fields))
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

// === impl Backend ===

impl Backend {
    pub(super) fn of(to: PlannedBackend<'_>, protocol: AppProtocol) -> Self {
        Self {
            service: to.service.to_string(),
            port: to.port,
            protocol: protocol.to_string(),
            by_key: matches!(to.choice, Choice::Hash(_)),
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
        }
    }

    /// The same of a tier.
    pub(super) fn with(mut self, tier: Option<&TierShare>) -> Self {
        self.near = tier.map(|tier| tier.name.to_string());
        self.permille = tier.map(|tier| tier.permille);
        self
    }
}
