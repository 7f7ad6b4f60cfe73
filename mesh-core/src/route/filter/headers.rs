//! Changes to header fields.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::fields::{Written, reserved};
use crate::route::invalid::InvalidRoute;

/// Changes to header fields: one for a name (Gateway API, HTTPHeaderFilter), so that no order counts.
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
    /// [`InvalidRoute`] if the field frames a message, names its connection or is what only the mesh says,
    /// and for a second change of one field.
    pub fn set(mut self, name: HeaderName, value: HeaderValue) -> Result<Self, InvalidRoute> {
        let name = self.free(name, Written::Set)?;
        self.set.push((name, value));
        Ok(self)
    }

    /// Adds a field to those of the same name.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if the field frames a message, names its connection or is what only the mesh says,
    /// and for a second change of one field.
    pub fn add(mut self, name: HeaderName, value: HeaderValue) -> Result<Self, InvalidRoute> {
        let name = self.free(name, Written::Set)?;
        self.add.push((name, value));
        Ok(self)
    }

    /// Removes all fields of a name.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if the field frames a message, names its connection or is what only the mesh says,
    /// and for a second change of one field.
    pub fn remove(mut self, name: HeaderName) -> Result<Self, InvalidRoute> {
        let name = self.free(name, Written::Removed)?;
        self.remove.push(name);
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

    /// A name that may be changed so, and is not changed yet.
    fn free(&self, name: HeaderName, how: Written) -> Result<HeaderName, InvalidRoute> {
        if let Some(why) = reserved(name.as_str(), how) {
            return Err(InvalidRoute::new(format!("{name} {why}")));
        }
        let mut changed = self.set.iter().chain(&self.add).map(|(name, _)| name);
        if changed.any(|other| *other == name) || self.remove.contains(&name) {
            let why = "has a change already, and is allowed one of set, add and remove";
            return Err(InvalidRoute::new(format!("{name} {why}")));
        }
        Ok(name)
    }
}
