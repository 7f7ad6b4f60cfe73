//! A Workload API in, writes to the identity store out: SPIRE, or another agent of ours, as the
//! source of our identity.
//!
//! One stream brings SVIDs with their bundles; a second, for the keys of JWT-SVIDs, runs beside it
//! where it is asked for, and what both said last is written as one state. A message that cannot be used is
//! reported and discarded; a lost connection is tried again with a jittered pause, and until then
//! the last good state stays. So it does while an agent is silent that should have renewed an SVID: it
//! is asked anew, on a new stream. What a message leaves out is gone (S34), and so is everything once the
//! agent says that we have no identity (PermissionDenied).
//!
//! It refuses to guess an address: the caller reads `SPIFFE_ENDPOINT_SOCKET`, or does not.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::{sleep, timeout};
use tonic::codec::Streaming;
use tonic::{Code, Status};

use super::Endpoint;
use super::message::{self, MessageError, X509Update};
use crate::bundle::{BundleSet, TrustBundle};
use crate::clock::{Clock, Span};
use crate::crl::CrlSet;
use crate::crypto::Crypto;
use crate::id::TrustDomain;
use crate::jwt::KeySet;
use crate::proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, X509svidRequest, X509svidResponse,
};
use crate::rotate::schedule;
use crate::status::{StatusReader, StatusWriter, status};
use crate::store::IdentityWriter;
use crate::svid::X509Svid;

mod call;
mod error;
mod jwt;
mod silence;

pub use error::WorkloadApiError;
pub use jwt::WorkloadApiJwt;

pub(super) use call::Dial;
#[cfg(all(test, unix))]
pub(super) use call::Io;
use call::{ApiClient, connect, request};
use error::PATIENCE;
use silence::Life;

/// How often a quiet stream looks at the time of day, which may jump.
const LOOK: Duration = Duration::from_secs(5);

/// Identity from a Workload API.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::future::pending;
/// use std::sync::Arc;
///
/// use inmesh_pki::clock::SystemClock;
/// use inmesh_pki::workload_api::Endpoint;
/// use inmesh_pki::workload_api::client::WorkloadApiClient;
/// use inmesh_pki::{Crypto, IdentityState, identity};
///
/// let endpoint = Endpoint::parse("unix:///run/spire/agent.sock")?;
/// let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
/// let client = WorkloadApiClient::new(endpoint, &crypto, clock, || 0.5);
/// let (writer, reader) = identity(IdentityState::default());
/// tokio::spawn(client.run(Arc::new(writer), pending()));
/// reader.ready().await?;
/// # Ok(())
/// # }
/// ```
pub struct WorkloadApiClient {
    endpoint: Endpoint,
    dial: Dial,
    crypto: Crypto,
    clock: Arc<dyn Clock>,
    draw: Mutex<Box<dyn FnMut() -> f64 + Send>>,
    jwt_bundles: bool,
    /// The path of the ID that is the default, whatever the agent's order.
    id_path: Option<String>,
    status: StatusWriter<WorkloadApiStatus>,
}

/// How the source is doing; for metrics and for people.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct WorkloadApiStatus {
    /// How many messages were written.
    pub updates: u64,
    /// How many connections, streams and messages failed.
    pub failures: u64,
    /// What failed last; gone with the next good message.
    pub last_error: Option<Arc<WorkloadApiError>>,
    /// When the first of the SVIDs in use ends.
    pub not_after: Option<SystemTime>,
}

/// What both streams said last.
#[derive(Default)]
struct Received {
    x509: BTreeMap<TrustDomain, TrustBundle>,
    jwt: BTreeMap<TrustDomain, KeySet>,
    lives: Vec<Life>,
}

impl WorkloadApiClient {
    /// A source at `endpoint`; `draw` gives numbers that are uniform in 0..1.
    #[must_use]
    pub fn new(
        endpoint: Endpoint,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
        draw: impl FnMut() -> f64 + Send + 'static,
    ) -> Self {
        Self {
            dial: call::dial(&endpoint),
            endpoint,
            crypto: crypto.clone(),
            clock,
            draw: Mutex::new(Box::new(draw)),
            jwt_bundles: false,
            id_path: None,
            status: status(WorkloadApiStatus::default()),
        }
    }

    /// Follows the keys of JWT-SVIDs too, for programs that verify tokens.
    #[must_use]
    pub fn with_jwt_bundles(self) -> Self {
        Self {
            jwt_bundles: true,
            ..self
        }
    }

    /// Has an SVID whose ID has this path, e.g. `/ns/shop/sa/cart`, as its default, that of the workload
    /// which this process is; a message without one is discarded.
    #[must_use]
    pub fn with_id_path(self, path: impl Into<String>) -> Self {
        Self {
            id_path: Some(path.into()),
            ..self
        }
    }

