//! The requests that two worlds are compared by: lines of an access log, cases, or what the documents
//! themselves speak of.

use std::collections::{BTreeMap, BTreeSet};

use inmesh_core::explain::Question;
use inmesh_core::model::{AppProtocol, Transport};
use inmesh_core::pki::id::{SpiffeId, TrustDomain};
use inmesh_core::route::RouteTable;
use serde_json::Value;

use super::World;
use super::cases::Suite;

/// The most requests that are derived from documents.
const DERIVED: usize = 20_000;

/// Requests without repetition, each with how often it was given.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    each: BTreeMap<String, (Question, u64)>,
    /// Lines that hold no request: of opaque connections, and of requests without a method.
    pub skipped: u64,
    /// Lines of an outbound log whose caller is not known, since no trust domain is.
    pub anonymous: u64,
}

// === impl Requests ===

impl Requests {
    /// The requests of a file: one of cases, or an access log of an agent.
    ///
    /// A line of an inbound log has its caller. In one of an outbound log the caller is taken to be the
    /// workload under a service account of its name, in the trust domain `own`; without one it is not known.
    ///
    /// # Errors
    ///
    /// Why a line or a case cannot be read, with its place.
    pub fn parse(file: &str, text: &str, own: Option<&TrustDomain>) -> Result<Self, String> {
        let mut requests = Self::default();
        let first = text.lines().find(|line| !line.trim().is_empty());
        let is_log = first.is_some_and(|line| {
            let line: Result<Value, _> = serde_json::from_str(line);
            line.is_ok_and(|line| line.get("timestamp").is_some())
        });
        if !is_log {
            let suites = Suite::parse(file, text).map_err(|problems| {
                let lines = problems.iter().map(ToString::to_string);
                lines.collect::<Vec<_>>().join("\n")
            })?;
            for case in suites.into_iter().flat_map(|suite| suite.cases) {
                requests.add(case.question);
            }
            return Ok(requests);
        }
        for (n, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let refuse = |why: &dyn std::fmt::Display| format!("{file}:{}: {why}", n + 1);
            let line: Value = serde_json::from_str(line).map_err(|e| refuse(&e))?;
            match of_line(&line, own) {
                Some(question) => {
                    let question = question.map_err(|e| refuse(&e))?;
                    let of_own = own.is_none() && line["direction"] == "outbound";
                    requests.anonymous += u64::from(of_own);
                    requests.add(question);
                }
                None => requests.skipped += 1,
            }
        }
        Ok(requests)
    }

    /// The requests that the documents of some worlds speak of: each port of each Service, asked by
    /// each identity that is named and by one that is not, with the paths, methods and header fields that
    /// routes and policies name. There are at most 20,000.
    #[must_use]
    pub fn of_documents(worlds: &[&World]) -> Self {
        let mut requests = Self::default();
        let (mut callers, mut operations) = (BTreeSet::new(), Operations::default());
        for world in worlds {
            operations.add_policies(world, &mut callers);
        }
        let known = worlds.iter().find_map(|world| world.trust_domain().ok());
        let domain = known.or_else(|| callers.first().map(SpiffeId::trust_domain));
        let stranger = domain.and_then(|td| SpiffeId::for_workload(td, "unknown", "unknown").ok());
        let mut callers: Vec<_> = callers.into_iter().map(Some).collect();
        callers.push(stranger);
        for world in worlds {
            let mut services: Vec<_> = world.snapshot().services().collect();
            services.sort_by(|a, b| a.name.cmp(&b.name));
            for service in services {
                let routes = serde_json::to_value(&service.routes).unwrap_or_default();
                let heads = operations.with_routes(&routes);
                for port in &*service.ports {
                    let at = format!("{}:{}", service.name, port.port);
                    let connections = connections(&at, &service.routes);
                    for question in questions(&at, port.protocol, &heads)
                        .into_iter()
                        .chain(connections)
                    {
                        for caller in &callers {
                            if requests.each.len() >= DERIVED {
                                return requests;
                            }
                            requests.add(match caller {
                                Some(id) => question.clone().from(id.clone()),
                                None => question.clone(),
                            });
                        }
                    }
                }
            }
        }
        // Each was derived once for each world.
        requests.each.values_mut().for_each(|(_, count)| *count = 1);
        requests
    }

    /// The requests, each with how often it was given.
    pub fn each(&self) -> impl Iterator<Item = (&Question, u64)> {
        self.each
            .values()
            .map(|(question, count)| (question, *count))
    }

    fn add(&mut self, question: Question) {
        let query = question.to_query();
        let (_, count) = self.each.entry(query).or_insert((question, 0));
        *count += 1;
    }
}

/// A method, a path and header fields.
type Heads = BTreeSet<(String, String, Vec<String>)>;

