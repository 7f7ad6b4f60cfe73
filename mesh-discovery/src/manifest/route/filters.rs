//! Filters: changes to the header of the request and of the response. No others are done.
//!
//! Fields that frame a message or name its connection are refused by [`HeaderChanges`].

use http::{HeaderName, HeaderValue};
use inmesh_core::route::{Filter, HeaderChanges, InvalidRoute};

use super::super::strict::{Fields, Value};
use super::LATER;
use super::matches::{HEADER_CHARS, field_name, field_value};

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
    for filter in list.list_of_or_empty(16)? {
        let (kind, read) = filter.object(|fields| {
            let at = fields.need("type");
            let kind = at.as_ref().and_then(|at| at.choice(KINDS));
            let (Some(at), Some(kind)) = (at, kind) else {
                // Which fields it may have is not known.
                fields.ignore_all();
                return None;
            };
            let read = match kind {
                "RequestHeaderModifier" => {
                    Filter::RequestHeaders(changes(&fields.need("requestHeaderModifier")?)?)
                }
                "ResponseHeaderModifier" => {
                    Filter::ResponseHeaders(changes(&fields.need("responseHeaderModifier")?)?)
                }
                _ => {
                    fields.ignore_all();
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
        let pairs: [(_, Change); 2] = [
            (fields.get("set"), HeaderChanges::set),
            (fields.get("add"), HeaderChanges::add),
        ];
        let removed = fields.get("remove");
        for (list, change) in pairs {
            let mut seen = Vec::new();
            for pair in list.map_or(Some(Vec::new()), |list| list.list_of_or_empty(16))? {
                let (at, text, value) = pair.object(|pair| {
                    let (name, value) = (pair.need("name"), pair.need("value"));
                    let (name, value) = (name?, value?);
                    let text = name.check(field_name(name.text()?));
                    let of = value.check(field_value(value.text()?, HEADER_CHARS))?;
                    let of = value.check(HeaderValue::from_str(of))?;
                    Some((name, text?, of))
                })?;
                if seen.contains(&text) {
                    pair.refuse(format_args!("the name {text:?} stands twice"));
                }
                seen.push(text);
                let name = at.check(HeaderName::from_bytes(text.as_bytes()))?;
                changes = at.check(change(changes, name, value))?;
            }
        }
        let mut seen = Vec::new();
        for name in removed.map_or(Some(Vec::new()), |list| list.list_of_or_empty(16))? {
            let text = name.text()?;
            if seen.contains(&text) {
                name.refuse(format_args!("{text:?} stands twice"));
            }
            seen.push(text);
            let header = name.check(HeaderName::from_bytes(text.as_bytes()))?;
            changes = name.check(changes.remove(header))?;
        }
        if changes.is_empty() {
            value.warn("changes nothing");
        }
        Some(changes)
    })
}
