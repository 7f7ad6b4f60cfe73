//! The names that the snapshot wants in, their addresses out, for as long as they are wanted.
//!
//! The driver obeys the plans: it asks when one says so, and pushes what one publishes. What
//! no Service wants is no longer asked for. It refuses addresses that a name server has no business
//! to give: loopback, link-local, unspecified and multicast ones.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use inmesh_core::discover::{Gone, Sink, Source};
use inmesh_core::drain::Drain;
use inmesh_core::model::{Host, HostAddress, SourceId};
use inmesh_core::snapshot::{Change, Op, Snapshot};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::early::Early;
use super::plan::{Effect, Outcome, Plan};
use super::wire::Wire;
use crate::manifest::forbidden;

/// The most look-ups at once; each asks for two families.
const AT_ONCE: usize = 16;
/// How long a configuration of the system is used before one that fails is read again.
const STALE: Duration = Duration::from_secs(30);
/// The source's name.
const NAME: &str = "dns";

/// Resolves the host names of Services of type ExternalName and of EndpointSlices of addressType
/// FQDN. Its name is `dns`.
///
/// It is synced at once: names come with documents, and their addresses when they are found. It is out of sync while
/// it knows of no name that can be resolved, and of one that cannot.
///
/// ```
/// use inmesh_discovery::dns::DnsSource;
/// let system = DnsSource::new();
/// let scripted = DnsSource::with_servers(vec![([127, 0, 0, 1], 5353).into()]).loopback(true);
/// ```
#[derive(Debug, Clone, Default)]
pub struct DnsSource {
    servers: Vec<SocketAddr>,
    allow_loopback: bool,
}

/// Looks names up: on the wire, or from a script.
pub(super) trait LookUp: Clone + Send + 'static {
    /// Looks a host up, and gives `early` addresses while it waits for others.
    fn look_up(&self, host: &Host, early: &Early) -> impl Future<Output = Outcome> + Send;

    /// Reads again what may have changed since names cannot be looked up.
    fn refresh(&mut self) {}
}

/// The wire, with what it takes to make another.
#[derive(Debug, Clone)]
struct Wired {
    servers: Vec<SocketAddr>,
    /// `None` while the system's configuration cannot be read.
    wire: Option<Wire>,
}

/// All names that are wanted, or were a moment ago.
struct Names<L> {
    look_up: L,
    allow_loopback: bool,
    start: Instant,
    refreshed: Duration,
    entries: BTreeMap<Host, Resolved>,
    running: JoinSet<(Host, Outcome)>,
    /// What look-ups know before their end.
    early: mpsc::Sender<(Host, Vec<HostAddress>)>,
}

struct Resolved {
    plan: Plan,
    wanted: bool,
    /// The look-up that runs.
    running: Option<Id>,
    /// What was dropped last time, so that it is logged once.
    dropped: Vec<IpAddr>,
}

// === impl DnsSource ===

impl DnsSource {
    /// Asks the name servers of the system (`/etc/resolv.conf`, and the hosts file first).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks these name servers over UDP, and over TCP where an answer does not fit.
    #[must_use]
    pub fn with_servers(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            allow_loopback: false,
        }
    }

    /// The same, taking loopback addresses from answers or not.
    #[must_use]
    pub fn loopback(mut self, allow: bool) -> Self {
        self.allow_loopback = allow;
        self
    }
}

impl Source for DnsSource {
    fn id(&self) -> SourceId {
        SourceId::new(NAME)
    }

    async fn run(self, sink: Sink, drain: Drain) -> Result<(), Gone> {
        let mut wired = Wired {
            servers: self.servers,
            wire: None,
        };
        wired.refresh();
        drive(wired, self.allow_loopback, sink, drain).await
    }
}

