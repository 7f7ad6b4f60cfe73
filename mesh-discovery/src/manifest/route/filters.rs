//! Filters: changes to the header of the request and of the response. No others are done.
//!
//! Fields that frame a message or name its connection are refused: the proxy sets them itself,
//! and a route that could would desynchronise the two sides.

use http::{HeaderName, HeaderValue};
use inmesh_core::route::HeaderChanges;

use super::super::strict::{Fields, Value};
use super::LATER;

/// Fields that a route may not touch.
const OURS: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Filters that the Gateway API knows.
const KINDS: &[&str] = &[
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "CORS",
    "ExtensionRef",
    "ExternalAuth",
    "RequestMirror",
    "RequestRedirect",
    "URLRewrite",
];

/// Reads the field `filters` of a rule or backend: changes to the request, to the response.
pub(super) fn read(of: &mut Fields<'_>) -> Option<(HeaderChanges, HeaderChanges)> {
    let Some(list) = of.get("filters") else {
        return Some(Default::default());
    };
    let (mut request, mut response) = (None, None);
    for filter in list.list_of(16)? {
        let (kind, changes) = filter.object(|fields| {
            let at = fields.need("type")?;
            let kind = at.choice(KINDS)?;
            let name = match kind {
                "RequestHeaderModifier" => "requestHeaderModifier",
                "ResponseHeaderModifier" => "responseHeaderModifier",
                _ => {
                    at.refuse(format_args!("the filter {kind} {LATER}"));
                    return None;
                }
            };
            Some((kind, changes(&fields.need(name)?)?))
        })?;
        let slot = if kind == "RequestHeaderModifier" {
            &mut request
        } else {
            &mut response
        };
        if slot.replace(changes).is_some() {
            filter.refuse(format_args!("a second {kind} in one list is not allowed"));
        }
    }
    Some((request.unwrap_or_default(), response.unwrap_or_default()))
}

fn changes(value: &Value<'_>) -> Option<HeaderChanges> {
    value.object(|fields| {
        let mut changes = HeaderChanges::default();
        for (name, to) in [("set", &mut changes.set), ("add", &mut changes.add)] {
            if let Some(list) = fields.get(name) {
                for pair in list.list_of(16)? {
                    let pair = pair.object(|pair| {
                        let name = pair.need("name").and_then(|name| header_name(&name));
                        let value = pair.need("value")?;
                        let value = value.check(HeaderValue::from_str(value.text()?))?;
                        Some((name?, value))
                    })?;
                    to.push(pair);
                }
            }
        }
        if let Some(list) = fields.get("remove") {
            let names = list.list_of(16)?;
            changes.remove = names.iter().map(header_name).collect::<Option<_>>()?;
        }
        if changes.is_empty() {
            value.refuse("changes nothing; write set, add or remove");
        }
        Some(changes)
    })
}

fn header_name(value: &Value<'_>) -> Option<HeaderName> {
    let name = value.check(HeaderName::from_bytes(value.text()?.as_bytes()))?;
    if OURS.contains(&name.as_str()) {
        value.refuse(format_args!("{name} is set by the proxy itself"));
        return None;
    }
    Some(name)
}
