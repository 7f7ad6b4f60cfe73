//! A chain, the roots and revocation lists of one trust domain in, the root that vouches for the
//! chain out. Knows X.509 and nothing of SPIFFE leaves, so that the cases of other projects, whose
//! leaves are web servers, run against it as it is.
//!
//! Path building is rustls-webpki's, which is tested against far more than a mesh sees. It judges
//! neither the validity of roots nor key usage for signing, and its revocation is not ours, so
//! each path that it finds is looked at once more, and one that fails is not the end of the search.

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage, VerifiedPath};

use super::narrow::{self, MAX_PATH_LEN, SearchEnded};
use super::rejected::{Place, Rejected};
use super::{Usage, inspect};
use crate::bundle::{Root, TrustBundle};
use crate::crl::{self, Crl};
use crate::crypto::Crypto;
use crate::id::SpiffeId;
use crate::time;

/// What a search for a path needs to know.
pub(super) struct Search<'a> {
    /// The ID in the leaf; only quoted in reasons.
    pub(super) id: &'a SpiffeId,
    pub(super) bundle: &'a TrustBundle,
    pub(super) crls: &'a [Crl],
    pub(super) now: SystemTime,
    pub(super) usage: Usage,
    pub(super) crypto: &'a Crypto,
}

impl<'a> Search<'a> {
    /// Steps 5 to 7 of [`validate`](super::validate): the root at the end of a path from the first
    /// certificate of `chain`.
    pub(super) fn root_of(&self, chain: &[CertificateDer<'_>]) -> Result<&'a Root, Rejected> {
        let (first, presented) = chain.split_first().ok_or(Rejected::NoCertificate)?;
        let end_entity = EndEntityCert::try_from(first)
            .map_err(|error| self.explain(error, Place::Leaf, chain))?;
        let anchors = self.bundle.anchors();
        let narrowed;
        let intermediates = if presented.len() <= narrow::PLAIN {
            presented
        } else {
            narrowed = narrow::candidates(&end_entity, presented, anchors, self.crypto).map_err(
                |refusal| match refusal {
                    SearchEnded::TooDeep => self.too_long(),
                    SearchEnded::TooMuchWork => self.too_much_work(),
                },
            )?;
            &narrowed
        };

        // What step 7 said of the paths found: the root of the one that passed, else what it had
        // against the first, which is nearer than any other reason.
        let verdict: RefCell<Option<Result<&'a Root, Rejected>>> = RefCell::new(None);
        let built = end_entity.verify_for_usage(
            self.crypto.signature_algorithms(),
            anchors,
            intermediates,
            UnixTime::since_unix_epoch(
                self.now
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or(Duration::ZERO),
            ),
            match self.usage {
                Usage::Client => KeyUsage::client_auth(),
                Usage::Server => KeyUsage::server_auth(),
            },
            None,
            Some(&|candidate| {
                let checked = self.check(candidate);
                let answer = checked.as_ref().map(drop).map_err(|_| Error::UnknownIssuer);
                let mut verdict = verdict.borrow_mut();
                if answer.is_ok() || verdict.is_none() {
                    *verdict = Some(checked);
                }
                answer
            }),
        );
        match (built, verdict.into_inner()) {
            (Ok(_), Some(Ok(root))) => Ok(root),
            (_, Some(Err(rejected))) => Err(rejected),
            (Err(error), _) => Err(self.explain(error, Place::Intermediate, chain)),
            // webpki asks us before it is content; if it ever does not, the peer is refused.
            (Ok(_), None) => Err(self.unknown_issuer(None)),
        }
    }

    /// Step 7: our own rules for a path that webpki found valid; returns its root.
    fn check(&self, path: &VerifiedPath<'_>) -> Result<&'a Root, Rejected> {
        let mut intermediates = 0;
        for cert in path.intermediate_certificates() {
            intermediates += 1;
            if let Some(got) = inspect::signing(&cert.der())? {
                return Err(Rejected::IssuerHasPath {
                    id: self.id.clone(),
                    got,
                });
            }
        }
        if intermediates + 2 > MAX_PATH_LEN {
            return Err(self.too_long());
        }
        let root = self.root_at(path, intermediates)?;
        self.check_revocation(path, root)?;
        Ok(root)
    }

    /// The root of the bundle that the path ends at, with its own limits.
    fn root_at(&self, path: &VerifiedPath<'_>, intermediates: u32) -> Result<&'a Root, Rejected> {
        // Roots that share name and key are one root with several lifetimes: any of them will do.
        let mut result = Err(self.unknown_issuer(None));
        for (root, anchor) in self.bundle.roots().iter().zip(self.bundle.anchors()) {
            if anchor != path.anchor() {
                continue;
            }
            // The limit in a root is the bundle owner's; webpki does not read it.
            if root
                .max_intermediates()
                .is_some_and(|max| intermediates > max)
            {
                result = Err(self.too_long());
            } else {
                let (from, to) = (root.not_before(), root.not_after());
                match check_time(self.id, Place::Root, from, to, self.now) {
                    Ok(()) => return Ok(root),
                    Err(rejected) => result = Err(rejected),
                }
            }
        }
        result
    }

    /// Asks the trust domain's revocation lists for the leaf and each intermediate.
    fn check_revocation(&self, path: &VerifiedPath<'_>, root: &Root) -> Result<(), Rejected> {
        if self.crls.is_empty() {
            return Ok(());
        }
        let lists = crl::Lists {
            crls: self.crls,
            roots: self.bundle.anchors(),
        };
        let intermediates: Vec<_> = path.intermediate_certificates().collect();
        let certs = std::iter::once::<&webpki::Cert<'_>>(path.end_entity())
            .chain(intermediates.iter().copied());
        for (index, cert) in certs.enumerate() {
            let (name, public_key, der) = match intermediates.get(index) {
                Some(above) => (
                    above.subject(),
                    above.subject_public_key_info(),
                    above.der(),
                ),
                None => (
                    path.anchor().subject.as_ref(),
                    webpki::spki_for_anchor(path.anchor()),
                    root.der().clone(),
                ),
            };
            let signer = inspect::crl_signer(&der);
            let issuer = crl::CertificateIssuer {
                name,
                key_id: signer.key_id.as_deref(),
                public_key: &public_key,
                may_sign: signer.may_sign,
            };
            let place = if index == 0 {
                Place::Leaf
            } else {
                Place::Intermediate
            };
            let id = || self.id.clone();
            match lists.status(&issuer, cert.serial(), self.now, self.crypto) {
                crl::Status::Valid => {}
                crl::Status::Revoked { since, reason } => {
                    return Err(Rejected::Revoked {
                        id: id(),
                        place,
                        serial: HEXLOWER.encode(cert.serial()),
                        since,
                        reason,
                    });
                }
                crl::Status::Stale { next_update } => {
                    return Err(Rejected::RevocationStale {
                        id: id(),
                        place,
                        next_update,
                        now: self.now,
                    });
                }
                crl::Status::Unknown { why } => {
                    return Err(Rejected::RevocationUnknown {
                        id: id(),
                        place,
                        why,
                    });
                }
            }
        }
        Ok(())
    }

    /// Says in our words what webpki has against the chain; `place` is where it is, if it is a
    /// fault of one certificate.
    fn explain(&self, error: Error, place: Place, chain: &[CertificateDer<'_>]) -> Rejected {
        let id = self.id.clone();
        match error {
            Error::UnknownIssuer => self.unknown_issuer(missing_issuer(chain, self.bundle)),
            Error::InvalidSignatureForPublicKey => match missing_issuer(chain, self.bundle) {
                // A new root under an old name: the key is not there, so it is no forgery.
                Some(key_id) => self.unknown_issuer(Some(key_id)),
                None => Rejected::BadSignature { id },
            },
            // The leaf's own time has been checked before.
            Error::CertExpired { not_after, .. } => Rejected::Expired {
                id,
                place,
                not_after: from_unix_time(not_after),
                now: self.now,
            },
            Error::CertNotValidYet { not_before, .. } => Rejected::NotYetValid {
                id,
                place,
                not_before: from_unix_time(not_before),
                now: self.now,
            },
            Error::EndEntityUsedAsCa => Rejected::IssuerMayNotSign { missing: "cA" },
            Error::NameConstraintViolation | Error::MalformedNameConstraint => {
                Rejected::NameConstraint { id }
            }
            Error::PathLenConstraintViolated | Error::MaximumPathDepthExceeded => self.too_long(),
            Error::MaximumSignatureChecksExceeded
            | Error::MaximumPathBuildCallsExceeded
            | Error::MaximumNameConstraintComparisonsExceeded => self.too_much_work(),
            Error::UnsupportedCriticalExtension => Rejected::UnknownCriticalExtension { id },
            Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => {
                Rejected::WrongUsage {
                    id,
                    usage: self.usage,
                }
            }
            Error::UnsupportedSignatureAlgorithmContext(_)
            | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
            | Error::SignatureAlgorithmMismatch => Rejected::UnsupportedSignature { id },
            Error::BadDer | Error::BadDerTime | Error::TrailingData(_) => Rejected::Malformed {
                place,
                what: "not an X.509 certificate",
            },
            other => Rejected::Path {
                id,
                reason: other.to_string(),
            },
        }
    }

    fn too_long(&self) -> Rejected {
        Rejected::PathTooLong {
            id: self.id.clone(),
            max: MAX_PATH_LEN,
        }
    }

    fn too_much_work(&self) -> Rejected {
        Rejected::TooMuchWork {
            id: self.id.clone(),
        }
    }

    fn unknown_issuer(&self, authority_key_id: Option<String>) -> Rejected {
        Rejected::UnknownIssuer {
            id: self.id.clone(),
            authority_key_id,
            roots: self
                .bundle
                .roots()
                .iter()
                .map(|root| root.key_id().to_owned())
                .collect(),
        }
    }
}

/// Both ends are inclusive, and count in whole seconds (RFC 5280, section 4.1.2.5).
pub(super) fn check_time(
    id: &SpiffeId,
    place: Place,
    not_before: SystemTime,
    not_after: SystemTime,
    now: SystemTime,
) -> Result<(), Rejected> {
    let id = || id.clone();
    if now < not_before {
        return Err(Rejected::NotYetValid {
            id: id(),
            place,
            not_before,
            now,
        });
    }
    if time::to_unix(now) > time::to_unix(not_after) {
        return Err(Rejected::Expired {
            id: id(),
            place,
            not_after,
            now,
        });
    }
    Ok(())
}

/// The first authority key id that is neither among the roots nor among what was presented.
fn missing_issuer(chain: &[CertificateDer<'_>], bundle: &TrustBundle) -> Option<String> {
    let links: Vec<_> = chain.iter().map(inspect::key_ids).collect();
    let known: HashSet<&str> = links
        .iter()
        .filter_map(|(subject, _)| subject.as_deref())
        .chain(bundle.roots().iter().map(Root::key_id))
        .collect();
    links
        .iter()
        .filter_map(|(_, authority)| authority.as_deref())
        .find(|authority| !known.contains(authority))
        .map(str::to_owned)
}

fn from_unix_time(moment: UnixTime) -> SystemTime {
    time::from_unix(i64::try_from(moment.as_secs()).unwrap_or(i64::MAX))
}
