//! Explain: what would become of a request, and why?
//!
//! In come a snapshot, the local workload that sends, what is asked ([`Question`]) and the time; out
//! comes an [`Explanation`]: the canonical request, the policies of both sides, the routes that won and
//! lost, the split, the endpoint, limits and repeats, each with the object that said so. It calls the
//! very functions that decide live requests ([`plan`], [`decide`](crate::authorize::decide),
//! [`foresee`]) and decides nothing itself. Pure: it counts nothing, begins no probe, and equal draws
//! give equal explanations.

mod copies;
mod explanation;
mod inbound;
mod limits;
mod question;
mod seen;
mod sent;
mod settings;
mod trace;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, HeaderMap, LOCATION, ORIGIN};
use http::uri::{Authority, Scheme};
use http::{Method, Request, Uri};

pub use explanation::Explanation;
pub use question::{InvalidQuestion, Question};
pub use sent::{Copied, Deadline, Edit, Fault, Fields, Head, Hedges, Limit, Origin, Repeats};
pub use value::{
    Answer, Backend, Endpoint, Judgement, LimitSeen, Outcome, PolicySeen, RuleName, RuleSeen,
    SessionSeen, Setting, Share, SplitBy, Verdict,
};

use crate::authorize::{RequestView, canonicalize};
use crate::balance::{EndpointSet, Member, Shown, foresee, foresee_kept};
use crate::error::{Error, Reason};
use crate::head::{self, Bounds};
use crate::identify::Peer;
use crate::leave;
use crate::local::Local;
use crate::model::{AppProtocol, Asked, Draw, Roots, ServiceName, SourceId, Transport, Workload};
use crate::next_hop;
use crate::plan::{Destination, Planned, Refusal, plan, tunnel};
use crate::snapshot::Snapshot;
use limits::Waits;
use seen::Seen;
use trace::Trace;

/// Where a question is asked: what the mesh knows, and as which workload.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    snapshot: &'a Snapshot,
    local: &'a Local,
    bounds: Bounds,
    now: Duration,
    stale: &'a [SourceId],
}

// === impl Scene ===

impl<'a> Scene<'a> {
    /// Asks a snapshot as a local workload.
    pub fn new(snapshot: &'a Snapshot, local: &'a Local) -> Self {
        Self {
            snapshot,
            local,
            bounds: Bounds::default(),
            now: Duration::ZERO,
            stale: &[],
        }
    }

    /// The same with the bounds of a runtime.
    #[cfg(feature = "runtime")]
    #[must_use]
    pub fn within(mut self, limits: &crate::runtime::Limits) -> Self {
        self.bounds = limits.head();
        self
    }

    /// The same while these sources are stale: endpoints that come from them are in doubt.
    #[must_use]
    pub fn doubting(mut self, stale: &'a [SourceId]) -> Self {
        self.stale = stale;
        self
    }

    /// The host outside the mesh that a question asks for and whose endpoints no document lists, with
    /// the Service that it leads to. Until it is asked for, nothing is known of it.
    pub fn asked(&self, question: &Question) -> Option<(ServiceName, Asked)> {
        let mut request = question.request.clone();
        let (authority, _) = admitted(self, question, &mut request).ok()?;
        let (local, mut draw) = (caller(self, question), Draw::new(question.draw));
        let to = Destination::Authority(&authority);
        let view = view(self.snapshot, &local, question, (&request, &authority)).ok()?;
        let planned = plan(self.snapshot, &local, to, &view, &mut draw, &mut ()).ok()?;
        let backend = planned.backend()?;
        Some((backend.service.clone(), backend.asked?.clone()))
    }

    /// The same at a moment, on the clock that endpoints are ejected by.
    #[must_use]
    pub fn at(mut self, now: Duration) -> Self {
        self.now = now;
        self
    }
}

