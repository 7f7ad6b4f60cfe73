//! The keys of an issuer of tokens in, the same to every verifier out, also when they change: one
//! writer, many readers. A verifier takes the whole set once for each token.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use super::KeySet;

/// Replaces the keys of one issuer; readers keep the last ones when it is dropped.
#[derive(Debug)]
pub struct KeysWriter(watch::Sender<Arc<KeySet>>);

/// The keys of one issuer as they are at the moment; cheap to clone.
///
/// ```
/// use inmesh_pki::jwt::{KeySet, KeysReader};
/// // Keys that never change.
/// let keys = KeysReader::from(KeySet::new());
/// assert!(keys.load().is_empty());
/// ```
#[derive(Clone)]
pub struct KeysReader(watch::Receiver<Arc<KeySet>>);

/// Both ends, with the keys that count from the start.
#[must_use]
pub fn live_keys(initial: KeySet) -> (KeysWriter, KeysReader) {
    let (sender, receiver) = watch::channel(Arc::new(initial));
    (KeysWriter(sender), KeysReader(receiver))
}

impl KeysWriter {
    /// From now on these keys count, and no others.
    pub fn replace(&self, keys: KeySet) {
        self.0.send_replace(Arc::new(keys));
    }

    /// Another reader of the same keys.
    #[must_use]
    pub fn reader(&self) -> KeysReader {
        KeysReader(self.0.subscribe())
    }
}

impl KeysReader {
    /// The keys that count now; never waits.
    #[must_use]
    pub fn load(&self) -> Arc<KeySet> {
        self.0.borrow().clone()
    }

    /// Waits for keys that this reader has not seen, and returns them; `None` once the
    /// writer is gone and its last keys have been returned. Cancel safe.
    pub async fn changed(&mut self) -> Option<Arc<KeySet>> {
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().clone())
    }
}

impl From<KeySet> for KeysReader {
    fn from(keys: KeySet) -> Self {
        live_keys(keys).1
    }
}

impl fmt::Debug for KeysReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeysReader").field(&*self.load()).finish()
    }
}
