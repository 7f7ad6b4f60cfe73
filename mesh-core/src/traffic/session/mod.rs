//! Session persistence (GEP-1619): an answer hands out a token that leads later requests to its endpoint.
//!
//! In come a policy, the header of a request and the time of day; out come the [`Token`] that it shows, and
//! the field that hands out another. Pure.
//!
//! A token is two numbers and two moments. The first number is the hash of a rule and of a backend, so that
//! a token of one rule leads nowhere by another; the second is the hash of an address. It is looked up among the
//! endpoints of the backend, so a token that a client makes up leads to one that a request may be sent to
//! anyway, or nowhere. It shows no address, but holds no secret either: a client that tries all addresses finds
//! the one whose hash it is. There is no key, since agents share none and each must read what another hands
//! out. The moments are the client's to forge: all that it gains is that its own session lasts.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName, HeaderValue, SET_COOKIE};

use crate::balance::{cookies, is_cookie_name};
use crate::fields::{Written, reserved};
use crate::model::{ObjectKey, ServiceName, mix, mix_bytes};

/// The longest name (GEP-1619).
const NAME_BYTES: usize = 128;
/// How far the clocks of two agents may differ.
const SKEW: u32 = 60;
/// The digits of a token: two numbers of 64 bits and two of 32.
const DIGITS: usize = 48;

/// How clients stay with one endpoint (`sessionPersistence` of the Gateway API).
///
/// ```
/// use std::time::Duration;
/// use inmesh_core::traffic::{CookieLifetime, SessionPersistence, SessionType};
/// let cookie = SessionType::Cookie(CookieLifetime::Session);
/// let by = SessionPersistence::new(cookie).named("cart")?;
/// assert!(by.with_timeouts(Some(Duration::from_secs(3_600)), None).is_ok());
/// # Ok::<(), inmesh_core::traffic::InvalidSession>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPersistence {
    name: Option<Box<str>>,
    by: SessionType,
    absolute: Option<Duration>,
    idle: Option<Duration>,
}

/// What holds a token (`type`). It is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the types of GEP-1619")]
pub enum SessionType {
    /// A cookie of that lifetime.
    Cookie(CookieLifetime),
    /// A header field, which the client repeats.
    Header,
}

/// How long a client keeps the cookie (`lifetimeType`). It is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_enums, reason = "the types of GEP-1619")]
pub enum CookieLifetime {
    /// Until the absolute timeout, over its own end.
    Permanent,
    /// As long as it runs.
    #[default]
    Session,
}

/// Session persistence that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSession(String);

/// What a client shows to be led to its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    /// The hash of the rule and the backend.
    pub(crate) backend: u64,
    /// The hash of the endpoint's address.
    pub(crate) endpoint: NonZeroU64,
    /// When the session began, and when it was used last, in seconds after 1970.
    begun: u32,
    used: u32,
}

/// What hands out a token: which session, under which path, and whether over TLS alone.
#[derive(Debug, Clone)]
pub(crate) struct Cookie {
    pub(crate) path: Option<Box<str>>,
    pub(crate) secure: bool,
}

/// The session of a rule of a route, or of a Service in it. Equal names of two are two sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionScope(u64);

/// How many backends before one have its name.
pub(crate) fn nth_of_name<'n>(
    names: impl Iterator<Item = (&'n ServiceName, u16)> + Clone,
    place: usize,
) -> usize {
    let own = names.clone().nth(place);
    names.take(place).filter(|name| Some(*name) == own).count()
}

// === impl SessionPersistence ===

impl SessionPersistence {
    /// By a cookie or a header field of a generated name, for as long as the client keeps it.
    pub fn new(by: SessionType) -> Self {
        Self {
            name: None,
            by,
            absolute: None,
            idle: None,
        }
    }

