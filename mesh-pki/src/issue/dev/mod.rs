//! A folder in, a development CA out: root certificate and key as two files, and no more.
//!
//! It is for laptops and tests. A process that reads the folder is the trust domain, so its user is warned
//! loudly, and a workload is handed a [`WorkloadIssuer`], which can mint its own ID and no other.
//! The one key signs JWT-SVIDs too, so that all programs that open the folder trust each other's.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::ca::{DEFAULT_LEAF_LIFETIME, LocalCa, LocalCaError};
use super::{Csr, CsrError, IssueError, IssuedChain, Issuer, csr};
use crate::bundle::TrustBundle;
use crate::clock::Clock;
use crate::crypto::Crypto;
use crate::disk::{self, DiskError, Guard, Mode};
use crate::id::{SpiffeId, TrustDomain};
use crate::jwt::{KeySet, LocalJwtIssuer};
use crate::pem::{self, PemError};
use crate::source::files;
use crate::svid::{PrivateKey, SvidError, X509Svid};

/// The name of the root certificate in the folder.
pub const ROOT_FILE: &str = "ca.pem";

/// The name of the root key in the folder; its mode is 0600.
pub const KEY_FILE: &str = "ca.key";

/// How long a development root lives.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The development CA of a folder; cheap to clone.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::clock::SystemClock;
/// use inmesh_pki::issue::dev::DevCa;
/// use inmesh_pki::{Crypto, SpiffeId};
///
/// let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
/// let ca = DevCa::init("dev-ca".as_ref(), "dev.example".parse()?, &crypto, clock)?;
/// let id = SpiffeId::for_workload(ca.trust_domain(), "shop", "cart")?;
/// ca.issue_files(&id, "cart".as_ref())?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DevCa {
    ca: Arc<LocalCa>,
    jwt: LocalJwtIssuer,
    crypto: Crypto,
}

/// An issuer that can mint one ID and no other; cheap to clone.
#[derive(Clone)]
pub struct WorkloadIssuer {
    ca: Arc<LocalCa>,
    id: SpiffeId,
}

/// Why there is no development CA, or no files of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevCaError {
    /// The root or its key cannot be used.
    #[error("the development CA in {} cannot be used", dir.display())]
    Ca {
        /// The folder.
        dir: PathBuf,
        /// What is wrong with it.
        #[source]
        source: LocalCaError,
    },
    /// No key for a workload could be made.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// There is a development CA already, or a part of one; it is never overwritten.
    #[error("{} exists already; a development CA is never overwritten", path.display())]
    Exists {
        /// What was found.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The CA refuses the ID.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The root certificate does not say which trust domain it is for.
    #[error("{} does not name a trust domain as its one URI", path.display())]
    NoTrustDomain {
        /// The certificate.
        path: PathBuf,
    },
    /// A file is not the PEM text that it should be.
    #[error("{} cannot be read", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PemError,
    },
    /// What was issued is not an SVID.
    #[error(transparent)]
    Svid(#[from] SvidError),
}

