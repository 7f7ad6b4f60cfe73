//! Random routes and requests as plain values, of few names, so that they meet and tie often.

use inmesh_core::model::Draw;

/// The routes of the Service `cart` in `shop`, which has the ports 80 and 81.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) routes: Vec<Route>,
}

#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) kind: RouteKind,
    pub(crate) namespace: &'static str,
    pub(crate) name: &'static str,
    /// In seconds since 1970; `None` is not known.
    pub(crate) created: Option<i64>,
    pub(crate) parents: Vec<Parent>,
    /// The matches of each rule; a route of opaque connections has one without any.
    pub(crate) rules: Vec<Vec<Match>>,
    /// The `hostnames` of a TLSRoute.
    pub(crate) hostnames: Vec<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouteKind {
    Grpc,
    Http,
    Tcp,
    Tls,
}

/// A `parentRef`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) service: &'static str,
    pub(crate) port: Option<u16>,
    /// `sectionName`: a port's name.
    pub(crate) section: Option<&'static str>,
}

#[derive(Debug)]
pub(crate) struct Match {
    pub(crate) path: Option<(PathType, &'static str)>,
    pub(crate) method: Option<&'static str>,
    /// Of a GRPCRoute.
    pub(crate) call: Option<Call>,
    /// Name, and value or pattern.
    pub(crate) headers: Vec<(&'static str, Text)>,
    pub(crate) query: Vec<(&'static str, Text)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathType {
    Exact,
    Prefix,
    /// The value is one of [`PATTERNS`].
    Regex,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) service: Option<Text>,
    pub(crate) method: Option<Text>,
}

/// A text that is compared.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Text {
    Exact(&'static str),
    /// One of [`PATTERNS`].
    Regex(&'static str),
}

/// A request, or an opaque connection.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) namespace: &'static str,
    pub(crate) port: u16,
    pub(crate) speaks: Speaks,
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// As it is written.
    pub(crate) query: Option<&'static str>,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Grpc,
    Http,
    /// Bytes that are no TLS.
    Tcp,
    /// TLS, with the server that its handshake names.
    Tls(Option<&'static str>),
}

/// A pattern, and whether it matches a text.
type Pattern = (&'static str, fn(&str) -> bool);

/// Patterns, and what they match in words of their own: each is known, so that no library of regular
/// expressions is asked twice.
pub(crate) const PATTERNS: [Pattern; 7] = [
    (".*", |_| true),
    ("/a.*", |text| text.starts_with("/a")),
    ("/[a-z]+", |text| {
        let letters = text.strip_prefix('/').unwrap_or_default();
        !letters.is_empty() && letters.chars().all(|c| c.is_ascii_lowercase())
    }),
    ("/a|/a/b", |text| text == "/a" || text == "/a/b"),
    ("[0-9]+", |text| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_digit())
    }),
    ("[a-z.]*Cart", |text| {
        let rest = text.strip_suffix("Cart");
        rest.is_some_and(|rest| rest.chars().all(|c| c.is_ascii_lowercase() || c == '.'))
    }),
    ("G.t", |text| {
        let letters: Vec<_> = text.chars().collect();
        matches!(letters[..], ['G', _, 't'])
    }),
];

const NAMESPACES: [&str; 5] = ["shop", "shop", "shop", "shop-a", "web"];
const NAMES: [&str; 5] = ["a", "a-b", "a.b", "ab", "b"];
const METHODS: [&str; 3] = ["GET", "POST", "PUT"];
/// Two are one name.
const FIELDS: [&str; 4] = ["x-a", "X-A", "x-b", "x-c"];
const VALUES: [&str; 3] = ["1", "2", "one"];
/// Two are two names.
const PARAMETERS: [&str; 3] = ["q", "Q", "p"];
const HOSTNAMES: [&str; 7] = [
    "a.lab",
    "b.lab",
    "a.b.lab",
    "*.lab",
    "*.b.lab",
    "*.a.b.lab",
    "*.org",
];

fn one<T: Copy>(draw: &mut Draw, of: &[T]) -> T {
    of[draw.index(of.len())]
}

/// Whether the die of so many sides shows a one.
fn rarely(draw: &mut Draw, sides: u64) -> bool {
    draw.below(sides) == 0
}

fn some<T>(draw: &mut Draw, most: u64, mut make: impl FnMut(&mut Draw) -> T) -> Vec<T> {
    (0..draw.below(most + 1)).map(|_| make(draw)).collect()
}

impl Table {
    pub(crate) fn drawn(draw: &mut Draw) -> Self {
        let mut routes: Vec<Route> = Vec::new();
        for _ in 0..draw.below(8) {
            let route = Route::drawn(draw);
            let same = |of: &Route| {
                (of.kind, of.namespace, of.name) == (route.kind, route.namespace, route.name)
            };
            // An object of the same name would replace the other.
            if !routes.iter().any(same) {
                routes.push(route);
            }
        }
        Self { routes }
    }
}

impl Route {
    fn drawn(draw: &mut Draw) -> Self {
        let kind = match draw.below(12) {
            0 | 1 => RouteKind::Grpc,
            2 | 3 => RouteKind::Tcp,
            4..7 => RouteKind::Tls,
            _ => RouteKind::Http,
        };
        let mut parents = vec![Parent::drawn(draw)];
        if rarely(draw, 3) {
            let more = Parent::drawn(draw);
            if !parents.contains(&more) {
                parents.push(more);
            }
        }
        let rules = match kind {
            RouteKind::Grpc | RouteKind::Http => (0..1 + draw.below(3))
                .map(|_| some(draw, 3, |draw| Match::drawn(draw, kind == RouteKind::Grpc)))
                .collect(),
            RouteKind::Tcp | RouteKind::Tls => vec![Vec::new()],
        };
        let mut hostnames = Vec::new();
        if kind == RouteKind::Tls && !rarely(draw, 6) {
            hostnames.push(one(draw, &HOSTNAMES));
            hostnames.extend(some(draw, 2, |draw| one(draw, &HOSTNAMES)));
        }
        Self {
            kind,
            hostnames,
            namespace: one(draw, &NAMESPACES),
            name: one(draw, &NAMES),
            created: one(draw, &[None, Some(1), Some(2)]),
            parents,
            rules,
        }
    }
}

impl Parent {
    fn drawn(draw: &mut Draw) -> Self {
        Self {
            service: if rarely(draw, 12) { "other" } else { "cart" },
            port: match draw.below(8) {
                0..5 => None,
                5 => Some(80),
                6 => Some(81),
                _ => Some(99),
            },
            section: rarely(draw, 5).then(|| one(draw, &["a", "b", "c"])),
        }
    }
}

impl Match {
    fn drawn(draw: &mut Draw, grpc: bool) -> Self {
        let mut this = Self {
            path: None,
            method: None,
            call: None,
            headers: Vec::new(),
            query: Vec::new(),
        };
        if rarely(draw, 2) {
            this.headers = some(draw, 3, |draw| (one(draw, &FIELDS), Text::value(draw)));
        }
        if grpc {
            this.call = (!rarely(draw, 4)).then(|| Call::drawn(draw));
            return this;
        }
        this.path = (!rarely(draw, 5)).then(|| path(draw));
        this.method = rarely(draw, 3).then(|| one(draw, &METHODS));
        if rarely(draw, 2) {
            this.query = some(draw, 3, |draw| (one(draw, &PARAMETERS), Text::value(draw)));
        }
        this
    }
}

fn path(draw: &mut Draw) -> (PathType, &'static str) {
    match draw.below(5) {
        0 => (
            PathType::Regex,
            one(draw, &[".*", "/a.*", "/[a-z]+", "/a|/a/b"]),
        ),
        1 | 2 => (
            PathType::Exact,
            one(draw, &["/", "/a", "/a/", "/a/b", "/ab", "/b"]),
        ),
        _ => (
            PathType::Prefix,
            one(draw, &["/", "/a", "/a/", "/a/b", "/a/b/", "/ab", "/b"]),
        ),
    }
}

impl Call {
    fn drawn(draw: &mut Draw) -> Self {
        let service = [
            Text::Exact("shop.Cart"),
            Text::Exact("Cart"),
            Text::Regex(".*"),
            Text::Regex("[a-z.]*Cart"),
        ];
        let method = [
            Text::Exact("Get"),
            Text::Exact("Put"),
            Text::Regex("G.t"),
            Text::Regex(".*"),
        ];
        let (service, method) = (one(draw, &service), one(draw, &method));
        let which = draw.below(3);
        Self {
            service: (which != 1).then_some(service),
            method: (which != 0).then_some(method),
        }
    }
}

impl Text {
    fn value(draw: &mut Draw) -> Self {
        match draw.below(4) {
            0 => Self::Regex(one(draw, &[".*", "[0-9]+"])),
            _ => Self::Exact(one(draw, &VALUES)),
        }
    }
}

impl Ask {
    pub(crate) fn drawn(draw: &mut Draw) -> Self {
        let servers = [
            None,
            Some("a.lab"),
            Some("b.lab"),
            Some("a.b.lab"),
            Some("c.a.b.lab"),
            Some("c.b.lab"),
            Some("lab"),
            Some("c.org"),
        ];
        let speaks = match draw.below(8) {
            0 | 1 => Speaks::Grpc,
            2 => Speaks::Tcp,
            3 | 4 => Speaks::Tls(one(draw, &servers)),
            _ => Speaks::Http,
        };
        let grpc = speaks == Speaks::Grpc;
        let path: &[_] = match grpc {
            true => &["/shop.Cart/Get", "/Cart/Put", "/a/b/Get", "/a", "/"],
            false => &[
                "/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/ab", "/b", "/c",
            ],
        };
        Self {
            namespace: one(draw, &NAMESPACES),
            port: one(draw, &[80, 81]),
            speaks,
            method: if grpc { "POST" } else { one(draw, &METHODS) },
            path: one(draw, path),
            query: one(
                draw,
                &[
                    None,
                    Some("q=1"),
                    Some("q=2&q=1"),
                    Some("Q=1&p=one&q=1"),
                    Some(""),
                ],
            ),
            headers: some(draw, 3, |draw| (one(draw, &FIELDS), one(draw, &VALUES))),
        }
    }
}
