//! What a record says in words and in addresses, without an allocation where it is shared or short.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use smallvec::SmallVec;

/// A text of a record, shared with what it was taken from; empty as long as it is not known.
///
/// ```
/// use inmesh_core::telemetry::SharedText;
/// assert!(SharedText::default().is_empty());
/// assert_eq!(&*SharedText::from("cart"), "cart");
/// ```
// Without a text nothing is counted: the empty `Arc<str>` is one for the whole process, and all
// threads would write to its counter.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct SharedText(Option<Arc<str>>);

/// The addresses that a request was sent to, in order, as a slice.
///
/// ```
/// use inmesh_core::telemetry::Attempted;
/// let attempted: Attempted = [([10, 0, 0, 1], 80).into()].into_iter().collect();
/// assert_eq!(attempted.len(), 1);
/// ```
// Most requests are sent once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempted(SmallVec<[SocketAddr; 1]>);

// === impl SharedText ===

impl SharedText {
    /// Takes on a text that others hold too.
    pub(crate) fn share(&mut self, text: &Arc<str>) {
        if self.0.as_ref().is_some_and(|own| Arc::ptr_eq(own, text)) {
            return;
        }
        self.0 = (!text.is_empty()).then(|| Arc::clone(text));
    }
}

impl AsRef<str> for SharedText {
    fn as_ref(&self) -> &str {
        self
    }
}

impl Deref for SharedText {
    type Target = str;

    fn deref(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

impl fmt::Debug for SharedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for SharedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

impl From<&str> for SharedText {
    fn from(text: &str) -> Self {
        Self((!text.is_empty()).then(|| text.into()))
    }
}

// === impl Attempted ===

impl Attempted {
    /// Adds the next one.
    #[cfg(feature = "runtime")]
    pub(crate) fn push(&mut self, address: SocketAddr) {
        self.0.push(address);
    }

    /// The one that has answered, of several at once, is the last.
    #[cfg(feature = "runtime")]
    pub(crate) fn settle(&mut self, answered: SocketAddr) {
        if let Some(at) = self.0.iter().rposition(|of| *of == answered) {
            let answered = self.0.remove(at);
            self.0.push(answered);
        }
    }
}

impl Deref for Attempted {
    type Target = [SocketAddr];

    fn deref(&self) -> &[SocketAddr] {
        &self.0
    }
}

impl FromIterator<SocketAddr> for Attempted {
    fn from_iter<I: IntoIterator<Item = SocketAddr>>(addresses: I) -> Self {
        Self(addresses.into_iter().collect())
    }
}
