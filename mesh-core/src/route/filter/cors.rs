//! Requests of other origins (Gateway API, HTTPCORSFilter; Fetch, "CORS protocol").
//!
//! The route is the one authority: a preflight is answered here, and what the server says of origins is
//! replaced in its answers. Written out, since the layer of tower-http would answer where a route only
//! decides, has no origins with a wildcard inside, and answers the others otherwise.

use std::fmt::Write;
use std::sync::Arc;

use http::Method;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName,
    HeaderValue, ORIGIN, VARY,
};

use crate::route::invalid::InvalidRoute;

/// What an answer of a server says of origins, and the route instead.
const ANSWERED: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

/// How long a browser may keep what a preflight has said, in seconds (Gateway API).
const MAX_AGE: u32 = 5;

/// Says which origins may read answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    origins: Allowed<Origin>,
    methods: Allowed<Arc<str>>,
    headers: Allowed<Arc<str>>,
    expose: Allowed<Arc<str>>,
    credentials: bool,
    max_age: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Allowed<T> {
    Any,
    Listed(Vec<T>),
}

/// An origin as a document writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    written: Arc<str>,
    https: bool,
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Any,
    /// In lower case.
    Exact(Arc<str>),
    /// What it ends in, with the dot before it.
    Below(Arc<str>),
}

/// Whether a request asks what another may do.
pub(in crate::route) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(ORIGIN) && asked_for(headers).is_some()
}

/// The method that a preflight asks for.
pub(in crate::route) fn asked_for(headers: &HeaderMap) -> Option<&str> {
    headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.to_str().ok()
}

/// Whether an answer says already that it is for its origin alone, or for its request alone.
fn varies_by_origin(answer: &HeaderMap) -> bool {
    let fields = answer
        .get_all(VARY)
        .iter()
        .filter_map(|value| value.to_str().ok());
    fields
        .flat_map(|names| names.split(','))
        .any(|name| matches!(name.trim(), "*") || name.trim().eq_ignore_ascii_case("origin"))
}

// === impl Cors ===

impl Cors {
    /// No origin is allowed.
    ///
    /// ```
    /// use inmesh_core::route::Cors;
    /// let cors = Cors::new().allow_origin("https://*.shop.example")?.allow_method("PUT")?;
    /// assert!(cors.allows("https://eu.www.shop.example"));
    /// assert!(!cors.allows("https://shop.example") && !cors.allows("http://www.shop.example"));
    /// # Ok::<(), inmesh_core::route::InvalidRoute>(())
    /// ```
    pub fn new() -> Self {
        Self {
            origins: Allowed::none(),
            methods: Allowed::none(),
            headers: Allowed::none(),
            expose: Allowed::none(),
            credentials: false,
            max_age: MAX_AGE,
        }
    }

    /// The same with an origin: `*` for all, or a scheme and a host, which may be `*` or begin with
    /// `*.`, and a port. Without a port it is the one of the scheme.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if it is not a valid origin, or stands beside `*`.
    pub fn allow_origin(mut self, origin: &str) -> Result<Self, InvalidRoute> {
        let read = match origin {
            "*" => None,
            _ => Some(Origin::read(origin)?),
        };
        self.origins.add(read)?;
        Ok(self)
    }

    /// The same with a method, or with all: `*`. GET, HEAD and POST need not be listed.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if it is no method, or stands beside `*`.
    pub fn allow_method(mut self, method: &str) -> Result<Self, InvalidRoute> {
        if Method::from_bytes(method.as_bytes()).is_err() {
            return Err(InvalidRoute::new(format!("{method:?} is not a method")));
        }
        self.methods.add(listed(method))?;
        Ok(self)
    }

    /// The same with a header field of requests, or with all: `*`.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if it is no name of a field, or stands beside `*`.
    pub fn allow_header(mut self, name: &str) -> Result<Self, InvalidRoute> {
        self.headers.add(listed(field(name)?))?;
        Ok(self)
    }

