//! A bundle that was taken and the moment of its fetching in, a file out; and back after a restart, so
//! that a sequence number never goes back (S19) and an endpoint that is away takes no trust with it.
//!
//! The file of each trust domain is SPIFFE bundle JSON with two members of our own, which other
//! readers pass over. What is read is judged anew: file and folder are ours or root's to write,
//! it is of the domain that it is read for, and its age counts from the moment of fetching, so that
//! a restart makes nothing younger. A file that cannot be used counts as missing: no peer of the
//! domain is trusted until a bundle is fetched, and any sequence number is taken then.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout, timeout_at};

use crate::bundle::TrustBundle;
use crate::bundle::jwks::{BundleJsonError, MAX_BUNDLE_LEN};
use crate::disk::{self, Disk, DiskError, Guard, Mode, SystemDisk};
use crate::id::TrustDomain;
use crate::time;

/// Our members: the bundle's trust domain, and when it was fetched, in seconds since 1970.
const TRUST_DOMAIN: &str = "inmesh_trust_domain";
const FETCHED_AT: &str = "inmesh_fetched_at";

/// How long a disk may take, before federation continues without it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How far in the future a moment of fetching may lie: as far as clocks are set back in passing.
const SKEW: Duration = Duration::from_secs(2 * 60);

/// What was fetched last, and when.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct KeptBundle {
    pub(super) bundle: TrustBundle,
    pub(super) fetched_at: SystemTime,
}

/// Keeps the bundle of one trust domain.
pub(super) struct BundleKeep {
    trust_domain: TrustDomain,
    dir: PathBuf,
    /// What the file holds.
    saved: Option<KeptBundle>,
    /// A write that took too long, and may still end.
    late: Option<JoinHandle<Result<(), BundleKeepError>>>,
}

/// Why a bundle was not kept, or nothing that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleKeepError {
    /// The file holds no bundle, or the bundle cannot be written as SPIFFE bundle JSON.
    #[error("{} is not a bundle that was kept", path.display())]
    Bundle {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BundleJsonError,
    },
    /// The file or its folder cannot be read or written, or other users may write it.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file does not say when its bundle was fetched, or of which trust domain.
    #[error("{} does not say when its bundle was fetched, and of which trust domain", path.display())]
    Unmarked {
        /// Which file.
        path: PathBuf,
    },
    /// The file is of another trust domain.
    #[error("{} is of {got}, expected {expected}", path.display())]
    WrongDomain {
        /// Which file.
        path: PathBuf,
        /// The trust domain that was expected.
        expected: TrustDomain,
        /// The trust domain in the file, cut off at the longest length of a name.
        got: String,
    },
}

/// Our members as they stand in the file.
#[derive(Deserialize)]
struct Marks {
    inmesh_trust_domain: String,
    #[serde(with = "crate::time::unix")]
    inmesh_fetched_at: SystemTime,
}

/// For how long a bundle that was fetched at `fetched_at` counts from `now` on; `None` if its age is
/// `max_age` already, or unknown since it lies in the future.
pub(super) fn left(now: SystemTime, fetched_at: SystemTime, max_age: Duration) -> Option<Duration> {
    let age = match now.duration_since(fetched_at) {
        Ok(age) => age,
        Err(ahead) if ahead.duration() <= SKEW => Duration::ZERO,
        Err(_) => return None,
    };
    max_age.checked_sub(age).filter(|left| !left.is_zero())
}

/// Whether what is `saved` has to be written again: another bundle, or one that was fetched so long
/// after it that a restart would cost a sixteenth of the maximum age.
pub(super) fn is_due(saved: Option<&KeptBundle>, next: &KeptBundle, max_age: Duration) -> bool {
    let Some(saved) = saved.filter(|saved| saved.bundle == next.bundle) else {
        return true;
    };
    let since = next.fetched_at.duration_since(saved.fetched_at);
    // A clock that was set back leaves a moment in the future behind.
    since.map_or(true, |since| since >= max_age / 16)
}

impl BundleKeep {
    pub(super) fn new(trust_domain: TrustDomain, dir: PathBuf) -> Self {
        Self {
            trust_domain,
            dir,
            saved: None,
            late: None,
        }
    }

    /// What was kept, if anything.
    pub(super) async fn load(&mut self) -> Result<Option<KeptBundle>, BundleKeepError> {
        let (trust_domain, dir) = (self.trust_domain.clone(), self.dir.clone());
        let reading = spawn_blocking(move || load(&trust_domain, &dir));
        let kept = match timeout(PATIENCE, reading).await {
            Ok(read) => read.unwrap_or_else(|ended| Err(self.ended(&ended)))?,
            Err(_) => return Err(self.too_slow()),
        };
        self.saved.clone_from(&kept);
        Ok(kept)
    }

