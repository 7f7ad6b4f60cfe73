//! A control plane as a source: a stream in, changes of the snapshot out.
//!
//! `known` is pure; here are the connection, what requests ask for, and what is kept over a restart.

mod counts;
mod keep;
pub(super) mod known;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::unfold;
use inmesh_core::discover::{Demands, Gone, Sink, Source, Wanted};
use inmesh_core::drain::Drain;
use inmesh_core::model::{ServiceName, SourceId};
use inmesh_core::snapshot::Change;
use inmesh_pki::Crypto;
use inmesh_pki::channel::{Channel, connect};
use inmesh_pki::clock::{Clock, SystemClock};
use inmesh_pki::id::SpiffeId;
use inmesh_pki::store::IdentityReader;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Streaming;
use tonic::body::Body;

use self::counts::Counting;
use self::keep::Keep;
use self::known::Known;
use self::words::{chain_of, shown};
use super::names::{Subscription, TYPE};
use super::proto::delta::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use super::proto::delta::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use crate::manifest::Defaults;

/// The largest response that is read.
const MAX_RESPONSE: usize = 256 * 1024 * 1024;
/// How long a stream may take to be opened and to have a first response.
const FIRST_WORD: Duration = Duration::from_secs(15);
/// The longest pauses before the first retry and before all later ones; what is drawn lies between none and
/// that. Everything is to be current again within 5 s of a return.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// After a change of identity or trust a connection is made anew within this time.
const RENEW: Duration = Duration::from_secs(10);
/// Requests that may wait to be sent.
const QUEUE: usize = 16;

/// What a process follows of a mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Follow {
    /// All Services.
    All,
    /// What its requests ask for, and these from the start.
    Asked(Vec<ServiceName>),
}

/// A control plane, followed. Its name is `control`.
///
/// It pushes the policies that govern the namespace of the process, and what leads to the Services that are
/// followed; a request for another waits until the control plane has said what leads there. It is synced
/// with the first response of the control plane, and lost while there is no stream; what it pushed serves.
/// The connection is mutual TLS with the control plane, which is known by its SPIFFE ID, and is made anew
/// when the identity of the process changes.
///
/// ```no_run
/// # fn doc(identity: inmesh_pki::IdentityReader, crypto: inmesh_pki::Crypto) -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_core::model::Namespace;
/// use inmesh_discovery::control::ControlSource;
/// use inmesh_discovery::manifest::Defaults;
///
/// let server = "spiffe://prod.example/ns/mesh-system/sa/control".parse()?;
/// let defaults = Defaults::new(Namespace::new("shop")?);
/// let source = ControlSource::new("control.mesh-system:15010", server, identity, crypto, defaults)
///     .keep("/var/lib/cart/control.state");
/// # drop(source);
/// # Ok(())
/// # }
/// ```
pub struct ControlSource {
    id: SourceId,
    addresses: Vec<String>,
    server: SpiffeId,
    identity: IdentityReader,
    crypto: Crypto,
    clock: Arc<dyn Clock>,
    defaults: Defaults,
    follow: Follow,
    keep: Option<PathBuf>,
    instance: String,
}

/// A source that runs.
struct Following {
    source: ControlSource,
    sink: Sink,
    drain: Drain,
    known: Known,
    demands: Option<Demands>,
    keep: Option<Keep>,
    /// Whether anything has been pushed: what comes first replaces all.
    pushed: bool,
    /// What was said last of the source: synced, or why it is lost.
    said: Option<Result<(), String>>,
    /// How requests fare, where that is asked for: also from one stream to the next.
    counting: Option<Counting>,
}

/// A stream that is open.
struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// What is wanted on it.
    subscribed: BTreeMap<String, Option<Wanted>>,
}

/// How a stream has ended.
enum Ended {
    /// The runtime ends.
    Drained,
    /// A new connection is to be made, with what this process is now.
    Renewed,
    /// The control plane or the way to it has failed.
    Lost(String),
}

// === impl ControlSource ===

