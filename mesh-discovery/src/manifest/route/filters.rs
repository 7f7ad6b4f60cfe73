//! Filters: what a rule, or one of its backends, does to requests and answers on their way.
//!
//! Bounds and combinations are those of the API's schema. Fields that frame a message, name its
//! connection or are what only the mesh says are refused by [`HeaderChanges`].

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use inmesh_core::route::{
    Filter, HeaderChanges, InvalidRoute, Mirror, PathRewrite, Redirect, Rewrite,
};

use super::super::strict::{Fields, Value};
use super::super::text;
use super::cors;
use super::matches::{HEADER_CHARS, PATH_CHARS, field_name, field_value};
use super::reference::{LATER, Within, target};

/// Filters of gRPC that the Gateway API knows.
pub(super) const GRPC: &[&str] = &[
    "RequestHeaderModifier",
    "RequestMirror",
    "ResponseHeaderModifier",
    "ExtensionRef",
];

/// Filters that the Gateway API knows.
pub(super) const HTTP: &[&str] = &[
    "CORS",
    "RequestHeaderModifier",
    "RequestMirror",
    "RequestRedirect",
    "ResponseHeaderModifier",
    "URLRewrite",
    "ExtensionRef",
    "ExternalAuth",
];

const REDIRECT: &str = "RequestRedirect";
/// Why a backend has no redirect.
const NO_REDIRECT: &str = "a rule redirects, a backend does not: requests are sent to it";

/// The filters of a rule or backend.
#[derive(Default)]
pub(super) struct Filters<'t> {
    /// Edits of heads, in their order.
    pub(super) edits: Vec<Filter>,
    /// A redirect, which is the rule's outcome.
    pub(super) redirect: Option<(Value<'t>, Redirect)>,
    /// Where the prefix is replaced that was matched.
    pub(super) prefix: Option<Value<'t>>,
    /// Edits that only a request meets that is sent on.
    forwarded: Vec<Value<'t>>,
}

/// Reads the field `filters` of a rule or backend.
pub(super) fn read<'t>(of: &mut Fields<'t>, within: Within<'_>) -> Option<Filters<'t>> {
    read_each(of, within, |_, _| {})
}

/// The same of a backend, which does not redirect.
pub(super) fn read_of_backend<'t>(of: &mut Fields<'t>, within: Within<'_>) -> Option<Filters<'t>> {
    let redirects = within.filters.contains(&REDIRECT);
    let filters = read_each(of, within, |fields, kind| {
        // One of that kind is refused as a whole.
        if redirects && kind != REDIRECT {
            fields.refuse_all(&["requestRedirect"], NO_REDIRECT);
        }
    })?;
    if let Some((at, _)) = &filters.redirect {
        at.refuse(NO_REDIRECT);
    }
    Some(filters)
}

fn read_each<'t>(
    of: &mut Fields<'t>,
    within: Within<'_>,
    also: impl Fn(&mut Fields<'t>, &str),
) -> Option<Filters<'t>> {
    let mut read = Filters::default();
    let Some(list) = of.get("filters") else {
        return Some(read);
    };
    let mut seen = Vec::new();
    for filter in list.list_of_or_empty(16)? {
        let kind = filter.object(|fields| {
            let kind = one(fields, &filter, within, &mut read)?;
            also(fields, kind);
            Some(kind)
        })?;
        if seen.contains(&kind) && kind != "RequestMirror" {
            filter.refuse(format_args!("a second {kind} in one list is not allowed"));
        }
        let other = match kind {
            "RequestRedirect" => "URLRewrite",
            "URLRewrite" => "RequestRedirect",
            _ => "",
        };
        if seen.contains(&other) {
            filter.refuse(format_args!("a list has {kind} or {other}, not both"));
        }
        seen.push(kind);
    }
    if read.redirect.is_some() {
        for filter in &read.forwarded {
            filter.warn("has no effect beside RequestRedirect: the request is not sent on");
        }
    }
    Some(read)
}

