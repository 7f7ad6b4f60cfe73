//! What a caller has proven and what it asks for in, the one ID that it may have out. Pure.
//!
//! Proofs are verified before: here stand only their outcomes ([`Attested`]), and only these decide
//! which ID is given. What a signing request says of names is not even an argument. A [`Grant`] is
//! the proof that this was decided; a CA signs for nothing else.
//!
//! No ID is ever put together from parts that a stranger chooses, but one: namespace and service
//! account, which Kubernetes vouches for. OIDC claims are compared whole, with values that an
//! operator wrote beside the ID.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use rustls_pki_types::DnsName;
use serde::{Deserialize, Serialize};

use crate::crl::RevokedIds;
use crate::id::{IdError, SpiffeId, TrustDomain};
use crate::time::utc;

#[cfg(test)]
mod tests;

/// What a caller has proven.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attested {
    /// It brought a join token, which is spent with this.
    JoinToken {
        /// The ID that the token was made for.
        id: SpiffeId,
    },
    /// Kubernetes says which service account it runs under.
    Kubernetes {
        /// The namespace.
        namespace: String,
        /// The service account's name.
        service_account: String,
    },
    /// An OIDC issuer says these things of it.
    Oidc {
        /// The issuer, exactly as the token has it.
        issuer: String,
        /// Each claim that is a text, or a list of texts.
        claims: BTreeMap<String, Vec<String>>,
    },
    /// It holds an SVID of ours and its key; the chain was verified under the current bundle, at
    /// this moment or, if it has expired, at its end.
    Svid {
        /// The ID in the SVID.
        id: SpiffeId,
        /// The serial number of its leaf, in hexadecimal.
        serial: String,
        /// When its leaf begins to be valid.
        not_before: SystemTime,
        /// When it ends, or has ended.
        not_after: SystemTime,
    },
}

/// By which kind of proof an ID was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Attestor {
    /// A join token.
    JoinToken,
    /// A Kubernetes service account.
    Kubernetes,
    /// An OIDC token.
    Oidc,
    /// An SVID that has expired, within an open recovery window.
    Recovery,
    /// An SVID: a renewal.
    Svid,
}

impl Attestor {
    /// Its name in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JoinToken => "join token",
            Self::Kubernetes => "kubernetes",
            Self::Oidc => "oidc",
            Self::Recovery => "recovery",
            Self::Svid => "certificate",
        }
    }
}

/// Which caller gets which ID; made once, of the CA's configuration.
///
/// ```
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::issue::policy::{OidcRule, Rules};
///
/// let own = "spiffe://prod.example/inmesh/ca".parse()?;
/// let rules = Rules::new("prod.example".parse()?, own).with_oidc(OidcRule {
///     issuer: "https://ci.example".to_owned(),
///     claims: [("sub".to_owned(), "repo:shop/cart".to_owned())].into(),
///     id: "spiffe://prod.example/ci/cart".parse()?,
/// })?;
/// # drop(rules);
/// # Ok(())
/// # }
/// # example().unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Rules {
    trust_domain: TrustDomain,
    own: SpiffeId,
    kubernetes: bool,
    oidc: Vec<OidcRule>,
    host_names: BTreeMap<SpiffeId, Vec<String>>,
}

/// The bearer of a token of `issuer` with all of these claims gets `id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcRule {
    /// The issuer, exactly as its tokens have it.
    pub issuer: String,
    /// Claims and the values that they must have, compared whole; for a claim that is a list, one
    /// of its values.
    pub claims: BTreeMap<String, String>,
    /// The ID.
    pub id: SpiffeId,
}

/// While it is open, SVIDs that have expired may still be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Window {
    /// It closes at this moment.
    #[serde(with = "crate::time::unix")]
    pub until: SystemTime,
    /// An SVID that ended before this moment is refused all the same.
    #[serde(with = "crate::time::unix")]
    pub expired_since: SystemTime,
}

/// The longest time that a recovery window may be open, and the longest time ago that an SVID may
/// have ended which it admits. So a revocation is remembered for twice this after its leaf has ended.
pub const LONGEST_WINDOW: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The most host names of an ID.
const MAX_HOST_NAMES: usize = 16;

