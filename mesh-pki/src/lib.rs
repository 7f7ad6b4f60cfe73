//! SPIFFE identity.
pub mod id;
