//! The conditions of a rule: path, method, header fields, query parameters.

use http::{HeaderName, Method};
use inmesh_core::authorize::PathForm;
use inmesh_core::route::{Match, PathMatch, Regex, ValueMatch, check_header};

use super::super::strict::Value;

/// The longest value of a header field, in characters (Gateway API).
pub(super) const HEADER_CHARS: usize = 4096;
/// The longest value of a query parameter, in characters (Gateway API).
const PARAM_CHARS: usize = 1024;
/// The longest path, in characters (Gateway API).
pub(super) const PATH_CHARS: usize = 1024;
/// The longest name of a header field or query parameter (Gateway API).
const NAME_CHARS: usize = 256;

/// Methods that the Gateway API knows.
pub(super) const METHODS: &[&str] = &[
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

pub(super) fn read(value: &Value<'_>, form: PathForm) -> Option<Match> {
    value.object(|fields| {
        let (path, method) = (fields.get("path"), fields.get("method"));
        let (headers, params) = (fields.get("headers"), fields.get("queryParams"));
        let path = match path {
            Some(path) => read_path(&path, form),
            None => value.check(PathMatch::literal("/", true)),
        };
        let method = match method {
            Some(method) => {
                Some(method.check(Method::from_bytes(method.choice(METHODS)?.as_bytes()))?)
            }
            None => None,
        };
        let mut read = Match::path(path?);
        if let Some(method) = method {
            read = read.method(method);
        }
        for (value, name, wanted) in each_named(headers, HEADER_CHARS)? {
            let name = value.check(HeaderName::from_bytes(name.as_bytes()))?;
            value.check(check_header(&name))?;
            if read.headers.iter().any(|(n, _)| *n == name) {
                value.warn(format_args!(
                    "has no effect: of conditions on one header the first counts ({name})"
                ));
            }
            read = read.header(name, wanted);
        }
        for (_, name, wanted) in each_named(params, PARAM_CHARS)? {
            read = read.query(name, wanted);
        }
        Some(read)
    })
}

fn read_path(path: &Value<'_>, form: PathForm) -> Option<PathMatch> {
    path.object(|fields| {
        let (kind, value) = (fields.get("type"), fields.get("value"));
        let kind = match kind {
            Some(kind) => kind.choice(&["Exact", "PathPrefix", "RegularExpression"])?,
            None => "PathPrefix",
        };
        let Some(value) = value else {
            return path.check(PathMatch::literal("/", kind != "Exact"));
        };
        let text = value.text()?;
        if text.chars().count() > PATH_CHARS {
            value.refuse(format_args!("is longer than {PATH_CHARS} characters"));
            return None;
        }
        let pchar = |b: u8| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&b);
        if let (false, Some(other)) = (
            kind == "RegularExpression",
            text.chars().find(|c| !u8::try_from(*c).is_ok_and(pchar)),
        ) && text.starts_with('/')
            && !matches!(other, '?' | '#' | '\\')
        {
            value.refuse(format_args!("{text:?}: write {other:?} escaped"));
            return None;
        }
        let upper = text.to_ascii_uppercase();
        if kind == "RegularExpression"
            && form.decodes_slashes()
            && (upper.contains("%2F") || upper.contains("%5C"))
        {
            value.warn("no request has %2F or %5C: with paths.decodeSlashes both are '/'");
        }
        value.check(match kind {
            "RegularExpression" => Regex::new(text).map(PathMatch::Regex),
            kind => PathMatch::literal(text, kind == "PathPrefix"),
        })
    })
}

type NamedMatch<'t> = (Value<'t>, &'t str, ValueMatch);

/// Conditions on things that have a name, no two of the same.
pub(super) fn each_named<'t>(list: Option<Value<'t>>, most: usize) -> Option<Vec<NamedMatch<'t>>> {
    let mut read: Vec<NamedMatch<'t>> = Vec::new();
    let Some(list) = list else { return Some(read) };
    for value in list.list_of_or_empty(16)? {
        let (name, wanted) = named(&value, most)?;
        if read.iter().any(|(_, n, _)| *n == name) {
            value.refuse(format_args!("the name {name:?} stands twice"));
        }
        read.push((value, name, wanted));
    }
    Some(read)
}

fn named<'t>(value: &Value<'t>, most: usize) -> Option<(&'t str, ValueMatch)> {
    value.object(|fields| {
        let (kind, name) = (fields.get("type"), fields.need("name"));
        let value = fields.need("value");
        let kind = match kind {
            Some(kind) => kind.choice(&["Exact", "RegularExpression"]),
            None => Some("Exact"),
        };
        let name = name.and_then(|value| value.check(field_name(value.text()?)));
        let value = value?;
        let text = value.check(field_value(value.text()?, most))?;
        let wanted = match kind? {
            "RegularExpression" => ValueMatch::Regex(value.check(Regex::new(text))?),
            _ => ValueMatch::Exact(text.into()),
        };
        Some((name?, wanted))
    })
}

/// The name of a header field or query parameter as the schema has it: a token.
pub(super) fn field_name(name: &str) -> Result<&str, String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if (1..=NAME_CHARS).contains(&name.len()) && name.bytes().all(token) {
        Ok(name)
    } else {
        Err(format!("{name:?} is not a name (RFC 9110, token)"))
    }
}

/// A value of at least one character.
pub(super) fn field_value(value: &str, most: usize) -> Result<&str, String> {
    match value.chars().count() {
        len if (1..=most).contains(&len) => Ok(value),
        len => Err(format!("has {len} characters; 1 to {most} are allowed")),
    }
}
