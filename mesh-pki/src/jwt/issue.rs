//! A SPIFFE ID and audiences in, a JWT-SVID out.
//!
//! [`JwtIssuer`] is a port of its own beside [`Issuer`](crate::issue::Issuer): a signer of
//! certificates need not sign tokens. Which caller may ask for which ID is decided in front of it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use rustls::sign::SigningKey;
use rustls::{SignatureAlgorithm, SignatureScheme};
use serde_json::json;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

use super::algorithm::Algorithm;
use super::{JwtSvid, MAX_TOKEN_LEN, PublicKey};
use crate::clock::Clock;
use crate::crypto::Crypto;
use crate::der;
use crate::id::{SpiffeId, TrustDomain};
use crate::issue::IssueError;
use crate::svid::PrivateKey;
use crate::time;

/// How long a JWT-SVID lives, in seconds: a bearer token cannot be taken back.
const LIFETIME: i64 = 5 * 60;

/// The most audiences that one token may be for; each can pass it on to the others.
pub const MAX_AUDIENCES: usize = 16;

/// Mints JWT-SVIDs.
pub trait JwtIssuer: Send + Sync + 'static {
    /// Mints a token for `id`, to be shown to `audiences`; there must be at least one.
    ///
    /// Dropping the future gives the request up.
    fn mint(
        &self,
        id: &SpiffeId,
        audiences: &[String],
    ) -> impl Future<Output = Result<JwtSvid, IssueError>> + Send;
}

/// A [`JwtIssuer`] whose type is erased; cheap to clone.
#[derive(Clone)]
pub struct DynJwtIssuer(Arc<dyn ErasedJwtIssuer>);

/// Mints ES256 tokens for one trust domain with a key in this process; cheap to clone.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::Crypto;
/// use inmesh_pki::clock::SystemClock;
/// use inmesh_pki::jwt::{JwtIssuer, LocalJwtIssuer};
///
/// let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
/// let issuer = LocalJwtIssuer::generate("prod.example".parse()?, &crypto, clock)?;
/// let id = "spiffe://prod.example/ns/shop/sa/cart".parse()?;
/// let token = issuer.mint(&id, &["spiffe://prod.example/ns/shop/sa/db".to_owned()]).await?;
/// println!("until {:?}", token.expires());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LocalJwtIssuer {
    trust_domain: TrustDomain,
    key: Arc<dyn SigningKey>,
    public: PublicKey,
    clock: Arc<dyn Clock>,
}

// === impl LocalJwtIssuer ===

