//! The head of a call in, what its caller has proven out: its certificate, verified anew, else its
//! bearer token.

use http::{HeaderMap, header};
use tonic::Status;

use super::{CaShared, CallerConnection};
use crate::ca::attest::{AttestError, Method, ReviewError};
use crate::ca::store::Store;
use crate::ca::{Ca, CaError};
use crate::issue::policy::Attested;
use crate::jwt::MAX_TOKEN_LEN;
use crate::svid::Usage;
use crate::tls;

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

/// What the caller has proven; else the method that it tried, and why it proves nothing.
pub(super) async fn prove<S: Store>(
    shared: &CaShared<S>,
    caller: &CallerConnection,
    headers: &HeaderMap,
) -> Result<Proof, (Method, Status)> {
    let now = shared.ca.clock().now();
    let crypto = shared.ca.crypto();
    if !caller.chain.is_empty() {
        // Anew, for the connection may be older than the bundle.
        let state = shared.reader.load();
        let grace = Some(&shared.grace);
        let verified =
            tls::validate_with_grace(&caller.chain, &state, now, Usage::Client, crypto, grace)
                .map_err(|rejected| {
                    let status = Status::unauthenticated(rejected.to_string());
                    (Method::Certificate, status)
                })?;
        return Ok(Proof::Done(Attested::Svid {
            id: verified.id,
            serial: verified.serial,
            not_before: verified.not_before,
            not_after: verified.not_after,
        }));
    }
    let token = bearer(headers).map_err(|status| (Method::None, status))?;
    if Ca::<S>::is_token(token) {
        return match shared.ca.look_at_token(token).await {
            Ok(id) => Ok(Proof::Token(
                zeroize::Zeroizing::new(token.to_owned()),
                Attested::JoinToken { id },
            )),
            Err(error) => Err((Method::JoinToken, status_of(&error))),
        };
    }
    match shared.attestors.attest(token, now, crypto).await {
        Ok(attested) => Ok(Proof::Done(attested)),
        Err(AttestError::Review(error @ ReviewError::Unavailable { .. })) => {
            tracing::warn!(%error, "no token review is available");
            let status = Status::unavailable("the token cannot be reviewed at the moment");
            Err((Method::Review, status))
        }
        Err(error) => {
            tracing::debug!(%error, "a token is refused");
            let method = shared.attestors.method_of(token);
            Err((method, Status::unauthenticated(error.to_string())))
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
