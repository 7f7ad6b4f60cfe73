//! What is asked for, and what of it makes sense.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Exclusions of one kind. Each is a rule of at most 400 bytes, and all must fit into one message of
/// netlink, of which a socket takes 208 KiB by default.
const EXCLUSIONS: usize = 100;

/// What is redirected where. The defaults are the ports and the user that Istio's sidecars have.
///
/// ```
/// let options = inmesh_ebpf::redirect::Options::default();
/// assert_eq!((options.outbound, options.inbound, options.user), (15_001, 15_006, 1_337));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// The port of the listener for what the Pod's applications open.
    pub outbound: u16,
    /// The port of the listener for what arrives from outside the Pod.
    pub inbound: u16,
    /// The user ID of the sidecar, whose connections to others are never redirected.
    pub user: u32,
    /// Ports of the Pod that are reached as they are, such as those of the sidecar's own probes.
    pub exclude_inbound_ports: Vec<u16>,
    /// Ports that applications reach as they are.
    pub exclude_outbound_ports: Vec<u16>,
    /// Networks that applications reach as they are.
    pub exclude_outbound: Vec<Network>,
}

/// Options that make sense together: what [`apply`](super::apply) takes.
///
/// `Display` writes the rules as `nft -f` reads them.
///
/// ```
/// use inmesh_ebpf::redirect::{Options, Redirect};
/// let redirect = Redirect::new(Options::default())?;
/// assert_eq!(redirect.options(), &Options::default());
/// # Ok::<(), inmesh_ebpf::redirect::Invalid>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect(Options);

/// A block of addresses, e.g. `10.0.0.0/8`; an address alone is a block of one.
///
/// ```
/// let network: inmesh_ebpf::redirect::Network = "fd00::/8".parse()?;
/// assert_eq!((network.prefix(), network.to_string().as_str()), (8, "fd00::/8"));
/// assert!("10.1.2.3/8".parse::<inmesh_ebpf::redirect::Network>().is_err());
/// # Ok::<(), inmesh_ebpf::redirect::Invalid>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Why options or a network are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invalid {
    /// An address that is one of IPv4 in IPv6: its connections are of IPv4, and no rule would meet them.
    Mapped(String),
    /// Not an address, or not a prefix.
    Network(String),
    /// A port 0.
    PortZero,
    /// Outbound and inbound have one port.
    SamePort(u16),
    /// Bits beyond the prefix are set.
    TooLong {
        /// As it was written.
        written: String,
        /// The block that it lies in.
        meant: String,
    },
    /// More exclusions of one kind than there may be.
    TooMany {
        /// How many were given.
        given: usize,
        /// How many there may be.
        most: usize,
    },
    /// The user is root, which applications may be as well, or the number that means no user.
    User(u32),
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            outbound: 15_001,
            inbound: 15_006,
            user: 1_337,
            exclude_inbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            exclude_outbound: Vec::new(),
        }
    }
}

// === impl Redirect ===

impl Redirect {
    /// Checks options; exclusions are sorted, and each counts once.
    ///
    /// # Errors
    ///
    /// Where they contradict themselves, or would have no effect.
    ///
    /// ```
    /// use inmesh_ebpf::redirect::{Invalid, Options, Redirect};
    /// let mut options = Options::default();
    /// options.inbound = options.outbound;
    /// assert_eq!(Redirect::new(options), Err(Invalid::SamePort(15_001)));
    /// ```
    pub fn new(mut options: Options) -> Result<Self, Invalid> {
        sort(&mut options.exclude_inbound_ports)?;
        sort(&mut options.exclude_outbound_ports)?;
        sort(&mut options.exclude_outbound)?;
        let zero = [
            &[options.outbound, options.inbound][..],
            &options.exclude_inbound_ports,
            &options.exclude_outbound_ports,
        ];
        if zero.iter().any(|ports| ports.contains(&0)) {
            return Err(Invalid::PortZero);
        }
        if options.outbound == options.inbound {
            return Err(Invalid::SamePort(options.outbound));
        }
        if [0, u32::MAX].contains(&options.user) {
            return Err(Invalid::User(options.user));
        }
        Ok(Self(options))
    }

    /// The options, with their exclusions in order.
    ///
    /// ```
    /// use inmesh_ebpf::redirect::{Options, Redirect};
    /// let mut options = Options::default();
    /// options.exclude_outbound_ports = vec![443, 25, 443];
    /// let redirect = Redirect::new(options)?;
    /// assert_eq!(redirect.options().exclude_outbound_ports, [25, 443]);
    /// # Ok::<(), inmesh_ebpf::redirect::Invalid>(())
    /// ```
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.0
    }
}

