//! An issuer in, an SVID that never ends out: `schedule` says when (pure), [`Rotation`] does it.
//! [`expiry`] (pure) and [`watch_expiry`] report what comes near its end all the same.

mod alarm;
#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
mod driver;
pub mod expiry;
#[cfg(any(
    feature = "aws-lc-rs",
    feature = "ring",
    feature = "federation",
    feature = "workload-api"
))]
pub(crate) mod schedule;

#[cfg(test)]
mod tests;

pub use alarm::watch_expiry;
#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
pub use driver::{ObtainError, Rotation, RotationStatus, obtain};
