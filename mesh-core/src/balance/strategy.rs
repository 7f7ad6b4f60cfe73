//! The strategies, and what leads a request to its endpoint. Pure.
//!
//! In come a [`Strategy`], the header fields and the query of a request; out comes its [`Choice`], and
//! the cookie that its answer sets where a strategy hands one out. The names are those of a
//! DestinationRule's `loadBalancer` (Istio): each type says which.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use http::header::{COOKIE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::model::{Draw, mix_bytes};

/// The longest name of a cookie, and the longest path.
const COOKIE_BYTES: usize = 1_024;
/// The most slots of a Maglev table: the larger of the two sizes of its paper. Each is 4 bytes.
const MOST_SLOTS: u32 = 655_373;
/// The most that may be asked for of a ring's points. Each is 16 bytes.
const MOST_POINTS: u32 = 65_536;

/// How a Service's endpoints are chosen (`loadBalancer`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Strategy {
    /// The endpoint that a key of the request leads to (`consistentHash`). A request without the key
    /// is balanced by least request.
    ConsistentHash(ConsistentHash),
    /// The less loaded of two endpoints drawn at random (`simple: LEAST_REQUEST`).
    #[default]
    LeastRequest,
    /// Of two endpoints drawn at random the one that answers faster, for what it has in flight.
    PeakEwma,
    /// One drawn at random (`simple: RANDOM`).
    Random,
    /// One after the other (`simple: ROUND_ROBIN`).
    RoundRobin,
}

/// A hash of a part of the request (`consistentHash`).
///
/// ```
/// use http::HeaderName;
/// use inmesh_core::balance::{ConsistentHash, HashKey, HashTable, TableSize};
/// let user = HashKey::Header(HeaderName::from_static("x-user"));
/// let maglev = HashTable::Maglev(TableSize::default());
/// let by_user = ConsistentHash::by(user).through(maglev);
/// assert_eq!(by_user.to_string(), "Maglev hash of header x-user");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConsistentHash {
    key: HashKey,
    table: HashTable,
}

/// What is hashed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HashKey {
    /// The value of a cookie (`httpCookie`).
    Cookie(HashCookie),
    /// The value of a header field (`httpHeaderName`); [`HashKey::header`] checks it.
    Header(HeaderName),
    /// The first value of a query parameter, as it is written (`httpQueryParameterName`).
    QueryParameter(Arc<str>),
    /// The address that the caller connects from (`useSourceIp`). A call from within the process has
    /// none.
    SourceIp,
}

/// A cookie whose value is hashed (`httpCookie`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HashCookie {
    name: Box<str>,
    path: Option<Box<str>>,
    ttl: Option<Duration>,
}

/// What leads from a hash to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum HashTable {
    /// A table of slots (`maglev`): one look-up, shares that differ by next to nothing, and a few
    /// keys of other endpoints that move when one comes or leaves.
    Maglev(TableSize),
    /// None: each endpoint is scored (rendezvous hashing). Exact shares by weight, no other key moves,
    /// and time in proportion to the number of endpoints.
    #[default]
    Rendezvous,
    /// A ring of points (`ringHash`): a binary search, shares that differ by a tenth or so, and a few
    /// keys of other endpoints that move when one comes or leaves.
    Ring(RingSize),
}

/// How many slots a Maglev table has (`tableSize`): a prime number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TableSize(u32);

/// How many points a ring has at least (`minimumRingSize`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RingSize(u32);

/// A setting of a strategy that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidStrategy(String);

/// A strategy with the key of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Choice {
    /// The endpoint that this key leads to.
    Hash(u64),
    /// The less loaded of two endpoints drawn at random.
    #[default]
    LeastRequest,
    /// Of two endpoints drawn at random the one that answers faster.
    PeakEwma,
    /// One drawn at random.
    Random,
    /// The next one.
    RoundRobin,
    /// The endpoint that the caller's address leads to, once it is known ([`Choice::of`]); before, as
    /// by least request.
    SourceIp,
}

/// What a request shows to a strategy.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shown<'a> {
    /// Its header fields; `None` where it is a connection of opaque bytes.
    pub headers: Option<&'a HeaderMap>,
    /// Its query, without the `?`.
    pub query: Option<&'a str>,
}

/// The value of a cookie that a strategy hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Issued(NonZeroU64);

// === impl Strategy ===

impl Strategy {
    /// The choice for a request, and the cookie that its answer shall set.
    pub fn choice(&self, shown: Shown<'_>, draw: &mut Draw) -> (Choice, Option<Issued>) {
        let choice = match self {
            Self::ConsistentHash(hash) => return hash.key.choice(shown, draw),
            Self::LeastRequest => Choice::LeastRequest,
            Self::PeakEwma => Choice::PeakEwma,
            Self::Random => Choice::Random,
            Self::RoundRobin => Choice::RoundRobin,
        };
        (choice, None)
    }

    /// The field `Set-Cookie` that hands out a value.
    pub fn set_cookie(&self, issued: Issued) -> Option<HeaderValue> {
        match self {
            Self::ConsistentHash(hash) => hash.key.set_cookie(issued),
            _ => None,
        }
    }

