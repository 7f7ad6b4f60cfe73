//! Routes as an operator reads them: in the words of the Gateway API, in order of precedence.
//!
//! In comes the table of a Service, out go its rules and their backends, or all that is decided on.
//! Values of header fields that are credentials are left out.

use std::collections::BTreeSet;

use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, SET_COOKIE};
use http::{HeaderName, HeaderValue};
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::filter::{Cors, Filter, HeaderChanges, Mirror, PathRewrite, Redirect, Rewrite};
use super::grpc::GrpcMatch;
use super::matching::{Match, PathMatch, ValueMatch};
use super::rule::Outcome;
use super::table::RouteTable;
use super::table::grpc::GrpcEntry;
use super::table::http::{Entry, RuleView, Target};
use super::table::opaque::{OpaqueEntry, OpaqueWhen};
use crate::model::{Namespace, ObjectKey, ServiceName};
use crate::traffic::block;

/// In place of the value of a field that is a credential.
const HIDDEN: &str = "(hidden)";

/// One rule of a table, as an overview shows it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RuleOf<'t> {
    /// The route that it is of.
    pub route: &'t ObjectKey,
    /// Its place in the route, counted from 0.
    pub index: usize,
    /// The Services that it forwards to, with port and weight; empty if it answers itself.
    pub backends: Vec<(&'t ServiceName, u16, u32)>,
    /// What it answers with; `None` if it forwards.
    pub answer: Option<&'t Outcome>,
}

// === impl RouteTable ===

impl RouteTable {
    /// The rules that may match, each once, the one of highest precedence first: those of gRPC routes,
    /// then of HTTP routes, and of these those of consumer routes before those of producer routes, then of
    /// TLSRoutes and of TCPRoutes.
    pub fn rules(&self) -> Vec<RuleOf<'_>> {
        let mut all = Vec::new();
        if let Some(grpc) = &self.grpc {
            let entries = grpc.entries.iter().map(|entry| (entry.rule, entry.targets));
            all = rules_of(entries, &grpc.rules, &grpc.targets);
        }
        let entries = self.entries().map(|(_, entry)| (entry.rule, entry.targets));
        all.extend(rules_of(entries, &self.http.rules, &self.http.targets));
        if let Some(of) = &self.opaque {
            let entries = of.entries.iter().map(|entry| (entry.rule, entry.targets));
            all.extend(rules_of(entries, &of.rules, &of.targets));
        }
        all
    }

    /// All matches, those of consumer routes with the namespace of the callers that they are for.
    fn entries(&self) -> impl Iterator<Item = (Option<&Namespace>, &Entry)> {
        let consumers = self.http.consumers.iter();
        let consumers = consumers.map(|(namespace, entry)| (Some(namespace), entry));
        consumers.chain(self.http.producers.iter().map(|entry| (None, entry)))
    }

    fn entry(&self, callers: Option<&Namespace>, entry: &Entry) -> Option<Value> {
        let rule = self.http.rules.get(entry.rule)?;
        let matches = self.http.when(entry).map_or_else(|| json!({}), conditions);
        let (from, to) = entry.targets;
        let targets = self.http.targets.get(from..to).unwrap_or_default();
        Some(shown(callers, entry.port, matches, rule, targets))
    }

    fn grpc_entry(&self, entry: &GrpcEntry) -> Option<Value> {
        let grpc = self.grpc.as_ref()?;
        let rule = grpc.rules.get(entry.rule)?;
        let of = &rule.route.namespace;
        let callers = Some(of).filter(|of| *of != self.service.namespace());
        let matches = entry.when.as_ref().map_or_else(|| json!({}), calls);
        let (from, to) = entry.targets;
        let targets = grpc.targets.get(from..to).unwrap_or_default();
        Some(shown(callers, entry.port, matches, rule, targets))
    }

    fn opaque_entry(&self, entry: &OpaqueEntry) -> Option<Value> {
        let of = self.opaque.as_ref()?;
        let rule = of.rules.get(entry.rule)?;
        let callers = Some(&rule.route.namespace).filter(|of| *of != self.service.namespace());
        let matches = match &entry.when {
            OpaqueWhen::Any => json!({}),
            OpaqueWhen::Tls(None) => json!({"tls": true}),
            OpaqueWhen::Tls(Some(names)) => json!({"tls": true, "hostname": names.to_string()}),
        };
        let (from, to) = entry.targets;
        let targets = of.targets.get(from..to).unwrap_or_default();
        Some(shown(callers, entry.port, matches, rule, targets))
    }

    /// Whether routes of opaque connections are attached.
    pub fn has_opaque(&self) -> bool {
        self.opaque.is_some()
    }

    /// A name of each server that a TLSRoute is for, empty for TLS that need name none.
    pub fn servers(&self) -> BTreeSet<String> {
        let entries = self.opaque.iter().flat_map(|of| &of.entries);
        let names = entries.filter_map(|entry| match &entry.when {
            OpaqueWhen::Any => None,
            OpaqueWhen::Tls(None) => Some(String::new()),
            OpaqueWhen::Tls(Some(names)) => Some(names.to_string().replace('*', "any")),
        });
        names.collect()
    }
}

