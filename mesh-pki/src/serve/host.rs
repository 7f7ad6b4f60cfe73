//! Whether a request for a page was meant for this process.

use std::net::IpAddr;

/// Whether a `Host` is an address or `localhost`, with or without a port.
///
/// A browser that a foreign name leads to this process (DNS rebinding) sends that name, so pages
/// that ask for no identity answer nothing else.
///
/// ```
/// use inmesh_pki::serve::is_local;
///
/// assert!(is_local("localhost:15000") && is_local("[::1]:15000") && is_local("127.0.0.1"));
/// assert!(!is_local("rebound.example:15000"));
/// ```
#[must_use]
pub fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((v6, _)) => v6,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}
