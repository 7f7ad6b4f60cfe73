//! The identity store in, the last good SVID of one ID on disk out; and back after a reboot, so that
//! a workload has an identity while no CA answers.
//!
//! ```no_run
//! # #[cfg(feature = "aws-lc-rs")]
//! # async fn start(issuer: inmesh_pki::issue::DynIssuer) -> Result<(), Box<dyn std::error::Error>> {
//! use std::future::pending;
//! use std::sync::Arc;
//!
//! use inmesh_pki::clock::{Clock, SystemClock};
//! use inmesh_pki::rotate::Rotation;
//! use inmesh_pki::source::keep::Keep;
//! use inmesh_pki::{Crypto, SpiffeId, identity};
//!
//! let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
//! let id: SpiffeId = "spiffe://prod.example/ns/shop/sa/cart".parse()?;
//! let keep = Keep::new(id.clone(), "/var/lib/cart/identity");
//! // Nothing that can be used is no reason not to start: the issuer is asked then.
//! let initial = keep.load(clock.now(), &crypto).unwrap_or_default();
//! let (writer, reader) = identity(initial);
//! tokio::spawn(keep.run(reader, pending()));
//! let rotation = Rotation::new(id, issuer, &crypto, clock, || 0.5);
//! tokio::spawn(rotation.run(Arc::new(writer), pending()));
//! # Ok(())
//! # }
//! ```
//!
//! Kept are the chain, its key, the bundle and the revocation lists of its own trust domain, and the
//! moment of issuance, from which renewal counts: without it an SVID that came back would be renewed
//! too early, by whatever its CA back-dates. All change in one step, as [`files::publish`] does it,
//! and a reader resolves that step once. What is read is trusted no more than what an issuer answers:
//! it is verified under the bundle beside it, and files that others may write, or a key that others
//! may read, are refused. The roots that were ever distrusted are kept beside all this, and count also
//! where the SVID has ended meanwhile. Bundles of other trust domains are not kept; federation fetches them.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use super::files::{self, CERT_FILE, KEY_FILE};
use crate::bundle::TrustBundle;
use crate::bundle::jwks::BundleJsonError;
use crate::crl::{Crl, CrlError, CrlSet, MAX_REVOKED_IDS, RevokedIds};
use crate::crypto::Crypto;
use crate::disk::{self, Disk, DiskError, Guard, Mode, SystemDisk};
use crate::id::{SpiffeId, TrustDomain};
use crate::pem;
use crate::status::{StatusReader, StatusWriter, status};
use crate::store::{IdentityReader, IdentityState};
use crate::svid::{PrivateKey, Rejected, SvidError, X509Svid, validate_own};
use crate::task::until;
use crate::time;

#[cfg(test)]
mod tests;

/// The bundle of the SVID's own trust domain as SPIFFE bundle JSON: with its sequence number, which
/// must not go back, and the keys that are distrusted for ever.
const BUNDLE_FILE: &str = "bundle.json";

/// The revocation lists of the SVID's own trust domain; empty if there are none.
const CRL_FILE: &str = "crl.pem";

/// When the SVID was issued, in seconds since 1970.
const ISSUED_FILE: &str = "issued-at";

/// IDs whose leaves are revoked, and up to which moment, a line each; empty if there are none.
const REVOKED_IDS_FILE: &str = "revoked-ids";
/// Since when the SVID itself is revoked, in seconds since 1970; empty if it is not.
const REVOKED_FILE: &str = "revoked";

/// The key ids of roots that were ever distrusted, a line each. It stands beside the set, and counts
/// whatever becomes of the SVID.
const DISTRUSTED_FILE: &str = "distrusted-keys";

/// How long to wait after a failed write, unless something new comes first.
const RETRY: Duration = Duration::from_secs(30);

/// Keeps the SVID of one ID in a folder of its own.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::clock::{Clock, SystemClock};
/// use inmesh_pki::source::keep::Keep;
/// use inmesh_pki::{Crypto, SpiffeId};
///
/// let id: SpiffeId = "spiffe://prod.example/ns/shop/sa/cart".parse()?;
/// let keep = Keep::new(id, "/var/lib/cart/identity");
/// let state = keep.load(SystemClock.now(), &Crypto::aws_lc_rs())?;
/// # drop(state);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Keep {
    id: SpiffeId,
    dir: PathBuf,
    status: StatusWriter<KeepStatus>,
}

