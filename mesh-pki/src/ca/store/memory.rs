//! A disk in memory that loses power: names are there for good only once their folder is synced,
//! and any operation may be the last one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use zeroize::Zeroizing;

use super::FileStore;
use crate::disk::{Disk, Mode};

type MemoryFiles = BTreeMap<PathBuf, Vec<u8>>;

/// Clones share the disk.
#[derive(Clone, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<Model>>);

#[derive(Default)]
struct Model {
    /// What a process sees.
    seen: MemoryFiles,
    /// What is there after a loss of power.
    durable: MemoryFiles,
    done: usize,
    fault: Option<Fault>,
}

/// What happens to the operation number `at`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    /// It is done, although it reports that it failed.
    pub(crate) done: bool,
    /// Nothing works after it: the process is dead.
    pub(crate) dead: bool,
}

impl MemoryDisk {
    pub(crate) fn store(&self) -> FileStore {
        FileStore::on(Path::new("/ca"), Box::new(self.clone()), None)
    }

    /// A store that several processes use at once.
    pub(crate) fn shared_store(&self) -> FileStore {
        FileStore::shared_on(Path::new("/ca"), Box::new(self.clone()))
    }

    /// Puts a state in the place of the one that is there, as a copy that is brought back.
    pub(crate) fn write_state(&self, content: &[u8]) {
        let path = Path::new("/ca/state.json").to_owned();
        self.0.lock().unwrap().seen.insert(path, content.to_vec());
    }

    pub(crate) fn fail(&self, fault: Fault) {
        let mut model = self.0.lock().unwrap();
        model.done = 0;
        model.fault = Some(fault);
    }

    /// Starts the machine again; `lost` if what was not synced is gone.
    pub(crate) fn restart(&self, lost: bool) {
        let mut model = self.0.lock().unwrap();
        model.fault = None;
        if lost {
            model.seen = model.durable.clone();
        } else {
            model.durable = model.seen.clone();
        }
    }

    /// How many operations there were.
    pub(crate) fn operations(&self) -> usize {
        self.0.lock().unwrap().done
    }

    /// The names of all files.
    pub(crate) fn names(&self) -> Vec<String> {
        let model = self.0.lock().unwrap();
        model
            .seen
            .keys()
            .map(|path| path.display().to_string())
            .collect()
    }

    fn operate<T>(
        &self,
        partly: impl FnOnce(&mut Model),
        wholly: impl FnOnce(&mut Model) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut model = self.0.lock().unwrap();
        let nth = model.done;
        model.done += 1;
        let broken = || io::Error::other("the disk fails");
        match model.fault {
            Some(fault) if nth == fault.at && fault.done => {
                let _ = wholly(&mut model)?;
                Err(broken())
            }
            Some(fault) if nth == fault.at => {
                partly(&mut model);
                Err(broken())
            }
            Some(fault) if nth > fault.at && fault.dead => Err(broken()),
            _ => wholly(&mut model),
        }
    }
}

impl Disk for MemoryDisk {
    fn read(&self, path: &Path, _: u64) -> io::Result<Zeroizing<Vec<u8>>> {
        self.operate(
            |_| {},
            |model| {
                let content = model.seen.get(path).ok_or(io::ErrorKind::NotFound)?;
                Ok(Zeroizing::new(content.clone()))
            },
        )
    }

    fn create(&self, path: &Path, content: &[u8], _: Mode) -> io::Result<()> {
        let write = |model: &mut Model, content: &[u8]| {
            let old = model.seen.insert(path.to_owned(), content.to_vec());
            assert!(old.is_none(), "{} was there", path.display());
        };
        self.operate(
            |model| write(model, &content[..content.len() / 2]),
            |model| {
                write(model, content);
                Ok(())
            },
        )
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(
            |_| {},
            |model| {
                let content = model.seen.remove(from).ok_or(io::ErrorKind::NotFound)?;
                model.seen.insert(to.to_owned(), content);
                Ok(())
            },
        )
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operate(
            |_| {},
            |model| {
                model.seen.remove(path);
                Ok(())
            },
        )
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let name = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        self.operate(
            |_| {},
            |model| {
                let inside = model.seen.keys().filter(|path| path.parent() == Some(dir));
                Ok(inside.filter_map(name).collect())
            },
        )
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.operate(
            |_| {},
            |model| {
                let inside = |path: &PathBuf| path.parent() == Some(dir);
                model.durable.retain(|path, _| !inside(path));
                let synced = model.seen.iter().filter(|(path, _)| inside(path));
                let synced: Vec<_> = synced.map(|(p, c)| (p.clone(), c.clone())).collect();
                model.durable.extend(synced);
                Ok(())
            },
        )
    }
}
