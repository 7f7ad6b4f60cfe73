//! A folder of documents as a source: files in, one change for each settled edit out.
//!
//! The folder is read whole at every edit, since only the whole says what was deleted; files that
//! did not change are not parsed again. An edit is live well within a second. It refuses to take
//! silence for deletion: a file that cannot be read or parsed, or a folder that is gone, keeps
//! everything as it was ([`manifest::Folder`](crate::manifest::Folder) has the rules).

mod scan;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use inmesh_core::discover::{Gone, Sink, Source};
use inmesh_core::drain::Drain;
use inmesh_core::model::SourceId;
use inmesh_core::snapshot::{Change, Problem, Severity};
use tokio::task::spawn_blocking;

use crate::manifest::{Content, Defaults, Folder, Merged};
use scan::{Scan, scan};
use watch::Watch;

/// How often a look is repeated because a file was being written meanwhile.
const LOOKS: usize = 5;

/// A folder with `*.yaml`, `*.yml` and `*.json` files, not those of folders in it; hidden files
/// are left out and links followed, so that a mounted ConfigMap works.
///
/// While it runs it logs each problem once, as `file:line: field: message`. It is synced when the
/// folder has been read for the first time; a folder that does not exist yet is waited for.
///
/// A file that a link leads to outside the folder is not watched: an edit of it in place is found
/// within 10 s.
///
/// ```
/// use inmesh_core::model::Namespace;
/// use inmesh_discovery::file::FileSource;
/// use inmesh_discovery::manifest::Defaults;
///
/// # let dir = std::env::temp_dir();
/// let defaults = Defaults::new(Namespace::new("shop")?).loopback(true);
/// // What `mesh validate` does: one reading, without a watch.
/// let merged = FileSource::read_once(&dir, &defaults)?;
/// # drop(merged.problems);
/// // What an agent does: a source for `Mesh::builder`.
/// let source = FileSource::new(&dir, defaults);
/// # drop(source);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FileSource {
    id: SourceId,
    look: Look,
}

/// All that looking at the folder needs; it goes to a thread for blocking work and comes back.
#[derive(Debug)]
struct Look {
    dir: PathBuf,
    folder: Folder,
    watch: Watch,
    /// What was found last, so that nothing is pushed when nothing changed.
    last: Option<Scan>,
    logged: BTreeSet<String>,
    /// How many documents of each kind were skipped.
    skipped: BTreeMap<Arc<str>, usize>,
    /// Why the folder could not be listed the last time.
    gone: Option<String>,
}

/// What a look comes to.
enum Seen {
    /// There is something to push.
    Change(Change),
    /// The folder cannot be listed, and why.
    Gone(String),
    /// All is as it was.
    Same,
    /// A file was being written.
    Unsettled,
}

// === impl FileSource ===

impl FileSource {
    /// A source of the documents in `dir`. Its name is `file:<dir>`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, defaults: Defaults) -> Self {
        let dir = dir.into();
        let id = id(&dir);
        let look = Look {
            folder: Folder::new(id.clone(), defaults),
            watch: Watch::new(),
            dir,
            last: None,
            logged: BTreeSet::new(),
            skipped: BTreeMap::new(),
            gone: None,
        };
        Self { id, look }
    }

    /// Reads the folder once, without watching it: for `mesh validate` and tests. It blocks.
    ///
    /// The problems are those of the documents alone. What refers to something that is not there
    /// shows in the status of a snapshot that the change is applied to.
    ///
    /// # Errors
    ///
    /// Whatever keeps the folder from being listed.
    pub fn read_once(dir: &Path, defaults: &Defaults) -> io::Result<Merged> {
        Ok(Folder::new(id(dir), defaults.clone()).merge(contents(dir)?))
    }

    /// Reads a folder, and then another as an edit of it: what has been refused in the other is what it
    /// was before. It blocks.
    ///
    /// # Errors
    ///
    /// Whatever keeps one of them from being listed.
    pub fn read_edit(before: &Path, after: &Path, defaults: &Defaults) -> io::Result<[Merged; 2]> {
        let mut folder = Folder::new(id(before), defaults.clone());
        let before = folder.merge(contents(before)?);
        Ok([before, folder.merge(contents(after)?)])
    }
}

