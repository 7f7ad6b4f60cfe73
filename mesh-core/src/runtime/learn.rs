//! Destinations that no source has pushed, where a source is asked for what it did not push.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::shared::Shared;
use crate::discover::{Heard, Wanted};
use crate::error::{Error, Reason};
use crate::model::Namespace;
use crate::plan::{Destination, Planned};

/// How long a request waits for an answer.
const WAIT: Duration = Duration::from_secs(5);

/// Whether nothing is known of a destination, or no more than that all hosts are reached.
pub(super) fn is_unknown(planned: Result<&Planned, &Error>) -> bool {
    match planned {
        Ok(planned) => planned.is_passthrough(),
        Err(error) => error.reason() == Reason::UnknownHost,
    }
}

/// Asks for a destination of which nothing is known, and waits for the answer. Returns whether more is
/// known than before.
///
/// # Errors
///
/// No source has answered in time: whether the destination exists is not known.
pub(super) async fn learn(
    shared: &Shared,
    namespace: &Namespace,
    to: Destination<'_>,
    until: Option<Instant>,
) -> Result<bool, Error> {
    let demand = &shared.demand;
    if !demand.is_answered() {
        return Ok(false);
    }
    let host = |authority| Wanted::host(authority, namespace);
    let wanted = match to {
        Destination::Address(address) => [Some(Wanted::Address(address.ip())), None],
        Destination::Captured { address, authority } => {
            [Some(Wanted::Address(address.ip())), host(authority)]
        }
        Destination::Authority(authority) => [host(authority), None],
        Destination::Service { name, .. } => [Some(Wanted::Service(name.clone())), None],
    };
    let latest = Instant::now() + WAIT;
    let until = until.map_or(latest, |until| until.min(latest));
    for wanted in wanted.into_iter().flatten() {
        match demand.ask(&wanted, until).await {
            Heard::Found => return Ok(true),
            Heard::Nothing => {}
            Heard::Silence => {
                let detail = format!("nothing is known of {wanted} yet: no source has answered");
                return Err(Error::new(Reason::NoEndpoint, detail));
            }
        }
    }
    Ok(false)
}

/// The same for an address that a caller has connected to, before anything is read.
pub(super) async fn learn_address(shared: &Shared, address: IpAddr) {
    let demand = &shared.demand;
    if demand.is_answered() && shared.reader.peek().at_address(address).is_none() {
        // What becomes of the connection is decided when it has said what it wants.
        let until = Instant::now() + WAIT;
        let _heard = demand.ask(&Wanted::Address(address), until).await;
    }
}