    /// Whether its key is the same cookie as another key.
    pub(crate) fn is_of_cookie(&self, key: &HashKey) -> bool {
        match (self, key) {
            (Self::ConsistentHash(hash), HashKey::Cookie(other)) => {
                matches!(&hash.key, HashKey::Cookie(cookie) if cookie.name == other.name)
            }
            _ => false,
        }
    }

    /// What leads from a hash to an endpoint.
    pub(super) fn table(&self) -> HashTable {
        match self {
            Self::ConsistentHash(hash) => hash.table,
            _ => HashTable::Rendezvous,
        }
    }
}

/// For a person: `least request`, `Maglev hash of header x-user`.
impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConsistentHash(hash) => hash.fmt(f),
            Self::LeastRequest => f.write_str("least request"),
            Self::PeakEwma => f.write_str("peak EWMA"),
            Self::Random => f.write_str("random"),
            Self::RoundRobin => f.write_str("round robin"),
        }
    }
}

// === impl ConsistentHash ===

impl ConsistentHash {
    /// A hash of that part of the request, by rendezvous.
    pub fn by(key: HashKey) -> Self {
        Self {
            key,
            table: HashTable::default(),
        }
    }

    /// The same through a table.
    #[must_use]
    pub fn through(mut self, table: HashTable) -> Self {
        self.table = table;
        self
    }

    /// What is hashed.
    pub fn key(&self) -> &HashKey {
        &self.key
    }

    /// What leads from the hash to an endpoint.
    pub fn table(&self) -> HashTable {
        self.table
    }
}

impl fmt::Display for ConsistentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = match self.table {
            HashTable::Maglev(_) => "Maglev hash",
            HashTable::Rendezvous => "rendezvous hash",
            HashTable::Ring(_) => "ring hash",
        };
        write!(f, "{table} of {}", self.key)
    }
}

// === impl HashKey ===

impl HashKey {
    /// The value of a header field.
    ///
    /// # Errors
    ///
    /// [`InvalidStrategy`] for `host`: over HTTP/2 it is the authority of a request, and no field.
    pub fn header(name: HeaderName) -> Result<Self, InvalidStrategy> {
        match name == HOST {
            true => Err(InvalidStrategy(
                "the host is no header field over HTTP/2, and tells no users apart".into(),
            )),
            false => Ok(Self::Header(name)),
        }
    }

    /// The field `Set-Cookie` that hands out a value.
    pub(crate) fn set_cookie(&self, issued: Issued) -> Option<HeaderValue> {
        match self {
            Self::Cookie(cookie) => cookie.set(issued),
            _ => None,
        }
    }

    /// Where the key of a request leads, and the cookie that its answer shall set.
    pub(crate) fn choice(&self, shown: Shown<'_>, draw: &mut Draw) -> (Choice, Option<Issued>) {
        let found = match self {
            Self::Cookie(cookie) => match (shown.headers, cookie.ttl) {
                (None, _) => None,
                (Some(headers), ttl) => match (cookie.of(headers), ttl) {
                    (Some(value), _) => Some(value),
                    (None, Some(_)) => {
                        let issued = Issued::draw(draw);
                        return (issued.choice(), Some(issued));
                    }
                    (None, None) => None,
                },
            },
            Self::Header(name) => {
                let value = shown.headers.and_then(|headers| headers.get(name));
                value.map(HeaderValue::as_bytes)
            }
            Self::QueryParameter(name) => {
                let mut pairs = shown.query.into_iter().flat_map(|query| query.split('&'));
                pairs.find_map(|pair| match pair.split_once('=') {
                    Some((found, value)) => (*found == **name).then_some(value.as_bytes()),
                    None => (*pair == **name).then_some(&b""[..]),
                })
            }
            Self::SourceIp => return (Choice::SourceIp, None),
        };
        let choice = found.map_or(Choice::LeastRequest, |value| Choice::Hash(mix_bytes(value)));
        (choice, None)
    }
}

/// For a person: `header x-user`.
impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cookie(cookie) => write!(f, "cookie {}", cookie.name),
            Self::Header(name) => write!(f, "header {name}"),
            Self::QueryParameter(name) => write!(f, "query parameter {name}"),
            Self::SourceIp => f.write_str("the caller's address"),
        }
    }
}

// === impl HashCookie ===