/// Explains what becomes of a request.
///
/// 1. Its head is checked and brought into its canonical form, as it is for every request.
/// 2. It is planned: the egress policy of the caller, the routes, the draw.
/// 3. The endpoint is foreseen, with the draw that the plan has left.
/// 4. The policy of each workload behind the backend judges it, as the route has edited it. The one of
///    the endpoint that was foreseen decides.
///
/// ```
/// use inmesh_core::Local;
/// use inmesh_core::authorize::DefaultAction;
/// use inmesh_core::explain::{Outcome, Question, Scene, explain};
/// use inmesh_core::model::Workload;
/// use inmesh_core::snapshot::{Settings, Snapshot};
///
/// let web = Workload::new("shop", "web", "web")?;
/// let snapshot = Snapshot::new(Settings::new(web.clone(), DefaultAction::Deny));
/// let local = Local::new(web, DefaultAction::Deny);
/// let question = Question::parse("GET http://cart/items")?;
/// let explanation = explain(&Scene::new(&snapshot, &local), &question);
/// assert_eq!(explanation.verdict.outcome, Outcome::Refused);
/// assert_eq!(explanation.verdict.reason.as_deref(), Some("unknown-host"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn explain(scene: &Scene<'_>, question: &Question) -> Explanation {
    let mut out = Explanation {
        draw: question.draw,
        from: question.from.as_ref().map(ToString::to_string),
        ..Explanation::default()
    };
    let local = &caller(scene, question);
    out.caller = local.shown().to_string();
    out.verdict = match walk(scene, local, question, &mut out) {
        Ok(verdict) => verdict,
        Err(error) => Verdict::refused(&error, question.is_grpc()),
    };
    out
}

/// How often each backend is drawn for a request, over so many seeds from 0 on; `None` is a request that
/// is sent to no backend. It is the plan of [`explain`] alone, and the draw of the question is not read.
pub fn shares(
    scene: &Scene<'_>,
    question: &Question,
    draws: u32,
) -> BTreeMap<Option<(ServiceName, u16)>, u32> {
    let mut counts = BTreeMap::new();
    for backend in drawn(scene, question, draws) {
        *counts.entry(backend).or_default() += 1;
    }
    counts
}

/// The first seed of each backend that is drawn for a request, among so many seeds from 0 on.
pub fn seeds(scene: &Scene<'_>, question: &Question, most: u32) -> Vec<u64> {
    let (mut met, mut seeds) = (BTreeSet::new(), Vec::new());
    let mut possible = None;
    for (backend, seed) in drawn(scene, question, most).zip(0_u64..) {
        if met.insert(backend) {
            seeds.push(seed);
        }
        // Most requests have one backend, and no seed brings another.
        let possible = *possible.get_or_insert_with(|| {
            let one = explain(scene, question);
            // A key leads to one of a split alone.
            let kept = one.split_by.is_some_and(|by| by.found);
            let shares = one.split.iter().filter(|share| match kept {
                true => share.drawn,
                false => share.weight > 0,
            });
            // A fault may keep it from all of them.
            shares.count().max(1) + usize::from(one.fault.is_some())
        });
        if met.len() >= possible {
            break;
        }
    }
    seeds
}

/// The backend that each seed draws.
fn drawn(
    scene: &Scene<'_>,
    question: &Question,
    draws: u32,
) -> impl Iterator<Item = Option<(ServiceName, u16)>> {
    let mut request = question.request.clone();
    let authority = admitted(scene, question, &mut request)
        .ok()
        .map(|(authority, _)| authority);
    let (local, snapshot) = (caller(scene, question), scene.snapshot);
    (0..draws).map(move |seed| {
        let authority = authority.as_deref()?;
        let (to, mut draw) = (Destination::Authority(authority), Draw::new(seed.into()));
        let view = view(snapshot, &local, question, (&request, authority)).ok()?;
        let planned = plan(snapshot, &local, to, &view, &mut draw, &mut ()).ok()?;
        if planned.injected().is_some_and(|made| made.abort.is_some()) {
            return None;
        }
        let backend = planned.backend()?;
        Some((backend.service.clone(), backend.port))
    })
}

