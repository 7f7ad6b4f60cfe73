//! What is sent, and how, as values: heads, filters, time limits, repeats, hedges, copies.

use http::{HeaderMap, Request};
use serde::de::Deserializer;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::value::{Judgement, Verdict};
use crate::route::is_credential;

/// In place of the value of a field that is a credential.
const HIDDEN: &str = "(hidden)";

/// The head of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Head {
    /// The method; empty for a connection of opaque bytes, of which the authority alone is known. Of the
    /// tunnel that `CONNECT` asks for the authority is known too.
    pub method: String,
    /// The server that a TLS handshake names, or that the host of a tunnel stands for, empty if none is named;
    /// `None` is no TLS that is looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
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

/// A filter of the rule, or of the backend.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Edit {
    /// In the words of documents.
    pub filter: Value,
    /// Whether it is the backend's.
    pub of_backend: bool,
}

/// The origin of a request (Fetch), of which a route says whether it may read answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Origin {
    /// As the request has it.
    pub origin: String,
    /// Whether it may.
    pub allowed: bool,
}

/// What was drawn of the faults that a policy has made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Fault {
    /// How long the request waits before anything else, in milliseconds.
    pub delay_millis: Option<u64>,
    /// Whether it is answered then, and not sent.
    pub aborted: bool,
    /// How fast the body of its answer may come, in bits per second.
    pub bits_per_second: Option<u64>,
    /// The policy; `None` is what the process was built with.
    pub object: Option<String>,
}

/// When a request must have an answer, if its first attempt begins at once, or after the delay of a
/// [`Fault`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Deadline {
    /// That of the first attempt. The rest of it is sent on.
    pub attempt: Limit,
    /// That of the whole request, all attempts included.
    pub whole: Option<Limit>,
}

/// A limit of time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Limit {
    /// In milliseconds.
    pub millis: u64,
    /// `request` or `backendRequest` of the timeouts, or the field in which the caller says how long it
    /// waits.
    pub by: String,
    /// The object that says it; `None` is the caller.
    pub object: Option<String>,
}

/// How a request is sent again that a server may have acted on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Repeats {
    /// How often at most.
    pub attempts: u32,
    /// How long each waits at most, in milliseconds.
    pub wait_millis: Vec<u64>,
    /// Whether its method is idempotent, so that a broken connection or a late answer is enough.
    pub idempotent: bool,
    /// Whether it may be kept while it is sent; one that waits to be asked for its body is not.
    pub kept: bool,
    /// Whether the budget has a repeat at the moment.
    pub budget: bool,
}

/// How a request is sent to several endpoints at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Hedges {
    /// To how many at most.
    pub attempts: u32,
    /// How long after one the next is asked, in milliseconds.
    pub delay_millis: u64,
    /// Why it is sent to one alone; `None` if it is not.
    pub missed: Option<String>,
    /// Whether the budget has a repeat at the moment.
    pub budget: bool,
    /// The policy; `None` is what the process was built with.
    pub object: Option<String>,
}

/// A mirror of the rule or the backend.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Copied {
    /// The Service.
    pub service: String,
    /// The port.
    pub port: u16,
    /// How many requests are copied.
    pub numerator: u32,
    /// Of how many.
    pub denominator: u32,
    /// What becomes of the copy; `None` if none is sent.
    pub verdict: Option<Verdict>,
    /// Why none is sent.
    pub missed: Option<String>,
    /// The copy as it is sent.
    pub sent: Option<Head>,
    /// The policies of the workloads that it is sent to.
    pub inbound: Vec<Judgement>,
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
            sni: None,
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
