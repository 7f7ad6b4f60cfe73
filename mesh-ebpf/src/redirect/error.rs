//! What keeps a redirection from being applied.

use std::error::Error;
use std::fmt;
use std::io;

/// Why the kernel did not do what was asked. Nothing has changed then.
///
/// ```
/// use inmesh_ebpf::redirect::RedirectError;
/// assert!(RedirectError::Denied.to_string().contains("CAP_NET_ADMIN"));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum RedirectError {
    /// The capability is missing.
    Denied,
    /// The kernel lacks a part of nf_tables.
    Lacks {
        /// What was being added.
        what: String,
        /// The answer.
        source: io::Error,
    },
    /// The kernel has no nf_tables.
    NoNfTables(io::Error),
    /// This is not Linux.
    NotLinux,
    /// The kernel refused a part, for another reason.
    Refused {
        /// What was being added, or read.
        what: String,
        /// The answer.
        source: io::Error,
    },
    /// The socket to the kernel failed, or what came over it is no answer.
    Socket(io::Error),
}

// === impl RedirectError ===

impl fmt::Display for RedirectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => f.write_str(
                "to redirect connections needs CAP_NET_ADMIN in the network namespace: run it as root \
                 there, or give the container the capability NET_ADMIN",
            ),
            Self::Lacks { what, source } => write!(
                f,
                "this kernel lacks a part of nf_tables, for {what}: {source}; it needs Linux 5.2 with \
                 NF_TABLES_INET, NFT_NAT and NFT_REDIR, as modules of the node (nft_chain_nat, nft_redir) \
                 or built in"
            ),
            Self::NoNfTables(source) => write!(
                f,
                "this kernel has no nf_tables: {source}; load the module nf_tables on the node, or use a \
                 kernel that has it (Linux 5.2 or later, NF_TABLES)"
            ),
            Self::NotLinux => f.write_str("connections are redirected on Linux alone"),
            Self::Refused { what, source } => {
                write!(f, "the kernel refused {what}: {source}")
            }
            Self::Socket(source) => {
                write!(f, "cannot speak with the kernel over netlink: {source}")
            }
        }
    }
}

impl Error for RedirectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Denied | Self::NotLinux => None,
            Self::Lacks { source, .. }
            | Self::NoNfTables(source)
            | Self::Refused { source, .. }
            | Self::Socket(source) => Some(source),
        }
    }
}
