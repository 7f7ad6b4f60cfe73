//! The calls of one connection: what its caller may have, out of the state of the moment.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::super::SECURITY_HEADER;
use super::super::message;
use super::attest::Entry;
use super::shared::ApiShared;
use super::status::Open;
use crate::bundle::BundleSet;
use crate::crl::CrlSet;
use crate::id::SpiffeId;
use crate::issue::IssueError;
use crate::jwt::{self, JwtIssuer, MAX_AUDIENCES};
use crate::proto::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use crate::proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
    ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse,
    X509svidRequest, X509svidResponse,
};
use crate::store::IdentityState;
use crate::svid::X509Svid;

/// How often a stream looks at the clock: an expired SVID is taken back within this.
const LOOK: Duration = Duration::from_secs(5);

/// The API as one caller sees it.
pub(super) struct CallerApi(Arc<CallerView>);

struct CallerView {
    shared: Arc<ApiShared>,
    /// What the caller was attested for, each ID once and each hint once.
    granted: Vec<Entry>,
}

/// SVIDs with their hints, and all that is trusted: what a message of FetchX509SVID is made of.
struct Held {
    svids: Vec<(Arc<X509Svid>, String)>,
    trust: Trust,
}

/// What is trusted.
#[derive(PartialEq)]
struct Trust {
    bundles: BundleSet,
    crls: CrlSet,
}

impl CallerApi {
    pub(super) fn new(shared: Arc<ApiShared>, granted: Vec<Entry>) -> Self {
        let mut once: Vec<Entry> = Vec::with_capacity(granted.len());
        for mut entry in granted {
            if once.iter().any(|before| before.id() == entry.id()) {
                continue;
            }
            if once.iter().any(|before| before.hint() == entry.hint()) {
                entry = entry.without_hint();
            }
            once.push(entry);
        }
        Self(Arc::new(CallerView {
            shared,
            granted: once,
        }))
    }

    /// Refuses calls without the security metadata (S35), and callers that match no entry.
    fn admit(&self, metadata: &MetadataMap) -> Result<&Arc<CallerView>, Status> {
        let counts = &self.0.shared.counts;
        let mut values = metadata.get_all(SECURITY_HEADER).iter().peekable();
        if values.peek().is_none() || !values.all(|value| value == "true") {
            counts.refused(|refusals| &mut refusals.no_metadata);
            let message = format!("the metadata {SECURITY_HEADER}: true is missing");
            return Err(Status::invalid_argument(message));
        }
        if self.0.granted.is_empty() {
            counts.refused(|refusals| &mut refusals.no_entry);
            return Err(Status::permission_denied("no identity issued"));
        }
        Ok(&self.0)
    }
}

impl CallerView {
    /// The SVIDs of the caller that are there and have not expired.
    fn held(&self, state: &IdentityState) -> Held {
        let now = self.shared.clock.now();
        let svids = self.granted.iter().filter_map(|entry| {
            let svid = state.svid(entry.id())?;
            (svid.not_after() > now).then(|| (Arc::clone(svid), entry.hint().to_owned()))
        });
        Held {
            svids: svids.collect(),
            trust: Trust::of(state),
        }
    }

