//! JWK sets in, the public keys that tokens may be signed with out (RFC 7517, RFC 7518).
//!
//! Of a JWK only the public numbers, the id and the algorithm are taken. What is of an unknown kind
//! is passed over (S16). What is of a known kind and broken, and keys of which two have one id, are left
//! out with a warning: the tokens of the others still verify (RFC 7517, section 5).

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use rustls_pki_types::{AlgorithmIdentifier, alg_id};
use serde_json::{Map, Value};
use x509_parser::public_key::PublicKey as SpkiKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::algorithm::Algorithm;
use super::curve::Curve;
use crate::der;

/// The most keys that a set may have.
pub const MAX_KEYS: usize = 64;

/// The longest JWK set that is looked at, in bytes.
pub const MAX_JWKS_LEN: usize = 512 * 1024;

/// The longest key id; ours have 40 characters, hashes in hexadecimal 64 or 128.
const MAX_KEY_ID_LEN: usize = 256;

/// The longest RSA modulus, in bytes: 8,192 bits are the most that providers verify.
const MAX_MODULUS_LEN: usize = 1024;

/// The public keys of one issuer of tokens.
///
/// Ids are unique in a set; a key without id is only found by tokens that name none.
///
/// ```
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::jwt::KeySet;
///
/// let keys = KeySet::from_jwks(br#"{"keys": []}"#)?;
/// assert!(keys.is_empty());
/// # Ok(())
/// # }
/// # example().unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeySet(Vec<PublicKey>);

/// A public key that tokens may be signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    id: Option<String>,
    /// The only algorithm that it may be used with, if its owner said so.
    algorithm: Option<Algorithm>,
    numbers: Numbers,
}

#[derive(Clone, PartialEq, Eq)]
enum Numbers {
    Ec {
        curve: Curve,
        /// The uncompressed point, `04 x y`.
        point: Vec<u8>,
    },
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
}

/// The keys of a document while it is read.
#[derive(Default)]
pub(crate) struct KeyReader {
    keys: Vec<(usize, PublicKey)>,
    left_out: Option<LeftOut>,
}

/// The keys of a known kind in a document that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeftOut {
    pub(crate) count: usize,
    /// What is wrong with the first that was found.
    pub(crate) first: KeySetError,
}

/// Why a JWK set cannot be used; `index` counts from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeySetError {
    /// Two keys have the same id, so that it is unclear which is meant.
    #[error("key {index} has the id of another key")]
    DuplicateId {
        /// Which key.
        index: usize,
    },
    /// A key of a known kind is broken.
    #[error("key {index} has no usable {member:?}")]
    Key {
        /// Which key.
        index: usize,
        /// The member that is missing or malformed.
        member: &'static str,
    },
    /// The document is not JSON, or not a JWK set.
    #[error("not a JWK set: {reason}")]
    NotASet {
        /// What is wrong, and where.
        reason: String,
    },
    /// There are more keys than [`MAX_KEYS`].
    #[error("the set has more than {MAX_KEYS} keys")]
    TooManyKeys,
    /// The document is longer than [`MAX_JWKS_LEN`].
    #[error("the set has {got} bytes, at most {MAX_JWKS_LEN} are looked at")]
    TooLarge {
        /// How long it is.
        got: usize,
    },
}

// === impl KeySet ===

impl KeySet {
    /// A set without keys: no token verifies.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A set of `keys`.
    ///
    /// # Errors
    ///
    /// [`KeySetError::DuplicateId`] or [`KeySetError::TooManyKeys`].
    pub fn from_keys(keys: impl IntoIterator<Item = PublicKey>) -> Result<Self, KeySetError> {
        let mut set = Self::new();
        for (index, key) in keys.into_iter().enumerate() {
            set.push(index, key)?;
        }
        Ok(set)
    }

    /// Reads a JWK set: what an OpenID issuer, a Kubernetes API server or a Workload API publishes.
    ///
    /// Keys of an unknown type, and keys whose use is not to sign tokens, are passed over. A broken key is
    /// left out with a warning, and so is each of several keys with one id, since it is unclear which one
    /// is meant; a key that is listed twice counts once.
    ///
    /// # Errors
    ///
    /// [`KeySetError::NotASet`], [`KeySetError::TooLarge`] or [`KeySetError::TooManyKeys`].
    pub fn from_jwks(json: &[u8]) -> Result<Self, KeySetError> {
        #[derive(serde::Deserialize)]
        struct JwksDocument {
            keys: Vec<Map<String, Value>>,
        }
        if json.len() > MAX_JWKS_LEN {
            return Err(KeySetError::TooLarge { got: json.len() });
        }
        let document: JwksDocument =
            serde_json::from_slice(json).map_err(|error| KeySetError::NotASet {
                reason: error.to_string(),
            })?;
        let mut reader = KeyReader::default();
        for (index, jwk) in document.keys.iter().enumerate() {
            if let None | Some(Some("sig" | "jwt-svid")) = jwk.get("use").map(Value::as_str) {
                reader.read(index, jwk);
            }
        }
        let (set, left_out) = reader.finish()?;
        if let Some(LeftOut { count, first }) = left_out {
            tracing::warn!(count, error = %first, "keys of a set cannot be used and are left out");
        }
        Ok(set)
    }

