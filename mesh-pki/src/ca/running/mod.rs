//! A store, a clock and grants in, leaves and generations of the bundle out: the driver that obeys
//! [`plan`](crate::ca::plan) and [`state`](crate::ca::state).
//!
//! Every change goes one way: the pure function says what the state is next; new keys are kept;
//! the state is swapped; only then is the effect let out (a leaf, a bundle for watchers), and keys
//! that no state names are forgotten. After a write that failed, or a future that was dropped in
//! the middle of one, the store is asked what holds before anything else happens.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex, watch};

use crate::ca::authority::{
    AuthorityError, LeafLife, Lifetimes, NewAuthority, SignedLeaf, Signer, issuer_under,
};
use crate::ca::error::{CaError, OpenError};
use crate::ca::members::{Leaf, MemberStatus, Members};
use crate::ca::plan::{Due, Gate, due, gate};
use crate::ca::report::{Asker, AuthorityStatus, CaStatus, Issued, Published, Tick};
use crate::ca::state::{CaState, Stage, Step, StepError};
use crate::ca::step::Go;
use crate::ca::store::{Store, Version};
use crate::clock::Clock;
use crate::crypto::Crypto;
use crate::id::{SpiffeId, TrustDomain};
use crate::issue::Csr;
use crate::issue::policy::{Grant, Revocations, Window};

mod effects;
mod open;
mod tokens;
mod write;

use effects::{crls_of, publication, signer_of};
use open::{Opening, state_in, warn_of_orphans};

/// How often a write is tried while another process writes too.
const TURNS: usize = 64;

/// A running CA; see the [module](crate::ca).
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::Crypto;
/// use inmesh_pki::ca::store::FileStore;
/// use inmesh_pki::ca::{Ca, Lifetimes};
/// use inmesh_pki::clock::SystemClock;
///
/// let store = FileStore::open("/var/lib/ca".as_ref())?;
/// let (domain, lifetimes) = ("prod.example".parse()?, Lifetimes::default());
/// let crypto = Crypto::aws_lc_rs();
/// let ca = Ca::open(store, &domain, None, lifetimes, &crypto, SystemClock::shared()).await?;
/// println!("generation {}", ca.status().await.generation);
/// # Ok(())
/// # }
/// ```
pub struct Ca<S> {
    store: S,
    crypto: Crypto,
    clock: Arc<dyn Clock>,
    lifetimes: Lifetimes,
    inner: Mutex<CaInner>,
    published: watch::Sender<Arc<Published>>,
    window: watch::Sender<Option<Window>>,
    revocations: watch::Sender<Arc<Revocations>>,
}

struct CaInner {
    state: CaState,
    version: Version,
    signer: Signer,
    members: Members,
    /// What is in memory may not be what is written.
    stale: bool,
    /// Keys that this process has made or used and that the state may not name any more.
    orphans: BTreeSet<String>,
    /// How many writes of state or keys have failed; losing to another writer is no failure.
    write_failures: u64,
}

