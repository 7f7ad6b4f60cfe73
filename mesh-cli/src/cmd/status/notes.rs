//! Lines under the table of Services: what is unusual of them.

use serde_json::Value;

use super::{each, span, text};

/// The sources that are out of sync, and whether what they have pushed is in doubt.
pub(super) fn sources(status: &Value) -> impl Iterator<Item = String> {
    let sources = status["sources"].as_object().into_iter().flatten();
    sources.filter_map(|(id, source)| {
        let state = source["state"]
            .as_str()
            .filter(|state| *state != "synced")?;
        let stale = match source["stale"] == true {
            true => "is STALE: ",
            false => "is ",
        };
        let reason = source["reason"].as_str();
        let reason = reason
            .map(|reason| format!(" ({reason})"))
            .unwrap_or_default();
        let age = span(source["age"].as_u64().unwrap_or_default());
        Some(format!(
            "source {id} {stale}{state}{reason}, {age} out of sync"
        ))
    })
}

/// Why endpoints failed last.
pub(super) fn endpoint_errors(status: &Value) -> impl Iterator<Item = String> {
    each(&status["services"]).flat_map(|service| {
        each(&service["endpoints"]).filter_map(|endpoint| {
            let last = &endpoint["last_error"];
            let (error, age) = (last["error"].as_str()?, last["age"].as_u64()?);
            let (name, port) = (text(&service["service"]), &service["port"]);
            let address = text(&endpoint["address"]);
            Some(format!(
                "{name}:{port} {address} failed {} ago: {error}",
                span(age)
            ))
        })
    })
}

/// The ports whose servers were found out to speak first, with the line that declares them.
pub(super) fn server_first(status: &Value) -> impl Iterator<Item = String> {
    let ports = each(&status["services"]).filter(|s| s["server_first"] == true);
    let ports = ports.map(|s| {
        let (service, port) = (text(&s["service"]), &s["port"]);
        format!("{service}:{port} speaks first; write `appProtocol: tcp` at the Service's port")
    });
    let listeners = each(&status["listeners"]).filter(|l| l["server_first"] == true);
    ports.chain(listeners.map(|l| {
        let address = text(&l["address"]);
        format!(
            "the application behind {address} speaks first; write `appProtocol: tcp` at the listener's \
             `inbound`"
        )
    }))
}

/// The ports to whose endpoints requests wait for a connection, or were refused one.
pub(super) fn overflows(status: &Value) -> impl Iterator<Item = String> {
    each(&status["services"]).flat_map(|service| {
        let (name, port) = (text(&service["service"]), &service["port"]);
        each(&service["connections"]).filter_map(move |of| {
            let (pending, refused) = (of["pending"].as_u64()?, of["overflows"].as_u64()?);
            (pending + refused > 0).then(|| {
                format!(
                    "{name}:{port} has {} connections open from {}; {pending} requests wait for one, {refused} were \
                     refused",
                    of["open"],
                    text(&of["workload"]),
                )
            })
        })
    })
}
