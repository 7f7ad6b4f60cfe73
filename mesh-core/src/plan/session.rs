//! What keeps a planned request where its client was before: its session, or a cookie that its split hands
//! out. Pure.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{HeaderMap, HeaderName};

use super::hop::one_cookie;
use crate::authorize::{HttpView, RequestView};
use crate::balance::{Choice, Issued, Shown};
use crate::model::{Block, Draw, Endpoint, ObjectKey};
use crate::route::Matched;
use crate::snapshot::Resolved;
use crate::traffic::{Cookie, SessionPersistence, SessionScope, Token, Traffic, nth_of_name};

/// How the caller has said that it came over TLS, if another proxy has taken it.
const SCHEME: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What keeps the client of a request, if anything does.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    /// The cookie that its answer sets, so that its user stays in a part of the split.
    pub(super) handed: Option<Issued>,
    /// The session that it is of.
    pub(super) session: Option<Session>,
}

/// The session of a request.
#[derive(Debug, Clone)]
pub struct Session {
    policy: Block<Arc<SessionPersistence>>,
    scope: SessionScope,
    backend: u64,
    /// What the request has shown.
    shown: Option<Token>,
    cookie: Cookie,
}

// === impl Kept ===

impl Kept {
    /// What keeps a request that was matched so, `first` being what the match was drawn from. Where one cookie
    /// serves its split and its endpoint, it changes `of_endpoint`.
    pub(super) fn of(
        (matched, first): (Option<Matched>, Draw),
        asked: &Resolved,
        traffic: Option<&Traffic>,
        request: &RequestView<'_>,
        of_endpoint: &mut (Choice, Option<Issued>),
    ) -> Self {
        let RequestView::Http(http) = request else {
            return Self::default();
        };
        let table = &asked.service.routes;
        let of_rule = matched.and_then(|matched| matched.session(table));
        let of_backend = traffic.and_then(|traffic| traffic.session.as_ref());
        let by = of_rule.or(of_backend);
        let session =
            by.and_then(|by| Session::of((by, of_rule.is_some()), (matched, asked), http));
        // What a session leads to says nothing of the split.
        let led = session.as_ref().is_some_and(|s| s.shown.is_some());
        let shown = Shown {
            headers: Some(http.headers),
            query: http.query,
        };
        let handed = matched.filter(|_| !led);
        let handed = handed.and_then(|matched| matched.handed(table, shown, first));
        if let Some((key, handed)) = handed {
            *of_endpoint = one_cookie(key, handed, traffic, *of_endpoint);
        }
        Self {
            handed: handed.map(|(_, handed)| handed),
            session,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.handed.is_none() && self.session.is_none()
    }
}

// === impl Session ===

impl Session {
    /// The session of a rule, which is for all its backends, or else of the backend.
    fn of(
        (policy, of_rule): (&Block<Arc<SessionPersistence>>, bool),
        (matched, asked): (Option<Matched>, &Resolved),
        http: &HttpView<'_>,
    ) -> Option<Self> {
        let table = &asked.service.routes;
        let (service, port) = match matched {
            Some(matched) => matched.backend(table)?,
            None => (&asked.service.name, asked.port),
        };
        let (headers, heeded) = (http.headers, http.heeds_sessions());
        let rule: Option<(&ObjectKey, usize)> = matched.and_then(|matched| matched.route(table));
        let scope = match rule {
            Some(rule) if of_rule => SessionScope::of_rule(rule),
            _ => SessionScope::of_service(rule, (service, port)),
        };
        let split = matched.map_or_else(Vec::new, |matched| matched.split(table));
        let names = split.iter().map(|(service, port, ..)| (*service, *port));
        let drawn = split.iter().position(|(.., drawn)| *drawn);
        let nth = drawn.map_or(0, |place| nth_of_name(names, place));
        let backend = scope.backend(service, port, nth);
        let shown = policy
            .value
            .shown(scope, headers, |of| heeded && of == backend);
        let path = matched.and_then(|matched| Some(matched.path(table)?.of_cookie()));
        let secure = headers.get(&SCHEME).is_some_and(|scheme| scheme == "https");
        Some(Self {
            shown,
            policy: policy.clone(),
            scope,
            backend,
            cookie: Cookie {
                // A Service may be met by many paths (GEP-1619, "Path").
                path: of_rule.then(|| path.unwrap_or_else(|| "/".into())),
                secure,
            },
        })
    }

    /// What says it.
    pub(crate) fn policy(&self) -> &Block<Arc<SessionPersistence>> {
        &self.policy
    }

    /// The name that its tokens have.
    pub(crate) fn name(&self) -> String {
        self.policy.value.name_in(self.scope).into_owned()
    }

    /// The endpoint that it leads to.
    pub(crate) fn endpoint(&self) -> Option<NonZeroU64> {
        self.shown.map(|token| token.endpoint)
    }

    /// Whether it leads to that endpoint.
    pub(crate) fn is_at(&self, endpoint: &Endpoint) -> bool {
        self.endpoint() == Some(endpoint.session_id())
    }

    /// Whether what the request has shown has ended.
    pub fn has_ended(&self, now: SystemTime) -> bool {
        let ended = |token| self.policy.value.has_ended(token, now);
        self.shown.is_some_and(ended)
    }

    /// Edits the header of an answer of an endpoint, so that the next request leads there.
    pub fn answered(&self, by: &Endpoint, now: SystemTime, headers: &mut HeaderMap) {
        let (policy, endpoint) = (&self.policy.value, by.session_id());
        let next = policy.next(self.backend, self.shown, endpoint, now);
        let field = next.and_then(|next| policy.hand_out(self.scope, next, &self.cookie, now));
        if let Some((name, value)) = field {
            headers.append(name, value);
        }
    }
}
