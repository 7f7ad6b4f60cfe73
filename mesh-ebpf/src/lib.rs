//! The kernel side of the inmesh service mesh.
//!
//! [`redirect`] has the kernel hand a Pod's connections to its sidecar. [`probe()`] answers which of the
//! features that a kernel datapath builds on this machine offers, and what follows where one is missing.
//!
//! ```
//! let report = inmesh_ebpf::probe();
//! println!("{report}");
//! for finding in report.findings() {
//!     if let inmesh_ebpf::Status::Missing { why } = finding.status() {
//!         eprintln!("{}: {why}", finding.feature());
//!     }
//! }
//! ```
//!
//! A probe attaches, pins and leaves behind nothing: it loads the smallest program or map of each
//! kind and closes it at once. It needs no privilege; what it cannot find out without one is
//! [`Status::Unknown`] and says which.

mod probe;
pub mod redirect;
#[cfg(target_os = "linux")]
mod sys;

pub use probe::{Feature, Finding, Report, Status, UnprivilegedBpf, probe};
