//! The plan of one request or connection, pure: everything that is decided before it is sent.
//!
//! In come the snapshot, the local workload that sends, the destination, what can be seen of the
//! request, and a draw; out comes what will be done, or why it is refused. The runtime obeys it for
//! HTTP and for opaque connections alike, and an explanation of a request is the same call.

mod destination;
mod fault;
mod hedge;
mod hop;
mod mirror;
mod resolve;
mod session;
mod sticky;
mod tunnel;

use std::hint::cold_path;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, ORIGIN, SET_COOKIE};
use http::{Request, Response, StatusCode};
use serde_json::Value;

pub use self::destination::{Destination, Refusal, Refused};
pub use self::hop::PlannedBackend;
use self::hop::edit;
pub use self::mirror::PlannedMirror;
pub(crate) use self::mirror::draw_of_copy;
use self::mirror::mirrors;
use self::resolve::resolve;
use self::session::Kept;
pub use self::session::Session;
pub(crate) use self::tunnel::tunnel;
use crate::authorize::{HttpView, Permit, RequestView, Trace, decide as authorize};
use crate::balance::{Choice, EndpointSet, Issued, NoEndpoint, Shown};
use crate::body::Body;
use crate::error::{Error, Reason, is_grpc};
use crate::identify::Peer;
use crate::local::Local;
use crate::model::{AppProtocol, Asked, Block, Draw, ObjectKey, ServiceName};
use crate::retry::RetryPolicy;
use crate::route::{self, Cors, Matched, Mirror, NoRoute, Outcome, Timeouts};
use crate::snapshot::{PortView, Resolved, ServiceView, Snapshot};
use crate::traffic::{FaultInjection, Injected, Traffic};

/// What will be done with a request or connection.
#[derive(Debug, Clone)]
pub struct Planned {
    permit: Permit,
    /// The Service that was asked for; its table holds what was matched.
    asked: Resolved,
    /// `None` is the Service itself, without a route.
    matched: Option<Matched>,
    protocol: AppProtocol,
    choice: Choice,
    /// What few requests have.
    rare: Option<Box<Rare>>,
    /// The cookie that the answer sets.
    issued: Option<Issued>,
    /// What policies for the backend say of requests, if they do.
    traffic: Option<Arc<Traffic>>,
}

/// What few requests have.
#[derive(Debug, Clone, Default)]
struct Rare {
    /// The copies that are sent too.
    mirrors: Box<[PlannedMirror]>,
    /// Where the request comes from, as the route is asked to say whether that may read the answer.
    origin: Option<HeaderValue>,
    /// What is made to happen to it on purpose, if faults are made.
    injected: Option<Injected>,
    /// What keeps its client where it was.
    kept: Kept,
    /// The host outside the mesh that it asks for and no document lists.
    asked: Option<Asked>,
}

