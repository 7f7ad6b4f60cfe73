//! A rustls crypto provider in, one handle that every layer above passes on out.
//!
//! The handle fixes what the mesh speaks: TLS 1.3 suites only, AES-128-GCM first (a quarter cheaper
//! than AES-256 on small cores), hybrid post-quantum key exchange first. Groups are ordered here and
//! not by rustls' features, because a feature would flip the order for the whole build.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::hash::HashAlgorithm;
use rustls::{CipherSuite, NamedGroup, SupportedCipherSuite};
use rustls_pki_types::SignatureVerificationAlgorithm;

/// The cryptography that every TLS entry and every verification is given; cheap to clone.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::Crypto;
///
/// let crypto = Crypto::aws_lc_rs();
/// // Less work for each handshake, without protection from future quantum computers.
/// let classical = crypto.classical()?;
/// # drop(classical);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Crypto(Arc<CryptoProvider>);

/// Why a provider cannot serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CryptoError {
    /// The provider offers no key exchange group.
    #[error("the crypto provider has no key exchange group")]
    NoGroups,
    /// The provider offers no TLS 1.3 cipher suite.
    #[error("the crypto provider has no TLS 1.3 cipher suite")]
    NoTls13,
    /// The system's source of randomness failed.
    #[error("the system has no randomness to give")]
    Random,
}

impl Crypto {
    /// AWS-LC, the default.
    #[cfg(feature = "aws-lc-rs")]
    #[must_use]
    pub fn aws_lc_rs() -> Self {
        Self::from_provider(rustls::crypto::aws_lc_rs::default_provider())
            .expect("the built-in provider has TLS 1.3 suites and groups")
    }

    /// *ring*; it offers no post-quantum key exchange.
    #[cfg(feature = "ring")]
    #[must_use]
    pub fn ring() -> Self {
        Self::from_provider(rustls::crypto::ring::default_provider())
            .expect("the built-in provider has TLS 1.3 suites and groups")
    }

    /// Any other provider, for example a FIPS one that the binary chose.
    ///
    /// Suites of TLS 1.2 are dropped; suites and groups that are left are only reordered, so
    /// nothing that the provider leaves out comes back.
    ///
    /// # Errors
    ///
    /// [`CryptoError::NoTls13`] or [`CryptoError::NoGroups`] if nothing is left to negotiate.
    pub fn from_provider(mut provider: CryptoProvider) -> Result<Self, CryptoError> {
        provider
            .cipher_suites
            .retain(|suite| matches!(suite, SupportedCipherSuite::Tls13(_)));
        provider
            .cipher_suites
            .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        provider
            .kx_groups
            .sort_by_key(|group| group.name() != NamedGroup::X25519MLKEM768);
        if provider.cipher_suites.is_empty() {
            return Err(CryptoError::NoTls13);
        }
        if provider.kx_groups.is_empty() {
            return Err(CryptoError::NoGroups);
        }
        Ok(Self(Arc::new(provider)))
    }

    /// The same without post-quantum groups: 15 % less CPU and 2.3 KB less for each handshake.
    ///
    /// # Errors
    ///
    /// [`CryptoError::NoGroups`] if the provider has no classical group.
    pub fn classical(&self) -> Result<Self, CryptoError> {
        let mut provider = (*self.0).clone();
        provider.kx_groups.retain(|group| {
            !matches!(
                group.name(),
                NamedGroup::X25519MLKEM768
                    | NamedGroup::secp256r1MLKEM768
                    | NamedGroup::MLKEM512
                    | NamedGroup::MLKEM768
                    | NamedGroup::MLKEM1024
            )
        });
        Self::from_provider(provider)
    }

    /// The provider inside, for callers that make rustls configurations of their own.
    #[must_use]
    pub fn provider(&self) -> &Arc<CryptoProvider> {
        &self.0
    }

    /// The algorithms that certificates and requests may be signed with.
    pub(crate) fn signature_algorithms(
        &self,
    ) -> &'static [&'static dyn SignatureVerificationAlgorithm] {
        self.0.signature_verification_algorithms.all
    }

    /// The first 16 bytes of the SHA-256 of `bytes`, by which content is distinguished; of another hash where the
    /// provider has no cipher suite with SHA-256.
    ///
    /// ```
    /// # #[cfg(feature = "aws-lc-rs")] {
    /// let crypto = inmesh_pki::Crypto::aws_lc_rs();
    /// assert_eq!(crypto.fingerprint(b"")[..4], [0xe3, 0xb0, 0xc4, 0x42]);
    /// # }
    /// ```
    pub fn fingerprint(&self, bytes: &[u8]) -> [u8; 16] {
        let suites = self.0.cipher_suites.iter();
        let mut suites = suites.filter_map(SupportedCipherSuite::tls13);
        let sha256 = suites.find(|s| s.common.hash_provider.algorithm() == HashAlgorithm::SHA256);
        let hash = match sha256 {
            Some(suite) => suite.common.hash_provider.hash(bytes).as_ref().to_vec(),
            None => self.digest(bytes),
        };
        let mut first = [0; 16];
        first.copy_from_slice(&hash[..16]);
        first
    }

    /// The hash of `bytes`, of at least 32 bytes: that of the first cipher suite.
    pub(crate) fn digest(&self, bytes: &[u8]) -> Vec<u8> {
        let suites = &self.0.cipher_suites;
        let suite = suites.iter().find_map(SupportedCipherSuite::tls13);
        let suite = suite.expect("a Crypto has a cipher suite of TLS 1.3, or it is not made");
        suite.common.hash_provider.hash(bytes).as_ref().to_vec()
    }

    /// Draws numbers that are uniform in 0..1, for what is spread over time; where the provider has no
    /// randomness, 0.5.
    #[cfg(any(feature = "aws-lc-rs", feature = "ring", feature = "workload-api"))]
    pub(crate) fn draw(&self) -> impl FnMut() -> f64 + Send + use<> {
        let crypto = self.clone();
        move || {
            let mut bytes = [0; 8];
            match crypto.fill(&mut bytes) {
                // A double has 53 bits.
                Ok(()) => (u64::from_be_bytes(bytes) >> 11) as f64 / (1_u64 << 53) as f64,
                Err(_) => 0.5,
            }
        }
    }

    /// Fills `bytes` with randomness from the provider.
    #[cfg_attr(
        not(any(feature = "aws-lc-rs", feature = "ring", feature = "workload-api")),
        expect(dead_code, reason = "only issuing and spreading over time draw")
    )]
    pub(crate) fn fill(&self, bytes: &mut [u8]) -> Result<(), CryptoError> {
        self.0
            .secure_random
            .fill(bytes)
            .map_err(|_| CryptoError::Random)
    }
}

/// Names suites and groups only.
impl fmt::Debug for Crypto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suites: Vec<_> = self.0.cipher_suites.iter().map(|s| s.suite()).collect();
        let groups: Vec<_> = self.0.kx_groups.iter().map(|g| g.name()).collect();
        f.debug_struct("Crypto")
            .field("suites", &suites)
            .field("groups", &groups)
            .finish()
    }
}
