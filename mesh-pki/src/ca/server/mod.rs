//! A CA and a listening socket in, leaves and bundles over gRPC out: Istio's CreateCertificate, so
//! that proxies that exist can use it, and a stream of bundles that members acknowledge.
//!
//! A connection is TLS with the CA's own SVID, which it issues to itself; a client certificate is
//! optional, for a client that joins has none, and its handshake shows only that the client holds the
//! key. The caller is known before a byte of the message is read: by its certificate, verified at each
//! call under the bundle of that moment, else by its bearer token; one that is revoked ends the call. Then its turn is decided (`pace`), then the message is read, in
//! bounded size, then [`may_issue`] decides. Connections, their streams, headers and idle times are
//! bounded.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::attest::Attestors;
use super::pace::{DEFAULT_RATE, Pace};
use super::store::Store;
use super::{Ca, CaError, Published, Tick};
use crate::id::SpiffeId;
use crate::issue::csr;
use crate::issue::policy::{Revocations, Rules, Window};
use crate::rotate::{schedule, watch_expiry};
use crate::serve::{self, Place, Places};
use crate::status::{StatusReader, StatusWriter, status};
use crate::store::{IdentityReader, IdentityState, IdentityWriter, identity};
use crate::svid::{PrivateKey, SvidError, X509Svid};
use crate::task::until;
use crate::tls;

mod count;
mod front;
mod presented;
mod proof;
mod service;

#[cfg(all(test, feature = "ca-client"))]
mod tests;

pub use count::{CaCounts, Latency, Refusal};
use count::{Ended, RefusalsLogged};
use presented::Presented;

#[cfg(doc)]
use crate::issue::policy::may_issue;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long a connection may stay without a call whose caller is known.
const STRANGER: Duration = Duration::from_secs(10);

/// How often what is due is looked for.
const TICK: Duration = Duration::from_secs(1);

/// How often a warning is repeated.
const REMIND: Duration = Duration::from_secs(60 * 60);

/// The configuration of a server.
#[derive(Debug)]
pub struct ServerConfigOf {
    /// Which caller gets which ID; its own ID is the server's.
    pub rules: Rules,
    /// Which tokens are accepted.
    pub attestors: Attestors,
    /// Host names that its own certificate has besides its ID, for clients that verify those.
    pub host_names: Vec<String>,
    /// How many leaves are signed in a second.
    pub rate: u32,
    /// How many connections there may be; a quarter of them at most from one address before it has
    /// proven an ID, and of one ID after that.
    pub connections: usize,
}

/// Serves a CA; made by [`CaServer::new`], runs with [`CaServer::serve`].
///
/// ```
/// # use std::{future::pending, sync::Arc};
/// # use inmesh_pki::ca::{Ca, store::FileStore};
/// # async fn serve(ca: Arc<Ca<FileStore>>) -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::ca::server::{CaServer, ServerConfigOf};
/// use inmesh_pki::issue::policy::Rules;
///
/// let own = "spiffe://prod.example/inmesh/ca".parse()?;
/// let rules = Rules::new("prod.example".parse()?, own).with_kubernetes();
/// let server = CaServer::new(ca, ServerConfigOf::new(rules)).await?;
/// let listener = tokio::net::TcpListener::bind("0.0.0.0:15012").await?;
/// server.serve(listener, pending()).await;
/// # Ok(())
/// # }
/// ```
pub struct CaServer<S> {
    shared: Arc<CaShared<S>>,
    own: IdentityWriter,
    tls: Arc<ServerConfig>,
    connections: usize,
}

/// What every call needs.
struct CaShared<S> {
    ca: Arc<Ca<S>>,
    rules: Rules,
    attestors: Attestors,
    host_names: Vec<String>,
    /// The CA's own SVID and the bundle of the moment, which peers are verified against.
    reader: IdentityReader,
    pace: Mutex<Pace>,
    start: Instant,
    window: watch::Receiver<Option<Window>>,
    revocations: watch::Receiver<Arc<Revocations>>,
    counts: StatusWriter<CaCounts>,
    logged: Mutex<RefusalsLogged>,
}

/// One connection: what its calls share.
struct CallerConnection {
    presented: Presented,
    known: AtomicBool,
    place: Mutex<Place>,
}

