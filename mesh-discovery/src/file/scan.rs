//! One look at a folder: its documents' files and what stands in them.
//!
//! `*.yaml`, `*.yml` and `*.json` of the folder itself; hidden names are left out (so are
//! `..data` and its like, where Kubernetes keeps what the visible links point to), links are
//! followed. It refuses to open what is not a regular file, and reads no more than a file may have.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use crate::manifest::Content;
use crate::manifest::strict::FILE_BYTES;

/// What a look at a folder found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// The files by path, in order.
    pub(super) files: Vec<(Arc<str>, Content)>,
    /// No file changed while it was read.
    pub(super) settled: bool,
}

/// Looks at a folder.
///
/// # Errors
///
/// Whatever keeps the folder itself from being listed.
pub(super) fn scan(dir: &Path) -> io::Result<Scan> {
    let mut scan = Scan {
        files: Vec::new(),
        settled: true,
    };
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let Some(name) = path.file_name().map(|name| name.to_string_lossy()) else {
            continue;
        };
        let extension = path.extension().and_then(|extension| extension.to_str());
        if name.starts_with('.') || !matches!(extension, Some("yaml" | "yml" | "json")) {
            continue;
        }
        let content = match read(&path) {
            Ok(Found::Text(text)) => Content::Text(text.into()),
            Ok(Found::Changing) => {
                scan.settled = false;
                Content::Unreadable("it is being written".into())
            }
            Ok(Found::Folder) => continue,
            Ok(Found::Wrong(why)) => Content::Unreadable(why),
            // Gone between the listing and the look; a link that leads nowhere is still there.
            Err(e) if e.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
                scan.settled = false;
                continue;
            }
            Err(e) => Content::Unreadable(e.to_string()),
        };
        scan.files.push((path.to_string_lossy().into(), content));
    }
    scan.files.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(scan)
}

enum Found {
    Changing,
    Folder,
    Text(String),
    Wrong(String),
}

fn read(path: &Path) -> io::Result<Found> {
    let before = fs::metadata(path)?;
    if before.is_dir() {
        return Ok(Found::Folder);
    }
    if !before.is_file() {
        return Ok(Found::Wrong("it is not a regular file".into()));
    }
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    let most = u64::try_from(FILE_BYTES).unwrap_or(u64::MAX);
    let read = (&mut file)
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if read > FILE_BYTES {
        return Ok(Found::Wrong(format!(
            "it is larger than {FILE_BYTES} bytes"
        )));
    }
    let after = file.metadata()?;
    if stamp(&before) != stamp(&after) {
        return Ok(Found::Changing);
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => Found::Text(text),
        Err(_) => Found::Wrong("it is not UTF-8".into()),
    })
}

fn stamp(metadata: &Metadata) -> (u64, Option<std::time::SystemTime>) {
    (metadata.len(), metadata.modified().ok())
}
