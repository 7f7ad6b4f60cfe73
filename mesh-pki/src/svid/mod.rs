//! PEM or DER in, an [`X509Svid`] out: a chain with its key, checked to belong together; and
//! [`validate`], the decision whether a peer's chain proves its ID (X509-SVID.md).
//!
//! The same leaf checks stand in both: what we would refuse from a peer, we do not present.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use crate::crypto::Crypto;
use crate::id::SpiffeId;
use crate::pem;
pub use crate::pem::{PemError, certificates as read_certificates};

pub mod describe;
pub(crate) mod inspect;
mod key;
mod narrow;
mod path;
mod rejected;
mod validate;

#[cfg(test)]
mod tests;

pub(crate) use inspect::has_uri;
pub use key::PrivateKey;
pub use narrow::MAX_PATH_LEN;
pub use rejected::{Place, Rejected};
#[cfg(all(feature = "ca-client", any(feature = "aws-lc-rs", feature = "ring")))]
pub(crate) use validate::validate_own_as;
pub use validate::{MAX_PRESENTED_BYTES, validate, validate_own};

/// An X.509-SVID: our ID, and the key that proves it.
///
/// Cheap to share behind an `Arc`; neither `Debug` nor an error shows the key.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::{Crypto, X509Svid};
///
/// let (chain, key) = (std::fs::read("cert.pem")?, std::fs::read("key.pem")?);
/// let svid = X509Svid::from_pem(&chain, &key, &Crypto::aws_lc_rs())?;
/// println!("{} until {:?}", svid.id(), svid.not_after());
/// # Ok(())
/// # }
/// ```
pub struct X509Svid {
    id: SpiffeId,
    key: PrivateKey,
    certified: Arc<CertifiedKey>,
    not_before: SystemTime,
    not_after: SystemTime,
    issued_at: SystemTime,
    serial: String,
}

/// What a peer does with its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Usage {
    /// The peer is the TLS client: clientAuth, if its certificate limits its use.
    Client,
    /// The peer is the TLS server: serverAuth, if its certificate limits its use.
    Server,
}

/// A peer whose chain has been verified; only [`validate`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// When its leaf certificate begins to be valid.
    pub not_before: SystemTime,
    /// When its leaf certificate ends.
    pub not_after: SystemTime,
    /// The serial number of its leaf, in hexadecimal.
    pub serial: String,
    /// The key id of the root that vouches for it.
    pub root_key_id: String,
}

/// The peer that a leaf certificate names; whether that is proven is known to the caller that made this.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// When its leaf certificate ends.
    pub not_after: SystemTime,
    /// The serial number of its leaf, in hexadecimal.
    pub serial: String,
}

/// Why a chain and a key are not an SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// A peer that follows the SPIFFE rules would refuse the chain.
    #[error("the certificate chain is not an X.509-SVID")]
    Chain(#[from] Rejected),
    /// The private key cannot be read, or is of a kind that the crypto provider does not have.
    #[error("the private key for {id} cannot be used")]
    Key {
        /// The ID in the leaf.
        id: SpiffeId,
    },
    /// The private key belongs to another certificate.
    #[error("the private key does not match the certificate of {id} (serial {serial})")]
    KeyMismatch {
        /// The ID in the leaf.
        id: SpiffeId,
        /// The leaf's serial number.
        serial: String,
    },
    /// The PEM text cannot be read.
    #[error("the certificate or its key cannot be read")]
    Pem(#[from] PemError),
}

impl Usage {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

impl X509Svid {
    /// An SVID of a chain, leaf first, and its key.
    ///
    /// `issued_at` is the moment of issuance, from which renewal counts; without it the leaf's
    /// notBefore stands in, which most CAs back-date by some minutes. Whether the SVID is valid
    /// now, or under which root, is not asked: a peer decides that.
    ///
    /// # Errors
    ///
    /// [`SvidError`] if the chain breaks a SPIFFE rule, or the key is not the leaf's.
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKey,
        issued_at: Option<SystemTime>,
        crypto: &Crypto,
    ) -> Result<Self, SvidError> {
        let (first, intermediates) = chain.split_first().ok_or(Rejected::NoCertificate)?;
        let leaf = inspect::leaf(first)?;
        for intermediate in intermediates {
            inspect::signing(intermediate)?;
        }

        let unusable = |_| SvidError::Key {
            id: leaf.id.clone(),
        };
        let signer = crypto
            .provider()
            .key_provider
            .load_private_key(key.to_rustls())
            .map_err(unusable)?;
        let certified = CertifiedKey::new(chain, signer);
        certified.keys_match().map_err(|_| SvidError::KeyMismatch {
            id: leaf.id.clone(),
            serial: leaf.serial.clone(),
        })?;
        Ok(Self {
            id: leaf.id,
            key,
            certified: Arc::new(certified),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            issued_at: issued_at.unwrap_or(leaf.not_before),
            serial: leaf.serial,
        })
    }

    /// An SVID of PEM texts: the chain, leaf first, and its key; both may be the same text.
    ///
    /// # Errors
    ///
    /// [`SvidError::Pem`] if a text cannot be read, else as [`X509Svid::from_der`].
    pub fn from_pem(chain: &[u8], key: &[u8], crypto: &Crypto) -> Result<Self, SvidError> {
        let chain = pem::certificates(chain)?;
        Self::from_der(chain, PrivateKey::from_pem(key)?, None, crypto)
    }

    /// The SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The certificates, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The certificates as PEM text, leaf first.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        pem::encode_certificates(self.chain())
    }

    /// The private key.
    #[must_use]
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// When the leaf begins to be valid.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// When the leaf ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// When the leaf was issued; its notBefore, if that is unknown.
    #[must_use]
    pub fn issued_at(&self) -> SystemTime {
        self.issued_at
    }

    /// The serial number of the leaf, in hexadecimal.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

/// Shows the ID and the end, and nothing of the key.
impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("id", &self.id.as_str())
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Reads the peer that a leaf certificate names, by the SPIFFE rules for leaves, without a look at any
/// signature, time or bundle: for certificates that were verified before, or that are only shown.
///
/// # Errors
///
/// The first rule of S1 to S5, S7, S8, S10 and S12 to S15 that the leaf breaks.
pub fn read_unverified(leaf: &CertificateDer<'_>) -> Result<Peer, Rejected> {
    let leaf = inspect::leaf(leaf)?;
    Ok(Peer {
        id: leaf.id,
        not_after: leaf.not_after,
        serial: leaf.serial,
    })
}

/// The SPIFFE ID of the first certificate of a PEM text, read as [`read_unverified`] reads it: for a file
/// of which only the name is needed, and not the key.
///
/// # Errors
///
/// [`SvidError`] if the text cannot be read, or its first certificate is no SVID.
pub fn id_in_pem(pem: &[u8]) -> Result<SpiffeId, SvidError> {
    let chain = pem::certificates(pem)?;
    let leaf = chain.first().ok_or(Rejected::NoCertificate)?;
    Ok(read_unverified(leaf)?.id)
}

/// The trust domain that a CA certificate names as its one URI, as a SPIFFE signing certificate does.
#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
pub(crate) fn trust_domain_of_ca(ca: &CertificateDer<'_>) -> Option<crate::id::TrustDomain> {
    inspect::trust_domain_of_ca(ca)
}