/// Keeps the names of the snapshot resolved until the drain closes.
pub(super) async fn drive<L: LookUp>(
    look_up: L,
    allow_loopback: bool,
    sink: Sink,
    mut drain: Drain,
) -> Result<(), Gone> {
    let mut snapshots = sink.snapshot().clone();
    let (early, mut sent) = mpsc::channel(AT_ONCE);
    let mut names = Names {
        look_up,
        allow_loopback,
        start: Instant::now(),
        refreshed: Duration::ZERO,
        entries: BTreeMap::new(),
        running: JoinSet::new(),
        early,
    };
    sink.synced().await?;
    let mut lost = false;
    loop {
        if names.are_lost() != lost {
            lost = !lost;
            match lost {
                true => sink.lost("no name can be resolved").await?,
                false => sink.synced().await?,
            }
        }
        // The snapshot is read after the watch was set, so that no change is missed.
        let ops = names.want(&snapshots.load());
        push(&sink, ops).await?;
        names.ask();
        let next = names.next();
        tokio::select! {
            biased;
            () = drain.closed() => return Ok(()),
            Some(done) = names.running.join_next_with_id() => {
                let ops = match done {
                    Ok((_, (host, outcome))) => names.handle(host, outcome),
                    Err(e) => names.handle_panic(e.id()),
                };
                push(&sink, ops).await?;
            }
            Some((host, found)) = sent.recv() => push(&sink, names.handle_early(&host, found)).await?,
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            alive = snapshots.changed() => {
                if !alive {
                    return Ok(());
                }
            }
        }
    }
}

async fn push(sink: &Sink, ops: Vec<Op>) -> Result<(), Gone> {
    if ops.is_empty() {
        return Ok(());
    }
    sink.push(Change::update(SourceId::new(NAME), ops)).await
}

// === impl Wired ===

impl LookUp for Wired {
    async fn look_up(&self, host: &Host, early: &Early) -> Outcome {
        match &self.wire {
            Some(wire) => wire.look_up(host, early).await,
            None => Outcome::unknown(),
        }
    }

    fn refresh(&mut self) {
        match Wire::new(&self.servers) {
            Ok(wire) => self.wire = Some(wire),
            Err(error) => tracing::warn!(%error, "the configuration of DNS cannot be read"),
        }
    }
}

// === impl Names ===

impl<L: LookUp> Names<L> {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Adds the names that the snapshot wants and removes others. Returns addresses that
    /// are known and that the snapshot has forgotten, since it did not want them for a while.
    fn want(&mut self, snapshot: &Snapshot) -> Vec<Op> {
        let now = self.now();
        for entry in self.entries.values_mut() {
            entry.wanted = false;
        }
        let mut ops = Vec::new();
        for (host, known) in snapshot.resolutions() {
            let entry = self
                .entries
                .entry(host.clone())
                .or_insert_with(|| Resolved {
                    plan: Plan::new(now),
                    wanted: true,
                    running: None,
                    dropped: Vec::new(),
                });
            entry.wanted = true;
            if let (None, Some(last)) = (known, entry.plan.last()) {
                ops.push(Op::Resolve(host.clone(), Arc::clone(last)));
            }
        }
        // A plan is kept until its time, so that a name that comes and goes is not asked for more
        // often than its plan allows.
        self.entries
            .retain(|_, e| e.wanted || e.running.is_some() || e.plan.next() > now);
        ops
    }

    /// Whether there are names and none of them can be resolved: it is rather the name server than they.
    fn are_lost(&self) -> bool {
        let mut wanted = self
            .entries
            .values()
            .filter(|entry| entry.wanted)
            .peekable();
        wanted.peek().is_some() && wanted.all(|entry| entry.plan.is_failing())
    }

    /// Starts the look-ups that are due.
    fn ask(&mut self) {
        let now = self.now();
        for (host, entry) in &mut self.entries {
            let due = entry.wanted && entry.running.is_none() && entry.plan.next() <= now;
            if due && self.running.len() < AT_ONCE {
                let (look_up, host) = (self.look_up.clone(), host.clone());
                let early = Early::new(&host, &self.early);
                let task = self.running.spawn(async move {
                    let outcome = look_up.look_up(&host, &early).await;
                    (host, outcome)
                });
                entry.running = Some(task.id());
            }
        }
    }