impl<S: Store> Ca<S> {
    /// Opens the CA of `trust_domain` in `store`, or makes one there: of `first`, or of a new root
    /// if there is none.
    ///
    /// 1. The state is read with all its rules; there is no partial trust.
    /// 2. Keys without a state are no new CA: its state is lost, or stands elsewhere. Only those that were
    ///    noted as the first ones of a CA, which a crash has left before its first state, do not count. Keys
    ///    that the state does not name are warned of; none is removed.
    /// 3. The active authority's key is read and proven to be its own.
    /// 4. Members are those that an earlier process has left ([`leave`](Self::leave)). If it died,
    ///    its leaves may be alive until the moment that the state names; until then, unknown members
    ///    count as missing.
    /// 5. Where the store is [shared](Store::shared), other processes issue too, and what members acknowledge
    ///    to them is not known here. There a root is activated once no leaf can be alive that came with
    ///    a bundle without it, which the state knows of all processes: a leaf's life, and an eighth of it.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; nothing is issued from what cannot be read whole.
    pub async fn open(
        store: S,
        trust_domain: &TrustDomain,
        first: Option<NewAuthority>,
        lifetimes: Lifetimes,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let opening = Opening {
            trust_domain,
            first,
            lifetimes,
            crypto,
            now: clock.now(),
        };
        let (state, version) = state_in(&store, &opening).await?;
        if state.trust_domain() != trust_domain {
            return Err(OpenError::WrongTrustDomain {
                expected: trust_domain.clone(),
                got: state.trust_domain().clone(),
            });
        }
        warn_of_orphans(&store, &state).await?;
        let signer = signer_of(&store, &state)
            .await
            .map_err(|error| match error {
                CaError::Store(error) => OpenError::Store(error),
                CaError::Authority(error) => OpenError::Authority(error),
                _ => OpenError::Authority(AuthorityError::Key {
                    whose: "the issuing CA",
                }),
            })?;
        let crls = crls_of(&store, &state, lifetimes, clock.now()).await;
        let crls = crls.map_err(|error| match error {
            CaError::Store(error) => OpenError::Store(error),
            CaError::Authority(error) => OpenError::Authority(error),
            _ => OpenError::Authority(AuthorityError::Key {
                whose: "an issuing CA",
            }),
        })?;
        let published = publication(&state, crls, clock.now()).map_err(AuthorityError::from)?;
        let members = match store.shared() {
            true => state.members().of_one_of_several(),
            false => state.members(),
        };
        Ok(Self {
            store,
            crypto: crypto.clone(),
            clock,
            lifetimes,
            published: watch::Sender::new(Arc::new(published)),
            window: watch::Sender::new(state.window()),
            revocations: watch::Sender::new(Arc::new(state.revocations())),
            inner: Mutex::new(CaInner {
                members,
                state,
                version,
                signer,
                stale: false,
                orphans: BTreeSet::new(),
                write_failures: 0,
            }),
        })
    }

    /// The bundle of the moment, and every later one.
    #[must_use]
    pub fn published(&self) -> watch::Receiver<Arc<Published>> {
        self.published.subscribe()
    }

    /// The recovery window that was opened last, and every change of it; it may have closed.
    #[must_use]
    pub fn window(&self) -> watch::Receiver<Option<Window>> {
        self.window.subscribe()
    }

    /// All that is revoked, and every change of it, also where it has expired meanwhile.
    #[must_use]
    pub fn revocations(&self) -> watch::Receiver<Arc<Revocations>> {
        self.revocations.subscribe()
    }

    /// Signs a leaf for what was granted.
    ///
    /// # Errors
    ///
    /// [`CaError`]; then no leaf has gone out.
    pub async fn issue(&self, grant: &Grant, csr: &Csr, asker: &Asker) -> Result<Issued, CaError> {
        let mut inner = self.current().await?;
        let names = (grant.id(), grant.host_names());
        self.sign(&mut inner, names, csr, Some(asker)).await
    }

    /// Signs a leaf for the CA's own ID, which is never granted. The CA needs no acknowledgement
    /// of its own, so it is no member. `names` are the host names by which clients that know no
    /// SPIFFE IDs verify it.
    ///
    /// # Errors
    ///
    /// As [`issue`](Self::issue).
    pub async fn issue_own(
        &self,
        id: &SpiffeId,
        names: &[String],
        csr: &Csr,
    ) -> Result<Issued, CaError> {
        let mut inner = self.current().await?;
        self.sign(&mut inner, (id, names), csr, None).await
    }

