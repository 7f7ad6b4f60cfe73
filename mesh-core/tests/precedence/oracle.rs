//! The oracle: what the prose says, a sentence after the other, and nothing kept between requests.
//!
//! Quoted are HTTPRouteRule, HTTPPathMatch, HTTPHeaderMatch, HTTPQueryParamMatch, GRPCRouteRule, Hostname,
//! HTTPRouteSpec (`hostnames`), TLSRouteSpec and TCPRoute of the Gateway API, and GEP-1294 for the mesh. What these leave to the implementation is as
//! `mesh-cli/docs/documents.md` has it.

use super::Met;
use super::table::{Ask, Match, PATTERNS, Parent, PathType, Route, RouteKind, Speaks, Table, Text};

/// A match of a rule that a request meets.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    route: &'a Route,
    rule: usize,
    /// `None` of a rule without matches.
    when: Option<&'a Match>,
}

pub(crate) fn met(table: &Table, ask: &Ask) -> Met {
    let attached: Vec<&Route> = table
        .routes
        .iter()
        .filter(|route| {
            route
                .parents
                .iter()
                .any(|parent| attaches(parent, ask.port))
        })
        .collect();
    // "A Route in a different Namespace than its Service ... will only affect requests from workloads in
    // the same Namespace as the Route." Those of the caller's come first.
    let of = |namespace: &str| -> Vec<&Route> {
        let mine = attached.iter().filter(|route| route.namespace == namespace);
        mine.copied().collect()
    };
    let mut side = of(ask.namespace);
    if side.is_empty() {
        side = of("shop");
    }
    if side.is_empty() {
        return Met::Itself;
    }
    // "If multiple routes with different types both bind to the same Service and Port pair, only a single
    // route type should be applied. ... 1. GRPCRoute 2. HTTPRoute 3. TLSRoute 4. TCPRoute"
    let order = [
        RouteKind::Grpc,
        RouteKind::Http,
        RouteKind::Tls,
        RouteKind::Tcp,
    ];
    let mut order = order.into_iter();
    let Some(kind) = order.find(|kind| side.iter().any(|route| route.kind == *kind)) else {
        return Met::Itself;
    };
    side.retain(|route| route.kind == kind);
    let of_requests = matches!(kind, RouteKind::Grpc | RouteKind::Http);
    if !of_requests {
        return first_connection(kind, &side, ask);
    }
    if matches!(ask.speaks, Speaks::Tcp | Speaks::Tls(_)) {
        // No request is there to be matched.
        return Met::Itself;
    }
    let grpc = kind == RouteKind::Grpc;
    // "Each match is independent, i.e. this rule will be matched if any one of the matches is satisfied."
    let mut met = Vec::new();
    for route in side {
        for (rule, matches) in route.rules.iter().enumerate() {
            // "If no matches are specified, the default is a prefix path match on "/"", and for calls
            // "the implementation MUST match every gRPC request".
            let all: Vec<Option<&Match>> = match matches.is_empty() {
                true => vec![None],
                false => matches.iter().map(Some).collect(),
            };
            for when in all {
                let satisfied = match grpc {
                    true => {
                        ask.speaks == Speaks::Grpc && when.is_none_or(|when| is_call(when, ask))
                    }
                    false => when.is_none_or(|when| is_request(when, ask)),
                };
                if satisfied {
                    met.push(Candidate { route, rule, when });
                }
            }
        }
    }
    let best = match grpc {
        true => first_call(met),
        false => first_request(met),
    };
    best.map_or(Met::Nothing, Candidate::met)
}

impl Candidate<'_> {
    fn met(self) -> Met {
        let kind = match self.route.kind {
            RouteKind::Grpc => "GRPCRoute",
            RouteKind::Http => "HTTPRoute",
            RouteKind::Tcp => "TCPRoute",
            RouteKind::Tls => "TLSRoute",
        };
        let (namespace, name) = (self.route.namespace, self.route.name);
        Met::Rule(format!("{kind}/{namespace}/{name}"), self.rule)
    }
}