impl CallerConnection {
    fn new(chain: &[CertificateDer<'static>], place: Place) -> Self {
        Self {
            presented: Presented::new(chain.to_vec()),
            known: AtomicBool::new(false),
            place: Mutex::new(place),
        }
    }
}

/// Why a server could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The CA cannot issue its own SVID.
    #[error("the CA cannot issue its own SVID")]
    Own(#[source] CaError),
    /// What it issued to itself is no SVID.
    #[error("the CA's own SVID cannot be used")]
    Svid(#[from] SvidError),
    /// No key or request could be made.
    #[error(transparent)]
    Csr(#[from] crate::issue::CsrError),
}

impl ServerConfigOf {
    /// A server with these rules: no tokens but join tokens, 50 leaves a second, 4,096
    /// connections.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            attestors: Attestors::none(),
            host_names: Vec::new(),
            rate: DEFAULT_RATE,
            connections: 4096,
        }
    }
}

impl<S: Store> CaServer<S> {
    /// Makes a server of `ca`, with an SVID of its own.
    ///
    /// # Errors
    ///
    /// [`ServerError`] if the CA cannot issue one.
    pub async fn new(ca: Arc<Ca<S>>, config: ServerConfigOf) -> Result<Self, ServerError> {
        let svid = own_svid(&ca, config.rules.own(), &config.host_names).await?;
        let bundle = ca.published().borrow().bundle.clone();
        let (own, reader) = identity(IdentityState::new(svid, bundle.into()));
        take_over(&own, &ca.published().borrow(), None);
        let window = ca.window();
        let tls = tls::ca_server_config(
            reader.clone(),
            ca.crypto(),
            &[b"h2"],
            Arc::clone(ca.clock()),
        );
        Ok(Self {
            shared: Arc::new(CaShared {
                rules: config.rules,
                attestors: config.attestors,
                host_names: config.host_names,
                reader,
                pace: Mutex::new(Pace::new(config.rate)),
                start: Instant::now(),
                window,
                revocations: ca.revocations(),
                counts: status(CaCounts::default()),
                logged: Mutex::default(),
                ca,
            }),
            own,
            tls,
            connections: config.connections.max(1),
        })
    }

    /// Where to read what it has done, before and while it serves.
    #[must_use]
    pub fn counts(&self) -> StatusReader<CaCounts> {
        self.shared.counts.reader()
    }

    /// Where to read the CA's own SVID and bundle, which its peers see.
    #[must_use]
    pub fn identity(&self) -> IdentityReader {
        self.shared.reader.clone()
    }

    /// Serves `listener`, takes what is due, and keeps the own SVID fresh, until `shutdown` is
    /// ready; connections that are open then are closed.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let (shared, own) = (Arc::clone(&self.shared), self.own);
        let house = async {
            let (reader, clock) = (shared.reader.clone(), Arc::clone(shared.ca.clock()));
            let watched = watch_expiry(reader, clock, std::future::pending());
            tokio::join!(keep_own(&shared, &own), keep_house(&shared), watched);
        };
        let end = until(shutdown, house);
        let places = Places::new(self.connections);
        let serve = |stream: TcpStream, _| {
            let address = stream.peer_addr().ok()?.ip();
            let Some(place) = places.take(address) else {
                tracing::debug!(%address, "too many connections to the CA from here, one is closed");
                return None;
            };
            let (shared, tls) = (Arc::clone(&self.shared), Arc::clone(&self.tls));
            Some(connection(shared, tls, stream, place))
        };
        serve::accept(&listener, "CA", self.connections, serve, end).await;
    }
}

async fn connection<S: Store>(
    shared: Arc<CaShared<S>>,
    tls: Arc<ServerConfig>,
    stream: TcpStream,
    place: Place,
) {
    let accepting = TlsAcceptor::from(tls).accept(stream).into_fallible();
    let stream = match timeout(HANDSHAKE, tls::accept(accepting)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err((error, mut stream))) => {
            tracing::debug!(%error, "a handshake with the CA failed");
            // Its client reads why. The place is held meanwhile.
            return serve::linger(&mut stream).await;
        }
        Err(_) => return,
    };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let caller = Arc::new(CallerConnection::new(chain, place));
    let service = {
        let caller = Arc::clone(&caller);
        service_fn(move |request| {
            let (shared, caller) = (Arc::clone(&shared), Arc::clone(&caller));
            async move {
                Ok::<_, std::convert::Infallible>(front::answer(shared, caller, request).await)
            }
        })
    };
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(16)
        .max_header_list_size(32 * 1024)
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(128 * 1024)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ended = &mut serving => return,
        () = sleep(STRANGER) => {}
    }
    if caller.known.load(Ordering::Relaxed) {
        let _ended = serving.await;
    }
}

