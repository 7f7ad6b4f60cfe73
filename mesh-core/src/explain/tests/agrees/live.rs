//! What is decided of a request, by the calls that the runtime makes: those that count, that edit the
//! request that is sent, and that hand out turns.

use std::time::UNIX_EPOCH;

use http::header::{SET_COOKIE, UPGRADE};
use http_body::Body as _;

use super::super::*;
use super::world::{Ask, CALLERS, NOW, World};
use super::{Said, of_head, say};
use crate::authorize::{HttpView, Verdict as Judged, decide};
use crate::balance::{pick, pick_again};
use crate::body::Body;
use crate::connect::forward;
use crate::deadline;
use crate::error::is_grpc;
use crate::leave::leaves;
use crate::plan::{PlannedBackend, draw_of_copy, tunnel};
use crate::retry::{
    BodySeen, BudgetPolicy, Chance, Due, HedgePolicy, KeptRequest, Race, RetryBudget,
};
use crate::telemetry::trace::TraceContext;

/// The aspect under which is said what a session hands out, for the client's next request.
pub(super) const TOKEN: &str = "token";

/// A request as it was admitted.
struct Admitted {
    request: Request<Body>,
    authority: String,
    /// How long its caller waits.
    waits: Option<Duration>,
    grpc: bool,
}

/// Decides as a fresh world does; `copy` asks for that copy of the request instead, `None` if it is not
/// sent.
pub(super) fn decided(world: &World, ask: &Ask, copy: Option<usize>) -> Fallible<Option<Said>> {
    let mut said = Said::from([("answer", String::new())]);
    let (mut request, opaque) = asked(ask)?;
    let trace = begun(&mut request);
    let grpc = !opaque && is_grpc(request.headers());
    let refuse = |mut said: Said, error: &Error| -> Fallible<Option<Said>> {
        refused(&mut said, error, grpc)?;
        Ok(Some(said).filter(|_| copy.is_none()))
    };
    let mut waits = None;
    let look = |name: &HeaderName, value: &HeaderValue| {
        waits = waits.into_iter().chain(deadline::read(name, value)).min();
    };
    let admitted = match ask.is_tunnel() {
        true => head::admit_tunnel(Bounds::default(), &request),
        false => head::admit(Bounds::default(), &mut request, look).map(str::to_owned),
    };
    let authority = match admitted {
        Ok(authority) => authority,
        Err(error) => return refuse(said, &error),
    };
    if !opaque && let Err(error) = canonicalize(world.snapshot.settings().paths, &mut request) {
        return refuse(said, &error);
    }
    let mut admitted = Admitted {
        request,
        authority,
        waits,
        grpc,
    };
    let (local, mut draw) = (caller(world, ask)?, Draw::new(ask.seed));
    let view = match (ask.is_tunnel(), ask.sni) {
        (true, _) => tunnel(&world.snapshot, &local, &admitted.authority),
        (false, Some(server)) => Ok(RequestView::Tls {
            server: Some(server).filter(|server| !server.is_empty()),
        }),
        (false, None) => Ok(view(&admitted.request, opaque)),
    };
    let view = match view {
        Ok(view) => view,
        Err(error) => return refuse(said, &error),
    };
    let to = Destination::Authority(&admitted.authority);
    let planned = match plan(&world.snapshot, &local, to, &view, &mut draw, &mut ()) {
        Ok(planned) => planned,
        Err(refused) => return refuse(said, &refused.into()),
    };
    say(
        &mut said,
        "route",
        planned.route().map(|(key, rule)| format!("{key} {rule}")),
    );
    let Some(backend) = planned.backend() else {
        let RequestView::Http(http) = view else {
            return Err("a connection is answered".into());
        };
        let answer = planned
            .answer(&admitted.authority, &http)
            .ok_or("it has no answer")?;
        say(
            &mut said,
            "verdict",
            Some(format!("answered {}", answer.status().as_u16())),
        );
        say(&mut said, "answer", Some(of_head(answer.headers())));
        return Ok(Some(said).filter(|_| copy.is_none()));
    };
    if let Some(nth) = copy {
        return copied(world, ask, (&admitted, &planned, trace), nth, &draw);
    }
    let found = backend.find(&world.snapshot);
    if !opaque {
        let leaves = prepare(&planned, &mut admitted, trace);
        if let Ok((service, _)) = &found {
            repeats(&planned, (backend, service), (&admitted, leaves), &mut said);
        }
    }
    let (service, set) = match found {
        Ok(found) => found,
        Err(error) => return refuse(said, &error),
    };
    let traffic = service.traffic(backend.port);
    let proxied = traffic.and_then(|of| of.proxy_protocol.as_ref());
    let version = proxied.map(|block| block.value);
    if { set.members().iter() }.any(|member| member.endpoint.proxy_protocol != version) {
        return Err("an endpoint has another PROXY header than its Service".into());
    }
    let object = proxied.and_then(|block| block.from.as_ref());
    say(&mut said, "proxy of", object.map(ToString::to_string));
    if !opaque {
        say(&mut said, "sent", Some(head_of(&admitted.request)));
    }
    let chosen = (backend.choice.of(ask.address), backend.session);
    let picked = pick_again(set, chosen, NOW, (&[], false), &mut draw);
    let taken = picked.as_ref().ok().map(|picked| picked.member());
    stays(&planned, taken, &mut said)?;
    let picked = match picked {
        Ok(picked) => picked,
        Err(none) => return refuse(said, &backend.without_endpoint(none)),
    };
    // From here on a server answers, or its agent does.
    let mut fields = HeaderMap::new();
    planned.edit_response(&mut fields);
    say(&mut said, "answer", Some(of_head(&fields)));
    match judged(world, ask, (&mut admitted.request, opaque), picked.member())? {
        Ok(()) => say(
            &mut said,
            "verdict",
            Some(format!("sent to {}", picked.member().endpoint.address())),
        ),
        Err(error) => refused(&mut said, &error, grpc)?,
    }
    Ok(Some(said))
}

