//! A value with the object that it comes from.

use super::ObjectKey;

/// A setting as it serves, and the object that it was taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block<T> {
    /// The setting.
    pub value: T,
    /// The object; `None` is what the process was built with.
    pub from: Option<ObjectKey>,
}

// === impl Block ===

impl<T> Block<T> {
    /// What the process was built with.
    ///
    /// ```
    /// use inmesh_core::model::Block;
    /// assert_eq!(Block::built(5).from, None);
    /// ```
    pub fn built(value: T) -> Self {
        Self { value, from: None }
    }

    /// A setting of an object.
    pub fn of(value: T, from: &ObjectKey) -> Self {
        Self {
            value,
            from: Some(from.clone()),
        }
    }
}

impl<T: Default> Default for Block<T> {
    fn default() -> Self {
        Self::built(T::default())
    }
}
