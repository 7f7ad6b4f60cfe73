//! What a port speaks, as its Service declares it.

use std::fmt;

/// What a port speaks, as declared; nothing is guessed where it is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AppProtocol {
    /// Not declared: the first bytes decide, and a timeout means opaque.
    Detect,
    /// gRPC, which is HTTP/2 with trailers.
    Grpc,
    /// HTTP/1.1, with upgrades.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Opaque bytes.
    Tcp,
}

impl AppProtocol {
    /// What a Service's port declares (Kubernetes `appProtocol`, else the prefix of its name, as
    /// Istio reads it). Unknown declarations are opaque bytes; no declaration means detection.
    ///
    /// ```
    /// use inmesh_core::model::AppProtocol;
    /// assert_eq!(AppProtocol::declared(Some("kubernetes.io/h2c"), "x"), AppProtocol::Http2);
    /// assert_eq!(AppProtocol::declared(None, "grpc-web"), AppProtocol::Grpc);
    /// assert_eq!(AppProtocol::declared(None, "metrics"), AppProtocol::Detect);
    /// ```
    pub fn declared(app_protocol: Option<&str>, port_name: &str) -> Self {
        let by_prefix = port_name.split('-').next().unwrap_or_default();
        match app_protocol.unwrap_or(by_prefix) {
            "grpc" => Self::Grpc,
            "http" | "kubernetes.io/ws" => Self::Http1,
            "http2" | "h2c" | "kubernetes.io/h2c" => Self::Http2,
            "tcp" | "tls" | "https" | "kubernetes.io/wss" | "mongo" | "mysql" | "redis" => {
                Self::Tcp
            }
            _ if app_protocol.is_some() => Self::Tcp,
            _ => Self::Detect,
        }
    }

    /// Whether HTTP is declared, in any version.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Grpc | Self::Http1 | Self::Http2)
    }
}

impl fmt::Display for AppProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detect => "detect",
            Self::Grpc => "grpc",
            Self::Http1 => "http",
            Self::Http2 => "http2",
            Self::Tcp => "tcp",
        })
    }
}

/// A version of HTTP on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum HttpVersion {
    Http1,
    Http2,
}
