//! The few things that a store does to a disk, one method each, so that a test can put a disk
//! under it that fails or loses power between any two of them.

use std::io;
use std::path::Path;

use zeroize::Zeroizing;

use super::MAX_STATE;
use crate::fs::{self, Mode};

/// The largest file that is read: a state and the line before it.
const MAX_FILE: u64 = MAX_STATE as u64 + 64;

/// A disk; every path stands in one folder or the one below it.
pub(crate) trait Disk: Send + Sync + 'static {
    /// Reads a file whole.
    fn read(&self, path: &Path) -> io::Result<Zeroizing<Vec<u8>>>;
    /// Writes a new file that its owner alone may read, and syncs its content.
    fn create(&self, path: &Path, content: &[u8]) -> io::Result<()>;
    /// Moves a file over another one, or to a free name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; one that is not there is removed already.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Syncs the names in a folder.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The disk of the operating system.
#[derive(Debug)]
pub(crate) struct SystemDisk;

impl Disk for SystemDisk {
    fn read(&self, path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
        fs::read_up_to(path, MAX_FILE)
    }

    fn create(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        fs::create(path, content, Mode::Secret)
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
        fs::sync_dir(dir)
    }
}
