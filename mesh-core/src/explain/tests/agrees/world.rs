//! Random objects and requests, of few names, so that they meet often.

use std::net::IpAddr;

use super::super::*;
use crate::balance::{
    ConsistentHash, EjectPolicy, HashCookie, HashKey, HashTable, Picked, RequestLimits, RingSize,
    SlowStart, Strategy, TableSize, pick,
};
use crate::model::ProxyVersion;
use crate::retry::HedgePolicy;
use crate::route::{GrpcMatch, GrpcRoute, GrpcRule, OpaqueRoute, Respond, ServerNames, ValueMatch};
use crate::traffic::{
    Blocks, CookieLifetime, SessionPersistence, SessionType, Target, TrafficPolicy,
};

/// Services there are, and one that there is not.
const NAMES: [&str; 4] = ["cart", "v2", "db", "gone"];
const PATHS: [&str; 4] = ["/", "/a", "/a/b", "/c"];
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "OPTIONS"];
pub(super) const CALLERS: [&str; 3] = ["shop/sa/web", "shop/sa/cart", "web/sa/other"];
/// When requests are asked about, on the clock of ejections.
pub(super) const NOW: Duration = Duration::from_secs(100);

/// A request as a caller writes it.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) line: String,
    pub(super) fields: Vec<String>,
    pub(super) caller: &'static str,
    pub(super) address: Option<IpAddr>,
    /// Of an opaque connection.
    pub(super) sni: Option<&'static str>,
    pub(super) seed: u64,
}

pub(super) struct World {
    pub(super) snapshot: Snapshot,
    pub(super) local: Local,
    /// Requests in flight.
    _held: Vec<Picked>,
}

fn one<T: Clone>(draw: &mut Draw, of: &[T]) -> T {
    of[draw.index(of.len())].clone()
}

/// Whether the die of so many sides shows a one.
fn rarely(draw: &mut Draw, sides: u64) -> bool {
    draw.below(sides) == 0
}

fn number(draw: &mut Draw, below: u64) -> u32 {
    u32::try_from(draw.below(below)).expect("it is small")
}

