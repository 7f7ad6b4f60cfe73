//! A bearer token in, what it proves out: the tokens of Kubernetes service accounts and of OpenID
//! issuers, against key sets that the operator gave, or by asking Kubernetes.
//!
//! Keys come from configuration and from nowhere else: a key set that cannot be had is no key, and
//! no workload gets in (C11). A token is bounded in length before it is looked at, and its issuer, which
//! any sender can write into one, only says under which keys it must verify.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

use crate::crypto::Crypto;
use crate::issue::policy::Attested;
use crate::jwt::{self, Claims, Expect, KeysReader, verify_token};

/// Says to which service account a token belongs: the TokenReview of Kubernetes, which
/// also knows whether the Pod still exists.
pub trait TokenReview: Send + Sync + 'static {
    /// Namespace and service account of `token`, if it is meant for `audience`.
    fn review(
        &self,
        token: &str,
        audience: &str,
    ) -> impl Future<Output = Result<Reviewed, ReviewError>> + Send;
}

/// The service account of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reviewed {
    /// The namespace.
    pub namespace: String,
    /// The service account's name.
    pub service_account: String,
}

/// Why a review gave no service account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReviewError {
    /// The token is not good.
    #[error("the token is refused: {reason}")]
    Refused {
        /// What Kubernetes says.
        reason: String,
    },
    /// No review is available at the moment.
    #[error("the token cannot be reviewed: {reason}")]
    Unavailable {
        /// What happened.
        reason: String,
    },
}

/// One issuer of tokens, with its keys.
#[derive(Clone)]
pub struct TokenIssuer {
    /// The issuer, letter for letter.
    pub issuer: String,
    /// The audience that a token must be meant for.
    pub audience: String,
    /// Its keys, as they are at the moment of each token.
    pub keys: KeysReader,
}

/// Which tokens are accepted.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::ca::attest::{Attestors, TokenIssuer};
/// use inmesh_pki::source::keys::KeyFile;
///
/// let cluster = KeyFile::open("/etc/ca/jwks.json")?;
/// let attestors = Attestors::none().with_kubernetes(TokenIssuer {
///     issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
///     audience: "istio-ca".to_owned(),
///     keys: cluster.keys(),
/// });
/// # drop(attestors);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Attestors {
    kubernetes: Vec<TokenIssuer>,
    oidc: Vec<TokenIssuer>,
    review: Option<(String, Arc<dyn ErasedReview>)>,
}

/// Why a token proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// No issuer of tokens is accepted.
    #[error("this CA accepts no tokens")]
    None,
    /// The token is for no service account, although its issuer is a cluster.
    #[error("the token names no service account")]
    NoServiceAccount,
    /// Kubernetes has not vouched for it.
    #[error(transparent)]
    Review(#[from] ReviewError),
    /// It does not verify under the keys of any issuer.
    #[error("the token is refused")]
    Token(#[from] jwt::TokenRejected),
}

/// How a caller proves its ID, as far as its proof shows before it is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Method {
    /// A client certificate.
    Certificate,
    /// A join token.
    JoinToken,
    /// A token that names a cluster whose keys are known.
    Kubernetes,
    /// Neither a certificate nor one bearer token.
    None,
    /// A token that names an OpenID issuer that is known.
    Oidc,
    /// Any other token, which Kubernetes is asked to review.
    Review,
    /// A token that names no issuer that is known.
    Unknown,
}

impl Method {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 7] = [
        Self::Certificate,
        Self::JoinToken,
        Self::Kubernetes,
        Self::None,
        Self::Oidc,
        Self::Review,
        Self::Unknown,
    ];

    /// Its name in metrics, e.g. `join_token`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::JoinToken => "join_token",
            Self::Kubernetes => "kubernetes",
            Self::None => "none",
            Self::Oidc => "oidc",
            Self::Review => "review",
            Self::Unknown => "unknown",
        }
    }
}

impl Attestors {
    /// No tokens at all.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The same, with service-account tokens of a cluster whose keys are known.
    #[must_use]
    pub fn with_kubernetes(mut self, cluster: TokenIssuer) -> Self {
        self.kubernetes.push(cluster);
        self
    }

    /// The same, with tokens of an OpenID issuer.
    #[must_use]
    pub fn with_oidc(mut self, issuer: TokenIssuer) -> Self {
        self.oidc.push(issuer);
        self
    }

    /// The same, with service-account tokens that Kubernetes itself reviews.
    #[must_use]
    pub fn with_review(mut self, audience: String, review: impl TokenReview) -> Self {
        self.review = Some((audience, Arc::new(review)));
        self
    }

    /// What `token` proves at `now`.
    ///
    /// The issuers are asked in the order in which they were given; the first under whose keys,
    /// name and audience it verifies counts. A review comes last, because it costs a call.
    ///
    /// # Errors
    ///
    /// [`AttestError`]: for a token that no issuer accepts, what the last one asked says.
    pub async fn attest(
        &self,
        token: &str,
        now: SystemTime,
        crypto: &Crypto,
    ) -> Result<Attested, AttestError> {
        let mut refused = AttestError::None;
        for issuer in &self.kubernetes {
            match issuer.verify(token, now, crypto) {
                Ok(claims) => return service_account(&claims),
                Err(rejected) => refused = rejected.into(),
            }
        }
        for issuer in &self.oidc {
            match issuer.verify(token, now, crypto) {
                Ok(claims) => return Ok(oidc(&issuer.issuer, &claims)),
                Err(rejected) => refused = rejected.into(),
            }
        }
        match &self.review {
            Some((audience, review)) if token.len() <= jwt::MAX_TOKEN_LEN => {
                let of = review.review_erased(token, audience).await?;
                Ok(Attested::Kubernetes {
                    namespace: of.namespace,
                    service_account: of.service_account,
                })
            }
            _ => Err(refused),
        }
    }
}

