//! Changes to header fields.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::route::invalid::InvalidRoute;

/// Fields that frame a message or name its connection. The proxy sets them itself; a route that
/// could would let the two sides see different messages.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Changes to header fields, applied in the order set, add, remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    pub(in crate::route) set: Vec<(HeaderName, HeaderValue)>,
    pub(in crate::route) add: Vec<(HeaderName, HeaderValue)>,
    pub(in crate::route) remove: Vec<HeaderName>,
}

// === impl HeaderChanges ===

impl HeaderChanges {
    /// No changes.
    ///
    /// ```
    /// use http::header::{HeaderMap, HeaderValue, SERVER, TRANSFER_ENCODING, VIA};
    /// use inmesh_core::route::HeaderChanges;
    /// let changes = HeaderChanges::new()
    ///     .set(VIA, HeaderValue::from_static("mesh"))?
    ///     .remove(SERVER)?;
    /// let mut headers = HeaderMap::new();
    /// changes.apply(&mut headers);
    /// assert_eq!(headers[VIA], "mesh");
    /// assert!(HeaderChanges::new().remove(TRANSFER_ENCODING).is_err());
    /// # Ok::<(), inmesh_core::route::InvalidRoute>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a field in place of those of the same name.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if the field frames a message or names its connection.
    pub fn set(mut self, name: HeaderName, value: HeaderValue) -> Result<Self, InvalidRoute> {
        self.set.push((editable(name)?, value));
        Ok(self)
    }

    /// Adds a field to those of the same name.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if the field frames a message or names its connection.
    pub fn add(mut self, name: HeaderName, value: HeaderValue) -> Result<Self, InvalidRoute> {
        self.add.push((editable(name)?, value));
        Ok(self)
    }

    /// Removes all fields of a name.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if the field frames a message or names its connection.
    pub fn remove(mut self, name: HeaderName) -> Result<Self, InvalidRoute> {
        self.remove.push(editable(name)?);
        Ok(self)
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

fn editable(name: HeaderName) -> Result<HeaderName, InvalidRoute> {
    if FRAMING.contains(&name.as_str()) {
        return Err(InvalidRoute::new(format!(
            "{name} is set by the proxy itself"
        )));
    }
    Ok(name)
}
