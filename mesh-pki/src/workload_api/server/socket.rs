//! A path in, a listening Unix socket out, which is removed at the end.
//!
//! The socket appears at its path in one step, with its mode: it is bound beside it and moved there.
//! A file that a crashed server left is replaced; one that a living server answers on is not, and
//! neither is anything that is no socket. A process that may connect to it is let in, because callers are
//! attested and not authenticated by the file's mode; the folder is the operator's.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use crate::serve::accept::Listen;

/// A listening socket of a Workload API; dropping it removes its file.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our file, so that a successor's is not removed.
    file: (u64, u64),
}

impl Socket {
    /// Listens at `path`, whose folder must exist; `mode` are the permissions of the file, of which
    /// 0o777 lets every process of the machine ask. A tokio runtime must be there.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if another server answers at `path`, `AlreadyExists` if something else than a
    /// socket stands there, else what the system says.
    pub fn bind(path: impl Into<PathBuf>, mode: u32) -> io::Result<Self> {
        let path = path.into();
        make_room(&path)?;
        let beside = Self::beside(&path)?;
        remove(&beside)?;
        let listener = UnixListener::bind(&beside)?;
        let placed = place(&beside, &path, mode);
        if placed.is_err() {
            // The error says more than a file that could not be removed.
            let _ = remove(&beside);
        }
        Ok(Self {
            listener,
            file: placed?,
            path,
        })
    }

    /// Where it is made before it is put at `path`: a name in the same folder that only this process
    /// uses. It must fit the address of a socket too.
    ///
    /// # Errors
    ///
    /// If `path` has no file name.
    pub fn beside(path: &Path) -> io::Result<PathBuf> {
        let name = path.file_name().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "a socket has a file name")
        })?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        Ok(path.with_file_name(hidden))
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Listen for Socket {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Listen::accept(&self.listener).await
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if ours && let Err(error) = remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a socket's file stays");
        }
    }
}

/// Sees that nothing stands at `path` that must stay.
fn make_room(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    let refuse = |kind, what| Err(io::Error::new(kind, format!("{}: {what}", path.display())));
    if !found.file_type().is_socket() {
        return refuse(
            io::ErrorKind::AlreadyExists,
            "stands there and is no socket",
        );
    }
    match StdStream::connect(path) {
        Ok(_) => refuse(io::ErrorKind::AddrInUse, "another server answers there"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
    }
}

fn place(beside: &Path, path: &Path, mode: u32) -> io::Result<(u64, u64)> {
    fs::set_permissions(beside, fs::Permissions::from_mode(mode))?;
    let file = fs::symlink_metadata(beside)?;
    fs::rename(beside, path)?;
    Ok((file.dev(), file.ino()))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_appears_with_its_mode_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let socket = Socket::bind(&path, 0o750).unwrap();
        assert_eq!(mode(socket.path()), 0o750);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        drop(socket);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_a_crash_left_is_replaced_and_what_lives_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        // std's listener leaves its file behind, as a process that is killed does.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path, 0o777).unwrap();
        let error = Socket::bind(&path, 0o777).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(socket);

        fs::write(&path, "a file").unwrap();
        let error = Socket::bind(&path, 0o777).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"a file");
    }

    #[tokio::test]
    async fn a_successors_file_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let first = Socket::bind(&path, 0o777).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Socket::bind(&path, 0o777).unwrap();
        drop(first);
        assert!(StdStream::connect(second.path()).is_ok());
    }
}