impl ControlSource {
    /// A source of what the control plane at `address` (`host:port`) hands on.
    #[must_use]
    pub fn new(
        address: impl Into<String>,
        server: SpiffeId,
        identity: IdentityReader,
        crypto: Crypto,
        defaults: Defaults,
    ) -> Self {
        Self {
            id: SourceId::new("control"),
            addresses: vec![address.into()],
            server,
            identity,
            crypto,
            clock: SystemClock::shared(),
            defaults,
            follow: Follow::Asked(Vec::new()),
            keep: None,
            instance: String::new(),
        }
    }

    /// The same, with another replica of the control plane: each is tried in turn.
    #[must_use]
    pub fn or_at(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// The same with what is followed. Default: what requests ask for.
    #[must_use]
    pub fn follow(mut self, follow: Follow) -> Self {
        self.follow = follow;
        self
    }

    /// The same, which keeps what it has in a file (0600), to start from while the control plane is away.
    #[must_use]
    pub fn keep(mut self, file: impl Into<PathBuf>) -> Self {
        self.keep = Some(file.into());
        self
    }

    /// The same with the name by which the control plane shows this process: that of its Pod, say.
    #[must_use]
    pub fn instance(mut self, name: &str) -> Self {
        self.instance = name.into();
        self
    }

    /// The same with a clock for the validity of certificates.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

impl fmt::Debug for ControlSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlSource")
            .field("addresses", &self.addresses)
            .field("server", &self.server)
            .field("follow", &self.follow)
            .finish_non_exhaustive()
    }
}

impl Source for ControlSource {
    fn id(&self) -> SourceId {
        self.id.clone()
    }

    async fn run(self, sink: Sink, drain: Drain) -> Result<(), Gone> {
        let demands = matches!(self.follow, Follow::Asked(_)).then(|| sink.demands());
        let mut following = Following {
            known: Known::new(self.defaults.clone()),
            keep: self.keep.clone().map(Keep::new),
            source: self,
            sink,
            demands,
            drain: drain.clone(),
            pushed: false,
            said: None,
            counting: None,
        };
        let mut drain = drain;
        tokio::select! {
            ran = following.run() => ran,
            () = drain.closed() => Ok(()),
        }
    }
}

// === impl Following ===

impl Following {
    async fn run(&mut self) -> Result<(), Gone> {
        let ready = self.source.identity.ready().await;
        let own = ready
            .ok()
            .and_then(|state| Some(state.default_svid()?.id().to_string()));
        let Some(own) = own else {
            return self.say(Err("this process has no identity".into())).await;
        };
        self.start_from_kept(&own).await?;
        let (mut nth, mut failures) = (first_of(self.source.addresses.len()), 0_u32);
        loop {
            let address = self.source.addresses[nth % self.source.addresses.len()].clone();
            let begun = Instant::now();
            let ended = self.follow(&address, &own).await?;
            if self.keep.as_ref().is_some_and(|keep| keep.due().is_some()) {
                self.write_kept(&own).await;
            }
            match ended {
                Ended::Drained => return Ok(()),
                Ended::Renewed => failures = 0,
                Ended::Lost(why) => {
                    let why = format!("{address}: {why}");
                    tracing::debug!(%why, "no stream of the control plane");
                    self.say(Err(why)).await?;
                    nth += 1;
                    // A stream that lasted is no reason to wait for long.
                    failures = match begun.elapsed() > FIRST_WORD {
                        true => 0,
                        false => failures.saturating_add(1),
                    };
                    sleep(pause(failures)).await;
                }
            }
        }
    }