/// A port of a Service, asked for each head; what no request can be is left out.
fn questions(at: &str, protocol: AppProtocol, heads: &Heads) -> Vec<Question> {
    if protocol == AppProtocol::Tcp {
        return Question::parse(&format!("tcp://{at}"))
            .into_iter()
            .collect();
    }
    let each = heads.iter().filter_map(|(method, path, headers)| {
        let question = Question::parse(&format!("{method} http://{at}{path}")).ok()?;
        headers
            .iter()
            .try_fold(question, |q, field| q.header(field))
            .ok()
    });
    each.collect()
}

/// Opaque connections to a port of a Service, where such are routed: one that is no TLS, and one to each
/// server that is named.
fn connections(at: &str, routes: &RouteTable) -> Vec<Question> {
    if !routes.has_opaque() {
        return Vec::new();
    }
    let plain = Question::parse(&format!("tcp://{at}"));
    let plain: Vec<_> = plain.into_iter().collect();
    let named = routes.servers().into_iter().flat_map(|server| {
        let each = plain.iter().cloned();
        each.filter_map(move |question| question.sni(&server).ok())
    });
    let named: Vec<_> = named.collect();
    plain.into_iter().chain(named).collect()
}

/// The request of a line of an access log; `None` if it holds no request of HTTP.
fn of_line(
    line: &Value,
    own: Option<&TrustDomain>,
) -> Option<Result<Question, inmesh_core::explain::InvalidQuestion>> {
    let text = |name: &str| line.get(name).and_then(Value::as_str);
    let (method, authority, path) = (text("method")?, text("authority")?, text("path")?);
    let peer: Option<SpiffeId> = text("tls_peer").and_then(|id| id.parse().ok());
    let from = if text("direction") == Some("outbound") {
        let (namespace, name) = text("workload")?.split_once('/')?;
        own.and_then(|domain| SpiffeId::for_workload(domain, namespace, name).ok())
    } else {
        peer
    };
    let question = Question::parse(&format!("{method} http://{authority}{path}"));
    Some(question.map(|question| match from {
        Some(from) => question.from(from),
        None => question,
    }))
}

/// Methods and paths that policies name.
#[derive(Default)]
struct Operations {
    methods: BTreeSet<String>,
    paths: BTreeSet<String>,
}

impl Operations {
    fn add_policies(&mut self, world: &World, callers: &mut BTreeSet<SpiffeId>) {
        let snapshot = world.snapshot();
        for service in snapshot.services() {
            let sets = service
                .ports
                .iter()
                .filter_map(|port| service.endpoints(port.port));
            for member in sets.flat_map(|set| set.members()) {
                if let Transport::Mesh { ids } = &member.endpoint.transport {
                    callers.extend(ids.iter().cloned());
                }
            }
        }
        for policy in snapshot.policies() {
            for rule in &policy.rules {
                for operation in &rule.to {
                    let methods = operation.methods.iter().chain(&operation.not_methods);
                    self.methods
                        .extend(methods.map(|m| m.to_string().replace('*', "")));
                    let paths = operation.paths.iter().chain(&operation.not_paths);
                    self.paths.extend(paths.map(|path| {
                        let path = path.to_string().replace('*', "x");
                        if path.starts_with('/') {
                            path
                        } else {
                            format!("/{path}")
                        }
                    }));
                }
                for source in &rule.from {
                    let named = source.principals.iter().chain(&source.not_principals);
                    callers.extend(named.filter_map(|principal| {
                        format!("spiffe://{principal}").parse::<SpiffeId>().ok()
                    }));
                }
            }
        }
        self.methods.retain(|method| !method.is_empty());
    }

    /// Methods, paths and header fields to ask a Service with such routes for.
    fn with_routes(&self, routes: &Value) -> Heads {
        let mut methods = self.methods.clone();
        methods.extend(["GET".to_owned(), "POST".to_owned()]);
        let mut heads = BTreeSet::new();
        let plain = self.paths.iter().cloned().chain(["/".to_owned()]);
        for path in plain {
            heads.extend(
                methods
                    .iter()
                    .map(|m| (m.clone(), path.clone(), Vec::new())),
            );
        }
        for entry in routes.as_array().into_iter().flatten() {
            let when = &entry["matches"];
            let path = match when["path"]["type"].as_str() {
                Some("Exact" | "PathPrefix") => when["path"]["value"].as_str().unwrap_or("/"),
                _ => "/",
            };
            let fields = when["headers"].as_array().into_iter().flatten();
            let headers: Vec<_> = fields
                .filter(|field| field["type"] == "Exact")
                .filter_map(|f| Some(format!("{}: {}", f["name"].as_str()?, f["value"].as_str()?)))
                .collect();
            let below = format!("{}/x", path.trim_end_matches('/'));
            for path in [path.to_owned(), below] {
                for method in methods
                    .iter()
                    .cloned()
                    .chain(when["method"].as_str().map(Into::into))
                {
                    heads.insert((method, path.clone(), headers.clone()));
                }
            }
        }
        heads
    }
}
