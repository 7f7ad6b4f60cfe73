//! Where identity comes from, besides an issuer: [`files`], and what was kept on disk before a
//! reboot ([`keep`]); and where the keys of tokens come from ([`keys`]).
//!
//! Every source of identity writes through the one [`IdentityWriter`](crate::store::IdentityWriter);
//! all keep the last good value when their own input is broken or gone.

pub mod files;
#[cfg(unix)]
pub mod keep;
pub mod keys;