/// Each rule once, in the order of the first entry that leads to it.
fn rules_of<'t>(
    entries: impl Iterator<Item = (usize, (usize, usize))>,
    rules: &'t [RuleView],
    targets: &'t [Target],
) -> Vec<RuleOf<'t>> {
    let mut seen = vec![false; rules.len()];
    let first = |(rule, _): &(usize, _)| {
        let seen = seen.get_mut(*rule);
        seen.is_some_and(|seen| !std::mem::replace(seen, true))
    };
    let rule = |(rule, (from, to)): (usize, (usize, usize))| {
        let rule = rules.get(rule)?;
        let targets = targets.get(from..to).unwrap_or_default().iter();
        Some(RuleOf {
            route: &rule.route,
            index: rule.index,
            backends: targets.map(|t| (&t.service, t.port, t.weight)).collect(),
            answer: rule.answer.as_deref(),
        })
    };
    entries.filter(first).filter_map(rule).collect()
}

fn shown(
    callers: Option<&Namespace>,
    port: Option<u16>,
    matches: Value,
    rule: &RuleView,
    targets: &[Target],
) -> Value {
    let mut out = Map::new();
    if let Some(callers) = callers {
        out.insert("callersOf".into(), callers.to_string().into());
    }
    if let Some(port) = port {
        out.insert("port".into(), port.into());
    }
    out.insert("matches".into(), matches);
    out.insert("route".into(), rule.route.to_string().into());
    out.insert("rule".into(), rule.index.into());
    if let Some(limits) = &rule.timeouts {
        out.insert(
            "timeouts".into(),
            block(&limits.value, limits.from.as_ref()),
        );
    }
    if let Some(retry) = &rule.retry {
        out.insert("retry".into(), block(&*retry.value, retry.from.as_ref()));
    }
    if let Some(fault) = &rule.fault {
        out.insert("fault".into(), block(&*fault.value, fault.from.as_ref()));
    }
    if let Some(session) = &rule.session {
        let shown = block(&*session.value, session.from.as_ref());
        out.insert("sessionPersistence".into(), shown);
    }
    if let Some(sticky) = &rule.sticky {
        let by = &sticky.by;
        out.insert("trafficSplit".into(), block(&*by.value, by.from.as_ref()));
    }
    out.insert("filters".into(), filters(&rule.filters));
    match rule.answer.as_deref() {
        Some(Outcome::Redirect(to)) => out.insert("requestRedirect".into(), redirect(to)),
        Some(Outcome::Respond(with)) => {
            let (status, bytes) = (with.status().as_u16(), with.body().len());
            let answer = json!({ "status": status, "bodyBytes": bytes });
            out.insert("directResponse".into(), answer)
        }
        Some(Outcome::Forward(_)) | None => {
            let targets = targets.iter().map(target).collect();
            out.insert("backends".into(), Value::Array(targets))
        }
    };
    Value::Object(out)
}

impl Serialize for RouteTable {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let grpc = self.grpc.iter().flat_map(|grpc| &grpc.entries);
        let grpc = grpc.filter_map(|entry| self.grpc_entry(entry));
        let http = self.entries();
        let http = http.filter_map(|(of, entry)| self.entry(of, entry));
        let opaque = self.opaque.iter().flat_map(|of| &of.entries);
        let opaque = opaque.filter_map(|entry| self.opaque_entry(entry));
        out.collect_seq(grpc.chain(http).chain(opaque))
    }
}

fn target(target: &Target) -> Value {
    json!({
        "service": target.service.to_string(),
        "port": target.port,
        "weight": target.weight,
        "filters": filters(&target.filters),
    })
}

