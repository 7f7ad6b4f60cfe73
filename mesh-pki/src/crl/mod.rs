//! A certificate revocation list in DER or PEM in, something that [`validate`](crate::svid::validate)
//! can ask out (RFC 5280, section 5).
//!
//! A [`Crl`] is parsed and bounded; its signer is not known yet, because the issuer's certificate
//! comes with a peer's chain. [`CrlSet`] keeps lists by trust domain, as bundles are kept: a list
//! that one domain publishes can never say something about another's certificates.
//!
//! Only lists that cover everything that their issuer signed are taken: a delta, an indirect
//! list, one for some reasons, some certificates or one distribution point would leave certificates
//! whose status is unknown, and is refused with its own error. webpki parses and looks serials
//! up; its `RevocationOptions` are not used, because they want a list of every issuer or of none
//! and tell issuers apart by name alone, while a CA that renews its key often keeps its name. A list
//! under such a name without a known signer counts for each issuer of that name, and admits no peer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use data_encoding::HEXLOWER;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use webpki::{BorrowedCertRevocationList, CertRevocationList, Error};
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_CRL_NUMBER};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::id::TrustDomain;
use crate::pem::{self, PemError};
use crate::time;

mod ids;
mod name;
mod status;

#[cfg(test)]
mod tests;

pub use ids::{MAX_REVOKED_IDS, RevokedIds};
pub(crate) use status::{CertificateIssuer, Lists, Status};

/// The largest list that is looked at, in bytes.
pub const MAX_CRL_LEN: usize = 1024 * 1024;

/// The most revoked certificates that a list may name.
pub const MAX_CRL_ENTRIES: usize = 32 * 1024;

/// The most lists that a trust domain may have: one for each issuer.
pub const MAX_CRLS: usize = 64;

/// How much of an issuer's name is quoted.
const QUOTED: usize = 256;

/// A certificate revocation list, parsed; whether its signature is its issuer's is found out when
/// a chain of that issuer is validated. Cheap to clone.
#[derive(Clone)]
pub struct Crl(Arc<Parsed>);

struct Parsed {
    der: Vec<u8>,
    list: CertRevocationList<'static>,
    entries: usize,
    issuer: String,
    authority_key_id: Option<String>,
    number: Vec<u8>,
    this_update: SystemTime,
    next_update: SystemTime,
    /// The public key that the signature has been verified with, which tells the issuer of this list:
    /// a large one is not hashed again at every handshake.
    proven: OnceLock<SubjectPublicKeyInfoDer<'static>>,
}

/// Revocation lists by trust domain, one for each issuer in it.
///
/// ```
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::{Crl, CrlSet};
///
/// assert!(Crl::from_pem(b"no list").is_err());
/// let mut lists = CrlSet::new();
/// lists.replace("prod.example".parse()?, Vec::new())?;
/// # Ok(())
/// # }
/// # example().unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CrlSet(BTreeMap<TrustDomain, Vec<Crl>>);

/// Why bytes are no revocation list, or none that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CrlError {
    /// It lists changes to another list (RFC 5280, section 5.2.4).
    #[error("the revocation list is a delta; only complete ones are supported")]
    Delta,
    /// It lists certificates of other issuers too (RFC 5280, section 5.2.5).
    #[error("the revocation list is indirect: it speaks for other issuers than its own")]
    Indirect,
    /// The bytes, or a part of them, are not what RFC 5280 says.
    #[error("the revocation list is malformed: {what}")]
    Malformed {
        /// What could not be read.
        what: &'static str,
    },
    /// It covers some certificates of its issuer only: those of one distribution point, of
    /// users or of authorities (RFC 5280, section 5.2.5).
    #[error(
        "the revocation list is limited to a distribution point; only complete ones are supported"
    )]
    Partial,
    /// It is older than the one of the same issuer that is there: what that revokes would be trusted
    /// again.
    #[error("the revocation list has number {got}, the one in use has {had}")]
    Older {
        /// The number of the list in use, in hexadecimal.
        had: String,
        /// Its own number, in hexadecimal.
        got: String,
    },
    /// The PEM text cannot be read.
    #[error("the revocation list cannot be read")]
    Pem(#[from] PemError),
    /// It lists certificates that were revoked for some reasons only (RFC 5280, section 5.2.5).
    #[error("the revocation list is limited to some reasons; only complete ones are supported")]
    SomeReasons,
    /// It is larger than [`MAX_CRL_LEN`].
    #[error("the revocation list has {got} bytes, at most {MAX_CRL_LEN} are looked at")]
    TooLarge {
        /// How large it is.
        got: usize,
    },
    /// A trust domain would have more lists than [`MAX_CRLS`].
    #[error("{trust_domain} has more than {MAX_CRLS} revocation lists")]
    TooMany {
        /// The trust domain of the lists.
        trust_domain: TrustDomain,
    },
    /// It names more certificates than [`MAX_CRL_ENTRIES`].
    #[error("the revocation list names more than {MAX_CRL_ENTRIES} certificates")]
    TooManyEntries,
    /// It has a critical extension that is not understood.
    #[error("the revocation list has a critical extension that is not understood")]
    UnknownCriticalExtension,
    /// It is not of version 2, the only one with extensions.
    #[error("the revocation list is not of version 2")]
    Version,
}