    /// The same of a name (`sessionName`).
    ///
    /// # Errors
    ///
    /// [`InvalidSession`] if it is longer than 128 bytes or names no cookie or header field, and for a field
    /// that frames a message, is what only the mesh says or has a meaning of its own.
    pub fn named(mut self, name: &str) -> Result<Self, InvalidSession> {
        let fits = match self.by {
            SessionType::Cookie(_) => is_cookie_name(name),
            SessionType::Header => HeaderName::from_bytes(name.as_bytes()).is_ok(),
        };
        if !fits || name.len() > NAME_BYTES {
            let what = match self.by {
                SessionType::Cookie(_) => "cookie",
                SessionType::Header => "header field",
            };
            let why = format!("{name:?} names no {what} of up to {NAME_BYTES} bytes");
            return Err(InvalidSession(why));
        }
        if self.by == SessionType::Header
            && let Some(why) = reserved(name, Written::Token)
        {
            return Err(InvalidSession(format!("{name} {why}: it holds no session")));
        }
        self.name = Some(name.into());
        Ok(self)
    }

    /// The same for so long after it began (`absoluteTimeout`), and after it was used last (`idleTimeout`).
    ///
    /// # Errors
    ///
    /// [`InvalidSession`] for less than a second, or more than ten years.
    pub fn with_timeouts(
        mut self,
        absolute: Option<Duration>,
        idle: Option<Duration>,
    ) -> Result<Self, InvalidSession> {
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(315_360_000));
        for (name, limit) in [("absoluteTimeout", absolute), ("idleTimeout", idle)] {
            if limit.is_some_and(|limit| limit < least || limit > most) {
                return Err(InvalidSession(format!("{name} is 1s to 87600h")));
            }
        }
        (self.absolute, self.idle) = (absolute, idle);
        Ok(self)
    }

    /// Checks what its parts say together.
    ///
    /// # Errors
    ///
    /// [`InvalidSession`] for a permanent cookie without an absolute timeout.
    pub fn check(&self) -> Result<(), InvalidSession> {
        let permanent = self.by == SessionType::Cookie(CookieLifetime::Permanent);
        match permanent && self.absolute.is_none() {
            true => Err(InvalidSession(
                "a permanent cookie has an absoluteTimeout".into(),
            )),
            false => Ok(()),
        }
    }

    /// Its name, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What holds a token.
    pub fn by(&self) -> SessionType {
        self.by
    }

    /// How long a session lasts after it began, and after it was used last.
    pub fn timeouts(&self) -> (Option<Duration>, Option<Duration>) {
        (self.absolute, self.idle)
    }

    /// The name that its tokens have in a scope.
    pub(crate) fn name_in(&self, scope: SessionScope) -> Cow<'_, str> {
        match &self.name {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(format!("inmesh-session-{:08x}", scope.0 >> 32)),
        }
    }

    /// The first token of a request that is of one of these backends.
    pub(crate) fn shown(
        &self,
        scope: SessionScope,
        headers: &HeaderMap,
        is_of: impl Fn(u64) -> bool,
    ) -> Option<Token> {
        let name = self.name_in(scope);
        let fits = |value: &[u8]| Token::parse(value).filter(|token| is_of(token.backend));
        match self.by {
            SessionType::Cookie(_) => cookies(headers, &name).find_map(fits),
            SessionType::Header => {
                let mut values = headers.get_all(&*name).into_iter();
                values.find_map(|value| fits(value.as_bytes()))
            }
        }
    }

    /// Whether a session has ended.
    pub(crate) fn has_ended(&self, token: Token, now: SystemTime) -> bool {
        let now = seconds(now);
        let after = |limit: Option<Duration>, since: u32| {
            let passed = Duration::from_secs(now.saturating_sub(since).into());
            // A moment that is to come was not handed out.
            limit.is_some_and(|limit| passed >= limit || since > now.saturating_add(SKEW))
        };
        after(self.absolute, token.begun) || after(self.idle, token.used)
    }

    /// What an answer of an endpoint hands out; `None` where the request has shown what it would be.
    pub(crate) fn hand_out(
        &self,
        scope: SessionScope,
        token: Token,
        cookie: &Cookie,
        now: SystemTime,
    ) -> Option<(HeaderName, HeaderValue)> {
        let name = self.name_in(scope);
        let SessionType::Cookie(lifetime) = self.by else {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            return Some((name, HeaderValue::try_from(token.to_string()).ok()?));
        };
        let mut text = format!("{name}={token}");
        if let (CookieLifetime::Permanent, Some(limit)) = (lifetime, self.absolute) {
            let passed = seconds(now).saturating_sub(token.begun);
            text += &format!(
                "; Max-Age={}",
                limit.as_secs().saturating_sub(passed.into())
            );
        }
        if let Some(path) = &cookie.path {
            text += &format!("; Path={path}");
        }
        if cookie.secure {
            text += "; Secure";
        }
        text += "; HttpOnly; SameSite=Strict";
        Some((SET_COOKIE, HeaderValue::try_from(text).ok()?))
    }

    /// The token of an answer by an endpoint, where the request has shown none or another.
    pub(crate) fn next(
        &self,
        backend: u64,
        shown: Option<Token>,
        endpoint: NonZeroU64,
        now: SystemTime,
    ) -> Option<Token> {
        let now = seconds(now);
        match shown.filter(|shown| shown.endpoint == endpoint) {
            // Its use is noted where that counts.
            Some(shown) if self.idle.is_some() && shown.used != now => {
                Some(Token { used: now, ..shown })
            }
            Some(_) => None,
            None => Some(Token {
                backend,
                endpoint,
                begun: now,
                used: now,
            }),
        }
    }
}