/// How keeping is doing; for metrics and for people.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct KeepStatus {
    /// How many times something was written.
    pub writes: u64,
    /// How many writes failed.
    pub failures: u64,
    /// Why the last write failed; gone with the next success.
    pub last_error: Option<Arc<KeepError>>,
}

/// Why nothing was kept, or nothing that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// The bundle beside the SVID cannot be used, or cannot be written as SPIFFE bundle JSON.
    #[error("the kept bundle in {} cannot be used", dir.display())]
    Bundle {
        /// Where it is kept.
        dir: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BundleJsonError,
    },
    /// The revocation lists beside the SVID cannot be used.
    #[error("the kept revocation lists in {} cannot be used", dir.display())]
    Crl {
        /// Where they are kept.
        dir: PathBuf,
        /// What is wrong with them.
        #[source]
        source: CrlError,
    },
    /// Nothing has been kept here.
    #[error("no SVID is kept in {}", dir.display())]
    Empty {
        /// Where it would be.
        dir: PathBuf,
    },
    /// A file or folder cannot be read or written, or other users may use it.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The list of distrusted roots cannot be used; without it a root could come back.
    #[error("{} is no list of distrusted keys", path.display())]
    Distrusted {
        /// Which file.
        path: PathBuf,
    },
    /// The moment of issuance is invalid, or not within the SVID's life.
    #[error("the kept moment of issuance in {} is not within the life of the SVID", dir.display())]
    Moment {
        /// Where it is kept.
        dir: PathBuf,
    },
    /// The store has no SVID of this ID, or no bundle for its trust domain.
    #[error("there is no SVID of {id} to keep, or no bundle for it")]
    NothingToKeep {
        /// The ID whose SVID is to be kept.
        id: SpiffeId,
    },
    /// What was kept is not valid now: expired, or not under the bundle beside it.
    #[error("the kept SVID is not valid")]
    NotValid(#[from] Rejected),
    /// The revoked IDs beside the SVID cannot be used.
    #[error("the kept revoked IDs in {} cannot be used", dir.display())]
    RevokedIds {
        /// Where they are kept.
        dir: PathBuf,
    },
    /// What was kept is no SVID.
    #[error("the kept certificate and key in {} are not an SVID", dir.display())]
    Svid {
        /// Where it is kept.
        dir: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<SvidError>,
    },
    /// What was kept has another ID.
    #[error("the kept SVID is of {got}, expected {expected}")]
    WrongId {
        /// The ID that was asked for.
        expected: SpiffeId,
        /// The ID of the kept SVID.
        got: SpiffeId,
    },
}

/// What is kept, shared with the store.
#[derive(Clone)]
struct KeptSvid {
    svid: Arc<X509Svid>,
    bundle: TrustBundle,
    crls: Vec<Crl>,
    revoked_ids: RevokedIds,
    /// Since when the SVID is revoked.
    revoked: Option<SystemTime>,
}

impl Keep {
    /// Keeps the SVID of `id` in `dir`, which is made with mode 0700 if it is missing.
    #[must_use]
    pub fn new(id: SpiffeId, dir: impl Into<PathBuf>) -> Self {
        Self {
            id,
            dir: dir.into(),
            status: status(KeepStatus::default()),
        }
    }

    /// Where to read how it is doing, before and while it runs.
    #[must_use]
    pub fn status(&self) -> StatusReader<KeepStatus> {
        self.status.reader()
    }

