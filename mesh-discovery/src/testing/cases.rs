//! The cases of a user, read strictly: a request and what is expected of it.

use inmesh_core::explain::{InvalidQuestion, Outcome, Question};
use inmesh_core::model::Namespace;
use inmesh_core::pki::id::{SpiffeId, TrustDomain};
use inmesh_core::snapshot::{Location, Problem};

use super::World;
use crate::manifest::Defaults;
use crate::manifest::strict::{Document, Fields, Unknown, Value, documents};

/// The apiVersion and kind of a document of cases.
pub const API_VERSION: &str = "inmesh.dev/v1alpha1";
/// See [`API_VERSION`].
pub const KIND: &str = "Test";

/// The most cases of a document.
const CASES: usize = 10_000;
/// The most draws of a case, and how many there are if it says no number.
const DRAWS: (i64, u32) = (1_000_000, 10_000);
/// How far a share may be off, in percent of all draws, if a case says nothing.
const WITHIN: u32 = 2;
/// The most shares, headers and labels of a case.
const PARTS: usize = 100;

/// One document of cases.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Suite {
    /// The documents that are asked.
    pub documents: Documents,
    /// The trust domain of the local workload, where no agent's file says it.
    pub trust_domain: Option<TrustDomain>,
    /// The cases, in their order.
    pub cases: Vec<Case>,
}

/// The documents that cases are about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Documents {
    /// Those of a folder, named relative to the folder of the file.
    Folder(String),
    /// Those of a text, with the namespace of objects that name none.
    Inline(String, Namespace),
}

/// One case.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub place: Location,
    /// What is asked.
    pub question: Question,
    /// What is expected.
    pub expect: Expect,
}

/// What is expected of a request; what is absent may be anything.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Expect {
    /// Whether it is sent, answered by a route, or refused.
    pub verdict: Option<Outcome>,
    /// The status of an answer or a refusal.
    pub status: Option<u16>,
    /// Why it is refused, as `x-mesh-reason` has it.
    pub reason: Option<String>,
    /// The policy that allows or denies it, as `AuthorizationPolicy/namespace/name`.
    pub policy: Option<String>,
    /// The route, as `HTTPRoute/namespace/name`.
    pub route: Option<String>,
    /// The rule of the route, counted from 0.
    pub rule: Option<usize>,
    /// The backend, as `name.namespace:port`.
    pub backend: Option<String>,
    /// The path as it is sent.
    pub path: Option<String>,
    /// The host as it is sent.
    pub authority: Option<String>,
    /// Header fields as they are sent.
    pub headers: Vec<(String, String)>,
    /// Header fields that are not sent.
    pub absent_headers: Vec<String>,
    /// Header fields that the route adds to the answer.
    pub response_headers: Vec<(String, String)>,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// The copies that are sent, as `name.namespace:port`, in the order of their mirrors.
    pub copies: Option<Vec<String>>,
    /// How long the first attempt has, in milliseconds.
    pub timeout_millis: Option<u64>,
    /// Shares of backends over many draws.
    pub shares: Option<Shares>,
}

/// Shares of backends over many draws.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shares {
    /// Backends as `name.namespace:port`, each with its share in percent.
    pub of: Vec<(String, u32)>,
    /// How many draws are made.
    pub draws: u32,
    /// How far a share may be off, in percent of all draws.
    pub within: u32,
}

// === impl Documents ===

impl Documents {
    /// What they say, as a workload of that trust domain reads them. `read` reads a folder.
    pub(super) fn world(
        &self,
        own: Option<&TrustDomain>,
        read: impl FnOnce(&str) -> Result<World, String>,
    ) -> Result<World, String> {
        let world = match self {
            Self::Folder(folder) => read(folder)?,
            Self::Inline(text, namespace) => {
                let defaults = Defaults::new(namespace.clone()).loopback(true);
                World::from_documents([("inline", &**text)], &defaults)
                    .map_err(|error| error.to_string())?
            }
        };
        match own {
            None => Ok(world),
            Some(own) => world.said_to_be_of(own),
        }
    }
}

// === impl Suite ===

