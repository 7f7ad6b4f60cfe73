//! A Pod certificate of Kubernetes: paths of a projected volume in, a [`FileSource`] of it out.
//!
//! The kubelet makes a key, has the signer of the volume's `podCertificate` sign it, and writes both into
//! one file; the roots come from a `clusterTrustBundle` beside it, or from a ConfigMap. It swaps all files
//! of a volume in one step, by a link, and renews the certificate by itself. So a process needs neither
//! an agent nor a socket nor a token.

use std::path::{Path, PathBuf};

use super::files::FileSource;
use crate::crypto::Crypto;

/// Where the volume is mounted, unless a path says otherwise.
pub const MOUNTED: &str = "/var/run/secrets/inmesh.dev";
/// The key and its certificates in it (`credentialBundlePath`).
pub const CREDENTIALS_FILE: &str = "credentials.pem";
/// The roots in it.
pub const ROOTS_FILE: &str = "ca.crt";

/// Where the files of a Pod certificate are.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::Crypto;
/// use inmesh_pki::source::pod_certificate;
///
/// let identity = pod_certificate().source(&Crypto::aws_lc_rs()).start().await?;
/// tokio::spawn(identity.task);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct PodCertificate {
    chain: PathBuf,
    key: PathBuf,
    roots: PathBuf,
}

/// The Pod certificate of this process, in the files `credentials.pem` and `ca.crt` of
/// `/var/run/secrets/inmesh.dev`.
///
/// ```
/// use inmesh_pki::source::pod_certificate;
/// let elsewhere = pod_certificate().credentials("/identity/bundle.pem").roots("/roots/ca.crt");
/// # drop(elsewhere);
/// ```
pub fn pod_certificate() -> PodCertificate {
    PodCertificate::mounted_in(MOUNTED.as_ref())
}

impl PodCertificate {
    /// The one whose volume is mounted in a folder.
    pub fn mounted_in(dir: &Path) -> Self {
        let credentials = dir.join(CREDENTIALS_FILE);
        Self {
            chain: credentials.clone(),
            key: credentials,
            roots: dir.join(ROOTS_FILE),
        }
    }

    /// The same with the file of `credentialBundlePath` at another path.
    pub fn credentials(mut self, path: impl Into<PathBuf>) -> Self {
        self.chain = path.into();
        self.key = self.chain.clone();
        self
    }

    /// The same with key and certificates in two files, those of `keyPath` and `certificateChainPath`. One
    /// read halfway through a change has a key that does not match: it is not used.
    pub fn key_and_chain(mut self, key: impl Into<PathBuf>, chain: impl Into<PathBuf>) -> Self {
        (self.key, self.chain) = (key.into(), chain.into());
        self
    }

    /// The same with the roots at another path.
    pub fn roots(mut self, path: impl Into<PathBuf>) -> Self {
        self.roots = path.into();
        self
    }

    /// Whether its key is there, readable or not. It blocks.
    ///
    /// ```
    /// use inmesh_pki::source::pod_certificate::PodCertificate;
    /// assert!(!PodCertificate::mounted_in("/missing".as_ref()).is_mounted());
    /// ```
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        !matches!(self.key.try_exists(), Ok(false))
    }

    /// The source of these files, which follows each change of them; the trust domain is that of the SVID.
    #[must_use]
    pub fn source(&self, crypto: &Crypto) -> FileSource {
        FileSource::new(&self.chain, &self.key, &self.roots, crypto)
    }
}