/// Keeps the CA's own SVID and bundle: renewed in the middle of its life, and at once when another
/// root becomes active, so that the old one can retire.
async fn keep_own<S: Store>(shared: &CaShared<S>, own: &IdentityWriter) {
    let mut published = shared.ca.published();
    let id = shared.rules.own();
    let mut active = published.borrow_and_update().active.clone();
    loop {
        let due = own
            .load()
            .svid(id)
            .map(|svid| schedule::renew_at(svid.issued_at(), svid.not_after(), 0.5));
        let now = shared.ca.clock().now();
        let left = due.and_then(|due| due.duration_since(now).ok());
        let step = left.unwrap_or_default().min(Duration::from_secs(2));
        tokio::select! {
            changed = published.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = sleep(step) => {}
        }
        let latest = published.borrow_and_update().clone();
        let due = left.is_none_or(|left| left.is_zero());
        if latest.active == active && !due {
            take_over(own, &latest, None);
            continue;
        }
        match own_svid(&shared.ca, id, &shared.host_names).await {
            Ok(svid) => {
                let now = shared.ca.published().borrow().clone();
                take_over(own, &now, Some(svid));
                active = latest.active.clone();
            }
            Err(error) => {
                take_over(own, &latest, None);
                tracing::error!(%error, "the CA cannot renew its own SVID");
                sleep(TICK).await;
            }
        }
    }
}

/// What peers of the CA are verified against, in one step.
fn take_over(own: &IdentityWriter, published: &Published, svid: Option<X509Svid>) {
    own.update(|state| {
        if let Some(svid) = svid {
            state.insert_svid(svid);
        }
        state.replace_trust(
            published.bundle.clone(),
            published.crls.clone(),
            published.revoked_ids.clone(),
        );
    });
}

/// Takes steps that are due, and says what an operator has to know.
async fn keep_house<S: Store>(shared: &CaShared<S>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reminded: BTreeMap<&'static str, Instant> = BTreeMap::new();
    let mut remind = move |what| {
        let again = reminded
            .get(what)
            .is_none_or(|last: &Instant| last.elapsed() >= REMIND);
        if again {
            reminded.insert(what, Instant::now());
        }
        again
    };
    loop {
        ticks.tick().await;
        match shared.ca.tick().await {
            Ok(Tick::WantSuccessor) if remind("successor") => {
                tracing::warn!(
                    "half of the root's or issuing CA's life is gone and the root's key is offline: bring a successor"
                );
            }
            Ok(_) => {}
            Err(error) if remind("tick") => {
                tracing::error!(%error, "the CA cannot do what is due");
            }
            Err(_) => {}
        }
    }
}

async fn own_svid<S: Store>(
    ca: &Ca<S>,
    id: &SpiffeId,
    names: &[String],
) -> Result<X509Svid, ServerError> {
    let (key, csr): (PrivateKey, _) = csr::generate(id, ca.crypto())?;
    let issued = ca
        .issue_own(id, names, &csr)
        .await
        .map_err(ServerError::Own)?;
    let at = Some(issued.issued_at);
    Ok(X509Svid::from_der(issued.chain, key, at, ca.crypto())?)
}

impl<S> CaShared<S> {
    /// Logs that a call for a leaf was refused, once in a while for each reason. Which ID it wanted is
    /// not said before it is proven; `why` is the CA's own words.
    fn tell(&self, ended: Ended, why: &str) {
        let Ended::Refused(refusal) = ended else {
            return;
        };
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept_back) = logged.due(refusal, self.start.elapsed()) {
            let reason = refusal.as_str();
            tracing::warn!(reason, why, kept_back, "a leaf is refused");
        }
    }

    /// Whether it is the turn of this process of `id`.
    fn turn(&self, id: &str, instance: &str) -> Result<(), Duration> {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.handle_request(id, instance, self.start.elapsed())
    }
}

impl<S> fmt::Debug for CaServer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaServer")
            .field("rules", &self.shared.rules)
            .finish_non_exhaustive()
    }
}