/// The session of a request that is led to an endpoint, if it has one, and what that hands out.
fn stays(planned: &Planned, taken: Option<&Member>, said: &mut Said) -> Fallible {
    let Some(session) = planned.session() else {
        return Ok(());
    };
    let stays = taken.is_some_and(|taken| session.is_at(&taken.endpoint));
    let object = session.policy().from.as_ref().map(ToString::to_string);
    let (name, found) = (session.name(), session.endpoint().is_some());
    say(
        said,
        "session",
        Some(format!("{name} {found} {stays} {object:?}")),
    );
    let mut answer = HeaderMap::new();
    if let Some(taken) = taken {
        session.answered(&taken.endpoint, UNIX_EPOCH + NOW, &mut answer);
    }
    // As a client shows it with its next request.
    if let Some((field, value)) = answer.iter().next() {
        let value = value.to_str()?.split(';').next().unwrap_or_default();
        let field = if *field == SET_COOKIE {
            "cookie"
        } else {
            field.as_str()
        };
        say(said, TOKEN, Some(format!("{field}: {value}")));
    }
    Ok(())
}

/// How many copies are sent of a request.
pub(super) fn copies(world: &World, ask: &Ask) -> Fallible<usize> {
    let mut nth = 0;
    while decided(world, ask, Some(nth))?.is_some() {
        nth += 1;
    }
    Ok(nth)
}

fn asked(ask: &Ask) -> Fallible<(Request<Body>, bool)> {
    let (method, uri) = ask.line.split_once(' ').unwrap_or(("GET", &ask.line));
    let mut request = Request::builder().method(method).uri(uri);
    for field in &ask.fields {
        let (name, value) = field.split_once(": ").ok_or("a field")?;
        request = request.header(name, value);
    }
    // What a caller asks whether to send is there.
    let expects = ask.fields.iter().any(|field| field.starts_with("expect"));
    let body = if expects {
        Body::from("text")
    } else {
        Body::empty()
    };
    Ok((request.body(body)?, ask.is_opaque()))
}

/// The place in a trace that a request has, or begins with.
fn begun(request: &mut Request<Body>) -> TraceContext {
    let read = TraceContext::read(request.headers());
    if read.is_none() {
        request.headers_mut().remove("tracestate");
    }
    read.map_or_else(|| TraceContext::new(1, 2, false), |above| above.child(3))
}