    /// The same with a header field of answers that scripts may read, or with all: `*`.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if it is no name of a field.
    pub fn expose_header(mut self, name: &str) -> Result<Self, InvalidRoute> {
        match (listed(field(name)?), &mut self.expose) {
            (None, all) => *all = Allowed::Any,
            (Some(name), Allowed::Listed(names)) => names.push(name),
            (Some(_), Allowed::Any) => {}
        }
        Ok(self)
    }

    /// The same for requests with cookies and other credentials. No `*` is answered then.
    #[must_use]
    pub fn allow_credentials(mut self, allow: bool) -> Self {
        self.credentials = allow;
        self
    }

    /// The same where a browser may keep what a preflight has said for so many seconds. Default 5.
    #[must_use]
    pub fn with_max_age(mut self, seconds: u32) -> Self {
        self.max_age = seconds;
        self
    }

    /// Whether pages of an origin may read answers.
    pub fn allows(&self, origin: &str) -> bool {
        match &self.origins {
            Allowed::Any => true,
            Allowed::Listed(origins) => {
                Origin::parts(origin).is_some_and(|parts| origins.iter().any(|o| o.matches(&parts)))
            }
        }
    }

    /// The answer to a preflight: nothing but what every answer says where the origin is not allowed.
    pub(crate) fn answer_preflight(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        let origin = asked.get(ORIGIN);
        self.edit_answer(origin, answer);
        if !answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            return;
        }
        for (allowed, said, wish) in [
            (
                &self.methods,
                ACCESS_CONTROL_ALLOW_METHODS,
                ACCESS_CONTROL_REQUEST_METHOD,
            ),
            (
                &self.headers,
                ACCESS_CONTROL_ALLOW_HEADERS,
                ACCESS_CONTROL_REQUEST_HEADERS,
            ),
        ] {
            let value = match allowed {
                // With credentials `*` is a name like any other.
                Allowed::Any if self.credentials => asked.get(wish).cloned(),
                allowed => allowed.value(),
            };
            answer.extend(value.map(|value| (said, value)));
        }
        answer.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.into());
        if self.credentials {
            let wishes = "access-control-request-method, access-control-request-headers";
            answer.append(VARY, HeaderValue::from_static(wishes));
        }
    }

    /// Says in an answer whether the origin of its request may read it.
    pub(super) fn edit_answer(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        for name in &ANSWERED {
            answer.remove(name);
        }
        let every = matches!(self.origins, Allowed::Any) && !self.credentials;
        if !every && !varies_by_origin(answer) {
            // A cache must not give the answer for one origin to another.
            answer.append(VARY, HeaderValue::from_static("origin"));
        }
        let Some(origin) = origin.filter(|o| o.to_str().is_ok_and(|o| self.allows(o))) else {
            return;
        };
        let allowed = if every {
            HeaderValue::from_static("*")
        } else {
            origin.clone()
        };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.credentials {
            let yes = HeaderValue::from_static("true");
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        let exposed = match &self.expose {
            Allowed::Any if self.credentials => None,
            exposed => exposed.value(),
        };
        answer.extend(exposed.map(|value| (ACCESS_CONTROL_EXPOSE_HEADERS, value)));
    }

    /// What it allows, under the names that a document has for it.
    pub(in crate::route) fn parts(&self) -> [(&'static str, Vec<&str>); 4] {
        [
            ("allowOrigins", self.origins.texts(|origin| &origin.written)),
            ("allowMethods", self.methods.texts(|method| method)),
            ("allowHeaders", self.headers.texts(|name| name)),
            ("exposeHeaders", self.expose.texts(|name| name)),
        ]
    }

    /// Whether requests may have credentials.
    pub fn credentials(&self) -> bool {
        self.credentials
    }

    /// For how many seconds a browser may keep what a preflight has said.
    pub fn max_age(&self) -> u32 {
        self.max_age
    }
}

impl Default for Cors {
    fn default() -> Self {
        Self::new()
    }
}

/// `None` is all.
fn listed(text: &str) -> Option<Arc<str>> {
    (text != "*").then(|| text.into())
}

fn field(name: &str) -> Result<&str, InvalidRoute> {
    // `*` is a name too.
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(_) => Ok(name),
        Err(_) => Err(InvalidRoute::new(format!("{name:?} is not a header field"))),
    }
}

