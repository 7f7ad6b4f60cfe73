//! The conditions of a rule: path, method, header fields, query parameters.

use http::{HeaderName, Method};
use inmesh_core::route::{Match, PathMatch, Regex, ValueMatch};

use super::super::strict::Value;

/// The longest value of a header field or query parameter, in bytes (Gateway API).
const VALUE_BYTES: usize = 4096;
/// The longest path, in bytes (Gateway API).
const PATH_BYTES: usize = 1024;

/// Methods that the Gateway API knows.
const METHODS: &[&str] = &[
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

pub(super) fn read(value: &Value<'_>) -> Option<Match> {
    value.object(|fields| {
        let path = match fields.get("path") {
            Some(path) => read_path(&path),
            None => value.check(PathMatch::literal("/", true)),
        };
        let method = match fields.get("method") {
            Some(method) => {
                Some(method.check(Method::from_bytes(method.choice(METHODS)?.as_bytes()))?)
            }
            None => None,
        };
        let mut read = Match::path(path?);
        if let Some(method) = method {
            read = read.method(method);
        }
        if let Some(headers) = fields.get("headers") {
            for value in headers.list_of(16)? {
                let (name, wanted) = named(&value, |name| {
                    name.check(HeaderName::from_bytes(name.text()?.as_bytes()))
                })?;
                if read.headers.iter().any(|(n, _)| *n == name) {
                    value.refuse(format_args!("the header {name} stands twice"));
                }
                read = read.header(name, wanted);
            }
        }
        if let Some(params) = fields.get("queryParams") {
            for value in params.list_of(16)? {
                let (name, wanted) = named(&value, Value::text)?;
                if name.is_empty() {
                    value.refuse("the name of a query parameter is empty");
                }
                if read.query.iter().any(|(n, _)| **n == *name) {
                    value.refuse(format_args!("the query parameter {name:?} stands twice"));
                }
                read = read.query(name, wanted);
            }
        }
        Some(read)
    })
}

fn read_path(path: &Value<'_>) -> Option<PathMatch> {
    path.object(|fields| {
        let kind = match fields.get("type") {
            Some(kind) => kind.choice(&["Exact", "PathPrefix", "RegularExpression"])?,
            None => "PathPrefix",
        };
        let Some(value) = fields.get("value") else {
            return path.check(PathMatch::literal("/", kind != "Exact"));
        };
        let text = value.text()?;
        if text.len() > PATH_BYTES {
            value.refuse(format_args!("is longer than {PATH_BYTES} bytes"));
            return None;
        }
        value.check(match kind {
            "RegularExpression" => Regex::new(text).map(PathMatch::Regex),
            kind => PathMatch::literal(text, kind == "PathPrefix"),
        })
    })
}

/// A condition on something that has a name.
fn named<'t, N>(
    value: &Value<'t>,
    read_name: impl FnOnce(&Value<'t>) -> Option<N>,
) -> Option<(N, ValueMatch)> {
    value.object(|fields| {
        let kind = match fields.get("type") {
            Some(kind) => kind.choice(&["Exact", "RegularExpression"])?,
            None => "Exact",
        };
        let name = fields.need("name").and_then(|name| read_name(&name));
        let value = fields.need("value")?;
        let text = value.text()?;
        if text.is_empty() || text.len() > VALUE_BYTES {
            value.refuse(format_args!(
                "has {} bytes; 1 to {VALUE_BYTES} are allowed",
                text.len()
            ));
            return None;
        }
        let wanted = match kind {
            "RegularExpression" => ValueMatch::Regex(value.check(Regex::new(text))?),
            _ => ValueMatch::Exact(text.into()),
        };
        Some((name?, wanted))
    })
}