    /// The same over connections of a test's.
    #[cfg(all(test, unix))]
    pub(super) fn over(self, dial: Dial) -> Self {
        Self { dial, ..self }
    }

    /// Where to read how it is doing, before and while it runs.
    #[must_use]
    pub fn status(&self) -> StatusReader<WorkloadApiStatus> {
        self.status.reader()
    }

    /// Writes what the agent says until `shutdown` is ready, or until the agent says that the call
    /// is wrong, which no repetition changes (SPIFFE_Workload_Endpoint.md, section 6).
    ///
    /// Everything that `writer` holds is the agent's from the first message on.
    pub async fn run(self, writer: Arc<IdentityWriter>, shutdown: impl Future<Output = ()>) {
        let view = Mutex::new(Received::default());
        let x509 = self.follow(&writer, |good| self.x509(good, &view, &writer));
        let jwt = async {
            if self.jwt_bundles {
                let stream = |good| self.jwt(good, &view, &writer);
                self.follow(&writer, stream).await;
            }
            // An agent without this profile is an agent all the same.
            std::future::pending::<()>().await;
        };
        let mut shutdown = pin!(shutdown);
        tokio::select! {
            biased;
            () = &mut shutdown => {}
            () = x509 => {}
            () = jwt => {}
        }
    }

    /// Runs one stream after the other until one fails for good. `stream` sets its argument once a
    /// message was good.
    async fn follow<F>(&self, writer: &IdentityWriter, stream: impl Fn(Arc<AtomicBool>) -> F)
    where
        F: Future<Output = WorkloadApiError>,
    {
        let mut failures = 0;
        loop {
            let good = Arc::new(AtomicBool::new(false));
            let error = stream(Arc::clone(&good)).await;
            if good.load(Ordering::Relaxed) {
                failures = 0;
            }
            failures += 1;
            let fatal = matches!(error, WorkloadApiError::Fatal { .. });
            let not_after = self.status.reader().load().not_after;
            let draw = (lock(&self.draw))();
            let pause = schedule::pause(self.clock.now(), not_after, failures, None, draw);
            tracing::warn!(%error, failures, pause = %Span(pause), fatal, "Workload API");
            self.failed(error, writer);
            if fatal {
                return;
            }
            sleep(pause).await;
        }
    }

    /// One stream of SVIDs, to its end.
    async fn x509(
        &self,
        good: Arc<AtomicBool>,
        view: &Mutex<Received>,
        writer: &IdentityWriter,
    ) -> WorkloadApiError {
        let handle = |message: X509svidResponse| {
            let update = message::read_x509(message, self.clock.now(), &self.crypto)?;
            let update = self.own_first(update)?;
            good.store(true, Ordering::Relaxed);
            self.take(update, view, writer);
            Ok(())
        };
        let open = async |mut api: ApiClient| api.fetch_x509svid(request(X509svidRequest {})).await;
        let until = || Some(silence::until(self.clock.now(), &lock(view).lives));
        let error = self.stream(writer, open, handle, until).await;
        if matches!(error, WorkloadApiError::Denied { .. }) {
            let mut view = lock(view);
            view.x509.clear();
            view.lives.clear();
            writer.update(|state| {
                state.replace_svids(Vec::new());
                state.replace_bundles(view.bundles());
                state.replace_crls(CrlSet::new());
            });
            self.status.update(|status| status.not_after = None);
        }
        error
    }

    /// The same update with the SVID first that this process is to have.
    fn own_first(&self, mut update: X509Update) -> Result<X509Update, MessageError> {
        let Some(path) = &self.id_path else {
            return Ok(update);
        };
        let is_own = |svid: &X509Svid| svid.id().path() == path;
        match update.svids.iter().position(is_own) {
            Some(own) => {
                let svid = update.svids.remove(own);
                update.svids.insert(0, svid);
                Ok(update)
            }
            None => Err(MessageError::OtherIds {
                path: path.clone(),
                ids: update.svids.iter().map(|svid| svid.id().clone()).collect(),
            }),
        }
    }

    /// One stream of keys for JWT-SVIDs, to its end.
    async fn jwt(
        &self,
        good: Arc<AtomicBool>,
        view: &Mutex<Received>,
        writer: &IdentityWriter,
    ) -> WorkloadApiError {
        let replace = |keys| {
            let mut view = lock(view);
            view.jwt = keys;
            writer.set_bundles(view.bundles());
        };
        let handle = |message: JwtBundlesResponse| {
            replace(message::read_jwt(&message)?);
            good.store(true, Ordering::Relaxed);
            self.succeeded(None);
            Ok(())
        };
        let open =
            async |mut api: ApiClient| api.fetch_jwt_bundles(request(JwtBundlesRequest {})).await;
        // Keys have no life of their own: pings alone show whether the agent lives.
        let error = self.stream(writer, open, handle, || None).await;
        if matches!(error, WorkloadApiError::Denied { .. }) {
            replace(BTreeMap::new());
        }
        error
    }