    /// The keys as a JWK set; an id stands in each that has one, and no use.
    #[must_use]
    pub fn to_jwks(&self) -> String {
        let keys: Vec<Value> = self.0.iter().map(|key| key.to_jwk().into()).collect();
        Value::from(Map::from_iter([("keys".to_owned(), Value::from(keys))])).to_string()
    }

    /// The keys, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.iter()
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same set without the keys that have no id.
    pub(crate) fn named(mut self) -> Self {
        self.0.retain(|key| key.id.is_some());
        self
    }

    pub(crate) fn push(&mut self, index: usize, key: PublicKey) -> Result<(), KeySetError> {
        if key.id.is_some() && self.0.iter().any(|other| other.id == key.id) {
            return Err(KeySetError::DuplicateId { index });
        }
        if self.0.len() == MAX_KEYS {
            return Err(KeySetError::TooManyKeys);
        }
        self.0.push(key);
        Ok(())
    }
}

// === impl KeyReader ===

impl KeyReader {
    /// Takes one JWK, if it can be used.
    pub(crate) fn read(&mut self, index: usize, jwk: &Map<String, Value>) {
        match PublicKey::from_jwk(index, jwk) {
            Ok(Some(key)) => self.keys.push((index, key)),
            Ok(None) => {}
            Err(error) => self.leave_out(error),
        }
    }

    /// As [`Self::read`], and a key without an id cannot be used.
    pub(crate) fn read_named(&mut self, index: usize, jwk: &Map<String, Value>) {
        if jwk.contains_key("kid") {
            return self.read(index, jwk);
        }
        if let Ok(Some(_)) | Err(_) = PublicKey::from_jwk(index, jwk) {
            let member = "kid";
            self.leave_out(KeySetError::Key { index, member });
        }
    }

    /// The keys that can be used, in order, and what was left out.
    pub(crate) fn finish(mut self) -> Result<(KeySet, Option<LeftOut>), KeySetError> {
        // By id: the place of its first key, and whether all keys with it are the same one.
        let mut ids: BTreeMap<String, (usize, bool)> = BTreeMap::new();
        let keys = std::mem::take(&mut self.keys);
        for (at, (_, key)) in keys.iter().enumerate() {
            if let Some(id) = key.id.clone() {
                let (first, same) = ids.entry(id).or_insert((at, true));
                *same &= keys[*first].1 == *key;
            }
        }
        let mut set = KeySet::new();
        for (at, (index, key)) in keys.into_iter().enumerate() {
            match key.id.as_ref().and_then(|id| ids.get(id)) {
                Some((_, false)) => self.leave_out(KeySetError::DuplicateId { index }),
                Some((first, true)) if *first != at => {}
                _ => set.push(index, key)?,
            }
        }
        Ok((set, self.left_out))
    }

    fn leave_out(&mut self, error: KeySetError) {
        let count = self.left_out.as_ref().map_or(0, |left_out| left_out.count) + 1;
        let first = self
            .left_out
            .take()
            .map_or(error, |left_out| left_out.first);
        self.left_out = Some(LeftOut { count, first });
    }
}

// === impl PublicKey ===

impl PublicKey {
    /// The id by which tokens name it.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The same key under the name `id`.
    #[must_use]
    pub fn with_id(self, id: impl Into<String>) -> Self {
        Self {
            id: Some(id.into()),
            ..self
        }
    }

    /// The key inside a certificate or of a signer; nothing, if it is of a kind that no accepted
    /// algorithm signs with.
    pub(crate) fn from_spki(spki: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let numbers = match spki.parsed().ok()? {
            SpkiKey::EC(point) => {
                let curve = spki.algorithm.parameters.as_ref()?.as_oid().ok()?;
                Numbers::ec(Curve::of_oid(&curve.to_id_string())?, point.data())?
            }
            SpkiKey::RSA(key) => Numbers::rsa(key.modulus, key.exponent)?,
            _ => return None,
        };
        Some(Self {
            id: None,
            algorithm: None,
            numbers,
        })
    }

