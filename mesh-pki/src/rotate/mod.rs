//! An issuer in, an SVID that never ends out: [`schedule`] says when (pure), [`Rotation`] does it.

#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
mod driver;
pub mod schedule;

#[cfg(test)]
mod tests;

#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
pub use driver::{ObtainError, Rotation, RotationStatus, obtain};