    /// Sends what `look` sees in the state, now and whenever that differs; the stream ends when
    /// `write` makes no message of it, or when the state has no writer any more.
    ///
    /// What was sent last is kept as `look` saw it, never as a message: a message may hold keys.
    fn follow<L, M>(
        self: &Arc<Self>,
        look: impl Fn(&Self, &IdentityState) -> L + Send + 'static,
        write: impl Fn(&L) -> Option<M> + Send + 'static,
        same: impl Fn(&L, &L) -> bool + Send + 'static,
    ) -> BoxStream<'static, Result<M, Status>>
    where
        L: Send + 'static,
        M: Send + 'static,
    {
        struct Following<L> {
            view: Arc<CallerView>,
            sent: Option<L>,
            ended: bool,
            _open: Open,
        }
        let mut reader = self.shared.reader.clone();
        // What is loaded below is the newest; only what comes after it is a change.
        let first = reader.latest();
        let start = Following {
            view: Arc::clone(self),
            sent: None,
            ended: false,
            _open: self.shared.counts.open(|status| &mut status.streams),
        };
        let tools = (reader, Some(first), look, write, same);
        Box::pin(stream::unfold(
            (start, tools),
            |(mut following, (mut reader, mut first, look, write, same))| async move {
                if following.ended {
                    return None;
                }
                let answer = loop {
                    let state = match first.take() {
                        Some(state) => state,
                        None => tokio::select! {
                            () = stopped(&following.view.shared) => {
                                break Err(Status::unavailable("the agent ends"));
                            }
                            changed = timeout(LOOK, reader.changed()) => match changed {
                                Ok(Ok(state)) => state,
                                Ok(Err(ended)) => break Err(Status::unavailable(ended.to_string())),
                                // Time alone may have taken something away.
                                Err(_) => reader.load(),
                            },
                        },
                    };
                    let seen = look(&following.view, &state);
                    if following
                        .sent
                        .as_ref()
                        .is_some_and(|sent| same(sent, &seen))
                    {
                        continue;
                    }
                    let message = write(&seen);
                    let before = following.sent.replace(seen);
                    break match (message, before) {
                        (Some(message), _) => Ok(message),
                        // What was there is taken back; or was never there, and may yet come.
                        (None, Some(_)) => Err(Status::permission_denied("no identity issued")),
                        (None, None) => Err(Status::unavailable("not issued yet")),
                    };
                };
                following.ended = answer.is_err();
                Some((answer, (following, (reader, first, look, write, same))))
            },
        ))
    }

    /// The caller's IDs, or the one of them that it asks for.
    fn ids(&self, wanted: &str) -> Result<Vec<&Entry>, Status> {
        if wanted.is_empty() {
            return Ok(self.granted.iter().collect());
        }
        let wanted: SpiffeId = wanted
            .parse()
            .map_err(|error| Status::invalid_argument(format!("spiffe_id: {error}")))?;
        match self.granted.iter().find(|entry| *entry.id() == wanted) {
            Some(entry) => Ok(vec![entry]),
            None => {
                let counts = &self.shared.counts;
                counts.refused(|refusals| &mut refusals.other_id);
                Err(Status::permission_denied("no identity issued"))
            }
        }
    }
}

impl Trust {
    fn of(state: &IdentityState) -> Self {
        Self {
            bundles: state.bundles().clone(),
            crls: state.crls().clone(),
        }
    }
}

impl Held {
    fn same(&self, other: &Self) -> bool {
        let mut pairs = self.svids.iter().zip(&other.svids);
        self.svids.len() == other.svids.len()
            && pairs.all(|((one, _), (another, _))| Arc::ptr_eq(one, another))
            && self.trust == other.trust
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for CallerApi {
    type FetchX509SVIDStream = BoxStream<'static, Result<X509svidResponse, Status>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let view = self.admit(request.metadata())?;
        Ok(Response::new(view.follow(
            CallerView::held,
            |held| message::write_x509(&held.svids, &held.trust.bundles, &held.trust.crls),
            Held::same,
        )))
    }

    type FetchX509BundlesStream = BoxStream<'static, Result<X509BundlesResponse, Status>>;

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let view = self.admit(request.metadata())?;
        let write = |trust: &Trust| message::write_bundles(&trust.bundles, &trust.crls);
        let stream = view.follow(|_, state| Trust::of(state), write, PartialEq::eq);
        Ok(Response::new(stream))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let view = self.admit(request.metadata())?;
        let request = request.get_ref();
        let audiences = &request.audience;
        let named = audiences.iter().all(|audience| !audience.is_empty());
        if audiences.is_empty() || audiences.len() > MAX_AUDIENCES || !named {
            let message = format!("ask for 1 to {MAX_AUDIENCES} audiences, none of them empty");
            return Err(Status::invalid_argument(message));
        }
        let Some(issuer) = &view.shared.jwt else {
            return Err(Status::unimplemented("JWT-SVIDs are not served here"));
        };
        let mut svids = Vec::new();
        for entry in view.ids(&request.spiffe_id)? {
            let svid = issuer
                .mint(entry.id(), audiences)
                .await
                .map_err(|error| refusal(&error))?;
            svids.push(Jwtsvid {
                spiffe_id: svid.id().to_string(),
                svid: svid.secret_token().to_owned(),
                hint: entry.hint().to_owned(),
            });
        }
        Ok(Response::new(JwtsvidResponse { svids }))
    }

