//! The head of a call in, what its caller has proven out: its certificate, else its bearer token.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, header};
use tonic::Status;

use super::presented::{Judge, Reason, Verdict};
use super::{CaShared, CallerConnection};
use crate::ca::attest::{AttestError, Method, ReviewError};
use crate::ca::store::Store;
use crate::ca::{Ca, CaError};
use crate::issue::policy::Attested;
use crate::jwt::MAX_TOKEN_LEN;
use crate::metadata::REVOKED;
use crate::time::to_unix;

/// What a caller has proven; a join token is spent only when everything else is in order.
#[derive(Clone)]
pub(super) enum Proof {
    Done(Attested),
    Token(zeroize::Zeroizing<String>, Attested),
}

impl Proof {
    pub(super) fn attested(&self) -> &Attested {
        match self {
            Self::Done(attested) | Self::Token(_, attested) => attested,
        }
    }
}

/// Why a caller is not known.
pub(super) struct Unproven {
    /// What was tried last.
    pub(super) method: Method,
    pub(super) status: Status,
    /// The same for the log, where nothing is named that is only claimed.
    pub(super) why: String,
}

/// What the caller has proven.
///
/// 1. A certificate that proves an ID is the proof.
/// 2. One that is denied ends the call: no token beside it takes that back.
/// 3. Any other proves nothing, and the one bearer token of the call is looked at, as without it.
pub(super) async fn prove<S: Store>(
    shared: &CaShared<S>,
    caller: &CallerConnection,
    headers: &HeaderMap,
) -> Result<Proof, Unproven> {
    let now = shared.ca.clock().now();
    let reason = match verdict(shared, caller, now) {
        Verdict::Absent => return by_token(shared, headers, now).await,
        Verdict::Proven(attested) => return Ok(Proof::Done(attested)),
        Verdict::Denied(reason) => return Err(Unproven::by_certificate(reason)),
        Verdict::Unproven(reason) => reason,
    };
    if bearer(headers).is_err() {
        return Err(Unproven::by_certificate(reason));
    }
    shared
        .counts
        .update(|counts| counts.failed(Method::Certificate));
    let proven = by_token(shared, headers, now).await;
    proven.map_err(|token| token.beside(&reason))
}

fn verdict<S: Store>(shared: &CaShared<S>, caller: &CallerConnection, now: SystemTime) -> Verdict {
    let revoked = Arc::clone(&shared.revocations.borrow());
    caller.presented.verdict(&Judge {
        state: &shared.reader.load(),
        revoked: &revoked,
        window: *shared.window.borrow(),
        now,
        crypto: shared.ca.crypto(),
    })
}

impl Unproven {
    fn by_certificate(reason: Reason) -> Self {
        let mut status = Status::unauthenticated(reason.said);
        if let Some(since) = reason.revoked {
            say_revoked(&mut status, since);
        }
        Self {
            method: Method::Certificate,
            status,
            why: format!("the client's certificate: {}", reason.name),
        }
    }

    fn by_token(method: Method, status: Status) -> Self {
        let why = status.message().to_owned();
        Self {
            method,
            status,
            why,
        }
    }

    /// The refusal of a token that stood beside a certificate.
    fn beside(self, certificate: &Reason) -> Self {
        let (code, why) = (self.status.code(), self.why);
        let said = format!("{}; the token beside it: {why}", certificate.said);
        Self {
            method: self.method,
            status: Status::new(code, said),
            why: format!(
                "the client's certificate: {}; the token beside it: {why}",
                certificate.name
            ),
        }
    }
}

async fn by_token<S: Store>(
    shared: &CaShared<S>,
    headers: &HeaderMap,
    now: SystemTime,
) -> Result<Proof, Unproven> {
    let crypto = shared.ca.crypto();
    let token = bearer(headers).map_err(|status| Unproven::by_token(Method::None, status))?;
    if Ca::<S>::is_token(token) {
        return match shared.ca.look_at_token(token).await {
            Ok(id) => Ok(Proof::Token(
                zeroize::Zeroizing::new(token.to_owned()),
                Attested::JoinToken { id },
            )),
            Err(error) => Err(Unproven::by_token(Method::JoinToken, status_of(&error))),
        };
    }
    match shared.attestors.attest(token, now, crypto).await {
        Ok(attested) => Ok(Proof::Done(attested)),
        Err(AttestError::Review(error @ ReviewError::Unavailable { .. })) => {
            tracing::warn!(%error, "no token review is available");
            let status = Status::unavailable("the token cannot be reviewed at the moment");
            Err(Unproven::by_token(Method::Review, status))
        }
        Err(error) => {
            tracing::debug!(%error, "a token is refused");
            let method = shared.attestors.method_of(token);
            let status = Status::unauthenticated(error.to_string());
            Err(Unproven::by_token(method, status))
        }
    }
}

/// The one bearer token of a call; its scheme in any case, as HTTP has it.
fn bearer(headers: &HeaderMap) -> Result<&str, Status> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(one), None) = (all.next(), all.next()) else {
        return Err(Status::unauthenticated(
            "neither a client certificate nor exactly one bearer token",
        ));
    };
    let (scheme, token) = one
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or_else(|| Status::unauthenticated("no bearer token"))?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.len() > MAX_TOKEN_LEN {
        return Err(Status::unauthenticated(
            "no bearer token of a bearable size",
        ));
    }
    Ok(token.trim())
}

/// Says that the certificate which the caller presents is revoked.
pub(super) fn say_revoked(status: &mut Status, since: SystemTime) {
    status.metadata_mut().insert(REVOKED, to_unix(since).into());
}

/// What a failure of the CA means to a caller; what is the CA's own business stays here.
pub(super) fn status_of(error: &CaError) -> Status {
    match error {
        CaError::Token(error) => Status::unauthenticated(error.to_string()),
        CaError::Issue(crate::issue::IssueError::Key { .. }) => {
            Status::invalid_argument(error.to_string())
        }
        error => {
            tracing::error!(%error, "the CA cannot issue");
            Status::unavailable("the CA cannot issue at the moment")
        }
    }
}
