//! A condition that a request does not meet, in words that are made only if they are asked for.

use std::fmt;

use http::{HeaderName, Method};

use super::matching::{PathMatch, ValueMatch};
use super::opaque::ServerNames;

/// A condition that a request does not meet.
pub(super) enum Condition<'m> {
    /// The method of a call of gRPC.
    Call(&'m ValueMatch),
    /// That it is a call of gRPC at all.
    Grpc,
    Header(&'m HeaderName),
    Method(&'m Method),
    Path(&'m PathMatch),
    Query(&'m str),
    /// The server that a connection of TLS names.
    Server(&'m ServerNames),
    /// The service of a call of gRPC.
    Service(&'m ValueMatch),
    /// That a connection is one of TLS.
    Tls,
}

// === impl Condition ===

/// Values of header fields and parameters may be secret, and are left out.
impl fmt::Display for Condition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(wanted) => named(f, "method", wanted),
            Self::Grpc => write!(f, "it is no call of gRPC"),
            Self::Header(name) => write!(f, "the header {name} does not match"),
            Self::Method(method) => write!(f, "the method is not {method}"),
            Self::Path(PathMatch::Exact(path)) => write!(f, "the path is not {}", path.as_str()),
            Self::Path(PathMatch::Prefix(path)) => {
                write!(f, "the path is not under {}", path.as_str())
            }
            Self::Path(PathMatch::Regex(regex)) => {
                write!(f, "the path does not match {}", regex.written())
            }
            Self::Query(name) => write!(f, "the query parameter {name} does not match"),
            Self::Server(names) => {
                write!(f, "the server named by the TLS handshake is not {names}")
            }
            Self::Tls => write!(f, "it is no TLS connection"),
            Self::Service(wanted) => named(f, "service", wanted),
        }
    }
}

fn named(f: &mut fmt::Formatter<'_>, what: &str, wanted: &ValueMatch) -> fmt::Result {
    match wanted {
        ValueMatch::Exact(name) => write!(f, "the {what} called is not {name}"),
        ValueMatch::Regex(regex) => {
            write!(f, "the {what} called does not match {}", regex.written())
        }
    }
}
