//! Which rules redirect what. Pure.
//!
//! A NAT chain sees the first packet of a connection, and what it decides holds for the whole of it. The
//! semantics are those of the init containers of Istio and Linkerd.
//!
//! `output`, what processes of this Pod open:
//! 1. what is not TCP passes;
//! 2. what the sidecar opens to others passes; so does what it opens to loopback, where it reaches the
//!    application;
//! 3. what the sidecar opens to an address of this Pod is taken as if it arrived from outside: see below;
//! 4. what another user opens to loopback or to an address of this Pod passes: both leave by `lo`;
//! 5. what goes to an excluded port or network passes;
//! 6. the rest is redirected to the outbound port, where it arrives on 127.0.0.1 or ::1.
//!
//! `prerouting`, what arrives from outside: excluded ports, and those of the listeners themselves, pass; the
//! rest is redirected to the inbound port, where it arrives on an address of the interface. What was opened in
//! this Pod does not come here: its NAT was decided at `output`, though its packets pass `lo`.
//!
//! An application that calls its own Service is redirected (6) to the sidecar, which may choose this very Pod;
//! it opens a connection to the Pod's address (3), which arrives at the inbound port, in mutual TLS as at
//! any other Pod. Without 3 the application would read the handshake. One that calls the address of its own
//! Pod reaches itself (4), without the sidecar.
//!
//! Nothing loops: what the sidecar opens comes back to it by 3 alone, at the inbound listener, which opens
//! a connection to the application on loopback, and that passes by 2.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::options::{Network, Redirect};

/// The table, which holds these rules and nothing else.
pub(super) const TABLE: &str = "inmesh";
/// The interface by which a process reaches the addresses of its own network namespace.
pub(super) const LOOPBACK: &str = "lo";
/// Before a packet's way is chosen: that of other NAT of destinations (`NF_IP_PRI_NAT_DST`).
pub(super) const PRIORITY: i32 = -100;

/// A chain, with its rules in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    /// Where packets enter it; `None` is a chain that others lead to, which stands before them.
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Output,
    Prerouting,
}

/// What is done with a packet that meets all conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) matches: Vec<Match>,
    pub(super) verdict: Verdict,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Match {
    /// It goes to an address of this block.
    Destination(Network),
    /// It is not TCP.
    NotTcp,
    /// It leaves by loopback, or does not.
    OutLoopback(bool),
    /// It is TCP to this port.
    Port(u16),
    Tcp,
    /// The process that opens it is of this user.
    User(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// On in this chain, for good.
    Goto(&'static str),
    /// To this port of this host.
    Redirect(u16),
    /// As it is.
    Return,
}

/// The chains of a table, those that others lead to before these.
pub(super) fn chains(redirect: &Redirect) -> Vec<Chain> {
    let options = redirect.options();
    let passes = |port: &u16| Rule::new([Match::Port(*port)], Verdict::Return);

    let mut own = vec![options.outbound, options.inbound];
    own.extend(&options.exclude_inbound_ports);
    let mut inbound: Vec<_> = own.iter().map(passes).collect();
    let taken = Verdict::Redirect(options.inbound);
    inbound.push(Rule::new([Match::Tcp], taken));

    let sidecar = Match::User(options.user);
    let mut output = vec![
        Rule::new([Match::NotTcp], Verdict::Return),
        Rule::new(
            [sidecar.clone(), Match::OutLoopback(false)],
            Verdict::Return,
        ),
    ];
    for loopback in loopback() {
        let matches = [sidecar.clone(), Match::Destination(loopback)];
        output.push(Rule::new(matches, Verdict::Return));
    }
    output.push(Rule::new([sidecar], Verdict::Goto(INBOUND)));
    output.push(Rule::new([Match::OutLoopback(true)], Verdict::Return));
    output.extend(options.exclude_outbound_ports.iter().map(passes));
    output.extend(
        options
            .exclude_outbound
            .iter()
            .map(|network| Rule::new([Match::Destination(*network)], Verdict::Return)),
    );
    let taken = Verdict::Redirect(options.outbound);
    output.push(Rule::new([Match::Tcp], taken));

    vec![
        Chain {
            name: INBOUND,
            hook: None,
            rules: inbound,
        },
        Chain {
            name: "prerouting",
            hook: Some(Hook::Prerouting),
            rules: vec![Rule::new([Match::Tcp], Verdict::Goto(INBOUND))],
        },
        Chain {
            name: "output",
            hook: Some(Hook::Output),
            rules: output,
        },
    ]
}

const INBOUND: &str = "inbound";

fn loopback() -> [Network; 2] {
    let block = |address: IpAddr, prefix| {
        Network::new(address, prefix).expect("no bit beyond the prefix is set")
    };
    [
        block(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
        block(Ipv6Addr::LOCALHOST.into(), 128),
    ]
}

// === impl Redirect ===

/// The rules, as `nft -f` reads them: the table is replaced.
impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "add table inet {TABLE}")?;
        writeln!(f, "delete table inet {TABLE}")?;
        writeln!(f, "table inet {TABLE} {{")?;
        for chain in chains(self) {
            write!(f, "{chain}")?;
        }
        writeln!(f, "}}")
    }
}

// === impl Chain ===

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(hook) = self.hook {
            let hook = match hook {
                Hook::Output => "output",
                Hook::Prerouting => "prerouting",
            };
            let to = format!("type nat hook {hook} priority {PRIORITY}");
            writeln!(f, "\t\t{to}; policy accept;")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

// === impl Rule ===

impl Rule {
    fn new<const N: usize>(matches: [Match; N], verdict: Verdict) -> Self {
        let matches = matches.to_vec();
        Self { matches, verdict }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for matched in &self.matches {
            write!(f, "{matched} ")?;
        }
        match self.verdict {
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
            Verdict::Redirect(port) => write!(f, "redirect to :{port}"),
            Verdict::Return => f.write_str("return"),
        }
    }
}

// === impl Match ===

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Destination(network) => match (network.address(), network.prefix()) {
                (IpAddr::V4(_), 0) => f.write_str("meta nfproto ipv4"),
                (IpAddr::V6(_), 0) => f.write_str("meta nfproto ipv6"),
                (IpAddr::V4(_), _) => write!(f, "ip daddr {network}"),
                (IpAddr::V6(_), _) => write!(f, "ip6 daddr {network}"),
            },
            Self::NotTcp => f.write_str("meta l4proto != tcp"),
            Self::OutLoopback(true) => write!(f, "oifname \"{LOOPBACK}\""),
            Self::OutLoopback(false) => write!(f, "oifname != \"{LOOPBACK}\""),
            Self::Port(port) => write!(f, "tcp dport {port}"),
            Self::Tcp => f.write_str("meta l4proto tcp"),
            Self::User(user) => write!(f, "meta skuid {user}"),
        }
    }
}
