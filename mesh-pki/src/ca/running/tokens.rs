//! Join tokens and the recovery window: what an operator gives, and a caller brings.

use std::time::SystemTime;

use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::Ca;
use crate::ca::error::CaError;
use crate::ca::state::CaState;
use crate::ca::store::Store;
use crate::crypto::CryptoError;
use crate::id::SpiffeId;
use crate::issue::IssueError;
#[cfg(doc)]
use crate::issue::policy::LONGEST_WINDOW;
use crate::issue::policy::Window;

/// What a join token begins with, so that one that leaks is recognised.
const TOKEN_PREFIX: &str = "inmesh-join-";

impl<S: Store> Ca<S> {
    /// Opens a join token for `id` until `expires`; the text is shown to its bearer, and not kept.
    ///
    /// # Errors
    ///
    /// [`TokenError::TooMany`](crate::ca::state::TokenError::TooMany); [`IssueError::WrongTrustDomain`] or [`IssueError::NoPath`] if the
    /// ID could never be granted.
    pub async fn open_token(
        &self,
        id: &SpiffeId,
        expires: SystemTime,
    ) -> Result<Zeroizing<String>, CaError> {
        let mut inner = self.current().await?;
        if id.trust_domain() != inner.state.trust_domain() {
            return Err(CaError::Issue(IssueError::WrongTrustDomain {
                id: id.clone(),
                trust_domain: inner.state.trust_domain().clone(),
            }));
        }
        if id.path().is_empty() {
            return Err(CaError::Issue(IssueError::NoPath { id: id.clone() }));
        }
        let mut bytes = Zeroizing::new([0; 32]);
        self.crypto.fill(&mut *bytes).map_err(crypto_error)?;
        let token = Zeroizing::new(format!("{TOKEN_PREFIX}{}", HEXLOWER.encode(&*bytes)));
        let (hash, now) = (self.hash(&token), self.clock.now());
        let open = |state: &CaState| {
            let next = state.open_token(hash.clone(), id.clone(), expires, now)?;
            Ok((next, ()))
        };
        self.change(&mut inner, None, open).await?;
        Ok(token)
    }

    /// Whether `text` has the form of a join token.
    #[must_use]
    pub fn is_token(text: &str) -> bool {
        text.starts_with(TOKEN_PREFIX)
    }

    /// The ID that a join token is for, without spending it.
    ///
    /// # Errors
    ///
    /// [`TokenError`](crate::ca::state::TokenError) if it does not serve.
    pub async fn look_at_token(&self, token: &str) -> Result<SpiffeId, CaError> {
        let hash = self.hash(token);
        let inner = self.current().await?;
        let (_, id) = inner.state.spend_token(&hash, self.clock.now())?;
        Ok(id)
    }

    /// Spends a join token; of any number of tries, at any time, one succeeds.
    ///
    /// # Errors
    ///
    /// [`TokenError`](crate::ca::state::TokenError) if it does not serve (any more).
    pub async fn spend_token(&self, token: &str) -> Result<SpiffeId, CaError> {
        let (hash, now) = (self.hash(token), self.clock.now());
        let mut inner = self.current().await?;
        let spend = |state: &CaState| Ok(state.spend_token(&hash, now)?);
        self.change(&mut inner, None, spend).await
    }

    /// Opens the recovery window, or closes it with `None`; one beyond [`LONGEST_WINDOW`] is cut to it.
    ///
    /// # Errors
    ///
    /// [`CaError::Store`].
    pub async fn recover(&self, window: Option<Window>) -> Result<(), CaError> {
        let mut inner = self.current().await?;
        let now = self.clock.now();
        let recover = |state: &CaState| Ok((state.recover(window, now), ()));
        self.change(&mut inner, None, recover).await
    }

    /// What the state knows of a token.
    fn hash(&self, token: &str) -> String {
        HEXLOWER.encode(&self.crypto.digest(token.as_bytes()))
    }
}

fn crypto_error(error: CryptoError) -> CaError {
    CaError::Issue(IssueError::Crypto(error))
}