impl Suite {
    /// Reads the cases of a file. `file` is its name in problems.
    ///
    /// # Errors
    ///
    /// Every problem with file, line and field, if the text cannot be read or a document is no such one.
    pub fn parse(file: &str, text: &str) -> Result<Vec<Self>, Vec<Problem>> {
        let documents = documents(file, text).map_err(|error| vec![error.problem()])?;
        let (mut suites, mut problems) = (Vec::new(), Vec::new());
        for document in &documents {
            match read(document) {
                Ok(suite) => suites.push(suite),
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() {
            Ok(suites)
        } else {
            Err(problems)
        }
    }
}

// === impl Expect ===

impl Expect {
    /// Whether it expects what the policy of a server decides.
    pub(super) fn judges(&self) -> bool {
        self.verdict.is_some()
            || self.status.is_some()
            || self.reason.is_some()
            || self.policy.is_some()
            || !self.response_headers.is_empty()
    }
}

fn read(document: &Document) -> Result<Suite, Vec<Problem>> {
    if document.kind() != Some(KIND) || document.api_version() != Some(API_VERSION) {
        let message = format!("is no document of kind {KIND} ({API_VERSION})");
        return Err(vec![Problem::refused("", message).at(document.place(""))]);
    }
    let read = document.read(Unknown::Refuse, |fields| {
        let (of, cases) = (fields.need("documents"), fields.need("cases"));
        let of = of.and_then(|of| of.object(of_documents));
        let list = cases?.list_of(CASES)?;
        let cases: Vec<_> = list.iter().map(|value| case(value, document)).collect();
        let (documents, trust_domain) = of?;
        Some(Suite {
            documents,
            trust_domain,
            cases: cases.into_iter().collect::<Option<_>>()?,
        })
    });
    read.map(|read| read.value)
}

/// The documents, and the trust domain of the workload that asks.
pub(super) fn of_documents(fields: &mut Fields<'_>) -> Option<(Documents, Option<TrustDomain>)> {
    let (folder, inline) = (fields.get("folder"), fields.get("inline"));
    let (namespace, own) = (fields.get("namespace"), fields.get("trustDomain"));
    let own = match own {
        Some(own) => Some(own.parsed::<TrustDomain>()?),
        None => None,
    };
    let documents = match (folder, inline) {
        (Some(folder), None) => {
            if let Some(namespace) = &namespace {
                namespace.refuse("is of inline documents; a folder has its own agent's");
                return None;
            }
            Some(Documents::Folder(folder.text()?.into()))
        }
        (None, Some(inline)) => {
            let own = match namespace {
                Some(value) => value.check(Namespace::new(value.text()?))?,
                None => Namespace::new("default").ok()?,
            };
            Some(Documents::Inline(inline.text()?.into(), own))
        }
        _ => {
            fields.whole().refuse("needs one of folder and inline");
            None
        }
    };
    Some((documents?, own))
}

fn case(value: &Value<'_>, document: &Document) -> Option<Case> {
    value.object(|case| {
        let (name, request) = (case.need("name"), case.need("request"));
        let (headers, labels) = (case.get("headers"), case.get("labels"));
        let (from, draw, sni) = (case.get("from"), case.get("draw"), case.get("sni"));
        let expect = case.need("expect");
        let expect = expect.and_then(|value| value.object(expected));
        let request = request?;
        let question = Question::parse(request.text()?);
        let question = request.check(question)?;
        let question = each(headers, question, |q, name, value| {
            q.header(&format!("{name}: {value}"))
        });
        let question = each(labels, question?, |q, name, value| {
            q.label(&format!("{name}={value}"))
        });
        let mut question = question?;
        if let Some(from) = from {
            question = question.from(from.parsed::<SpiffeId>()?);
        }
        if let Some(sni) = sni {
            let named = question.sni(sni.text()?);
            question = sni.check(named)?;
        }
        if let Some(draw) = draw {
            question = question.draw(u64::from(draw.integer::<u32>()?));
        }
        Some(Case {
            name: name?.text()?.into(),
            place: document.place(value.path()),
            question,
            expect: expect?,
        })
    })
}

/// Adds the entries of a mapping of texts to a question.
pub(super) fn each(
    entries: Option<Value<'_>>,
    mut question: Question,
    add: impl Fn(Question, &str, &str) -> Result<Question, InvalidQuestion>,
) -> Option<Question> {
    for (name, value) in texts(entries)? {
        question = value.check(add(question, name, value.text()?))?;
    }
    Some(question)
}

/// The entries of a mapping, if it is there.
pub(super) fn texts<'t>(entries: Option<Value<'t>>) -> Option<Vec<(&'t str, Value<'t>)>> {
    let Some(value) = entries else {
        return Some(Vec::new());
    };
    let entries = value.entries()?;
    if entries.len() > PARTS {
        value.refuse(format_args!(
            "has {} entries; {PARTS} are allowed",
            entries.len()
        ));
        return None;
    }
    Some(entries)
}

fn fields_of(entries: Option<Value<'_>>) -> Option<Vec<(String, String)>> {
    let pairs = texts(entries)?.into_iter();
    let pairs = pairs.map(|(name, value)| Some((name.to_owned(), value.text()?.to_owned())));
    pairs.collect()
}

fn expected(fields: &mut Fields<'_>) -> Option<Expect> {
    if fields.whole().entries()?.is_empty() {
        fields.whole().refuse("expects nothing");
        return None;
    }
    let verdict = fields.get("verdict");
    let (status, rule) = (fields.get("status"), fields.get("rule"));
    let texts = [
        "reason",
        "policy",
        "route",
        "backend",
        "path",
        "authority",
        "location",
    ]
    .map(|name| fields.get(name));
    let (headers, absent) = (fields.get("headers"), fields.get("absentHeaders"));
    let (response, shares) = (fields.get("responseHeaders"), fields.get("shares"));
    let (draws, within) = (fields.get("draws"), fields.get("within"));
    let (copies, timeout) = (fields.get("copies"), fields.get("timeoutMillis"));
    let text = |value: &Option<Value<'_>>| match value {
        Some(value) => value.text().map(|text| Some(text.to_owned())),
        None => Some(None),
    };
    let verdict = match verdict {
        Some(value) => Some(match value.choice(&["sent", "answered", "refused"])? {
            "sent" => Outcome::Sent,
            "answered" => Outcome::Answered,
            _ => Outcome::Refused,
        }),
        None => None,
    };
    let [reason, policy, route, backend, path, authority, location] = &texts;
    Some(Expect {
        verdict,
        status: match status {
            Some(value) => Some(value.integer_in(100, 599)?),
            None => None,
        },
        rule: match rule {
            Some(value) => Some(value.integer()?),
            None => None,
        },
        reason: text(reason)?,
        policy: text(policy)?,
        route: text(route)?,
        backend: text(backend)?,
        path: text(path)?,
        authority: text(authority)?,
        location: text(location)?,
        headers: fields_of(headers)?,
        absent_headers: names(absent)?.unwrap_or_default(),
        copies: names(copies)?,
        timeout_millis: match timeout {
            Some(value) => Some(value.integer()?),
            None => None,
        },
        response_headers: fields_of(response)?,
        shares: shares_of(shares, draws, within)?,
    })
}

