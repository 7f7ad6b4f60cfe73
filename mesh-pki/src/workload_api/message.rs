//! Messages in, SVIDs and bundles out, and back. Pure: what is read here has been checked, and what
//! is not whole is refused whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use prost_types::{ListValue, NullValue, Struct, Value as ProtoValue, value::Kind};
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::bundle::{BundleError, BundleSet, TrustBundle};
use crate::crl::{Crl, CrlError, CrlSet};
use crate::crypto::Crypto;
use crate::id::{IdError, SpiffeId, TrustDomain};
use crate::jwt::{KeySet, KeySetError};
use crate::proto::workload::{JwtBundlesResponse, X509BundlesResponse, X509svid, X509svidResponse};
use crate::store::IdentityState;
use crate::svid::{PrivateKey, Rejected, SvidError, X509Svid, validate_own};

/// The most SVIDs that one message may hold.
const MAX_SVIDS: usize = 1_000;

/// The most certificates in one field.
const MAX_CERTIFICATES: usize = 64;

/// Why a message of a Workload API is discarded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// A bundle in it cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// None of the SVIDs has the ID that this process is to have.
    #[error(
        "no SVID in it has an ID with the path {path}, the first is that of {}",
        first(ids)
    )]
    OtherIds {
        /// The path that was asked for.
        path: String,
        /// The IDs that are there.
        ids: Vec<SpiffeId>,
    },
    /// A field holds something else than certificates one after the other.
    #[error("the {field} is not a sequence of certificates")]
    Certificates {
        /// Which field.
        field: &'static str,
    },
    /// A revocation list in it cannot be used.
    #[error(transparent)]
    Crl(#[from] CrlError),
    /// Two bundles of one trust domain; they are never merged.
    #[error("there are two different bundles of {trust_domain}")]
    DifferentBundles {
        /// The trust domain of the bundles.
        trust_domain: TrustDomain,
    },
    /// A SPIFFE ID in it is invalid.
    #[error("the {field} is not a SPIFFE ID: {reason}")]
    Id {
        /// Which field.
        field: &'static str,
        /// The first rule that it breaks.
        #[source]
        reason: IdError,
    },
    /// A JWT bundle in it cannot be used.
    #[error("the JWT bundle of {trust_domain} cannot be used")]
    JwtBundle {
        /// The trust domain of the bundle.
        trust_domain: TrustDomain,
        /// What is wrong with it.
        #[source]
        source: KeySetError,
    },
    /// A field that must be there is empty.
    #[error("the mandatory field {field} is empty")]
    Missing {
        /// Which field.
        field: &'static str,
    },
    /// The chain of an SVID does not verify under the bundle beside it.
    #[error("an SVID does not verify under its own bundle")]
    NotValid(#[from] Rejected),
    /// An SVID in it is invalid.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// More SVIDs than one workload has.
    #[error("the message has {got} SVIDs, at most {MAX_SVIDS} are looked at")]
    TooMany {
        /// How many there are.
        got: usize,
    },
    /// The SVID is of another workload than the message says.
    #[error("the message says {said}, the certificate {got}")]
    WrongId {
        /// The ID in the message.
        said: SpiffeId,
        /// The ID in the certificate.
        got: SpiffeId,
    },
}

/// All that a workload is and trusts, of one message.
#[derive(Debug)]
pub(super) struct X509Update {
    /// At least one; the first is the default.
    pub(super) svids: Vec<X509Svid>,
    pub(super) bundles: BTreeMap<TrustDomain, TrustBundle>,
    pub(super) crls: CrlSet,
}

fn first(ids: &[SpiffeId]) -> &str {
    ids.first().map_or("no ID", SpiffeId::as_str)
}

/// Reads a message of FetchX509SVID.
///
/// 1. Each SVID is whole, is of the workload that the message says, and verifies now under the
///    bundle beside it, as client and as server: what a peer would refuse is not taken.
/// 2. Of several SVIDs with the same ID the first is taken (section 5.2.1).
/// 3. Bundles of one trust domain, its own and federated, agree.
/// 4. Revocation lists come without a trust domain, so each counts in all of them; it covers
///    no certificate there but those whose issuer's key has signed it.
pub(super) fn read_x509(
    message: X509svidResponse,
    now: SystemTime,
    crypto: &Crypto,
) -> Result<X509Update, MessageError> {
    let got = message.svids.len();
    if got == 0 {
        return Err(MessageError::Missing { field: "svids" });
    }
    if got > MAX_SVIDS {
        return Err(MessageError::TooMany { got });
    }
    let mut update = X509Update {
        svids: Vec::with_capacity(got),
        bundles: BTreeMap::new(),
        crls: CrlSet::new(),
    };
    for (trust_domain, roots) in &message.federated_bundles {
        let trust_domain = trust_domain_of(trust_domain)?;
        update.put(bundle(trust_domain, roots, "federated bundle")?)?;
    }
    for svid in message.svids {
        let (svid, bundle) = read_svid(svid, now, crypto)?;
        update.put(bundle)?;
        if !update.svids.iter().any(|other| other.id() == svid.id()) {
            update.svids.push(svid);
        }
    }
    let crls = message.crl.iter().map(|der| Crl::from_der(der));
    let crls = crls.collect::<Result<Vec<_>, _>>()?;
    if !crls.is_empty() {
        for trust_domain in update.bundles.keys() {
            update.crls.replace(trust_domain.clone(), crls.clone())?;
        }
    }
    Ok(update)
}

impl X509Update {
    fn put(&mut self, bundle: TrustBundle) -> Result<(), MessageError> {
        let trust_domain = bundle.trust_domain().clone();
        match self.bundles.insert(trust_domain.clone(), bundle) {
            Some(before) if before != self.bundles[&trust_domain] => {
                Err(MessageError::DifferentBundles { trust_domain })
            }
            _ => Ok(()),
        }
    }
}

fn read_svid(
    message: X509svid,
    now: SystemTime,
    crypto: &Crypto,
) -> Result<(X509Svid, TrustBundle), MessageError> {
    // First of all, so that the key is wiped whatever follows.
    let key = PrivateKey::from_pkcs8_der(message.x509_svid_key);
    for (field, empty) in [
        ("spiffe_id", message.spiffe_id.is_empty()),
        ("x509_svid", message.x509_svid.is_empty()),
        ("x509_svid_key", key.secret_pkcs8_der().is_empty()),
        ("bundle", message.bundle.is_empty()),
    ] {
        if empty {
            return Err(MessageError::Missing { field });
        }
    }
    let said: SpiffeId = message
        .spiffe_id
        .parse()
        .map_err(|reason| MessageError::Id {
            field: "spiffe_id",
            reason,
        })?;
    let chain = split(&message.x509_svid, "x509_svid")?;
    let svid = X509Svid::from_der(chain, key, None, crypto)?;
    if *svid.id() != said {
        return Err(MessageError::WrongId {
            said,
            got: svid.id().clone(),
        });
    }
    let bundle = bundle(said.trust_domain().clone(), &message.bundle, "bundle")?;
    let trusted = IdentityState::from_bundles(bundle.clone().into());
    validate_own(&svid, &trusted, now, crypto)?;
    Ok((svid, bundle))
}

/// Reads a message of FetchJWTBundles; keys without an id are left out (JWT-SVID.md, section 6.1).
pub(super) fn read_jwt(
    message: &JwtBundlesResponse,
) -> Result<BTreeMap<TrustDomain, KeySet>, MessageError> {
    if message.bundles.is_empty() {
        return Err(MessageError::Missing { field: "bundles" });
    }
    let bundles = message.bundles.iter().map(|(trust_domain, jwks)| {
        let trust_domain = trust_domain_of(trust_domain)?;
        match KeySet::from_jwks(jwks) {
            Ok(keys) => Ok((trust_domain, keys.named())),
            Err(source) => Err(MessageError::JwtBundle {
                trust_domain,
                source,
            }),
        }
    });
    bundles.collect()
}

/// The message of FetchX509SVID for SVIDs with their hints, as far as their bundles are there;
/// nothing, if that leaves none.
#[cfg(unix)]
pub(super) fn write_x509(
    svids: &[(Arc<X509Svid>, String)],
    bundles: &BundleSet,
    crls: &CrlSet,
) -> Option<X509svidResponse> {
    let mut message = X509svidResponse {
        crl: write_crls(crls),
        ..X509svidResponse::default()
    };
    for (svid, hint) in svids {
        let own = bundles.get(svid.id().trust_domain());
        let Some(bundle) = own.filter(|bundle| !bundle.is_distrusted()) else {
            continue;
        };
        message.svids.push(X509svid {
            spiffe_id: svid.id().to_string(),
            x509_svid: join(svid.chain()),
            x509_svid_key: svid.key().secret_pkcs8_der().to_vec(),
            bundle: roots(bundle),
            hint: hint.clone(),
        });
    }
    let foreign = |bundle: &&TrustBundle| {
        let own =
            |(svid, _): &(Arc<X509Svid>, String)| svid.id().trust_domain() == bundle.trust_domain();
        !svids.iter().any(own)
    };
    message.federated_bundles = trusted(bundles.iter().filter(foreign)).collect();
    (!message.svids.is_empty()).then_some(message)
}

/// The message of FetchX509Bundles; nothing, if there is no bundle.
#[cfg(unix)]
pub(super) fn write_bundles(bundles: &BundleSet, crls: &CrlSet) -> Option<X509BundlesResponse> {
    let message = X509BundlesResponse {
        crl: write_crls(crls),
        bundles: trusted(bundles.iter()).collect(),
    };
    (!message.bundles.is_empty()).then_some(message)
}

/// Each list once, in whatever number of trust domains it counts.
#[cfg(unix)]
fn write_crls(crls: &CrlSet) -> Vec<Vec<u8>> {
    let mut lists: Vec<Vec<u8>> = crls.iter().map(|(_, crl)| crl.der().to_vec()).collect();
    lists.sort();
    lists.dedup();
    lists
}

/// The message of FetchJWTBundles; nothing, if no trust domain has keys for tokens.
#[cfg(unix)]
pub(super) fn write_jwt(bundles: &BundleSet) -> Option<JwtBundlesResponse> {
    let with_keys = bundles
        .iter()
        .filter(|bundle| !bundle.jwt_keys().is_empty());
    let bundles = with_keys.map(|bundle| {
        let jwks = bundle.jwt_keys().to_jwks().into_bytes();
        (bundle.trust_domain().id().to_string(), jwks)
    });
    let message = JwtBundlesResponse {
        bundles: bundles.collect(),
    };
    (!message.bundles.is_empty()).then_some(message)
}

/// Claims as protobuf says JSON; numbers become doubles, as they are there.
#[cfg(unix)]
pub(super) fn write_claims(claims: &Map<String, Value>) -> Struct {
    Struct {
        fields: claims
            .iter()
            .map(|(name, value)| (name.clone(), write_value(value)))
            .collect(),
    }
}

#[cfg(unix)]
fn write_value(value: &Value) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(NullValue::NullValue.into()),
        Value::Bool(truth) => Kind::BoolValue(*truth),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::MAX)),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(values) => Kind::ListValue(ListValue {
            values: values.iter().map(write_value).collect(),
        }),
        Value::Object(members) => Kind::StructValue(write_claims(members)),
    };
    ProtoValue { kind: Some(kind) }
}

