//! Live connections of mesh peers, and what ends them.
//!
//! A handshake judges a peer once, and connections live longer than what was known then. Each one
//! is registered with the chain that its peer presented. In come changes of what is trusted and the
//! passing of time, out goes an error on the next read or write of a connection that must end:
//!
//! - revoked, distrusted, or its root removed while its leaf still lived: at once, whatever the
//!   connection is used for;
//! - its leaf has expired: a connection of HTTP, which its server has drained from that moment on,
//!   after [`GRACE`]; an opaque one at its maximum age, because its peers cannot be asked to
//!   reconnect. That its root is retired meanwhile changes nothing.
//!
//! The judgement is `validate`'s own, asked again as of a moment when the leaf was valid. Chains
//! that many connections share are judged once.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use inmesh_pki::CertificateDer;
use inmesh_pki::Crypto;
use inmesh_pki::clock::Clock;
use inmesh_pki::store::{IdentityReader, IdentityState};
use inmesh_pki::svid::{Rejected, Usage, validate};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::drain::Drain;
use crate::local::Local;
use crate::wake::{Noted, Task};

/// How long what runs on an HTTP connection may take after its peer's leaf has expired.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// Chains judged before other tasks get their turn.
const TURN: usize = 8;

/// The connections of one runtime.
#[derive(Debug)]
pub(crate) struct Live {
    identity: IdentityReader,
    crypto: Crypto,
    clock: Arc<dyn Clock>,
    /// How old an opaque connection may become once its peer's leaf has expired.
    opaque_age: Duration,
    known: Mutex<Known>,
    /// A connection ends earlier than all known before.
    earlier: Notify,
}

#[derive(Debug, Default)]
struct Known {
    next: u64,
    connections: HashMap<u64, Arc<LiveConnection>>,
    /// When the sweep wakes by itself.
    first_end: Option<Instant>,
}

/// What is known of a connection, shared by its stream, the sweep, and the task that serves it.
#[derive(Debug)]
pub(crate) struct LiveConnection {
    local: Arc<Local>,
    chain: Vec<CertificateDer<'static>>,
    usage: Usage,
    not_after: SystemTime,
    http_end: Instant,
    opaque_end: Instant,
    opaque: AtomicBool,
    cut: AtomicBool,
    why: OnceLock<String>,
    task: Task,
}

/// A stream that ends when the sweep says so.
#[derive(Debug)]
pub(crate) struct Guarded<T> {
    inner: T,
    entry: Arc<LiveConnection>,
    live: Arc<Live>,
    id: u64,
    noted: Noted,
}

/// What a connection is registered with.
pub(crate) struct Peered {
    /// The workload whose identity was presented to the peer.
    pub(crate) local: Arc<Local>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) usage: Usage,
    pub(crate) not_after: SystemTime,
    pub(crate) opaque: bool,
}

