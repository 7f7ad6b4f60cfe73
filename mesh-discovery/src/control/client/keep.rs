//! What a process has of its control plane, in a file: written whole, a moment after it has changed.

use std::path::PathBuf;
use std::time::Duration;

use inmesh_pki::disk;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::words::chain_of;

/// The largest file that is read.
const MAX: u64 = 256 * 1024 * 1024;
/// How long after a change it is written, what comes together once, and how long after the write before.
const SOON: Duration = Duration::from_millis(100);
const AGAIN: Duration = Duration::from_secs(1);

/// The file.
#[derive(Debug)]
pub(super) struct Keep {
    file: PathBuf,
    /// When it is to be written, if it is.
    due: Option<Instant>,
    /// When it was written.
    written: Option<Instant>,
    /// Why it could not be written the last time.
    failed: Option<String>,
}

// === impl Keep ===

impl Keep {
    pub(super) fn new(file: PathBuf) -> Self {
        Self {
            file,
            due: None,
            written: None,
            failed: None,
        }
    }

    /// What was kept, if anything was; else why it cannot be read.
    pub(super) async fn read(&self) -> Result<Option<Vec<u8>>, String> {
        let file = self.file.clone();
        let read = spawn_blocking(move || disk::read_kept(&file, MAX)).await;
        let read = read.map_err(|e| e.to_string())?;
        let read = read.map_err(|e| chain_of(&e))?;
        Ok(read.map(|bytes| bytes.to_vec()))
    }

    /// Something has changed.
    pub(super) fn note(&mut self) {
        let soon = Instant::now() + SOON;
        let again = self.written.map(|at| at + AGAIN);
        let due = again.map_or(soon, |again| again.max(soon));
        self.due = self.due.or(Some(due));
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Writes a state. Where it cannot be written, what stood there stays; it is tried again at the next change.
    pub(super) async fn write(&mut self, state: Vec<u8>) {
        self.due = None;
        self.written = Some(Instant::now());
        let file = self.file.clone();
        let written = spawn_blocking(move || disk::write_secret(&file, &state)).await;
        let written = written.map_err(|e| e.to_string());
        let written = written.and_then(|written| written.map_err(|e| chain_of(&e)));
        if let Err(why) = &written
            && self.failed.as_ref() != Some(why)
        {
            tracing::warn!(%why, "the state of the control plane cannot be kept");
        }
        self.failed = written.err();
    }
}