fn conditions(when: &Match) -> Value {
    let mut out = Map::new();
    let (kind, path) = match &when.path {
        PathMatch::Exact(path) => ("Exact", path.as_str()),
        PathMatch::Prefix(path) => ("PathPrefix", path.as_str()),
        PathMatch::Regex(regex) => ("RegularExpression", regex.written()),
    };
    out.insert("path".into(), json!({ "type": kind, "value": path }));
    if let Some(method) = &when.method {
        out.insert("method".into(), method.as_str().into());
    }
    if !when.headers.is_empty() {
        out.insert("headers".into(), fields(&when.headers));
    }
    if !when.query.is_empty() {
        let query = when.query.iter().map(|(name, is)| value(name, is));
        out.insert("queryParams".into(), query.collect());
    }
    Value::Object(out)
}

/// The conditions on a call of gRPC. Service and method may be of two types here.
fn calls(when: &GrpcMatch) -> Value {
    let mut out = Map::new();
    for (name, is) in [("service", &when.service), ("method", &when.method)] {
        if let Some(is) = is {
            let (kind, value) = typed(is);
            out.insert(name.into(), json!({ "type": kind, "value": value }));
        }
    }
    if !when.headers.is_empty() {
        out.insert("headers".into(), fields(&when.headers));
    }
    Value::Object(out)
}

fn typed(is: &ValueMatch) -> (&'static str, &str) {
    match is {
        ValueMatch::Exact(exact) => ("Exact", exact),
        ValueMatch::Regex(regex) => ("RegularExpression", regex.written()),
    }
}

fn value(name: &str, is: &ValueMatch) -> Value {
    let (kind, value) = typed(is);
    json!({ "name": name, "type": kind, "value": value })
}

fn fields(conditions: &[(HeaderName, ValueMatch)]) -> Value {
    let fields = conditions.iter().map(|(name, is)| {
        let mut field = value(name.as_str(), is);
        if is_credential(name) {
            field["value"] = HIDDEN.into();
        }
        field
    });
    fields.collect()
}

fn filters(all: &[Filter]) -> Value {
    all.iter().map(filter).collect()
}

pub(super) fn filter(filter: &Filter) -> Value {
    match filter {
        Filter::Cors(to) => json!({ "cors": cors(to) }),
        Filter::Mirror(to) => json!({ "requestMirror": mirror(to) }),
        Filter::RequestHeaders(by) => json!({ "requestHeaderModifier": changes(by) }),
        Filter::ResponseHeaders(by) => json!({ "responseHeaderModifier": changes(by) }),
        Filter::Rewrite(to) => json!({ "urlRewrite": rewrite(to) }),
    }
}

fn cors(to: &Cors) -> Value {
    let lists = to.parts().into_iter().filter(|(_, list)| !list.is_empty());
    let mut out: Map<_, _> = lists
        .map(|(name, list)| (name.into(), list.into()))
        .collect();
    out.insert("allowCredentials".into(), to.credentials().into());
    out.insert("maxAge".into(), to.max_age().into());
    Value::Object(out)
}

fn mirror(to: &Mirror) -> Value {
    let (numerator, denominator) = to.share();
    json!({
        "backendRef": { "service": to.service().to_string(), "port": to.port() },
        "fraction": { "numerator": numerator, "denominator": denominator },
    })
}

fn changes(by: &HeaderChanges) -> Value {
    let pairs = |list: &[(HeaderName, HeaderValue)]| -> Value {
        let field = |(name, value): &(HeaderName, HeaderValue)| {
            let value = if is_credential(name) || value.is_sensitive() {
                HIDDEN.into()
            } else {
                String::from_utf8_lossy(value.as_bytes())
            };
            json!({ "name": name.as_str(), "value": value })
        };
        list.iter().map(field).collect()
    };
    let remove: Vec<_> = by.remove.iter().map(HeaderName::as_str).collect();
    json!({ "set": pairs(&by.set), "add": pairs(&by.add), "remove": remove })
}

pub(crate) fn is_credential(name: &HeaderName) -> bool {
    [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, SET_COOKIE].contains(name)
}

fn rewrite(to: &Rewrite) -> Value {
    let mut out = Map::new();
    if let Some((_, host)) = &to.host {
        out.insert("hostname".into(), host.as_str().into());
    }
    out.extend(to.path.as_ref().map(path));
    Value::Object(out)
}

