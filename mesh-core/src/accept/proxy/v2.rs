//! Version 2: binary.
//!
//! A signature of 12 bytes, the version and a command, the family, and the length of what follows:
//! addresses, then additional fields. A header that says more than it has room for is refused, and so
//! is one whose additional fields do not end where it does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Ends, Header, InvalidHeader, LONGEST_V2, Parsed, begins};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, length.
const FIXED: usize = SIGNATURE.len() + 4;
/// The version, in the upper half of a byte.
const VERSION: u8 = 0x20;
const LOCAL: u8 = 0x0;
const PROXY: u8 = 0x1;
/// Families, in the upper half of a byte.
const UNSPECIFIED: u8 = 0x0;
const INET: u8 = 0x1;
const INET6: u8 = 0x2;
const UNIX: u8 = 0x3;
/// What is spoken, in the lower half.
const STREAM: u8 = 0x1;
const DATAGRAM: u8 = 0x2;
/// How much room two addresses of UNIX sockets take, in bytes.
const UNIX_ADDRESSES: usize = 2 * 108;

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, InvalidHeader> {
    if !begins(bytes, SIGNATURE) {
        return Err(InvalidHeader("it does not begin with a PROXY header"));
    }
    let after = bytes.get(SIGNATURE.len()..).unwrap_or_default();
    if let Some(first) = after.first()
        && !matches!(first ^ VERSION, LOCAL | PROXY)
    {
        let why = "the PROXY header has a version other than 2, or an unknown command";
        return Err(InvalidHeader(why));
    }
    let [command, family, high, low, rest @ ..] = after else {
        return Ok(Parsed::NeedMore);
    };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    if FIXED + len > LONGEST_V2 {
        return Err(InvalidHeader("the PROXY header is longer than 4096 bytes"));
    }
    let local = command ^ VERSION == LOCAL;
    // What cannot be is refused before it is waited for.
    let addresses = match local {
        // All that it holds is ignored, the family included.
        true => 0,
        false => addresses_of(*family)?,
    };
    if len < addresses {
        return Err(InvalidHeader(
            "the PROXY header has no room for its addresses",
        ));
    }
    let Some(rest) = rest.get(..len) else {
        return Ok(Parsed::NeedMore);
    };
    let (addresses, fields) = rest.split_at(addresses);
    let header = match local {
        true => Header::Local,
        false => {
            if family >> 4 != UNSPECIFIED && !is_fields(fields) {
                let why = "an additional field of the PROXY header does not end within it";
                return Err(InvalidHeader(why));
            }
            header(*family, addresses)
        }
    };
    Ok(Parsed::Whole(header, FIXED + len))
}

/// How many bytes the addresses of a family take.
fn addresses_of(family: u8) -> Result<usize, InvalidHeader> {
    if family & 0xf > DATAGRAM {
        return Err(InvalidHeader("the PROXY header is of an unknown protocol"));
    }
    match family >> 4 {
        UNSPECIFIED => Ok(0),
        INET => Ok(2 * 4 + 4),
        INET6 => Ok(2 * 16 + 4),
        UNIX => Ok(UNIX_ADDRESSES),
        _ => Err(InvalidHeader("the PROXY header is of an unknown family")),
    }
}

/// What the addresses of a family say.
fn header(family: u8, addresses: &[u8]) -> Header {
    let ends = match family & 0xf {
        STREAM => two::<4, Ipv4Addr>(addresses).or_else(|| two::<16, Ipv6Addr>(addresses)),
        _ => None,
    };
    ends.map_or(Header::Local, Header::Proxied)
}

/// Two addresses of `N` bytes, then their ports.
fn two<const N: usize, T: From<[u8; N]> + Into<IpAddr>>(bytes: &[u8]) -> Option<Ends> {
    let (source, rest) = bytes.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let [a, b, c, d] = <[u8; 4]>::try_from(rest).ok()?;
    let ip = |bytes: [u8; N]| -> IpAddr { T::from(bytes).into() };
    let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Some(Ends::named((ip(*source), from), (ip(*destination), to)))
}

/// Whether bytes are fields one after the other: a type, a length of two bytes, and so much.
fn is_fields(mut bytes: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = bytes {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(after) = rest.get(len..) else {
            return false;
        };
        bytes = after;
    }
    bytes.is_empty()
}

/// The header for two ends of one family, or for a connection of the proxy's own.
pub(super) fn write(ends: Option<Ends>) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    let Some(Ends {
        source,
        destination,
    }) = ends
    else {
        out.extend([VERSION | LOCAL, UNSPECIFIED, 0, 0]);
        return out;
    };
    let (family, len) = match source {
        SocketAddr::V4(_) => (INET, 12),
        SocketAddr::V6(_) => (INET6, 36),
    };
    out.extend([VERSION | PROXY, family << 4 | STREAM, 0, len]);
    for end in [source, destination] {
        match end.ip() {
            IpAddr::V4(ip) => out.extend(ip.octets()),
            IpAddr::V6(ip) => out.extend(ip.octets()),
        }
    }
    out.extend(source.port().to_be_bytes());
    out.extend(destination.port().to_be_bytes());
    out
}
