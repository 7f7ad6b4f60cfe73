//! Bytes in, a file out that is either the whole old or the whole new one, also after a crash; and
//! back, if no other user could have touched it. Whatever this crate keeps on disk goes through here.
//!
//! - A file is written beside its place, synced, moved there, and its folder is synced.
//! - A key is never readable by other users, not even for a moment; what is read is wiped.
//! - What is read is bounded in size, and judged by the mode and owner of the opened file.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The largest file that is read as a certificate, key or bundle.
const MAX_FILE: u64 = 1024 * 1024;

/// Why a file or folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// It cannot be read or written.
    #[error("{} cannot be read or written", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Its mode lets other users write it, or read a secret.
    #[error("{} has mode {mode:o}, which lets other users use it: expected {expected}", path.display())]
    Loose {
        /// The file or folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The widest mode that it may have.
        expected: &'static str,
    },
    /// A link or something else that is no plain file stands where one is to be written.
    #[error("{} is {found}, and nothing is written through or over one: give the name of a file, or a free one", path.display())]
    NoFile {
        /// The path that was given.
        path: PathBuf,
        /// What stands there.
        found: &'static str,
    },
    /// It belongs to another user, and its owner may change its mode at any time.
    #[error("{} belongs to user {owner}, neither the one of this process nor root", path.display())]
    Owner {
        /// The file or folder.
        path: PathBuf,
        /// The id of that user.
        owner: u32,
    },
}

/// The widest mode of a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Every user reads it (0644).
    Public,
    /// Its owner reads it (0600).
    Secret,
}

/// The bits of a mode that a file or folder must not have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guard {
    forbidden: u32,
    expected: &'static str,
}

impl Guard {
    /// A folder that no other user writes.
    pub(crate) const FOLDER: Self = Self::of(0o022, "755");
    /// A file that no other user writes.
    pub(crate) const PUBLIC: Self = Self::of(0o022, "644");
    /// A file that no other user reads.
    pub(crate) const SECRET: Self = Self::of(0o077, "600");
    /// A folder that no other user enters.
    #[cfg(feature = "ca")]
    pub(crate) const PRIVATE: Self = Self::of(0o077, "700");

    const fn of(forbidden: u32, expected: &'static str) -> Self {
        Self {
            forbidden,
            expected,
        }
    }
}

impl DiskError {
    /// The error of the system at `path`.
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            path: path.clone(),
            source,
        }
    }

    /// Whether there is no such file or folder.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

// === reading ===

/// Reads a small file; its content is wiped when dropped, because it may hold a key.
pub(crate) fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    read_opened(File::open(path)?, MAX_FILE)
}

/// Reads a small file that is within `guard`. Judged is the file that is read, whatever stands in its
/// place meanwhile.
pub(crate) fn read_guarded(path: &Path, guard: Guard) -> Result<Zeroizing<Vec<u8>>, DiskError> {
    read_guarded_within(path, guard, MAX_FILE)
}

fn read_guarded_within(
    path: &Path,
    guard: Guard,
    max: u64,
) -> Result<Zeroizing<Vec<u8>>, DiskError> {
    let failed = DiskError::io(path);
    let file = File::open(path).map_err(&failed)?;
    judge(path, &file.metadata().map_err(&failed)?, guard)?;
    read_opened(file, max).map_err(failed)
}

/// Reads a small file that holds a key or a token, and is its owner's alone: this process's user's or
/// root's, and no other user reads it. It blocks.
///
/// ```
/// assert!(inmesh_pki::disk::read_secret("missing.key".as_ref()).is_err());
/// ```
///
/// # Errors
///
/// [`DiskError`]: the mode or owner that lets others use it, or the system's error.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, DiskError> {
    read_guarded(path, Guard::SECRET)
}

