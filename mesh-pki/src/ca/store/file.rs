//! A folder in, a [`Store`] out.
//!
//! ```text
//! DIR/            0700
//!   lock          held while a process uses the folder; the kernel lets go of it with the process
//!   state.json    0600, the first line is the version
//!   creating      0600, the ids of the first keys, until the first state is there
//!   keys/         0700
//!     ID.pem      0600, named by the key id
//! ```
//!
//! A file is written beside its place, synced, renamed over it, and the folder is synced. A load
//! syncs first: after a write whose last sync failed, what is read is made durable before it
//! has an effect. Where others could use folder or keys, it is refused.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{MAX_STATE, Store, StoreError, Version};
use crate::disk::{self, Disk, DiskError, Guard, Mode, SystemDisk};
use crate::svid::PrivateKey;

/// The largest file that is read: a state and the line before it.
const MAX_FILE: u64 = MAX_STATE as u64 + 64;

const LOCK: &str = "lock";
const STATE: &str = "state.json";
const KEYS: &str = "keys";
const CREATING: &str = "creating";
const MAGIC: &str = "inmesh-ca-state ";

/// A [`Store`] in a folder, which it has for itself.
pub struct FileStore(Arc<FolderInner>);

struct FolderInner {
    dir: PathBuf,
    disk: Box<dyn Disk>,
    /// Writes take turns.
    turn: Mutex<()>,
    /// Dropping it lets the folder go.
    _lock: Option<File>,
    /// Whether others use it too, which only a model of a shared store in tests allows.
    shared: bool,
}

impl FileStore {
    /// Opens the folder `dir`, or makes it, and holds it until dropped.
    ///
    /// # Errors
    ///
    /// [`StoreError::InUse`] while another process has it, [`StoreError::Disk`] if other users may
    /// use it, or it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let keys = dir.join(KEYS);
        for folder in [dir, &keys] {
            disk::make_dir(folder).map_err(DiskError::io(folder))?;
            disk::check_target(folder, Guard::PRIVATE)?;
        }
        let path = dir.join(LOCK);
        let lock = lock_file(&path).map_err(DiskError::io(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse {
                    dir: dir.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => {
                return Err(DiskError::io(&path)(source).into());
            }
        }
        for folder in [dir, disk::folder_of(dir)] {
            SystemDisk.sync_dir(folder).map_err(DiskError::io(folder))?;
        }
        Ok(Self::on(dir, Box::new(SystemDisk), Some(lock)))
    }

    pub(super) fn on(dir: &Path, disk: Box<dyn Disk>, lock: Option<File>) -> Self {
        Self(Arc::new(FolderInner {
            dir: dir.to_owned(),
            disk,
            turn: Mutex::new(()),
            _lock: lock,
            shared: false,
        }))
    }

    /// The same where several processes use the folder.
    #[cfg(test)]
    pub(super) fn shared_on(dir: &Path, disk: Box<dyn Disk>) -> Self {
        Self(Arc::new(FolderInner {
            dir: dir.to_owned(),
            disk,
            turn: Mutex::new(()),
            _lock: None,
            shared: true,
        }))
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&FolderInner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.0);
        let path = self.0.dir.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _turn = inner.turn.lock().unwrap_or_else(PoisonError::into_inner);
            work(&inner)
        });
        done.await
            .unwrap_or_else(|error| Err(DiskError::io(&path)(io::Error::other(error)).into()))
    }
}

impl Store for FileStore {
    fn shared(&self) -> bool {
        self.0.shared
    }

    async fn load(&self) -> Result<Option<(Vec<u8>, Version)>, StoreError> {
        self.blocking(FolderInner::load).await
    }

    async fn swap(&self, expected: Option<Version>, state: Vec<u8>) -> Result<Version, StoreError> {
        self.blocking(move |inner| inner.swap(expected, &state))
            .await
    }

    async fn begin(&self, key_ids: Vec<String>) -> Result<(), StoreError> {
        self.blocking(move |inner| {
            let path = inner.dir.join(CREATING);
            inner.replace(&path, key_ids.join("\n").as_bytes())
        })
        .await
    }