/// Plans a request or connection of a local workload.
///
/// 1. The destination is resolved to a port of a Service.
/// 2. The egress policy of the local workload decides.
/// 3. The routes of the Service decide: a rule's backend, its answer, or the Service itself.
/// 4. The backend's port says which protocol is spoken, its Service how an endpoint is chosen.
///
/// ```
/// use inmesh_core::Local;
/// use inmesh_core::authorize::{DefaultAction, RequestView};
/// use inmesh_core::model::{AppProtocol, Draw, Namespace, Service, ServiceName, ServicePort};
/// use inmesh_core::model::{SourceId, Workload};
/// use inmesh_core::plan::{Destination, plan};
/// use inmesh_core::snapshot::{Change, Op, Settings, Snapshot};
///
/// let web = Workload::new("shop", "web", "web")?;
/// let db = ServiceName::new(&Namespace::new("shop")?, "db")?;
/// let port = ServicePort::new("tcp", 5432, AppProtocol::Tcp);
/// let put = Op::put(Service::new(db.clone(), vec![port]));
/// let snapshot = Snapshot::new(Settings::new(web.clone(), DefaultAction::Deny))
///     .apply(Change::update(SourceId::new("me"), vec![put]));
///
/// let (local, mut draw) = (Local::new(web, DefaultAction::Deny), Draw::new(1));
/// let to = Destination::Authority("db:5432");
/// let planned = plan(&snapshot, &local, to, &RequestView::Tcp, &mut draw, &mut ()).unwrap();
/// assert_eq!(planned.backend().unwrap().service, &db);
/// # Ok::<(), inmesh_core::model::InvalidName>(())
/// ```
///
/// # Errors
///
/// [`Refused`] says why the request is not sent.
pub fn plan(
    snapshot: &Snapshot,
    local: &Local,
    to: Destination<'_>,
    request: &RequestView<'_>,
    draw: &mut Draw,
    trace: &mut impl Trace,
) -> Result<Planned, Refused> {
    let (asked, outside) = resolve(snapshot, local, to, request)?;
    let refuse = |reason: Refusal| Refused {
        service: Some(Arc::clone(&asked.service)),
        reason,
    };
    let permit = authorize(local.egress(), &Peer::Local, request, trace)
        .permit()
        .map_err(|denied| refuse(denied.into()))?;
    let Some(view) = asked.service.port_view(asked.port) else {
        return Err(refuse(Refusal::NoRoute(NoRoute::NoPort {
            service: asked.service.name.clone(),
            port: asked.port,
        })));
    };
    // Most requests end there.
    view.endpoints.prefetch();
    let (table, caller) = (&asked.service.routes, &local.workload().namespace);
    let first = draw.clone();
    let matched = route::decide(table, asked.port, caller, &permit, request, draw, trace)
        .map_err(|none| refuse(none.into()))?;
    let shown = match request {
        RequestView::Http(http) => Shown {
            headers: Some(http.headers),
            query: http.query,
        },
        RequestView::Tcp | RequestView::Tls { .. } => Shown::default(),
    };
    let mut of = |view: Option<&PortView>| {
        let Some(view) = view else {
            return Default::default();
        };
        let (choice, issued) = view.traffic.strategy.value.choice(shown, draw);
        let more = view.traffic.is_of_requests() || issued.is_some();
        let traffic = more.then(|| Arc::clone(&view.traffic));
        (Some(view.protocol), choice, issued, traffic)
    };
    let (protocol, choice, issued, traffic) = match matched.map(|m| m.backend(table)) {
        None => of(Some(view)),
        // Most rules forward to the Service that they are attached to.
        Some(Some((service, port))) if *service == asked.service.name => {
            of(asked.service.port_view(port))
        }
        // A backend that does not exist is found out, and answered, when it is sent to.
        Some(Some((service, port))) => match snapshot.service(service) {
            Some(service) => of(service.port_view(port)),
            None => Default::default(),
        },
        Some(None) => Default::default(),
    };
    let of_rule = matched.and_then(|matched| matched.fault(table));
    let fault = of_rule.or_else(|| traffic.as_ref()?.fault.as_ref());
    // A preflight asks the route alone: a browser shows no fault of it to its page.
    let fault = fault.filter(|_| matched.is_none_or(|m| m.preflight(table).is_none()));
    let (of, mut of_endpoint) = ((matched, first), (choice, issued));
    let kept = Kept::of(of, &asked, traffic.as_deref(), request, &mut of_endpoint);
    let (choice, issued) = of_endpoint;
    let (at, kept) = ((snapshot, &asked.service), (matched, kept));
    let rare = Rare::asking(Rare::of(at, kept, fault, shown, draw), outside);
    Ok(Planned {
        rare,
        permit,
        matched,
        protocol: protocol.unwrap_or(AppProtocol::Detect),
        choice,
        issued,
        traffic,
        asked,
    })
}

// === impl Rare ===

impl Rare {
    fn of(
        (snapshot, asked): (&Snapshot, &Arc<ServiceView>),
        (matched, kept): (Option<Matched>, Kept),
        fault: Option<&Block<Arc<FaultInjection>>>,
        shown: Shown<'_>,
        draw: &mut Draw,
    ) -> Option<Box<Self>> {
        let matched = matched.filter(|matched| matched.is_rare());
        if matched.is_none() && fault.is_none() && kept.is_empty() {
            return None;
        }
        cold_path();
        let headers = shown.headers?;
        let mirrors = matched.map(|matched| mirrors(snapshot, asked, matched, shown, draw));
        let cors = matched.is_some_and(|matched| matched.has_cors(&asked.routes));
        let rare = Self {
            mirrors: mirrors.unwrap_or_default(),
            origin: headers.get(ORIGIN).filter(|_| cors).cloned(),
            injected: fault.map(|fault| fault.value.inject(is_grpc(headers), draw)),
            kept,
            asked: None,
        };
        let of_route = rare.mirrors.is_empty() && rare.origin.is_none();
        let none = of_route && rare.injected.is_none() && rare.kept.is_empty();
        (!none).then(|| Box::new(rare))
    }