    /// What was kept, as a state to start from. It blocks.
    ///
    /// 1. The folder and its files are ours, or root's, alone to write, and the key ours alone to read.
    /// 2. Certificate and key are an SVID, of this ID, and the moment of issuance is in its life.
    /// 3. It is valid at `now`, in both roles, under the bundle that was kept with it.
    ///
    /// The revocation lists come back to judge peers; the SVID itself is not judged by them. That the CA
    /// has revoked it comes back with it ([`IdentityState::revoked_since`]).
    ///
    /// A set that another process replaces meanwhile is read again, so nothing comes of two of them.
    ///
    /// # Errors
    ///
    /// [`KeepError`] for the first of these that fails.
    pub fn load(&self, now: SystemTime, crypto: &Crypto) -> Result<IdentityState, KeepError> {
        match files::read_set(&self.dir, |folder| self.load_set(folder, now, crypto)) {
            Ok(loaded) => loaded,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(KeepError::Empty {
                dir: self.dir.clone(),
            }),
            Err(source) => Err(DiskError::io(&self.dir)(source).into()),
        }
    }

    /// What one set has, unless another one takes its place meanwhile.
    fn load_set(
        &self,
        folder: &Path,
        now: SystemTime,
        crypto: &Crypto,
    ) -> Result<IdentityState, KeepError> {
        let dir = &self.dir;
        disk::check(dir, Guard::FOLDER)?;
        disk::check(folder, Guard::FOLDER)?;
        let public = |name| disk::read_guarded(&folder.join(name), Guard::PUBLIC);

        let cert = public(CERT_FILE)?;
        let key = disk::read_guarded(&folder.join(KEY_FILE), Guard::SECRET)?;
        let issued_at = moment(&public(ISSUED_FILE)?);
        let issued_at = issued_at.ok_or_else(|| KeepError::Moment { dir: dir.clone() })?;
        let svid = svid(&cert, &key, issued_at, crypto).map_err(|source| KeepError::Svid {
            dir: dir.clone(),
            source: Box::new(source),
        })?;
        if *svid.id() != self.id {
            return Err(KeepError::WrongId {
                expected: self.id.clone(),
                got: svid.id().clone(),
            });
        }
        if issued_at < svid.not_before() || issued_at > svid.not_after() {
            return Err(KeepError::Moment { dir: dir.clone() });
        }

        let trust_domain = self.id.trust_domain();
        let bundle = TrustBundle::from_json(trust_domain.clone(), &public(BUNDLE_FILE)?);
        let bundle = bundle.map_err(|source| KeepError::Bundle {
            dir: dir.clone(),
            source,
        })?;
        let crls = public(CRL_FILE)?;
        let mut set = CrlSet::new();
        if !crls.is_empty() {
            Crl::from_pem(&crls)
                .and_then(|crls| set.replace(trust_domain.clone(), crls))
                .map_err(|source| KeepError::Crl {
                    dir: dir.clone(),
                    source,
                })?;
        }

        // A set of an earlier version has no such file.
        let revoked_ids = match public(REVOKED_IDS_FILE) {
            Err(error) if error.is_missing() => RevokedIds::default(),
            text => {
                let ids = revoked_ids(&text?, trust_domain);
                ids.ok_or_else(|| KeepError::RevokedIds { dir: dir.clone() })?
            }
        };
        let revoked = match public(REVOKED_FILE) {
            Err(error) if error.is_missing() => None,
            text => match text? {
                text if text.is_empty() => None,
                text => {
                    let since = moment(&text);
                    Some(since.ok_or_else(|| KeepError::Moment { dir: dir.clone() })?)
                }
            },
        };
        let mut state = IdentityState::new(svid, bundle.into());
        state.distrust(trust_domain, self.load_distrusted()?);
        let svid = state.default_svid().expect("a state is made with one");
        validate_own(svid, &state, now, crypto)?;
        if let Some(since) = revoked {
            let svid = Arc::clone(svid);
            state.revoke_svid(svid.id(), svid.serial(), since);
        }
        state.replace_crls(set);
        state.replace_revoked_ids(revoked_ids);
        Ok(state)
    }

    /// The key ids of the roots that were ever distrusted while this was kept, also where the SVID is
    /// of no use any more; none if nothing was kept. It blocks.
    ///
    /// # Errors
    ///
    /// [`KeepError`] if there is such a list that cannot be used: a start without it would trust
    /// again what it names.
    pub fn load_distrusted(&self) -> Result<BTreeSet<String>, KeepError> {
        read_distrusted(&self.dir)
    }