fn caller(world: &World, ask: &Ask) -> Fallible<Local> {
    if ask.caller == CALLERS[0] {
        return Ok(world.local.clone());
    }
    let (namespace, account) = ask.caller.split_once("/sa/").ok_or("a name")?;
    let workload = Workload::new(namespace, account, account)?;
    Ok(Local::new(workload, world.local.default_action()))
}

fn view(request: &Request<Body>, opaque: bool) -> RequestView<'_> {
    match opaque {
        true => RequestView::Tcp,
        false => RequestView::Http(HttpView::of(request)),
    }
}

/// Brings a request into the form of its next hop, with what is left of its time. Returns whether it may
/// leave HTTP.
fn prepare(planned: &Planned, admitted: &mut Admitted, trace: TraceContext) -> bool {
    let request = &mut admitted.request;
    let hop = forward(request, planned.protocol(), &admitted.authority);
    planned.edit_request(request);
    trace.write(request.headers_mut());
    let limits = planned.timeouts().map(|limits| limits.value);
    let limits = limits.map(|limits| [limits.request, limits.backend_request]);
    let all = limits.into_iter().flatten().flatten().chain(admitted.waits);
    if let Some(least) = all.min() {
        deadline::write(least, admitted.grpc, request.headers_mut());
    }
    hop.may_leave()
}

