//! A question as a person writes it: a request line, header fields, the caller, the draw.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use inmesh_pki::id::SpiffeId;

use super::sent::Head;
use crate::authorize::{HttpView, RequestView};
use crate::error::is_grpc;
use crate::model::{check_label, is_subdomain};

/// The most header fields and labels of one question; a head of the mesh has fewer.
const PARTS: usize = 1_000;

/// What is asked about.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Question {
    pub(super) request: Request<()>,
    /// Whether it is a connection of opaque bytes.
    pub(super) opaque: bool,
    /// Whether it is one inside of a tunnel that CONNECT asks for.
    pub(super) tunnel: bool,
    /// The server that its TLS handshake names, empty if it names none; `None` is no TLS.
    pub(super) sni: Option<String>,
    pub(super) from: Option<SpiffeId>,
    pub(super) address: Option<IpAddr>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) draw: u64,
}

/// A question that cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidQuestion(String);

// === impl Question ===

impl Question {
    /// A request line: `GET http://cart/items`, `http://cart/items` for a GET, `GET /items` with a
    /// header `Host`, `tcp://db:5432` for a connection of opaque bytes, or `CONNECT db:5432` for one through
    /// a tunnel.
    ///
    /// ```
    /// use inmesh_core::explain::Question;
    /// let question = Question::parse("PUT http://cart/items")?.header("x-user: 7")?;
    /// # drop(question);
    /// assert!(Question::parse("GET https://cart/").is_err());
    /// # Ok::<(), inmesh_core::explain::InvalidQuestion>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidQuestion`] if it is no request line, or asks for another protocol.
    pub fn parse(line: &str) -> Result<Self, InvalidQuestion> {
        let mut words = line.split_ascii_whitespace();
        let (method, target) = match (words.next(), words.next(), words.next()) {
            (Some(target), None, _) => ("GET", target),
            (Some(method), Some(target), None) => (method, target),
            _ => {
                let example = "write for example: GET http://cart/items";
                return Err(InvalidQuestion(format!(
                    "{line:?} is no request: {example}"
                )));
            }
        };
        let invalid = |e: &dyn std::fmt::Display| InvalidQuestion(format!("{target:?}: {e}"));
        let uri: Uri = target
            .parse()
            .map_err(|e: http::uri::InvalidUri| invalid(&e))?;
        let tunnel = method == "CONNECT" && uri.scheme().is_none() && uri.authority().is_some();
        let opaque = tunnel || uri.scheme_str() == Some("tcp");
        match uri.scheme() {
            None if tunnel || target.starts_with('/') || target == "*" => {}
            None => return Err(invalid(&"write it with http:// before it")),
            Some(scheme) if *scheme == Scheme::HTTP || opaque => {}
            Some(scheme) => {
                let what = "the mesh encrypts by itself; ask for http:// or tcp://";
                return Err(invalid(&format_args!("{scheme} is not asked here: {what}")));
            }
        }
        let mut request = Request::new(());
        *request.uri_mut() = uri;
        let question = Self {
            request,
            opaque,
            tunnel,
            sni: None,
            from: None,
            address: None,
            labels: BTreeMap::new(),
            draw: 0,
        };
        question.method(method)
    }

    /// The same with another method.
    ///
    /// # Errors
    ///
    /// [`InvalidQuestion`] if it is no method.
    pub fn method(mut self, method: &str) -> Result<Self, InvalidQuestion> {
        let parsed = Method::from_bytes(method.as_bytes());
        let invalid = |_| InvalidQuestion(format!("{method:?} is not a valid method"));
        *self.request.method_mut() = parsed.map_err(invalid)?;
        Ok(self)
    }