    /// When the next look-up is due, unless one that runs has to end first.
    fn next(&self) -> Option<Instant> {
        if self.running.len() >= AT_ONCE {
            return None;
        }
        let idle = self.entries.values().filter(|e| e.running.is_none());
        let next = idle.map(|e| e.plan.next()).min()?;
        self.start.checked_add(next)
    }

    /// Takes a look-up that ended in a bug of the look-up itself: a failure like others.
    fn handle_panic(&mut self, task: Id) -> Vec<Op> {
        let mut entries = self.entries.iter();
        match entries.find(|(_, entry)| entry.running == Some(task)) {
            Some((host, _)) => self.handle(host.clone(), Outcome::unknown()),
            None => Vec::new(),
        }
    }

    /// Takes what a look-up knows before its end: it serves where nothing is known of the name.
    fn handle_early(&mut self, host: &Host, found: Vec<HostAddress>) -> Vec<Op> {
        let Some(entry) = self.entries.get_mut(host) else {
            return Vec::new();
        };
        // A look-up that has ended since has said more.
        if !entry.wanted || entry.running.is_none() || entry.plan.last().is_some() {
            return Vec::new();
        }
        let ttl = Duration::ZERO;
        let found = Outcome::Answer {
            addresses: found,
            ttl,
        };
        match entry.filter(host, found, self.allow_loopback) {
            Outcome::Answer { addresses, .. } if !addresses.is_empty() => {
                vec![Op::Resolve(host.clone(), addresses.into())]
            }
            _ => Vec::new(),
        }
    }

    /// Takes what a look-up came to.
    fn handle(&mut self, host: Host, outcome: Outcome) -> Vec<Op> {
        let now = self.now();
        if matches!(outcome, Outcome::Failure { .. }) && now - self.refreshed >= STALE {
            self.refreshed = now;
            self.look_up.refresh();
        }
        let Some(entry) = self.entries.get_mut(&host) else {
            return Vec::new();
        };
        entry.running = None;
        let outcome = entry.filter(&host, outcome, self.allow_loopback);
        let was_failing = entry.plan.is_failing();
        let effect = entry.plan.handle_outcome(now, outcome);
        let Host::Name { name, .. } = &host else {
            return Vec::new();
        };
        match (was_failing, entry.plan.is_failing()) {
            (false, true) => {
                tracing::warn!(%name, "the name cannot be resolved; what is known of it stays");
            }
            (true, false) => tracing::info!(%name, "the name can be resolved again"),
            _ => {}
        }
        match effect {
            Effect::Publish(addresses) if entry.wanted => {
                if addresses.is_empty() {
                    tracing::warn!(%name, "the name does not exist; its endpoints are drained");
                }
                vec![Op::Resolve(host, addresses)]
            }
            _ => Vec::new(),
        }
    }
}

// === impl Resolved ===

impl Resolved {
    /// Drops addresses that are not sent to.
    fn filter(&mut self, host: &Host, mut outcome: Outcome, allow_loopback: bool) -> Outcome {
        let (Outcome::Answer { addresses, .. }
        | Outcome::Failure {
            found: addresses, ..
        }) = &mut outcome
        else {
            return outcome;
        };
        let mut dropped = Vec::new();
        addresses.retain(
            |HostAddress { ip, .. }| match forbidden(*ip, allow_loopback) {
                Some(why) => {
                    dropped.push(*ip);
                    if !self.dropped.contains(ip) {
                        tracing::warn!(%host, "the answer {ip} {why}; it is not used");
                    }
                    false
                }
                None => true,
            },
        );
        self.dropped = dropped;
        outcome
    }
}