// === impl Allowed ===

impl<T> Allowed<T> {
    fn none() -> Self {
        Self::Listed(Vec::new())
    }

    /// Adds one, or all.
    fn add(&mut self, item: Option<T>) -> Result<(), InvalidRoute> {
        match (&mut *self, item) {
            (Self::Listed(list), Some(item)) => list.push(item),
            (Self::Listed(list), None) if list.is_empty() => *self = Self::Any,
            _ => return Err(InvalidRoute::new("\"*\" stands alone")),
        }
        Ok(())
    }

    fn texts<'a>(&'a self, text: impl Fn(&'a T) -> &'a str) -> Vec<&'a str> {
        match self {
            Self::Any => vec!["*"],
            Self::Listed(list) => list.iter().map(text).collect(),
        }
    }
}

impl Allowed<Arc<str>> {
    /// As a header field has it; `None` is an empty list.
    fn value(&self) -> Option<HeaderValue> {
        let mut all = String::new();
        for text in self.texts(|text| text) {
            let comma = if all.is_empty() { "" } else { ", " };
            // Writing to a String cannot fail.
            let _written = write!(all, "{comma}{text}");
        }
        let value = HeaderValue::from_str(&all).ok();
        value.filter(|value| !value.is_empty())
    }
}

// === impl Origin ===

/// Scheme, host and port.
type Parts<'a> = (bool, &'a str, u16);

impl Origin {
    fn read(written: &str) -> Result<Self, InvalidRoute> {
        let invalid = || {
            InvalidRoute::new(format!(
                "{written:?} is not an origin: \"*\", or http or https, a host and perhaps a port"
            ))
        };
        let (https, host, port) = Self::parts(written).ok_or_else(invalid)?;
        let named = host.strip_prefix("*.").unwrap_or(host);
        let label = |label: &str| {
            let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            !label.is_empty() && label.bytes().all(inner)
        };
        if host != "*" && !named.split('.').all(label) {
            return Err(invalid());
        }
        let lower = host.to_ascii_lowercase();
        let host = match lower.strip_prefix('*') {
            None => Host::Exact(lower.as_str().into()),
            Some("") => Host::Any,
            Some(below) => Host::Below(below.into()),
        };
        Ok(Self {
            written: written.into(),
            https,
            host,
            port,
        })
    }

    /// An origin of a document or a request.
    fn parts(origin: &str) -> Option<Parts<'_>> {
        let (scheme, rest) = origin.split_once("://")?;
        let (https, known) = match scheme {
            "http" => (false, 80),
            "https" => (true, 443),
            _ => return None,
        };
        // A colon inside of brackets is of an address.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let digits = port.bytes().all(|b| b.is_ascii_digit());
                let port = port.parse().ok().filter(|port| digits && *port != 0)?;
                (host, port)
            }
            _ => (rest, known),
        };
        (!host.is_empty()).then_some((https, host, port))
    }

    fn matches(&self, (https, host, port): &Parts<'_>) -> bool {
        let host = match &self.host {
            Host::Any => true,
            Host::Exact(name) => host.eq_ignore_ascii_case(name),
            Host::Below(end) => {
                let (host, end) = (host.as_bytes(), end.as_bytes());
                let at = host.len().checked_sub(end.len());
                at.is_some_and(|at| at > 0 && host[at..].eq_ignore_ascii_case(end))
            }
        };
        host && self.https == *https && self.port == *port
    }
}