/// The files of a folder that a [`FileSource`] reads, by path, in order. It blocks.
///
/// What cannot be read (not UTF-8, larger than a file may be, no regular file, a link that leads
/// nowhere) is among them with the reason.
///
/// # Errors
///
/// Whatever keeps the folder from being listed.
pub fn contents(dir: &Path) -> io::Result<Vec<(Arc<str>, Content)>> {
    let mut found = scan(dir)?;
    for _ in 1..LOOKS {
        if found.settled {
            break;
        }
        found = scan(dir)?;
    }
    Ok(found.files)
}

fn id(dir: &Path) -> SourceId {
    SourceId::new(format!("file:{}", dir.display()))
}

impl Source for FileSource {
    fn id(&self) -> SourceId {
        self.id.clone()
    }

    async fn run(self, sink: Sink, mut drain: Drain) -> Result<(), Gone> {
        let mut look = self.look;
        // Whether the sink knows that the folder is read.
        let mut synced = false;
        loop {
            let mut tries = 0;
            let seen = loop {
                tries += 1;
                let last_try = tries == LOOKS;
                let looked = spawn_blocking(move || {
                    let seen = look.look(last_try);
                    (look, seen)
                });
                // The runtime is going away, or a look panicked; the rest says what is known.
                let Ok((back, seen)) = looked.await else {
                    tracing::error!(source = %self.id, "the folder is no longer read");
                    return sink.lost("the folder is no longer read").await;
                };
                look = back;
                match seen {
                    Seen::Unsettled => look.watch.settle().await,
                    seen => break seen,
                }
            };
            match seen {
                Seen::Gone(why) => {
                    synced = false;
                    sink.lost(why).await?;
                }
                seen => {
                    if let Seen::Change(change) = seen {
                        sink.push(change).await?;
                    }
                    if !std::mem::replace(&mut synced, true) {
                        sink.synced().await?;
                    }
                }
            }
            tokio::select! {
                biased;
                () = drain.closed() => return Ok(()),
                () = look.watch.changed() => {}
            }
        }
    }
}

// === impl Look ===

impl Look {
    /// Looks at the folder once. The last try takes files as they are found.
    fn look(&mut self, last_try: bool) -> Seen {
        // First the watch, then the look: no edit falls between.
        self.watch.arm(&self.dir);
        let found = match scan(&self.dir) {
            Ok(found) => found,
            Err(e) => {
                let why = e.to_string();
                if self.gone.as_ref() != Some(&why) {
                    tracing::error!(
                        dir = %self.dir.display(), error = %why,
                        "the folder cannot be read; all stays as it was"
                    );
                    self.gone = Some(why.clone());
                }
                return Seen::Gone(why);
            }
        };
        if self.gone.take().is_some() {
            tracing::info!(dir = %self.dir.display(), "the folder can be read again");
        }
        if !found.settled && !last_try {
            return Seen::Unsettled;
        }
        if self
            .last
            .as_ref()
            .is_some_and(|last| last.files == found.files)
        {
            return Seen::Same;
        }
        let Merged {
            change,
            problems,
            skipped,
            ..
        } = self.folder.merge(found.files.iter().cloned());
        self.log(&problems);
        self.log_skipped(skipped);
        self.last = Some(found);
        Seen::Change(change)
    }

    /// Logs what was not logged before.
    fn log(&mut self, problems: &[Problem]) {
        let mut now = BTreeSet::new();
        for problem in problems {
            let text = problem.to_string();
            if !self.logged.contains(&text) && !now.contains(&text) {
                match problem.severity {
                    Severity::Note => tracing::info!("{text}"),
                    Severity::Warning => tracing::warn!("{text}"),
                    _ => tracing::error!("refused: {text}"),
                }
            }
            now.insert(text);
        }
        self.logged = now;
    }

    /// Logs which kinds are for other programs, when that has changed.
    fn log_skipped(&mut self, skipped: BTreeMap<Arc<str>, usize>) {
        if self.skipped != skipped {
            for (kind, count) in &skipped {
                tracing::info!(kind = %kind, count, "documents for other programs are skipped");
            }
            self.skipped = skipped;
        }
    }
}

#[cfg(test)]
mod tests;