    /// The same with a header field, written as `name: value`.
    ///
    /// # Errors
    ///
    /// [`InvalidQuestion`] if it is no field, or one too many.
    pub fn header(mut self, field: &str) -> Result<Self, InvalidQuestion> {
        let invalid = || InvalidQuestion("a header is written as 'name: value'".to_owned());
        let (name, value) = field.split_once(':').ok_or_else(invalid)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| invalid())?;
        let value = HeaderValue::try_from(value.trim()).map_err(|_| invalid())?;
        let headers = self.request.headers_mut();
        if headers.len() >= PARTS || headers.try_append(name, value).is_err() {
            return Err(InvalidQuestion("too many header fields".into()));
        }
        Ok(self)
    }

    /// The same of a caller with an identity.
    #[must_use]
    pub fn from(mut self, caller: SpiffeId) -> Self {
        self.from = Some(caller);
        self
    }

    /// The same of a caller that connects from an address; without one it calls from within the process.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// The same of a connection of opaque bytes that begins with a TLS handshake, which names a server;
    /// an empty name stands for TLS without one.
    ///
    /// ```
    /// use inmesh_core::explain::Question;
    /// assert!(Question::parse("tcp://db:5432")?.sni("db.example.com").is_ok());
    /// assert!(Question::parse("GET http://cart/")?.sni("db.example.com").is_err());
    /// # Ok::<(), inmesh_core::explain::InvalidQuestion>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidQuestion`] if it is a request, or the name is no host name.
    pub fn sni(mut self, server: &str) -> Result<Self, InvalidQuestion> {
        if !self.opaque {
            let why = "a request names no server in TLS: ask for tcp://";
            return Err(InvalidQuestion(why.into()));
        }
        if self.tunnel {
            let why = "what is inside of a tunnel is not read: its host is taken for the name";
            return Err(InvalidQuestion(why.into()));
        }
        let server = server.to_ascii_lowercase();
        if !server.is_empty() && !is_subdomain(&server) {
            return Err(InvalidQuestion(format!("{server:?} is no host name")));
        }
        self.sni = Some(server);
        Ok(self)
    }

    /// The same with what is drawn. Equal seeds draw alike.
    #[must_use]
    pub fn draw(mut self, seed: u64) -> Self {
        self.draw = seed;
        self
    }

    /// The same where the workload that is asked has a label, written as `key=value`.
    ///
    /// # Errors
    ///
    /// [`InvalidQuestion`] if no workload can have it, or it is one too many.
    pub fn label(mut self, label: &str) -> Result<Self, InvalidQuestion> {
        let invalid = |why: &dyn std::fmt::Display| InvalidQuestion(format!("{label:?}: {why}"));
        let Some((key, value)) = label.split_once('=') else {
            return Err(invalid(&"a label is written as key=value"));
        };
        check_label(key, value).map_err(|e| invalid(&e))?;
        if self.labels.len() >= PARTS {
            return Err(invalid(&"one label too many"));
        }
        self.labels.insert(key.into(), value.into());
        Ok(self)
    }

    /// The caller's identity, if it is said.
    pub fn caller(&self) -> Option<&SpiffeId> {
        self.from.as_ref()
    }

    /// Whether it asks for a connection of opaque bytes.
    pub fn is_opaque(&self) -> bool {
        self.opaque
    }

    /// Its request, as it is written.
    #[cfg(feature = "simulate")]
    pub(crate) fn request(&self) -> &Request<()> {
        &self.request
    }

    /// Its request line, as [`parse`](Self::parse) reads it.
    pub fn line(&self) -> String {
        let request = &self.request;
        match self.opaque && !self.tunnel {
            true => request.uri().to_string(),
            false => format!("{} {}", request.method(), request.uri()),
        }
    }

    /// The question as the query of a URL.
    pub fn to_query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let request = &self.request;
        query.append_pair(
            "request",
            &format!("{} {}", request.method(), request.uri()),
        );
        if let Some(sni) = &self.sni {
            query.append_pair("sni", sni);
        }
        for (name, value) in request.headers() {
            let value = String::from_utf8_lossy(value.as_bytes());
            query.append_pair("header", &format!("{name}: {value}"));
        }
        if let Some(from) = &self.from {
            query.append_pair("from", from.as_str());
        }
        if let Some(address) = self.address {
            query.append_pair("address", &address.to_string());
        }
        for (key, value) in &self.labels {
            query.append_pair("label", &format!("{key}={value}"));
        }
        query.append_pair("draw", &self.draw.to_string());
        query.finish()
    }

    /// Reads a question from the query of a URL.
    ///
    /// ```
    /// use inmesh_core::explain::Question;
    /// let asked = Question::parse("GET http://cart/items")?.header("x-user: 7")?.draw(9);
    /// let asked = asked.address([10, 0, 0, 7].into());
    /// let read = Question::from_query(&asked.to_query())?;
    /// assert_eq!(read.to_query(), asked.to_query());
    /// assert!(Question::from_query("request=GET+http://cart/&colour=red").is_err());
    /// # Ok::<(), inmesh_core::explain::InvalidQuestion>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidQuestion`] if a part is missing, unknown or invalid.
    pub fn from_query(query: &str) -> Result<Self, InvalidQuestion> {
        let parts: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        let line = parts.iter().find(|(name, _)| name == "request");
        let Some((_, line)) = line else {
            return Err(InvalidQuestion(
                "say which: request=GET http://cart/items".into(),
            ));
        };
        let mut question = Self::parse(line)?;
        let mut requests = 0;
        for (name, value) in &parts {
            let invalid = || InvalidQuestion(format!("{name}: {value:?} is not valid"));
            question = match &**name {
                "request" if requests == 0 => {
                    requests += 1;
                    question
                }
                "header" => question.header(value)?,
                "sni" => question.sni(value)?,
                "from" => question.from(value.parse().map_err(|_| invalid())?),
                "address" => question.address(value.parse().map_err(|_| invalid())?),
                "label" => question.label(value)?,
                "draw" => question.draw(value.parse().map_err(|_| invalid())?),
                _ => return Err(InvalidQuestion(format!("{name:?} is not asked here"))),
            };
        }
        Ok(question)
    }

    /// Whether it is a call of gRPC.
    pub(super) fn is_grpc(&self) -> bool {
        !self.opaque && is_grpc(self.request.headers())
    }

    /// A request of this question as an explanation shows it.
    pub(super) fn head(&self, request: &Request<()>, authority: &str) -> Head {
        if self.opaque {
            Head {
                sni: self.sni.clone(),
                ..Head::opaque(authority)
            }
        } else {
            Head::of(request, authority)
        }
    }

    /// A request of this question as decisions see it.
    pub(super) fn view<'r>(&'r self, request: &'r Request<()>) -> RequestView<'r> {
        match (&self.sni, self.opaque) {
            (_, false) => RequestView::Http(HttpView::of(request)),
            (None, true) => RequestView::Tcp,
            (Some(server), true) => RequestView::Tls {
                server: Some(&**server).filter(|server| !server.is_empty()),
            },
        }
    }
}
