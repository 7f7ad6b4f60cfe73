//! A JSON object in, a map out that has each name once.
//!
//! Parsers disagree which of two members of the same name counts, and where that decides about
//! trust, a checker and a user could read two documents out of one (S20). So an object
//! with a name twice is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// The members of an object, each name once.
#[derive(Debug, Clone)]
pub(crate) struct Unique<T>(pub(crate) BTreeMap<String, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unique<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersOf<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for MembersOf<T> {
            type Value = Unique<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Unique<T>, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((name, value)) = members.next_entry::<String, T>()? {
                    if map.insert(name, value).is_some() {
                        // The name is the sender's text, so it is not repeated.
                        return Err(A::Error::custom("a name stands twice in an object"));
                    }
                }
                Ok(Unique(map))
            }
        }

        deserializer.deserialize_map(MembersOf(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_stands_twice_is_refused() {
        let read = |text| serde_json::from_str::<Unique<u8>>(text);
        assert_eq!(read(r#"{"a":1,"b":2}"#).unwrap().0.len(), 2);
        let error = read(r#"{"a":1,"\u0061":1}"#).unwrap_err().to_string();
        assert!(error.contains("twice"), "{error}");
        assert!(read("[]").is_err());
    }
}