impl HashCookie {
    /// A cookie of that name. With a `ttl` a request without it is given one, for that long, or as
    /// long as the browser runs if it is 0, under the `path`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use inmesh_core::balance::HashCookie;
    /// let hour = Some(Duration::from_secs(3_600));
    /// assert!(HashCookie::new("user", Some("/"), hour).is_ok());
    /// assert!(HashCookie::new("a=b", None, None).is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidStrategy`] if the name is no token (RFC 6265 section 4.1.1), or the path does not begin
    /// with `/` or has a `;` or what is not visible ASCII.
    pub fn new(
        name: &str,
        path: Option<&str>,
        ttl: Option<Duration>,
    ) -> Result<Self, InvalidStrategy> {
        if !is_cookie_name(name) {
            return Err(InvalidStrategy(format!("{name:?} names no cookie")));
        }
        if let Some(path) = path.filter(|path| !is_cookie_path(path)) {
            return Err(InvalidStrategy(format!(
                "{path:?} is no path of a cookie: it begins with / and has no `;`"
            )));
        }
        Ok(Self {
            name: name.into(),
            path: path.map(Into::into),
            ttl,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path under which it is handed out.
    pub fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// For how long it is handed out; `None` where it is not.
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    /// Its value in a request.
    fn of<'a>(&self, headers: &'a HeaderMap) -> Option<&'a [u8]> {
        cookies(headers, &self.name).next()
    }

    fn set(&self, issued: Issued) -> Option<HeaderValue> {
        let mut text = format!("{}={}", self.name, issued.text());
        if let Some(ttl) = self.ttl.filter(|ttl| !ttl.is_zero()) {
            text += &format!("; Max-Age={}", ttl.as_secs().max(1));
        }
        if let Some(path) = &self.path {
            text += &format!("; Path={path}");
        }
        text += "; HttpOnly";
        HeaderValue::try_from(text).ok()
    }
}

/// The values of all cookies of a name in a request.
pub(crate) fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let fields = headers.get_all(COOKIE).into_iter();
    let pairs = fields.flat_map(|field| field.as_bytes().split(|b| *b == b';'));
    pairs.filter_map(move |pair| {
        let pair = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        pair.strip_prefix(b"=")
    })
}

/// Whether a text may name a cookie: it is a token (RFC 6265 section 4.1.1).
pub(crate) fn is_cookie_name(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.len() <= COOKIE_BYTES && name.bytes().all(token)
}

/// Whether a text may be the path of a cookie.
pub(crate) fn is_cookie_path(path: &str) -> bool {
    let in_path = |b: u8| matches!(b, b'!'..=b'~') && b != b';';
    path.starts_with('/') && path.len() <= COOKIE_BYTES && path.bytes().all(in_path)
}

// === impl InvalidStrategy ===

impl InvalidStrategy {
    pub(crate) fn new(why: String) -> Self {
        Self(why)
    }
}

// === impl TableSize ===

impl TableSize {
    /// A table of so many slots. A hundred for each endpoint keep shares within 1 %.
    ///
    /// ```
    /// use inmesh_core::balance::TableSize;
    /// assert!(TableSize::new(65_537).is_ok());
    /// assert!(TableSize::new(65_536).is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidStrategy`] if it is no prime number, or above 655,373.
    pub fn new(slots: u32) -> Result<Self, InvalidStrategy> {
        let mut divisors = (2..).take_while(|d: &u32| d * d <= slots);
        let fits = (2..=MOST_SLOTS).contains(&slots);
        if !fits || divisors.any(|d| slots.is_multiple_of(d)) {
            return Err(InvalidStrategy(format!(
                "a table of {slots} slots: the number is a prime of up to {MOST_SLOTS}"
            )));
        }
        Ok(Self(slots))
    }

    /// The number of slots.
    pub fn slots(self) -> u32 {
        self.0
    }
}

/// 65,537, as Istio and Envoy have it.
impl Default for TableSize {
    fn default() -> Self {
        Self(65_537)
    }
}

// === impl RingSize ===

impl RingSize {
    /// A ring of so many points or, where that is less than one for each endpoint, of more.
    ///
    /// # Errors
    ///
    /// [`InvalidStrategy`] for 0, and above 65,536.
    pub fn new(points: u32) -> Result<Self, InvalidStrategy> {
        if points == 0 || points > MOST_POINTS {
            return Err(InvalidStrategy(format!(
                "a ring of {points} points: the number is 1 to {MOST_POINTS}"
            )));
        }
        Ok(Self(points))
    }

    /// The number of points.
    pub fn points(self) -> u32 {
        self.0
    }
}

/// 1,024, as Istio and Envoy have it.
impl Default for RingSize {
    fn default() -> Self {
        Self(1_024)
    }
}

// === impl Choice ===

impl Choice {
    /// The choice once the address of the caller is known; `None` is a call from within the process.
    #[must_use]
    pub fn of(self, caller: Option<IpAddr>) -> Self {
        match (self, caller.map(|ip| ip.to_canonical())) {
            (Self::SourceIp, Some(IpAddr::V4(ip))) => Self::Hash(mix_bytes(&ip.octets())),
            (Self::SourceIp, Some(IpAddr::V6(ip))) => Self::Hash(mix_bytes(&ip.octets())),
            (Self::SourceIp, None) => Self::LeastRequest,
            (choice, _) => choice,
        }
    }
}

// === impl Issued ===

impl Issued {
    fn draw(draw: &mut Draw) -> Self {
        Self(NonZeroU64::new(draw.bits()).unwrap_or(NonZeroU64::MIN))
    }

    /// The value as the cookie has it.
    fn text(self) -> String {
        format!("{:016x}", self.0)
    }

    /// Where it will lead, now as later.
    pub(crate) fn choice(self) -> Choice {
        Choice::Hash(mix_bytes(self.text().as_bytes()))
    }
}