/// Whether a peer whose chain was accepted once is still accepted, apart from the passing of time.
///
/// 1. It is judged as of `now`, or of the last moment of its leaf if that has passed.
/// 2. After its leaf has expired a missing root says nothing: roots are retired once no live leaf
///    chains to them. Only a key that is distrusted still counts.
///
/// # Errors
///
/// The reason against it.
fn still_trusted(
    chain: &[CertificateDer<'_>],
    not_after: SystemTime,
    usage: Usage,
    state: &IdentityState,
    now: SystemTime,
    crypto: &Crypto,
) -> Result<(), Rejected> {
    let lived = now <= not_after;
    let at = if lived { now } else { not_after };
    match validate(chain, state, at, usage, crypto) {
        Ok(_) => Ok(()),
        Err(Rejected::UnknownIssuer {
            id,
            authority_key_id: Some(key),
            ..
        }) if !lived
            && state
                .bundles()
                .get(id.trust_domain())
                .is_some_and(|bundle| !bundle.distrusts_key(&key)) =>
        {
            Ok(())
        }
        Err(rejected) => Err(rejected),
    }
}

/// Whether two states may judge a peer differently; a leaf of our own that rotates does not count.
fn trusts_otherwise(one: &IdentityState, other: &IdentityState) -> bool {
    one.epoch() != other.epoch()
        && (one.bundles() != other.bundles()
            || one.crls() != other.crls()
            || one.revoked_ids() != other.revoked_ids())
}

// === impl Live ===

impl Live {
    pub(crate) fn new(
        identity: IdentityReader,
        crypto: Crypto,
        clock: Arc<dyn Clock>,
        opaque_age: Duration,
    ) -> Self {
        Self {
            identity,
            crypto,
            clock,
            opaque_age,
            known: Mutex::default(),
            earlier: Notify::new(),
        }
    }

    /// Registers a connection whose handshake is done, and began under the state `before`.
    ///
    /// # Errors
    ///
    /// The reason against the peer, where that state has changed meanwhile.
    pub(crate) fn guard<T>(
        self: &Arc<Self>,
        inner: T,
        peered: Peered,
        before: &IdentityState,
    ) -> Result<Guarded<T>, Rejected> {
        let opened = Instant::now();
        let left = peered.not_after.duration_since(self.clock.now());
        let expires = opened + left.unwrap_or_default();
        let entry = Arc::new(LiveConnection {
            local: peered.local,
            chain: peered.chain,
            usage: peered.usage,
            not_after: peered.not_after,
            http_end: expires + GRACE,
            opaque_end: expires.max(opened + self.opaque_age),
            opaque: AtomicBool::new(peered.opaque),
            cut: AtomicBool::new(false),
            why: OnceLock::new(),
            task: Task::default(),
        });
        let mut known = self.known();
        let id = known.next;
        known.next += 1;
        known.connections.insert(id, Arc::clone(&entry));
        let end = entry.end();
        if known.first_end.is_none_or(|first| end < first) {
            known.first_end = Some(end);
            self.earlier.notify_one();
        }
        drop(known);
        let guarded = Guarded {
            inner,
            entry,
            live: Arc::clone(self),
            id,
            noted: Noted::default(),
        };
        // A sweep that ran before the connection was known has not seen it.
        let state = self.identity.load();
        if trusts_otherwise(&state, before) {
            self.judge(&guarded.entry, &state)?;
        }
        Ok(guarded)
    }

    fn judge(&self, entry: &LiveConnection, state: &IdentityState) -> Result<(), Rejected> {
        let (chain, not_after, usage) = (&entry.chain, entry.not_after, entry.usage);
        let now = self.clock.now();
        still_trusted(chain, not_after, usage, state, now, &self.crypto)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connections(&self) -> Vec<Arc<LiveConnection>> {
        self.known().connections.values().cloned().collect()
    }

    /// Cuts what the present state no longer trusts.
    async fn sweep(&self, state: &IdentityState) {
        let connections = self.connections();
        let mut judged: HashMap<&[u8], Option<String>> = HashMap::new();
        for entry in &connections {
            let Some(leaf) = entry.chain.first() else {
                continue;
            };
            let verdict = match judged.get(leaf.as_ref()) {
                Some(known) => known.clone(),
                None => {
                    let verdict = self.judge(entry, state).err().map(|rejected| {
                        let reason = rejected.as_str();
                        tracing::warn!(reason, "closing a live connection: {rejected}");
                        rejected.to_string()
                    });
                    judged.insert(leaf, verdict.clone());
                    if judged.len().is_multiple_of(TURN) {
                        tokio::task::yield_now().await;
                    }
                    verdict
                }
            };
            if let Some(why) = verdict {
                entry.cut(why);
            }
        }
    }

    /// Cuts the connections of a local workload that is no longer served.
    pub(crate) fn retire(&self, local: &Arc<Local>) {
        for connection in self.connections() {
            if Arc::ptr_eq(&connection.local, local) {
                connection.cut("the workload is no longer served here".to_owned());
            }
        }
    }

    /// Cuts what has reached its end, and notes when the next one does.
    fn expire(&self) {
        let now = Instant::now();
        let mut known = self.known();
        let mut first = None::<Instant>;
        for entry in known.connections.values() {
            let end = entry.end();
            if end <= now {
                entry.cut("the peer's certificate has expired".to_owned());
            } else if first.is_none_or(|first| end < first) {
                first = Some(end);
            }
        }
        known.first_end = first;
    }

    /// Watches over the connections until the drain has closed them all. What is trusted is noted
    /// at the call, so that no change from then on is missed.
    pub(crate) fn run(self: Arc<Self>, drain: Drain) -> impl Future<Output = ()> {
        let identity = self.identity.clone();
        let before = identity.load();
        self.watch(identity, before, drain)
    }

    async fn watch(
        self: Arc<Self>,
        mut identity: IdentityReader,
        mut before: Arc<IdentityState>,
        mut drain: Drain,
    ) {
        let mut ended = false;
        loop {
            let first = self.known().first_end;
            let next_end = async {
                match first {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = drain.closed() => return,
                () = next_end => self.expire(),
                () = self.earlier.notified() => {}
                changed = identity.changed(), if !ended => match changed {
                    Ok(state) => {
                        if trusts_otherwise(&state, &before) {
                            self.sweep(&state).await;
                        }
                        before = state;
                    }
                    Err(_) => ended = true,
                },
            }
        }
    }
}

// === impl LiveConnection ===

impl LiveConnection {
    /// The connection has left HTTP, so that its server can no longer drain it.
    pub(crate) fn becomes_opaque(&self) {
        self.opaque.store(true, Ordering::Relaxed);
    }

    fn end(&self) -> Instant {
        if self.opaque.load(Ordering::Relaxed) {
            self.opaque_end
        } else {
            self.http_end
        }
    }

    fn cut(&self, why: String) {
        let _first_reason_stays = self.why.set(why);
        self.cut.store(true, Ordering::Release);
        self.task.wake();
    }

    fn check(&self) -> io::Result<()> {
        if !self.cut.load(Ordering::Acquire) {
            return Ok(());
        }
        let why = self.why.get().cloned().unwrap_or_default();
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, why))
    }
}

// === impl Guarded ===

impl<T> Guarded<T> {
    /// What is shared with the sweep.
    pub(crate) fn entry(&self) -> &Arc<LiveConnection> {
        &self.entry
    }

    /// The connection, past the sweep.
    pub(crate) fn inner(&mut self) -> &mut T {
        &mut self.inner
    }

    /// Has the sweep wake this task, if it must.
    fn watch(&mut self, cx: &Context<'_>) {
        self.noted.note(cx, &self.entry.task);
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        self.live.known().connections.remove(&self.id);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Before it is asked, so that a cut in between wakes the task.
        self.watch(cx);
        self.entry.check()?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.watch(cx);
        self.entry.check()?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watch(cx);
        self.entry.check()?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
}

#[cfg(all(test, feature = "aws-lc-rs"))]
mod tests;
