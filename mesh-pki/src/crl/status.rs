//! A certificate's serial number, its issuer and the trust domain's lists in, what they say of it
//! out. Pure, but for the memory of signatures that were verified before.

use std::time::SystemTime;

use rustls_pki_types::SubjectPublicKeyInfoDer;
use webpki::RevocationReason;

use super::Crl;
use crate::signed::{SignatureError, Signed};
use crate::time;
use crate::tls::Crypto;

/// Whoever signed the certificate in question, as its path shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Issuer<'a> {
    /// The content of its name, in DER.
    pub(crate) name: &'a [u8],
    /// Its subject key identifier in hexadecimal.
    pub(crate) key_id: Option<&'a str>,
    /// Its public key.
    pub(crate) public_key: &'a SubjectPublicKeyInfoDer<'a>,
    /// Whether its key usage, if it has one, has cRLSign (RFC 5280, section 6.3.3 f).
    pub(crate) may_sign: bool,
}

/// What the lists say of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// A list names it.
    Revoked {
        /// Since when.
        since: SystemTime,
        /// Why, if the list tells.
        reason: Option<&'static str>,
    },
    /// The issuer's list does not name it, but is out of date.
    Stale {
        /// Since when.
        next_update: SystemTime,
    },
    /// There is a list for the issuer, but it is not known to be the issuer's.
    Unknown {
        /// Why not.
        why: &'static str,
    },
    /// The issuer's list is up to date and does not name it, or there is none for the issuer.
    Valid,
}

impl Crl {
    /// Asks all lists of a trust domain for the certificate number `serial` of `issuer`.
    ///
    /// 1. A list is the issuer's if it carries the issuer's key id; where one of them has none, if
    ///    it carries the issuer's name. Where names agree and key ids differ, the signature tells:
    ///    tools compute key ids in different ways, and a CA that renews its key keeps its name.
    /// 2. The issuer may sign lists, and signed this one; else the status is unknown.
    /// 3. A serial number that is listed is revoked, also by a list that is stale meanwhile.
    /// 4. A list whose nextUpdate has come is stale.
    ///
    /// The first list with something to object decides; an issuer without a list is not checked.
    /// thisUpdate is not compared: a list from a clock ahead of ours is still the issuer's word.
    pub(crate) fn status(
        crls: &[Self],
        issuer: &Issuer<'_>,
        serial: &[u8],
        now: SystemTime,
        crypto: &Crypto,
    ) -> Status {
        crls.iter()
            .map(|crl| crl.judge(issuer, serial, now, crypto))
            .find(|status| *status != Status::Valid)
            .unwrap_or(Status::Valid)
    }

    fn judge(
        &self,
        issuer: &Issuer<'_>,
        serial: &[u8],
        now: SystemTime,
        crypto: &Crypto,
    ) -> Status {
        let same_name = self.0.list.issuer() == issuer.name;
        let same_key_id = match (self.authority_key_id(), issuer.key_id) {
            (Some(ours), Some(theirs)) => Some(ours == theirs),
            _ => None,
        };
        match (same_name, same_key_id) {
            (true, Some(false)) if self.prove(issuer.public_key, crypto).is_err() => {
                return Status::Valid;
            }
            (true, _) => {}
            (false, Some(true)) => {
                let why = "it carries another name than the issuer whose key id it has";
                return Status::Unknown { why };
            }
            (false, _) => return Status::Valid,
        }
        if !issuer.may_sign {
            let why = "its issuer's key usage lacks cRLSign";
            return Status::Unknown { why };
        }
        if let Err(error) = self.prove(issuer.public_key, crypto) {
            let why = match error {
                SignatureError::Bad => "its signature is not its issuer's",
                SignatureError::Key => "its issuer's key cannot be read",
                SignatureError::Unsupported => {
                    "it is signed with an algorithm that is not supported"
                }
            };
            return Status::Unknown { why };
        }
        match self.0.list.find_serial(serial) {
            Ok(None) if time::to_unix(now) < time::to_unix(self.next_update()) => Status::Valid,
            Ok(None) => Status::Stale {
                next_update: self.next_update(),
            },
            Ok(Some(entry)) => Status::Revoked {
                since: time::from_unix(
                    i64::try_from(entry.revocation_date.as_secs()).unwrap_or(i64::MAX),
                ),
                reason: entry.reason_code.map(reason),
            },
            Err(_) => Status::Unknown {
                why: "it cannot be read",
            },
        }
    }

    /// Verifies the signature, unless it was verified before: then it is known whose it is.
    fn prove(
        &self,
        public_key: &SubjectPublicKeyInfoDer<'_>,
        crypto: &Crypto,
    ) -> Result<(), SignatureError> {
        if let Some(proven) = self.0.proven.get() {
            return if proven == public_key {
                Ok(())
            } else {
                Err(SignatureError::Bad)
            };
        }
        let signed = Signed::parse(self.der()).ok_or(SignatureError::Bad)?;
        signed.verify(public_key, crypto)?;
        // Whoever was faster verified the same.
        let _ = self
            .0
            .proven
            .set(SubjectPublicKeyInfoDer::from(public_key.to_vec()));
        Ok(())
    }
}

/// As RFC 5280 spells it, section 5.3.1.
fn reason(code: RevocationReason) -> &'static str {
    match code {
        RevocationReason::Unspecified => "unspecified",
        RevocationReason::KeyCompromise => "keyCompromise",
        RevocationReason::CaCompromise => "cACompromise",
        RevocationReason::AffiliationChanged => "affiliationChanged",
        RevocationReason::Superseded => "superseded",
        RevocationReason::CessationOfOperation => "cessationOfOperation",
        RevocationReason::CertificateHold => "certificateHold",
        RevocationReason::RemoveFromCrl => "removeFromCRL",
        RevocationReason::PrivilegeWithdrawn => "privilegeWithdrawn",
        RevocationReason::AaCompromise => "aACompromise",
    }
}
