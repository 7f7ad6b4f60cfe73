//! The state of a CA and its keys in, the same after any crash out: [`Store`] is the port, a
//! folder ([`FileStore`]) the first thing behind it.
//!
//! The state is changed by compare-and-swap, so two that write never overwrite each other. Keys
//! are kept before a state names them, and forgotten after none does. What a crash leaves in between is
//! an orphan; no start removes it, for a state that is lost or old would take a key with it that
//! nothing can make again.

use std::future::Future;
use std::path::PathBuf;

use crate::disk::DiskError;
use crate::pem::PemError;
use crate::svid::PrivateKey;

mod file;

#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
mod tests;

pub use file::FileStore;

/// The largest state that is kept, in bytes; what is written is never more than can be read.
pub const MAX_STATE: usize = 16 * 1024 * 1024;

/// Names one written state; a later one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// Where a CA keeps its state and keys.
///
/// What a method has answered is there after any crash. A write that failed may have happened or
/// not; after it, [`load`](Store::load) decides, and what that returns is there after any crash too.
pub trait Store: Send + Sync + 'static {
    /// The state that was written last, if there is any.
    fn load(&self) -> impl Future<Output = Result<Option<(Vec<u8>, Version)>, StoreError>> + Send;

    /// The version of the state that was written last. A CA whose store is [`shared`](Store::shared) asks
    /// every second, so it should cost less than a load.
    fn latest(&self) -> impl Future<Output = Result<Option<Version>, StoreError>> + Send {
        async { Ok(self.load().await?.map(|(_, version)| version)) }
    }

    /// Whether several processes may issue from it at once. Then none of them knows all members, and a
    /// CA goes by what its state says of them. Only a store that keeps others away says no.
    fn shared(&self) -> bool {
        true
    }

    /// Writes a state in place of the one named by `expected`; `None` where there must be none.
    fn swap(
        &self,
        expected: Option<Version>,
        state: Vec<u8>,
    ) -> impl Future<Output = Result<Version, StoreError>> + Send;

    /// Notes that a CA whose keys have these ids is about to be made. Until there is a state, they are
    /// the keys of a CA that was never finished, under which nothing was issued.
    fn begin(&self, key_ids: Vec<String>) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The ids that were noted last and not taken back by [`finish`](Store::finish); none for most.
    fn begun(&self) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send;

    /// Takes back what was noted: there is a state.
    fn finish(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Keeps a key under its id.
    fn keep_key(
        &self,
        key_id: &str,
        key: &PrivateKey,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The key with this id.
    fn key(&self, key_id: &str) -> impl Future<Output = Result<PrivateKey, StoreError>> + Send;

    /// The ids of all keys that are kept.
    fn key_ids(&self) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send;

    /// Forgets these keys; one that is not there is forgotten already.
    fn forget_keys(
        &self,
        key_ids: Vec<String>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// Why a store did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has written since.
    #[error("the CA's state was changed by another process")]
    Conflict,
    /// Another process has the folder.
    #[error("another process uses the CA in {}", dir.display())]
    InUse {
        /// Which folder.
        dir: PathBuf,
    },
    /// A file or folder cannot be read or written, or other users may use it.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// What is there was not written by a CA.
    #[error("{} is not the state of a CA", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
    },
    /// A key file is not the PEM text that it should be.
    #[error("{} cannot be read", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PemError,
    },
    /// A state is larger than one that can be read back; nothing was written.
    #[error("the CA's state has {got} bytes, at most {max} are kept")]
    TooLarge {
        /// How many bytes it has.
        got: usize,
        /// How many it may have.
        max: usize,
    },
    /// A store that is not on this machine does not answer, or refuses.
    #[error("{what}: {reason}")]
    Unavailable {
        /// What was asked for.
        what: String,
        /// Why there is no answer.
        reason: String,
        /// Whether that may pass by itself: it is not there, too slow, or busy.
        passes: bool,
    },
    /// The state in the store is not the one that was read or written last, but one before it, or is gone.
    #[error(
        "the CA's state is {}, and this process has seen version {seen}: it does not go back",
        found.map_or("gone".to_owned(), |found| format!("of version {found}"))
    )]
    WentBack {
        /// The version that the store has, if it has any.
        found: Option<u64>,
        /// The version that was seen before.
        seen: u64,
    },
    /// There is no such key.
    #[error("the key {key_id} is missing")]
    UnknownKey {
        /// Which key.
        key_id: String,
    },
}
