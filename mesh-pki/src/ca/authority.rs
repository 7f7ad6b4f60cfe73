//! Keys and certificates of a root and the issuing CA under it in, something that can sign out:
//! made here, brought by an operator, or read back from what a store kept.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, KeyIdMethod, PublicKeyData,
    RevokedCertParams, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use webpki::spki_for_anchor;

use super::state::{Authority, Certificate, KeyPlace, Revoked};
use crate::bundle::{BundleError, TrustBundle};
use crate::crl::Crl;
use crate::crypto::{Crypto, CryptoError};
use crate::id::{SpiffeId, TrustDomain};
use crate::issue::ca::BACK_DATED;
use crate::issue::make::{self, CaKey, MakeError};
use crate::issue::{Csr, IssueError, csr};
use crate::pem::{self, PemError};
use crate::store::IdentityState;
use crate::svid::{PrivateKey, Rejected, Usage, validate};

/// A root with an issuing CA under it, and the keys: what a rotation begins with.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::SystemTime;
///
/// use inmesh_pki::Crypto;
/// use inmesh_pki::ca::{Lifetimes, NewAuthority};
///
/// let (domain, now) = ("prod.example".parse()?, SystemTime::now());
/// let lifetimes = Lifetimes::default();
/// let new = NewAuthority::create(&domain, lifetimes, now, &Crypto::aws_lc_rs())?;
/// println!("{}", new.key_id());
/// # Ok(())
/// # }
/// ```
pub struct NewAuthority {
    pub(super) authority: Authority,
    pub(super) issuer_key: PrivateKey,
    pub(super) root_key: Option<PrivateKey>,
}

/// How long what a CA makes lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Roots.
    pub root: Duration,
    /// Issuing CAs; they end with their root.
    pub issuer: Duration,
    /// Leaves; they end with their issuing CA.
    pub leaf: Duration,
}

/// Why there is no authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// A certificate is not a CA's.
    #[error("a certificate of the CA cannot be used")]
    Certificate(#[from] BundleError),
    /// The crypto provider failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// A key is of a kind that cannot sign here, or belongs to another certificate.
    #[error("the private key is not that of {whose}, or cannot sign here")]
    Key {
        /// The certificate that it should belong to.
        whose: &'static str,
    },
    /// A certificate could not be made.
    #[error("a certificate of the CA could not be made: {reason}")]
    Make {
        /// What the signing library says.
        reason: String,
    },
    /// What it would issue is refused by every peer.
    #[error("a leaf of this CA does not verify under its root")]
    NotValid(#[from] Rejected),
    /// The text has neither a root with its key, nor a root, an issuing CA and its key.
    #[error(
        "found {got} certificates, expected a root with its key, or an issuing CA with its key and the root above it"
    )]
    Parts {
        /// How many certificates there are.
        got: usize,
    },
    /// The text cannot be read.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The root names another trust domain.
    #[error("the root is of trust domain {got}, this CA is of {expected}")]
    WrongTrustDomain {
        /// This CA's.
        expected: TrustDomain,
        /// The root's.
        got: TrustDomain,
    },
}

impl Default for Lifetimes {
    /// A year, 90 days, an hour.
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self {
            root: 365 * day,
            issuer: 90 * day,
            leaf: crate::issue::ca::DEFAULT_LEAF_LIFETIME,
        }
    }
}

impl NewAuthority {
    /// Makes a root for `trust_domain` and an issuing CA under it, both with new P-256 keys.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`] if the system cannot make a key.
    pub fn create(
        trust_domain: &TrustDomain,
        lifetimes: Lifetimes,
        now: SystemTime,
        crypto: &Crypto,
    ) -> Result<Self, AuthorityError> {
        let life = (now - BACK_DATED, now + lifetimes.root);
        let params = make::authority("root", trust_domain, 1, life, crypto)?;
        let key = CaKey::generate().map_err(MakeError::Sign)?;
        let root = params.self_signed(&key).map_err(MakeError::Sign)?;
        let root = Certificate::read(trust_domain, root.der().clone())?;
        Self::under(trust_domain, root, &key.secret(), lifetimes, now, crypto)
    }

