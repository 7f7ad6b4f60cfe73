//! PEM text in, what its certificates say and what would be refused of them out: for people. Pure.
//!
//! It shows nothing of a private key but its kind, and trusts nothing: a signature is looked at only where
//! a bundle is given to verify the chain against.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use serde::{Serialize, Serializer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::ParsedExtension;
use x509_parser::public_key::PublicKey;

use super::inspect::{self, key_ids, parse};
use super::path::check_time;
use super::rejected::Place;
use super::{PrivateKey, SvidError, Usage, X509Svid, validate};
use crate::bundle::{TrustBundle, serial};
use crate::crl::Crl;
use crate::crypto::Crypto;
use crate::error::chain_of;
use crate::id::{TrustDomain, parse_bytes};
use crate::pem::{self, PemError};
use crate::store::IdentityState;
use crate::time;

/// The longest text that is quoted of a certificate, in characters.
const QUOTED: usize = 256;

/// What a PEM text holds; as JSON, moments are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Description {
    /// Its certificates, in order.
    pub certificates: Vec<CertificateInfo>,
    /// Its revocation lists, in order.
    pub revocation_lists: Vec<CrlInfo>,
    /// Whether it holds a private key, of which nothing is shown.
    pub private_key: bool,
    /// What would be refused of it, and why; empty if nothing would.
    pub refused: Vec<String>,
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CertificateInfo {
    /// Whether it is a CA's, and then whether it has signed itself: `leaf`, `intermediate` or `root`.
    pub kind: &'static str,
    /// The SPIFFE ID, or the trust domain of a CA.
    pub spiffe_id: Option<String>,
    /// The distinguished name; empty in most leaves.
    pub subject: String,
    /// The distinguished name of its issuer.
    pub issuer: String,
    /// The serial number in hexadecimal.
    pub serial: String,
    /// When it begins to be valid.
    #[serde(serialize_with = "unix")]
    pub not_before: SystemTime,
    /// When it ends.
    #[serde(serialize_with = "unix")]
    pub not_after: SystemTime,
    /// The kind of its key, e.g. `EC P-256`.
    pub key: String,
    /// Its key id in hexadecimal, if it has one.
    pub key_id: Option<String>,
    /// The key id of its issuer in hexadecimal, if it has one.
    pub issuer_key_id: Option<String>,
    /// Its alternative names, e.g. `URI:spiffe://lab.test/a`.
    pub names: Vec<String>,
}

/// What a revocation list says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CrlInfo {
    /// The distinguished name of its issuer.
    pub issuer: String,
    /// Its number in hexadecimal.
    pub number: String,
    /// How many certificates it names.
    pub entries: usize,
    /// Since when it holds.
    #[serde(serialize_with = "unix")]
    pub this_update: SystemTime,
    /// When it is stale.
    #[serde(serialize_with = "unix")]
    pub next_update: SystemTime,
}

impl CertificateInfo {
    /// When it begins and ends, as people write it.
    #[must_use]
    pub fn validity(&self) -> String {
        let (from, to) = (time::utc(self.not_before), time::utc(self.not_after));
        format!("{from} to {to}")
    }
}

/// Describes what `pem` holds: certificates, revocation lists and at most one private key.
///
/// What is refused is found as a peer, and the process that presents the chain, would:
///
/// 1. each leaf by the rules for SPIFFE leaves, each CA certificate by those for roots, and all by
///    their times at `now`;
/// 2. a chain (a leaf and what follows) whose certificates do not lead from one to the next;
/// 3. the chain under `bundle`, if one is given, for a server and for a client;
/// 4. a private key that is not the leaf's.
///
/// # Errors
///
/// [`PemError`] if a section cannot be read, or none of a certificate, a list and a key is there.
pub fn describe(
    pem: &[u8],
    bundle: Option<&[u8]>,
    now: SystemTime,
    crypto: &Crypto,
) -> Result<Description, PemError> {
    let (chain, lists) = pem::certificates_and_lists(pem)?;
    let key = match PrivateKey::among(pem) {
        Ok(key) => Some(key),
        Err(PemError::NoKey) => None,
        Err(error) => return Err(error),
    };
    if chain.is_empty() && key.is_none() && lists.is_empty() {
        return Err(PemError::NoCertificate);
    }
    let mut refused = Vec::new();
    let mut certificates = Vec::new();
    for (nth, der) in chain.iter().enumerate() {
        let named = |why: String| format!("certificate {}: {why}", nth + 1);
        match info(der) {
            Ok(info) => {
                refused.extend(against(der, &info, now).into_iter().map(named));
                certificates.push(info);
            }
            Err(error) => refused.push(named(chain_of(&error))),
        }
    }
    let leads = certificates
        .first()
        .is_some_and(|first| first.kind == "leaf");
    if leads && certificates.len() == chain.len() {
        refused.extend(gaps(&certificates));
        if let Some(bundle) = bundle {
            refused.extend(unverified(&chain, bundle, now, crypto));
        }
        if let Some(key) = &key {
            let svid = X509Svid::from_der(chain, key.clone(), None, crypto);
            // What is wrong with the chain stands above.
            if let Err(error @ (SvidError::Key { .. } | SvidError::KeyMismatch { .. })) = svid {
                refused.push(chain_of(&error));
            }
        }
    }
    let mut revocation_lists = Vec::new();
    for (nth, der) in lists.iter().enumerate() {
        let named = |why: &str| format!("revocation list {}: {why}", nth + 1);
        match Crl::from_der(der) {
            Ok(crl) => {
                if now > crl.next_update() {
                    refused.push(named(
                        "it is stale, so every certificate of its issuer is refused",
                    ));
                }
                revocation_lists.push(CrlInfo {
                    issuer: crl.issuer().to_owned(),
                    number: crl.number(),
                    entries: crl.len(),
                    this_update: crl.this_update(),
                    next_update: crl.next_update(),
                });
            }
            Err(error) => refused.push(named(&chain_of(&error))),
        }
    }
    Ok(Description {
        certificates,
        revocation_lists,
        private_key: key.is_some(),
        refused,
    })
}

