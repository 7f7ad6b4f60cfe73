//! PEM files in, writes to the identity store out, now and whenever the files change.
//!
//! The files are read once a second and compared by content: a few small reads cost less than a
//! watcher that misses renames, network mounts and Kubernetes' symlinks. A key that does not match
//! its certificate, as a reader sees it halfway through a change, is reported and never used: the
//! last good identity stays.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::bundle::{BundleError, BundleSet, TrustBundle};
use crate::clock::{Clock, SystemClock};
use crate::crl::{Crl, CrlError, CrlSet};
use crate::crypto::Crypto;
use crate::disk;
use crate::id::{SpiffeId, TrustDomain};
use crate::source::Identity;
use crate::status::{StatusReader, StatusWriter, status};
use crate::store::{IdentityState, IdentityWriter, identity};
use crate::svid::{Rejected, SvidError, X509Svid, validate_own};
use crate::task::until;

mod look;
mod publish;

#[cfg(test)]
mod tests;

pub(crate) use look::Contents;
pub use publish::{BUNDLE_FILE, CERT_FILE, KEY_FILE, publish};
#[cfg(unix)]
pub(super) use publish::{publish_set, read_set};

/// How often the files are looked at, unless [`FileSource::with_interval`] says otherwise.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// Identity from PEM files.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::Crypto;
/// use inmesh_pki::source::files::FileSource;
///
/// let source = FileSource::new("cert.pem", "key.pem", "bundle.pem", &Crypto::aws_lc_rs());
/// let identity = source.with_crls("crl.pem").start().await?;
/// tokio::spawn(identity.task);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FileSource {
    files: Arc<Files>,
    clock: Arc<dyn Clock>,
    interval: Duration,
    status: StatusWriter<FileStatus>,
}

/// How the files are doing; for metrics and for people.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct FileStatus {
    /// How many times an identity was written.
    pub loads: u64,
    /// How many different contents could not be used.
    pub failures: u64,
    /// Why the files as they are now cannot be used; gone with the next success.
    pub last_error: Option<Arc<FileError>>,
}

/// Why the files are no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// A bundle cannot be used.
    #[error("the bundle {} cannot be used", path.display())]
    Bundle {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BundleError,
    },
    /// The revocation lists cannot be used.
    #[error("the revocation lists {} cannot be used", path.display())]
    Crl {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: CrlError,
    },
    /// The SVID has another ID than this process is.
    #[error("{} is of {got}, this workload is {expected} of its trust domain", cert.display())]
    Id {
        /// The certificate's file.
        cert: PathBuf,
        /// The path that its ID must have.
        expected: String,
        /// The ID in it.
        got: SpiffeId,
    },
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No peer would accept the SVID now: it has ended, its time has not come, it is revoked, or no root of
    /// the bundle beside it vouches for it. The one before is still good, and stays.
    #[error("{} is not valid, the one before is", cert.display())]
    NotValid {
        /// The certificate's file.
        cert: PathBuf,
        /// Why a peer would refuse it.
        #[source]
        reason: Box<Rejected>,
    },
    /// Certificate and key are not an SVID; a pair that does not match ends here.
    #[error("{} and {} are not an SVID", cert.display(), key.display())]
    Svid {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong with them.
        #[source]
        source: Box<SvidError>,
    },
}

#[derive(Debug, Clone)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    bundle: PathBuf,
    /// Bundles of other trust domains.
    others: Vec<(TrustDomain, PathBuf)>,
    /// Revocation lists of issuers in our own trust domain.
    crls: Option<PathBuf>,
    /// The path of the ID that the SVID must have.
    path: Option<String>,
    crypto: Crypto,
}

/// What is taken of a set, and why a peer would refuse its SVID.
enum Verdict {
    /// All; no other SVID is better, though peers may refuse this one too.
    All(Option<Box<Rejected>>),
    /// Nothing: under its bundles no SVID is good, and one is under those in use.
    Nothing(Box<Rejected>),
    /// Bundles and lists, under which the SVID in the store is good.
    Trust(Box<Rejected>),
}

