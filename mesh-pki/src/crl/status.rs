//! A certificate's serial number, its issuer and the trust domain's lists in, what they say of it
//! out. Pure, but for the memory of signatures that were verified before.

use std::time::SystemTime;

use rustls_pki_types::{SubjectPublicKeyInfoDer, TrustAnchor};
use webpki::RevocationReason;

use super::{Crl, name};
use crate::crypto::Crypto;
use crate::signed::{SignatureError, Signed};
use crate::time;

/// The issuer of the certificate in question, as its path shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CertificateIssuer<'a> {
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Status {
    /// A list names it.
    Revoked {
        /// Since when.
        since: SystemTime,
        /// Why, if the list gives a reason.
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

/// What one list says.
enum Word {
    /// Nothing: it is another issuer's.
    Another,
    /// It is the issuer's, or passes itself off as that.
    Theirs(Status),
    /// It bears the issuer's name, and no known key has signed it.
    Unclaimed,
}

/// A trust domain's lists, and its roots, which may be the issuers of some.
#[derive(Clone, Copy)]
pub(crate) struct Lists<'a> {
    pub(crate) crls: &'a [Crl],
    pub(crate) roots: &'a [TrustAnchor<'a>],
}

// === impl Lists ===

impl Lists<'_> {
    /// Asks all lists for the certificate number `serial` of `issuer`.
    ///
    /// 1. A list is the issuer's if it bears the issuer's name (RFC 5280, section 7.1), unless key
    ///    ids differ and it is signed with another key: a CA that renews its key keeps its name. The
    ///    signature decides, since tools compute key ids in different ways.
    /// 2. Such a list is another issuer's if it is signed with the key of a root of that name. Else
    ///    its issuer is unknown, and it may be the right one, broken: the status is unknown,
    ///    unless another list is the issuer's beyond doubt.
    /// 3. A list that bears the issuer's key id under another name leaves the status unknown.
    /// 4. The issuer may sign lists, and signed this one; else the status is unknown.
    /// 5. A serial number that is listed is revoked, also by a list that is stale meanwhile.
    /// 6. A list whose nextUpdate has come is stale.
    ///
    /// The first list with something to object decides; an issuer without a list is not checked.
    /// thisUpdate is not compared: a list from a clock ahead of ours still counts.
    pub(crate) fn status(
        &self,
        issuer: &CertificateIssuer<'_>,
        serial: &[u8],
        now: SystemTime,
        crypto: &Crypto,
    ) -> Status {
        let (mut theirs, mut unclaimed) = (false, false);
        for crl in self.crls {
            match self.ask(crl, issuer, serial, now, crypto) {
                Word::Another => {}
                Word::Theirs(Status::Valid) => theirs = true,
                Word::Theirs(objection) => return objection,
                Word::Unclaimed => unclaimed = true,
            }
        }
        if unclaimed && !theirs {
            let why = "it has its issuer's name, but neither its issuer nor a root signed it";
            return Status::Unknown { why };
        }
        Status::Valid
    }

    fn ask(
        &self,
        crl: &Crl,
        issuer: &CertificateIssuer<'_>,
        serial: &[u8],
        now: SystemTime,
        crypto: &Crypto,
    ) -> Word {
        let same_name = name::equal(crl.0.list.issuer(), issuer.name);
        let same_key_id = match (crl.authority_key_id(), issuer.key_id) {
            (Some(ours), Some(theirs)) => Some(ours == theirs),
            _ => None,
        };
        match (same_name, same_key_id) {
            (true, Some(false)) if crl.prove(issuer.public_key, crypto).is_err() => {
                let named = |root: &&TrustAnchor<'_>| name::equal(&root.subject, issuer.name);
                let signed = |root: &TrustAnchor<'_>| {
                    let key = webpki::spki_for_anchor(root);
                    crl.prove(&key, crypto).is_ok()
                };
                if self.roots.iter().filter(named).any(signed) {
                    Word::Another
                } else {
                    Word::Unclaimed
                }
            }
            (true, _) => Word::Theirs(crl.status(issuer, serial, now, crypto)),
            (false, Some(true)) => {
                let why = "it has another name than the issuer whose key id it has";
                Word::Theirs(Status::Unknown { why })
            }
            (false, _) => Word::Another,
        }
    }
}

// === impl Crl ===

impl Crl {
    /// What the list says, if it is the issuer's.
    fn status(
        &self,
        issuer: &CertificateIssuer<'_>,
        serial: &[u8],
        now: SystemTime,
        crypto: &Crypto,
    ) -> Status {
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

    /// Verifies the signature, unless it was verified before: then its issuer is known.
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
        // A faster task verified the same.
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
