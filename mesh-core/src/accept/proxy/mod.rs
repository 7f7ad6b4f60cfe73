//! PROXY headers: what a proxy says before all else of the connection that it passes on.
//!
//! In come the first bytes of a connection, out comes a [`Header`] and how long it was, or that more
//! must come, or what is wrong with it ([`parse`]); and back ([`Header::write`]). Both versions of the protocol
//! as haproxy specifies it (`proxy-protocol.txt`). Written out, since the libraries there are take what
//! the specification forbids: signs before ports, lines of any length, a missing space.
//!
//! It refuses to guess: where a header is asked for, bytes without one are an error. What it says is
//! worth as much as the network is in which it comes, so that [`TrustedProxies`] names the proxies
//! that are believed.
//! Additional fields of version 2 (TLVs) are skipped.

#[cfg(feature = "runtime")]
mod read;
#[cfg(test)]
mod tests;
mod trusted;
mod v1;
mod v2;

use std::net::{IpAddr, SocketAddr};

#[cfg(feature = "runtime")]
pub(crate) use self::read::{Unread, read};
pub use self::trusted::{InvalidProxies, TrustedProxies};
use crate::model::ProxyVersion;

/// The longest header of version 1, in bytes.
pub const LONGEST_V1: usize = 107;
/// The longest header of version 2 that is taken, in bytes. Addresses need 232 at most; the rest is room
/// for additional fields, as haproxy and load balancers of clouds send them.
pub const LONGEST_V2: usize = 4_096;

/// Both ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Ends {
    /// Where it comes from.
    pub source: SocketAddr,
    /// What it was made to.
    pub destination: SocketAddr,
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Header {
    /// Nothing of another connection: it is the proxy's own (`LOCAL`), or one whose addresses it cannot
    /// say (`UNKNOWN`, UNIX sockets, UDP). The connection's own addresses are the real ones.
    Local,
    /// The connection that is passed on.
    Proxied(Ends),
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Parsed {
    /// The begin of a header.
    NeedMore,
    /// A header, of so many bytes.
    Whole(Header, usize),
}

/// Bytes that are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidHeader(&'static str);

/// Reads a header of either version from the first bytes of a connection.
///
/// ```
/// use inmesh_core::accept::proxy::{Ends, Header, Parsed, parse};
/// let ends = Ends::new(([192, 0, 2, 1], 56_324).into(), ([192, 0, 2, 11], 443).into());
/// let bytes = b"PROXY TCP4 192.0.2.1 192.0.2.11 56324 443\r\nGET / HTTP/1.1\r\n";
/// assert_eq!(parse(bytes)?, Parsed::Whole(Header::Proxied(ends), 43));
/// assert_eq!(parse(b"PROXY TC")?, Parsed::NeedMore);
/// assert!(parse(b"GET / HTTP/1.1\r\n").is_err());
/// # Ok::<(), inmesh_core::accept::proxy::InvalidHeader>(())
/// ```
///
/// # Errors
///
/// [`InvalidHeader`] as soon as no header begins with these bytes.
pub fn parse(bytes: &[u8]) -> Result<Parsed, InvalidHeader> {
    match bytes.first() {
        None => Ok(Parsed::NeedMore),
        Some(b'P') => v1::parse(bytes),
        Some(b'\r') => v2::parse(bytes),
        Some(_) => Err(InvalidHeader("it does not begin with a PROXY header")),
    }
}

/// Whether the bytes that are there begin as a text does.
fn begins(bytes: &[u8], text: &[u8]) -> bool {
    bytes.iter().zip(text).all(|(a, b)| a == b)
}

// === impl Ends ===

impl Ends {
    /// Both ends.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            source,
            destination,
        }
    }

    /// The same in one family: IPv4 if both ends are, else IPv6.
    fn in_one_family(self) -> Self {
        let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        let (source, destination) = (canonical(self.source), canonical(self.destination));
        if source.is_ipv4() == destination.is_ipv4() {
            return Self::new(source, destination);
        }
        let as_v6 = |end: SocketAddr| match end.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), end.port()),
            IpAddr::V6(_) => end,
        };
        Self::new(as_v6(source), as_v6(destination))
    }

    /// The ends that a header names. One of IPv4 that is written as IPv6 is one of IPv4.
    fn named(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        let end = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip.to_canonical(), port);
        Self::new(end(source), end(destination))
    }
}

// === impl Header ===

impl Header {
    /// The bytes of the header. Version 1 has no word for a proxy's own connection that all servers take,
    /// so that it names the ends of that, `own`.
    ///
    /// ```
    /// use inmesh_core::accept::proxy::{Ends, Header};
    /// use inmesh_core::model::ProxyVersion;
    /// let own = Ends::new(([192, 0, 2, 1], 9).into(), ([192, 0, 2, 2], 80).into());
    /// let header = Header::Local.write(ProxyVersion::V1, own);
    /// assert_eq!(header, b"PROXY TCP4 192.0.2.1 192.0.2.2 9 80\r\n");
    /// ```
    pub fn write(&self, version: ProxyVersion, own: Ends) -> Vec<u8> {
        match (version, self) {
            (ProxyVersion::V1, Self::Local) => v1::write(own.in_one_family()),
            (ProxyVersion::V1, Self::Proxied(ends)) => v1::write(ends.in_one_family()),
            (ProxyVersion::V2, Self::Local) => v2::write(None),
            (ProxyVersion::V2, Self::Proxied(ends)) => v2::write(Some(ends.in_one_family())),
        }
    }
}