/// Reads one filter; gives its kind.
fn one<'t>(
    fields: &mut Fields<'t>,
    filter: &Value<'t>,
    within: Within<'_>,
    read: &mut Filters<'t>,
) -> Option<&'static str> {
    let at = fields.need("type");
    let kind = at.as_ref().and_then(|at| at.choice(within.filters));
    let (Some(at), Some(kind)) = (at, kind) else {
        // Which fields it may have is not known.
        fields.ignore_all();
        return None;
    };
    match kind {
        "CORS" => {
            let cors = cors::read(&fields.need("cors")?)?;
            read.edits.push(Filter::Cors(Arc::new(cors)));
        }
        "RequestHeaderModifier" => {
            let changes = changes(&fields.need("requestHeaderModifier")?)?;
            read.edits.push(Filter::RequestHeaders(changes));
            read.forwarded.push(filter.clone());
        }
        "ResponseHeaderModifier" => {
            let changes = changes(&fields.need("responseHeaderModifier")?)?;
            read.edits.push(Filter::ResponseHeaders(changes));
        }
        "RequestMirror" => {
            let mirror = mirror(&fields.need("requestMirror")?, within)?;
            read.edits.push(Filter::Mirror(mirror));
            read.forwarded.push(filter.clone());
        }
        "RequestRedirect" => {
            let redirect = redirect(&fields.need("requestRedirect")?, &mut read.prefix)?;
            read.redirect = Some((filter.clone(), redirect));
        }
        "URLRewrite" => {
            let rewrite = rewrite(&fields.need("urlRewrite")?, &mut read.prefix)?;
            read.edits.push(Filter::Rewrite(rewrite));
        }
        _ => {
            fields.ignore_all();
            at.refuse(format_args!("the filter {kind} {LATER}"));
            return None;
        }
    }
    for (of, field) in [
        ("ExtensionRef", "extensionRef"),
        ("ExternalAuth", "externalAuth"),
    ] {
        if within.filters.contains(&of) {
            fields.refuse_all(&[field], LATER);
        }
    }
    Some(kind)
}

fn mirror(value: &Value<'_>, within: Within<'_>) -> Option<Mirror> {
    value.object(|fields| {
        let backend = fields.need("backendRef");
        let (percent, fraction) = (fields.get("percent"), fields.get("fraction"));
        if let (Some(_), Some(fraction)) = (&percent, &fraction) {
            fraction.refuse("a mirror has percent or fraction, not both");
        }
        let backend = backend?;
        let (service, port) = backend.object(|fields| target(fields, within.namespace))?;
        if within
            .parents
            .iter()
            .any(|parent| parent.service == service)
        {
            backend.refuse("is a parent of the route: a Service is not mirrored to itself");
        }
        let read = Mirror::new(service, port);
        let read = match (percent, fraction) {
            (Some(percent), _) => {
                let share = percent.integer_in(0, 100)?;
                percent.check(read.with_share(share, 100))?
            }
            (None, Some(fraction)) => {
                let (numerator, denominator) = fraction.object(|of| {
                    let (numerator, denominator) = (of.need("numerator"), of.get("denominator"));
                    let most = i64::from(i32::MAX);
                    let denominator = match denominator {
                        Some(value) => value.integer_in(1, most)?,
                        None => 100,
                    };
                    Some((numerator?.integer_in(0, most)?, denominator))
                })?;
                fraction.check(read.with_share(numerator, denominator))?
            }
            (None, None) => read,
        };
        if read.share().0 == 0 {
            value.warn("mirrors nothing");
        }
        Some(read)
    })
}

fn redirect<'t>(value: &Value<'t>, prefix: &mut Option<Value<'t>>) -> Option<Redirect> {
    value.object(|fields| {
        let (scheme, host) = (fields.get("scheme"), fields.get("hostname"));
        let (port, path) = (fields.get("port"), fields.get("path"));
        let status = fields.get("statusCode");
        let stays = [&scheme, &host, &port, &path].iter().all(|f| f.is_none());
        let mut read = Redirect::new();
        if let Some(scheme) = scheme {
            read = scheme.check(read.with_scheme(scheme.choice(&["http", "https"])?))?;
        }
        if let Some(host) = host {
            read = host.check(read.with_host(host.check(text::subdomain(host.text()?))?))?;
        }
        if let Some(port) = port {
            read = read.with_port(port.integer_in(1, 65_535)?);
        }
        if let Some(path) = path {
            read = read.with_path(path_of(&path, prefix)?);
        }
        if let Some(status) = status {
            let code = status.integer_in(0, i64::from(u16::MAX))?;
            read = status.check(read.with_status(code))?;
        }
        if stays {
            value.warn("leads to the location that was asked for");
        }
        Some(read)
    })
}

