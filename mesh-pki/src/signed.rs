//! A signed structure in DER and a public key in, whether the one is signed with the other out.
//!
//! Certificates, requests and revocation lists share one shape (RFC 5280, section 4.1.1): a body,
//! the algorithm's identifier, a signature over the body. The parsers that read their content keep
//! no raw bytes of the second, so the three are cut apart here; what is inside is not looked at.

use rustls_pki_types::SubjectPublicKeyInfoDer;
use webpki::RawPublicKeyEntity;
use x509_parser::asn1_rs::{Any, FromDer, Tag};

use crate::crypto::Crypto;

/// The three parts of a signed structure; the signature has not been looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signed<'a> {
    /// What is signed, with its header.
    body: &'a [u8],
    /// The content of the AlgorithmIdentifier.
    algorithm: &'a [u8],
    signature: &'a [u8],
}

/// Why a signature does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignatureError {
    /// It was not made with this key over this body.
    Bad,
    /// The public key cannot be read.
    Key,
    /// The crypto provider has no such algorithm for such a key.
    Unsupported,
}

impl<'a> Signed<'a> {
    /// Cuts `der` apart; `None` if it has another shape, or bytes behind it.
    pub(crate) fn parse(der: &'a [u8]) -> Option<Self> {
        let ([], inner) = element(der, Tag::Sequence)? else {
            return None;
        };
        let (rest, _) = element(inner, Tag::Sequence)?;
        let body = &inner[..inner.len() - rest.len()];
        let (rest, algorithm) = element(rest, Tag::Sequence)?;
        let ([], bits) = element(rest, Tag::BitString)? else {
            return None;
        };
        // Signatures are whole bytes: no bit of the last one is unused.
        let (0, signature) = bits.split_first().map(|(unused, rest)| (*unused, rest))? else {
            return None;
        };
        Some(Self {
            body,
            algorithm,
            signature,
        })
    }

    /// Verifies the signature with `public_key`.
    ///
    /// Tries each algorithm that the provider has under the identifier: a curve and a hash make one
    /// each, and the identifier names only the hash.
    pub(crate) fn verify(
        &self,
        public_key: &SubjectPublicKeyInfoDer<'_>,
        crypto: &Crypto,
    ) -> Result<(), SignatureError> {
        let key = RawPublicKeyEntity::try_from(public_key).map_err(|_| SignatureError::Key)?;
        let mut result = Err(SignatureError::Unsupported);
        for algorithm in crypto.signature_algorithms() {
            if algorithm.signature_alg_id().as_ref() != self.algorithm {
                continue;
            }
            match key.verify_signature(*algorithm, self.body, self.signature) {
                Ok(()) => return Ok(()),
                Err(webpki::Error::InvalidSignatureForPublicKey) => {
                    result = Err(SignatureError::Bad);
                }
                // Another curve with the same hash.
                Err(_) => {}
            }
        }
        result
    }
}

/// The content of the element that `der` begins with, and what follows it.
fn element(der: &[u8], tag: Tag) -> Option<(&[u8], &[u8])> {
    let (rest, any) = Any::from_der(der).ok()?;
    (any.tag() == tag).then_some((rest, any.data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ca, crypto, leaf};

    #[test]
    fn a_certificate_is_signed_by_its_issuer_and_by_nobody_else() {
        let (ca, other) = (Ca::new("root"), Ca::new("other"));
        let cert = leaf("spiffe://td/a").signed_by(&ca);
        let signed = Signed::parse(&cert).unwrap();
        let key = |ca: &Ca| webpki::spki_for_anchor(&ca.bundle("td").anchors()[0]);
        assert_eq!(signed.verify(&key(&ca), &crypto()), Ok(()));
        assert_eq!(
            signed.verify(&key(&other), &crypto()),
            Err(SignatureError::Bad)
        );
        let junk = SubjectPublicKeyInfoDer::from(vec![0x30, 0]);
        assert_eq!(signed.verify(&junk, &crypto()), Err(SignatureError::Key));
        let unknown = Signed {
            algorithm: b"?",
            ..signed
        };
        assert_eq!(
            unknown.verify(&key(&ca), &crypto()),
            Err(SignatureError::Unsupported)
        );
    }

    #[test]
    fn another_shape_is_no_signed_structure() {
        let good = [0x30, 9, 0x30, 0, 0x30, 0, 3, 3, 0, 1, 2];
        assert_eq!(
            Signed::parse(&good),
            Some(Signed {
                body: &[0x30, 0],
                algorithm: &[],
                signature: &[1, 2]
            })
        );
        // Every byte that shapes it, changed; the signature's own two bytes are free.
        for at in 0..9 {
            let mut bad = good;
            bad[at] ^= 1;
            assert_eq!(Signed::parse(&bad), None, "byte {at}");
        }
        for end in 0..good.len() {
            assert_eq!(Signed::parse(&good[..end]), None, "cut at {end}");
        }
        let mut long = good.to_vec();
        long.push(0);
        assert_eq!(Signed::parse(&long), None);
    }
}