impl Attestors {
    /// The method that `token` claims to be of. Nothing is verified: this is for counting what was refused.
    #[must_use]
    pub fn method_of(&self, token: &str) -> Method {
        let named = jwt::issuer_unverified(token);
        let is_of = |all: &[TokenIssuer]| {
            let named = named.as_deref();
            all.iter().any(|one| Some(one.issuer.as_str()) == named)
        };
        if is_of(&self.kubernetes) {
            Method::Kubernetes
        } else if is_of(&self.oidc) {
            Method::Oidc
        } else if self.review.is_some() {
            Method::Review
        } else {
            Method::Unknown
        }
    }
}

impl TokenIssuer {
    fn verify(
        &self,
        token: &str,
        now: SystemTime,
        crypto: &Crypto,
    ) -> Result<Claims, jwt::TokenRejected> {
        let expect = Expect {
            issuer: &self.issuer,
            audience: &self.audience,
        };
        verify_token(token, &self.keys.load(), &expect, now, crypto)
    }
}

/// The claims of a bound service-account token; its subject must say the same.
fn service_account(claims: &Claims) -> Result<Attested, AttestError> {
    let namespace = claims.text(&["kubernetes.io", "namespace"]);
    let name = claims.text(&["kubernetes.io", "serviceaccount", "name"]);
    let (Some(namespace), Some(name)) = (namespace, name) else {
        return Err(AttestError::NoServiceAccount);
    };
    if claims.subject() != format!("system:serviceaccount:{namespace}:{name}") {
        return Err(AttestError::NoServiceAccount);
    }
    Ok(Attested::Kubernetes {
        namespace: namespace.to_owned(),
        service_account: name.to_owned(),
    })
}

/// All claims that are texts, or lists of texts.
fn oidc(issuer: &str, claims: &Claims) -> Attested {
    let all: BTreeMap<String, Value> = serde_json::from_str(&claims.to_json()).unwrap_or_default();
    let texts = |value: Value| match value {
        Value::String(text) => Some(vec![text]),
        Value::Array(list) => list
            .into_iter()
            .map(|value| match value {
                Value::String(text) => Some(text),
                _ => None,
            })
            .collect(),
        _ => None,
    };
    Attested::Oidc {
        issuer: issuer.to_owned(),
        claims: all
            .into_iter()
            .filter_map(|(name, value)| Some((name, texts(value)?)))
            .collect(),
    }
}

type Review<'a> = Pin<Box<dyn Future<Output = Result<Reviewed, ReviewError>> + Send + 'a>>;

trait ErasedReview: Send + Sync {
    fn review_erased<'a>(&'a self, token: &'a str, audience: &'a str) -> Review<'a>;
}

impl<R: TokenReview> ErasedReview for R {
    fn review_erased<'a>(&'a self, token: &'a str, audience: &'a str) -> Review<'a> {
        Box::pin(self.review(token, audience))
    }
}

impl fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenIssuer")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Attestors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attestors")
            .field("kubernetes", &self.kubernetes)
            .field("oidc", &self.oidc)
            .field(
                "review",
                &self.review.as_ref().map(|(audience, _)| audience),
            )
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;

    use super::*;
    use crate::jwt::KeySet;

    struct Unreachable;

    impl TokenReview for Unreachable {
        async fn review(&self, _: &str, _: &str) -> Result<Reviewed, ReviewError> {
            Err(ReviewError::Unavailable {
                reason: "no server answers".to_owned(),
            })
        }
    }

    #[test]
    fn a_token_is_counted_for_whom_it_names() {
        let issuer = |issuer: &str| TokenIssuer {
            issuer: issuer.to_owned(),
            audience: "ca".to_owned(),
            keys: KeySet::new().into(),
        };
        let attestors = Attestors::none()
            .with_kubernetes(issuer("https://one"))
            .with_kubernetes(issuer("https://two"))
            .with_oidc(issuer("https://ci"));
        let reviewed = attestors.clone().with_review("ca".to_owned(), Unreachable);
        let token = |claims: &str| {
            let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
            format!("{}.{}.x", part(r#"{"alg":"ES256"}"#), part(claims))
        };
        for (claims, method) in [
            (r#"{"iss":"https://one"}"#, Method::Kubernetes),
            (r#"{"iss":"https://two"}"#, Method::Kubernetes),
            (r#"{"iss":"https://ci"}"#, Method::Oidc),
            (r#"{"iss":"https://ci/"}"#, Method::Unknown),
            (r#"{"iss":7}"#, Method::Unknown),
            (r#"{"sub":"https://ci"}"#, Method::Unknown),
            ("no claims", Method::Unknown),
        ] {
            assert_eq!(attestors.method_of(&token(claims)), method, "{claims}");
            let method = match method {
                Method::Unknown => Method::Review,
                known => known,
            };
            assert_eq!(reviewed.method_of(&token(claims)), method, "{claims}");
        }
        let long = token(&format!(
            r#"{{"iss":"https://ci","x":"{}"}}"#,
            "x".repeat(20_000)
        ));
        for text in ["", "a.b", "a.b.c.d", long.as_str()] {
            assert_eq!(attestors.method_of(text), Method::Unknown, "{text:.9}");
        }
        assert_eq!(Attestors::none().method_of("x"), Method::Unknown);
    }
}