/// What the files say, all of it.
struct Set {
    svid: X509Svid,
    bundles: BundleSet,
    /// `None` if no file of them is configured.
    crls: Option<CrlSet>,
}

impl FileSource {
    /// A source of a chain (leaf first), its key and the bundle of its own trust domain.
    #[must_use]
    pub fn new(
        cert: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        bundle: impl Into<PathBuf>,
        crypto: &Crypto,
    ) -> Self {
        let files = Files {
            cert: cert.into(),
            key: key.into(),
            bundle: bundle.into(),
            others: Vec::new(),
            crls: None,
            path: None,
            crypto: crypto.clone(),
        };
        Self {
            files: Arc::new(files),
            clock: SystemClock::shared(),
            interval: DEFAULT_INTERVAL,
            status: status(FileStatus::default()),
        }
    }

    /// A source of a folder that [`publish`] writes.
    #[must_use]
    pub fn in_dir(dir: &Path, crypto: &Crypto) -> Self {
        Self::new(
            dir.join(CERT_FILE),
            dir.join(KEY_FILE),
            dir.join(BUNDLE_FILE),
            crypto,
        )
    }

    /// Adds the bundle of another trust domain.
    #[must_use]
    pub fn with_bundle(mut self, trust_domain: TrustDomain, path: impl Into<PathBuf>) -> Self {
        let files = Arc::make_mut(&mut self.files);
        files.others.push((trust_domain, path.into()));
        self
    }

    /// Adds a file of revocation lists (`X509 CRL` sections) of issuers in our own trust domain.
    ///
    /// It has at least one list, and is reloaded with the other files, in the same step: one that
    /// is missing or broken keeps everything as it was. Peers of an issuer with a list are refused
    /// when they are on it, or when it is stale.
    #[must_use]
    pub fn with_crls(mut self, path: impl Into<PathBuf>) -> Self {
        Arc::make_mut(&mut self.files).crls = Some(path.into());
        self
    }

