//! An explanation as a value, to be printed or sent.

use serde::{Deserialize, Serialize};

use super::sent::{Copied, Deadline, Edit, Fault, Fields, Head, Hedges, Origin, Repeats};
use super::value::{
    Backend, Endpoint, Judgement, RuleName, RuleSeen, SessionSeen, Setting, Share, SplitBy, Verdict,
};

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
    /// What keeps its user in one part of them; `None` if no policy does.
    pub split_by: Option<SplitBy>,
    /// The session that it is of; `None` if no policy says so.
    pub session: Option<SessionSeen>,
    /// The port of a Service that it is sent to.
    pub backend: Option<Backend>,
    /// The filters of the rule and then of the backend.
    pub edits: Vec<Edit>,
    /// What the route says of the origin that it comes from.
    pub origin: Option<Origin>,
    /// What is asked of the request, each with the object that says so.
    pub settings: Vec<Setting>,
    /// What is made to happen to it on purpose; `None` if no policy has faults made of it.
    pub fault: Option<Fault>,
    /// When it must have an answer.
    pub deadline: Option<Deadline>,
    /// How it is sent to several endpoints at once; `None` if no policy says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedges: Option<Hedges>,
    /// How it is sent again.
    pub repeats: Option<Repeats>,
    /// The request as it is sent, without what belongs to the connection. Its place in a trace is the
    /// agent's own.
    pub sent: Option<Head>,
    /// What the route adds to the answer of a server, or answers. What the mesh answers in place of a
    /// server has none of it.
    #[serde(skip_serializing_if = "Fields::is_empty")]
    pub response: Fields,
    /// The endpoints of the backend.
    pub endpoints: Vec<Endpoint>,
    /// The policies of the workloads behind it.
    pub inbound: Vec<Judgement>,
    /// Where copies of it are sent, or would be by another draw.
    pub copies: Vec<Copied>,
}
