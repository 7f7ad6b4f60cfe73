//! Paths in, what stands in all of these files at one look out: read whole, compared by content,
//! and read again until two reads agree, so that a change is not seen halfway. Nothing is parsed.

use std::io;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::disk;

/// How often a set that changes while it is read is read again before it is taken as it is.
const SETTLE: usize = 3;

/// What all files held at one look, in the order of their paths; an error is remembered by its
/// kind, so that one that lasts is reported once.
#[derive(PartialEq, Eq)]
pub(crate) struct Contents(Vec<Result<Zeroizing<Vec<u8>>, io::ErrorKind>>);

impl Contents {
    /// Reads each file once. It blocks.
    pub(crate) fn read<'p>(paths: impl Iterator<Item = &'p PathBuf>) -> Self {
        Self(
            paths
                .map(|path| disk::read(path).map_err(|e| e.kind()))
                .collect(),
        )
    }

    /// What stands in the files now, and whether that differs from what was `seen`. It blocks.
    ///
    /// 1. Read all; if nothing differs, that is all.
    /// 2. If something does, read until two reads agree, a few times at most.
    pub(crate) fn look<'p>(
        paths: impl Iterator<Item = &'p PathBuf> + Clone,
        seen: Option<&Self>,
    ) -> (Self, bool) {
        let mut contents = Self::read(paths.clone());
        if seen == Some(&contents) {
            return (contents, false);
        }
        for _ in 0..SETTLE {
            let again = Self::read(paths.clone());
            let settled = again == contents;
            contents = again;
            if settled {
                break;
            }
        }
        (contents, true)
    }

    /// The texts, in the order of `paths`, which are those that were read.
    ///
    /// # Errors
    ///
    /// The first file that could not be read, and why.
    pub(crate) fn texts<'p>(
        &self,
        paths: impl Iterator<Item = &'p PathBuf>,
    ) -> Result<Vec<&[u8]>, (PathBuf, io::Error)> {
        let mut texts = Vec::with_capacity(self.0.len());
        for (path, content) in paths.zip(&self.0) {
            match content {
                Ok(text) => texts.push(text.as_slice()),
                Err(kind) => return Err((path.clone(), io::Error::from(*kind))),
            }
        }
        Ok(texts)
    }
}
