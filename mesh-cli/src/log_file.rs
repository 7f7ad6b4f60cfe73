//! A file that lines are appended to, and that can be opened anew by its name while it is written:
//! logrotate renames it, then asks for that.
//!
//! Lines go to the file that is named, and through no link to another: in a folder that other users write, a
//! link would lead them to any file of ours.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use inmesh_pki::disk;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWrite;

/// The owner writes a log, its group reads it.
const MODE: u32 = 0o640;

/// The writer of such a file. It changes files only after a flush, so no line is torn.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: File,
    /// Nothing was written since the last flush.
    flushed: bool,
    next: Next,
}

/// Opens a [`LogFile`] anew.
#[derive(Debug, Clone)]
pub(crate) struct Reopen {
    path: Arc<Path>,
    next: Next,
}

/// The file that is to be written to from the next line on.
type Next = Arc<Mutex<Option<File>>>;

/// Opens the file at `path`, or makes one that its owner may write and its group may read.
///
/// # Errors
///
/// The system's, or [`unfit`]'s.
pub(crate) async fn open(path: &Path) -> io::Result<(LogFile, Reopen)> {
    let next = Next::default();
    let log = LogFile {
        file: append_to(path).await?,
        flushed: true,
        next: Arc::clone(&next),
    };
    let path = PathBuf::from(path).into();
    Ok((log, Reopen { path, next }))
}

/// Why no line is written to what stands at `path`; `None` where a file can be made, too.
pub(crate) fn unfit(path: &Path) -> Option<io::Error> {
    refusal(&path.symlink_metadata().ok()?)
}

async fn append_to(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(MODE);
    // A FIFO would be waited for until it is read.
    options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    let file = match options.open(path).await {
        Ok(file) => file,
        Err(error) => return Err(unfit(path).unwrap_or(error)),
    };
    // Judged is what was opened, whatever stands in its place meanwhile.
    if let Some(refused) = refusal(&file.metadata().await?) {
        return Err(refused);
    }
    // A terminal that is slow is waited for.
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    Ok(file)
}

fn refusal(found: &Metadata) -> Option<io::Error> {
    let what = match disk::no_file(found) {
        Some(_) if found.file_type().is_char_device() => None,
        None if found.nlink() > 1 => Some("a file with further names (hard links)"),
        other => other,
    }?;
    let message = format!(
        "it is {what}, to which no line is written: the access log is a file with one name, or `-`, \
         /dev/stdout or /dev/stderr"
    );
    Some(io::Error::new(io::ErrorKind::InvalidInput, message))
}

// === impl Reopen ===

impl Reopen {
    /// Opens the file by its name; where that fails, lines go where they went.
    pub(crate) async fn reopen(&self) {
        match append_to(&self.path).await {
            Ok(file) => {
                *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
                tracing::info!(path = %self.path.display(), "the access log is opened anew");
            }
            Err(error) => tracing::warn!(
                path = %self.path.display(),
                %error,
                "the access log cannot be opened anew; lines go to the file that was open"
            ),
        }
    }
}

// === impl LogFile ===

impl AsyncWrite for LogFile {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.flushed {
            let next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let next = { next }.take();
            if let Some(file) = next {
                self.file = file;
            }
        }
        self.flushed = false;
        Pin::new(&mut self.file).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.file).poll_flush(cx));
        // A failed write has dropped its bytes: what comes next begins a line too.
        self.flushed = true;
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn lines_go_to_the_new_file_after_a_rotation_and_none_is_torn() -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;

        let dir = TempDir::new()?;
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let (mut log, reopen) = open(&path).await?;
        log.write_all(b"one\n").await?;
        log.flush().await?;
        std::fs::rename(&path, &old)?;
        log.write_all(b"still ").await?;
        reopen.reopen().await;
        assert_eq!(std::fs::read(&path)?, b"", "the new file is there at once");
        log.write_all(b"the old one\n").await?;
        log.flush().await?;
        log.write_all(b"new\n").await?;
        log.flush().await?;
        assert_eq!(std::fs::read(&old)?, b"one\nstill the old one\n");
        assert_eq!(std::fs::read(&path)?, b"new\n");
        let mode = std::fs::metadata(&path)?.permissions().mode();
        assert_eq!(mode & 0o777 & !MODE, 0, "{mode:o}");

        // Where the folder is gone, lines go on where they went.
        std::fs::rename(dir.path().join("log"), dir.path().join("kept"))?;
        std::fs::create_dir(&path)?;
        reopen.reopen().await;
        log.write_all(b"more\n").await?;
        log.flush().await?;
        assert_eq!(std::fs::read(dir.path().join("kept"))?, b"new\nmore\n");
        Ok(())
    }

    /// Neither when it is opened nor when it is opened anew, and a FIFO without a reader holds nothing up.
    #[tokio::test]
    async fn lines_go_to_the_file_that_is_named() -> io::Result<()> {
        use std::os::unix::fs::symlink;

        use nix::sys::stat::Mode;

        let dir = TempDir::new()?;
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("victim"), "old")?;
        symlink(at("victim"), at("link"))?;
        symlink(at("none"), at("dangling"))?;
        symlink("/dev/stdout", at("stdout"))?;
        std::fs::write(at("shared"), "old")?;
        std::fs::hard_link(at("shared"), at("hard"))?;
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU)?;
        std::fs::create_dir(at("folder"))?;
        for (name, what) in [
            ("link", "a symbolic link"),
            ("dangling", "a symbolic link"),
            ("stdout", "a symbolic link"),
            ("hard", "hard links"),
            ("fifo", "a FIFO"),
            ("folder", "a folder"),
        ] {
            let refused = open(&at(name)).await.expect_err(name).to_string();
            assert!(refused.contains(what), "{name}: {refused}");
            let unfit = unfit(&at(name)).map(|error| error.to_string());
            assert_eq!(unfit, Some(refused), "what `mesh validate` says");

            let (mut log, reopen) = open(&at("log")).await?;
            std::fs::rename(at("log"), at("rotated"))?;
            std::fs::rename(at(name), at("log"))?;
            reopen.reopen().await;
            log.write_all(name.as_bytes()).await?;
            log.flush().await?;
            assert_eq!(std::fs::read(at("rotated"))?, name.as_bytes());
            std::fs::rename(at("log"), at(name))?;
            std::fs::remove_file(at("rotated"))?;
        }
        assert!(!at("none").exists());
        assert_eq!(std::fs::read(at("victim"))?, b"old");
        assert_eq!(std::fs::read(at("shared"))?, b"old");
        let (mut log, _) = open(Path::new("/dev/null")).await?;
        log.write_all(b"one\n").await?;
        log.flush().await?;
        assert!(unfit(&at("none")).is_none() && unfit(&at("victim")).is_none());
        Ok(())
    }
}