fn repeats(
    planned: &Planned,
    (to, service): (PlannedBackend<'_>, &crate::snapshot::ServiceView),
    (admitted, leaves): (&Admitted, bool),
    said: &mut Said,
) {
    let (request, traffic) = (&admitted.request, service.traffic(to.port));
    // It is asked once, since that counts.
    let budget = traffic.map(|of| service.retries.poll_repeat(&of.budget.value, NOW));
    let kept = KeptRequest::may_be(request);
    let hedged = planned.hedged(request.method(), admitted.grpc, || !leaves && kept);
    if let Some((block, budget)) = planned.hedge().zip(budget) {
        let object = block.from.as_ref().map(ToString::to_string);
        let (begun, missed) = (race(&block.value), hedged.as_ref().err());
        say(
            said,
            "hedges",
            Some(format!(
                "{} {} {:?} {budget} {}",
                begun.len(),
                begun[1].as_millis(),
                missed.map(ToString::to_string),
                object.unwrap_or_default()
            )),
        );
    }
    // A request is hedged or repeated.
    let policy = planned.retry().filter(|_| !matches!(hedged, Ok(Some(_))));
    let policy = policy.filter(|policy| policy.value.repeats() > 0);
    let said_by = |from: &Option<ObjectKey>| from.as_ref().map(ToString::to_string);
    say(
        said,
        "retry of",
        planned.retry().and_then(|policy| said_by(&policy.from)),
    );
    say(
        said,
        "timeouts of",
        planned.timeouts().and_then(|limits| said_by(&limits.from)),
    );
    let repeats = policy.zip(budget).map(|(policy, budget)| {
        let idempotent = request.method().is_idempotent();
        format!("{} {idempotent} {kept} {budget}", policy.value.repeats())
    });
    say(said, "repeats", repeats);
}

/// When the attempts of a request begin that is hedged and never answered, from the first one on.
fn race(policy: &HedgePolicy) -> Vec<Duration> {
    let (mut race, budget) = (Race::new(policy, NOW), RetryBudget::default());
    let mut begun = vec![Duration::ZERO];
    while let Some(now) = race.due() {
        let chance = Chance {
            policy,
            budget: (&budget, &BudgetPolicy::default()),
            now,
            left: Duration::MAX,
            body: BodySeen::Whole,
            overload: false,
        };
        match race.handle_due(&chance, || Some(())) {
            Due::Begin(()) => begun.push(now - NOW),
            other => panic!("{other:?}"),
        }
    }
    begun
}

/// The authority, path and fields of a request in the form of its next hop.
fn head_of(request: &Request<Body>) -> String {
    let uri = request.uri();
    let host = request
        .headers()
        .get(HOST)
        .map(|host| String::from_utf8_lossy(host.as_bytes()));
    let host = uri
        .authority()
        .map(ToString::to_string)
        .or_else(|| host.map(Into::into));
    let (method, path, query) = (request.method(), uri.path(), uri.query());
    format!(
        "{method} {host:?} {path} {query:?} {}",
        of_head(request.headers())
    )
}

fn copied(
    world: &World,
    ask: &Ask,
    (admitted, planned, trace): (&Admitted, &Planned, TraceContext),
    nth: usize,
    left: &Draw,
) -> Fallible<Option<Said>> {
    let asked = &admitted.request;
    let leaves = leaves(asked, || asked.body().is_end_stream()).is_some();
    let Some(copy) = planned.mirrors().get(nth).filter(|_| !leaves) else {
        return Ok(None);
    };
    let to = copy.backend().ok_or("a mirror leads somewhere")?;
    let mut said = Said::new();
    let refuse = |mut said: Said, error: &Error| -> Fallible<Option<Said>> {
        refused(&mut said, error, admitted.grpc)?;
        Ok(Some(said))
    };
    let mut request = Request::new(Body::empty());
    request.method_mut().clone_from(admitted.request.method());
    request.uri_mut().clone_from(admitted.request.uri());
    request.headers_mut().clone_from(admitted.request.headers());
    // As the runtime has it: a copy never leaves HTTP.
    request.headers_mut().remove(UPGRADE);
    let _hop = forward(&mut request, copy.protocol(), &admitted.authority);
    copy.edit(&mut request);
    trace.write(request.headers_mut());
    say(&mut said, "sent", Some(head_of(&request)));
    if let Err(denied) = copy.permit(&caller(world, ask)?, &request) {
        return refuse(said, &denied.into());
    }
    let set = match to.find(&world.snapshot) {
        Ok((_, set)) => set,
        Err(error) => return refuse(said, &error),
    };
    let mut draw = draw_of_copy(left, nth as u64);
    let picked = match pick(set, to.choice.of(None), NOW, &[], &mut draw) {
        Ok(picked) => picked,
        Err(none) => return refuse(said, &to.without_endpoint(none)),
    };
    match judged(world, ask, (&mut request, false), picked.member())? {
        Ok(()) => say(
            &mut said,
            "verdict",
            Some(format!("sent to {}", picked.member().endpoint.address())),
        ),
        Err(error) => refused(&mut said, &error, admitted.grpc)?,
    }
    Ok(Some(said))
}

/// What the server of an endpoint decides.
fn judged(
    world: &World,
    ask: &Ask,
    (request, opaque): (&mut Request<Body>, bool),
    member: &Member,
) -> Fallible<Result<(), Error>> {
    let snapshot = &world.snapshot;
    if !opaque {
        if let Err(error) = head::admit(Bounds::default(), request, |_, _| {}) {
            return Ok(Err(error));
        }
        if let Err(error) = canonicalize(snapshot.settings().paths, request) {
            return Ok(Err(error));
        }
    }
    let name = &*member.endpoint.workload;
    let callee = Workload::new("shop", name, name)?.label("app", name);
    let callee = Arc::new(Local::new(
        callee,
        snapshot.settings().local.default_action(),
    ));
    let served = snapshot.serve(&callee);
    let policy = served.policy_of(&callee).ok_or("it is served")?;
    let id = format!("spiffe://td.test/ns/{}", ask.caller);
    let peer = Peer::verified(id.parse()?, &"td.test".parse()?);
    Ok(
        match decide(policy, &peer, &view(request, opaque), &mut ()) {
            Judged::Permitted(_) => Ok(()),
            Judged::Denied(denied) => Err(denied.into()),
            Judged::Ask(_) => return Err("there is no authorizer".into()),
        },
    )
}

/// The answer of the mesh in place of an endpoint.
fn refused(said: &mut Said, error: &Error, grpc: bool) -> Fallible {
    let status = error.response(false).status().as_u16();
    let (reason, policy) = (
        error.reason().as_str(),
        error.policy().map(ToString::to_string),
    );
    say(
        said,
        "verdict",
        Some(format!("refused {status} {reason} {policy:?}")),
    );
    if grpc {
        let answer = error.response(true);
        let code = answer.headers().get("grpc-status").ok_or("a code")?;
        say(said, "grpc", Some(code.to_str()?.to_owned()));
    }
    Ok(())
}
