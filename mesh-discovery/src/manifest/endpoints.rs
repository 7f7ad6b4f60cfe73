//! Hosts of endpoints: an address that may be sent to, or a name for the resolver.
//!
//! Addresses that cannot be meant (unspecified, multicast, broadcast, link-local) are refused, and
//! loopback unless the process allows it: a document must not make an agent talk to itself.

use std::net::IpAddr;
use std::sync::Arc;

use inmesh_core::model::Host;

use super::meta::Texts;
use super::strict::Value;
use super::transport::DNS;

/// Why an address is not sent to; `None` where it is.
pub(crate) fn forbidden(address: IpAddr, allow_loopback: bool) -> Option<&'static str> {
    let address = address.to_canonical();
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if address.is_unspecified() {
        Some("is the unspecified address")
    } else if address.is_multicast() || matches!(address, IpAddr::V4(v4) if v4.is_broadcast()) {
        Some("is a multicast or broadcast address")
    } else if link_local {
        Some("is a link-local address")
    } else if address.is_loopback() && !allow_loopback {
        Some("is a loopback address, which this process does not allow")
    } else {
        None
    }
}

/// Reads an address of a family.
pub(super) fn address(value: &Value<'_>, v6: bool, allow_loopback: bool) -> Option<Host> {
    let text = value.text()?;
    let address = match text.parse::<IpAddr>() {
        Ok(address) if address.is_ipv6() == v6 => address,
        _ => {
            let family = if v6 { "IPv6" } else { "IPv4" };
            value.refuse(format_args!("{text:?} is not an {family} address"));
            return None;
        }
    };
    if let Some(why) = forbidden(address, allow_loopback) {
        value.refuse(format_args!("{address} {why}"));
        return None;
    }
    Some(Host::Address(address))
}

/// The SRV prefix that the annotation asks for; the outer `None` after a problem.
///
/// `ports` are the names of the ports that SRV answers would stand for: exactly one, and named.
pub(super) fn srv(annotations: &Texts<'_>, ports: &[&str]) -> Option<Option<Arc<str>>> {
    let Some(value) = annotations.find(DNS) else {
        return Some(None);
    };
    value.choice(&["srv"])?;
    match ports {
        [name] if !name.is_empty() => Some(Some(format!("_{name}._tcp").into())),
        _ => {
            value.refuse("srv needs exactly one port, with a name, which is what DNS is asked for");
            None
        }
    }
}
