//! Version 1: one line of text.
//!
//! Strict as the specification is: exactly one space between parts, decimal numbers without sign or
//! leading zeros, both addresses of the family that is named, CR and LF together and nowhere else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Ends, Header, InvalidHeader, LONGEST_V1, Parsed, begins};

const NAME: &[u8] = b"PROXY ";
const END: &[u8] = b"\r\n";
/// What may follow the name; the last is all that is read of its line.
const FAMILIES: [&[u8]; 3] = [b"TCP4 ", b"TCP6 ", b"UNKNOWN"];

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, InvalidHeader> {
    if !begins(bytes, NAME) {
        return Err(InvalidHeader("it does not begin with a PROXY header"));
    }
    let rest = bytes.get(NAME.len()..).unwrap_or_default();
    if !FAMILIES.iter().any(|family| begins(rest, family)) {
        let why = "the PROXY header has a family other than TCP4, TCP6 and UNKNOWN";
        return Err(InvalidHeader(why));
    }
    let seen = &bytes[..bytes.len().min(LONGEST_V1)];
    let Some(end) = seen.iter().position(|b| END.contains(b)) else {
        return match seen.len() < LONGEST_V1 {
            true => Ok(Parsed::NeedMore),
            false => Err(InvalidHeader("the PROXY header has no end in 107 bytes")),
        };
    };
    match &seen[end..] {
        b"\r" if seen.len() < LONGEST_V1 => Ok(Parsed::NeedMore),
        [b'\r', b'\n', ..] => Ok(Parsed::Whole(line(&seen[..end])?, end + END.len())),
        _ => Err(InvalidHeader(
            "a line of a PROXY header ends with CR and LF",
        )),
    }
}

/// Reads the line without its end.
fn line(line: &[u8]) -> Result<Header, InvalidHeader> {
    let malformed = InvalidHeader("the PROXY header is malformed");
    let rest = line.strip_prefix(NAME).ok_or(malformed)?;
    if let Some(ignored) = rest.strip_prefix(b"UNKNOWN") {
        return match ignored {
            [] | [b' ', ..] => Ok(Header::Local),
            _ => Err(malformed),
        };
    }
    let text = std::str::from_utf8(rest).map_err(|_| malformed)?;
    let mut parts = text.split(' ');
    let mut next = || parts.next();
    let (Some(family), Some(source), Some(destination), Some(from), Some(to), None) =
        (next(), next(), next(), next(), next(), next())
    else {
        return Err(malformed);
    };
    let (source, destination) = match family {
        "TCP4" => (ip::<Ipv4Addr>(source)?, ip::<Ipv4Addr>(destination)?),
        "TCP6" => (ip::<Ipv6Addr>(source)?, ip::<Ipv6Addr>(destination)?),
        _ => return Err(malformed),
    };
    let ends = Ends::named((source, port(from)?), (destination, port(to)?));
    Ok(Header::Proxied(ends))
}

fn ip<T: FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, InvalidHeader> {
    let read = text.parse::<T>().map(Into::into);
    read.map_err(|_| InvalidHeader("an address of the PROXY header is malformed"))
}

fn port(text: &str) -> Result<u16, InvalidHeader> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let read = text.parse().ok().filter(|_| plain);
    read.ok_or(InvalidHeader("a port of the PROXY header is malformed"))
}

/// The line for two ends of one family.
pub(super) fn write(
    Ends {
        source,
        destination,
    }: Ends,
) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.port(), destination.port());
    let (source, destination) = (shown(source), shown(destination));
    format!("PROXY {family} {source} {destination} {from} {to}\r\n").into_bytes()
}

/// The address, in hexadecimal digits also where it is one of IPv4 that is written as IPv6.
fn shown(end: SocketAddr) -> String {
    match end.ip() {
        IpAddr::V6(ip) => match (ip.to_ipv4_mapped(), ip.segments()) {
            (Some(_), [.., high, low]) => format!("::ffff:{high:x}:{low:x}"),
            _ => ip.to_string(),
        },
        IpAddr::V4(ip) => ip.to_string(),
    }
}
