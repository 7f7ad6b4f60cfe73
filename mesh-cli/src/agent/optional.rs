//! Fields that may be left out.

use inmesh_discovery::manifest::strict::{Fields, Value};

/// A field that may be left out: `Some(None)` where it is, `None` where it cannot be read.
pub(super) fn optional<'t, T>(
    fields: &mut Fields<'t>,
    name: &str,
    read: impl FnOnce(Value<'t>) -> Option<T>,
) -> Option<Option<T>> {
    match fields.get(name) {
        None => Some(None),
        Some(value) => read(value).map(Some),
    }
}
