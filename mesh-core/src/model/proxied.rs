//! The words of PROXY headers: their versions, and the blocks of addresses that may send them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// A version of the PROXY protocol, in which a connection says for which other one it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// A block of addresses, e.g. `10.0.0.0/8`; an address alone is a block of one.
///
/// ```
/// use inmesh_core::model::IpBlock;
/// let block: IpBlock = "10.0.0.0/8".parse()?;
/// assert!(block.contains([10, 1, 2, 3].into()));
/// assert!("10.0.0.1/8".parse::<IpBlock>().is_err());
/// # Ok::<(), inmesh_core::model::InvalidIpBlock>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpBlock(IpNet);

/// A text that is no block of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidIpBlock(String);

// === impl ProxyVersion ===

/// As documents write it: `V1` or `V2`.
impl fmt::Display for ProxyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "V1",
            Self::V2 => "V2",
        })
    }
}

// === impl IpBlock ===

impl IpBlock {
    /// Whether an address is in the block. One of IPv4 that is written as IPv6 (`::ffff:10.0.0.1`), as a
    /// socket of both families gives it, is one of IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for IpBlock {
    type Err = InvalidIpBlock;

    fn from_str(text: &str) -> Result<Self, InvalidIpBlock> {
        // Each part is written in one way: without signs and leading zeros.
        let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
        let net = address.parse().ok().and_then(|address: IpAddr| {
            let net = match text.contains('/') {
                true => IpNet::new(address, prefix.parse().ok()?).ok()?,
                false => IpNet::from(address),
            };
            let plain = prefix.is_empty() || prefix == net.prefix_len().to_string();
            plain.then_some(net)
        });
        let Some(net) = net else {
            let why = format!("{text:?} is no block of addresses; write for example 10.0.0.0/8");
            return Err(InvalidIpBlock(why));
        };
        if net.trunc() != net {
            let why = format!("{text} has bits after its prefix: is it {}?", net.trunc());
            return Err(InvalidIpBlock(why));
        }
        if matches!(net.addr().to_canonical(), IpAddr::V4(_)) && matches!(net, IpNet::V6(_)) {
            let why = format!("{text} is a block of IPv4, written as IPv6: write it as IPv4");
            return Err(InvalidIpBlock(why));
        }
        Ok(Self(net))
    }
}

impl fmt::Display for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_written_in_one_way() {
        for (text, shown) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.1.2.3", Some("10.1.2.3/32")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("::/0", Some("::/0")),
            ("2001:db8::/32", Some("2001:db8::/32")),
            ("::1", Some("::1/128")),
            ("10.1.2.3/8", None),
            ("10.0.0.0/33", None),
            ("10.0.0.0/", None),
            ("10.0.0.0/08", None),
            ("10.0.0.0/+8", None),
            ("10.0.0.00/8", None),
            ("10.0.0/8", None),
            ("2001:db8::1/32", None),
            ("::ffff:10.0.0.0/104", None),
            ("::ffff:10.0.0.1", None),
            ("fe80::1%eth0", None),
            ("localhost", None),
            ("*", None),
            ("", None),
        ] {
            let read = text.parse::<IpBlock>().ok().map(|block| block.to_string());
            assert_eq!(read.as_deref(), shown, "{text}");
        }
    }

    #[test]
    fn an_address_is_in_a_block_of_its_own_family() {
        for (block, address, is_in) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("10.0.0.0/8", "::10.0.0.1", false),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "10.0.0.1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "::ffff:10.0.0.1", false),
            ("::1", "::1", true),
        ] {
            let of = block.parse::<IpBlock>().expect(block);
            let address: IpAddr = address.parse().expect(address);
            assert_eq!(of.contains(address), is_in, "{block} {address}");
        }
    }
}
