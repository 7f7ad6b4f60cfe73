//! Filters: changes to the header of the request and of the response. No others are done.
//!
//! Fields that frame a message or name its connection are refused by [`HeaderChanges`].

use http::{HeaderName, HeaderValue};
use inmesh_core::route::{Filter, HeaderChanges, InvalidRoute};

use super::super::strict::{Fields, Value};
use super::LATER;

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

/// Reads the field `filters` of a rule or backend.
pub(super) fn read(of: &mut Fields<'_>) -> Option<Vec<Filter>> {
    let Some(list) = of.get("filters") else {
        return Some(Vec::new());
    };
    let (mut seen, mut filters) = (Vec::new(), Vec::new());
    for filter in list.list_of(16)? {
        let (kind, read) = filter.object(|fields| {
            let at = fields.need("type")?;
            let kind = at.choice(KINDS)?;
            let read = match kind {
                "RequestHeaderModifier" => {
                    Filter::RequestHeaders(changes(&fields.need("requestHeaderModifier")?)?)
                }
                "ResponseHeaderModifier" => {
                    Filter::ResponseHeaders(changes(&fields.need("responseHeaderModifier")?)?)
                }
                _ => {
                    at.refuse(format_args!("the filter {kind} {LATER}"));
                    return None;
                }
            };
            Some((kind, read))
        })?;
        if seen.contains(&kind) {
            filter.refuse(format_args!("a second {kind} in one list is not allowed"));
        }
        seen.push(kind);
        filters.push(read);
    }
    Some(filters)
}

fn changes(value: &Value<'_>) -> Option<HeaderChanges> {
    value.object(|fields| {
        let mut changes = HeaderChanges::new();
        type Change =
            fn(HeaderChanges, HeaderName, HeaderValue) -> Result<HeaderChanges, InvalidRoute>;
        let pairs: [(_, Change); 2] = [("set", HeaderChanges::set), ("add", HeaderChanges::add)];
        for (field, change) in pairs {
            let Some(list) = fields.get(field) else {
                continue;
            };
            for pair in list.list_of(16)? {
                let (at, name, value) = pair.object(|pair| {
                    let name = pair.need("name");
                    let value = pair.need("value")?;
                    let text = value.check(HeaderValue::from_str(value.text()?))?;
                    let name = name?;
                    let parsed = header_name(&name)?;
                    Some((name, parsed, text))
                })?;
                changes = at.check(change(changes, name, value))?;
            }
        }
        if let Some(list) = fields.get("remove") {
            for name in list.list_of(16)? {
                changes = name.check(changes.remove(header_name(&name)?))?;
            }
        }
        if changes.is_empty() {
            value.refuse("changes nothing; write set, add or remove");
        }
        Some(changes)
    })
}

fn header_name(value: &Value<'_>) -> Option<HeaderName> {
    value.check(HeaderName::from_bytes(value.text()?.as_bytes()))
}