    /// Pushes what an earlier process has kept.
    async fn start_from_kept(&mut self, own: &str) -> Result<(), Gone> {
        let Some(keep) = &self.keep else {
            return Ok(());
        };
        let bytes = match keep.read().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(()),
            Err(why) => {
                tracing::warn!(%why, "the kept state of the control plane cannot be used");
                return Ok(());
            }
        };
        match self.known.restore(&bytes, own) {
            Ok(ops) => {
                self.pushed = true;
                self.sink
                    .push(Change::replace(self.source.id.clone(), ops))
                    .await?;
                self.sink.kept().await
            }
            Err(why) => {
                tracing::warn!(%why, "the kept state of the control plane cannot be used");
                Ok(())
            }
        }
    }

    async fn write_kept(&mut self, own: &str) {
        if let Some(keep) = &mut self.keep {
            keep.write(self.known.to_bytes(own)).await;
        }
    }

    /// Follows a control plane until its stream ends.
    async fn follow(&mut self, address: &str, own: &str) -> Result<Ended, Gone> {
        let mut identity = self.source.identity.clone();
        // What comes later is a change.
        let _state = identity.latest();
        let opened = timeout(FIRST_WORD, self.open(address)).await;
        let mut stream = match opened {
            Ok(Ok(stream)) => stream,
            Ok(Err(why)) => return Ok(Ended::Lost(why)),
            Err(_) => return Ok(Ended::Lost(format!("no stream within {FIRST_WORD:?}"))),
        };
        let mut drain = self.drain.clone();
        let (mut renew, mut first) = (None, Some(Instant::now() + FIRST_WORD));
        let mut lives = true;
        loop {
            tokio::select! {
                biased;
                () = drain.closing() => return Ok(Ended::Drained),
                said = stream.responses.message() => match said {
                    Ok(Some(response)) => {
                        first = None;
                        if let Err(why) = self.take(response, &stream).await? {
                            return Ok(Ended::Lost(why));
                        }
                    }
                    Ok(None) => return Ok(Ended::Lost("the stream has ended".into())),
                    Err(status) => return Ok(Ended::Lost(shown(&status))),
                },
                () = asked(self.demands.as_mut()) => {
                    let more = stream.subscribe(&self.source.follow, self.demands.as_mut());
                    if let Some(request) = more {
                        self.known.forget(&request.resource_names_unsubscribe);
                        if stream.requests.send(request).await.is_err() {
                            return Ok(Ended::Lost("the stream has ended".into()));
                        }
                    }
                }
                changed = identity.changed(), if lives => match changed {
                    Ok(_) => {
                        let later = Instant::now() + RENEW.mul_f64(rand::random());
                        renew = renew.or(Some(later));
                    }
                    // What it was serves on.
                    Err(_) => lives = false,
                },
                () = at(self.keep.as_ref().and_then(Keep::due)) => self.write_kept(own).await,
                () = at(self.counting.as_ref().map(Counting::due)) => {
                    if stream.requests.send(self.report()).await.is_err() {
                        return Ok(Ended::Lost("the stream has ended".into()));
                    }
                }
                () = at(renew) => return Ok(Ended::Renewed),
                () = at(first) => return Ok(Ended::Lost(format!("no response within {FIRST_WORD:?}"))),
            }
        }
    }

    /// How requests have fared that the control plane has asked for.
    fn report(&mut self) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: TYPE.to_owned(),
            report: self.counting.as_mut().map(Counting::report),
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// Opens a stream and says on it what is known and wanted.
    async fn open(&mut self, address: &str) -> Result<Stream, String> {
        let source = &self.source;
        let state = (*source.identity.load()).clone();
        let clock = Arc::clone(&source.clock);
        let channel = connect::<Body>(address, &source.server, state, &source.crypto, clock).await;
        let channel: Channel<Body> = channel.map_err(|e| chain_of(&e))?;
        let origin = http::Uri::from_static("https://control.inmesh.internal");
        let mut client = AggregatedDiscoveryServiceClient::with_origin(channel, origin)
            .max_decoding_message_size(MAX_RESPONSE);
        let (requests, queue) = mpsc::channel(QUEUE);
        let mut stream = (requests, BTreeMap::new());
        let first = DeltaDiscoveryRequest {
            node: Some(Node {
                id: source.instance.clone(),
                cluster: String::new(),
                user_agent_name: "inmesh".to_owned(),
                user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            }),
            type_url: TYPE.to_owned(),
            initial_resource_versions: self.known.versions(),
            counts: true,
            ..subscribe(&mut stream.1, &source.follow, self.demands.as_mut()).unwrap_or_default()
        };
        // There is place for it.
        let _queued = stream.0.try_send(first);
        let queue = unfold(queue, |mut queue| async {
            Some((queue.recv().await?, queue))
        });
        let responses = client.delta_aggregated_resources(queue).await;
        let responses = responses.map_err(|status| shown(&status))?;
        Ok(Stream {
            requests: stream.0,
            responses: responses.into_inner(),
            subscribed: stream.1,
        })
    }

    /// Applies a response and acknowledges it; the inner error ends the stream.
    async fn take(
        &mut self,
        mut response: DeltaDiscoveryResponse,
        stream: &Stream,
    ) -> Result<Result<(), String>, Gone> {
        let watch = response.watch.take();
        let mut taken = self.known.take(response);
        let ops = std::mem::take(&mut taken.ops);
        let id = self.source.id.clone();
        let changed = !ops.is_empty();
        let change = match std::mem::replace(&mut self.pushed, true) {
            true => Change::update(id, ops),
            false => Change::replace(id, ops),
        };
        let applied = self.sink.apply(change).await?;
        // Requests count from here on, by what has just been applied.
        counts::follow(&mut self.counting, watch, &self.sink);
        if let Some(demands) = &self.demands {
            taken.found.iter().for_each(|wanted| demands.found(wanted));
            taken
                .absent
                .iter()
                .for_each(|wanted| demands.absent(wanted));
        }
        if let Some(keep) = self.keep.as_mut().filter(|_| changed) {
            keep.note();
        }
        self.say(Ok(())).await?;
        let sent = stream.requests.send(taken.acknowledge(&applied)).await;
        Ok(sent.map_err(|_| "the stream has ended".to_owned()))
    }

    /// Says how the source is, where that is another thing than before.
    async fn say(&mut self, how: Result<(), String>) -> Result<(), Gone> {
        if self.said.as_ref() == Some(&how) {
            return Ok(());
        }
        self.said = Some(how.clone());
        match how {
            Ok(()) => self.sink.synced().await,
            Err(why) => self.sink.lost(why).await,
        }
    }
}

