//! Where identity comes from, besides an issuer: [`files`], and what was kept on disk before a
//! reboot ([`keep`]).
//!
//! Every source writes through the one [`IdentityWriter`](crate::store::IdentityWriter) and keeps
//! the last good identity when its own input is broken or gone.

pub mod files;
#[cfg(unix)]
pub mod keep;