fn header(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

fn text(value: &'static str) -> HeaderValue {
    HeaderValue::from_static(value)
}

// === impl Ask ===

impl Ask {
    pub(super) fn drawn(draw: &mut Draw) -> Self {
        let hosts = [
            "cart.shop",
            "cart.shop",
            "cart.shop",
            "cart.shop:81",
            "v2.shop",
            "cart",
            "cart.shop.svc.cluster.local",
            "db.shop:99",
        ];
        let host = one(draw, &hosts);
        let paths = [
            "/",
            "/a",
            "/a/b?q=1",
            "/a/../c?q=2",
            "/a%2fb",
            "/%7e",
            "/shop.Cart/Get",
        ];
        let (opaque, tunnel) = ("cart.shop:82", "cart:82");
        let line = match draw.below(10) {
            0 => format!(
                "tcp://{}",
                one(draw, &[opaque, opaque, "cart.shop:80", "db.shop:99"])
            ),
            1 => format!(
                "CONNECT {}",
                one(
                    draw,
                    &[opaque, opaque, tunnel, "v2.shop:82", "cart:80", host]
                )
            ),
            _ => format!("{} http://{host}{}", one(draw, &METHODS), one(draw, &paths)),
        };
        let fields = [
            "x-a: 1",
            "x-user: 7",
            "cookie: stay=3",
            "origin: https://a.lab",
            "access-control-request-method: PUT",
            "content-type: application/grpc",
            "grpc-timeout: 250m",
            "x-envoy-expected-rq-timeout-ms: 1500",
            "x-mesh-mirrored: 1",
            "connection: keep-alive, Upgrade",
            "upgrade: websocket",
            "upgrade: h2c",
            "expect: 100-continue",
            "connection: close, x-hop, cookie",
            "x-hop: 1",
            "keep-alive: timeout=5",
            "te: trailers",
            "te: gzip, trailers;q=0.5",
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "traceparent: none",
            "tracestate: a=b",
            "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1",
            "host: other",
            "transfer-encoding: gzip",
        ];
        let most = fields.len();
        let fields = fields.iter().enumerate().filter_map(|(n, field)| {
            // The last two refuse it.
            let sides = if n + 2 < most { 4 } else { 40 };
            rarely(draw, sides).then(|| (*field).to_owned())
        });
        let fields = fields.collect();
        let servers = [
            None,
            Some(""),
            Some("cart.shop"),
            Some("b.shop"),
            Some("b.lab"),
        ];
        let tcp = line.starts_with("tcp:");
        Self {
            sni: one(draw, &servers).filter(|_| tcp),
            line,
            fields,
            caller: one(draw, &CALLERS),
            address: one(
                draw,
                &[None, Some([10, 9, 9, 9].into()), Some([10, 9, 9, 8].into())],
            ),
            seed: draw.bits(),
        }
    }
}

impl Ask {
    /// Adds what an answer has handed out: a client has one field of cookies.
    pub(super) fn show(&mut self, token: &str) {
        let mut fields = self.fields.iter_mut();
        let cookies = fields.find(|field| field.starts_with("cookie: "));
        match (cookies, token.strip_prefix("cookie: ")) {
            (Some(cookies), Some(cookie)) => *cookies = format!("{cookies}; {cookie}"),
            _ => self.fields.push(token.to_owned()),
        }
    }

    pub(super) fn is_opaque(&self) -> bool {
        self.line.starts_with("tcp:") || self.is_tunnel()
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.line.starts_with("CONNECT ")
    }
}

// === impl World ===

impl World {
    /// The same objects each time; the later, the more has happened to their endpoints.
    pub(super) fn drawn(draw: &mut Draw, later: u8) -> Fallible<Self> {
        let mut ops = Vec::new();
        for (nth, name) in (0..).zip(&NAMES[..3]) {
            let hosts = draw.below(6);
            let hosts: Vec<u8> = (0..hosts).map(|h| nth * 10 + h as u8).collect();
            ops.extend(services(name, &hosts)?);
        }
        for n in 0..draw.below(4) {
            ops.extend(route_of(draw, n));
        }
        for n in 0..draw.below(4) / 3 {
            ops.extend(calls(draw, n));
        }
        for n in 0..draw.below(4) {
            ops.extend(opaque_of(draw, n));
        }
        for n in 0..draw.below(4) {
            ops.extend(traffic(draw, n));
        }
        for n in 0..draw.below(3) {
            ops.push(Op::put(policy_of(draw, n)?));
        }
        let default = match rarely(draw, 4) {
            true => DefaultAction::Deny,
            false => DefaultAction::Allow,
        };
        let mut local = Local::new(Workload::new("shop", "web", "web")?, default);
        if rarely(draw, 5) {
            let policy = Arc::new(policy_of(draw, 9)?);
            local = local.with_egress(one(draw, &[DefaultAction::Allow, default]), [policy])?;
        }
        let snapshot = Snapshot::new(Settings::of(local.clone()));
        let snapshot = snapshot.apply(Change::update(SourceId::new("t"), ops));
        let stirred = (0..=later).flat_map(|_| stir(draw, &snapshot));
        let held = stirred.collect();
        Ok(Self {
            snapshot,
            local,
            _held: held,
        })
    }
}

/// Leaves requests in flight, failures behind, and turns taken.
fn stir(draw: &mut Draw, snapshot: &Snapshot) -> Vec<Picked> {
    let mut held = Vec::new();
    for _ in 0..draw.below(12) {
        let name = service(one(draw, &NAMES[..3]));
        let set = snapshot.service(&name).and_then(|s| s.endpoints(80));
        let choices = [
            crate::balance::Choice::LeastRequest,
            crate::balance::Choice::RoundRobin,
        ];
        let Some(set) = set else { continue };
        // Some ejections end before the requests that are asked about.
        let at = Duration::from_secs(draw.below(100));
        let Ok(mut picked) = pick(set, one(draw, &choices), at, &[], draw) else {
            continue;
        };
        match draw.below(4) {
            0 => held.push(picked),
            1 => {
                picked.succeeded(at);
            }
            2 => picked.shed(None, NOW),
            _ => {
                let _verdict = picked.failed(at);
            }
        }
    }
    held
}

/// A Service with two ports of HTTP, and one for which nothing is declared.
fn services(name: &str, hosts: &[u8]) -> Fallible<Vec<Op>> {
    let mut ops = backend(name, hosts)?;
    let ports = vec![
        ServicePort::new("http", 80, AppProtocol::Http1),
        ServicePort::new("http", 81, AppProtocol::Http2),
        ServicePort::new("http", 82, AppProtocol::Detect),
    ];
    ops[0] = Op::put(Service::new(service(name), ports));
    Ok(ops)
}

fn parents(draw: &mut Draw) -> Vec<Parent> {
    let (name, port) = (
        one(draw, &["cart", "cart", "v2"]),
        one(draw, &[None, Some(80), Some(80), Some(81)]),
    );
    vec![Parent::new(service(name), port)]
}

fn conditions(draw: &mut Draw) -> Option<Match> {
    let path = PathMatch::literal(one(draw, &PATHS), !rarely(draw, 3)).ok()?;
    let mut when = Match::path(path);
    if rarely(draw, 3) {
        when = when.method(one(draw, &METHODS).parse().ok()?);
    }
    if rarely(draw, 5) {
        when = when.header(header("x-a"), ValueMatch::Exact("1".into()));
    }
    Some(when)
}

fn filters(draw: &mut Draw, grpc: bool, prefix: bool) -> Option<Vec<Filter>> {
    let mut all = Vec::new();
    if rarely(draw, 4) {
        let changes = HeaderChanges::new()
            .set(header("x-tier"), text("gold"))
            .ok()?;
        let changes = changes.remove(header("x-a")).ok()?;
        let changes = match draw.below(4) {
            0 => changes.set(header("traceparent"), text("x")).ok()?,
            1 => changes.remove(header("traceparent")).ok()?,
            2 => changes.set(header("b3"), text("0")).ok()?,
            _ => changes,
        };
        all.push(Filter::RequestHeaders(changes));
    }
    for _ in 0..draw.below(3) {
        let to = service(one(draw, &NAMES));
        let mirror = Mirror::new(to, one(draw, &[80, 81]));
        let share = one(draw, &[(1, 1), (1, 2), (0, 5)]);
        all.push(Filter::Mirror(mirror.with_share(share.0, share.1).ok()?));
    }
    if rarely(draw, 5) {
        let changes = HeaderChanges::new().set(header("x-seen"), text("1")).ok()?;
        all.push(Filter::ResponseHeaders(changes));
    }
    if !grpc && rarely(draw, 4) {
        let cors = Cors::new().allow_origin(one(draw, &["*", "https://a.lab", "https://b.lab"]));
        let cors = cors.ok()?.allow_method("PUT").ok()?;
        all.push(Filter::Cors(Arc::new(
            cors.allow_credentials(rarely(draw, 2)),
        )));
    }
    if !grpc && rarely(draw, 4) {
        let path = match prefix {
            true => PathRewrite::prefix("/new").ok()?,
            false => PathRewrite::full("/whole").ok()?,
        };
        let rewrite = Rewrite::new().with_path(path);
        all.push(Filter::Rewrite(rewrite.with_host("next.lab").ok()?));
    }
    // In any order.
    for n in (1..all.len()).rev() {
        all.swap(n, draw.index(n + 1));
    }
    Some(all)
}

fn backends(draw: &mut Draw, grpc: bool, prefix: bool) -> Option<Vec<To>> {
    let each = (0..1 + draw.below(3)).map(|_| {
        let name = match rarely(draw, 12) {
            true => "gone",
            false => one(draw, &NAMES[..3]),
        };
        let to = To::new(
            service(name),
            one(draw, &[80, 80, 80, 81, 81, 99]),
            number(draw, 4),
        );
        let filters = if rarely(draw, 3) {
            filters(draw, grpc, prefix)?
        } else {
            Vec::new()
        };
        Some(to.ok()?.with_filters(filters))
    });
    each.collect()
}

fn limits(draw: &mut Draw) -> Option<Timeouts> {
    let span = |draw: &mut Draw| one(draw, &[None, Some(200), Some(1_000), Some(2_000)]);
    let limit = |millis: Option<u64>| millis.map(Duration::from_millis);
    Timeouts::new(limit(span(draw)), limit(span(draw))).ok()
}

fn retry(draw: &mut Draw) -> Option<RetryPolicy> {
    let policy = RetryPolicy::new(number(draw, 4)).on_status(503).ok()?;
    Some(policy.with_backoff(Duration::from_millis(draw.below(50))))
}

fn hedge(draw: &mut Draw) -> Option<HedgePolicy> {
    let delay = Duration::from_millis(draw.below(100));
    let policy = HedgePolicy::new(2 + number(draw, 4), delay).ok()?;
    Some(match rarely(draw, 2) {
        true => policy.with_grpc(),
        false => policy,
    })
}

fn session(draw: &mut Draw) -> Option<Arc<SessionPersistence>> {
    let cookie = SessionType::Cookie(CookieLifetime::Session);
    let session = SessionPersistence::new(one(draw, &[cookie, SessionType::Header]));
    Some(Arc::new(match draw.below(2) {
        0 => session,
        // Of the name of a cookie that hashes, or of a field that matches.
        _ => session.named(one(draw, &["stay", "x-user"])).ok()?,
    }))
}

fn rule(draw: &mut Draw) -> Option<Rule> {
    let when: Vec<_> = (0..draw.below(2))
        .map(|_| conditions(draw))
        .collect::<Option<_>>()?;
    let prefix = matches!(
        &when[..],
        [Match {
            path: PathMatch::Prefix(_),
            ..
        }]
    );
    let mut rule = match draw.below(8) {
        0 => {
            let to = Redirect::new().with_host("moved.lab").ok()?;
            let to = if prefix {
                to.with_path(PathRewrite::prefix("/moved").ok()?)
            } else {
                to
            };
            Rule::with(crate::route::Outcome::Redirect(to))
        }
        1 => Rule::with(crate::route::Outcome::Respond(
            Respond::new(418, "no\n").ok()?,
        )),
        _ => Rule::to(backends(draw, false, prefix)?),
    };
    rule = rule.when(when).with_filters(filters(draw, false, prefix)?);
    if rarely(draw, 2) {
        rule = rule.named("named");
    }
    if rarely(draw, 3) {
        rule = rule.with_timeouts(limits(draw)?);
    }
    if rarely(draw, 3) {
        rule = rule.with_retry(retry(draw)?);
    }
    Some(rule)
}

fn routes(draw: &mut Draw, kind: Kind, n: u64) -> Option<ObjectKey> {
    let namespace = Namespace::new(one(draw, &["shop", "shop", "web"])).ok()?;
    ObjectKey::new(kind, &namespace, &format!("r{n}")).ok()
}

/// What a document could not say is left out.
fn route_of(draw: &mut Draw, n: u64) -> Option<Op> {
    let key = routes(draw, Kind::HttpRoute, n)?;
    let rules = (0..=draw.below(3))
        .map(|_| rule(draw))
        .collect::<Option<Vec<_>>>()?;
    Some(Op::put(Route::new(key, parents(draw), rules).ok()?))
}

fn calls(draw: &mut Draw, n: u64) -> Option<Op> {
    let key = routes(draw, Kind::GrpcRoute, n)?;
    let rule = |draw: &mut Draw| {
        let mut when = GrpcMatch::new();
        if rarely(draw, 2) {
            when = when.service(ValueMatch::Exact("shop.Cart".into()));
        }
        if rarely(draw, 4) {
            when = when.header(header("x-a"), ValueMatch::Exact("1".into()));
        }
        let rule = GrpcRule::to(backends(draw, true, false)?).when(vec![when]);
        Some(rule.with_filters(filters(draw, true, false)?))
    };
    let rules = (0..=draw.below(2))
        .map(|_| rule(draw))
        .collect::<Option<Vec<_>>>()?;
    Some(Op::put(GrpcRoute::new(key, parents(draw), rules).ok()?))
}

/// A TLSRoute or a TCPRoute.
fn opaque_of(draw: &mut Draw, n: u64) -> Option<Op> {
    let kind = one(draw, &[Kind::TlsRoute, Kind::TcpRoute]);
    let key = routes(draw, kind.clone(), n)?;
    let each = (0..1 + draw.below(2)).map(|_| {
        let name = one(draw, &["cart", "v2", "db", "db", "gone"]);
        To::new(service(name), one(draw, &[80, 82, 82]), number(draw, 4)).ok()
    });
    let to = each.collect::<Option<Vec<_>>>()?;
    let port = one(draw, &[None, Some(82), Some(82), Some(82)]);
    let parents = vec![Parent::new(service("cart"), port)];
    let route = OpaqueRoute::new(key, parents, to).ok()?;
    let route = route.with_created(one(draw, &[None, Some(1), Some(2)]));
    let names = ["cart.shop", "cart", "*.shop", "*.lab", "b.shop"];
    let names: Vec<_> = names.iter().filter(|_| rarely(draw, 3)).collect();
    if kind == Kind::TcpRoute || names.is_empty() {
        return Some(Op::put(route));
    }
    let names = names.into_iter().map(|name| ServerNames::new(name));
    let names = names.collect::<Result<Vec<_>, _>>().ok()?;
    Some(Op::put(route.with_names(names).ok()?))
}

fn strategy(draw: &mut Draw) -> Option<Strategy> {
    let key = match draw.below(4) {
        0 => {
            HashKey::Cookie(HashCookie::new("stay", Some("/"), one(draw, &[None, Some(NOW)])).ok()?)
        }
        1 => HashKey::Header(header("x-user")),
        2 => HashKey::QueryParameter("q".into()),
        _ => HashKey::SourceIp,
    };
    let table = match draw.below(3) {
        0 => HashTable::Maglev(TableSize::new(251).ok()?),
        1 => HashTable::Ring(RingSize::new(64).ok()?),
        _ => HashTable::Rendezvous,
    };
    Some(match draw.below(6) {
        0 => Strategy::LeastRequest,
        1 => Strategy::PeakEwma,
        2 => Strategy::Random,
        3 => Strategy::RoundRobin,
        _ => Strategy::ConsistentHash(ConsistentHash::by(key).through(table)),
    })
}

fn traffic(draw: &mut Draw, n: u64) -> Option<Op> {
    let mut blocks = Blocks::default();
    let of_route = rarely(draw, 3);
    let section = || Some(Arc::from("named"));
    let targets = match (of_route, draw.below(3)) {
        (true, _) => {
            let key = key(Kind::HttpRoute, &format!("r{}", draw.below(3)));
            vec![Target::Route(
                key,
                if rarely(draw, 2) { section() } else { None },
            )]
        }
        (false, 0) => Vec::new(),
        (false, _) => vec![Target::Service(service(one(draw, &NAMES[..3])), None)],
    };
    if rarely(draw, 2) {
        blocks.timeouts = Some(limits(draw)?);
    }
    match draw.below(4) {
        0 => blocks.hedge = Some(hedge(draw)?.into()),
        1 | 2 => blocks.retry = Some(retry(draw)?.into()),
        _ => {}
    }
    if rarely(draw, 3) {
        blocks.session = Some(session(draw)?);
    }
    if !of_route {
        if !targets.is_empty() && rarely(draw, 4) {
            blocks.proxy_protocol = Some(one(draw, &[ProxyVersion::V1, ProxyVersion::V2]));
        }
        if !rarely(draw, 3) {
            blocks.strategy = Some(strategy(draw)?);
        }
        if rarely(draw, 3) {
            blocks.warmup = Some(SlowStart::new(NOW, 10, 1.0).ok()?);
        }
        if rarely(draw, 3) {
            let all = one(draw, &[None, Some(2), Some(5)]);
            blocks.limits = Some(RequestLimits::new(1 + number(draw, 3), all).ok()?);
        }
        if rarely(draw, 2) {
            blocks.eject = Some(EjectPolicy {
                consecutive: 1,
                base: Duration::from_secs(1 + draw.below(150)),
                percent: 50,
                ..EjectPolicy::default()
            });
        }
    }
    let key = key(Kind::TrafficPolicy, &format!("t{n}"));
    Some(Op::put(TrafficPolicy::new(key, targets, blocks).ok()?))
}

fn policy_of(draw: &mut Draw, n: u64) -> Fallible<Policy> {
    let (deny, caller) = (rarely(draw, 3), one(draw, &CALLERS));
    let from = match draw.below(3) {
        0 if !deny => callers(&[&format!("td.test/ns/{caller}")])?,
        _ => vec![],
    };
    let paths = [
        one(draw, &PATHS),
        one(draw, &["/*", "/new*", "/shop.Cart/*"]),
    ];
    let mut operation = Operation::builder().paths(paths);
    if rarely(draw, 3) {
        operation = operation.methods([one(draw, &METHODS)]);
    }
    let rule = PolicyRule::new(from, vec![operation.build()?]);
    let action = if deny { Action::Deny } else { Action::Allow };
    let key = key(Kind::AuthorizationPolicy, &format!("p{n}"));
    let policy = Policy::new(key, action, vec![rule]);
    let label = one(draw, &[None, Some("cart"), Some("v2"), Some("db")]);
    Ok(match label {
        Some(label) => policy.select("app", label),
        None => policy,
    })
}