// === impl Stream ===

impl Stream {
    fn subscribe(
        &mut self,
        follow: &Follow,
        demands: Option<&mut Demands>,
    ) -> Option<DeltaDiscoveryRequest> {
        subscribe(&mut self.subscribed, follow, demands)
    }
}

/// What is to be subscribed to and no longer, beside what is; `None` if nothing.
fn subscribe(
    subscribed: &mut BTreeMap<String, Option<Wanted>>,
    follow: &Follow,
    demands: Option<&mut Demands>,
) -> Option<DeltaDiscoveryRequest> {
    let mut all: BTreeMap<String, Option<Wanted>> = BTreeMap::new();
    match follow {
        Follow::All => drop(all.insert(Subscription::All.to_string(), None)),
        Follow::Asked(services) => {
            let named = services.iter().cloned().map(Wanted::Service);
            all.extend(named.map(|wanted| (wanted.to_string(), Some(wanted))));
        }
    }
    let asked = demands.map(Demands::wanted).unwrap_or_default();
    all.extend(
        asked
            .into_iter()
            .map(|wanted| (wanted.to_string(), Some(wanted))),
    );
    let (now, before): (BTreeSet<_>, BTreeSet<_>) =
        (all.keys().collect(), subscribed.keys().collect());
    let more = now
        .difference(&before)
        .map(|name| (*name).clone())
        .collect::<Vec<_>>();
    let fewer = before
        .difference(&now)
        .map(|name| (*name).clone())
        .collect::<Vec<_>>();
    if more.is_empty() && fewer.is_empty() {
        return None;
    }
    *subscribed = all;
    Some(DeltaDiscoveryRequest {
        type_url: TYPE.to_owned(),
        resource_names_subscribe: more,
        resource_names_unsubscribe: fewer,
        ..DeltaDiscoveryRequest::default()
    })
}

async fn asked(demands: Option<&mut Demands>) {
    match demands {
        Some(demands) => demands.changed().await,
        None => std::future::pending().await,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Which address is tried first: processes that begin together do not all ask one.
fn first_of(addresses: usize) -> usize {
    rand::random_range(0..addresses.max(1))
}

/// How long is waited after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let longest = if failures <= 1 { PAUSES.0 } else { PAUSES.1 };
    longest.mul_f64(rand::random())
}