    /// The same with a host outside the mesh that is asked for, if one is.
    fn asking(rare: Option<Box<Self>>, asked: Option<Asked>) -> Option<Box<Self>> {
        if asked.is_none() {
            return rare;
        }
        cold_path();
        let mut rare = rare.unwrap_or_default();
        rare.asked = asked;
        Some(rare)
    }
}

// === impl Planned ===

impl Planned {
    /// The Service that was asked for.
    pub fn service(&self) -> &Arc<ServiceView> {
        &self.asked.service
    }

    /// Whether it goes to a host of which nothing is known but that all are reached.
    #[cfg(feature = "runtime")]
    pub(crate) fn is_passthrough(&self) -> bool {
        // Few requests are for a host that no document lists.
        let asked = self.rare.as_ref().is_some_and(|rare| rare.asked.is_some());
        asked && self.service().name.is_passthrough()
    }

    /// Why the request is permitted.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Where it is sent; `None` if the route answers it.
    pub fn backend(&self) -> Option<PlannedBackend<'_>> {
        let (service, port) = match self.matched {
            Some(matched) => matched.backend(&self.asked.service.routes)?,
            None => (&self.asked.service.name, self.asked.port),
        };
        let asked = self.rare.as_ref().and_then(|rare| rare.asked.as_ref());
        Some(PlannedBackend {
            service,
            port,
            choice: self.choice,
            asked: asked.filter(|_| *service == self.asked.service.name),
            session: self.session().and_then(Session::endpoint),
        })
    }

    /// The session that it is of, if a policy says so.
    pub fn session(&self) -> Option<&Session> {
        self.rare.as_ref()?.kept.session.as_ref()
    }

    /// The copies that are sent besides.
    pub fn mirrors(&self) -> &[PlannedMirror] {
        self.rare.as_ref().map_or(&[], |rare| &rare.mirrors)
    }

    /// All mirrors of the rule and the backend, each with the copy that is sent, if it was drawn.
    pub(crate) fn all_mirrors(&self) -> Vec<(&Mirror, Option<&PlannedMirror>)> {
        let Some(matched) = self.matched else {
            return Vec::new();
        };
        let all = matched.all_mirrors(&self.asked.service.routes);
        let copy = |place| self.mirrors().iter().find(|copy| copy.is_at(place));
        all.map(|(place, mirror)| (mirror, copy(place))).collect()
    }

    /// The filters of the rule and then of the backend, in the words of documents, and whether each is
    /// the backend's.
    pub(crate) fn filters(&self) -> Vec<(Value, bool)> {
        let table = &self.asked.service.routes;
        self.matched.map_or_else(Vec::new, |m| m.filters(table))
    }

    /// What the route says of origins.
    pub(crate) fn cors(&self) -> Option<&Cors> {
        self.matched?.cors(&self.asked.service.routes)
    }

    /// Whether it is a preflight that the route answers.
    pub(crate) fn is_preflight(&self) -> bool {
        let table = &self.asked.service.routes;
        self.matched.is_some_and(|m| m.preflight(table).is_some())
    }

    /// What the backend's port speaks.
    pub fn protocol(&self) -> AppProtocol {
        self.protocol
    }

    /// The route whose rule matched, and which rule, counted from 0; `None` if no route is
    /// attached.
    pub fn route(&self) -> Option<(&ObjectKey, usize)> {
        self.matched?.route(&self.asked.service.routes)
    }

    /// The backends of the rule that matched, by which one was drawn: Service, port and weight, and
    /// whether it was drawn; empty if there was nothing to draw.
    pub(crate) fn split(&self) -> Vec<(&ServiceName, u16, u32, bool)> {
        let table = &self.asked.service.routes;
        let matched = self.matched.filter(|_| self.backend().is_some());
        matched.map_or_else(Vec::new, |matched| matched.split(table))
    }

    /// The time limits, of the rule, a policy for it, or one for the backend; `None` if none of them
    /// says any.
    pub fn timeouts(&self) -> Option<&Block<Timeouts>> {
        let table = &self.asked.service.routes;
        let of_rule = self.matched.and_then(|matched| matched.timeouts(table));
        of_rule.or_else(|| self.traffic.as_ref()?.timeouts.as_ref())
    }

    /// The limits of which [`Timeouts::stream_idle`] is taken: of a policy for the rule, or one for the backend.
    pub(crate) fn timeouts_of_policy(&self) -> Option<&Block<Timeouts>> {
        let table = &self.asked.service.routes;
        let of_rule = { self.matched }.and_then(|matched| matched.timeouts_of_policy(table));
        of_rule.or_else(|| self.traffic.as_ref()?.timeouts.as_ref())
    }

    /// How long no byte may come.
    pub fn stream_idle(&self) -> Option<Duration> {
        self.timeouts_of_policy()?.value.stream_idle
    }

    /// The same of what is sent again although a server has seen it.
    pub fn retry(&self) -> Option<&Block<Arc<RetryPolicy>>> {
        let table = &self.asked.service.routes;
        let of_rule = self.matched.and_then(|matched| matched.retry(table));
        of_rule.or_else(|| self.traffic.as_ref()?.retry.as_ref())
    }

    /// The answer of the route itself to a request of that authority; `None` if it is sent on.
    pub fn answer(&self, authority: &str, http: &HttpView<'_>) -> Option<Response<Body>> {
        let table = &self.asked.service.routes;
        let matched = self.matched?;
        let mut response = Response::new(Body::empty());
        if let Some(cors) = matched.preflight(table) {
            *response.status_mut() = StatusCode::NO_CONTENT;
            self.edit_response(response.headers_mut());
            cors.answer_preflight(http.headers, response.headers_mut());
            return Some(response);
        }
        match matched.answer(table)? {
            Outcome::Forward(_) => return None,
            Outcome::Redirect(redirect) => {
                let (port, path) = (self.asked.port, matched.path(table));
                let location = redirect.location(authority, port, http.path(), http.query, path);
                *response.status_mut() = redirect.status();
                // Made of parts that are valid in a header field.
                if let Ok(location) = HeaderValue::try_from(location) {
                    response.headers_mut().insert(LOCATION, location);
                }
            }
            Outcome::Respond(respond) => {
                *response.status_mut() = respond.status();
                if !respond.body().is_empty() {
                    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
                    response.headers_mut().insert(CONTENT_TYPE, plain);
                    *response.body_mut() = Body::from(respond.body().clone());
                }
            }
        }
        self.edit_response(response.headers_mut());
        Some(response)
    }

    /// Edits a request's head as the route and its backend say.
    pub fn edit_request<B: Default>(&self, request: &mut Request<B>) {
        let table = &self.asked.service.routes;
        let Some(matched) = self.matched.filter(|m| m.has_filters(table)) else {
            return;
        };
        edit(request, |head| matched.edit_request(table, head));
    }

    /// Edits an answer's header as the backend and its route say, and hands out the cookies that keep
    /// the caller at its backend and its endpoint.
    pub fn edit_response(&self, headers: &mut HeaderMap) {
        if let Some(matched) = self.matched {
            let origin = self.rare.as_ref().and_then(|rare| rare.origin.as_ref());
            matched.edit_response(&self.asked.service.routes, headers, origin);
        }
        if let (Some(issued), Some(traffic)) = (self.issued, &self.traffic)
            && let Some(cookie) = traffic.strategy.value.set_cookie(issued)
        {
            headers.append(SET_COOKIE, cookie);
        }
        if let Some(cookie) = self.cookie_of_split() {
            headers.append(SET_COOKIE, cookie);
        }
    }
}

