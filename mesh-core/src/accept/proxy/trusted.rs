//! Whose PROXY headers are believed.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::IpBlock;

/// The most blocks of addresses.
const BLOCKS: usize = 1_000;

/// The proxies in front of a listener, by their addresses. Each connection comes from one of them and
/// begins with a PROXY header; any other is closed.
///
/// ```
/// use inmesh_core::accept::proxy::TrustedProxies;
/// let proxies = TrustedProxies::new(["10.0.0.0/8".parse()?])?;
/// assert!(proxies.trusts([10, 0, 0, 1].into()));
/// assert!(!proxies.trusts([192, 0, 2, 1].into()));
/// assert!(TrustedProxies::new([]).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedProxies(Arc<[IpBlock]>);

/// A list of proxies that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidProxies(String);

// === impl TrustedProxies ===

impl TrustedProxies {
    /// The proxies whose addresses are in these blocks.
    ///
    /// # Errors
    ///
    /// [`InvalidProxies`] if there is no block, or there are more than 1,000.
    pub fn new(from: impl IntoIterator<Item = IpBlock>) -> Result<Self, InvalidProxies> {
        let from: Arc<[IpBlock]> = from.into_iter().collect();
        if from.is_empty() || from.len() > BLOCKS {
            let why = format!("names 1 to {BLOCKS} blocks of addresses");
            return Err(InvalidProxies(why));
        }
        Ok(Self(from))
    }

    /// Whether a header from this address is believed.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|block| block.contains(address))
    }

    /// The blocks.
    pub fn blocks(&self) -> &[IpBlock] {
        &self.0
    }
}

/// The blocks with commas between.
impl fmt::Display for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, block) in self.0.iter().enumerate() {
            let comma = if n > 0 { ", " } else { "" };
            write!(f, "{comma}{block}")?;
        }
        Ok(())
    }
}