/// A TCPRoute takes any connection, requests included. A TLSRoute takes a connection of TLS whose SNI matches
/// one of its `hostnames`, or any if it has none. "Precedence must be given to rules from the ... Route with
/// the largest number of: Characters in a matching non-wildcard hostname. Characters in a matching hostname."
fn first_connection(kind: RouteKind, side: &[&Route], ask: &Ask) -> Met {
    let mut met = Vec::new();
    for route in side {
        let names: Vec<&str> = match (kind, ask.speaks) {
            (RouteKind::Tcp, _) => vec![""],
            (_, Speaks::Tls(_)) if route.hostnames.is_empty() => vec![""],
            (_, Speaks::Tls(Some(server))) => {
                let names = route.hostnames.iter().copied();
                names.filter(|name| is_named(name, server)).collect()
            }
            _ => Vec::new(),
        };
        met.extend(names.into_iter().map(|name| (*route, name)));
    }
    let most = |met: &mut Vec<(&Route, &str)>, number: &dyn Fn(&str) -> usize| {
        let largest = met.iter().map(|(_, name)| number(name)).max();
        met.retain(|(_, name)| Some(number(name)) == largest);
    };
    most(&mut met, &|name| {
        if name.starts_with('*') { 0 } else { name.len() }
    });
    most(&mut met, &str::len);
    let met = met.into_iter().map(|(route, _)| Candidate {
        route,
        rule: 0,
        when: None,
    });
    first_route(met.collect()).map_or(Met::Nothing, Candidate::met)
}

/// "Hostnames that are prefixed with a wildcard label (`*.`) are interpreted as a suffix match. That means that
/// a match for `*.example.com` would match both `test.example.com`, and `foo.test.example.com`, but not
/// `example.com`."
fn is_named(name: &str, server: &str) -> bool {
    match name.strip_prefix('*') {
        None => name == server,
        Some(suffix) => {
            let before = server.strip_suffix(suffix);
            before.is_some_and(|before| !before.is_empty())
        }
    }
}

/// "If `port` is set, the implementation MUST associate the route only with that port. If `port` is not
/// set, the implementation MUST associate the route with all ports defined in the Service." A
/// `sectionName` is a port's name.
fn attaches(parent: &Parent, port: u16) -> bool {
    let name = if port == 80 { "a" } else { "b" };
    parent.service == "cart"
        && parent.port.is_none_or(|of| of == port)
        && parent.section.is_none_or(|of| of == name)
}

