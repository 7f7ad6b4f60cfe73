//! The data plane of inmesh: six rooms that a request walks through, inbound and outbound alike.
//!
//! ```text
//! accept -> identify -> authorize -> route -> balance -> connect
//! ```
//!
//! Each decision is a pure function (`decide.rs`): time, randomness and configuration are
//! arguments, so what is explained or simulated is what happens. Layers obey the decisions; the
//! runtime owns sockets and tasks. Nothing here knows Kubernetes, DNS or eBPF.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod authorize;
pub mod balance;
pub mod discover;
pub mod drain;
pub mod model;
pub mod route;
