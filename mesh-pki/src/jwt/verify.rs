//! The decision whether a token is what it says: pure, in a fixed order, with bounded work.

use std::time::{Duration, SystemTime};

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::key::{KeySet, PublicKey};
use super::rejected::{MAX_TOKEN_LEN, TokenRejected};
use super::{Claims, Expect, VerifiedToken};
use crate::bundle::BundleSet;
use crate::crypto::Crypto;
use crate::id::SpiffeId;
use crate::json::Unique;
use crate::{der, time};

/// How far the clock of an issuer may be ahead of ours: a token may begin that much later than now.
/// Its end is exact.
pub const MAX_SKEW: Duration = Duration::from_secs(120);

/// The end of the year 9999, beyond which certificates name no moment either.
const LAST_SECOND: i64 = 253_402_300_799;

/// How many keys are tried for a token that names none: more than an issuer has while it rotates,
/// and few enough that a stranger's token costs little.
pub const MAX_TRIED: usize = 8;

/// Text of a sender is repeated in messages up to this many characters.
const MAX_QUOTE: usize = 64;

/// Verifies a JWT-SVID for `audience`.
///
/// 1. Its length is at most [`MAX_TOKEN_LEN`], and it has three parts (S32).
/// 2. Its algorithm is one of nine (S27), its type JWT, JOSE or none (S28), and nothing in its
///    header is critical.
/// 3. Its subject is the SPIFFE ID of a workload (S29), and there is a bundle for that trust
///    domain. That alone is read before the signature is verified, and decides only which keys.
/// 4. The signature verifies with the key that it names in that bundle, or if it names none, with
///    one of the first [`MAX_TRIED`] that fit its algorithm (S33).
/// 5. `exp` is there and later than `now` (S31), `nbf` is not later than [`MAX_SKEW`] from now,
///    and `audience` is among its audiences (S30).
///
/// # Errors
///
/// The first of these that does not hold.
pub fn validate(
    token: &str,
    audience: &str,
    bundles: &BundleSet,
    now: SystemTime,
    crypto: &Crypto,
) -> Result<VerifiedToken, TokenRejected> {
    let token = ParsedToken::parse(token)?;
    let claims = token.claims()?;
    let id: SpiffeId = text(&claims, "sub")?
        .parse()
        .map_err(TokenRejected::Subject)?;
    let trust_domain = id.trust_domain();
    if id.path().is_empty() {
        return Err(TokenRejected::SubjectHasNoPath {
            trust_domain: trust_domain.clone(),
        });
    }
    let bundle = bundles
        .get(trust_domain)
        .ok_or_else(|| TokenRejected::UnknownTrustDomain {
            trust_domain: trust_domain.clone(),
        })?;
    token.verify(bundle.jwt_keys(), crypto)?;
    let claims = check(claims, audience, now)?;
    Ok(VerifiedToken { id, claims })
}

/// Verifies a token of one issuer, whose keys the caller has: a Kubernetes service-account token,
/// or that of an OpenID issuer. As [`validate`], but for the subject, which is any text, and with
/// the issuer compared letter for letter.
///
/// # Errors
///
/// The first rule that does not hold.
pub fn verify_token(
    token: &str,
    keys: &KeySet,
    expect: &Expect<'_>,
    now: SystemTime,
    crypto: &Crypto,
) -> Result<Claims, TokenRejected> {
    let token = ParsedToken::parse(token)?;
    token.verify(keys, crypto)?;
    let claims = check(token.claims()?, expect.audience, now)?;
    if claims.issuer() != Some(expect.issuer) {
        return Err(TokenRejected::Issuer {
            expected: expect.issuer.to_owned(),
        });
    }
    Ok(claims)
}

/// The issuer that a token names, without a look at its signature: to count tokens that
/// were refused, and for nothing else.
#[cfg(all(feature = "ca", any(feature = "aws-lc-rs", feature = "ring")))]
pub(crate) fn issuer_unverified(token: &str) -> Option<String> {
    let claims = ParsedToken::parse(token).ok()?.claims().ok()?;
    text(&claims, "iss").ok().map(str::to_owned)
}

