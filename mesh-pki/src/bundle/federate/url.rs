//! The address of a bundle endpoint: `https`, a host, no user (S23), no fragment.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::PathAndQuery;

/// The longest address that is accepted, in bytes.
const MAX_URL_LEN: usize = 2048;

/// A valid address of a bundle endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleUrl {
    host: String,
    port: u16,
    path: PathAndQuery,
}

/// Why an address is not a valid bundle endpoint URL (SPIFFE_Federation.md, sections 5.2.1.1, 5.2.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// It has a fragment, which is never sent.
    #[error("an address of a bundle has no fragment")]
    Fragment,
    /// It cannot be read, or has no host.
    #[error("not an address: write https://host/path")]
    Malformed,
    /// Its scheme is not https (S23).
    #[error("a bundle is fetched over https")]
    Scheme,
    /// It is longer than is looked at.
    #[error("the address has {got} bytes, at most {MAX_URL_LEN} are looked at")]
    TooLong {
        /// How long it is.
        got: usize,
    },
    /// It has a user or a password (S23).
    #[error("an address of a bundle has no user")]
    UserInfo,
}

impl BundleUrl {
    /// The name or address of the host; an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(&self.host)
    }

    /// The port, 443 if it is not written.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What stands in a request's first line.
    pub(super) fn path(&self) -> &PathAndQuery {
        &self.path
    }

    /// What stands in a request's Host.
    pub(super) fn authority(&self) -> String {
        match self.port {
            443 => self.host.clone(),
            port => format!("{}:{port}", self.host),
        }
    }

    /// The address to which a redirect at this one leads: a whole one, or a path on the same host.
    pub(super) fn join(&self, location: &str) -> Result<Self, UrlError> {
        if location.starts_with('/') && !location.starts_with("//") {
            format!("https://{}{location}", self.authority()).parse()
        } else {
            location.parse()
        }
    }
}

impl FromStr for BundleUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.len() > MAX_URL_LEN {
            return Err(UrlError::TooLong { got: text.len() });
        }
        if text.contains('#') {
            return Err(UrlError::Fragment);
        }
        let uri: Uri = text.parse().map_err(|_| UrlError::Malformed)?;
        if uri.scheme_str() != Some("https") {
            return Err(UrlError::Scheme);
        }
        let authority = uri.authority().ok_or(UrlError::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(UrlError::UserInfo);
        }
        // What stands behind the host is a port that can be read, or nothing.
        let port = match &authority.as_str()[authority.host().len()..] {
            "" => 443,
            _ => authority.port_u16().ok_or(UrlError::Malformed)?,
        };
        if authority.host().is_empty() || port == 0 {
            return Err(UrlError::Malformed);
        }
        let slash = PathAndQuery::from_static("/");
        Ok(Self {
            host: authority.host().to_ascii_lowercase(),
            port,
            path: uri.path_and_query().cloned().unwrap_or(slash),
        })
    }
}

impl fmt::Display for BundleUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.path)
    }
}
