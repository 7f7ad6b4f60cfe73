//! A state in, the bytes that a store keeps out, and back. The form is JSON with certificates as
//! PEM text, so that an operator can read what stands there; unknown fields and broken rules are
//! refused, because half a state is no state.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{
    Authority, CaState, Certificate, KeyPlace, MAX_AUTHORITIES, MAX_DISTRUSTED, MAX_REVOKED_KEPT,
    MAX_TOKENS, OpenToken, Revoked, RevokedId, Stage,
};
use crate::bundle::BundleError;
use crate::ca::members::{MAX_LEFT, Members, Row};
use crate::crl::MAX_REVOKED_IDS;
use crate::id::TrustDomain;
use crate::issue::policy::Window;
use crate::pem::{self, PemError};

/// The version of the form; another one is refused.
const FORM: u32 = 1;

/// Why bytes are not the state of a CA.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// There is not exactly one active authority.
    #[error("the state has {got} active authorities, exactly one is allowed")]
    Active {
        /// How many there are.
        got: usize,
    },
    /// A certificate cannot be used.
    #[error("the state has a certificate that cannot be used")]
    Certificate(#[from] BundleError),
    /// The state was written by another version.
    #[error("the state has form {got}, this version reads form {FORM}")]
    Form {
        /// The form that was found.
        got: u32,
    },
    /// A key stands in two places, or is distrusted and stands in one.
    #[error("the state names the key {key_id} more than once")]
    Key {
        /// Which key.
        key_id: String,
    },
    /// The text is not the JSON that it should be.
    #[error("the state cannot be read: {reason}")]
    Malformed {
        /// What the reader says.
        reason: String,
    },
    /// A certificate is not PEM text.
    #[error("the state has a certificate that cannot be read")]
    Pem(#[from] PemError),
    /// There is more of something than fits.
    #[error("the state has {got} {what}, at most {max} fit")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        got: usize,
        /// How many may be.
        max: usize,
    },
    /// Two authorities are published and not active.
    #[error("the state has {got} published authorities, at most one is allowed")]
    Published {
        /// How many there are.
        got: usize,
    },
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Record {
    form: u32,
    trust_domain: TrustDomain,
    generation: u64,
    authorities: Vec<AuthorityRecord>,
    distrusted: Vec<String>,
    tokens: Vec<OpenToken>,
    recovery: Option<Window>,
    revoked: Vec<Revoked>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    revoked_ids: Vec<RevokedId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<LeftRecord>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct LeftRecord {
    #[serde(with = "crate::time::unix_option")]
    unknown_until: Option<SystemTime>,
    members: Vec<Row>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AuthorityRecord {
    stage: Stage,
    published_in: u64,
    root_key: KeyPlace,
    #[serde(with = "crate::time::unix_option")]
    leaf_until: Option<SystemTime>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::time::unix_option"
    )]
    unseen_until: Option<SystemTime>,
    root: String,
    issuer: String,
}

impl CaState {
    /// The state as bytes; it holds no key.
    #[must_use]
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let text = |cert: &Certificate| pem::encode_certificates([&cert.der]);
        let record = Record {
            form: FORM,
            trust_domain: self.trust_domain.clone(),
            generation: self.generation,
            authorities: self
                .authorities
                .iter()
                .map(|a| AuthorityRecord {
                    stage: a.stage,
                    published_in: a.published_in,
                    root_key: a.root_key,
                    leaf_until: a.leaf_until,
                    unseen_until: a.unseen_until,
                    root: text(&a.root),
                    issuer: text(&a.issuer),
                })
                .collect(),
            distrusted: self.distrusted.clone(),
            tokens: self.tokens.clone(),
            recovery: self.recovery,
            revoked: self.revoked.clone(),
            revoked_ids: self.revoked_ids.clone(),
            left: self.left.as_ref().map(|left| LeftRecord {
                unknown_until: left.unknown_at_all(),
                members: left.to_rows(),
            }),
        };
        serde_json::to_vec_pretty(&record).expect("a record has only strings and numbers")
    }

    /// Reads a state back, with every rule of it.
    ///
    /// # Errors
    ///
    /// [`StateError`]; there is no such thing as a part of a state.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let record: Record =
            serde_json::from_slice(bytes).map_err(|error| StateError::Malformed {
                reason: error.to_string(),
            })?;
        if record.form != FORM {
            return Err(StateError::Form { got: record.form });
        }
        bounded("authorities", record.authorities.len(), MAX_AUTHORITIES)?;
        bounded("distrusted keys", record.distrusted.len(), MAX_DISTRUSTED)?;
        bounded("revoked serials", record.revoked.len(), MAX_REVOKED_KEPT)?;
        bounded("revoked IDs", record.revoked_ids.len(), MAX_REVOKED_IDS)?;
        bounded("join tokens", record.tokens.len(), MAX_TOKENS)?;
        let trust_domain = record.trust_domain;
        let read = |text: &str| -> Result<Certificate, StateError> {
            let der = pem::one_certificate(text.as_bytes())?;
            Ok(Certificate::read(&trust_domain, der)?)
        };
        let authorities = record
            .authorities
            .iter()
            .map(|a| {
                Ok(Authority {
                    root: read(&a.root)?,
                    issuer: read(&a.issuer)?,
                    root_key: a.root_key,
                    stage: a.stage,
                    published_in: a.published_in,
                    leaf_until: a.leaf_until,
                    unseen_until: a.unseen_until,
                })
            })
            .collect::<Result<Vec<_>, StateError>>()?;
        let state = Self {
            trust_domain,
            generation: record.generation,
            authorities,
            distrusted: record.distrusted,
            tokens: record.tokens,
            recovery: record.recovery,
            revoked: record.revoked,
            revoked_ids: record.revoked_ids,
            left: record
                .left
                .map(|left| Members::from_rows(left.members, left.unknown_until)),
        };
        let left = state.left.as_ref().map_or(0, Members::leaves);
        bounded("leaves of members", left, MAX_LEFT)?;
        state.check()?;
        Ok(state)
    }

    /// The rules of the [module](super).
    fn check(&self) -> Result<(), StateError> {
        let count = |stage| self.authorities.iter().filter(|a| a.stage == stage).count();
        match count(Stage::Active) {
            1 => {}
            got => return Err(StateError::Active { got }),
        }
        match count(Stage::Published) {
            0 | 1 => {}
            got => return Err(StateError::Published { got }),
        }
        let mut issuers: BTreeSet<&str> = self.distrusted.iter().map(String::as_str).collect();
        let mut roots: BTreeMap<&str, Option<&Certificate>> =
            issuers.iter().map(|key_id| (*key_id, None)).collect();
        for Authority { root, issuer, .. } in &self.authorities {
            let same = *roots.entry(&root.key_id).or_insert(Some(root)) == Some(root);
            let fresh = issuers.insert(&issuer.key_id);
            for (right, key_id) in [(same, &root.key_id), (fresh, &issuer.key_id)] {
                if !right {
                    let key_id = key_id.clone();
                    return Err(StateError::Key { key_id });
                }
            }
        }
        Ok(())
    }
}

fn bounded(what: &'static str, got: usize, max: usize) -> Result<(), StateError> {
    if got > max {
        return Err(StateError::TooMany { what, got, max });
    }
    Ok(())
}
