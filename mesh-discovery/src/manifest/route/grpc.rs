//! `gateway.networking.k8s.io/v1 GRPCRoute`, attached to Services (GAMMA).

use http::HeaderName;
use inmesh_core::model::Kind;
use inmesh_core::route::{GrpcMatch, GrpcRoute, GrpcRule, Regex, ValueMatch, check_header};

use super::super::Defaults;
use super::super::strict::{Fields, Value};
use super::attached::attached;
use super::matches::{HEADER_CHARS, each_named};
use super::reference::{ELSEWHERE, Within};
use super::rules::{Name, backends, each, few, name};
use super::{filters, filters::GRPC};

/// The longest service or method, in characters (Gateway API).
const METHOD_CHARS: usize = 1024;

/// Reads a route; the inner `None` is one that is for gateways.
pub(in crate::manifest) fn read(
    fields: &mut Fields<'_>,
    defaults: &Defaults,
) -> Option<Option<GrpcRoute>> {
    let read = attached(fields, Kind::GrpcRoute, GRPC, defaults, |list, within| {
        let Some(list) = list else {
            return Some(Vec::new());
        };
        let rules = each(&list.list_of_or_empty(16)?, |value| rule(value, within))?;
        few(&list, rules.iter().map(|rule| rule.matches.len()).sum());
        Some(rules)
    })?;
    let Some(read) = read else {
        return Some(None);
    };
    if read.rules.is_empty() {
        read.at
            .warn("the route has no rule: all calls are UNIMPLEMENTED");
    }
    let route = GrpcRoute::new(read.meta.key, read.parents, read.rules);
    Some(Some(read.at.check(route)?.with_created(read.meta.created)))
}

fn rule<'t>(value: &Value<'t>, within: Within<'_>) -> Option<(GrpcRule, Name<'t>)> {
    value.object(|rule| {
        rule.refuse_all(&["sessionPersistence"], ELSEWHERE);
        let name = name(rule);
        let matches: Option<Vec<_>> = match rule.get("matches") {
            Some(list) => list
                .list_of_or_empty(64)
                .and_then(|list| list.iter().map(one_match).collect()),
            None => Some(Vec::new()),
        };
        let filters = filters::read(rule, within);
        let backends = backends(rule, within);
        let (backends, _): (Vec<_>, Vec<_>) = backends?.into_iter().unzip();
        let mut read = GrpcRule::to(backends).when(matches?);
        let name = name?;
        read.rule.name = name.as_ref().map(|(name, _)| (*name).into());
        Some((read.with_filters(filters?.edits), name))
    })
}

fn one_match(value: &Value<'_>) -> Option<GrpcMatch> {
    value.object(|fields| {
        let (method, headers) = (fields.get("method"), fields.get("headers"));
        let mut read = match method {
            Some(method) => names(&method)?,
            None => GrpcMatch::new(),
        };
        for (value, name, wanted) in each_named(headers, HEADER_CHARS)? {
            let name = value.check(HeaderName::from_bytes(name.as_bytes()))?;
            value.check(check_header(&name))?;
            if read.headers.iter().any(|(n, _)| *n == name) {
                value.warn(format_args!(
                    "has no effect: of conditions on one header the first counts ({name})"
                ));
            }
            read = read.header(name, wanted);
        }
        Some(read)
    })
}

/// Service and method of a call.
fn names(value: &Value<'_>) -> Option<GrpcMatch> {
    value.object(|fields| {
        let kind = fields.get("type");
        let (service, method) = (fields.get("service"), fields.get("method"));
        let kind = match kind {
            Some(kind) => kind.choice(&["Exact", "RegularExpression"])?,
            None => "Exact",
        };
        let exact = kind == "Exact";
        let wanted = |value: &Value<'_>, is_name: fn(&str) -> bool| {
            let text = value.text()?;
            if text.chars().count() > METHOD_CHARS {
                value.refuse(format_args!("is longer than {METHOD_CHARS} characters"));
                return None;
            }
            match exact {
                true if is_name(text) => Some(Some(ValueMatch::Exact(text.into()))),
                true => {
                    value.refuse(format_args!("{text:?} is not a name of gRPC"));
                    None
                }
                // Empty is any.
                false if text.is_empty() => Some(None),
                false => value
                    .check(Regex::new(text))
                    .map(|regex| Some(ValueMatch::Regex(regex))),
            }
        };
        let mut read = GrpcMatch::new();
        if let Some(value) = &service
            && let Some(service) = wanted(value, is_service)?
        {
            if matches!(&service, ValueMatch::Exact(name) if name.starts_with('.')) {
                value.warn("matches no call: none names its service with a dot before it");
            }
            read = read.service(service);
        }
        if let Some(value) = &method
            && let Some(method) = wanted(value, is_method)?
        {
            read = read.method(method);
        }
        if read.service.is_none() && read.method.is_none() {
            value.refuse("names neither a service nor a method");
        }
        Some(read)
    })
}

/// The name of a service with its package: identifiers with dots between, and perhaps one before.
fn is_service(name: &str) -> bool {
    name.strip_prefix('.')
        .unwrap_or(name)
        .split('.')
        .all(is_method)
}

fn is_method(name: &str) -> bool {
    let first = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    name.bytes().next().is_some_and(first) && name.bytes().all(|b| first(b) || b.is_ascii_digit())
}
