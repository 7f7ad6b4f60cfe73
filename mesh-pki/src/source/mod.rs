//! Where identity comes from, besides an issuer: today [`files`].
//!
//! Every source writes through the one [`IdentityWriter`](crate::store::IdentityWriter) and keeps
//! the last good identity when its own input is broken or gone.

pub mod files;