/// The same for what a program has kept for itself, of at most `max` bytes; `None` if there is no such
/// file. It blocks.
///
/// ```
/// assert!(inmesh_pki::disk::read_kept("missing.state".as_ref(), 4096)?.is_none());
/// # Ok::<(), inmesh_pki::disk::DiskError>(())
/// ```
///
/// # Errors
///
/// As [`read_secret`]; a larger file is one of the system's.
pub fn read_kept(path: &Path, max: u64) -> Result<Option<Zeroizing<Vec<u8>>>, DiskError> {
    match read_guarded_within(path, Guard::SECRET, max) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a secret in place of `path` in one step, for its owner alone (0600). It blocks.
///
/// # Errors
///
/// [`DiskError::NoFile`] where a link, a device or a folder stands there, for a rename would take its place;
/// [`DiskError::Io`]. What stood there stays whole.
pub fn write_secret(path: &Path, content: &[u8]) -> Result<(), DiskError> {
    write(path, content, Mode::Secret)
}

/// The same for what every user may read (0644).
///
/// # Errors
///
/// As [`write_secret`].
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), DiskError> {
    write(path, content, Mode::Public)
}

fn write(path: &Path, content: &[u8], mode: Mode) -> Result<(), DiskError> {
    if let Some(found) = path.symlink_metadata().ok().as_ref().and_then(no_file) {
        let path = path.to_owned();
        return Err(DiskError::NoFile { path, found });
    }
    let replaced = SystemDisk.replace(path, content, mode);
    replaced.map_err(DiskError::io(path))
}

/// What stands at a path, if it is no plain file; `found` is not that of what a link leads to.
#[must_use]
pub fn no_file(found: &Metadata) -> Option<&'static str> {
    let kind = found.file_type();
    if kind.is_file() {
        return None;
    }
    if kind.is_symlink() {
        return Some("a symbolic link");
    }
    if kind.is_dir() {
        return Some("a folder");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return Some("a FIFO");
        }
        if kind.is_socket() {
            return Some("a socket");
        }
    }
    Some("a device")
}

/// Why others may use the key or token at `path`, if they may. A link is judged by where it leads. It blocks.
///
/// ```
/// // A file that cannot be read is its reader's to report.
/// assert!(inmesh_pki::disk::loose_secret("missing.key".as_ref()).is_none());
/// ```
#[must_use]
pub fn loose_secret(path: &Path) -> Option<DiskError> {
    let found = path.metadata().ok()?;
    judge(path, &found, Guard::SECRET).err()
}

/// Says in the log if others may use the key or token at `path`, which another program wrote; `what` it
/// is. It is used all the same: files that are mounted often have such modes. It blocks.
pub(crate) fn warn_if_loose(path: &Path, what: &'static str) {
    if let Some(error) = loose_secret(path) {
        tracing::warn!(%error, what, "other users may use a secret of ours");
    }
}

fn read_opened(mut file: File, max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    // Room for everything at once: a buffer that grows leaves copies behind in the heap.
    let size = file.metadata()?.len();
    let too_large = || {
        let message = format!("the file is larger than {} KiB", max / 1024);
        io::Error::new(io::ErrorKind::InvalidData, message)
    };
    if size > max {
        return Err(too_large());
    }
    let room = usize::try_from(size).unwrap_or(0) + 1;
    let mut content = Zeroizing::new(Vec::with_capacity(room));
    (&mut file).take(max + 1).read_to_end(&mut content)?;
    if content.len() as u64 > max {
        return Err(too_large());
    }
    Ok(content)
}

/// Refuses a file or folder, or a link in its place, that is not within `guard`.
pub(crate) fn check(path: &Path, guard: Guard) -> Result<(), DiskError> {
    let found = std::fs::symlink_metadata(path).map_err(DiskError::io(path))?;
    judge(path, &found, guard)
}

/// Judges owner and mode: the user of this process and root may be the owner.
#[cfg(unix)]
fn judge(path: &Path, found: &Metadata, guard: Guard) -> Result<(), DiskError> {
    use std::os::unix::fs::MetadataExt;
    let process = nix::unistd::geteuid().as_raw();
    match looseness((found.uid(), found.mode()), process, guard.forbidden) {
        None => Ok(()),
        Some(Loose::Mode(_)) => Err(loose(path, found, guard)),
        Some(Loose::Owner(owner)) => Err(DiskError::Owner {
            path: path.to_owned(),
            owner,
        }),
    }
}

/// Nothing where files have neither mode nor owner.
#[cfg(not(unix))]
fn judge(_: &Path, _: &Metadata, _: Guard) -> Result<(), DiskError> {
    Ok(())
}

