//! The messages, client and server of the gRPC between a control plane and what follows it, generated from
//! mesh-discovery/proto by `cargo run -p xtask -- proto`. Nothing of it is public.

#![expect(
    clippy::allow_attributes,
    reason = "what a generator writes breaks some of these lints one day and not the next"
)]

#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::clone_on_ref_ptr,
    reason = "generated; a caller uses what it needs of it"
)]
pub(super) mod delta;

#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::clone_on_ref_ptr,
    reason = "generated; a caller uses what it needs of it"
)]
pub(super) mod objects;