#[cfg(all(test, unix, feature = "aws-lc-rs"))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;
    use crate::clock::SystemClock;
    use crate::id::SpiffeId;
    use crate::issue::ca::LocalCa;
    use crate::issue::csr;
    use crate::svid::X509Svid;

    /// A volume as the kubelet keeps it: files are links into `..data`, itself a link to the folder of
    /// the moment.
    struct Volume {
        dir: tempfile::TempDir,
        writes: u32,
    }

    impl Volume {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            for name in [CREDENTIALS_FILE, "tls.key", "tls.crt", ROOTS_FILE] {
                symlink(Path::new("..data").join(name), dir.path().join(name)).expect("a link");
            }
            Self { dir, writes: 0 }
        }

        /// Writes all files, and swaps them in one step.
        fn write(&mut self, svid: &X509Svid, roots: &str) {
            let key = svid.key().to_secret_pem();
            let both = [key.as_str(), &svid.chain_pem()].concat();
            let of_moment = format!("..{}", self.writes);
            self.writes += 1;
            let dir = self.dir.path().join(&of_moment);
            fs::create_dir(&dir).expect("a folder");
            for (name, text) in [
                (CREDENTIALS_FILE, both.as_str()),
                ("tls.key", key.as_str()),
                ("tls.crt", &svid.chain_pem()),
                (ROOTS_FILE, roots),
            ] {
                fs::write(dir.join(name), text).expect("written");
            }
            let temporary = self.dir.path().join("..data_tmp");
            symlink(&of_moment, &temporary).expect("a link");
            fs::rename(temporary, self.dir.path().join("..data")).expect("swapped");
        }
    }

    fn ca() -> LocalCa {
        let (domain, crypto) = ("prod.example".parse(), Crypto::aws_lc_rs());
        let hour = Duration::from_secs(3_600);
        let ca = LocalCa::create(
            domain.expect("a name"),
            hour,
            &crypto,
            SystemClock::shared(),
        );
        ca.expect("a CA")
    }

    fn svid(ca: &LocalCa) -> X509Svid {
        let crypto = Crypto::aws_lc_rs();
        let id = SpiffeId::for_workload(ca.trust_domain(), "shop", "cart").expect("an ID");
        let (key, csr) = csr::generate(&id, &crypto).expect("a key");
        let issued = ca.sign(&id, &csr).expect("a leaf");
        issued.into_svid(key, &crypto).expect("an SVID")
    }

    #[tokio::test]
    async fn a_volume_is_followed_as_it_is_swapped() {
        let (mut volume, old) = (Volume::new(), ca());
        let mounted = PodCertificate::mounted_in(volume.dir.path());
        assert!(!mounted.is_mounted());
        let first = svid(&old);
        volume.write(&first, &old.bundle().to_pem());
        assert!(mounted.is_mounted());
        let two = mounted.clone().key_and_chain(
            volume.dir.path().join("tls.key"),
            volume.dir.path().join("tls.crt"),
        );
        for files in [mounted, two] {
            let source = files.source(&Crypto::aws_lc_rs());
            let source = source.with_interval(Duration::from_millis(5));
            let identity = source.start().await.expect("it is whole");
            let task = tokio::spawn(identity.task);
            let mut reader = identity.reader;
            let has = |svid: &X509Svid, roots: usize| {
                let (serial, domain) = (svid.serial().to_owned(), old.trust_domain().clone());
                move |state: &crate::IdentityState| {
                    let bundle = state.bundles().get(&domain);
                    let serials = state.default_svid().map(|svid| svid.serial());
                    serials == Some(serial.as_str())
                        && bundle.is_some_and(|bundle| bundle.roots().len() == roots)
                }
            };
            assert!(has(&first, 1)(&reader.load()));
            // A root is added before a leaf is under it.
            let (new, renewed) = (ca(), svid(&old));
            let both = [old.bundle().to_pem(), new.bundle().to_pem()].concat();
            volume.write(&renewed, &both);
            let seen = wait(&mut reader, has(&renewed, 2)).await;
            assert!(seen);
            let under_new = svid(&new);
            volume.write(&under_new, &both);
            assert!(wait(&mut reader, has(&under_new, 2)).await);
            volume.write(&first, &old.bundle().to_pem());
            assert!(wait(&mut reader, has(&first, 1)).await);
            task.abort();
        }
    }

    async fn wait(
        reader: &mut crate::IdentityReader,
        holds: impl Fn(&crate::IdentityState) -> bool,
    ) -> bool {
        let until = async {
            while !holds(&reader.load()) {
                reader.changed().await.expect("it runs");
            }
        };
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, until).await.is_ok()
    }
}
