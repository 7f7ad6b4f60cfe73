//! Join tokens and the recovery window: what admits a workload that has no other proof.
//!
//! A token is known here by its hash alone, so the state gives none away. It names one ID, ends
//! at a moment, and serves once: used ones are remembered until they would have ended, so that the
//! second use is refused with its own reason.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{CaState, MAX_TOKENS};
use crate::id::SpiffeId;
use crate::issue::policy::Window;

/// A join token, by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct OpenToken {
    /// The hash of the token, in hexadecimal.
    hash: String,
    id: SpiffeId,
    #[serde(with = "crate::time::unix")]
    expires: SystemTime,
    used: bool,
}

/// Why a join token does not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It has expired.
    #[error("the join token has expired")]
    Expired,
    /// There are as many open tokens as fit.
    #[error("{MAX_TOKENS} join tokens are open already")]
    TooMany,
    /// It was never made, or expired long ago.
    #[error("the join token is unknown")]
    Unknown,
    /// It was used before.
    #[error("the join token has been used already")]
    Used,
}

impl OpenToken {
    /// The ID that it is for.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// When it ends.
    #[must_use]
    pub(crate) fn expires(&self) -> SystemTime {
        self.expires
    }

    /// Whether it has served.
    #[must_use]
    pub(crate) fn is_used(&self) -> bool {
        self.used
    }
}

impl CaState {
    /// The join tokens that are remembered.
    #[must_use]
    pub(crate) fn tokens(&self) -> &[OpenToken] {
        &self.tokens
    }

    /// The recovery window, if it is open at `now`.
    #[must_use]
    pub(crate) fn recovery(&self, now: SystemTime) -> Option<Window> {
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
    pub(crate) fn open_token(
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

    /// Spends a token; returns its ID. It serves the process that writes the new state first.
    ///
    /// # Errors
    ///
    /// [`TokenError`] if it does not serve (any more).
    pub(crate) fn spend_token(
        &self,
        hash: &str,
        now: SystemTime,
    ) -> Result<(Self, SpiffeId), TokenError> {
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

    /// Spends every open token for `id`, so that none serves.
    pub(super) fn void_tokens(&mut self, id: &SpiffeId) {
        for token in self.tokens.iter_mut().filter(|token| token.id == *id) {
            token.used = true;
        }
    }

    /// Opens the recovery window at `now`, within its bounds, or closes it with `None`: what is revoked
    /// is remembered for as long as such a window reaches.
    #[must_use]
    pub(crate) fn recover(&self, recovery: Option<Window>, now: SystemTime) -> Self {
        Self {
            recovery: recovery.map(|window| window.bounded(now)),
            ..self.clone()
        }
    }
}
