//! Join tokens and the recovery window: what lets somebody in who has no other proof.
//!
//! A token is known here by its hash alone, so the state gives none away. It names one ID, ends
//! at a moment, and serves once: used ones are remembered until they would have ended, so that the
//! second to bring one is told what happened.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{CaState, MAX_TOKENS};
use crate::id::SpiffeId;
use crate::issue::policy::Window;

/// A join token, by its hash.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OpenToken {
    /// The hash of the token, in hexadecimal.
    hash: String,
    id: SpiffeId,
    #[serde(with = "crate::time::unix")]
    expires: SystemTime,
    used: bool,
}

/// Why a join token does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Its time is over.
    #[error("the join token has expired")]
    Expired,
    /// There are as many open tokens as fit.
    #[error("{MAX_TOKENS} join tokens are open already")]
    TooMany,
    /// Nobody made it, or its time has been over for long.
    #[error("the join token is unknown")]
    Unknown,
    /// Somebody has used it.
    #[error("the join token has been used already")]
    Used,
}

impl OpenToken {
    /// Whom it is for.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// When it ends.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// Whether it has served.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.used
    }
}

impl CaState {
    /// The join tokens that are remembered.
    #[must_use]
    pub fn tokens(&self) -> &[OpenToken] {
        &self.tokens
    }

    /// The recovery window, if it is open at `now`.
    #[must_use]
    pub fn recovery(&self, now: SystemTime) -> Option<Window> {
        self.recovery.filter(|window| now < window.until)
    }

    pub(crate) fn window(&self) -> Option<Window> {
        self.recovery
    }

    /// Opens a token; those that ended before `now` are forgotten.
    ///
    /// # Errors
    ///
    /// [`TokenError::TooMany`].
    pub fn open_token(
        &self,
        hash: String,
        id: SpiffeId,
        expires: SystemTime,
        now: SystemTime,
    ) -> Result<Self, TokenError> {
        let mut next = self.clone();
        next.tokens.retain(|token| token.expires > now);
        if next.tokens.len() >= MAX_TOKENS {
            return Err(TokenError::TooMany);
        }
        next.tokens.push(OpenToken {
            hash,
            id,
            expires,
            used: false,
        });
        Ok(next)
    }

    /// Spends a token; says whom it was for. It serves whoever gets the new state written first.
    ///
    /// # Errors
    ///
    /// [`TokenError`] if it does not serve (any more).
    pub fn spend_token(&self, hash: &str, now: SystemTime) -> Result<(Self, SpiffeId), TokenError> {
        let mut next = self.clone();
        let token = next
            .tokens
            .iter_mut()
            .find(|token| token.hash == hash)
            .ok_or(TokenError::Unknown)?;
        if token.used {
            return Err(TokenError::Used);
        }
        if now >= token.expires {
            return Err(TokenError::Expired);
        }
        token.used = true;
        let id = token.id.clone();
        Ok((next, id))
    }

    /// Opens the recovery window, or closes it with `None`.
    #[must_use]
    pub fn recover(&self, recovery: Option<Window>) -> Self {
        Self {
            recovery,
            ..self.clone()
        }
    }
}
