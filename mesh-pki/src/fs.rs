//! Bytes in, a file out that is either the whole old or the whole new one, also after a crash:
//! written beside its place, synced, then moved there. Keys are never readable by others, not even
//! for a moment.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use zeroize::Zeroizing;

/// The largest file that is read as a certificate, key or bundle.
const MAX_FILE: u64 = 1024 * 1024;

/// Who may read a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everybody (0644).
    Public,
    /// Its owner (0600).
    Secret,
}

/// Reads a small file; its content is wiped when dropped, because it may hold a key.
pub(crate) fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    read_up_to(path, MAX_FILE)
}

/// The same with another limit than 1 MiB.
pub(crate) fn read_up_to(path: &Path, max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut file = File::open(path)?;
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

/// Writes a file that must not exist yet, and syncs it.
pub(crate) fn create(path: &Path, content: &[u8], mode: Mode) -> io::Result<()> {
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

/// Puts a file into its place in one step, unless there is one already.
///
/// # Errors
///
/// `AlreadyExists` if there is one; it is left as it was.
#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
pub(crate) fn publish_new(path: &Path, content: &[u8], mode: Mode) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = Path::new(&temporary);
    let _ = std::fs::remove_file(temporary);
    create(temporary, content, mode)?;
    // A link, where a rename would replace what is there.
    let linked = std::fs::hard_link(temporary, path);
    let removed = std::fs::remove_file(temporary);
    linked.and(removed)?;
    sync_parent(path)
}

/// Puts a file into its place in one step, also where there is one already; nobody else may be
/// writing it.
#[cfg(feature = "federation")]
pub(crate) fn replace(path: &Path, content: &[u8], mode: Mode) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    // What a crash left there.
    match std::fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let moved = create(beside, content, mode).and_then(|()| std::fs::rename(beside, path));
    if moved.is_err() {
        // The error says more than a file that could not be removed.
        let _ = std::fs::remove_file(beside);
    }
    moved?;
    sync_parent(path)
}

/// Makes a folder, and those above it, for its owner alone; one that is there stays as it is.
#[cfg(any(unix, feature = "federation"))]
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

/// The mode of a file or folder, if it has one of the `forbidden` bits.
#[cfg(unix)]
pub(crate) fn loose(path: &Path, forbidden: u32) -> io::Result<Option<u32>> {
    use std::os::unix::fs::MetadataExt;
    let mode = std::fs::symlink_metadata(path)?.mode() & 0o7777;
    Ok((mode & forbidden != 0).then_some(mode))
}

/// The same where files have no mode.
#[cfg(all(not(unix), feature = "federation"))]
pub(crate) fn loose(path: &Path, _: u32) -> io::Result<Option<u32>> {
    std::fs::symlink_metadata(path).map(|_| None)
}

/// Syncs the folder that `path` stands in, so that its name survives a crash.
#[cfg(any(feature = "aws-lc-rs", feature = "federation", feature = "ring"))]
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync_dir(Path::new(".")),
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// Syncs a folder.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    #[cfg(unix)]
    return File::open(dir)?.sync_all();
    #[cfg(not(unix))]
    return std::fs::metadata(dir).map(drop);
}
