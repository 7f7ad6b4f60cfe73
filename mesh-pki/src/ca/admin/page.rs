//! A CA's status in, its JSON out.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::ca::CaStatus;
use crate::ca::state::KeyPlace;
use crate::time::to_unix;

/// The whole status; moments are seconds since 1970.
pub(super) fn page(status: &CaStatus) -> Value {
    let moment = |at: SystemTime| to_unix(at);
    let authorities: Vec<Value> = status
        .authorities
        .iter()
        .map(|a| {
            json!({
                "keyId": a.key_id,
                "issuerKeyId": a.issuer_key_id,
                "stage": a.stage.to_string(),
                "rootKey": match a.root_key {
                    KeyPlace::Held => "held",
                    KeyPlace::Offline => "offline",
                },
                "rootNotAfter": moment(a.root_not_after),
                "issuerNotAfter": moment(a.issuer_not_after),
                "leafUntil": a.leaf_until.map(moment),
                "endsSoon": a.ends_soon,
            })
        })
        .collect();
    let wait = status.wait.as_ref().map(|wait| {
        let members: Vec<Value> = wait
            .missing
            .iter()
            .map(|m| {
                json!({
                    "id": m.id.as_str(),
                    "name": m.name,
                    "acknowledged": m.acknowledged,
                    "until": moment(m.until),
                })
            })
            .collect();
        json!({"until": moment(wait.until), "unknown": wait.unknown, "members": members})
    });
    json!({
        "trustDomain": status.trust_domain.as_str(),
        "generation": status.generation,
        "authorities": authorities,
        "next": status.next.map(|step| step.to_string()),
        "waitsFor": wait,
        "members": status.members,
        "unknownUntil": status.unknown_until.map(moment),
        "openTokens": status.open_tokens,
        "recovery": status.recovery.map(|window| {
            json!({"until": moment(window.until), "expiredSince": moment(window.expired_since)})
        }),
    })
}