/// In order, each once, and no more than there may be.
fn sort<T: Ord + Copy>(excluded: &mut Vec<T>) -> Result<(), Invalid> {
    let (given, most) = (excluded.len(), EXCLUSIONS);
    if given > most {
        return Err(Invalid::TooMany { given, most });
    }
    let set: BTreeSet<T> = excluded.iter().copied().collect();
    *excluded = set.into_iter().collect();
    Ok(())
}

// === impl Network ===

impl Network {
    /// A block by its first address and the length of its prefix.
    ///
    /// # Errors
    ///
    /// Where the prefix is longer than an address, or bits beyond it are set, which is mostly a mistake;
    /// and for addresses of IPv4 in IPv6.
    ///
    /// ```
    /// use std::net::Ipv4Addr;
    /// let network = inmesh_ebpf::redirect::Network::new(Ipv4Addr::new(10, 0, 0, 0).into(), 8)?;
    /// assert_eq!(network.to_string(), "10.0.0.0/8");
    /// # Ok::<(), inmesh_ebpf::redirect::Invalid>(())
    /// ```
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, Invalid> {
        let written = || format!("{address}/{prefix}");
        if prefix > bits(address) {
            return Err(Invalid::Network(written()));
        }
        // 96 bits before the address of IPv4; a shorter prefix has other addresses as well.
        if let IpAddr::V6(v6) = address
            && prefix >= 96
            && v6.to_ipv4_mapped().is_some()
        {
            return Err(Invalid::Mapped(written()));
        }
        let first: IpAddr = match address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & mask(prefix, 32) as u32).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & mask(prefix, 128)).into(),
        };
        if first != address {
            let meant = format!("{first}/{prefix}");
            let written = written();
            return Err(Invalid::TooLong { written, meant });
        }
        Ok(Self { address, prefix })
    }

    /// The first address.
    ///
    /// ```
    /// let network: inmesh_ebpf::redirect::Network = "10.0.0.0/8".parse()?;
    /// assert!(network.address().is_ipv4());
    /// # Ok::<(), inmesh_ebpf::redirect::Invalid>(())
    /// ```
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The length of the prefix, in bits.
    ///
    /// ```
    /// let network: inmesh_ebpf::redirect::Network = "2001:db8::1".parse()?;
    /// assert_eq!(network.prefix(), 128);
    /// # Ok::<(), inmesh_ebpf::redirect::Invalid>(())
    /// ```
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The bits of the prefix as an address of its family has them.
    #[cfg(target_os = "linux")]
    pub(super) fn mask(self) -> Vec<u8> {
        let all = mask(self.prefix, bits(self.address)).to_be_bytes();
        all[all.len() - usize::from(bits(self.address) / 8)..].to_vec()
    }
}

fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// `prefix` ones at the head of the last `bits` bits; the others are 0.
fn mask(prefix: u8, bits: u8) -> u128 {
    let low = |n: u8| u128::MAX.checked_shr(128 - u32::from(n)).unwrap_or(0);
    low(bits) & !low(bits - prefix)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = Invalid;

    fn from_str(written: &str) -> Result<Self, Invalid> {
        let wrong = || Invalid::Network(written.to_owned());
        let (address, prefix) = match written.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (written, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix = match prefix {
            // `parse` takes a sign.
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
            None => bits(address),
        };
        Self::new(address, prefix)
    }
}

// === impl Invalid ===

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mapped(written) => write!(
                f,
                "{written} is IPv4 written as IPv6: write it as IPv4, as its connections are"
            ),
            Self::Network(written) => write!(
                f,
                "{written} is no block of addresses: write it as 10.0.0.0/8 or fd00::/8"
            ),
            Self::PortZero => f.write_str("0 is no port: a port is 1 to 65535"),
            Self::SamePort(port) => write!(
                f,
                "port {port} is both outbound and inbound: each needs a listener of its own"
            ),
            Self::TooLong { written, meant } => write!(
                f,
                "{written} has bits beyond its prefix: the block that it lies in is {meant}"
            ),
            Self::TooMany { given, most } => {
                write!(f, "{given} exclusions of one kind: {most} at most")
            }
            Self::User(0) => f.write_str(
                "the sidecar's user may not be root (0): applications that run as root would pass it by",
            ),
            Self::User(user) => write!(f, "{user} is no user ID"),
        }
    }
}

impl Error for Invalid {}
