//! A copy of a request for another Service (Gateway API, HTTPRequestMirrorFilter).

use http::HeaderName;

use crate::fields;
use crate::model::{Draw, ServiceName};
use crate::route::invalid::InvalidRoute;

/// Marks a copy, so that none is made of it again, whatever way it takes.
pub(crate) const MIRRORED: HeaderName = HeaderName::from_static(fields::MIRRORED);

/// Sends copies of a share of requests to a port of a Service. Their answers are discarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    service: ServiceName,
    port: u16,
    /// So many of so many.
    share: (u32, u32),
}

// === impl Mirror ===

impl Mirror {
    /// Copies of all requests.
    ///
    /// ```
    /// use inmesh_core::model::{Namespace, ServiceName};
    /// use inmesh_core::route::Mirror;
    /// let next = ServiceName::new(&Namespace::new("shop")?, "cart-next")?;
    /// let tenth = Mirror::new(next.clone(), 80).with_share(1, 10)?;
    /// assert_eq!(tenth.share(), (1, 10));
    /// assert!(Mirror::new(next, 80).with_share(2, 1).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(service: ServiceName, port: u16) -> Self {
        Self {
            service,
            port,
            share: (1, 1),
        }
    }

    /// The same of `numerator` requests of `denominator`.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if that is more than all, or the denominator 0.
    pub fn with_share(mut self, numerator: u32, denominator: u32) -> Result<Self, InvalidRoute> {
        if denominator == 0 || numerator > denominator {
            let message = format!("{numerator} of {denominator} is no share");
            return Err(InvalidRoute::new(message));
        }
        self.share = (numerator, denominator);
        Ok(self)
    }

    /// The Service that copies are sent to, as it stands behind its own routes.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The port's number on the Service.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many requests of how many are copied.
    pub fn share(&self) -> (u32, u32) {
        self.share
    }

    /// Whether a request is copied.
    pub(in crate::route) fn is_drawn(&self, draw: &mut Draw) -> bool {
        let (numerator, denominator) = self.share;
        draw.below(u64::from(denominator)) < u64::from(numerator)
    }
}