/// The roots of those that are trusted, by the SPIFFE ID of the domain: a distrusted domain is left
/// out, because a client distrusts a domain that is absent.
#[cfg(unix)]
fn trusted<'a>(
    bundles: impl Iterator<Item = &'a TrustBundle>,
) -> impl Iterator<Item = (String, Vec<u8>)> {
    bundles
        .filter(|bundle| !bundle.is_distrusted())
        .map(|bundle| (bundle.trust_domain().id().to_string(), roots(bundle)))
}

#[cfg(unix)]
fn roots(bundle: &TrustBundle) -> Vec<u8> {
    join(bundle.roots().iter().map(|root| root.der()))
}

#[cfg(unix)]
fn join<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> Vec<u8> {
    let certificates = certificates.into_iter();
    certificates.flat_map(|der| der.iter().copied()).collect()
}

fn bundle(
    trust_domain: TrustDomain,
    roots: &[u8],
    field: &'static str,
) -> Result<TrustBundle, MessageError> {
    Ok(TrustBundle::new(trust_domain, split(roots, field)?)?)
}

/// The trust domain whose own ID `text` is.
fn trust_domain_of(text: &str) -> Result<TrustDomain, MessageError> {
    const FIELD: &str = "name of a bundle";
    let broken = |reason| MessageError::Id {
        field: FIELD,
        reason,
    };
    let id: SpiffeId = text.parse().map_err(broken)?;
    if !id.path().is_empty() {
        // The name of a workload must not pass for that of its domain.
        return Err(broken(IdError::TrustDomainChar { got: '/' }));
    }
    Ok(id.trust_domain().clone())
}

/// Certificates that stand one after the other.
fn split(
    mut der: &[u8],
    field: &'static str,
) -> Result<Vec<CertificateDer<'static>>, MessageError> {
    let broken = MessageError::Certificates { field };
    let mut certificates = Vec::new();
    while !der.is_empty() {
        let Ok((rest, _)) = X509Certificate::from_der(der) else {
            return Err(broken);
        };
        if certificates.len() == MAX_CERTIFICATES {
            return Err(broken);
        }
        let (one, _) = der.split_at(der.len() - rest.len());
        certificates.push(CertificateDer::from(one.to_vec()));
        der = rest;
    }
    Ok(certificates)
}