    /// Connects, opens a stream and hands over its messages until it ends; one that cannot be used
    /// does not end it. After each, `until` says how long silence is borne, if it is not for ever.
    async fn stream<M>(
        &self,
        writer: &IdentityWriter,
        open: impl AsyncFnOnce(ApiClient) -> Result<tonic::Response<Streaming<M>>, Status>,
        handle: impl Fn(M) -> Result<(), MessageError>,
        until: impl Fn() -> Option<SystemTime>,
    ) -> WorkloadApiError {
        let first = async {
            let api = connect(&self.endpoint, &self.dial).await?;
            let mut stream = open(api).await?.into_inner();
            let message = stream.message().await?;
            Ok((stream, message))
        };
        let ends = self.status.reader().load().not_after;
        let limit = PATIENCE.min(schedule::attempt(self.clock.now(), ends));
        let (mut stream, mut message) = match timeout(limit, first).await {
            Err(_) => return WorkloadApiError::Timeout,
            Ok(Err(error)) => return error,
            Ok(Ok(opened)) => opened,
        };
        while let Some(content) = message {
            if let Err(error) = handle(content) {
                tracing::warn!(%error, "a message of the Workload API is discarded");
                self.failed(error.into(), writer);
            }
            message = match self.next(&mut stream, until()).await {
                Ok(next) => next,
                Err(error) => return error,
            };
        }
        WorkloadApiError::Ended
    }

    /// The next message, unless none has come `until` then.
    async fn next<M>(
        &self,
        stream: &mut Streaming<M>,
        until: Option<SystemTime>,
    ) -> Result<Option<M>, WorkloadApiError> {
        let Some(until) = until else {
            return Ok(stream.message().await?);
        };
        loop {
            let left = until.duration_since(self.clock.now()).unwrap_or_default();
            if left.is_zero() {
                return Err(WorkloadApiError::Silent);
            }
            if let Ok(message) = timeout(left.min(LOOK), stream.message()).await {
                return Ok(message?);
            }
        }
    }

    /// Writes a whole update in one step.
    fn take(&self, update: X509Update, view: &Mutex<Received>, writer: &IdentityWriter) {
        let not_after = update.svids.iter().map(|svid| svid.not_after()).min();
        for svid in &update.svids {
            tracing::info!(id = %svid.id(), serial = svid.serial(), "SVID from the Workload API");
        }
        let mut view = lock(view);
        view.x509 = update.bundles;
        let life = |svid: &X509Svid| Life {
            not_before: svid.not_before(),
            not_after: svid.not_after(),
        };
        view.lives = update.svids.iter().map(life).collect();
        writer.update(|state| {
            state.replace_svids(update.svids);
            state.replace_bundles(view.bundles());
            state.replace_crls(update.crls);
        });
        writer.renewed();
        self.succeeded(not_after);
    }

    fn succeeded(&self, not_after: Option<SystemTime>) {
        self.status.update(|status| {
            status.updates += 1;
            status.last_error = None;
            status.not_after = not_after.or(status.not_after);
        });
    }

    fn failed(&self, error: WorkloadApiError, writer: &IdentityWriter) {
        writer.renewal_failed(&error);
        self.status.update(|status| {
            status.failures += 1;
            status.last_error = Some(Arc::new(error));
        });
    }
}

impl fmt::Debug for WorkloadApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadApiClient")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Received {
    /// The roots and the keys for tokens of each trust domain, joined; never across domains.
    fn bundles(&self) -> BundleSet {
        let domains = self.x509.keys().chain(self.jwt.keys());
        let join = |trust_domain: &TrustDomain| {
            let bundle = self.x509.get(trust_domain).cloned();
            let bundle = bundle.unwrap_or_else(|| TrustBundle::distrusted(trust_domain.clone()));
            match self.jwt.get(trust_domain) {
                Some(keys) => bundle.with_jwt_keys(keys.clone()),
                None => bundle,
            }
        };
        domains.map(join).collect()
    }
}

impl From<Status> for WorkloadApiError {
    fn from(status: Status) -> Self {
        // An agent's words, cut off: they end in logs.
        let reason = status.message().chars().take(256).collect();
        match status.code() {
            Code::PermissionDenied => Self::Denied { reason },
            Code::InvalidArgument | Code::Unimplemented => Self::Fatal { reason },
            code => Self::Unavailable {
                reason: format!("{code}: {reason}"),
            },
        }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
