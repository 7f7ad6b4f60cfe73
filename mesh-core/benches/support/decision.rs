//! A world of Services, of which one is hot, and one decision in it, as the runtimes of both sides make
//! it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::HeaderName;
use inmesh_core::authorize::{
    self, Action, DefaultAction, HttpView, Operation, Policy, PolicySource, RequestView,
};
use inmesh_core::balance::pick;
use inmesh_core::identify::Peer;
use inmesh_core::model::{
    AppProtocol, Conditions, Draw, Host, IdSet, Kind, Namespace, ObjectKey, Service, ServiceName,
    ServicePort, Slice, SliceHost, SlicePort, SourceId, Transport, Workload,
};
use inmesh_core::plan::{Destination, plan};
use inmesh_core::route::{Backend, Match, Parent, PathMatch, Route, Rule, ValueMatch};
use inmesh_core::snapshot::{Change, Op, Settings, Snapshot};
use inmesh_pki::SpiffeId;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The rules of a Service that is not hot.
pub(crate) const RULES: usize = 3;
const HOT: usize = 0;
const ENDPOINTS: u8 = 10;
const NAMESPACES: usize = 20;
pub(crate) const TENANT: HeaderName = HeaderName::from_static("x-tenant");

fn name(n: usize) -> Fallible<ServiceName> {
    let namespace = Namespace::new(&format!("team-{}", n % NAMESPACES))?;
    Ok(ServiceName::new(&namespace, &format!("service-{n}"))?)
}

/// The endpoints of a Service; the last of them is ready or not.
pub(crate) fn slice(n: usize, last_ready: bool) -> Fallible<Op> {
    let service = name(n)?;
    let key = ObjectKey::new(Kind::EndpointSlice, service.namespace(), service.name())?;
    let id: SpiffeId = format!("spiffe://example.org/ns/team/sa/service-{n}").parse()?;
    let [.., high, low] = n.to_be_bytes();
    let hosts = (0..ENDPOINTS).map(|e| {
        let mut conditions = Conditions::default();
        conditions.ready = last_ready || e + 1 < ENDPOINTS;
        let address = IpAddr::from(Ipv4Addr::new(10, high, low, e));
        SliceHost::new(Host::Address(address)).with_conditions(conditions)
    });
    let slice = Slice::new(
        key,
        service,
        vec![SlicePort::new("http", 15_006)],
        hosts.collect(),
        Transport::Mesh {
            ids: IdSet::new([id]),
        },
    );
    Ok(Op::put(slice.workload("service", "v1")))
}

/// As many rules as asked for; the last, which splits by weight, is the one that the bench's request
/// meets. Of those before it every other one has its path too, and asks for another tenant.
fn route(n: usize, of: usize, rules: usize) -> Fallible<Op> {
    let service = name(n)?;
    let key = ObjectKey::new(Kind::HttpRoute, service.namespace(), service.name())?;
    let own = |weight| Backend::new(service.clone(), 80, weight);
    let other = Backend::new(name((n + 1) % of)?, 80, 10)?;
    let tenant = |name: String| {
        let items = PathMatch::literal("/items", true).map(Match::path)?;
        Fallible::Ok(items.header(TENANT, ValueMatch::Exact(name.into())))
    };
    let mut all = vec![
        Rule::to(vec![own(1)?]).when(vec![Match::path(PathMatch::literal("/healthz", false)?)]),
        Rule::to(vec![own(1)?]).when(vec![tenant("beta".into())?]),
    ];
    for rule in all.len()..rules - 1 {
        let when = match rule % 2 {
            0 => {
                let area = format!("/area-{rule}");
                Match::path(PathMatch::literal(&area, true)?)
            }
            _ => tenant(format!("tenant-{rule}"))?,
        };
        all.push(Rule::to(vec![own(1)?]).when(vec![when]));
    }
    all.push(
        Rule::to(vec![own(90)?, other]).when(vec![Match::path(PathMatch::literal("/", true)?)]),
    );
    let parents = vec![Parent::new(service.clone(), None)];
    Ok(Op::put(Route::new(key, parents, all)?))
}

/// Policies of the workload: one that denies, two that allow; the second of these lets the peer in.
fn policies() -> Fallible<Vec<Op>> {
    let shop = Namespace::new("shop")?;
    let policy = |name: &str, action, rule| {
        let key = ObjectKey::new(Kind::AuthorizationPolicy, &shop, name)?;
        let policy = Policy::new(key, action, vec![rule]);
        Fallible::Ok(Op::put(policy))
    };
    let admin = Operation::builder().paths(["/admin", "/admin/*"]).build()?;
    let ops = PolicySource::builder()
        .namespaces(["ops", "monitoring"])
        .build()?;
    let metrics = Operation::builder()
        .methods(["GET"])
        .paths(["/metrics"])
        .build()?;
    let web = PolicySource::builder()
        .principals(["example.org/ns/shop/sa/web"])
        .build()?;
    let items = Operation::builder()
        .methods(["GET", "POST"])
        .paths(["/items", "/items/*"])
        .build()?;
    Ok(vec![
        policy(
            "deny",
            Action::Deny,
            authorize::PolicyRule::new(vec![], vec![admin]),
        )?,
        policy(
            "ops",
            Action::Allow,
            authorize::PolicyRule::new(vec![ops], vec![metrics]),
        )?,
        policy(
            "web",
            Action::Allow,
            authorize::PolicyRule::new(vec![web], vec![items]),
        )?,
    ])
}

pub(crate) fn source() -> SourceId {
    SourceId::new("bench")
}

/// The Services, of which one is hot and may have more rules than the others.
pub(crate) fn world(services: usize, hot: usize) -> Fallible<Snapshot> {
    let mut ops = policies()?;
    for n in 0..services {
        let ports = vec![ServicePort::new("http", 80, AppProtocol::Http1)];
        ops.push(Op::put(Service::new(name(n)?, ports)));
        ops.push(slice(n, true)?);
        ops.push(route(n, services, if n == HOT { hot } else { RULES })?);
    }
    let workload = Workload::new("shop", "cart", "cart")?;
    let settings = Settings::new(workload, DefaultAction::Deny);
    Ok(Snapshot::new(settings).apply(Change::replace(source(), ops)))
}

/// Authorities of the Services that are called, in an order without a pattern.
pub(crate) fn authorities(services: usize, called: usize) -> Fallible<Vec<String>> {
    let mut draw = Draw::new(1);
    let mut authority = || {
        let n = usize::try_from(draw.below(u64::try_from(called)?))?;
        Fallible::Ok(name(n * (services / called) % services)?.to_string())
    };
    (0..16_384).map(|_| authority()).collect()
}

/// One decision, as the runtimes of both sides make it; says where the request goes.
pub(crate) fn decision(
    snapshot: &Snapshot,
    authority: &str,
    peer: &Peer,
    http: HttpView<'_>,
    draw: &mut Draw,
) -> Option<u16> {
    let view = RequestView::Http(http);
    let verdict = authorize::decide(snapshot.policy(), peer, &view, &mut ());
    verdict.permit().ok()?;
    let (local, to) = (
        &snapshot.settings().local,
        Destination::Authority(authority),
    );
    let planned = plan(snapshot, local, to, &view, draw, &mut ()).ok()?;
    let to = planned.backend()?;
    let set = snapshot.service(to.service)?.endpoints(to.port)?;
    let picked = pick(set, to.choice, Duration::from_secs(1), &[], draw).ok()?;
    Some(picked.member().endpoint.address().port())
}
