//! Bytes in, a file out that is either the whole old or the whole new one, also after a crash:
//! written beside its place, synced, then moved there. Keys are never readable by others, not even
//! for a moment.

#[cfg(any(unix, feature = "federation"))]
use std::fs::Metadata;
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
    read_opened(File::open(path)?, max)
}

/// Reads a small file that nobody else could have written, or also read, by the `forbidden` bits.
/// What is judged is the file that is read, whatever stands in its place meanwhile.
#[cfg(any(unix, feature = "federation"))]
pub(crate) fn read_guarded(
    path: &Path,
    forbidden: u32,
) -> io::Result<Result<Zeroizing<Vec<u8>>, Loose>> {
    let file = File::open(path)?;
    match looseness(&file.metadata()?, forbidden) {
        Some(loose) => Ok(Err(loose)),
        None => read_opened(file, MAX_FILE).map(Ok),
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

/// What lets others use a file or folder.
#[cfg(any(unix, feature = "federation"))]
#[cfg_attr(not(unix), allow(dead_code))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loose {
    /// Its mode has a bit that is forbidden.
    Mode(u32),
    /// It belongs to this user, who may change its mode at any time.
    Owner(u32),
}

/// What lets others use a file or folder, by the `forbidden` bits of its mode and by its owner: the
/// user of this process and root may be that.
#[cfg(any(unix, feature = "federation"))]
pub(crate) fn loose(path: &Path, forbidden: u32) -> io::Result<Option<Loose>> {
    let of = std::fs::symlink_metadata(path)?;
    Ok(looseness(&of, forbidden))
}

#[cfg(unix)]
fn looseness(of: &Metadata, forbidden: u32) -> Option<Loose> {
    use std::os::unix::fs::MetadataExt;
    let process = nix::unistd::geteuid().as_raw();
    judge((of.uid(), of.mode()), process, forbidden)
}

/// Nothing where files have neither mode nor owner.
#[cfg(all(not(unix), feature = "federation"))]
fn looseness(_: &Metadata, _: u32) -> Option<Loose> {
    None
}

#[cfg(unix)]
fn judge((owner, mode): (u32, u32), process: u32, forbidden: u32) -> Option<Loose> {
    if owner != process && owner != 0 {
        return Some(Loose::Owner(owner));
    }
    (mode & forbidden != 0).then_some(Loose::Mode(mode & 0o7777))
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
            let got = judge((owner, mode), process, 0o022);
            assert_eq!(got, expected, "{process} {owner} {mode:o}");
        }
        let secret = judge((us, 0o100_640), us, 0o077);
        assert_eq!(secret, Some(Loose::Mode(0o640)));
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
        for (mode, expected) in [(0o600, None), (0o606, Some(Loose::Mode(0o606)))] {
            set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let read = read_guarded(&link, 0o022).unwrap();
            assert_eq!(read.as_ref().err().copied(), expected);
            assert!(read.is_err() || read.is_ok_and(|text| **text == *b"text"));
        }
    }
}
