//! How fast the body of an answer may come, where a policy slows it on purpose.

use super::invalid::InvalidFault;

/// The bits per second that can be named.
const SLOWEST: u64 = 1_000;
const FASTEST: u64 = 100_000_000_000;

/// How many bits there may be in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth(u64);

// === impl Bandwidth ===

impl Bandwidth {
    /// So many bits per second.
    ///
    /// ```
    /// use inmesh_core::traffic::Bandwidth;
    /// assert_eq!(Bandwidth::new(50_000)?.bits(), 50_000);
    /// assert!(Bandwidth::new(999).is_err());
    /// # Ok::<(), inmesh_core::traffic::InvalidFault>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidFault`] if it is not 1 kbit/s to 100 Gbit/s.
    pub fn new(bits: u64) -> Result<Self, InvalidFault> {
        if !(SLOWEST..=FASTEST).contains(&bits) {
            let message = "a bandwidth is 1kbps to 100Gbps";
            return Err(InvalidFault::new(message));
        }
        Ok(Self(bits))
    }

    /// In bits per second.
    pub fn bits(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused() {
        for bits in [0, SLOWEST - 1, FASTEST + 1, u64::MAX] {
            assert!(Bandwidth::new(bits).is_err(), "{bits}");
        }
        for bits in [SLOWEST, FASTEST] {
            assert!(Bandwidth::new(bits).is_ok(), "{bits}");
        }
    }
}