/// Judges owner and mode of what a link leads to; a file that only a test's disk has is not judged.
#[cfg(unix)]
pub(crate) fn check_target(path: &Path, guard: Guard) -> Result<(), DiskError> {
    match path.metadata() {
        Ok(found) => judge(path, &found, guard),
        Err(_) => Ok(()),
    }
}

/// Nothing where files have no mode.
#[cfg(not(unix))]
pub(crate) fn check_target(_: &Path, _: Guard) -> Result<(), DiskError> {
    Ok(())
}

#[cfg(unix)]
fn loose(path: &Path, found: &Metadata, guard: Guard) -> DiskError {
    use std::os::unix::fs::MetadataExt;
    DiskError::Loose {
        path: path.to_owned(),
        mode: found.mode() & 0o7777,
        expected: guard.expected,
    }
}

/// What lets others use a file or folder.
#[cfg(unix)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loose {
    /// Its mode has a bit that is forbidden.
    Mode(u32),
    /// It belongs to this user.
    Owner(u32),
}

#[cfg(unix)]
fn looseness((owner, mode): (u32, u32), process: u32, forbidden: u32) -> Option<Loose> {
    if owner != process && owner != 0 {
        return Some(Loose::Owner(owner));
    }
    (mode & forbidden != 0).then_some(Loose::Mode(mode & 0o7777))
}

// === writing ===

/// The few things that are done to a disk, one method each, so that a test can put a disk in its
/// place that fails or loses power between any two of them.
pub(crate) trait Disk: Send + Sync + 'static {
    /// Reads a file whole, up to `max` bytes.
    fn read(&self, path: &Path, max: u64) -> io::Result<Zeroizing<Vec<u8>>>;
    /// Writes a file that must not exist yet, and syncs its content.
    fn create(&self, path: &Path, content: &[u8], mode: Mode) -> io::Result<()>;
    /// Moves a file over another one, or to a free name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; one that is not there is removed already.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Syncs the names in a folder.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Puts a file into its place in one step, also where there is one already; one writer at a time.
    ///
    /// 1. What a crash left beside it is removed.
    /// 2. The content is written beside it, and synced.
    /// 3. It is moved to its place, and the folder is synced.
    fn replace(&self, path: &Path, content: &[u8], mode: Mode) -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = Path::new(&beside);
        self.remove(beside)?;
        let moved = self
            .create(beside, content, mode)
            .and_then(|()| self.rename(beside, path));
        if moved.is_err() {
            // The error says more than a file that could not be removed.
            let _ = self.remove(beside);
        }
        moved?;
        self.sync_dir(folder_of(path))
    }
}

/// The disk of the operating system.
#[derive(Debug)]
pub(crate) struct SystemDisk;

impl Disk for SystemDisk {
    fn read(&self, path: &Path, max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
        read_opened(File::open(path)?, max)
    }

    fn create(&self, path: &Path, content: &[u8], mode: Mode) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(match mode {
                Mode::Public => 0o644,
                Mode::Secret => 0o600,
            });
        }
        #[cfg(not(unix))]
        let _ = mode;
        let mut file = options.open(path)?;
        file.write_all(content)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        std::fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        #[cfg(unix)]
        return File::open(dir)?.sync_all();
        #[cfg(not(unix))]
        return std::fs::metadata(dir).map(drop);
    }
}

/// Puts a file into its place in one step, unless there is one already.
///
/// # Errors
///
/// `AlreadyExists` if there is one; it is left as it was.
pub(crate) fn publish_new(path: &Path, content: &[u8], mode: Mode) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = Path::new(&temporary);
    let _ = std::fs::remove_file(temporary);
    SystemDisk.create(temporary, content, mode)?;
    // A link, where a rename would replace what is there.
    let linked = std::fs::hard_link(temporary, path);
    let removed = std::fs::remove_file(temporary);
    linked.and(removed)?;
    SystemDisk.sync_dir(folder_of(path))
}

/// Makes a folder, and those above it, for its owner alone; one that is there stays as it is.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(dir)
}

