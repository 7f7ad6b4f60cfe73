//! The kernel side of the inmesh service mesh.
//!
//! For now this crate answers one question, [`probe()`]: which of the features that a kernel
//! datapath builds on does this machine offer, and what follows where one is missing?
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
//! Nothing is attached, pinned or left behind: each probe loads the smallest program or map of its
//! kind and closes it at once. It needs no privilege; what it cannot find out without one is
//! [`Status::Unknown`] and says which.

mod probe;
#[cfg(target_os = "linux")]
mod sys;

pub use probe::{Feature, Finding, Report, Status, UnprivilegedBpf, probe};