/// In seconds after 1970, until 2106.
fn seconds(now: SystemTime) -> u32 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

/// For a person: `cookie cart`.
impl fmt::Display for SessionPersistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.by {
            SessionType::Cookie(_) => "cookie",
            SessionType::Header => "header",
        };
        match &self.name {
            Some(name) => write!(f, "{by} {name}"),
            None => write!(f, "{by} of a generated name"),
        }
    }
}

// === impl Token ===

impl Token {
    /// Reads what [`fmt::Display`] writes.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text)
            .ok()
            .filter(|text| text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit()))?;
        let number = |from, to| u64::from_str_radix(text.get(from..to)?, 16).ok();
        let moment = |from, to| u32::try_from(number(from, to)?).ok();
        Some(Self {
            backend: number(0, 16)?,
            endpoint: NonZeroU64::new(number(16, 32)?)?,
            begun: moment(32, 40)?,
            used: moment(40, DIGITS)?,
        })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (backend, endpoint) = (self.backend, self.endpoint);
        write!(
            f,
            "{backend:016x}{endpoint:016x}{:08x}{:08x}",
            self.begun, self.used
        )
    }
}

// === impl SessionScope ===

impl SessionScope {
    /// Of a rule of a route with all its backends.
    pub(crate) fn of_rule((route, rule): (&ObjectKey, usize)) -> Self {
        Self(mix_bytes(format!("{route}/{rule}").as_bytes()))
    }

    /// Of a port of a Service, asked by itself or as the backend of a rule.
    pub(crate) fn of_service(
        rule: Option<(&ObjectKey, usize)>,
        (service, port): (&ServiceName, u16),
    ) -> Self {
        let rule = rule.map_or(0, |rule| Self::of_rule(rule).0);
        Self(mix(
            rule ^ Self(mix_bytes(b"Service")).backend(service, port, 0)
        ))
    }

    /// The number that names a backend in a token: the `nth` of its name among those of a rule.
    pub(crate) fn backend(self, service: &ServiceName, port: u16, nth: usize) -> u64 {
        mix(self.0 ^ mix_bytes(format!("{service}:{port}/{nth}").as_bytes()))
    }
}

#[cfg(test)]
mod tests;
