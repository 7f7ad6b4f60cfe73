//! Many presented certificates and the roots in, the few that can stand on a path out.
//!
//! Path building tries every order of what it is given, and a peer may present hundreds of
//! certificates of its own making that name each other. So, where more are presented than a path
//! can have, the search is turned round first: from the roots downwards only what they vouch for is
//! followed, and a stranger's certificate drops out at its first signature. Benign chains are
//! shorter, and pay nothing. Dates, constraints and usages are left to path building.

use std::collections::{HashMap, HashSet};

use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, TrustAnchor};
use webpki::EndEntityCert;

use crate::crypto::Crypto;
use crate::signed::Signed;

/// How many certificates a path may have, leaf and root included.
pub const MAX_PATH_LEN: u32 = 6;

/// How many intermediates a path can have; so many are handed on as they are.
pub(super) const PLAIN: usize = MAX_PATH_LEN as usize - 2;

/// How many signatures are verified at most before path building begins.
const MAX_CHECKS: usize = 64;

/// How many intermediates that a root vouches for are handed on at most.
const MAX_CANDIDATES: usize = 8;

/// Why there is nothing to hand on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SearchEnded {
    /// Even the shortest way from the leaf to a root, by names, is longer than a path may be.
    TooDeep,
    /// The search was given up.
    TooMuchWork,
}

/// Chooses from `presented` what may lie between `leaf` and `anchors`.
///
/// 1. Certificates that cannot be read, stand there twice, or are one of the roots, are left out.
/// 2. By names alone, each one's distance from the leaf and from a root is measured; it stays if
///    the shortest way through it is short enough for a path.
/// 3. From the roots downwards, level by level: it stays if a root, or one that stays, signed it.
///    At most [`MAX_CHECKS`] signatures are verified, and at most [`MAX_CANDIDATES`] stay.
pub(super) fn candidates<'a>(
    leaf: &EndEntityCert<'_>,
    presented: &'a [CertificateDer<'a>],
    anchors: &[TrustAnchor<'_>],
    crypto: &Crypto,
) -> Result<Vec<CertificateDer<'a>>, SearchEnded> {
    let roots: Vec<_> = anchors
        .iter()
        .map(|anchor| (anchor.subject.as_ref(), webpki::spki_for_anchor(anchor)))
        .collect();
    let certs = readable(presented, &roots);

    let up = distances(
        [leaf.issuer()],
        &certs,
        |cert| cert.subject(),
        |cert| cert.issuer(),
    );
    let root_names = roots.iter().map(|(name, _)| *name);
    let down = distances(
        root_names,
        &certs,
        |cert| cert.issuer(),
        |cert| cert.subject(),
    );
    let way =
        |cert: &EndEntityCert<'_>| Some(up.get(cert.subject())? + down.get(cert.issuer())? + 1);
    let near: Vec<_> = certs
        .iter()
        .filter(|cert| way(cert).is_some_and(|way| way <= PLAIN))
        .collect();
    // With a root as the leaf's own issuer there is a way without any of them.
    if near.is_empty()
        && down.get(leaf.issuer()) != Some(&0)
        && certs.iter().any(|c| way(c).is_some())
    {
        return Err(SearchEnded::TooDeep);
    }
    vouched(near, roots, crypto)
}

/// Step 1: whatever can be read, once, and without the roots themselves.
fn readable<'a>(
    presented: &'a [CertificateDer<'a>],
    roots: &[(&[u8], SubjectPublicKeyInfoDer<'_>)],
) -> Vec<EndEntityCert<'a>> {
    let mut seen: HashSet<&[u8]> = HashSet::new();
    let mut certs = Vec::new();
    for der in presented {
        if seen.insert(der)
            && let Ok(cert) = EndEntityCert::try_from(der)
        {
            certs.push(cert);
        }
    }
    certs.retain(|cert| {
        let key = cert.subject_public_key_info();
        !roots
            .iter()
            .any(|(name, root)| *name == cert.subject() && *root == key)
    });
    certs
}

/// Step 2: how many certificates lie between each name and the nearest of `start`, going through a
/// certificate from the name that `from` reads in it to the one that `to` reads.
fn distances<'c>(
    start: impl IntoIterator<Item = &'c [u8]>,
    certs: &'c [EndEntityCert<'_>],
    from: impl Fn(&'c EndEntityCert<'_>) -> &'c [u8],
    to: impl Fn(&'c EndEntityCert<'_>) -> &'c [u8],
) -> HashMap<&'c [u8], usize> {
    let mut ways: HashMap<&[u8], Vec<&[u8]>> = HashMap::new();
    for cert in certs {
        ways.entry(from(cert)).or_default().push(to(cert));
    }
    let mut found = HashMap::new();
    let mut level: Vec<&[u8]> = start.into_iter().collect();
    let mut distance = 0;
    while !level.is_empty() {
        level.retain(|name| found.insert(*name, distance).is_none());
        level = level
            .iter()
            .filter_map(|name| ways.get(name))
            .flatten()
            .filter(|name| !found.contains_key(**name))
            .copied()
            .collect();
        distance += 1;
    }
    found
}

/// Step 3: those that a chain of signatures ties to a root.
fn vouched<'a>(
    mut certs: Vec<&EndEntityCert<'a>>,
    roots: Vec<(&[u8], SubjectPublicKeyInfoDer<'static>)>,
    crypto: &Crypto,
) -> Result<Vec<CertificateDer<'a>>, SearchEnded> {
    let mut chosen = Vec::new();
    let mut checks = 0;
    // Name and key of each certificate that may vouch for others.
    let mut level: Vec<_> = roots
        .into_iter()
        .map(|(name, key)| (name.to_vec(), key))
        .collect();
    while !level.is_empty() {
        let mut next = Vec::new();
        for (name, key) in &level {
            let mut rest = Vec::with_capacity(certs.len());
            for cert in certs {
                if cert.issuer() != name.as_slice() {
                    rest.push(cert);
                    continue;
                }
                checks += 1;
                if checks > MAX_CHECKS {
                    return Err(SearchEnded::TooMuchWork);
                }
                let der = cert.der();
                let signed = Signed::parse(&der);
                let vouched = signed.is_some_and(|signed| signed.verify(key, crypto).is_ok());
                if !vouched {
                    rest.push(cert);
                    continue;
                }
                next.push((cert.subject().to_vec(), cert.subject_public_key_info()));
                chosen.push(der);
                if chosen.len() > MAX_CANDIDATES {
                    return Err(SearchEnded::TooMuchWork);
                }
            }
            certs = rest;
        }
        level = next;
    }
    Ok(chosen)
}