// === impl PlannedBackend ===

impl PlannedBackend<'_> {
    /// The Service and its endpoints, as they are now.
    pub(crate) fn find<'s>(
        &self,
        snapshot: &'s Snapshot,
    ) -> Result<(&'s Arc<ServiceView>, &'s Arc<EndpointSet>), Error> {
        let missing = |what: String| Error::new(Reason::BackendMissing, what);
        let (name, port) = (self.service, self.port);
        let service = snapshot
            .service(name)
            .ok_or_else(|| missing(name.absent()))?;
        if let Some(asked) = self.asked {
            let set = service.asked(asked).map(|set| &set.endpoints);
            let set = set.ok_or_else(|| {
                let detail = format!("Service {name}: {asked} is not known yet");
                Error::new(Reason::NoEndpoint, detail)
            })?;
            return Ok((service, set));
        }
        let set = service
            .endpoints(port)
            .ok_or_else(|| missing(format!("Service {name} has no port {port}")))?;
        Ok((service, set))
    }

    /// That it has no endpoint for a request.
    pub(crate) fn without_endpoint(&self, none: NoEndpoint) -> Error {
        let detail = format!("Service {} port {}: {none}", self.service, self.port);
        let reason = match none {
            NoEndpoint::Full => Reason::Overflow,
            _ => Reason::NoEndpoint,
        };
        Error::new(reason, detail)
    }
}

#[cfg(test)]
mod tests;
