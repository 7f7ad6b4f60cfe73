//! An issuer and a clock in, writes to the identity store out: one task for each SVID.
//!
//! The task obeys [`schedule`]; it asks the clock every few seconds instead of trusting one long
//! sleep, so a clock that is corrected is noticed. Whatever an issuer answers is verified before it
//! is written: the last good SVID stays until a better one is there.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, timeout};

use super::schedule;
use crate::bundle::TrustBundle;
use crate::clock::{Clock, Span};
use crate::crypto::Crypto;
use crate::id::SpiffeId;
use crate::issue::{CsrError, IssueError, IssuedChain, Issuer, csr};
use crate::status::{StatusReader, StatusWriter, status};
use crate::store::{IdentityState, IdentityWriter};
use crate::svid::{PrivateKey, Rejected, SvidError, Usage, X509Svid, validate, validate_own};
use crate::task::until;

/// How often the clock is looked at while nothing is due.
const LOOK: Duration = Duration::from_secs(2);

/// How far wall clock and timer may drift apart between two looks before it counts as a jump.
const JUMP: Duration = Duration::from_secs(1);

/// How long after its issuance an SVID that no peer accepts is not renewed again.
const SETTLE: Duration = Duration::from_secs(5);

/// The least time between two renewals.
const GAP: Duration = Duration::from_secs(1);

/// Keeps the SVID of one ID renewed.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::{future::pending, sync::Arc, time::Duration};
/// use inmesh_pki::clock::SystemClock;
/// use inmesh_pki::issue::ca::LocalCa;
/// use inmesh_pki::rotate::Rotation;
/// use inmesh_pki::{Crypto, IdentityState, SpiffeId, identity};
///
/// let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
/// let day = Duration::from_secs(24 * 60 * 60);
/// let ca = LocalCa::create("prod.example".parse()?, day, &crypto, Arc::clone(&clock))?;
/// let id = SpiffeId::for_workload(ca.trust_domain(), "shop", "cart")?;
/// let (writer, reader) = identity(IdentityState::default());
/// // A fixed draw; a program gives one of its random numbers.
/// let rotation = Rotation::new(id, ca, &crypto, clock, || 0.5);
/// tokio::spawn(rotation.run(Arc::new(writer), pending()));
/// reader.ready().await?;
/// # Ok(())
/// # }
/// ```
pub struct Rotation<I> {
    id: SpiffeId,
    issuer: I,
    crypto: Crypto,
    clock: Arc<dyn Clock>,
    draw: Box<dyn FnMut() -> f64 + Send>,
    status: StatusWriter<RotationStatus>,
}

/// How renewal is doing; for metrics and for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RotationStatus {
    /// How many SVIDs were written.
    pub rotations: u64,
    /// How many attempts failed.
    pub failures: u64,
    /// Why the latest attempt failed; gone with the next success.
    pub last_error: Option<ObtainError>,
    /// When the SVID was last renewed.
    pub renewed_at: Option<SystemTime>,
    /// When the SVID that is in use ends.
    pub not_after: Option<SystemTime>,
}