    /// Takes only an SVID whose ID has this path, e.g. `/ns/shop/sa/cart`: that of the workload which
    /// this process is.
    #[must_use]
    pub fn with_id_path(mut self, path: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.files).path = Some(path.into());
        self
    }

    /// Uses `clock` instead of the system's.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Looks at the files every `interval`.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Where to read how it is doing, before and while it runs.
    #[must_use]
    pub fn status(&self) -> StatusReader<FileStatus> {
        self.status.reader()
    }

    /// Reads the files once, for a start that fails early and says why. It blocks.
    ///
    /// The first SVID is taken even if no peer would accept it, for the files that make it
    /// good may come later: [`validate_own`] says why, and so does a runtime that is not ready for it.
    ///
    /// # Errors
    ///
    /// [`FileError`] for the first file that cannot be used.
    pub fn load(&self) -> Result<IdentityState, FileError> {
        let contents = Contents::read(self.files.paths());
        let set = self.files.parse(&contents)?;
        let mut state = IdentityState::new(set.svid, set.bundles);
        state.replace_crls(set.crls.unwrap_or_default());
        Ok(state)
    }

    /// Reads the files once, and returns an identity whose task loads them after every change.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub async fn start(self) -> Result<Identity, FileError> {
        // Files may be on a network; the runtime must not wait for them.
        let loading = tokio::task::spawn_blocking(move || {
            let loaded = self.load();
            loaded.map(|state| (self, state))
        });
        let ended = |error| FileError::Io {
            path: PathBuf::new(),
            source: io::Error::other(error),
        };
        let (source, state) = loading.await.map_err(ended)??;
        let (writer, reader) = identity(state);
        let writer = Arc::new(writer);
        let task = source.run(Arc::clone(&writer), std::future::pending());
        Ok(Identity::new((writer, reader), None, task))
    }

    /// Loads now and after every change, until `shutdown` is ready.
    ///
    /// 1. Read all files; if nothing differs from the last look, sleep for the interval.
    /// 2. If something does, read again until two reads agree, so that a change is not seen halfway.
    /// 3. Write SVID, bundles and revocation lists in one step, or report why not and keep what is there,
    ///    where the files cannot be used. Where they hold an SVID that no peer would accept now and the one
    ///    before is good under the bundles and lists beside it, that one stays and those are written; where
    ///    it is good under the bundles before alone, all of that stays.
    /// 4. What was not valid is judged again at each look, so it serves once it is the better one.
    pub async fn run(self, writer: Arc<IdentityWriter>, shutdown: impl Future<Output = ()>) {
        until(shutdown, self.reload_forever(&writer)).await;
    }

    async fn reload_forever(&self, writer: &IdentityWriter) {
        let (mut seen, mut last) = (None, None);
        let mut waiting: Option<Set> = None;
        loop {
            let files = Arc::clone(&self.files);
            // Files may be on a network; the runtime must not wait for them.
            let look = tokio::task::spawn_blocking(move || files.look(seen.as_ref()));
            let Ok((contents, loaded)) = look.await else {
                // Only a runtime that shuts down cancels it.
                return;
            };
            seen = Some(contents);
            let (new, set) = match loaded {
                Some(Ok(set)) => (true, Some(set)),
                Some(Err(error)) => {
                    self.report(error, writer);
                    (false, None)
                }
                None => (false, waiting.take()),
            };
            waiting = None;
            if let Some(set) = set {
                match self.weigh(&set, &writer.load()) {
                    Verdict::All(unfit) => {
                        let id = set.svid.id().clone();
                        self.write(set, last.replace(id), unfit, writer);
                    }
                    Verdict::Trust(reason) => {
                        if new {
                            writer.update(|state| {
                                set.trust(state);
                                set.warn_if_older(state);
                            });
                            self.not_valid(reason, writer);
                        }
                        waiting = Some(set);
                    }
                    Verdict::Nothing(reason) => {
                        if new {
                            self.not_valid(reason, writer);
                        }
                        waiting = Some(set);
                    }
                }
            }
            tokio::time::sleep(self.interval).await;
        }
    }

    /// Which SVID peers accept under what, that of `set` or the one in the store, and what is taken then.
    fn weigh(&self, set: &Set, state: &IdentityState) -> Verdict {
        let now = self.clock.now();
        let judge = |svid: &X509Svid, state: &IdentityState| {
            validate_own(svid, state, now, &self.files.crypto).map_err(Box::new)
        };
        let mut after = state.clone();
        set.trust(&mut after);
        let Err(reason) = judge(&set.svid, &after) else {
            return Verdict::All(None);
        };
        let Some(had) = state.default_svid() else {
            return Verdict::All(Some(reason));
        };
        if judge(had, &after).is_ok() {
            return Verdict::Trust(reason);
        }
        // Neither is good under the new bundles. Where the lists alone leave the old one good, those
        // bundles are the fault; where it has ended anyway, the one that ends later is the better one.
        let mut listed = state.clone();
        set.lists(&mut listed);
        let ended_later = had.not_after() > set.svid.not_after() && judge(had, state).is_err();
        if judge(had, &listed).is_ok() || ended_later {
            return Verdict::Nothing(reason);
        }
        Verdict::All(Some(reason))
    }

    /// `last` is the ID that the files had before: if it is another now, the old SVID goes. `unfit` says why
    /// no peer accepts the new one.
    fn write(
        &self,
        set: Set,
        last: Option<SpiffeId>,
        unfit: Option<Box<Rejected>>,
        writer: &IdentityWriter,
    ) {
        let id = set.svid.id().clone();
        tracing::info!(%id, serial = set.svid.serial(), "identity loaded from files");
        if let Some(reason) = unfit {
            tracing::warn!(%id, %reason, "no peer accepts the identity in the files, and no better one is there");
        }
        writer.update(|state| {
            if let Some(last) = last.filter(|last| *last != id) {
                state.remove_svid(&last);
            }
            set.trust(state);
            set.warn_if_older(state);
            state.insert_svid(set.svid);
        });
        writer.renewed();
        self.status.update(|status| {
            status.loads += 1;
            status.last_error = None;
        });
    }

    fn not_valid(&self, reason: Box<Rejected>, writer: &IdentityWriter) {
        let cert = self.files.cert.clone();
        self.report(FileError::NotValid { cert, reason }, writer);
    }

    fn report(&self, error: FileError, writer: &IdentityWriter) {
        let reason: &dyn std::error::Error = &error;
        tracing::warn!(
            error = reason,
            "identity files cannot be used, the last good one is kept"
        );
        writer.renewal_failed(&error);
        self.status.update(|status| {
            status.failures += 1;
            status.last_error = Some(Arc::new(error));
        });
    }
}