// === impl Crl ===

impl Crl {
    /// Reads one list; nothing may stand behind it.
    ///
    /// Size and number of entries are bounded before a table is built. A list without nextUpdate,
    /// CRL number or with that number marked critical is malformed (RFC 5280, sections 5.1.2.5
    /// and 5.2.3).
    ///
    /// # Errors
    ///
    /// [`CrlError`], every variant but `Pem` and `TooMany`.
    pub fn from_der(der: &[u8]) -> Result<Self, CrlError> {
        if der.len() > MAX_CRL_LEN {
            return Err(CrlError::TooLarge { got: der.len() });
        }
        let borrowed = BorrowedCertRevocationList::from_der(der).map_err(unreadable)?;
        let mut entries = 0;
        for entry in &borrowed {
            entry.map_err(unreadable)?;
            entries += 1;
            if entries > MAX_CRL_ENTRIES {
                return Err(CrlError::TooManyEntries);
            }
        }
        let list = CertRevocationList::from(borrowed.to_owned().map_err(unreadable)?);
        if list.issuing_distribution_point().is_some() {
            return Err(CrlError::Partial);
        }

        let malformed = |what| CrlError::Malformed { what };
        let Ok(([], second)) = CertificateRevocationList::from_der(der) else {
            return Err(malformed("not a revocation list"));
        };
        let next_update = second
            .next_update()
            .ok_or_else(|| malformed("nextUpdate"))?;
        let number = extension(&second, &OID_X509_EXT_CRL_NUMBER)
            .and_then(|found| match found {
                ParsedExtension::CRLNumber(number) => Some(number.to_bytes_be()),
                _ => None,
            })
            .ok_or_else(|| malformed("CRL number"))?;
        let authority_key_id = match extension(&second, &OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER) {
            Some(ParsedExtension::AuthorityKeyIdentifier(found)) => found
                .key_identifier
                .as_ref()
                .map(|id| HEXLOWER.encode(id.0)),
            Some(_) => return Err(malformed("authority key identifier")),
            None => None,
        };
        let parsed = Parsed {
            der: der.to_vec(),
            entries,
            issuer: second.issuer().to_string().chars().take(QUOTED).collect(),
            authority_key_id,
            number,
            this_update: time::from_unix(second.last_update().timestamp()),
            next_update: time::from_unix(next_update.timestamp()),
            list,
            proven: OnceLock::new(),
        };
        Ok(Self(Arc::new(parsed)))
    }

    /// Reads all lists in `pem`, at least one; certificates and keys are skipped.
    ///
    /// # Errors
    ///
    /// [`CrlError::Pem`] if the text cannot be read or has no list, else as [`Crl::from_der`].
    pub fn from_pem(pem: &[u8]) -> Result<Vec<Self>, CrlError> {
        let lists = pem::revocation_lists(pem)?;
        lists.iter().map(|der| Self::from_der(der)).collect()
    }

    /// The list as DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// The list as PEM text.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let mut text = String::new();
        pem::encode(&mut text, "X509 CRL", &self.0.der);
        text
    }

    /// The name of its issuer, as the list has it, cut off after 256 characters.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.0.issuer
    }

    /// The key id, in hexadecimal, of the key that it names as its signer, if it names one.
    #[must_use]
    pub fn authority_key_id(&self) -> Option<&str> {
        self.0.authority_key_id.as_deref()
    }

    /// The CRL number in hexadecimal; an issuer's later lists have higher ones.
    #[must_use]
    pub fn number(&self) -> String {
        HEXLOWER.encode(&self.0.number)
    }

    /// When it was issued.
    #[must_use]
    pub fn this_update(&self) -> SystemTime {
        self.0.this_update
    }

    /// From when on it is stale, and no certificate of its issuer is trusted any more.
    #[must_use]
    pub fn next_update(&self) -> SystemTime {
        self.0.next_update
    }

    /// How many certificates it revokes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.entries
    }

    /// Whether it revokes none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.entries == 0
    }

    /// Whether both are of the same issuer: same name, same key id.
    fn same_issuer(&self, other: &Self) -> bool {
        self.0.list.issuer() == other.0.list.issuer()
            && self.0.authority_key_id == other.0.authority_key_id
    }

    /// Whether this one is later than `other`, by number and else by date.
    fn is_later(&self, other: &Self) -> bool {
        // Numbers have no leading zeros, so a longer one is a higher one.
        let rank = |crl: &Self| (crl.0.number.len(), crl.0.number.clone(), crl.0.this_update);
        rank(self) > rank(other)
    }
}