    /// Reads what an operator brings for `trust_domain`, in one PEM text: a root and its key, or,
    /// where the root's key stays offline, an issuing CA, its key, and the root above it.
    ///
    /// A trial leaf is signed and verified as a peer would, so that nothing is taken that would
    /// fail later.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`]: what is missing, or why peers would refuse it.
    pub fn from_pem(
        trust_domain: &TrustDomain,
        text: &[u8],
        lifetimes: Lifetimes,
        now: SystemTime,
        crypto: &Crypto,
    ) -> Result<Self, AuthorityError> {
        let certs = pem::certificates(text)?;
        let key = PrivateKey::from_pem(text)?;
        let read = |der: &CertificateDer<'static>| Certificate::read(trust_domain, der.clone());
        let new = match &certs[..] {
            [root] => Self::under(trust_domain, read(root)?, &key, lifetimes, now, crypto)?,
            [one, two] => {
                let (one, two) = (read(one)?, read(two)?);
                let (root, issuer) = match signs(&one, &key)? {
                    true => (two, one),
                    false => (one, two),
                };
                if !signs(&issuer, &key)? {
                    return Err(AuthorityError::Key {
                        whose: "the issuing CA",
                    });
                }
                Self {
                    authority: Authority::new(root, issuer, KeyPlace::Offline),
                    issuer_key: key,
                    root_key: None,
                }
            }
            more => return Err(AuthorityError::Parts { got: more.len() }),
        };
        let got = crate::svid::trust_domain_of_ca(new.authority.root());
        if let Some(got) = got.filter(|got| got != trust_domain) {
            return Err(AuthorityError::WrongTrustDomain {
                expected: trust_domain.clone(),
                got,
            });
        }
        new.try_out(trust_domain, lifetimes, now, crypto)?;
        Ok(new)
    }

    /// The key id of its root.
    #[must_use]
    pub fn key_id(&self) -> &str {
        self.authority.key_id()
    }

    fn under(
        trust_domain: &TrustDomain,
        root: Certificate,
        root_key: &PrivateKey,
        lifetimes: Lifetimes,
        now: SystemTime,
        crypto: &Crypto,
    ) -> Result<Self, AuthorityError> {
        let (issuer, issuer_key) =
            issuer_under(trust_domain, &root, root_key, lifetimes, now, crypto)?;
        Ok(Self {
            authority: Authority::new(root, issuer, KeyPlace::Held),
            issuer_key,
            root_key: Some(root_key.clone()),
        })
    }

    fn try_out(
        &self,
        trust_domain: &TrustDomain,
        lifetimes: Lifetimes,
        now: SystemTime,
        crypto: &Crypto,
    ) -> Result<(), AuthorityError> {
        let signer = Signer::new(&self.authority, &self.issuer_key)?;
        let id = SpiffeId::for_workload(trust_domain, "inmesh", "trial")
            .expect("the segments are valid, and a trust domain leaves room for them");
        let (_, csr) = csr::generate(&id, crypto).map_err(|error| AuthorityError::Make {
            reason: error.to_string(),
        })?;
        let life = LeafLife {
            begin: None,
            lifetime: lifetimes.leaf,
        };
        let leaf = signer
            .sign(&id, &[], &csr, life, now, crypto)
            .map_err(|error| AuthorityError::Make {
                reason: error.to_string(),
            })?;
        let bundle = TrustBundle::new(trust_domain.clone(), [self.authority.root().clone()])?;
        let trusted = IdentityState::from_bundles(bundle.into());
        for usage in [Usage::Client, Usage::Server] {
            validate(&leaf.chain, &trusted, now, usage, crypto)?;
        }
        Ok(())
    }
}

/// Shows nothing of the keys.
impl std::fmt::Debug for NewAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewAuthority({})", self.authority.key_id())
    }
}

/// Makes an issuing CA under `root`, with a new key.
pub(super) fn issuer_under(
    trust_domain: &TrustDomain,
    root: &Certificate,
    root_key: &PrivateKey,
    lifetimes: Lifetimes,
    now: SystemTime,
    crypto: &Crypto,
) -> Result<(Certificate, PrivateKey), AuthorityError> {
    if !signs(root, root_key)? {
        return Err(AuthorityError::Key { whose: "the root" });
    }
    let root_key = CaKey::read(root_key).map_err(|_| AuthorityError::Key { whose: "the root" })?;
    let above = rcgen::Issuer::from_ca_cert_der(&root.der, root_key).map_err(MakeError::Sign)?;
    let life = (
        (now - BACK_DATED).max(root.not_before),
        (now + lifetimes.issuer).min(root.not_after),
    );
    let params = make::authority("issuer", trust_domain, 0, life, crypto)?;
    let key = CaKey::generate().map_err(MakeError::Sign)?;
    let cert = params.signed_by(&key, &above).map_err(MakeError::Sign)?;
    let cert = Certificate::read(trust_domain, cert.der().clone())?;
    Ok((cert, key.secret()))
}

/// Whether `key` is the private key of `cert`.
fn signs(cert: &Certificate, key: &PrivateKey) -> Result<bool, AuthorityError> {
    let key = CaKey::read(key).map_err(|_| AuthorityError::Key {
        whose: "the certificate beside it",
    })?;
    let anchor = webpki::anchor_from_trusted_cert(&cert.der)
        .expect("it was read as a CA certificate before");
    Ok(spki_for_anchor(&anchor).as_ref() == key.subject_public_key_info())
}

