//! Rejects JSON objects that have a key twice, of which only the last would count.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::{collections::HashSet, fmt};

/// A JSON value without an object that has a key twice. `user_id` and `userId` are the same key of a message.
pub(super) struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any).map(|()| Self)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !keys.insert(camel_case(&key)) {
                return Err(A::Error::custom(format_args!("the key `{key}` is present twice")));
            }
            let UniqueKeys = map.next_value()?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<(), A::Error> {
        while let Some(UniqueKeys) = all.next_element()? {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// The name of a field in JSON.
fn camel_case(key: &str) -> String {
    let mut after_underscore = false;
    let mut name = String::with_capacity(key.len());
    for letter in key.chars() {
        match letter {
            '_' => after_underscore = true,
            letter if after_underscore => {
                name.extend(letter.to_uppercase());
                after_underscore = false;
            }
            letter => name.push(letter),
        }
    }
    name
}