/// What is revoked: single leaves, and all leaves of an ID that were issued before a moment.
///
/// ```
/// use std::time::SystemTime;
///
/// use inmesh_pki::issue::policy::Revocations;
///
/// let id = "spiffe://prod.example/ns/shop/sa/cart".parse()?;
/// let now = SystemTime::now();
/// let mut revoked = Revocations::none();
/// assert!(!revoked.covers(&id, "0a", now));
/// revoked.revoke_serial("0a".to_owned());
/// assert!(revoked.covers(&id, "0a", now));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Revocations {
    serials: BTreeSet<String>,
    ids: RevokedIds,
}

/// Permission to sign a leaf for one ID; only [`may_issue`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    id: SpiffeId,
    by: Attestor,
    host_names: Vec<String>,
}

/// Why no ID is granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Several OIDC rules match, with different IDs, and none was asked for.
    #[error("the token may be {one} or {other}: ask for one of them")]
    Ambiguous {
        /// The ID of the first rule that matches.
        one: SpiffeId,
        /// Another one.
        other: SpiffeId,
    },
    /// What was proven does not make an ID.
    #[error("the proof does not name an ID: {reason}")]
    BadId {
        /// The first rule that the ID would break.
        #[source]
        reason: IdError,
    },
    /// This kind of proof is not accepted.
    #[error("this CA does not accept {got}")]
    Disabled {
        /// Which kind.
        got: &'static str,
    },
    /// The SVID has expired, and no recovery window is open for it.
    #[error("the SVID of {id} has expired at {}", utc(*not_after))]
    Expired {
        /// The ID that it names.
        id: SpiffeId,
        /// When it ended.
        not_after: SystemTime,
    },
    /// No OIDC rule matches.
    #[error("no rule of this CA matches the claims of the token of {issuer}")]
    NoRule {
        /// The issuer of the token.
        issuer: String,
    },
    /// The proof is for another ID than was asked for.
    #[error("{asked} was asked for, the proof is for {got}")]
    NotProven {
        /// What was asked for.
        asked: SpiffeId,
        /// The ID that the proof names.
        got: SpiffeId,
    },
    /// The ID is the CA's own, or names no workload.
    #[error("{id} is not for workloads")]
    Reserved {
        /// Which ID.
        id: SpiffeId,
    },
    /// The SVID is revoked, alone or with all others of its ID.
    #[error("the SVID of {id} with the serial number {serial} is revoked")]
    Revoked {
        /// The ID that it names.
        id: SpiffeId,
        /// The serial number of its leaf.
        serial: String,
    },
    /// The proof is for an ID of another trust domain.
    #[error("the proof is for {id}, this CA is of trust domain {trust_domain}")]
    WrongTrustDomain {
        /// Which ID.
        id: SpiffeId,
        /// The CA's own trust domain.
        trust_domain: TrustDomain,
    },
}