/// The workload that asks: the local one, or one of which only its identity is known.
fn caller(scene: &Scene<'_>, question: &Question) -> Local {
    let local = scene.local;
    let Some(id) = &question.from else {
        return local.clone();
    };
    let own = local.workload();
    let Some((namespace, account)) = id.workload() else {
        return local.clone();
    };
    if own.namespace.as_str() == namespace && *own.service_account == *account {
        return local.clone();
    }
    match Workload::new(namespace, account, account) {
        Ok(workload) => Local::new(workload, local.default_action()),
        // An ID that is no workload's name has no namespace to route by.
        Err(_) => local.clone(),
    }
}

/// A request as it is admitted, with what else a question says of it.
#[cfg(feature = "simulate")]
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) request: Request<()>,
    pub(crate) authority: String,
    /// The workload that asks.
    pub(crate) local: Local,
    /// How long it waits, if it says so.
    pub(crate) wait: Option<Duration>,
    /// Where it connects from, if it is no call from within the process.
    pub(crate) address: Option<std::net::IpAddr>,
}

/// Brings the request of a question into its canonical form, once for many.
#[cfg(feature = "simulate")]
pub(crate) fn admit(scene: &Scene<'_>, question: &Question) -> Result<Admitted, Error> {
    let mut request = question.request.clone();
    let (authority, waits) = admitted(scene, question, &mut request)?;
    Ok(Admitted {
        request,
        authority,
        local: caller(scene, question),
        wait: waits.least(),
        address: question.address,
    })
}

fn walk(
    scene: &Scene<'_>,
    local: &Local,
    question: &Question,
    out: &mut Explanation,
) -> Result<Verdict, Error> {
    let snapshot = scene.snapshot;
    let mut request = question.request.clone();
    let (authority, waits) = admitted(scene, question, &mut request)?;
    let (mut draw, mut seen) = (Draw::new(question.draw), Seen::default());
    let view = view(snapshot, local, question, (&request, &authority));
    out.request = Some(seen_as(
        question,
        question.head(&request, &authority),
        &view,
    ));
    let view = view?;
    let to = Destination::Authority(&authority);
    let planned = plan(snapshot, local, to, &view, &mut draw, &mut seen);
    let (service, decided) = match &planned {
        Ok(planned) => (Some(planned.service()), Ok(planned.permit())),
        Err(refused) => (refused.service.as_ref(), Err(refused)),
    };
    out.service = service.map(|service| service.name.to_string());
    if service.is_some() {
        let judgement = seen.judgement(local.egress(), (&Peer::Local, &view));
        let denied = decided.err().and_then(|refused| match &refused.reason {
            Refusal::Denied(denied) => Some(denied),
            _ => None,
        });
        out.egress = Some(judgement.of(local, true).decided(decided.ok(), denied));
    }
    out.rules = seen.into_rules();
    let planned = planned?;
    routed(&planned, &request, out);
    let (fields, origin) = answers(&planned, &request);
    out.fault = limits::fault(&planned);
    if out.fault.is_some() {
        out.settings = settings::of(&planned, None, question.opaque);
    }
    if let Some(verdict) = limits::kept(&planned, &waits, &request)? {
        // An answer that is made on purpose is one of the route.
        (out.response, out.origin) = (fields, origin);
        return Ok(verdict);
    }
    let Some(backend) = planned.backend() else {
        out.origin = origin;
        return Ok(answered(&planned, &authority, &view, out));
    };
    let choice = backend.choice.of(question.address);
    out.backend = Some(Backend::of(backend, choice, planned.protocol()));
    let (asks, copied) = ((local, question), (&request, &*authority));
    out.copies = copies::of(scene, asks, &planned, copied, &draw);
    let (service, set) = backend.find(snapshot)?;
    let traffic = service.traffic(backend.port);
    out.settings = settings::of(&planned, traffic, question.opaque);
    with_authority(&mut request, &authority);
    let trace = sent_on(question, planned.protocol(), &mut request);
    planned.edit_request(&mut request);
    if !question.opaque {
        trace.write(request.headers_mut());
        out.deadline = limits::deadline(&planned, &waits, &mut request);
        out.hedges = limits::hedges(&planned, (backend, service), &request, scene.now);
        out.repeats = limits::repeats(&planned, (backend, service), &request, scene.now);
    }
    let led = backend.session.and_then(|at| foresee_kept(set, at));
    let taken = led.map_or_else(|| foresee(set, choice, scene.now, &mut draw), Ok);
    let taken = taken.map_err(|none| backend.without_endpoint(none));
    out.endpoints = endpoints(set, taken.as_ref().ok().copied());
    doubt(scene, &service.name, set, &mut out.endpoints);
    out.session = SessionSeen::of(&planned, taken.as_ref().ok().copied());
    let authority = authority_of(&request).unwrap_or(authority);
    out.sent = Some(question.head(&request, &authority));
    let taken = taken?;
    vouched(taken)?;
    // A server answers, or its agent does; what this agent answers in its place is not of the route.
    (out.response, out.origin) = (fields, origin);
    let judged = (backend, &**set, taken);
    inbound::judge(scene, question, judged, &mut request, &mut out.inbound)
}