/// Why no new SVID was obtained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObtainError {
    /// No key or request could be made.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The issuer refused, or failed.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The issuer's chain does not verify under the bundle that it sent along.
    #[error("the issuer's chain does not verify under its own bundle")]
    NotValid(#[from] Rejected),
    /// The issuer's answer is not an SVID for our key.
    #[error("the issuer's answer cannot be used")]
    Svid(#[from] SvidError),
    /// The issuer did not answer in time.
    #[error("the issuer did not answer in time")]
    Timeout,
    /// The issuer answered for another ID.
    #[error("asked for {expected}, the issuer answered for {got}")]
    WrongId {
        /// The ID that was asked for.
        expected: SpiffeId,
        /// The ID that the issuer answered for.
        got: SpiffeId,
    },
}

/// Makes a key, has it certified for `id`, and verifies the answer as a peer would, at `clock`.
///
/// # Errors
///
/// [`ObtainError`]; nothing has been written anywhere.
pub async fn obtain(
    issuer: &impl Issuer,
    id: &SpiffeId,
    crypto: &Crypto,
    clock: &dyn Clock,
) -> Result<(X509Svid, TrustBundle), ObtainError> {
    obtain_under(&IdentityState::default(), issuer, id, crypto, clock).await
}

/// The same, where `state` may have distrusted roots of the issuer's bundle, and may have an SVID that
/// ends soon.
async fn obtain_under(
    state: &IdentityState,
    issuer: &impl Issuer,
    id: &SpiffeId,
    crypto: &Crypto,
    clock: &dyn Clock,
) -> Result<(X509Svid, TrustBundle), ObtainError> {
    let (key, csr) = csr::generate(id, crypto)?;
    let not_after = state.svid(id).map(|svid| svid.not_after());
    let limit = schedule::attempt(clock.now(), not_after);
    let answer = timeout(limit, issuer.issue(id, &csr)).await;
    let mut issued = answer.map_err(|_| ObtainError::Timeout)??;
    issued.bundle = state.without_distrusted(issued.bundle);
    accept(issued, key, id, crypto, clock.now())
}

/// Joins and verifies an issuer's answer: right ID, right key, a path to a root of its bundle.
fn accept(
    issued: IssuedChain,
    key: PrivateKey,
    id: &SpiffeId,
    crypto: &Crypto,
    now: SystemTime,
) -> Result<(X509Svid, TrustBundle), ObtainError> {
    let bundle = issued.bundle.clone();
    let svid = issued.into_svid(key, crypto)?;
    if svid.id() != id {
        return Err(ObtainError::WrongId {
            expected: id.clone(),
            got: svid.id().clone(),
        });
    }
    let trusted = IdentityState::from_bundles(bundle.clone().into());
    validate(svid.chain(), &trusted, now, Usage::Server, crypto)?;
    validate(svid.chain(), &trusted, now, Usage::Client, crypto)?;
    Ok((svid, bundle))
}

impl<I: Issuer> Rotation<I> {
    /// A rotation for `id`; `draw` gives numbers that are uniform in 0..1.
    #[must_use]
    pub fn new(
        id: SpiffeId,
        issuer: I,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
        draw: impl FnMut() -> f64 + Send + 'static,
    ) -> Self {
        Self {
            id,
            issuer,
            crypto: crypto.clone(),
            clock,
            draw: Box::new(draw),
            status: status(RotationStatus::default()),
        }
    }

    /// Where to read how it is doing, before and while it runs.
    #[must_use]
    pub fn status(&self) -> StatusReader<RotationStatus> {
        self.status.reader()
    }

    /// Renews until `shutdown` is ready; an SVID that `writer` has already is taken over.
    ///
    /// 1. Wait until the SVID is due (at once, if there is none, or its root is no longer trusted).
    /// 2. Obtain a new one, with its bundle, and write both in one step.
    /// 3. After a failure pause, and go back to 2; a jump of the clock ends the pause.
    pub async fn run(mut self, writer: Arc<IdentityWriter>, shutdown: impl Future<Output = ()>) {
        until(shutdown, self.renew_forever(&writer)).await;
    }

    async fn renew_forever(&mut self, writer: &IdentityWriter) {
        loop {
            // Only the times are kept over the wait, not the state.
            let current = writer
                .load()
                .svid(&self.id)
                .map(|s| (s.not_before(), s.issued_at(), s.not_after()));
            if let Some((not_before, issued_at, not_after)) = current {
                self.status
                    .update(|status| status.not_after = Some(not_after));
                let due = schedule::renew_at(issued_at, not_after, (self.draw)());
                let lives = (not_before, issued_at);
                self.wait_until_due(due, lives, writer).await;
            }
            self.renew(writer).await;
            // A CA that is about to end issues leaves that are due at once.
            sleep(GAP).await;
        }
    }

    /// Sleeps in short steps until the clock says `due`, or until no peer would accept the SVID: the
    /// clock is set back to before its time, it is revoked, or the bundle has lost the root that it leads to.
    async fn wait_until_due(
        &mut self,
        due: SystemTime,
        (not_before, issued_at): (SystemTime, SystemTime),
        writer: &IdentityWriter,
    ) {
        let mut seen = None;
        loop {
            let now = self.clock.now();
            if now < not_before {
                return;
            }
            let Some(left) = due.duration_since(now).ok().filter(|left| !left.is_zero()) else {
                return;
            };
            let state = writer.load();
            // An issuer that answers from a root that is gone is not asked in a loop.
            let settled = issued_at + SETTLE <= now;
            let changed = settled && seen.replace(state.epoch()) != Some(state.epoch());
            if let Some(reason) = changed.then(|| self.lost(&state, now)).flatten() {
                tracing::warn!(id = %self.id, %reason, "no peer accepts the SVID, a new one is asked for");
                return;
            }
            drop(state);
            sleep(left.min(LOOK)).await;
        }
    }

    /// Why a new SVID is worth asking for before this one is due.
    fn lost(&self, state: &IdentityState, now: SystemTime) -> Option<Rejected> {
        let reason = validate_own(state.svid(&self.id)?, state, now, &self.crypto).err()?;
        let lost = matches!(
            reason,
            Rejected::UnknownIssuer { .. } | Rejected::Distrusted { .. } | Rejected::Revoked { .. }
        );
        lost.then_some(reason)
    }

    /// Tries until it succeeds.
    async fn renew(&mut self, writer: &IdentityWriter) {
        let mut failures = 0;
        loop {
            let clock = Arc::clone(&self.clock);
            let state = writer.load();
            let obtained = obtain_under(&state, &self.issuer, &self.id, &self.crypto, &*clock);
            let error = match obtained.await {
                Ok((svid, bundle)) => {
                    self.written(svid, bundle, writer);
                    return;
                }
                Err(error) => error,
            };
            failures += 1;
            let not_after = writer.load().svid(&self.id).map(|svid| svid.not_after());
            let asked = match &error {
                ObtainError::Issue(IssueError::Unavailable { retry_after, .. }) => *retry_after,
                _ => None,
            };
            let now = self.clock.now();
            let time = schedule::pause(now, not_after, failures, asked, (self.draw)());
            tracing::warn!(
                id = %self.id, %error, failures, pause = %Span(time), "SVID not renewed, the last one is kept"
            );
            writer.renewal_failed(&error);
            self.status.update(|status| {
                status.failures += 1;
                status.last_error = Some(error);
            });
            pause(time, &*self.clock).await;
        }
    }

    fn written(&mut self, svid: X509Svid, bundle: TrustBundle, writer: &IdentityWriter) {
        let now = self.clock.now();
        let not_after = svid.not_after();
        tracing::info!(id = %self.id, serial = svid.serial(), "SVID renewed");
        writer.update(|state| {
            state.insert_svid(svid);
            // A stream of bundles may have brought a newer one meanwhile.
            state.insert_newer_bundle(bundle);
        });
        writer.renewed();
        self.status.update(|status| {
            status.rotations += 1;
            status.last_error = None;
            status.renewed_at = Some(now);
            status.not_after = Some(not_after);
        });
    }
}

/// Sleeps for `time`, or until the clock is seen to jump: that may be what was wrong.
async fn pause(time: Duration, clock: &dyn Clock) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        let (wall, timer) = (clock.now(), Instant::now());
        sleep((end - timer).min(LOOK)).await;
        let passed = timer.elapsed();
        let jumped = match clock.now().duration_since(wall) {
            Ok(forward) => forward.abs_diff(passed) > JUMP,
            Err(_) => true,
        };
        if jumped {
            return;
        }
    }
}

impl<I> fmt::Debug for Rotation<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotation")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