type LoadedSet = Result<Set, FileError>;

impl Set {
    /// Puts its bundles and lists in.
    fn trust(&self, state: &mut IdentityState) {
        state.replace_bundles(self.bundles.clone());
        self.lists(state);
    }

    fn lists(&self, state: &mut IdentityState) {
        if let Some(crls) = &self.crls {
            state.replace_crls(crls.clone());
        }
    }

    fn warn_if_older(&self, state: &IdentityState) {
        if self.crls.as_ref().is_some_and(|crls| crls != state.crls()) {
            tracing::warn!("a revocation list is older than the one in use, which stays");
        }
    }
}

impl Files {
    fn paths(&self) -> impl Iterator<Item = &PathBuf> + Clone {
        [&self.cert, &self.key, &self.bundle]
            .into_iter()
            .chain(self.others.iter().map(|(_, path)| path))
            .chain(&self.crls)
    }

    /// What stands in the files, parsed if it differs from what was `seen`.
    fn look(&self, seen: Option<&Contents>) -> (Contents, Option<LoadedSet>) {
        let (contents, differs) = Contents::look(self.paths(), seen);
        if differs {
            disk::warn_if_loose(&self.key, "key");
        }
        let loaded = differs.then(|| self.parse(&contents));
        (contents, loaded)
    }

    fn parse(&self, contents: &Contents) -> LoadedSet {
        let texts = contents
            .texts(self.paths())
            .map_err(|(path, source)| FileError::Io { path, source })?;
        let svid = X509Svid::from_pem(texts[0], texts[1], &self.crypto).map_err(|source| {
            FileError::Svid {
                cert: self.cert.clone(),
                key: self.key.clone(),
                source: Box::new(source),
            }
        })?;
        if let Some(expected) = self.path.as_ref().filter(|path| svid.id().path() != **path) {
            return Err(FileError::Id {
                cert: self.cert.clone(),
                expected: expected.clone(),
                got: svid.id().clone(),
            });
        }
        let own = svid.id().trust_domain();
        let mut bundles = BundleSet::from(bundle(own.clone(), &self.bundle, texts[2])?);
        for ((trust_domain, path), text) in self.others.iter().zip(&texts[3..]) {
            bundles.insert(bundle(trust_domain.clone(), path, text)?);
        }
        let crls = match (&self.crls, texts.get(3 + self.others.len())) {
            (Some(path), Some(text)) => Some(crls(own.clone(), path, text)?),
            _ => None,
        };
        Ok(Set {
            svid,
            bundles,
            crls,
        })
    }
}

fn bundle(trust_domain: TrustDomain, path: &Path, text: &[u8]) -> Result<TrustBundle, FileError> {
    TrustBundle::from_pem(trust_domain, text).map_err(|source| FileError::Bundle {
        path: path.to_owned(),
        source,
    })
}

fn crls(trust_domain: TrustDomain, path: &Path, text: &[u8]) -> Result<CrlSet, FileError> {
    let mut set = CrlSet::new();
    Crl::from_pem(text)
        .and_then(|lists| set.replace(trust_domain, lists))
        .map_err(|source| FileError::Crl {
            path: path.to_owned(),
            source,
        })?;
    Ok(set)
}
