//! A certificate of the web and its key as PEM files in, what our endpoint proves itself with by the
//! profile https_web out (SPIFFE_Federation.md, section 5.2.1.3), now and whenever the files change.
//!
//! The files are looked at as those of an identity are ([`crate::source::files`]): a pair that
//! does not parse or does not match, as a reader sees it halfway through a change, is reported and
//! never used, and the last good pair stays. Its issuer, its names and its end
//! when is the consumers' to judge; an end that comes near is in the status.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::crypto::Crypto;
use crate::disk;
use crate::pem::{self, PemError};
use crate::source::files::{Contents, DEFAULT_INTERVAL};
use crate::status::{StatusReader, StatusWriter, status};
use crate::svid::PrivateKey;
use crate::time;

/// A certificate of the web in two files, looked at again and again while an endpoint serves with
/// it; [`BundleEndpoint::with_web_certificate`](super::endpoint::BundleEndpoint::with_web_certificate)
/// takes it.
pub struct WebCertificate {
    files: Arc<PairFiles>,
    seen: Option<Contents>,
    interval: Duration,
    current: Arc<ArcSwap<CertifiedKey>>,
    status: StatusWriter<WebCertificateStatus>,
}

/// How a certificate of the web is doing; for metrics and for people.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct WebCertificateStatus {
    /// How many pairs were taken, the first one included.
    pub loads: u64,
    /// How many different contents could not be used.
    pub failures: u64,
    /// Why the files as they are now cannot be used; gone with the next success.
    pub last_error: Option<Arc<WebCertificateError>>,
    /// When the certificate in use ends.
    pub not_after: Option<SystemTime>,
}

/// Why two files are no certificate with its key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebCertificateError {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The private key is broken, or of a kind that the crypto provider does not have.
    #[error("the private key in {} cannot be used", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
    },
    /// The first certificate cannot be parsed.
    #[error("the first certificate in {} is not an X.509 certificate", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
    },
    /// The private key belongs to another certificate.
    #[error(
        "the private key in {} does not match the certificate in {}",
        key.display(),
        certificate.display()
    )]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A file is not the PEM text that is expected of it.
    #[error("{} cannot be used", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PemError,
    },
}

struct PairFiles {
    /// The certificate's, leaf first, and the key's.
    paths: [PathBuf; 2],
    crypto: Crypto,
}

struct Pair {
    certified: CertifiedKey,
    not_after: SystemTime,
}

type LoadedPair = Result<Pair, WebCertificateError>;

impl WebCertificate {
    /// Reads a chain (leaf first) and its key, for a start that fails early and says why. It blocks.
    ///
    /// The key may be PKCS#8, PKCS#1 or SEC 1, and both files may be the same.
    ///
    /// # Errors
    ///
    /// [`WebCertificateError`] for the first file that cannot be used.
    pub fn open(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        crypto: &Crypto,
    ) -> Result<Self, WebCertificateError> {
        let files = PairFiles {
            paths: [certificate.into(), key.into()],
            crypto: crypto.clone(),
        };
        let contents = Contents::read(files.paths.iter());
        let pair = files.parse(&contents)?;
        let first = WebCertificateStatus {
            loads: 1,
            not_after: Some(pair.not_after),
            ..WebCertificateStatus::default()
        };
        Ok(Self {
            files: Arc::new(files),
            seen: Some(contents),
            interval: DEFAULT_INTERVAL,
            current: Arc::new(ArcSwap::from_pointee(pair.certified)),
            status: status(first),
        })
    }

    /// Looks at the files every `interval` instead of every second.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Where to read how it is doing, before and while an endpoint serves with it.
    #[must_use]
    pub fn status(&self) -> StatusReader<WebCertificateStatus> {
        self.status.reader()
    }

    pub(super) fn current(&self) -> Arc<ArcSwap<CertifiedKey>> {
        Arc::clone(&self.current)
    }

    /// Follows the files, for as long as it is polled.
    pub(super) async fn follow(&mut self) {
        loop {
            tokio::time::sleep(self.interval).await;
            let (files, seen) = (Arc::clone(&self.files), self.seen.take());
            // Files may be on a network; the runtime must not wait for them.
            let look = tokio::task::spawn_blocking(move || files.look(seen.as_ref()));
            let Ok((contents, loaded)) = look.await else {
                // Only a runtime that shuts down cancels it.
                return std::future::pending().await;
            };
            self.seen = Some(contents);
            match loaded {
                Some(Ok(pair)) => self.take(pair),
                Some(Err(error)) => self.report(error),
                None => {}
            }
        }
    }

    fn take(&self, pair: Pair) {
        let path = self.files.certificate();
        tracing::info!(file = %path.display(), "certificate of the bundle endpoint loaded");
        self.current.store(Arc::new(pair.certified));
        self.status.update(|status| {
            status.loads += 1;
            status.last_error = None;
            status.not_after = Some(pair.not_after);
        });
    }

    fn report(&self, error: WebCertificateError) {
        let reason: &dyn std::error::Error = &error;
        tracing::warn!(
            error = reason,
            "the certificate of the bundle endpoint cannot be used, the last good one is kept"
        );
        self.status.update(|status| {
            status.failures += 1;
            status.last_error = Some(Arc::new(error));
        });
    }
}

impl fmt::Debug for WebCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebCertificate")
            .field("certificate", self.files.certificate())
            .finish_non_exhaustive()
    }
}

impl PairFiles {
    fn certificate(&self) -> &PathBuf {
        &self.paths[0]
    }

    /// What stands in the files, parsed if it differs from what was `seen`.
    fn look(&self, seen: Option<&Contents>) -> (Contents, Option<LoadedPair>) {
        let (contents, differs) = Contents::look(self.paths.iter(), seen);
        let loaded = differs.then(|| self.parse(&contents));
        (contents, loaded)
    }

    fn parse(&self, contents: &Contents) -> LoadedPair {
        let [certificate, key] = &self.paths;
        let texts = contents
            .texts(self.paths.iter())
            .map_err(|(path, source)| WebCertificateError::Io { path, source })?;
        let pem = |path: &PathBuf| {
            let path = path.clone();
            move |source| WebCertificateError::Pem { path, source }
        };
        let chain = pem::certificates(texts[0]).map_err(pem(certificate))?;
        let malformed = || WebCertificateError::Malformed {
            path: certificate.clone(),
        };
        let leaf = chain.first().ok_or_else(malformed)?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| malformed())?;
        let not_after = time::from_unix(leaf.validity().not_after.timestamp());

        disk::warn_if_loose(key, "key of the web");
        let private = PrivateKey::from_pem(texts[1]).map_err(pem(key))?;
        let provider = self.crypto.provider().key_provider;
        let signer = provider
            .load_private_key(private.to_rustls())
            .map_err(|_| WebCertificateError::Key { path: key.clone() })?;
        let certified = CertifiedKey::new(chain, signer);
        certified
            .keys_match()
            .map_err(|_| WebCertificateError::Mismatch {
                certificate: certificate.clone(),
                key: key.clone(),
            })?;
        Ok(Pair {
            certified,
            not_after,
        })
    }
}