fn unix<S: Serializer>(at: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_i64(time::to_unix(*at))
}

/// `None` where nothing of the kind is there.
fn info(der: &CertificateDer<'_>) -> Result<CertificateInfo, super::Rejected> {
    let cert = parse(der, Place::Leaf)?;
    let ca = inspect::is_ca(&cert, Place::Leaf)?;
    let names = alternative_names(&cert);
    let mut uris = names.iter().filter_map(|name| name.strip_prefix("URI:"));
    let spiffe_id = uris.find(|uri| parse_bytes(uri.as_bytes()).is_ok());
    let (key_id, issuer_key_id) = key_ids(der);
    Ok(CertificateInfo {
        kind: match (ca, cert.subject().as_raw() == cert.issuer().as_raw()) {
            (false, _) => "leaf",
            (true, false) => "intermediate",
            (true, true) => "root",
        },
        spiffe_id: spiffe_id.map(str::to_owned),
        subject: quoted(&cert.subject().to_string()),
        issuer: quoted(&cert.issuer().to_string()),
        serial: serial(&cert),
        not_before: time::from_unix(cert.validity().not_before.timestamp()),
        not_after: time::from_unix(cert.validity().not_after.timestamp()),
        key: key_kind(&cert),
        key_id,
        issuer_key_id,
        names,
    })
}

/// No control character of a certificate reaches a terminal.
fn quoted(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(QUOTED).map(shown).collect()
}

fn alternative_names(cert: &X509Certificate<'_>) -> Vec<String> {
    let extensions = cert.extensions().iter();
    let names = extensions.filter_map(|e| match e.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => format!("URI:{}", quoted(uri)),
        GeneralName::DNSName(dns) => format!("DNS:{}", quoted(dns)),
        GeneralName::RFC822Name(mail) => format!("email:{}", quoted(mail)),
        GeneralName::IPAddress(bytes) => {
            match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                (Ok(four), _) => format!("IP:{}", std::net::IpAddr::from(four)),
                (_, Ok(sixteen)) => format!("IP:{}", std::net::IpAddr::from(sixteen)),
                _ => "IP:(malformed)".to_owned(),
            }
        }
        _ => "(of another kind)".to_owned(),
    };
    names.flatten().map(name).collect()
}

fn key_kind(cert: &X509Certificate<'_>) -> String {
    let key = cert.public_key();
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA {}", rsa.key_size()),
        Ok(PublicKey::EC(point)) => format!("EC P-{}", point.key_size()),
        _ => match key.algorithm.algorithm.to_id_string().as_str() {
            "1.3.101.112" => "Ed25519".to_owned(),
            other => format!("of the kind {other}"),
        },
    }
}

/// What is against one certificate alone.
fn against(der: &CertificateDer<'static>, info: &CertificateInfo, now: SystemTime) -> Vec<String> {
    let mut found = Vec::new();
    if info.kind == "leaf" {
        match inspect::leaf(der) {
            Err(error) => found.push(chain_of(&error)),
            Ok(leaf) => {
                let (from, to) = (leaf.not_before, leaf.not_after);
                let time = check_time(&leaf.id, Place::Leaf, from, to, now);
                found.extend(time.err().map(|error| chain_of(&error)));
            }
        }
        return found;
    }
    if let Err(error) = inspect::signing(der) {
        found.push(chain_of(&error));
    }
    if info.kind == "root" {
        // Its own trust domain, or any: that is the bundle's to say.
        let domain = inspect::trust_domain_of_ca(der);
        let any = || "unknown".parse::<TrustDomain>().ok();
        if let Some(domain) = domain.or_else(any)
            && let Err(error) = TrustBundle::new(domain, [der.clone()])
        {
            found.push(chain_of(&error));
        }
    }
    if now < info.not_before {
        found.push("it is not valid yet".to_owned());
    } else if time::to_unix(now) > time::to_unix(info.not_after) {
        found.push("it has ended".to_owned());
    }
    found
}