    /// 1. Sign under the active authority, with a serial number that no live leaf has.
    /// 2. Write down until when leaves under it may be alive, unless that is written already.
    /// 3. Enter the leaf into the table of members. Only then may it go out.
    async fn sign(
        &self,
        inner: &mut CaInner,
        (id, names): (&SpiffeId, &[String]),
        csr: &Csr,
        asker: Option<&Asker>,
    ) -> Result<Issued, CaError> {
        let now = self.clock.now();
        let (signed, authority) = loop {
            let authority = inner.state.active().clone();
            let lifetime = asker.and_then(|asker| asker.lifetime);
            let lifetime =
                lifetime.map_or(self.lifetimes.leaf, |asked| asked.min(self.lifetimes.leaf));
            let signed = self.sign_once(inner, (id, names), csr, lifetime, now)?;
            let key_id = authority.issuer_key_id();
            let ahead = self.lifetimes.leaf / 8;
            if inner
                .state
                .cover(key_id, signed.not_after, ahead)?
                .is_none()
            {
                break (signed, authority);
            }
            let cover = |state: &CaState| {
                let next = state.cover(key_id, signed.not_after, ahead)?;
                Ok((next.unwrap_or_else(|| state.clone()), ()))
            };
            match self.change(inner, None, cover).await {
                Ok(()) => break (signed, authority),
                // Another process has activated another root meanwhile.
                Err(CaError::Step(StepError::Stale)) => {}
                Err(error) => return Err(error),
            }
        };
        let published = self.published.borrow().clone();
        if let Some(asker) = asker {
            let instance = asker.instance.as_deref();
            let leaf = Leaf {
                serial: signed.serial.clone(),
                not_after: signed.not_after,
                issuer_key_id: authority.issuer_key_id().to_owned(),
                generation: published.generation,
            };
            inner.members.issued(id, instance, leaf);
            let serial = &signed.serial;
            inner.members.note_renewal(id, instance, serial, now);
            if let Some(instance) = instance {
                let said = asker.acknowledged.min(published.generation);
                inner.members.acknowledge(id, instance, said);
            }
        }
        Ok(Issued {
            chain: signed.chain,
            serial: signed.serial.clone(),
            root: authority.root().clone(),
            published,
            issued_at: now,
            not_before: signed.not_before,
            not_after: signed.not_after,
        })
    }