impl DevCa {
    /// Makes a root for `trust_domain` and writes both files into `dir`, which is made if needed.
    ///
    /// # Errors
    ///
    /// [`DevCaError::Exists`] if one of the files is there; it is left as it is. [`DevCaError::Disk`] if other
    /// users may write the folder.
    pub fn init(
        dir: &Path,
        trust_domain: TrustDomain,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, DevCaError> {
        let (root_path, key_path) = (dir.join(ROOT_FILE), dir.join(KEY_FILE));
        for path in [&root_path, &key_path] {
            if path.symlink_metadata().is_ok() {
                return Err(DevCaError::Exists { path: path.clone() });
            }
        }
        disk::make_dir(dir).map_err(DiskError::io(dir))?;
        disk::check_target(dir, Guard::FOLDER)?;
        let ca = LocalCa::create(trust_domain, ROOT_LIFETIME, crypto, Arc::clone(&clock)).map_err(
            |source| DevCaError::Ca {
                dir: dir.to_owned(),
                source,
            },
        )?;
        // The key first: a certificate is only ever seen beside its key.
        let key = ca.secret_key().to_secret_pem();
        publish(&key_path, key.as_bytes(), Mode::Secret)?;
        let root = ca.bundle().to_pem();
        if let Err(error) = publish(&root_path, root.as_bytes(), Mode::Public) {
            // Half a CA would stand in the way of the next attempt; this half is ours.
            let _ = std::fs::remove_file(&key_path);
            return Err(error);
        }
        Self::with_tokens(ca, crypto, clock)
    }

    /// Opens the CA in `dir`; its trust domain is the one that the root certificate names.
    ///
    /// # Errors
    ///
    /// [`DevCaError`] if a file is missing, broken, or not the other's match, or if other users may use the
    /// key, or write the folder or the root.
    pub fn open(dir: &Path, crypto: &Crypto, clock: Arc<dyn Clock>) -> Result<Self, DevCaError> {
        Self::open_with(dir, DEFAULT_LEAF_LIFETIME, crypto, clock)
    }

    /// Opens the CA in `dir` to issue leaves of a lifetime of the caller's; see
    /// [`LocalCa::with_leaf_lifetime`].
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(
        dir: &Path,
        leaf_lifetime: Duration,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, DevCaError> {
        let (root_path, key_path) = (dir.join(ROOT_FILE), dir.join(KEY_FILE));
        disk::check_target(dir, Guard::FOLDER)?;
        let text = disk::read_guarded(&root_path, Guard::PUBLIC)?;
        let (root, trust_domain) = root_of(root_path, &text)?;
        let key = disk::read_secret(&key_path)?;
        let key = PrivateKey::from_pem(&key).map_err(|source| DevCaError::Pem {
            path: key_path,
            source,
        })?;
        let ca = LocalCa::from_parts(trust_domain, root, &key, crypto, Arc::clone(&clock))
            .map_err(|source| DevCaError::Ca {
                dir: dir.to_owned(),
                source,
            })?;
        Self::with_tokens(ca.with_leaf_lifetime(leaf_lifetime), crypto, clock)
    }

    /// The trust domain of the CA in `dir`, by its root certificate alone: its key is not read.
    ///
    /// # Errors
    ///
    /// [`DevCaError`] if the certificate is missing, broken, or names no trust domain.
    pub fn trust_domain_in(dir: &Path) -> Result<TrustDomain, DevCaError> {
        let path = dir.join(ROOT_FILE);
        let text = disk::read(&path).map_err(DiskError::io(&path))?;
        Ok(root_of(path, &text)?.1)
    }

    /// Joins the CA with the issuer of tokens that its key makes.
    fn with_tokens(
        ca: LocalCa,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, DevCaError> {
        let trust_domain = ca.trust_domain().clone();
        let jwt = LocalJwtIssuer::new(trust_domain, &ca.secret_key(), crypto, clock)?;
        let mut keys = KeySet::new();
        keys.push(0, jwt.public_key().clone())
            .expect("an empty set takes a first key");
        Ok(Self {
            ca: Arc::new(ca.with_jwt_keys(keys)),
            jwt,
            crypto: crypto.clone(),
        })
    }

    /// The trust domain of the CA.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        self.ca.trust_domain()
    }

    /// The bundle that vouches for what it issues.
    #[must_use]
    pub fn bundle(&self) -> &TrustBundle {
        self.ca.bundle()
    }

    /// Mints JWT-SVIDs for any workload of the trust domain.
    #[must_use]
    pub fn jwt_issuer(&self) -> &LocalJwtIssuer {
        &self.jwt
    }

    /// A handle for one workload.
    ///
    /// # Errors
    ///
    /// [`IssueError::WrongTrustDomain`] or [`IssueError::NoPath`] if it could never mint `id`.
    pub fn for_workload(&self, id: SpiffeId) -> Result<WorkloadIssuer, IssueError> {
        if id.trust_domain() != self.trust_domain() {
            let trust_domain = self.trust_domain().clone();
            return Err(IssueError::WrongTrustDomain { id, trust_domain });
        }
        if id.path().is_empty() {
            return Err(IssueError::NoPath { id });
        }
        Ok(WorkloadIssuer {
            ca: Arc::clone(&self.ca),
            id,
        })
    }

    /// Issues an SVID for `id` with a new key.
    ///
    /// # Errors
    ///
    /// [`DevCaError::Issue`] if the ID is not a workload of this trust domain.
    pub fn issue_svid(&self, id: &SpiffeId) -> Result<X509Svid, DevCaError> {
        let (key, csr) = csr::generate(id, &self.crypto)?;
        Ok(self.ca.sign(id, &csr)?.into_svid(key, &self.crypto)?)
    }

    /// Issues an SVID for `id` and writes it with the bundle into `dir`, in one step for readers
    /// (see [`files::publish`]).
    ///
    /// # Errors
    ///
    /// [`DevCaError`]; a set of files that stood there before stays whole.
    pub fn issue_files(&self, id: &SpiffeId, dir: &Path) -> Result<X509Svid, DevCaError> {
        let svid = self.issue_svid(id)?;
        files::publish(dir, &svid, self.bundle()).map_err(DiskError::io(dir))?;
        Ok(svid)
    }
}

impl WorkloadIssuer {
    /// The only ID that it mints.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }
}

impl Issuer for WorkloadIssuer {
    async fn issue(&self, id: &SpiffeId, csr: &Csr) -> Result<IssuedChain, IssueError> {
        if *id != self.id {
            return Err(IssueError::NotAllowed {
                id: id.clone(),
                allowed: self.id.clone(),
            });
        }
        self.ca.sign(id, csr)
    }
}

impl fmt::Debug for WorkloadIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkloadIssuer({})", self.id)
    }
}

/// The root certificate of a file, and the trust domain that it names.
fn root_of(
    path: PathBuf,
    text: &[u8],
) -> Result<(CertificateDer<'static>, TrustDomain), DevCaError> {
    let root = pem::one_certificate(text).map_err(|source| DevCaError::Pem {
        path: path.clone(),
        source,
    })?;
    let named = crate::svid::trust_domain_of_ca(&root);
    let trust_domain = named.ok_or(DevCaError::NoTrustDomain { path })?;
    Ok((root, trust_domain))
}

fn publish(path: &Path, content: &[u8], mode: Mode) -> Result<(), DevCaError> {
    disk::publish_new(path, content, mode).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => DevCaError::Exists {
            path: path.to_owned(),
        },
        _ => DiskError::io(path)(source).into(),
    })
}