/// Equal if their bytes are.
impl PartialEq for Crl {
    fn eq(&self, other: &Self) -> bool {
        self.0.der == other.0.der
    }
}

impl Eq for Crl {}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crl")
            .field("issuer", &self.issuer())
            .field("number", &self.number())
            .field("entries", &self.len())
            .finish_non_exhaustive()
    }
}

/// The one extension with this number, if it is not critical: of those that are asked for here
/// RFC 5280 allows none to be, nor to be there twice.
fn extension<'a>(
    list: &'a CertificateRevocationList<'_>,
    oid: &x509_parser::oid_registry::Oid<'_>,
) -> Option<&'a ParsedExtension<'a>> {
    let mut found = list.extensions().iter().filter(|ext| ext.oid == *oid);
    let one = found.next().filter(|ext| !ext.critical)?;
    found.next().is_none().then(|| one.parsed_extension())
}

fn unreadable(error: Error) -> CrlError {
    match error {
        Error::UnsupportedCrlIssuingDistributionPoint => CrlError::Partial,
        Error::UnsupportedCriticalExtension => CrlError::UnknownCriticalExtension,
        Error::UnsupportedCrlVersion => CrlError::Version,
        Error::UnsupportedDeltaCrl => CrlError::Delta,
        Error::UnsupportedIndirectCrl => CrlError::Indirect,
        Error::UnsupportedRevocationReasonsPartitioning => CrlError::SomeReasons,
        Error::InvalidCrlNumber => CrlError::Malformed { what: "CRL number" },
        _ => CrlError::Malformed {
            what: "not a revocation list",
        },
    }
}

// === impl CrlSet ===

impl CrlSet {
    /// No list at all: no certificate is revoked.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The lists of `trust_domain`, one for each issuer; empty if nothing is checked there.
    #[must_use]
    pub fn get(&self, trust_domain: &TrustDomain) -> &[Crl] {
        self.0.get(trust_domain).map_or(&[], Vec::as_slice)
    }

    /// Puts `crl` in place of the one of the same issuer in `trust_domain`, which is returned.
    ///
    /// # Errors
    ///
    /// [`CrlError::Older`] if that one is later, by number; [`CrlError::TooMany`] if it would be one
    /// issuer too many. Nothing is changed then.
    pub fn insert(&mut self, trust_domain: TrustDomain, crl: Crl) -> Result<Option<Crl>, CrlError> {
        let lists = self.0.entry(trust_domain.clone()).or_default();
        if let Some(old) = lists.iter_mut().find(|old| old.same_issuer(&crl)) {
            if old.is_later(&crl) {
                return Err(CrlError::Older {
                    had: old.number(),
                    got: crl.number(),
                });
            }
            return Ok(Some(std::mem::replace(old, crl)));
        }
        if lists.len() >= MAX_CRLS {
            return Err(CrlError::TooMany { trust_domain });
        }
        lists.push(crl);
        Ok(None)
    }

    /// Replaces all lists of `trust_domain`; of two of the same issuer the later one stays, also where it
    /// was there before.
    ///
    /// # Errors
    ///
    /// [`CrlError::TooMany`] for more issuers than [`MAX_CRLS`]; nothing is changed then.
    pub fn replace(
        &mut self,
        trust_domain: TrustDomain,
        crls: impl IntoIterator<Item = Crl>,
    ) -> Result<(), CrlError> {
        let mut lists: Vec<Crl> = Vec::new();
        for crl in crls {
            match lists.iter().position(|other| other.same_issuer(&crl)) {
                Some(at) if crl.is_later(&lists[at]) => lists[at] = crl,
                Some(_) => {}
                None if lists.len() >= MAX_CRLS => return Err(CrlError::TooMany { trust_domain }),
                None => lists.push(crl),
            }
        }
        self.keep_later(&trust_domain, &mut lists);
        self.0.insert(trust_domain, lists);
        Ok(())
    }

    /// The same for all trust domains.
    pub(crate) fn replace_all(&mut self, mut new: Self) {
        for (trust_domain, lists) in &mut new.0 {
            self.keep_later(trust_domain, lists);
        }
        self.0 = new.0;
    }

    /// Puts a list that is there in place of an older one of its issuer.
    fn keep_later(&self, trust_domain: &TrustDomain, lists: &mut [Crl]) {
        for had in self.get(trust_domain) {
            let same = lists.iter_mut().find(|new| new.same_issuer(had));
            if let Some(new) = same.filter(|new| had.is_later(new)) {
                *new = had.clone();
            }
        }
    }

    /// Takes the lists of `trust_domain` out: its issuers are not checked from then on.
    pub fn remove(&mut self, trust_domain: &TrustDomain) {
        self.0.remove(trust_domain);
    }

    /// All lists with their trust domains, ordered by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = (&TrustDomain, &Crl)> {
        self.0
            .iter()
            .flat_map(|(trust_domain, lists)| lists.iter().map(move |crl| (trust_domain, crl)))
    }

    /// How many lists there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Whether there is no list.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
