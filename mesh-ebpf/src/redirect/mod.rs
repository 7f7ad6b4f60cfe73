//! The redirection of a Pod's TCP connections to its sidecar, without any program besides this one.
//!
//! In: [`Options`], plain data. [`Redirect::new`] checks them; its `Display` is the ruleset as `nft`
//! writes it, and [`apply`] has the kernel take the same rules, as one table of nf_tables of their own
//! (`inet inmesh`), in the network namespace of the caller.
//!
//! It is nf_tables and not a program of eBPF, since it works in every container that may have
//! `CAP_NET_ADMIN`, on every kernel since 5.2, and ends with the network namespace of the Pod.
//!
//! 1. [`Redirect`] is what was asked for, checked;
//! 2. `plan` makes chains of rules of it, pure, by the semantics that stand there;
//! 3. `message` makes the messages of netlink of these, pure;
//! 4. `drive` sends them as one batch, which the kernel takes whole or not at all.
//!
//! It refuses to touch any other table, and redirects TCP alone: UDP, ICMP and the rest pass as they are.
//!
//! ```
//! use inmesh_ebpf::redirect::{Options, Redirect};
//! let mut options = Options::default();
//! options.exclude_inbound_ports = vec![15_020];
//! options.exclude_outbound = vec!["10.9.0.0/16".parse()?];
//! let redirect = Redirect::new(options)?;
//! assert!(redirect.to_string().contains("tcp dport 15020 return"));
//! # Ok::<(), inmesh_ebpf::redirect::Invalid>(())
//! ```

#[cfg(target_os = "linux")]
mod answer;
mod applied;
#[cfg(target_os = "linux")]
mod drive;
mod error;
#[cfg(target_os = "linux")]
mod message;
mod options;
mod plan;

#[cfg(target_os = "linux")]
use plan::{TABLE, chains};

pub use applied::Applied;
pub use error::RedirectError;
pub use options::{Invalid, Network, Options, Redirect};

/// Has the kernel redirect, in the network namespace of this thread.
///
/// The table is replaced as a whole, in one step that packets see before or after, so it may be applied as
/// often as one likes. Connections that are open stay as they are.
///
/// # Errors
///
/// Without `CAP_NET_ADMIN` in the user namespace that owns the network namespace, on a kernel that lacks
/// what it needs, and on anything but Linux. Nothing has changed then.
///
/// ```no_run
/// use inmesh_ebpf::redirect::{Options, Redirect, apply};
/// apply(&Redirect::new(Options::default())?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn apply(redirect: &Redirect) -> Result<(), RedirectError> {
    #[cfg(target_os = "linux")]
    {
        drive::send(message::replace(TABLE, &chains(redirect)))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = redirect;
        Err(RedirectError::NotLinux)
    }
}

/// Takes the redirection away again; that there is none is no error.
///
/// # Errors
///
/// As [`apply`].
///
/// ```no_run
/// inmesh_ebpf::redirect::remove()?;
/// # Ok::<(), inmesh_ebpf::redirect::RedirectError>(())
/// ```
pub fn remove() -> Result<(), RedirectError> {
    #[cfg(target_os = "linux")]
    {
        drive::send(message::remove(TABLE))
    }
    #[cfg(not(target_os = "linux"))]
    {
        Err(RedirectError::NotLinux)
    }
}

/// The rules of this network namespace, if it has our table.
///
/// # Errors
///
/// As [`apply`]: to read them needs the same capability.
///
/// ```no_run
/// if inmesh_ebpf::redirect::applied()?.is_none() {
///     println!("connections of this Pod pass its sidecar by");
/// }
/// # Ok::<(), inmesh_ebpf::redirect::RedirectError>(())
/// ```
pub fn applied() -> Result<Option<Applied>, RedirectError> {
    #[cfg(target_os = "linux")]
    {
        drive::read(TABLE)
    }
    #[cfg(not(target_os = "linux"))]
    {
        Err(RedirectError::NotLinux)
    }
}

#[cfg(test)]
mod tests;