impl LocalJwtIssuer {
    /// An issuer for `trust_domain` that signs with `key`, which must be a P-256 key.
    ///
    /// Its public half is named by its own hash, so the same key has the same id everywhere.
    ///
    /// # Errors
    ///
    /// [`IssueError::Key`] if the key is of another kind.
    pub fn new(
        trust_domain: TrustDomain,
        key: &PrivateKey,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, IssueError> {
        let unusable = || IssueError::Key {
            id: trust_domain.id(),
        };
        let key = crypto
            .provider()
            .key_provider
            .load_private_key(key.to_rustls())
            .map_err(|_| unusable())?;
        if key.algorithm() != SignatureAlgorithm::ECDSA {
            return Err(unusable());
        }
        let spki = key.public_key().ok_or_else(unusable)?;
        let (_, parsed) = SubjectPublicKeyInfo::from_der(&spki).map_err(|_| unusable())?;
        let public = PublicKey::from_spki(&parsed)
            .filter(|key| key.fits(Algorithm::Es256))
            .ok_or_else(unusable)?;
        let digest = crypto.digest(&spki);
        // 20 bytes name a key as well as 32 do.
        let public = public.with_id(HEXLOWER.encode(&digest[..20]));
        Ok(Self {
            trust_domain,
            key,
            public,
            clock,
        })
    }

    /// The same with a new key, which only this process knows.
    ///
    /// # Errors
    ///
    /// [`IssueError::Sign`] if the system cannot make a key.
    #[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
    pub fn generate(
        trust_domain: TrustDomain,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, IssueError> {
        use zeroize::Zeroize;

        let mut pair = rcgen::KeyPair::generate().map_err(|error| IssueError::Sign {
            id: trust_domain.id(),
            reason: error.to_string(),
        })?;
        let key = PrivateKey::from_pkcs8_der(pair.serialize_der());
        pair.zeroize();
        Self::new(trust_domain, &key, crypto, clock)
    }

    /// The public half, which belongs into the bundle of the trust domain before a token is minted.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, id: &SpiffeId, audiences: &[String]) -> Result<JwtSvid, IssueError> {
        let failed = |reason: &str| IssueError::Sign {
            id: id.clone(),
            reason: reason.to_owned(),
        };
        if id.trust_domain() != &self.trust_domain {
            return Err(IssueError::WrongTrustDomain {
                id: id.clone(),
                trust_domain: self.trust_domain.clone(),
            });
        }
        if id.path().is_empty() {
            return Err(IssueError::NoPath { id: id.clone() });
        }
        if audiences.is_empty() || audiences.len() > MAX_AUDIENCES {
            return Err(failed("a token is for 1 to 16 audiences"));
        }
        let issued = time::to_unix(self.clock.now());
        let expires = issued.saturating_add(LIFETIME);

        let header = json!({"alg": Algorithm::Es256.name(), "kid": self.public.id(), "typ": "JWT"});
        // One audience is written as a text, which every library reads.
        let audience = match audiences {
            [one] => json!(one),
            many => json!(many),
        };
        let claims = json!({"aud": audience, "exp": expires, "iat": issued, "sub": id.as_str()});
        // The exact capacity: a string that grows leaves copies of the token behind.
        let (header, claims) = (header.to_string(), claims.to_string());
        let mut token = Zeroizing::new(String::with_capacity(
            BASE64URL_NOPAD.encode_len(header.len())
                + BASE64URL_NOPAD.encode_len(claims.len())
                + BASE64URL_NOPAD.encode_len(64)
                + 2,
        ));
        BASE64URL_NOPAD.encode_append(header.as_bytes(), &mut token);
        token.push('.');
        BASE64URL_NOPAD.encode_append(claims.as_bytes(), &mut token);

        let token = self
            .seal(token)
            .ok_or_else(|| failed("the crypto provider does not sign"))?;
        if token.len() > MAX_TOKEN_LEN {
            return Err(failed("the audiences are too long for a token"));
        }
        Ok(JwtSvid {
            id: id.clone(),
            token,
            expires: time::from_unix(expires),
        })
    }

    /// Appends the signature to a header and claims.
    pub(crate) fn seal(&self, mut token: Zeroizing<String>) -> Option<Zeroizing<String>> {
        let signer = self
            .key
            .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])?;
        let signature = signer.sign(token.as_bytes()).ok()?;
        let signature = der::ecdsa_numbers(&signature, 32)?;
        token.push('.');
        BASE64URL_NOPAD.encode_append(&signature, &mut token);
        Some(token)
    }
}

impl JwtIssuer for LocalJwtIssuer {
    async fn mint(&self, id: &SpiffeId, audiences: &[String]) -> Result<JwtSvid, IssueError> {
        self.sign(id, audiences)
    }
}

/// Names the key, and shows nothing of it.
impl fmt::Debug for LocalJwtIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalJwtIssuer")
            .field("trust_domain", &self.trust_domain.as_str())
            .field("key_id", &self.public.id())
            .finish_non_exhaustive()
    }
}

// === impl DynJwtIssuer ===

type Minting<'a> = Pin<Box<dyn Future<Output = Result<JwtSvid, IssueError>> + Send + 'a>>;

trait ErasedJwtIssuer: Send + Sync {
    fn mint_erased<'a>(&'a self, id: &'a SpiffeId, audiences: &'a [String]) -> Minting<'a>;
}

impl<I: JwtIssuer> ErasedJwtIssuer for I {
    fn mint_erased<'a>(&'a self, id: &'a SpiffeId, audiences: &'a [String]) -> Minting<'a> {
        Box::pin(self.mint(id, audiences))
    }
}

impl DynJwtIssuer {
    /// Erases the type of `issuer`.
    pub fn new(issuer: impl JwtIssuer) -> Self {
        Self(Arc::new(issuer))
    }
}

impl JwtIssuer for DynJwtIssuer {
    async fn mint(&self, id: &SpiffeId, audiences: &[String]) -> Result<JwtSvid, IssueError> {
        self.0.mint_erased(id, audiences).await
    }
}

impl fmt::Debug for DynJwtIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DynJwtIssuer(..)")
    }
}
