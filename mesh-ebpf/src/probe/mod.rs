//! What does this kernel offer to the datapath?
//!
//! In: a kernel, asked through [`crate::sys::Kernel`]. Out: a [`Report`] with one [`Finding`] for
//! each [`Feature`], in a fixed order.
//!
//! The rule from an answer to a status:
//! 1. it worked: available;
//! 2. `EINVAL`, `ENOSYS`, `EOPNOTSUPP`, `E2BIG` and their like: this kernel does not have it: missing;
//! 3. `EPERM`, `EACCES`: it could not be asked: unknown, with the privilege that would let it;
//! 4. anything else (out of memory, a signal): unknown, with the error.
//!
//! It refuses to guess from the kernel's version: distributions backport and switch off.

#[cfg(target_os = "linux")]
mod ask;
mod report;

pub use report::{Feature, Finding, Report, Status, UnprivilegedBpf};

/// Asks this kernel for every [`Feature`].
///
/// Never fails and needs no privilege: what cannot be asked is [`Status::Unknown`]. It takes a few
/// milliseconds of system calls, so an async caller may want to run it on a blocking thread.
///
/// On anything but Linux every feature is [`Status::Missing`].
#[must_use]
pub fn probe() -> Report {
    #[cfg(target_os = "linux")]
    {
        ask::ask(&crate::sys::Live)
    }
    #[cfg(not(target_os = "linux"))]
    {
        Report::not_linux()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