/// The subject and the end that a token names, without a look at its signature: for tokens that come
/// from an issuer that we trust.
#[cfg(feature = "workload-api")]
pub(crate) fn read_unverified(token: &str) -> Result<(SpiffeId, SystemTime), TokenRejected> {
    let claims = ParsedToken::parse(token)?.claims()?;
    let id = text(&claims, "sub")?
        .parse()
        .map_err(TokenRejected::Subject)?;
    let expires = date(&claims, "exp")?.ok_or(TokenRejected::Missing { claim: "exp" })?;
    Ok((id, expires))
}

/// A token whose header has been read and accepted.
struct ParsedToken<'a> {
    algorithm: Algorithm,
    key_id: Option<String>,
    /// Header and claims as they stand, which is what is signed.
    signed: &'a str,
    claims: &'a str,
    signature: &'a str,
}

impl<'a> ParsedToken<'a> {
    fn parse(token: &'a str) -> Result<Self, TokenRejected> {
        if token.len() > MAX_TOKEN_LEN {
            return Err(TokenRejected::TooLong { got: token.len() });
        }
        let mut parts = token.splitn(4, '.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenRejected::NotCompact);
        };
        let signed = &token[..header.len() + 1 + claims.len()];

        let header = object(header, "header")?;
        let malformed = || TokenRejected::Malformed { part: "header" };
        let algorithm = header
            .get("alg")
            .and_then(Value::as_str)
            .ok_or_else(malformed)?;
        let algorithm = Algorithm::named(algorithm).ok_or_else(|| TokenRejected::Algorithm {
            got: quote(algorithm),
        })?;
        if header.contains_key("crit") {
            return Err(TokenRejected::CriticalHeader);
        }
        match header.get("typ").map(|kind| kind.as_str().ok_or(kind)) {
            None | Some(Ok("JWT" | "JOSE")) => {}
            Some(Ok(got)) => return Err(TokenRejected::Type { got: quote(got) }),
            Some(Err(_)) => return Err(malformed()),
        }
        let key_id = match header.get("kid") {
            None => None,
            Some(id) => Some(id.as_str().ok_or_else(malformed)?.to_owned()),
        };
        Ok(Self {
            algorithm,
            key_id,
            signed,
            claims,
            signature,
        })
    }

    /// What it says, whether or not that is proven.
    fn claims(&self) -> Result<Map<String, Value>, TokenRejected> {
        object(self.claims, "claims")
    }

    /// Whether one of `keys` signed it: the one that it names, or else one of the first that fit.
    fn verify(&self, keys: &KeySet, crypto: &Crypto) -> Result<(), TokenRejected> {
        let algorithm = self.algorithm;
        let signature = BASE64URL_NOPAD
            .decode(self.signature.as_bytes())
            .map_err(|_| TokenRejected::Malformed { part: "signature" })?;
        // JWS has the two numbers of ECDSA side by side, providers want them in DER.
        let signature = match algorithm.curve() {
            None => signature,
            Some(curve) if signature.len() == 2 * curve.len() => {
                let (r, s) = signature.split_at(curve.len());
                der::ecdsa_signature(r, s)
            }
            Some(_) => return Err(TokenRejected::BadSignature),
        };

        let mut failed = TokenRejected::UnknownKey {
            id: self.key_id.as_deref().map(quote),
        };
        let mut tried = 0;
        for key in keys.iter() {
            match &self.key_id {
                Some(id) if key.id() != Some(id.as_str()) => continue,
                Some(id) if !key.fits(algorithm) => {
                    return Err(TokenRejected::KeyMismatch {
                        id: quote(id),
                        algorithm: algorithm.name(),
                    });
                }
                None if !key.fits(algorithm) => continue,
                None if tried == MAX_TRIED => break,
                _ => {}
            }
            tried += 1;
            match verify_with(key, algorithm, self.signed, &signature, crypto) {
                Ok(()) => return Ok(()),
                Err(rejected) => failed = rejected,
            }
        }
        Err(failed)
    }
}