/// Certificates of a chain whose issuer does not follow.
fn gaps(chain: &[CertificateInfo]) -> Option<String> {
    let pairs = chain.iter().zip(chain.iter().skip(1)).enumerate();
    let mut broken = pairs.filter(
        |(_, (of, issuer))| match (&of.issuer_key_id, &issuer.key_id) {
            (Some(names), Some(is)) => names != is,
            _ => of.issuer != issuer.subject,
        },
    );
    let (nth, _) = broken.next()?;
    let (of, next) = (nth + 1, nth + 2);
    Some(format!(
        "certificate {of} was not issued by certificate {next}"
    ))
}

/// Why no path leads to the bundle of the leaf's trust domain.
fn unverified(
    chain: &[CertificateDer<'static>],
    bundle: &[u8],
    now: SystemTime,
    crypto: &Crypto,
) -> Option<String> {
    let first = chain.first()?;
    let id = inspect::leaf(first).ok()?.id;
    let trusted = match TrustBundle::from_pem(id.trust_domain().clone(), bundle) {
        Ok(bundle) => IdentityState::from_bundles(bundle.into()),
        Err(error) => return Some(chain_of(&error)),
    };
    let verify = |usage| validate(chain, &trusted, now, usage, crypto);
    let refused = verify(Usage::Server)
        .err()
        .or_else(|| verify(Usage::Client).err())?;
    Some(format!("under the bundle: {}", chain_of(&refused)))
}

#[cfg(all(test, feature = "aws-lc-rs"))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::ManualClock;
    use crate::issue::ca::LocalCa;
    use crate::issue::csr;

    type Fallible = Result<(), Box<dyn std::error::Error>>;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    /// A CA, and the files of an SVID of it.
    fn world() -> Result<(LocalCa, String, String), Box<dyn std::error::Error>> {
        let (crypto, clock) = (Crypto::aws_lc_rs(), ManualClock::new(now()).shared());
        let ca = LocalCa::create("lab.test".parse()?, 24 * HOUR, &crypto, clock)?;
        let ca = ca.with_leaf_lifetime(HOUR);
        let id = "spiffe://lab.test/ns/shop/sa/cart".parse()?;
        let (key, csr) = csr::generate(&id, &crypto)?;
        let svid = ca.sign(&id, &csr)?.into_svid(key, &crypto)?;
        let (chain, key) = (svid.chain_pem(), svid.key().to_secret_pem().to_string());
        Ok((ca, chain, key))
    }

    fn said(pem: &str, bundle: Option<&str>, at: SystemTime) -> Result<Description, PemError> {
        let bundle = bundle.map(str::as_bytes);
        describe(pem.as_bytes(), bundle, at, &Crypto::aws_lc_rs())
    }

    #[test]
    fn a_good_chain_is_described_and_nothing_is_refused() -> Fallible {
        let (ca, chain, key) = world()?;
        let bundle = ca.bundle().to_pem();
        let all = format!("{chain}{key}");
        let good = said(&all, Some(&bundle), now())?;
        assert_eq!(good.refused, [""; 0]);
        assert!(good.private_key);
        let leaf = &good.certificates[0];
        let id = Some("spiffe://lab.test/ns/shop/sa/cart");
        assert_eq!((leaf.kind, leaf.spiffe_id.as_deref()), ("leaf", id));
        assert_eq!(leaf.names, ["URI:spiffe://lab.test/ns/shop/sa/cart"]);
        assert_eq!(leaf.not_after, now() + HOUR);
        assert_eq!(leaf.key, "EC P-256");
        let root = said(&bundle, None, now())?;
        assert_eq!(root.refused, [""; 0]);
        assert_eq!(root.certificates[0].kind, "root");
        assert_eq!(root.certificates[0].key_id, leaf.issuer_key_id);
        let shown = format!("{good:?}{}", serde_json::to_string(&good)?);
        let secret = key.lines().nth(1).ok_or("a key")?;
        assert!(!shown.contains(secret));
        Ok(())
    }

    #[test]
    fn what_would_be_refused_is_said_with_its_reason() -> Fallible {
        let ((ca, chain, _), (other, _, key)) = (world()?, world()?);
        let own = ca.bundle().to_pem();
        let foreign = other.bundle().to_pem();
        for (pem, bundle, at, why) in [
            (chain.clone(), None, now() + 2 * HOUR, "certificate 1: "),
            (chain.clone(), None, now() - HOUR, "certificate 1: "),
            (chain.clone(), Some(&*foreign), now(), "under the bundle: "),
            (chain.clone(), Some("garbage"), now(), "cannot be read"),
            (
                format!("{chain}{foreign}"),
                None,
                now(),
                "certificate 1 was not issued by certificate 2",
            ),
            (format!("{chain}{key}"), None, now(), "does not match"),
            (
                own.clone(),
                None,
                now() + 100 * 24 * HOUR,
                "certificate 1: it has ended",
            ),
        ] {
            let said = said(&pem, bundle, at)?.refused;
            assert!(
                said.iter().any(|said| said.contains(why)),
                "{why}: {said:?}"
            );
        }
        assert_eq!(said("", None, now()), Err(PemError::NoCertificate));
        assert!(said(&format!("{chain}-----BEGIN X-----"), None, now()).is_err());
        Ok(())
    }
}