fn rewrite<'t>(value: &Value<'t>, prefix: &mut Option<Value<'t>>) -> Option<Rewrite> {
    value.object(|fields| {
        let (host, path) = (fields.get("hostname"), fields.get("path"));
        let mut read = Rewrite::new();
        if let Some(host) = &host {
            read = host.check(read.with_host(host.check(text::subdomain(host.text()?))?))?;
        }
        if let Some(path) = &path {
            read = read.with_path(path_of(path, prefix)?);
        }
        if host.is_none() && path.is_none() {
            value.warn("changes nothing");
        }
        Some(read)
    })
}

/// Reads the path of a redirect or rewrite, and notes where it replaces a prefix.
fn path_of<'t>(value: &Value<'t>, prefix: &mut Option<Value<'t>>) -> Option<PathRewrite> {
    value.object(|fields| {
        let kind = fields.need("type");
        let (full, part) = (
            fields.get("replaceFullPath"),
            fields.get("replacePrefixMatch"),
        );
        let kind = kind?.choice(&["ReplaceFullPath", "ReplacePrefixMatch"])?;
        let (name, meant, other) = match kind {
            "ReplaceFullPath" => ("replaceFullPath", full, part),
            _ => ("replacePrefixMatch", part, full),
        };
        if let Some(other) = other {
            other.refuse(format_args!("is not allowed where the type is {kind}"));
        }
        if !fields.has(name) {
            fields.missing(name, "is missing");
        }
        let meant = meant?;
        let path = meant.text()?;
        if path.chars().count() > PATH_CHARS {
            meant.refuse(format_args!("is longer than {PATH_CHARS} characters"));
            return None;
        }
        if kind == "ReplaceFullPath" {
            return meant.check(PathRewrite::full(path));
        }
        *prefix = Some(meant.clone());
        meant.check(PathRewrite::prefix(path))
    })
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
        let mut seen = Vec::new();
        for (list, change) in pairs {
            for pair in list.map_or(Some(Vec::new()), |list| list.list_of_or_empty(16))? {
                let (at, text, value) = pair.object(|pair| {
                    let (name, value) = (pair.need("name"), pair.need("value"));
                    let (name, value) = (name?, value?);
                    let text = name.check(field_name(name.text()?));
                    let of = value.check(field_value(value.text()?, HEADER_CHARS))?;
                    let of = value.check(HeaderValue::from_str(of))?;
                    Some((name, text?, of))
                })?;
                let name = at.check(HeaderName::from_bytes(text.as_bytes()))?;
                if is_first(&mut seen, &name, &at) {
                    changes = at.check(change(changes, name, value))?;
                }
            }
        }
        for at in removed.map_or(Some(Vec::new()), |list| list.list_of_or_empty(16))? {
            let name = at.check(HeaderName::from_bytes(at.text()?.as_bytes()))?;
            if is_first(&mut seen, &name, &at) {
                changes = at.check(changes.remove(name))?;
            }
        }
        if changes.is_empty() {
            value.warn("changes nothing");
        }
        Some(changes)
    })
}

/// Whether no other change of a list is of that name; else both places are named.
fn is_first<'t>(
    seen: &mut Vec<(HeaderName, Value<'t>)>,
    name: &HeaderName,
    at: &Value<'t>,
) -> bool {
    if let Some((_, other)) = seen.iter().find(|(other, _)| other == name) {
        at.refuse(format_args!(
            "{name} stands twice, also in {}: a name has one of set, add and remove",
            other.path()
        ));
        return false;
    }
    seen.push((name.clone(), at.clone()));
    true
}
