//! A file with a JWK set in, the keys of an issuer of tokens out, now and whenever it changes.
//!
//! The file is read once a second and compared by content, as [`files`](super::files) does. One that
//! cannot be read, or is broken, as a reader sees it halfway through a change, is logged once and the
//! last good keys stay. A set that is whole and has no key counts while running:
//! no token verifies. At a start it is refused, since every token would fail for a reason that is
//! hard to see.

use std::fmt;
use std::future::Future;
use std::io;
use std::iter::once;
use std::path::PathBuf;
use std::time::Duration;

use super::files::{Contents, DEFAULT_INTERVAL};
use crate::jwt::{KeySet, KeySetError, KeysReader, KeysWriter, live_keys};
use crate::task::until;

/// A JWK set that is kept as its file has it.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::future::pending;
///
/// use inmesh_pki::source::keys::KeyFile;
///
/// let file = KeyFile::open("/etc/ca/jwks.json")?;
/// let keys = file.keys();
/// tokio::spawn(file.run(pending()));
/// println!("{} keys", keys.load().len());
/// # Ok(())
/// # }
/// ```
pub struct KeyFile {
    path: PathBuf,
    interval: Duration,
    keys: KeysWriter,
    seen: Contents,
}

/// Why a file gives no keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It is a JWK set without a key that signs tokens.
    #[error("{} has no key that signs tokens", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("reading {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It is no JWK set.
    #[error("{} is no set of keys", path.display())]
    Keys {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeySetError,
    },
}

impl KeyFile {
    /// Reads `path`, which must have a key. It blocks.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, KeyFileError> {
        let path = path.into();
        let seen = look(&path);
        let keys = parse(&path, &seen)?;
        if keys.is_empty() {
            return Err(KeyFileError::Empty { path });
        }
        let (keys, _) = live_keys(keys);
        Ok(Self {
            path,
            interval: DEFAULT_INTERVAL,
            keys,
            seen,
        })
    }

    /// Looks at the file every `interval`.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval.max(Duration::from_millis(1));
        self
    }

    /// The keys that count at the moment.
    #[must_use]
    pub fn keys(&self) -> KeysReader {
        self.keys.reader()
    }

    /// Takes every change over until `shutdown` is ready; the last keys count from then on.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        until(shutdown, self.reload_forever()).await;
    }

    async fn reload_forever(&mut self) {
        loop {
            tokio::time::sleep(self.interval).await;
            let path = self.path.clone();
            // Files may be on a network; the runtime must not wait for them.
            let Ok(content) = tokio::task::spawn_blocking(move || look(&path)).await else {
                // Only a runtime that shuts down cancels it.
                return;
            };
            if content == self.seen {
                continue;
            }
            let path = self.path.display();
            match parse(&self.path, &content) {
                Ok(keys) if keys.is_empty() => {
                    tracing::warn!(%path, "no key is left: no token of this issuer proves anything");
                    self.keys.replace(keys);
                }
                Ok(keys) => {
                    tracing::info!(%path, keys = keys.len(), "the keys of an issuer of tokens are replaced");
                    self.keys.replace(keys);
                }
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(
                        error,
                        "keys of tokens cannot be used, the last good ones are kept"
                    );
                }
            }
            self.seen = content;
        }
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile")
            .field("path", &self.path)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

fn look(path: &PathBuf) -> Contents {
    Contents::read(once(path))
}

fn parse(path: &PathBuf, contents: &Contents) -> Result<KeySet, KeyFileError> {
    let texts = contents.texts(once(path));
    let texts = texts.map_err(|(path, source)| KeyFileError::Io { path, source });
    let text = texts?.first().copied().unwrap_or_default();
    KeySet::from_jwks(text).map_err(|source| KeyFileError::Keys {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use serde_json::json;

    use super::*;
    use crate::clock::ManualClock;
    use crate::jwt::{LocalJwtIssuer, PublicKey};
    use crate::testing::{crypto, domain, noon};

    fn key() -> PublicKey {
        let clock = ManualClock::new(noon()).shared();
        let issuer = LocalJwtIssuer::generate(domain("td"), &crypto(), clock).unwrap();
        issuer.public_key().clone()
    }

    fn jwks(keys: &[&PublicKey]) -> String {
        let keys: Vec<_> = keys.iter().map(|key| key.to_jwk()).collect();
        json!({ "keys": keys }).to_string()
    }

    #[test]
    fn a_start_needs_a_file_with_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jwks.json");
        let error = |text: Option<&str>| {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            KeyFile::open(&path).unwrap_err()
        };
        assert!(matches!(error(None), KeyFileError::Io { .. }));
        for text in ["", "{", "{}", "[]", &"x".repeat(600_000)] {
            assert!(
                matches!(error(Some(text)), KeyFileError::Keys { .. }),
                "{text:.9}"
            );
        }
        for text in [r#"{"keys": []}"#, r#"{"keys": [{"kty": "new"}]}"#] {
            assert!(matches!(error(Some(text)), KeyFileError::Empty { .. }));
        }
        let key = key();
        std::fs::write(&path, jwks(&[&key])).unwrap();
        let keys = KeyFile::open(&path).unwrap().keys().load();
        assert_eq!(keys.iter().collect::<Vec<_>>(), [&key]);
    }

    /// What is written, and how many keys count after a look at it.
    #[tokio::test(start_paused = true)]
    async fn a_change_counts_and_what_is_broken_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jwks.json");
        let (one, two) = (key(), key());
        std::fs::write(&path, jwks(&[&one])).unwrap();
        let file = KeyFile::open(&path).unwrap();
        let mut keys = file.keys();
        let mut run = pin!(file.run(std::future::pending()));
        let both = jwks(&[&one, &two]);
        let half = &both[..both.len() / 2];
        for (text, then) in [
            (both.as_str(), vec![&one, &two]),
            (half, vec![&one, &two]),
            ("", vec![&one, &two]),
            (&jwks(&[&two]), vec![&two]),
            (r#"{"keys": []}"#, vec![]),
            (half, vec![]),
            (&jwks(&[&one]), vec![&one]),
        ] {
            std::fs::write(&path, text).unwrap();
            looked_at(&mut run).await;
            let now = keys.load();
            assert_eq!(now.iter().collect::<Vec<_>>(), then, "{text:.20}");
        }
        std::fs::remove_file(&path).unwrap();
        looked_at(&mut run).await;
        assert_eq!(keys.load().len(), 1, "a file that is gone says nothing");
        assert!(keys.changed().await.is_some());
    }

    /// Runs until the file was looked at twice, so once at least after now.
    async fn looked_at(run: &mut (impl Future<Output = ()> + Unpin)) {
        tokio::select! {
            () = run => unreachable!("it has no end"),
            () = tokio::time::sleep(2 * DEFAULT_INTERVAL + Duration::from_millis(1)) => {}
        }
    }
}