fn verify_with(
    key: &PublicKey,
    algorithm: Algorithm,
    message: &str,
    signature: &[u8],
    crypto: &Crypto,
) -> Result<(), TokenRejected> {
    let verifier = crypto
        .signature_algorithms()
        .iter()
        .find(|known| {
            known.signature_alg_id() == algorithm.signature()
                && known.public_key_alg_id() == key.kind()
        })
        .ok_or_else(|| TokenRejected::Unsupported {
            algorithm: algorithm.name(),
        })?;
    verifier
        .verify_signature(&key.bits(), message.as_bytes(), signature)
        .map_err(|_| TokenRejected::BadSignature)
}

/// The claims that are the same for every token, checked.
fn check(
    all: Map<String, Value>,
    audience: &str,
    now: SystemTime,
) -> Result<Claims, TokenRejected> {
    let expires = date(&all, "exp")?.ok_or(TokenRejected::Missing { claim: "exp" })?;
    if now >= expires {
        return Err(TokenRejected::Expired { expires, now });
    }
    if let Some(not_before) = date(&all, "nbf")?
        && now
            .checked_add(MAX_SKEW)
            .is_some_and(|then| then < not_before)
    {
        return Err(TokenRejected::NotYetValid { not_before, now });
    }
    let audiences = audiences(&all)?;
    if !audiences.iter().any(|one| one == audience) {
        return Err(TokenRejected::Audience {
            expected: audience.to_owned(),
        });
    }
    let issuer = match all.get("iss") {
        None => None,
        Some(_) => Some(text(&all, "iss")?.to_owned()),
    };
    Ok(Claims {
        subject: text(&all, "sub")?.to_owned(),
        issuer,
        audiences,
        expires,
        issued_at: date(&all, "iat")?,
        all,
    })
}

/// One text or a list of them.
fn audiences(claims: &Map<String, Value>) -> Result<Vec<String>, TokenRejected> {
    let malformed = TokenRejected::Malformed { part: "aud" };
    match claims.get("aud") {
        None => Err(TokenRejected::Missing { claim: "aud" }),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(many)) => many
            .iter()
            .map(|one| one.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or(malformed),
        Some(_) => Err(malformed),
    }
}

fn text<'a>(claims: &'a Map<String, Value>, claim: &'static str) -> Result<&'a str, TokenRejected> {
    claims
        .get(claim)
        .ok_or(TokenRejected::Missing { claim })?
        .as_str()
        .ok_or(TokenRejected::Malformed { part: claim })
}

/// A number of seconds since 1970, which may have a fraction (RFC 7519, section 2).
fn date(
    claims: &Map<String, Value>,
    claim: &'static str,
) -> Result<Option<SystemTime>, TokenRejected> {
    let Some(value) = claims.get(claim) else {
        return Ok(None);
    };
    // A fraction is cut off, towards the past. What is beyond all calendars is no date: as an end
    // it would be none.
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|secs| secs.floor() as i64))
        .filter(|secs| (-LAST_SECOND..=LAST_SECOND).contains(secs))
        .map(|secs| Some(time::from_unix(secs)))
        .ok_or(TokenRejected::Malformed { part: claim })
}

/// One part of a token: base64url of a JSON object that has each name once.
fn object(part: &str, name: &'static str) -> Result<Map<String, Value>, TokenRejected> {
    let malformed = |()| TokenRejected::Malformed { part: name };
    let json = BASE64URL_NOPAD
        .decode(part.as_bytes())
        .map_err(|_| malformed(()))?;
    let Unique(members) = serde_json::from_slice(&json).map_err(|_| malformed(()))?;
    Ok(members.into_iter().collect())
}

fn quote(text: &str) -> String {
    text.chars().take(MAX_QUOTE).collect()
}
