//! An IP address in, how far it reaches out. Pure; by the registries of special addresses of
//! RFC 6890, as far as they matter for which endpoint may redirect to which.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// This machine.
    Loopback,
    /// A network of our own: private, shared or unique local addresses.
    Private,
    /// Public.
    Public,
    /// Never a bundle endpoint's: link-local, where machines keep their metadata,
    /// unspecified, multicast, documentation, translation and the rest.
    Special,
}

/// Whether a server at an address of `from` may send us on to one of `to`: into the open, or to a
/// place like its own, and never to a special one (D6 of the advisory classes).
pub(super) fn may_redirect(from: Reach, to: Reach) -> bool {
    match to {
        Reach::Special => false,
        Reach::Public => true,
        Reach::Loopback | Reach::Private => from == to,
    }
}

/// How far `ip` reaches; an IPv4 address in IPv6 clothes is what it is inside.
pub(super) fn reach(ip: IpAddr) -> Reach {
    match ip.to_canonical() {
        IpAddr::V4(ip) => reach_v4(ip),
        IpAddr::V6(ip) => reach_v6(ip),
    }
}

fn reach_v4(ip: Ipv4Addr) -> Reach {
    let [a, b, c, _] = ip.octets();
    match (a, b, c) {
        (127, ..) => Reach::Loopback,
        (10, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) => Reach::Private,
        (0, ..)
        | (169, 254, _)
        | (192, 0, 0 | 2)
        | (192, 88, 99)
        | (198, 18..=19, _)
        | (198, 51, 100)
        | (203, 0, 113)
        | (224.., ..) => Reach::Special,
        _ => Reach::Public,
    }
}

fn reach_v6(ip: Ipv6Addr) -> Reach {
    if ip.is_loopback() {
        return Reach::Loopback;
    }
    match ip.segments() {
        [0xfc00..=0xfdff, ..] => Reach::Private,
        // Documentation, 6to4 and Teredo hide other addresses inside the open range.
        [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x2001, 0, ..] => Reach::Special,
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Special,
    }
}