    /// Keeps `next`, unless the file says the same; it is on the disk when this is done.
    pub(super) async fn save(
        &mut self,
        next: &KeptBundle,
        max_age: Duration,
    ) -> Result<(), BundleKeepError> {
        let late = self.late.take();
        if late.is_none() && !is_due(self.saved.as_ref(), next, max_age) {
            return Ok(());
        }
        self.saved = None;
        let end = Instant::now() + PATIENCE;
        if let Some(mut late) = late
            && timeout_at(end, &mut late).await.is_err()
        {
            // One at a time: a disk that hangs must not take a thread for each bundle.
            self.late = Some(late);
            return Err(self.too_slow());
        }
        let (dir, kept) = (self.dir.clone(), next.clone());
        let mut writing = spawn_blocking(move || write(&dir, &kept));
        match timeout_at(end, &mut writing).await {
            Ok(wrote) => wrote.unwrap_or_else(|ended| Err(self.ended(&ended)))?,
            Err(_) => {
                self.late = Some(writing);
                return Err(self.too_slow());
            }
        }
        self.saved = Some(next.clone());
        Ok(())
    }

    fn too_slow(&self) -> BundleKeepError {
        self.failed(io::ErrorKind::TimedOut.into())
    }

    fn ended(&self, ended: &JoinError) -> BundleKeepError {
        self.failed(io::Error::other(ended.to_string()))
    }

    fn failed(&self, source: io::Error) -> BundleKeepError {
        DiskError::io(&file(&self.dir, &self.trust_domain))(source).into()
    }
}

/// The file of a trust domain, whose name has no character that a path could not have.
fn file(dir: &Path, trust_domain: &TrustDomain) -> PathBuf {
    dir.join(format!("{trust_domain}.json"))
}

fn load(trust_domain: &TrustDomain, dir: &Path) -> Result<Option<KeptBundle>, BundleKeepError> {
    let path = file(dir, trust_domain);
    let guarded = disk::check(dir, Guard::FOLDER);
    let text = match guarded.and_then(|()| disk::read_guarded(&path, Guard::PUBLIC)) {
        Err(error) if error.is_missing() => return Ok(None),
        text => text?,
    };
    read(trust_domain, &path, &text).map(Some)
}

/// Reads what [`text`] has written.
fn read(
    trust_domain: &TrustDomain,
    path: &Path,
    text: &[u8],
) -> Result<KeptBundle, BundleKeepError> {
    let path = || path.to_owned();
    let bundle = TrustBundle::from_json(trust_domain.clone(), text).map_err(|source| {
        BundleKeepError::Bundle {
            path: path(),
            source,
        }
    })?;
    let marks: Marks =
        serde_json::from_slice(text).map_err(|_| BundleKeepError::Unmarked { path: path() })?;
    let got = marks.inmesh_trust_domain;
    if got != trust_domain.as_str() {
        return Err(BundleKeepError::WrongDomain {
            path: path(),
            expected: trust_domain.clone(),
            got: got.chars().take(255).collect(),
        });
    }
    Ok(KeptBundle {
        bundle,
        fetched_at: marks.inmesh_fetched_at,
    })
}

fn write(dir: &Path, kept: &KeptBundle) -> Result<(), BundleKeepError> {
    let path = file(dir, kept.bundle.trust_domain());
    let text = text(kept).map_err(|source| BundleKeepError::Bundle {
        path: path.clone(),
        source,
    })?;
    disk::make_dir(dir).map_err(DiskError::io(dir))?;
    disk::check(dir, Guard::FOLDER)?;
    let replaced = SystemDisk.replace(&path, text.as_bytes(), Mode::Secret);
    Ok(replaced.map_err(DiskError::io(&path))?)
}

fn text(kept: &KeptBundle) -> Result<String, BundleJsonError> {
    let bundle = kept.bundle.to_json()?;
    let not_json = |_| BundleJsonError::NotABundle {
        reason: "it cannot be read back".to_owned(),
    };
    let mut members: Map<String, Value> = serde_json::from_str(&bundle).map_err(not_json)?;
    let trust_domain = kept.bundle.trust_domain().as_str();
    members.insert(TRUST_DOMAIN.to_owned(), trust_domain.into());
    let fetched_at = time::to_unix(kept.fetched_at);
    members.insert(FETCHED_AT.to_owned(), fetched_at.into());
    let text = Value::Object(members).to_string();
    if text.len() > MAX_BUNDLE_LEN {
        let (got, max) = (text.len(), MAX_BUNDLE_LEN);
        return Err(BundleJsonError::TooLarge { got, max });
    }
    Ok(text)
}