    type FetchJWTBundlesStream = BoxStream<'static, Result<JwtBundlesResponse, Status>>;

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let view = self.admit(request.metadata())?;
        let look = |_: &CallerView, state: &IdentityState| state.bundles().clone();
        // Roots come and go while the keys of tokens stay.
        let same = |one: &BundleSet, other: &BundleSet| {
            message::write_jwt(one) == message::write_jwt(other)
        };
        let stream = view.follow(look, message::write_jwt, same);
        Ok(Response::new(stream))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let view = self.admit(request.metadata())?;
        let request = request.get_ref();
        if request.audience.is_empty() || request.svid.is_empty() {
            return Err(Status::invalid_argument("audience and svid are mandatory"));
        }
        let shared = &view.shared;
        let state = shared.reader.load();
        let verified = jwt::validate(
            &request.svid,
            &request.audience,
            state.bundles(),
            shared.clock.now(),
            &shared.crypto,
        )
        .map_err(|rejected| Status::invalid_argument(rejected.to_string()))?;
        Ok(Response::new(ValidateJwtsvidResponse {
            spiffe_id: verified.id.to_string(),
            claims: Some(message::write_claims(verified.claims.all())),
        }))
    }
}

/// Waits until the server ends; for ever, where it has none.
async fn stopped(shared: &ApiShared) {
    let mut stopped = shared.stopped.clone();
    if stopped.wait_for(|stopped| *stopped).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The answer to a caller whose token was not minted.
fn refusal(error: &IssueError) -> Status {
    match error {
        IssueError::NotAllowed { .. } | IssueError::NoPath { .. } => {
            Status::permission_denied("no identity issued")
        }
        _ => {
            tracing::warn!(%error, "no JWT-SVID was minted");
            Status::unavailable("no JWT-SVID can be minted at the moment")
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use tonic::Code;
    use tonic::metadata::AsciiMetadataValue;

    use super::*;
    use crate::clock::TokioClock;
    use crate::store::identity;
    use crate::testing::{Ca, crypto, id, leaf, minutes, noon};
    use crate::workload_api::server::{Selector, ServerCounts, ServerStatus};

    #[tokio::test(start_paused = true)]
    async fn an_svid_whose_time_is_over_is_taken_back() {
        let ca = Ca::new("root");
        let (writer, reader) = identity(ca.state("td"));
        let clock = TokioClock::new(noon()).shared();
        let short = leaf("spiffe://td/short").with(|params| {
            params.not_after = (noon() + minutes(10)).into();
        });
        writer.set_svid(short.svid(&ca));
        writer.set_svid(leaf("spiffe://td/long").svid(&ca));
        let entries = ["spiffe://td/short", "spiffe://td/long"].map(|name| {
            let selector = Selector::new(Some(0), None, None, None).unwrap();
            Entry::new(selector, id(name)).unwrap()
        });
        let shared = ApiShared {
            entries: Vec::new(),
            reader,
            jwt: None,
            crypto: crypto(),
            clock,
            counts: ServerCounts::new(crate::status::status(ServerStatus::default())),
            stopped: tokio::sync::watch::channel(false).1,
        };
        let status = shared.counts.reader();
        let api = CallerApi::new(Arc::new(shared), entries.to_vec());
        let mut request = Request::new(X509svidRequest {});
        let yes = AsciiMetadataValue::from_static("true");
        request.metadata_mut().insert(SECURITY_HEADER, yes);
        let begin = tokio::time::Instant::now();
        let mut stream = api.fetch_x509svid(request).await.unwrap().into_inner();
        let mut next = async || {
            let answer = stream.next().await?;
            Some((answer.map(|message| message.svids.len()), begin.elapsed()))
        };
        let (first, _) = next().await.unwrap();
        assert_eq!(first.unwrap(), 2);
        assert_eq!(status.load().streams, 1);
        for (end, left) in [
            (minutes(10), Ok(1)),
            (minutes(30), Err(Code::PermissionDenied)),
        ] {
            let (answer, at) = next().await.unwrap();
            assert_eq!(answer.map_err(|status| status.code()), left);
            assert!((end..=end + LOOK).contains(&at), "{at:?}");
        }
        assert!(next().await.is_none());
        assert_eq!(status.load(), ServerStatus::default());
    }
}
