//! Labels of metrics: names of workloads and Services, never what a caller sends, and kinds of which
//! there are few.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use http::StatusCode;
use inmesh_pki::store::IdentityReader;
use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

/// What a line has beside its labels: the name, a bound, the number.
const LINE: usize = 80;
/// A label beside its name and value: `="",`.
const PUNCTUATION: usize = 4;
/// The longest value of a label in bytes; a longer one is cut. A list of IDs may be long.
const VALUE: usize = 256;

/// A set of labels.
pub(crate) type Labels = Vec<(&'static str, LabelText)>;

/// A label's value.
#[derive(Debug, Clone)]
pub(crate) enum LabelText {
    /// The ID of the default SVID at the moment of a scrape.
    Identity(IdentityReader),
    /// Always the same.
    Text(Arc<str>),
}

/// The labels that distinguish the exchanges of one [`Series`](super::Series).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Varying {
    pub(crate) protocol: &'static str,
    pub(crate) code: Code,
    pub(crate) grpc: Option<Grpc>,
    pub(crate) flags: &'static str,
    pub(crate) mutual_tls: bool,
}

/// A status as a label: those that are registered, 499 and 0 (none), and the class of any other. An
/// application may answer with a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// The hundreds of a status that is not registered.
    Class(u16),
    Known(u16),
}

/// A gRPC status as a label: one of the 17 that there are, or another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grpc {
    Known(u8),
    Other,
}

// === impl LabelText ===

impl LabelText {
    /// A value that never changes.
    pub(crate) fn shared(text: &Arc<str>) -> Self {
        if text.len() > VALUE {
            return Self::from(&**text);
        }
        Self::Text(Arc::clone(text))
    }

    fn len(&self) -> usize {
        match self {
            Self::Identity(_) => VALUE,
            Self::Text(text) => text.len(),
        }
    }

    pub(crate) fn with<R>(&self, see: impl FnOnce(&str) -> R) -> R {
        match self {
            Self::Identity(reader) => {
                let state = reader.load();
                see(state
                    .default_svid()
                    .map_or("unknown", |svid| svid.id().as_str()))
            }
            Self::Text(text) => see(text),
        }
    }
}

/// A runtime has one source of identity, so two labels that follow it are the same.
impl PartialEq for LabelText {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Identity(_), Self::Identity(_)) => true,
            (Self::Text(one), Self::Text(other)) => one == other,
            _ => false,
        }
    }
}

impl Eq for LabelText {}

impl Hash for LabelText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Identity(_) => state.write_u8(0),
            Self::Text(text) => text.hash(state),
        }
    }
}

impl EncodeLabelValue for LabelText {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.with(|text| EncodeLabelValue::encode(&text, encoder))
    }
}

impl From<&str> for LabelText {
    fn from(text: &str) -> Self {
        Self::Text(text[..text.floor_char_boundary(VALUE)].into())
    }
}

// === impl Code ===

impl Code {
    pub(crate) fn of(status: u16) -> Self {
        let known =
            StatusCode::from_u16(status).is_ok_and(|code| code.canonical_reason().is_some());
        match status {
            0 | 499 => Self::Known(status),
            _ if known => Self::Known(status),
            _ => Self::Class(status / 100),
        }
    }

    /// The class alone.
    fn class(self) -> Self {
        match self {
            Self::Known(status) => Self::Class(status / 100),
            class @ Self::Class(_) => class,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Class(class @ 1..=5) => write!(f, "{class}xx"),
            Self::Class(_) => f.write_str("other"),
            Self::Known(status) => status.fmt(f),
        }
    }
}

// === impl Grpc ===

impl Grpc {
    pub(crate) fn of(status: u8) -> Self {
        match status {
            0..=16 => Self::Known(status),
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Grpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(status) => status.fmt(f),
            Self::Other => f.write_str("other"),
        }
    }
}

// === impl Varying ===

impl Varying {
    /// All labels of an exchange.
    pub(super) fn labels(&self, base: &Labels) -> Labels {
        let mut labels = base.clone();
        let grpc = self.grpc.map(|s| s.to_string()).unwrap_or_default();
        labels.push(("request_protocol", self.protocol.into()));
        labels.push(("response_code", self.code.to_string().as_str().into()));
        labels.push(("grpc_response_status", grpc.as_str().into()));
        labels.push(("response_flags", self.flags.into()));
        labels.push(security(self.mutual_tls));
        labels
    }

    /// What is left of it where there is no room for more: the class of the status.
    pub(super) fn overflow(self) -> Self {
        Self {
            code: self.code.class(),
            grpc: None,
            flags: "-",
            ..self
        }
    }
}

/// All labels of an opaque connection.
pub(super) fn tcp_labels(base: &Labels, mutual_tls: bool) -> Labels {
    let mut labels = base.clone();
    labels.push(("request_protocol", "tcp".into()));
    labels.push(security(mutual_tls));
    labels
}

fn security(mutual_tls: bool) -> (&'static str, LabelText) {
    let security = if mutual_tls { "mutual_tls" } else { "unknown" };
    ("connection_security_policy", security.into())
}

/// The labels of what finds no room: all `overflow`, but for the side that reports.
pub(super) fn overflowing(labels: &Labels) -> Labels {
    let values = labels.iter().map(|(name, value)| match *name {
        "reporter" => (*name, value.clone()),
        name => (name, "overflow".into()),
    });
    values.collect()
}

/// The bytes of a line of text with these labels.
pub(super) fn cost(labels: &Labels) -> usize {
    let labels = labels.iter();
    let each = labels.map(|(name, value)| name.len() + value.len() + PUNCTUATION);
    LINE + each.sum::<usize>()
}