    /// Writes what `state` has of this ID, in one step for readers. It blocks.
    ///
    /// # Errors
    ///
    /// [`KeepError::NothingToKeep`], or the system's error; what was kept before stays whole.
    pub fn store(&self, state: &IdentityState) -> Result<(), KeepError> {
        write_distrusted(&self.dir, &self.distrusted(state))?;
        let kept = self.kept(state).ok_or_else(|| KeepError::NothingToKeep {
            id: self.id.clone(),
        })?;
        write(&self.dir, &kept)
    }

    /// Keeps what the store has now and after every change, until `shutdown` is ready or the store
    /// is gone; a change of other identities writes nothing, and a write that has begun ends.
    pub async fn run(self, reader: IdentityReader, shutdown: impl Future<Output = ()>) {
        until(shutdown, self.keep_forever(reader)).await;
    }

    async fn keep_forever(&self, mut reader: IdentityReader) {
        let mut last: Option<KeptSvid> = None;
        let mut distrusted = Vec::new();
        loop {
            let state = reader.load();
            let next = self.kept(&state);
            let mut failed = false;
            // First: what is distrusted stays so whatever becomes of the rest.
            let keys = self.distrusted(&state);
            drop(state);
            if keys != distrusted {
                let (dir, writing) = (self.dir.clone(), keys.clone());
                let wrote = tokio::task::spawn_blocking(move || write_distrusted(&dir, &writing));
                match wrote.await {
                    Ok(Ok(())) => distrusted = keys,
                    Ok(Err(error)) => {
                        failed = true;
                        self.report(error);
                    }
                    // Only a runtime that shuts down cancels it.
                    Err(_) => return,
                }
            }
            if let Some(next) = next.filter(|next| last.as_ref() != Some(next)) {
                let (dir, kept) = (self.dir.clone(), next.clone());
                let wrote = tokio::task::spawn_blocking(move || write(&dir, &kept));
                match wrote.await {
                    Ok(Ok(())) => {
                        last = Some(next);
                        self.status.update(|status| {
                            status.writes += 1;
                            status.last_error = None;
                        });
                    }
                    Ok(Err(error)) => {
                        failed = true;
                        self.report(error);
                    }
                    // Only a runtime that shuts down cancels it.
                    Err(_) => return,
                }
            }
            let changed = reader.changed();
            if failed {
                if let Ok(Err(_)) = tokio::time::timeout(RETRY, changed).await {
                    return;
                }
            } else if changed.await.is_err() {
                return;
            }
        }
    }

    fn report(&self, error: KeepError) {
        let reason: &dyn std::error::Error = &error;
        tracing::warn!(id = %self.id, error = reason, "SVID not kept on disk");
        self.status.update(|status| {
            status.failures += 1;
            status.last_error = Some(Arc::new(error));
        });
    }

    fn kept(&self, state: &IdentityState) -> Option<KeptSvid> {
        let trust_domain = self.id.trust_domain();
        let bundle = state.bundles().get(trust_domain)?;
        // A distrusted domain has no root that could vouch for it when it comes back.
        (!bundle.is_distrusted()).then_some(())?;
        let svid = state.svid(&self.id)?;
        Some(KeptSvid {
            svid: Arc::clone(svid),
            revoked: state.revoked_since(svid),
            bundle: bundle.clone(),
            crls: state.crls().get(trust_domain).to_vec(),
            revoked_ids: state.revoked_ids().clone(),
        })
    }

    fn distrusted(&self, state: &IdentityState) -> Vec<String> {
        let keys = state.distrusted_keys(self.id.trust_domain());
        keys.map(str::to_owned).collect()
    }
}

/// The same if the files would be.
impl PartialEq for KeptSvid {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.svid, &other.svid)
            && self.bundle == other.bundle
            && self.crls == other.crls
            && self.revoked_ids == other.revoked_ids
            && self.revoked == other.revoked
    }
}