/// "precedence must be given to the match having: Exact path match; Prefix path match with largest number
/// of characters; Method match; Largest number of header matches; Largest number of query param matches."
/// Regular expressions come last, the longest first.
fn first_request(mut met: Vec<Candidate<'_>>) -> Option<Candidate<'_>> {
    most(&mut met, |one| usize::from(path(one).0 == PathType::Exact));
    most(&mut met, |one| match path(one) {
        // "a trailing `/` is ignored": `/` itself is one character.
        (PathType::Prefix, path) => path.trim_end_matches('/').len().max(1),
        _ => 0,
    });
    most(&mut met, |one| match path(one) {
        (PathType::Regex, pattern) => pattern.len(),
        _ => 0,
    });
    most(&mut met, |one| {
        usize::from(one.when.is_some_and(|when| when.method.is_some()))
    });
    most(&mut met, |one| one.when.map_or(0, headers));
    most(&mut met, |one| {
        one.when
            .map_or(0, |when| firsts(&when.query, |a, b| a == b).len())
    });
    first_route(met)
}

/// "Precedence MUST be given to the rule with the largest number of: Characters in a matching service;
/// Characters in a matching method; Header matches."
fn first_call(mut met: Vec<Candidate<'_>>) -> Option<Candidate<'_>> {
    let call = |one: &Candidate<'_>| one.when.and_then(|when| when.call);
    let length = |text: Option<Text>| text.map_or(0, |text| text.written().len());
    most(&mut met, |one| {
        length(call(one).and_then(|call| call.service))
    });
    most(&mut met, |one| {
        length(call(one).and_then(|call| call.method))
    });
    most(&mut met, |one| one.when.map_or(0, headers));
    first_route(met)
}

/// "The oldest Route based on creation timestamp. The Route appearing first in alphabetical order by
/// "{namespace}/{name}". If ties still exist within an HTTPRoute, matching precedence MUST be granted to
/// the FIRST matching rule (in list order)". A route of unknown age is younger than all others.
fn first_route(mut met: Vec<Candidate<'_>>) -> Option<Candidate<'_>> {
    if let Some(oldest) = met.iter().filter_map(|one| one.route.created).min() {
        met.retain(|one| one.route.created == Some(oldest));
    }
    let name = |one: &Candidate<'_>| format!("{}/{}", one.route.namespace, one.route.name);
    let first = met.iter().map(name).min()?;
    met.retain(|one| name(one) == first);
    met.into_iter().min_by_key(|one| one.rule)
}

/// Keeps those with the largest number.
fn most(met: &mut Vec<Candidate<'_>>, number: impl Fn(&Candidate<'_>) -> usize) {
    let largest = met.iter().map(&number).max();
    met.retain(|one| Some(number(one)) == largest);
}

fn path(one: &Candidate<'_>) -> (PathType, &'static str) {
    let written = one.when.and_then(|when| when.path);
    written.unwrap_or((PathType::Prefix, "/"))
}

fn headers(when: &Match) -> usize {
    firsts(&when.headers, |a, b| a.eq_ignore_ascii_case(b)).len()
}

/// "If multiple entries specify equivalent header names, only the first entry with an equivalent name MUST
/// be considered for a match. Subsequent entries with an equivalent header name MUST be ignored."
fn firsts(
    all: &[(&'static str, Text)],
    equivalent: impl Fn(&str, &str) -> bool,
) -> Vec<(&'static str, Text)> {
    let mut firsts: Vec<(&'static str, Text)> = Vec::new();
    for (name, text) in all {
        if !firsts.iter().any(|(first, _)| equivalent(first, name)) {
            firsts.push((name, *text));
        }
    }
    firsts
}

/// "the match will evaluate to true only if all conditions are satisfied"
fn is_request(when: &Match, ask: &Ask) -> bool {
    let (kind, path) = when.path.unwrap_or((PathType::Prefix, "/"));
    is_path(kind, path, ask.path)
        && when.method.is_none_or(|method| method == ask.method)
        && has_headers(when, ask)
        && firsts(&when.query, |a, b| a == b)
            .iter()
            .all(|(name, text)| {
                // "implementations should match against the first value of the param"
                let pairs = ask.query.unwrap_or_default().split('&');
                let mut values =
                    pairs.filter_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
                values.next().is_some_and(|value| text.is(value))
            })
}

fn is_call(when: &Match, ask: &Ask) -> bool {
    let named = |name: Option<&str>, wanted: Option<Text>| {
        wanted.is_none_or(|text| name.is_some_and(|name| text.is(name)))
    };
    // "/service/method": the last part is the method.
    let mut parts: Vec<&str> = ask.path[1..].split('/').collect();
    let method = parts.pop().filter(|method| !method.is_empty());
    let service = parts.join("/");
    let (service, method) = match (&*service, method) {
        ("", _) | (_, None) => (None, None),
        (service, method) => (Some(service), method),
    };
    let call = when.call;
    named(service, call.and_then(|call| call.service))
        && named(method, call.and_then(|call| call.method))
        && has_headers(when, ask)
}

/// "Matches the URL path exactly and with case sensitivity"; "a URL path prefix split by `/`. Matching is
/// ... done on a path element by element basis. ... When specified, a trailing `/` is ignored."
fn is_path(kind: PathType, wanted: &'static str, path: &str) -> bool {
    let elements = |path: &str| -> Vec<String> { path.split('/').map(Into::into).collect() };
    match kind {
        PathType::Exact => wanted == path,
        PathType::Prefix => elements(path).starts_with(&elements(wanted.trim_end_matches('/'))),
        PathType::Regex => Text::Regex(wanted).is(path),
    }
}

/// Of a header that is repeated in a request one value must match.
fn has_headers(when: &Match, ask: &Ask) -> bool {
    let considered = firsts(&when.headers, |a, b| a.eq_ignore_ascii_case(b));
    considered.iter().all(|(name, text)| {
        let mut sent = ask.headers.iter();
        sent.any(|(of, value)| of.eq_ignore_ascii_case(name) && text.is(value))
    })
}

impl Text {
    fn written(self) -> &'static str {
        match self {
            Self::Exact(text) | Self::Regex(text) => text,
        }
    }

    /// A pattern matches the whole.
    fn is(self, value: &str) -> bool {
        match self {
            Self::Exact(text) => text == value,
            Self::Regex(pattern) => {
                let known = PATTERNS.iter().find(|(of, _)| *of == pattern);
                known.is_some_and(|(_, matches)| matches(value))
            }
        }
    }
}