    async fn begun(&self) -> Result<Vec<String>, StoreError> {
        self.blocking(|inner| {
            let path = inner.dir.join(CREATING);
            let text = match inner.disk.read(&path, MAX_FILE) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                read => read.map_err(DiskError::io(&path))?,
            };
            let malformed = || StoreError::Malformed { path: path.clone() };
            let text = std::str::from_utf8(&text).map_err(|_| malformed())?;
            Ok(text.lines().map(str::to_owned).collect())
        })
        .await
    }

    async fn finish(&self) -> Result<(), StoreError> {
        self.blocking(|inner| {
            let path = inner.dir.join(CREATING);
            match inner.disk.read(&path, MAX_FILE) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                read => drop(read.map_err(DiskError::io(&path))?),
            }
            inner.disk.remove(&path).map_err(DiskError::io(&path))?;
            let failed = DiskError::io(&inner.dir);
            Ok(inner.disk.sync_dir(&inner.dir).map_err(failed)?)
        })
        .await
    }

    async fn keep_key(&self, key_id: &str, key: &PrivateKey) -> Result<(), StoreError> {
        let (key_id, key) = (key_id.to_owned(), key.clone());
        self.blocking(move |inner| {
            let path = inner.key_path(&key_id)?;
            inner.replace(&path, key.to_secret_pem().as_bytes())
        })
        .await
    }

    async fn key(&self, key_id: &str) -> Result<PrivateKey, StoreError> {
        let key_id = key_id.to_owned();
        self.blocking(move |inner| {
            let path = inner.key_path(&key_id)?;
            let text = match inner.disk.read(&path, MAX_FILE) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(StoreError::UnknownKey { key_id });
                }
                read => read.map_err(DiskError::io(&path))?,
            };
            disk::check_target(&path, Guard::SECRET)?;
            PrivateKey::from_pem(&text).map_err(|source| StoreError::Pem { path, source })
        })
        .await
    }

    async fn key_ids(&self) -> Result<Vec<String>, StoreError> {
        self.blocking(move |inner| {
            let dir = inner.dir.join(KEYS);
            let names = inner.disk.list(&dir).map_err(DiskError::io(&dir))?;
            let id = |name: &String| name.strip_suffix(".pem").map(str::to_owned);
            Ok(names.iter().filter_map(id).collect())
        })
        .await
    }

    async fn forget_keys(&self, key_ids: Vec<String>) -> Result<(), StoreError> {
        self.blocking(move |inner| {
            let dir = inner.dir.join(KEYS);
            let failed = DiskError::io(&dir);
            for key_id in key_ids {
                let path = inner.key_path(&key_id)?;
                inner.disk.remove(&path).map_err(&failed)?;
            }
            Ok(inner.disk.sync_dir(&dir).map_err(failed)?)
        })
        .await
    }
}

impl FolderInner {
    fn load(&self) -> Result<Option<(Vec<u8>, Version)>, StoreError> {
        let path = self.dir.join(STATE);
        let failed = DiskError::io(&path);
        self.disk.sync_dir(&self.dir).map_err(&failed)?;
        let content = match self.disk.read(&path, MAX_FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(failed)?,
        };
        let malformed = || StoreError::Malformed { path: path.clone() };
        let end = content
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or_else(malformed)?;
        let version = std::str::from_utf8(&content[..end])
            .ok()
            .and_then(|line| line.strip_prefix(MAGIC)?.parse().ok())
            .ok_or_else(malformed)?;
        Ok(Some((content[end + 1..].to_vec(), Version(version))))
    }

    fn swap(&self, expected: Option<Version>, state: &[u8]) -> Result<Version, StoreError> {
        let (got, max) = (state.len(), MAX_STATE);
        if got > max {
            return Err(StoreError::TooLarge { got, max });
        }
        let current = self.load()?.map(|(_, version)| version);
        if current != expected {
            return Err(StoreError::Conflict);
        }
        let next = Version(current.map_or(0, |version| version.0) + 1);
        let mut content = format!("{MAGIC}{}\n", next.0).into_bytes();
        content.extend_from_slice(state);
        self.replace(&self.dir.join(STATE), &content)?;
        Ok(next)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        let replaced = self.disk.replace(path, content, Mode::Secret);
        Ok(replaced.map_err(DiskError::io(path))?)
    }

    /// Key ids are hexadecimal; nothing else becomes a path.
    fn key_path(&self, key_id: &str) -> Result<PathBuf, StoreError> {
        let plain = key_id.bytes().all(|b| b.is_ascii_hexdigit());
        if !plain || key_id.is_empty() || key_id.len() > 128 {
            return Err(StoreError::UnknownKey {
                key_id: key_id.to_owned(),
            });
        }
        Ok(self.dir.join(KEYS).join(format!("{key_id}.pem")))
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileStore({})", self.0.dir.display())
    }
}

/// Opens the lock file, for its owner alone, and through no link.
fn lock_file(path: &Path) -> io::Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let no_link = nix::fcntl::OFlag::O_NOFOLLOW.bits();
        options.mode(0o600).custom_flags(no_link);
    }
    options.open(path)
}