    fn sign_once(
        &self,
        inner: &CaInner,
        (id, names): (&SpiffeId, &[String]),
        csr: &Csr,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<SignedLeaf, CaError> {
        loop {
            let crypto = &self.crypto;
            let begin = inner.state.begins_after(id);
            let life = LeafLife { begin, lifetime };
            let signed = inner.signer.sign(id, names, csr, life, now, crypto)?;
            // 126 random bits do not repeat; a broken source of randomness would be seen here.
            if !inner.members.has_serial(&signed.serial) {
                return Ok(signed);
            }
        }
    }

    /// An instance says which generation of the bundle it uses; more than there is does not count.
    pub async fn acknowledge(&self, id: &SpiffeId, instance: &str, generation: u64) {
        let mut inner = self.inner.lock().await;
        let generation = generation.min(inner.state.generation());
        inner.members.acknowledge(id, instance, generation);
    }

    /// Starts a rotation with `new`, or with a new root that is made here; returns its key id.
    ///
    /// # Errors
    ///
    /// [`StepError::Running`]; [`StepError::Offline`] if none is given and the root's key is not
    /// here.
    pub async fn prepare(&self, new: Option<NewAuthority>) -> Result<String, CaError> {
        let mut inner = self.current().await?;
        if let Some(next) = inner.state.next_step() {
            return Err(StepError::Running { next }.into());
        }
        let new = self.successor(&inner.state, new)?;
        let key_id = new.key_id().to_owned();
        let authority = new.authority.clone();
        let prepare = |state: &CaState| Ok((state.prepare(authority.clone())?, ()));
        self.change(&mut inner, Some(&new), prepare).await?;
        tracing::info!(%key_id, "a new root is published");
        Ok(key_id)
    }

    /// Takes the next step of the rotation; `force` does not ask whether the mesh is ready.
    ///
    /// # Errors
    ///
    /// [`CaError::NotYet`] with the members that are missing; [`StepError::NotItsTurn`] if another step than
    /// `asked` is next.
    pub async fn advance(&self, asked: Option<Step>, force: bool) -> Result<Step, CaError> {
        let mut inner = self.current().await?;
        self.take_step(&mut inner, asked, force).await
    }

    async fn take_step(
        &self,
        inner: &mut CaInner,
        asked: Option<Step>,
        force: bool,
    ) -> Result<Step, CaError> {
        let next = inner.state.next_step();
        let turn = StepError::NotItsTurn {
            asked: asked.or(next).unwrap_or(Step::Activate),
            next,
        };
        let Some(step) = next.filter(|next| asked.is_none_or(|asked| asked == *next)) else {
            return Err(turn.into());
        };
        let now = self.clock.now();
        let decide = |state: &CaState, members: &Members| match gate(state, members, now) {
            // Another process has taken it meanwhile: the one after it was not asked for.
            _ if state.next_step() != Some(step) => Err(CaError::Step(StepError::NotItsTurn {
                asked: step,
                next: state.next_step(),
            })),
            _ if force => Go::force(state).ok_or_else(|| CaError::Step(turn.clone())),
            Some(Gate::Go(go)) => Ok(go),
            Some(Gate::Wait(wait)) => Err(CaError::NotYet(wait)),
            None => Err(CaError::Step(turn.clone())),
        };
        let advance =
            |state: &CaState, members: &Members| Ok((state.advance(decide(state, members)?)?, ()));
        self.change_knowing(inner, None, advance).await?;
        tracing::info!(%step, force, "a step of the root's rotation is taken");
        Ok(step)
    }

    /// Does what is due by itself: steps of a running rotation, a new issuing CA, a
    /// new root. A driver calls it every second or so. Where other processes use the store too, it first
    /// takes over what they have written.
    ///
    /// # Errors
    ///
    /// [`CaError`]; the next call tries again.
    pub async fn tick(&self) -> Result<Tick, CaError> {
        self.follow().await?;
        let mut inner = self.current().await?;
        let now = self.clock.now();
        inner.members.prune(now);
        if !inner.orphans.is_empty() {
            self.forget(&mut inner).await;
        }
        self.refresh_crls(&inner, now).await?;
        match gate(&inner.state, &inner.members, now) {
            Some(Gate::Wait(wait)) => return Ok(Tick::Waits(wait)),
            Some(Gate::Go(_)) => {
                let step = self.take_step(&mut inner, None, false).await?;
                return Ok(Tick::Stepped(step));
            }
            None => {}
        }
        match due(&inner.state, now) {
            None => Ok(Tick::Nothing),
            Some(Due::WantSuccessor) => Ok(Tick::WantSuccessor),
            Some(Due::RenewIssuer) => {
                self.renew_issuer(&mut inner).await?;
                Ok(Tick::RenewedIssuer)
            }
            Some(Due::RotateRoot) => {
                drop(inner);
                self.prepare(None).await?;
                Ok(Tick::Stepped(Step::Prepare))
            }
        }
    }

    async fn renew_issuer(&self, inner: &mut CaInner) -> Result<(), CaError> {
        let active = inner.state.active();
        let above = active.key_id().to_owned();
        let root_key = self.store.key(&above).await?;
        let (trust_domain, root) = (inner.state.trust_domain(), active.root_certificate());
        let (now, lifetimes) = (self.clock.now(), self.lifetimes);
        let (issuer, key) =
            issuer_under(trust_domain, root, &root_key, lifetimes, now, &self.crypto)?;
        inner.orphans.insert(issuer.key_id.clone());
        let kept = self.store.keep_key(&issuer.key_id, &key).await;
        inner.written(kept)?;
        let key_id = issuer.key_id.clone();
        let replace = |state: &CaState| match state.active().key_id() == above {
            true => Ok((state.replace_issuer(issuer.clone())?, ())),
            // Another process has replaced the root meanwhile, which has not signed this one.
            false => Err(StepError::Stale.into()),
        };
        self.change(inner, None, replace).await?;
        tracing::info!(%key_id, "a new issuing CA is in use");
        Ok(())
    }

    /// Takes the authority with this root or issuing key out of the bundle at once, after a
    /// compromise; an active one is replaced by `successor`, or by a new root made here.
    ///
    /// # Errors
    ///
    /// [`StepError::UnknownKey`]; [`StepError::Offline`] if it needs a successor, none is given,
    /// and the root's key is not here.
    pub async fn distrust(
        &self,
        key_id: &str,
        successor: Option<NewAuthority>,
    ) -> Result<(), CaError> {
        let mut inner = self.current().await?;
        let active = inner.state.active();
        let is_active = key_id == active.key_id() || key_id == active.issuer_key_id();
        let needed = is_active && inner.state.at(Stage::Published).is_none();
        let new = match (needed, successor) {
            (false, None) => None,
            (_, successor) => Some(self.successor(&inner.state, successor)?),
        };
        let authority = new.as_ref().map(|new| new.authority.clone());
        let distrust = |state: &CaState| Ok((state.distrust(key_id, authority.clone())?, ()));
        self.change(&mut inner, new.as_ref(), distrust).await?;
        tracing::warn!(%key_id, "a key is distrusted");
        Ok(())
    }

    /// Revokes a leaf by its serial number, in hexadecimal: members that listen refuse it within
    /// moments, and it renews nothing. Other members trust it until it ends.
    ///
    /// # Errors
    ///
    /// [`RevokeError`](crate::ca::state::RevokeError).
    pub async fn revoke(&self, serial: &str) -> Result<(), CaError> {
        let mut inner = self.current().await?;
        let now = self.clock.now();
        let revoke = |state: &CaState| Ok((state.revoke(serial, now)?, ()));
        self.change(&mut inner, None, revoke).await?;
        tracing::warn!(%serial, "a certificate is revoked");
        Ok(())
    }

    /// Revokes all leaves of `id` that were issued until now, also those that this process does not
    /// know, and the open join tokens for it. They renew nothing; members that listen refuse them
    /// within moments, other members until they end. What another issuer vouches for, a
    /// service account or an OpenID token, earns a new leaf.
    ///
    /// # Errors
    ///
    /// [`RevokeError`](crate::ca::state::RevokeError).
    pub async fn revoke_id(&self, id: &SpiffeId) -> Result<(), CaError> {
        let mut inner = self.current().await?;
        let now = self.clock.now();
        let revoke = |state: &CaState| Ok((state.revoke_id(id, now)?, ()));
        self.change(&mut inner, None, revoke).await?;
        tracing::warn!(%id, "all certificates of an ID are revoked");
        Ok(())
    }

    /// Writes down the members, for the process that comes next: then a rotation that is running
    /// waits there for those that are missing, and not for every leaf to end. To be called
    /// last; a leaf that is issued all the same takes the table out again. Beyond
    /// 20,000 leaves nothing is written, nor where other processes issue too: the table is not theirs.
    ///
    /// # Errors
    ///
    /// [`CaError::Store`]; then the next process waits as after a crash.
    pub async fn leave(&self) -> Result<(), CaError> {
        if self.store.shared() {
            return Ok(());
        }
        let mut inner = self.current().await?;
        inner.members.prune(self.clock.now());
        self.change_knowing(&mut inner, None, |state, members| {
            Ok((state.leave(members), ()))
        })
        .await
    }

    /// How it is.
    pub async fn status(&self) -> CaStatus {
        let inner = self.inner.lock().await;
        let (state, now) = (&inner.state, self.clock.now());
        let wait = match gate(state, &inner.members, now) {
            Some(Gate::Wait(wait)) => Some(wait),
            _ => None,
        };
        let open = |token: &&super::state::OpenToken| !token.is_used() && token.expires() > now;
        CaStatus {
            trust_domain: state.trust_domain().clone(),
            generation: state.generation(),
            authorities: state
                .authorities()
                .iter()
                .map(|authority| AuthorityStatus::of(authority, now))
                .collect(),
            next: state.next_step(),
            wait,
            members: inner.members.len(),
            behind: inner.members.count_without(state.generation(), now),
            unknown_until: inner.members.unknown_until(now),
            open_tokens: state.tokens().iter().filter(open).count(),
            recovery: state.recovery(now),
            write_failures: inner.write_failures,
        }
    }

    /// The live members, those that a running rotation waits for first. Members that did not fit
    /// into the table, and those of an earlier process that died, are not among them.
    pub async fn members(&self) -> Vec<MemberStatus> {
        let inner = self.inner.lock().await;
        let now = self.clock.now();
        let missing = match gate(&inner.state, &inner.members, now) {
            Some(Gate::Wait(wait)) => wait.missing,
            _ => Vec::new(),
        };
        inner.members.list(&missing, now)
    }

    /// What lives how long.
    #[must_use]
    pub fn lifetimes(&self) -> Lifetimes {
        self.lifetimes
    }

    /// The clock that it goes by.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The cryptography that it uses.
    #[must_use]
    pub fn crypto(&self) -> &Crypto {
        &self.crypto
    }
}

impl<S> fmt::Debug for Ca<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("published", &*self.published.borrow())
            .finish_non_exhaustive()
    }
}