/// Why a rule cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// A leaf cannot have this host name, or has too many.
    #[error("{name:?} is no host name for the leaves of {id}: {reason}")]
    HostName {
        /// The ID.
        id: SpiffeId,
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Its ID may never be granted.
    #[error(transparent)]
    Id(#[from] Refused),
    /// It names no claim, so every token of the issuer would match.
    #[error("a rule for {id} names no claim: every token of {issuer} would match")]
    NoClaim {
        /// The ID.
        id: SpiffeId,
        /// The issuer.
        issuer: String,
    },
}

/// Decides which ID may be issued to a caller that has proven `attested` and asks for `requested`
/// (or for whatever the proof names), at the moment `now`.
///
/// 1. The proof names exactly one ID: that of the token or SVID, that of the service account, or
///    that of the OIDC rules that match.
/// 2. An SVID is not `revoked`, whether or not it has expired; and it has not expired, or it ended
///    within the recovery `window`, while that is open.
/// 3. If an ID was asked for, it is that one.
/// 4. It is a workload's, of this trust domain, and not the CA's own.
///
/// # Errors
///
/// [`Refused`]: the first step that fails.
pub fn may_issue(
    attested: &Attested,
    requested: Option<&SpiffeId>,
    rules: &Rules,
    window: Option<Window>,
    revoked: &Revocations,
    now: SystemTime,
) -> Result<Grant, Refused> {
    let (id, by) = match attested {
        Attested::JoinToken { id } => (id.clone(), Attestor::JoinToken),
        Attested::Kubernetes {
            namespace,
            service_account,
        } => {
            if !rules.kubernetes {
                return Err(Refused::Disabled {
                    got: "service-account tokens of Kubernetes",
                });
            }
            let id = SpiffeId::for_workload(&rules.trust_domain, namespace, service_account)
                .map_err(|reason| Refused::BadId { reason })?;
            (id, Attestor::Kubernetes)
        }
        Attested::Oidc { issuer, claims } => {
            (rules.of_claims(issuer, claims, requested)?, Attestor::Oidc)
        }
        Attested::Svid {
            id,
            serial,
            not_before,
            not_after,
        } => {
            if revoked.covers(id, serial, *not_before) {
                return Err(Refused::Revoked {
                    id: id.clone(),
                    serial: serial.clone(),
                });
            }
            let by = if now <= *not_after {
                Attestor::Svid
            } else if window.is_some_and(|window| window.admits(*not_after, now)) {
                Attestor::Recovery
            } else {
                return Err(Refused::Expired {
                    id: id.clone(),
                    not_after: *not_after,
                });
            };
            (id.clone(), by)
        }
    };
    if let Some(asked) = requested.filter(|asked| **asked != id) {
        return Err(Refused::NotProven {
            asked: asked.clone(),
            got: id,
        });
    }
    rules.check(&id)?;
    let host_names = rules.host_names.get(&id).cloned().unwrap_or_default();
    Ok(Grant { id, by, host_names })
}

// === impl Grant ===

impl Grant {
    /// The ID that may be issued.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The host names beside it, by which clients verify it that know no SPIFFE IDs.
    #[must_use]
    pub fn host_names(&self) -> &[String] {
        &self.host_names
    }

    /// By which kind of proof.
    #[must_use]
    pub fn by(&self) -> Attestor {
        self.by
    }
}

// === impl Window ===

impl Window {
    /// A window that is open for `open_for` from `now` on, to SVIDs that ended `expired` ago at most;
    /// both up to [`LONGEST_WINDOW`].
    #[must_use]
    pub fn new(now: SystemTime, open_for: Duration, expired: Duration) -> Self {
        let expired = expired.min(LONGEST_WINDOW);
        Self {
            until: now + open_for.min(LONGEST_WINDOW),
            expired_since: now.checked_sub(expired).unwrap_or(now),
        }
    }

    /// The same within the bounds of one that is opened at `now`.
    #[must_use]
    pub fn bounded(self, now: SystemTime) -> Self {
        let widest = Self::new(now, LONGEST_WINDOW, LONGEST_WINDOW);
        Self {
            until: self.until.min(widest.until),
            expired_since: self.expired_since.max(widest.expired_since),
        }
    }

    /// Whether an SVID that ended at `not_after` may be renewed at `now`.
    #[must_use]
    pub fn admits(&self, not_after: SystemTime, now: SystemTime) -> bool {
        now < self.until && not_after >= self.expired_since
    }
}

// === impl Revocations ===

impl Revocations {
    /// Nothing is revoked.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Revokes the leaf with this serial number, in lower-case hexadecimal.
    pub fn revoke_serial(&mut self, serial: String) {
        self.serials.insert(serial);
    }

    /// Revokes the leaves of `id` that begin before `before`.
    pub fn revoke_id(&mut self, id: SpiffeId, before: SystemTime) {
        self.ids.insert(id, before);
    }

    /// Whether the leaf of `id` with this serial number, which begins at `not_before`, is revoked.
    #[must_use]
    pub fn covers(&self, id: &SpiffeId, serial: &str, not_before: SystemTime) -> bool {
        self.serials.contains(serial) || self.ids.covers(id, not_before)
    }
}

// === impl Rules ===

impl Rules {
    /// Rules of a CA of `trust_domain` whose own ID is `own`: join tokens and renewals, no more.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, own: SpiffeId) -> Self {
        Self {
            trust_domain,
            own,
            kubernetes: false,
            oidc: Vec::new(),
            host_names: BTreeMap::new(),
        }
    }

    /// The same, with service accounts of Kubernetes.
    #[must_use]
    pub fn with_kubernetes(mut self) -> Self {
        self.kubernetes = true;
        self
    }

    /// The same, with a rule for OIDC tokens.
    ///
    /// # Errors
    ///
    /// [`RuleError`] if the rule could never grant its ID, or would grant it to every token.
    pub fn with_oidc(mut self, rule: OidcRule) -> Result<Self, RuleError> {
        self.check(&rule.id)?;
        if rule.claims.is_empty() {
            return Err(RuleError::NoClaim {
                id: rule.id,
                issuer: rule.issuer,
            });
        }
        self.oidc.push(rule);
        Ok(self)
    }

    /// The same, with a host name beside `id` in each of its leaves, as an operator wrote it: for clients that
    /// know no SPIFFE IDs, as an API server that calls a webhook. 16 for one ID at most.
    ///
    /// ```
    /// # fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use inmesh_pki::issue::policy::Rules;
    ///
    /// let rules = Rules::new("prod.example".parse()?, "spiffe://prod.example/inmesh/ca".parse()?);
    /// let control: inmesh_pki::SpiffeId = "spiffe://prod.example/ns/mesh-system/sa/mesh-control".parse()?;
    /// let rules = rules.with_host_name(control.clone(), "mesh-control.mesh-system.svc")?;
    /// assert!(rules.with_host_name(control, "*.svc").is_err());
    /// # Ok(())
    /// # }
    /// # example().unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// [`RuleError`] if the ID is never granted, or the name is no whole name of DNS (RFC 6125, section 6.4.3:
    /// a wildcard is for none).
    pub fn with_host_name(mut self, id: SpiffeId, name: &str) -> Result<Self, RuleError> {
        self.check(&id)?;
        let names = self.host_names.entry(id.clone()).or_default();
        let valid = DnsName::try_from(name).is_ok() && !name.ends_with('.');
        let reason = match (valid, names.len() < MAX_HOST_NAMES) {
            (false, _) => "write a name of DNS, without a wildcard or a dot at its end",
            (true, false) => "16 are the most",
            (true, true) => {
                let name = name.to_ascii_lowercase();
                if !names.contains(&name) {
                    names.push(name);
                }
                return Ok(self);
            }
        };
        Err(RuleError::HostName {
            id,
            name: name.to_owned(),
            reason,
        })
    }

    /// The trust domain of the CA.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The CA's own ID, which is never granted.
    #[must_use]
    pub fn own(&self) -> &SpiffeId {
        &self.own
    }

    /// The ID of the rules that match: the one that was asked for, else the only one.
    fn of_claims(
        &self,
        issuer: &str,
        claims: &BTreeMap<String, Vec<String>>,
        requested: Option<&SpiffeId>,
    ) -> Result<SpiffeId, Refused> {
        let has = |(name, value): (&String, &String)| {
            claims
                .get(name)
                .is_some_and(|values| values.contains(value))
        };
        let mut matching = self
            .oidc
            .iter()
            .filter(|rule| rule.issuer == issuer && rule.claims.iter().all(has))
            .map(|rule| &rule.id);
        let Some(one) = matching.next() else {
            return Err(Refused::NoRule {
                issuer: issuer.to_owned(),
            });
        };
        if let Some(asked) = requested {
            let found = (one == asked) || matching.any(|id| id == asked);
            return Ok(if found { asked } else { one }.clone());
        }
        match matching.find(|id| *id != one) {
            Some(other) => Err(Refused::Ambiguous {
                one: one.clone(),
                other: other.clone(),
            }),
            None => Ok(one.clone()),
        }
    }

    /// Step 4 of [`may_issue`].
    fn check(&self, id: &SpiffeId) -> Result<(), Refused> {
        if id.trust_domain() != &self.trust_domain {
            return Err(Refused::WrongTrustDomain {
                id: id.clone(),
                trust_domain: self.trust_domain.clone(),
            });
        }
        if id.path().is_empty() || *id == self.own {
            return Err(Refused::Reserved { id: id.clone() });
        }
        Ok(())
    }
}