fn write(dir: &Path, kept: &KeptSvid) -> Result<(), KeepError> {
    disk::make_dir(dir).map_err(DiskError::io(dir))?;
    disk::check(dir, Guard::FOLDER)?;
    let (cert, key) = (kept.svid.chain_pem(), kept.svid.key().to_secret_pem());
    let bundle = kept.bundle.to_json().map_err(|source| KeepError::Bundle {
        dir: dir.to_owned(),
        source,
    })?;
    let crls: String = kept.crls.iter().map(Crl::to_pem).collect();
    let revoked_ids: String = kept
        .revoked_ids
        .iter()
        .map(|(id, before)| format!("{id} {}\n", time::to_unix(before)))
        .collect();
    let issued_at = time::to_unix(kept.svid.issued_at()).to_string();
    let revoked = kept.revoked.map(|since| time::to_unix(since).to_string());
    let revoked = revoked.unwrap_or_default();
    let published = files::publish_set(
        dir,
        kept.svid.serial(),
        &[
            (CERT_FILE, cert.as_bytes(), Mode::Public),
            (KEY_FILE, key.as_bytes(), Mode::Secret),
            (BUNDLE_FILE, bundle.as_bytes(), Mode::Public),
            (CRL_FILE, crls.as_bytes(), Mode::Public),
            (REVOKED_IDS_FILE, revoked_ids.as_bytes(), Mode::Public),
            (REVOKED_FILE, revoked.as_bytes(), Mode::Public),
            (ISSUED_FILE, issued_at.as_bytes(), Mode::Public),
        ],
    );
    Ok(published.map_err(DiskError::io(dir))?)
}

fn read_distrusted(dir: &Path) -> Result<BTreeSet<String>, KeepError> {
    let path = dir.join(DISTRUSTED_FILE);
    let text = match disk::read_guarded(&path, Guard::PUBLIC) {
        Err(error) if error.is_missing() => return Ok(BTreeSet::new()),
        text => text?,
    };
    let malformed = || KeepError::Distrusted { path: path.clone() };
    let text = std::str::from_utf8(&text).map_err(|_| malformed())?;
    let key_ids: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    if !key_ids.iter().all(|key_id| is_key_id(key_id)) {
        return Err(malformed());
    }
    Ok(key_ids)
}

/// Whether this can stand in a line; what cannot is the key id of no root.
fn is_key_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Adds to the list of distrusted keys; it never gets shorter.
fn write_distrusted(dir: &Path, key_ids: &[String]) -> Result<(), KeepError> {
    let mut all = read_distrusted(dir)?;
    let before = all.len();
    all.extend(key_ids.iter().filter(|key_id| is_key_id(key_id)).cloned());
    if all.len() == before {
        return Ok(());
    }
    disk::make_dir(dir).map_err(DiskError::io(dir))?;
    disk::check(dir, Guard::FOLDER)?;
    let path = dir.join(DISTRUSTED_FILE);
    let text: String = all.iter().map(|key_id| format!("{key_id}\n")).collect();
    let replaced = SystemDisk.replace(&path, text.as_bytes(), Mode::Public);
    Ok(replaced.map_err(DiskError::io(&path))?)
}

/// Reads lines of an ID of `trust_domain` and a moment.
fn revoked_ids(text: &[u8], trust_domain: &TrustDomain) -> Option<RevokedIds> {
    let mut ids = RevokedIds::default();
    for line in std::str::from_utf8(text).ok()?.lines() {
        let (id, before) = line.split_once(' ')?;
        let id: SpiffeId = id.parse().ok()?;
        if id.trust_domain() != trust_domain || ids.len() >= MAX_REVOKED_IDS {
            return None;
        }
        ids.insert(id, time::from_unix(before.parse().ok()?));
    }
    Some(ids)
}

fn svid(
    cert: &[u8],
    key: &[u8],
    issued_at: SystemTime,
    crypto: &Crypto,
) -> Result<X509Svid, SvidError> {
    let chain = pem::certificates(cert)?;
    X509Svid::from_der(chain, PrivateKey::from_pem(key)?, Some(issued_at), crypto)
}

fn moment(text: &Zeroizing<Vec<u8>>) -> Option<SystemTime> {
    let text = std::str::from_utf8(text).ok()?;
    Some(time::from_unix(text.trim_end().parse().ok()?))
}
