//! A PKCS#8 private key in, the same out to the few places that need it; wiped when dropped.

use std::fmt;

use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::pem::{self, PemError};

/// A private key in unencrypted PKCS#8 form (S36); its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<Vec<u8>>);

impl PrivateKey {
    /// Takes over a PKCS#8 key in DER; what is inside is looked at when an SVID is made of it.
    #[must_use]
    pub fn from_pkcs8_der(der: Vec<u8>) -> Self {
        Self(Zeroizing::new(der))
    }

    /// Reads the one key in `pem`, in PKCS#8, PKCS#1 or SEC 1; certificates may stand beside it.
    ///
    /// # Errors
    ///
    /// [`PemError`] if `pem` has no key, more than one, one that is encrypted, or a revocation list, which is
    /// not heeded there.
    pub fn from_pem(pem: &[u8]) -> Result<Self, PemError> {
        pem::private_key(pem).map(Self)
    }

    /// The same, whatever else is there.
    pub(super) fn among(pem: &[u8]) -> Result<Self, PemError> {
        pem::key_among(pem).map(Self)
    }

    /// The key as PEM text, for a file that only its owner may read.
    #[must_use]
    pub fn to_secret_pem(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::new());
        pem::encode(&mut text, "PRIVATE KEY", &self.0);
        text
    }

    /// The key as PKCS#8 DER.
    #[must_use]
    pub fn secret_pkcs8_der(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn to_rustls(&self) -> PrivateKeyDer<'static> {
        // rustls wipes what it is given once it has read it.
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.to_vec()))
    }
}

/// Shows nothing of the key.
impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}