/// The folder that `path` stands in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// Files of this process, of root and of a third user, with good modes and bad ones.
    #[test]
    fn what_belongs_to_others_is_loose_whatever_its_mode() {
        let (us, other) = (1000, 1001);
        for (process, owner, mode, expected) in [
            (us, us, 0o100_600, None),
            (us, us, 0o100_644, None),
            (us, us, 0o100_664, Some(Loose::Mode(0o664))),
            (us, us, 0o100_602, Some(Loose::Mode(0o602))),
            (us, us, 0o041_777, Some(Loose::Mode(0o1777))),
            (us, 0, 0o040_755, None),
            (us, 0, 0o040_775, Some(Loose::Mode(0o775))),
            (us, other, 0o100_600, Some(Loose::Owner(other))),
            (us, other, 0o100_666, Some(Loose::Owner(other))),
            (0, 0, 0o100_600, None),
            (0, us, 0o100_600, Some(Loose::Owner(us))),
        ] {
            let got = looseness((owner, mode), process, 0o022);
            assert_eq!(got, expected, "{process} {owner} {mode:o}");
        }
        let secret = looseness((us, 0o100_640), us, 0o077);
        assert_eq!(secret, Some(Loose::Mode(0o640)));
    }

    type Write = fn(&Path, &[u8]) -> Result<(), DiskError>;

    const WRITES: [(Write, u32); 2] = [(write_secret, 0o600), (write_public, 0o644)];

    #[test]
    fn what_is_written_is_its_owners() {
        use std::os::unix::fs::{MetadataExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("token"), dir.path().join("victim"));
        std::fs::write(&victim, "old").unwrap();
        for (write, mode) in WRITES {
            let _ = std::fs::remove_file(&path);
            symlink(&victim, dir.path().join("token.new")).unwrap();
            for content in [b"new", b"one"] {
                write(&path, content).unwrap();
                let found = path.symlink_metadata().unwrap();
                assert!(found.is_file());
                // The umask of a test may take more away.
                assert_eq!(found.mode() & 0o777 & !mode, 0);
                assert_eq!(std::fs::read(&path).unwrap(), content);
            }
            assert_eq!(std::fs::read(&victim).unwrap(), b"old");
        }
        let loose = read_secret(&path).unwrap_err();
        assert!(matches!(loose, DiskError::Loose { .. }), "{loose}");
        write_secret(&path, b"secret").unwrap();
        assert_eq!(**read_secret(&path).unwrap(), *b"secret");
    }

    /// Neither through a link, nor in place of one or of what is no file.
    #[test]
    fn only_plain_files_are_written() {
        use std::os::unix::fs::{FileTypeExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("victim"), "old").unwrap();
        symlink(at("victim"), at("link")).unwrap();
        symlink(at("none"), at("dangling")).unwrap();
        symlink("/dev/null", at("null")).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let all = ["link", "dangling", "null", "folder", "socket"];
        for (name, (write, _)) in all.iter().flat_map(|name| WRITES.map(|w| (*name, w))) {
            let before = at(name).symlink_metadata().unwrap().file_type();
            let refused = write(&at(name), b"new").unwrap_err();
            assert!(matches!(refused, DiskError::NoFile { .. }), "{refused}");
            assert!(refused.to_string().contains(name), "{refused}");
            let after = at(name).symlink_metadata().unwrap().file_type();
            assert_eq!(after, before, "{name}");
        }
        assert!(!at("none").exists());
        assert_eq!(std::fs::read(at("victim")).unwrap(), b"old");
        let device = std::fs::symlink_metadata("/dev/null").unwrap();
        assert!(device.file_type().is_char_device());
        assert_eq!(no_file(&device), Some("a device"));
    }

    /// What is judged is what is read: a link says nothing, where it leads does.
    #[test]
    fn the_file_that_is_read_is_the_one_that_is_judged() {
        use std::fs::{Permissions, set_permissions};
        use std::os::unix::fs::{PermissionsExt, symlink};

        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "text").unwrap();
        symlink(&file, &link).unwrap();
        for (mode, expected) in [(0o600, None), (0o606, Some(0o606))] {
            set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let read = read_guarded(&link, Guard::PUBLIC);
            let refused = read.as_ref().err().map(|error| match error {
                DiskError::Loose { mode, .. } => *mode,
                other => panic!("{other}"),
            });
            assert_eq!(refused, expected);
            assert!(read.is_err() || read.is_ok_and(|text| **text == *b"text"));
        }
    }
}
