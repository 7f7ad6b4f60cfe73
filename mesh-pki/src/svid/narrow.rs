//! Many presented certificates and the roots in, the few that can stand on a path out.
//!
//! Path building tries every order of what it is given, and a peer may present hundreds of
//! certificates of its own making that name each other. So, where more are presented than a path
//! can have, the search is turned round first: from the roots downwards only what they vouch for is
//! followed, and a stranger's certificate drops out at its first signature. Benign chains are
//! shorter, and pay nothing. Dates, constraints and usages are left to path building.

use std::collections::HashSet;

use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, TrustAnchor};
use webpki::EndEntityCert;

use super::path::MAX_PATH_LEN;
use crate::signed::Signed;
use crate::tls::Crypto;

/// How many intermediates a path can have; so many are handed on as they are.
pub(super) const PLAIN: usize = MAX_PATH_LEN as usize - 2;

/// How many signatures are verified at most before path building begins.
const MAX_CHECKS: usize = 64;

/// How many intermediates that a root vouches for are handed on at most.
const MAX_CANDIDATES: usize = 8;

/// Why there is nothing to hand on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// What the roots vouch for goes on below the longest path.
    TooDeep,
    /// The search was given up.
    TooMuchWork,
}

/// Chooses from `presented` what may lie between `leaf` and `anchors`.
///
/// 1. Certificates that cannot be read, stand there twice, or are one of the roots, are left out.
/// 2. From the leaf upwards, by names alone: what is no issuer's issuer is left out.
/// 3. From the roots downwards, level by level: a certificate stays if a root, or one that stays,
///    signed it. At most [`MAX_CHECKS`] signatures are verified.
/// 4. If more than [`MAX_CANDIDATES`] stay, they are too deep or too many.
pub(super) fn candidates<'a>(
    leaf: &EndEntityCert<'_>,
    presented: &'a [CertificateDer<'a>],
    anchors: &[TrustAnchor<'_>],
    crypto: &Crypto,
) -> Result<Vec<CertificateDer<'a>>, Refusal> {
    let mut seen: HashSet<&[u8]> = HashSet::new();
    let mut certs = Vec::new();
    for der in presented {
        if seen.insert(der)
            && let Ok(cert) = EndEntityCert::try_from(der)
        {
            certs.push(cert);
        }
    }
    let roots: Vec<_> = anchors
        .iter()
        .map(|anchor| (anchor.subject.as_ref(), webpki::spki_for_anchor(anchor)))
        .collect();
    certs.retain(|cert| {
        let key = cert.subject_public_key_info();
        !roots
            .iter()
            .any(|(name, root)| *name == cert.subject() && *root == key)
    });

    let mut wanted = HashSet::from([leaf.issuer().to_vec()]);
    let mut found = 0;
    while wanted.len() > found {
        found = wanted.len();
        let issuers = certs
            .iter()
            .filter(|cert| wanted.contains(cert.subject()))
            .map(|cert| cert.issuer().to_vec());
        let issuers: Vec<_> = issuers.collect();
        wanted.extend(issuers);
    }
    certs.retain(|cert| wanted.contains(cert.subject()));

    let mut chosen = Vec::new();
    let mut checks = 0;
    // Name and key of whoever may vouch for others, level by level.
    let mut level: Vec<(Vec<u8>, SubjectPublicKeyInfoDer<'_>)> = roots
        .into_iter()
        .map(|(name, key)| (name.to_vec(), key))
        .collect();
    let mut depth = 0;
    while !level.is_empty() {
        depth += 1;
        let mut next = Vec::new();
        for (name, key) in &level {
            let mut at = 0;
            while at < certs.len() {
                if certs[at].issuer() != name.as_slice() {
                    at += 1;
                    continue;
                }
                checks += 1;
                if checks > MAX_CHECKS {
                    return Err(Refusal::TooMuchWork);
                }
                let der = certs[at].der();
                let signed = Signed::parse(&der);
                let vouched = signed.is_some_and(|cert| cert.verify(key, crypto).is_ok());
                if !vouched {
                    at += 1;
                    continue;
                }
                let cert = certs.remove(at);
                next.push((cert.subject().to_vec(), cert.subject_public_key_info()));
                chosen.push(der);
                if chosen.len() > MAX_CANDIDATES {
                    return Err(if depth > PLAIN {
                        Refusal::TooDeep
                    } else {
                        Refusal::TooMuchWork
                    });
                }
            }
        }
        level = next;
    }
    Ok(chosen)
}