/// The head of a request with what is seen of a tunnel, or of TLS that is passed on.
fn seen_as(question: &Question, mut head: Head, view: &Result<RequestView<'_>, Error>) -> Head {
    if question.tunnel {
        head.method = Method::CONNECT.to_string();
    }
    if let Ok(RequestView::Tls { server }) = view {
        head.sni = Some(server.unwrap_or_default().to_owned());
    }
    head
}

/// Refuses an endpoint that no connection is made to, since no root vouches for it.
fn vouched(member: &Member) -> Result<(), Error> {
    match &member.endpoint.transport {
        Transport::Tls {
            roots: Roots::Unusable(why),
            ..
        } => {
            let detail = format!("no root vouches for the server: {why}");
            Err(Error::new(Reason::TlsFailed, detail))
        }
        _ => Ok(()),
    }
}

/// The route that was taken, and what it changes.
fn routed(planned: &Planned, request: &Request<()>, out: &mut Explanation) {
    out.route = planned.route().map(RuleName::of);
    out.split = planned.split().into_iter().map(Share::of).collect();
    let shown = Shown {
        headers: Some(request.headers()),
        query: request.uri().query(),
    };
    out.split_by = SplitBy::of(planned, shown);
    let edit = |(filter, of_backend)| Edit { filter, of_backend };
    out.edits = planned.filters().into_iter().map(edit).collect();
}

/// What the route has each answer say that comes from a server, and whether the origin that the request
/// comes from may read it.
fn answers(planned: &Planned, request: &Request<()>) -> (Fields, Option<Origin>) {
    let mut fields = HeaderMap::new();
    planned.edit_response(&mut fields);
    let origin = planned.cors().zip(request.headers().get(ORIGIN));
    let origin = origin.map(|(cors, origin)| Origin {
        origin: String::from_utf8_lossy(origin.as_bytes()).into_owned(),
        allowed: origin.to_str().is_ok_and(|origin| cors.allows(origin)),
    });
    (Fields(fields), origin)
}

/// Brings a request into the form of its next hop, as the runtime does. Returns what it writes once filters
/// have edited the rest.
fn sent_on(question: &Question, protocol: AppProtocol, request: &mut Request<()>) -> Trace {
    let trace = Trace::of(request.headers_mut());
    if !question.opaque {
        let leaves = leave::Head::of(request).leaves;
        let version = next_hop::next_version(protocol, request.version(), leaves);
        next_hop::prepare(request.headers_mut(), version, leaves);
    }
    trace
}