    /// Reads one JWK; nothing, if its type, curve or algorithm is not supported.
    fn from_jwk(index: usize, jwk: &Map<String, Value>) -> Result<Option<Self>, KeySetError> {
        let broken = |member| KeySetError::Key { index, member };
        let number = |member| {
            jwk.get(member)
                .and_then(Value::as_str)
                .and_then(|text| BASE64URL_NOPAD.decode(text.as_bytes()).ok())
                .ok_or_else(|| broken(member))
        };
        // A key for something else, as an encrypting one (RFC 7517, section 4.3).
        let verifies = |uses: &Value| {
            let mut uses = uses.as_array().into_iter().flatten();
            uses.any(|one| one == "verify")
        };
        if jwk.get("key_ops").is_some_and(|uses| !verifies(uses)) {
            return Ok(None);
        }
        let numbers = match jwk.get("kty").and_then(Value::as_str) {
            Some("EC") => {
                let Some(curve) = jwk
                    .get("crv")
                    .and_then(Value::as_str)
                    .and_then(Curve::named)
                else {
                    return Ok(None);
                };
                let (x, y) = (number("x")?, number("y")?);
                for (member, number) in [("x", &x), ("y", &y)] {
                    if number.len() != curve.len() {
                        return Err(broken(member));
                    }
                }
                let point = [&[4], &*x, &*y].concat();
                Numbers::ec(curve, &point).ok_or_else(|| broken("x"))?
            }
            Some("RSA") => Numbers::rsa(&number("n")?, &number("e")?).ok_or_else(|| broken("n"))?,
            _ => return Ok(None),
        };
        let algorithm = match jwk.get("alg").map(Value::as_str) {
            None => None,
            Some(name) => match name.and_then(Algorithm::named) {
                // For encryption, or something that is not invented yet.
                None => return Ok(None),
                named => named,
            },
        };
        let id = match jwk.get("kid") {
            None => None,
            Some(Value::String(id)) if !id.is_empty() && id.len() <= MAX_KEY_ID_LEN => {
                Some(id.clone())
            }
            Some(_) => return Err(broken("kid")),
        };
        Ok(Some(Self {
            id,
            algorithm,
            numbers,
        }))
    }

    /// The members of a JWK: type, public numbers and, where there are, id and algorithm.
    pub(crate) fn to_jwk(&self) -> Map<String, Value> {
        let text = |number: &[u8]| BASE64URL_NOPAD.encode(number);
        let mut members = match &self.numbers {
            Numbers::Ec { curve, point } => {
                let (x, y) = point[1..].split_at(curve.len());
                vec![
                    ("kty", "EC".to_owned()),
                    ("crv", curve.name().to_owned()),
                    ("x", text(x)),
                    ("y", text(y)),
                ]
            }
            Numbers::Rsa { modulus, exponent } => vec![
                ("kty", "RSA".to_owned()),
                ("n", text(modulus)),
                ("e", text(exponent)),
            ],
        };
        members.extend(self.id.clone().map(|id| ("kid", id)));
        let algorithm = self.algorithm.map(|algorithm| algorithm.name().to_owned());
        members.extend(algorithm.map(|name| ("alg", name)));
        members
            .into_iter()
            .map(|(name, value)| (name.to_owned(), Value::from(value)))
            .collect()
    }

    /// Whether a token of `algorithm` may be signed with this key.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        let curve = match &self.numbers {
            Numbers::Ec { curve, .. } => Some(*curve),
            Numbers::Rsa { .. } => None,
        };
        algorithm.curve() == curve && self.algorithm.is_none_or(|only| only == algorithm)
    }

    /// The kind of key, as providers name it.
    pub(super) fn kind(&self) -> AlgorithmIdentifier {
        match &self.numbers {
            Numbers::Ec { curve, .. } => curve.key_kind(),
            Numbers::Rsa { .. } => alg_id::RSA_ENCRYPTION,
        }
    }

    /// The key in the form in which providers take it: the content of a SubjectPublicKeyInfo.
    pub(super) fn bits(&self) -> Vec<u8> {
        match &self.numbers {
            Numbers::Ec { point, .. } => point.clone(),
            Numbers::Rsa { modulus, exponent } => der::rsa_public_key(modulus, exponent),
        }
    }
}

/// Names the key and its kind.
impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.numbers {
            Numbers::Ec { curve, .. } => curve.name(),
            Numbers::Rsa { .. } => "RSA",
        };
        write!(f, "PublicKey({kind}, {:?})", self.id)
    }
}

// === impl Numbers ===

impl Numbers {
    fn ec(curve: Curve, point: &[u8]) -> Option<Self> {
        let uncompressed = point.len() == 1 + 2 * curve.len() && point[0] == 4;
        uncompressed.then(|| Self::Ec {
            curve,
            point: point.to_vec(),
        })
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        let trim = |number: &[u8]| -> Vec<u8> {
            number
                .iter()
                .copied()
                .skip_while(|byte| *byte == 0)
                .collect()
        };
        let (modulus, exponent) = (trim(modulus), trim(exponent));
        let plausible =
            (1..=MAX_MODULUS_LEN).contains(&modulus.len()) && (1..=8).contains(&exponent.len());
        plausible.then_some(Self::Rsa { modulus, exponent })
    }
}
