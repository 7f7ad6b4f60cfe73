//! A short text that is compared far more often than it is made: it lies in its place, so that no
//! pointer is followed to it. A long one is on the heap.

use std::fmt;
use std::sync::Arc;

/// The longest text that lies in its place, in bytes: a `Text` is 40 bytes.
const SHORT: usize = 38;

/// A text that is compared byte by byte.
///
/// ```
/// use inmesh_core::model::Text;
/// assert_eq!(Text::from("/items").as_bytes(), b"/items");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Text(TextForm);

/// A text of up to [`SHORT`] bytes is always `Short`, so that equal texts are equal.
#[derive(Clone, PartialEq, Eq)]
enum TextForm {
    /// Its length, and its bytes with zeros after.
    Short(u8, [u8; SHORT]),
    Long(Arc<str>),
}

impl Text {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            TextForm::Short(len, bytes) => bytes.get(..usize::from(*len)).unwrap_or_default(),
            TextForm::Long(text) => text.as_bytes(),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // It was made of a text, so it is one.
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(text.as_bytes());
                Self(TextForm::Short(len, bytes))
            }
            _ => Self(TextForm::Long(text.into())),
        }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