/// Brings a request into its canonical form, as every request is; returns its authority, and how long
/// its caller waits.
fn admitted(
    scene: &Scene<'_>,
    question: &Question,
    request: &mut Request<()>,
) -> Result<(String, Waits), Error> {
    let mut waits = Waits::default();
    if question.tunnel {
        return Ok((head::admit_tunnel(scene.bounds, request)?, waits));
    }
    let authority = head::admit(scene.bounds, request, |name, value| waits.look(name, value))?;
    let authority = authority.to_owned();
    canonicalize(scene.snapshot.settings().paths, request)?;
    Ok((authority, waits))
}

/// A request as decisions see it; a tunnel as what it leads to has it seen.
fn view<'r>(
    snapshot: &Snapshot,
    local: &Local,
    question: &'r Question,
    (request, authority): (&'r Request<()>, &'r str),
) -> Result<RequestView<'r>, Error> {
    match question.tunnel {
        true => tunnel(snapshot, local, authority),
        false => Ok(question.view(request)),
    }
}

/// Moves the authority into the target, where a hop has it too.
fn with_authority(request: &mut Request<()>, authority: &str) {
    request.headers_mut().remove(HOST);
    let mut parts = request.uri().clone().into_parts();
    parts.authority = Authority::try_from(authority).ok();
    if parts.authority.is_some() {
        parts.scheme = Some(Scheme::HTTP);
    }
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

fn authority_of(request: &Request<()>) -> Option<String> {
    Some(request.uri().authority()?.to_string())
}

/// What the route itself answers.
fn answered(
    planned: &Planned,
    authority: &str,
    view: &RequestView<'_>,
    out: &mut Explanation,
) -> Verdict {
    let answer = match view {
        RequestView::Http(http) => planned.answer(authority, http),
        RequestView::Tcp | RequestView::Tls { .. } => None,
    };
    let mut verdict = Verdict {
        outcome: Outcome::Answered,
        ..Verdict::default()
    };
    if let Some(answer) = answer {
        let location = answer.headers().get(LOCATION);
        verdict.status = Some(answer.status().as_u16());
        verdict.location = location.and_then(|l| Some(l.to_str().ok()?.to_owned()));
        verdict.answer = Some(match &verdict.location {
            _ if planned.is_preflight() => Answer::Preflight,
            Some(_) => Answer::Redirect,
            None => Answer::Respond,
        });
        out.response = Fields(answer.headers().clone());
    }
    verdict
}

/// All endpoints, in their order; `taken` is the one that was foreseen.
fn endpoints(set: &EndpointSet, taken: Option<&Member>) -> Vec<Endpoint> {
    let ready: Vec<_> = set.ready().map(|m| Arc::as_ptr(&m.state)).collect();
    let (shares, tiers) = (set.shares(), set.tier_of());
    let each = set.members().iter().zip(tiers).map(|(member, tier)| {
        let at = Arc::as_ptr(&member.state);
        let taken = taken.is_some_and(|taken| Arc::ptr_eq(&taken.state, &member.state));
        let near = tier.and_then(|tier| shares.get(tier));
        Endpoint::of(member, ready.contains(&at), taken).with(near)
    });
    each.collect()
}

/// Marks the endpoints that come from a source which is stale.
fn doubt(scene: &Scene<'_>, service: &ServiceName, set: &EndpointSet, endpoints: &mut [Endpoint]) {
    if scene.stale.is_empty() {
        return;
    }
    for (member, endpoint) in set.members().iter().zip(endpoints) {
        let of = { scene.snapshot }.sources_of(service, member.endpoint.address().ip());
        let stale = scene.stale.iter().find(|source| of.contains(*source));
        endpoint.stale = stale.map(ToString::to_string);
    }
}

#[cfg(test)]
mod tests;