/// A list of texts, if it is there; it may be empty.
fn names(list: Option<Value<'_>>) -> Option<Option<Vec<String>>> {
    let Some(list) = list else {
        return Some(None);
    };
    let name = |value: &Value<'_>| Some(value.text()?.to_owned());
    let items = list.list_of_or_empty(PARTS)?;
    let names: Option<Vec<_>> = items.iter().map(name).collect();
    names.map(Some)
}

/// The inner `None` is a case without shares.
fn shares_of(
    shares: Option<Value<'_>>,
    draws: Option<Value<'_>>,
    within: Option<Value<'_>>,
) -> Option<Option<Shares>> {
    let Some(value) = shares else {
        for alone in draws.iter().chain(&within) {
            alone.refuse("is of shares, and there are no shares");
        }
        return (draws.is_none() && within.is_none()).then_some(None);
    };
    let mut of = Vec::new();
    for (name, share) in texts(Some(value))? {
        of.push((name.to_owned(), share.integer_in(0, 100)?));
    }
    let number = |value: Option<Value<'_>>, most: i64, usual: u32| match value {
        Some(value) => value.integer_in(1, most),
        None => Some(usual),
    };
    Some(Some(Shares {
        of,
        draws: number(draws, DRAWS.0, DRAWS.1)?,
        within: number(within, 100, WITHIN)?,
    }))
}