fn redirect(to: &Redirect) -> Value {
    let mut out = Map::new();
    if let Some(scheme) = to.scheme() {
        out.insert("scheme".into(), scheme.into());
    }
    if let Some(host) = &to.host {
        out.insert("hostname".into(), (&**host).into());
    }
    if let Some(port) = to.port {
        out.insert("port".into(), port.into());
    }
    out.extend(to.path.as_ref().map(path));
    out.insert("statusCode".into(), to.status.as_u16().into());
    Value::Object(out)
}

fn path(change: &PathRewrite) -> (String, Value) {
    let (name, text) = change.parts();
    ("path".into(), json!({ name: text }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use http::Method;

    use super::*;
    use crate::model::{Kind, ServicePort};
    use crate::route::{
        Backend, GrpcRoute, GrpcRule, Inherited, Parent, Regex, Respond, Route, Rule, Timeouts,
    };

    type Fallible = Result<(), Box<dyn std::error::Error>>;

    fn table() -> Result<RouteTable, Box<dyn std::error::Error>> {
        let (shop, web) = (Namespace::new("shop")?, Namespace::new("web")?);
        let (cart, next) = (
            ServiceName::new(&shop, "cart")?,
            ServiceName::new(&shop, "next")?,
        );
        let token = || HeaderValue::from_static("Bearer secret");
        let changes = HeaderChanges::new()
            .set(AUTHORIZATION, token())?
            .add("x-edit".parse()?, HeaderValue::from_static("1"))?
            .remove("x-old".parse()?)?;
        let items = Match::path(PathMatch::literal("/items", true)?)
            .method(Method::GET)
            .header(COOKIE, ValueMatch::Exact("id=secret".into()))
            .query("page", ValueMatch::Regex(Regex::new("[0-9]+")?));
        let cors = Cors::new()
            .allow_origin("https://a.lab")?
            .allow_method("*")?
            .allow_credentials(true);
        let mirror = Mirror::new(ServiceName::new(&shop, "shadow")?, 81).with_share(1, 3)?;
        let rewrite = Rewrite::new()
            .with_host("cart.lab")?
            .with_path(PathRewrite::prefix("/v2")?);
        let split = Rule::to(vec![
            Backend::new(cart.clone(), 80, 9)?,
            Backend::new(next, 80, 1)?.with_filters(vec![Filter::Rewrite(rewrite)]),
        ])
        .when(vec![items])
        .with_filters(vec![
            Filter::RequestHeaders(changes),
            Filter::Mirror(mirror),
            Filter::Cors(Arc::new(cors)),
        ])
        .with_timeouts(Timeouts::new(Some(Duration::from_secs(2)), None)?);
        let closed = Rule::with(Outcome::Respond(Respond::new(503, "closed\n")?));
        let moved = Redirect::new()
            .with_scheme("https")?
            .with_path(PathRewrite::full("/new")?)
            .with_status(301)?;
        let parent = || vec![Parent::new(cart.clone(), Some(80))];
        let route = |of: &Namespace, rules| {
            let key = ObjectKey::new(Kind::HttpRoute, of, "r")?;
            Ok::<_, Box<dyn std::error::Error>>(Arc::new(Route::new(key, parent(), rules)?))
        };
        let producer = route(&shop, vec![split, closed])?;
        let consumer = route(&web, vec![Rule::with(Outcome::Redirect(moved))])?;
        let ports = [ServicePort::new(
            "http",
            80,
            crate::model::AppProtocol::Http1,
        )];
        let none = |_: &ObjectKey, _: Option<&str>| Inherited::default();
        Ok(RouteTable::build(
            &cart,
            &ports,
            &[producer, consumer],
            &none,
        ))
    }

    #[test]
    fn a_table_is_shown_in_the_words_of_the_gateway_api() -> Fallible {
        let shown = serde_json::to_value(table()?)?;
        let edits = json!({
            "set": [{"name": "authorization", "value": HIDDEN}],
            "add": [{"name": "x-edit", "value": "1"}],
            "remove": ["x-old"],
        });
        let rewrite = json!({"hostname": "cart.lab", "path": {"replacePrefixMatch": "/v2"}});
        assert_eq!(
            shown,
            json!([
                {
                    "callersOf": "web", "port": 80, "matches": {},
                    "route": "HTTPRoute/web/r", "rule": 0, "filters": [],
                    "requestRedirect": {
                        "scheme": "https", "path": {"replaceFullPath": "/new"}, "statusCode": 301,
                    },
                },
                {
                    "port": 80,
                    "matches": {
                        "path": {"type": "PathPrefix", "value": "/items"},
                        "method": "GET",
                        "headers": [{"name": "cookie", "type": "Exact", "value": HIDDEN}],
                        "queryParams": [
                            {"name": "page", "type": "RegularExpression", "value": "[0-9]+"},
                        ],
                    },
                    "route": "HTTPRoute/shop/r", "rule": 0,
                    "timeouts": {"request": "2000ms", "from": "HTTPRoute/shop/r"},
                    "filters": [
                        {"requestHeaderModifier": edits},
                        {"requestMirror": {
                            "backendRef": {"service": "shadow.shop", "port": 81},
                            "fraction": {"numerator": 1, "denominator": 3},
                        }},
                        {"cors": {
                            "allowOrigins": ["https://a.lab"], "allowMethods": ["*"],
                            "allowCredentials": true, "maxAge": 5,
                        }},
                    ],
                    "backends": [
                        {"service": "cart.shop", "port": 80, "weight": 9, "filters": []},
                        {
                            "service": "next.shop", "port": 80, "weight": 1,
                            "filters": [{"urlRewrite": rewrite}],
                        },
                    ],
                },
                {
                    "port": 80, "matches": {},
                    "route": "HTTPRoute/shop/r", "rule": 1, "filters": [],
                    "directResponse": {"status": 503, "bodyBytes": 7},
                },
            ])
        );
        Ok(())
    }

    #[test]
    fn calls_of_grpc_are_shown_before_other_requests() -> Fallible {
        let table = table()?;
        let (shop, web) = (Namespace::new("shop")?, Namespace::new("web")?);
        let (cart, calls) = (
            ServiceName::new(&shop, "cart")?,
            ServiceName::new(&shop, "calls")?,
        );
        let when = GrpcMatch::new()
            .service(ValueMatch::Exact("a.B".into()))
            .method(ValueMatch::Regex(Regex::new("Get.*")?))
            .header(COOKIE, ValueMatch::Exact("id=secret".into()));
        let rule = GrpcRule::to(vec![Backend::new(calls, 80, 1)?]).when(vec![when]);
        let key = ObjectKey::new(Kind::GrpcRoute, &web, "g")?;
        let route = GrpcRoute::new(key, vec![Parent::new(cart, None)], vec![rule])?;
        let none = |_: &ObjectKey, _: Option<&str>| Inherited::default();
        let table = table.with_grpc(&[], &[Arc::new(route)], &none);
        let shown = serde_json::to_value(&table)?;
        assert_eq!(
            shown[0],
            json!({
                "callersOf": "web",
                "matches": {
                    "service": {"type": "Exact", "value": "a.B"},
                    "method": {"type": "RegularExpression", "value": "Get.*"},
                    "headers": [{"name": "cookie", "type": "Exact", "value": HIDDEN}],
                },
                "route": "GRPCRoute/web/g", "rule": 0, "filters": [],
                "backends": [
                    {"service": "calls.shop", "port": 80, "weight": 1, "filters": []},
                ],
            })
        );
        assert_eq!(shown.as_array().map(Vec::len), Some(4));
        let rules = table.rules();
        assert_eq!(
            (rules.len(), rules[0].route.to_string().as_str()),
            (4, "GRPCRoute/web/g")
        );
        Ok(())
    }

    #[test]
    fn each_rule_stands_once_in_an_overview() -> Fallible {
        let table = table()?;
        let rules = table.rules();
        let named: Vec<_> = rules
            .iter()
            .map(|r| (r.route.to_string(), r.index))
            .collect();
        let expected = [
            ("HTTPRoute/web/r", 0),
            ("HTTPRoute/shop/r", 0),
            ("HTTPRoute/shop/r", 1),
        ];
        assert_eq!(
            named,
            expected.map(|(route, rule)| (route.to_owned(), rule))
        );
        let weights: Vec<_> = rules[1]
            .backends
            .iter()
            .map(|(_, _, weight)| *weight)
            .collect();
        assert_eq!(weights, [9, 1]);
        assert!(rules[0].answer.is_some() && rules[1].answer.is_none());
        Ok(())
    }
}
