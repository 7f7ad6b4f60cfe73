//! A presented chain and the current state in, a verified identity or the reason against it out.
//! Pure: it serves TLS handshakes, and the sweep that closes connections which a new state forbids.
//!
//! Path building is rustls-webpki's, which is tested against far more than a mesh sees; what SPIFFE
//! adds is checked here, beside it. Neither knows the other's rules, so both have to say yes.

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage, VerifiedPath};

use super::inspect::{self, Leaf};
use super::rejected::{Place, Rejected};
use super::{Usage, Verified};
use crate::bundle::{Root, TrustBundle};
use crate::id::SpiffeId;
use crate::store::IdentityState;
use crate::time;
use crate::tls::Crypto;

/// How many certificates a path may have, leaf and root included.
pub const MAX_PATH_LEN: u32 = 6;

/// How many certificates a peer may present, in any order.
pub const MAX_PRESENTED: usize = 16;

/// How many bytes all presented certificates may have together.
pub const MAX_PRESENTED_BYTES: usize = 64 * 1024;

/// Decides whether `chain` (leaf first, the rest in any order) is a peer that `state` trusts for
/// `usage` at the moment `now`.
///
/// 1. What is presented is bounded, in number and bytes, before anything is parsed.
/// 2. The leaf alone is a SPIFFE leaf: S1 to S5, S7, S8, S12 to S15.
/// 3. The bundle of the ID's own trust domain is looked up; no other root takes part (S6).
/// 4. The leaf is valid at `now`.
/// 5. rustls-webpki builds a path to one of those roots: signatures, validity, cA, path length,
///    extended key usage, name constraints (those for URIs always refuse).
/// 6. The path found is short, its intermediates may sign and carry no workload's ID (S11), and
///    its root is valid at `now`. Otherwise the search goes on with the next path.
///
/// # Errors
///
/// [`Rejected`]: the first step that fails, or for 5 and 6 what came closest to a path.
pub fn validate(
    chain: &[CertificateDer<'_>],
    state: &IdentityState,
    now: SystemTime,
    usage: Usage,
    crypto: &Crypto,
) -> Result<Verified, Rejected> {
    let (first, intermediates) = chain.split_first().ok_or(Rejected::NoCertificate)?;
    if chain.len() > MAX_PRESENTED {
        return Err(Rejected::ChainTooLong {
            got: chain.len(),
            max: MAX_PRESENTED,
        });
    }
    let bytes = chain.iter().map(|cert| cert.len()).sum();
    if bytes > MAX_PRESENTED_BYTES {
        return Err(Rejected::ChainTooLarge {
            got: bytes,
            max: MAX_PRESENTED_BYTES,
        });
    }

    let leaf = inspect::leaf(first)?;
    let bundle = bundle_of(&leaf.id, state)?;
    check_time(&leaf.id, Place::Leaf, leaf.not_before, leaf.not_after, now)?;

    let path = Path {
        leaf: &leaf,
        bundle,
        now,
        usage,
    };
    let end_entity =
        EndEntityCert::try_from(first).map_err(|error| path.explain(error, Place::Leaf, chain))?;
    // What step 6 had against a path that was complete otherwise: nearer than any other reason.
    let refusal = RefCell::new(None);
    let built = end_entity.verify_for_usage(
        crypto.signature_algorithms(),
        bundle.anchors(),
        intermediates,
        UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)),
        match usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        },
        None,
        Some(&|candidate| {
            path.check(candidate).map(drop).map_err(|rejected| {
                refusal.borrow_mut().get_or_insert(rejected);
                Error::UnknownIssuer
            })
        }),
    );
    match built {
        Ok(built) => {
            let root = path.check(&built)?;
            Ok(Verified {
                id: leaf.id.clone(),
                not_after: leaf.not_after,
                serial: leaf.serial.clone(),
                root_key_id: root.key_id().to_owned(),
            })
        }
        Err(error) => Err(refusal
            .into_inner()
            .unwrap_or_else(|| path.explain(error, Place::Intermediate, chain))),
    }
}

/// What the steps about the path need to know.
struct Path<'a> {
    leaf: &'a Leaf,
    bundle: &'a TrustBundle,
    now: SystemTime,
    usage: Usage,
}

impl<'a> Path<'a> {
    /// Step 6: our own rules for a path that webpki found valid; returns its root.
    fn check(&self, path: &VerifiedPath<'_>) -> Result<&'a Root, Rejected> {
        let mut intermediates = 0;
        for cert in path.intermediate_certificates() {
            intermediates += 1;
            if let Some(got) = inspect::signing(&cert.der())? {
                return Err(Rejected::IssuerHasPath {
                    id: self.leaf.id.clone(),
                    got,
                });
            }
        }
        if intermediates + 2 > MAX_PATH_LEN {
            return Err(self.too_long());
        }
        // Roots that share name and key are one root with several lifetimes: any of them will do.
        let mut result = Err(self.unknown_issuer(None));
        for (root, anchor) in self.bundle.roots().iter().zip(self.bundle.anchors()) {
            if anchor != path.anchor() {
                continue;
            }
            // The limit in a root is the word of the bundle's owner; webpki does not read it.
            if root
                .max_intermediates()
                .is_some_and(|max| intermediates > max)
            {
                result = Err(self.too_long());
            } else {
                let (from, to) = (root.not_before(), root.not_after());
                match check_time(&self.leaf.id, Place::Root, from, to, self.now) {
                    Ok(()) => return Ok(root),
                    Err(rejected) => result = Err(rejected),
                }
            }
        }
        result
    }

    /// Says in our words what webpki has against the chain; `place` is where it is, if it is a
    /// fault of one certificate.
    fn explain(&self, error: Error, place: Place, chain: &[CertificateDer<'_>]) -> Rejected {
        let id = self.leaf.id.clone();
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
            | Error::MaximumNameConstraintComparisonsExceeded => Rejected::TooMuchWork { id },
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
            id: self.leaf.id.clone(),
            max: MAX_PATH_LEN,
        }
    }

    fn unknown_issuer(&self, authority_key_id: Option<String>) -> Rejected {
        Rejected::UnknownIssuer {
            id: self.leaf.id.clone(),
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

/// Step 3: the bundle of the ID's own trust domain.
fn bundle_of<'a>(id: &SpiffeId, state: &'a IdentityState) -> Result<&'a TrustBundle, Rejected> {
    let trust_domain = id.trust_domain();
    match state.bundles().get(trust_domain) {
        Some(bundle) if bundle.is_distrusted() => Err(Rejected::Distrusted {
            id: id.clone(),
            trust_domain: trust_domain.clone(),
        }),
        Some(bundle) => Ok(bundle),
        None => Err(Rejected::UnknownTrustDomain {
            id: id.clone(),
            known: state
                .bundles()
                .iter()
                .map(|b| b.trust_domain().clone())
                .collect(),
        }),
    }
}

/// Both ends are inclusive, and count in whole seconds (RFC 5280, section 4.1.2.5).
fn check_time(
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
