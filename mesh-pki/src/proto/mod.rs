//! The messages, clients and servers of the gRPC that this crate speaks, generated from
//! mesh-pki/proto by `cargo run -p xtask -- proto`. Nothing of it is public: what callers see are
//! our own types. Messages that hold a key or a token have no `Debug`.

#![cfg_attr(
    any(feature = "ca-client", feature = "ca-server", feature = "workload-api"),
    expect(
        clippy::allow_attributes,
        reason = "what a generator writes breaks some of these lints one day and not the next"
    )
)]

#[cfg(any(feature = "ca-client", feature = "ca-server"))]
#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::clone_on_ref_ptr,
    reason = "generated; a caller uses what it needs of it"
)]
pub(crate) mod inmesh_ca;

#[cfg(any(feature = "ca-client", feature = "ca-server"))]
#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::clone_on_ref_ptr,
    reason = "generated; a caller uses what it needs of it"
)]
pub(crate) mod istio_ca;

#[cfg(feature = "workload-api")]
#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::clone_on_ref_ptr,
    reason = "generated; a caller uses what it needs of it"
)]
pub(crate) mod workload;