/// An authority that can sign leaves.
pub(super) struct Signer {
    issuer: rcgen::Issuer<'static, CaKey>,
    cert: CertificateDer<'static>,
    life: (SystemTime, SystemTime),
}

/// How long a leaf lives.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeafLife {
    /// It begins no earlier than this, if that is said.
    pub(super) begin: Option<SystemTime>,
    /// How long it lives.
    pub(super) lifetime: Duration,
}

/// A leaf with its chain, and what the CA has to remember of it.
pub(super) struct SignedLeaf {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) serial: String,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Signer {
    pub(super) fn new(authority: &Authority, key: &PrivateKey) -> Result<Self, AuthorityError> {
        let wrong = || AuthorityError::Key {
            whose: "the issuing CA",
        };
        if !signs(authority.issuer_certificate(), key)? {
            return Err(wrong());
        }
        let key = CaKey::read(key).map_err(|_| wrong())?;
        let cert = authority.issuer().clone();
        let issuer = rcgen::Issuer::from_ca_cert_der(&cert, key).map_err(MakeError::Sign)?;
        Ok(Self {
            issuer,
            cert,
            life: authority.issuer_life(),
        })
    }

    /// Signs a leaf; that `id` may have one was decided before. `names` are host names of a server.
    pub(super) fn sign(
        &self,
        id: &SpiffeId,
        names: &[String],
        csr: &Csr,
        LeafLife { begin, lifetime }: LeafLife,
        now: SystemTime,
        crypto: &Crypto,
    ) -> Result<SignedLeaf, IssueError> {
        let (from, to) = self.life;
        if now < from || now >= to {
            return Err(IssueError::CaNotValid {
                trust_domain: id.trust_domain().clone(),
            });
        }
        let key = SubjectPublicKeyInfo::from_der(csr.public_key_der())
            .map_err(|_| IssueError::Key { id: id.clone() })?;
        let failed = |error: rcgen::Error| IssueError::Sign {
            id: id.clone(),
            reason: error.to_string(),
        };
        let serial = make::serial(crypto)?;
        let name = HEXLOWER.encode(&serial.to_bytes());
        let from = from.max(begin.unwrap_or(from));
        let life = ((now - BACK_DATED).max(from), (now + lifetime).min(to));
        let params = server_leaf(id, names, serial, life).map_err(failed)?;
        let leaf = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(SignedLeaf {
            chain: vec![leaf.der().clone(), self.cert.clone()],
            serial: name,
            not_before: life.0,
            not_after: life.1,
        })
    }
}

/// What the leaf of a server says that is reached by host names too (X509-SVID.md, section 2).
fn server_leaf(
    id: &SpiffeId,
    names: &[String],
    serial: SerialNumber,
    life: (SystemTime, SystemTime),
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = make::leaf(id, serial, life)?;
    for name in names {
        let name = Ia5String::try_from(name.as_str())?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    Ok(params)
}

/// The list of what is revoked, signed by the issuing CA of `authority`; it is valid until
/// `next_update`. Its number is the time, so a later list has a greater one.
pub(super) fn revocation_list<'a>(
    authority: &Authority,
    key: &PrivateKey,
    revoked: impl Iterator<Item = &'a Revoked>,
    now: SystemTime,
    next_update: SystemTime,
) -> Result<Crl, AuthorityError> {
    let signer = Signer::new(authority, key)?;
    let number = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    let number = u64::try_from(number).unwrap_or(u64::MAX);
    let params = CertificateRevocationListParams {
        this_update: make::date(now - BACK_DATED),
        next_update: make::date(next_update),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.map(entry).collect::<Result<_, _>>()?,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(&signer.issuer).map_err(MakeError::Sign)?;
    Crl::from_der(list.der()).map_err(|error| AuthorityError::Make {
        reason: error.to_string(),
    })
}

fn entry(revoked: &Revoked) -> Result<RevokedCertParams, AuthorityError> {
    let serial = HEXLOWER_PERMISSIVE.decode(revoked.serial.as_bytes());
    let serial = serial.map_err(|error| AuthorityError::Make {
        reason: format!("a revoked serial number is not hexadecimal: {error}"),
    })?;
    Ok(RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: make::date(revoked.at),
        reason_code: None,
        invalidity_date: None,
    })
}

impl From<MakeError> for AuthorityError {
    fn from(error: MakeError) -> Self {
        match error {
            MakeError::Crypto(error) => Self::Crypto(error),
            MakeError::Sign(error) => Self::Make {
                reason: error.to_string(),
            },
        }
    }
}
