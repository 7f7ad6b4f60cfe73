//! Fields of JSON that are made where there are none.

use serde_json::{Map, Value as Json};

/// The mapping at a field, made where there is none.
pub(super) fn mapping<'j>(of: &'j mut Json, field: &str) -> Option<&'j mut Map<String, Json>> {
    let of = of.as_object_mut()?;
    let at = of.entry(field).or_insert(Json::Null);
    if at.is_null() {
        *at = Json::Object(Map::new());
    }
    at.as_object_mut()
}

/// The list at a field, made where there is none.
pub(super) fn list<'j>(of: &'j mut Json, field: &str) -> Option<&'j mut Vec<Json>> {
    let of = of.as_object_mut()?;
    let at = of.entry(field).or_insert(Json::Null);
    if at.is_null() {
        *at = Json::Array(Vec::new());
    }
    at.as_array_mut()
}
