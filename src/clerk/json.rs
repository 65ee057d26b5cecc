//! JSON, read one level at a time: a value is only looked into where a rule needs it. The rest must be JSON by its
//! grammar and may otherwise be anything: numbers that nothing can hold, lone surrogates, U+0000, any nesting.
//!
//! Of a key that is repeated, the last one counts, as for `JSON.parse`. `""`, `null` and an absent key are the same;
//! Clerk's own examples do not follow its schema.

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use std::fmt;

/// What some editors and libraries put before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The text of one JSON value, not looked into yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Json<'j>(&'j str);

/// The keys of a JSON object, and their values.
#[derive(Debug, Clone, Default)]
pub(super) struct Object<'j>(Vec<(String, Json<'j>)>);

/// A value that is there and is not what was expected. It names the key, never the value, which may be somebody's
/// name or address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {rule}")]
pub(super) struct Misfit {
    pub(super) key: &'static str,
    pub(super) rule: &'static str,
}

/// What is read of a key: nothing if it is absent, or an error if it does not fit.
pub(super) type Read<T> = Result<Option<T>, Misfit>;

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl<'j> Json<'j> {
    /// The value that these bytes are. The error tells where the text is no JSON, without quoting it.
    pub(super) fn parse(bytes: &'j [u8]) -> Result<Self, serde_json::Error> {
        let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        serde_json::from_slice(bytes).map(|raw: &RawValue| Self(raw.get()))
    }

    /// The object that this is.
    pub(super) fn object(self) -> Option<Object<'j>> {
        let object = self.0.starts_with('{').then(|| serde_json::from_str(self.0).ok());
        object.flatten()
    }

    /// The elements of the array that this is.
    pub(super) fn array(self) -> Option<Vec<Self>> {
        let array = self.0.starts_with('[').then(|| serde_json::from_str(self.0).ok());
        array.flatten().map(|Elements(elements)| elements)
    }

    /// The string that this is, if it is Unicode.
    fn string(self) -> Option<String> {
        self.0.starts_with('"').then(|| serde_json::from_str(self.0).ok()).flatten()
    }

    /// The whole number that this is, also as text or written as `5.0`; one that is out of range is the nearest that is
    /// not.
    fn whole(self) -> Option<i64> {
        let string = self.string();
        let text = string.as_deref().unwrap_or(self.0).trim();
        if let Ok(number) = text.parse() {
            return Some(number);
        }
        if !text.starts_with(|first: char| first.is_ascii_digit() || first == '-') {
            return None; // Rust reads `inf` and `nan` as numbers
        }
        let number = text.parse::<f64>().ok()?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "what is out of range is to be clamped"
        )]
        (number.fract() == 0.0 || number.is_infinite()).then_some(number as i64)
    }

    fn is_nothing(self) -> bool {
        matches!(self.0, "null" | "\"\"")
    }
}

impl<'j> Object<'j> {
    /// The value of a key, if it says something.
    pub(super) fn get(&self, key: &str) -> Option<Json<'j>> {
        let value = self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| *value);
        value.filter(|value| !value.is_nothing())
    }

    /// Text.
    pub(super) fn text(&self, key: &'static str) -> Read<String> {
        self.read(key, "is no text", Json::string)
    }

    /// An identifier that may be stored and logged.
    pub(super) fn word(&self, key: &'static str) -> Read<String> {
        match self.text(key)? {
            Some(text) if text.len() > LONGEST_WORD => {
                Err(Misfit { key, rule: "is longer than 128 bytes" })
            }
            Some(text) if !is_word(&text) => {
                Err(Misfit { key, rule: "is not made of letters, digits, `.`, `_` and `-`" })
            }
            text => Ok(text),
        }
    }

    /// A whole number, also as text or written as `5.0`.
    pub(super) fn whole(&self, key: &'static str) -> Read<i64> {
        self.read(key, "is no whole number", Json::whole)
    }

    /// Yes or no, also as text or as 1 and 0.
    pub(super) fn truth(&self, key: &'static str) -> Read<bool> {
        self.read(key, "is neither true nor false", |value| {
            match &*value.0.trim_matches('"').to_ascii_lowercase() {
                "true" | "yes" | "1" | "1.0" => Some(true),
                "false" | "no" | "0" | "0.0" => Some(false),
                _ => None,
            }
        })
    }

    /// An object.
    pub(super) fn object(&self, key: &'static str) -> Read<Object<'j>> {
        self.read(key, "is no object", Json::object)
    }

    /// A list.
    pub(super) fn array(&self, key: &'static str) -> Read<Vec<Json<'j>>> {
        self.read(key, "is no list", Json::array)
    }

    fn read<T>(
        &self,
        key: &'static str,
        rule: &'static str,
        read: impl FnOnce(Json<'j>) -> Option<T>,
    ) -> Read<T> {
        self.get(key).map(|value| read(value).ok_or(Misfit { key, rule })).transpose()
    }
}

/// Longer than any identifier Clerk makes, short enough to store and to log.
const LONGEST_WORD: usize = 128;

/// Whether this is an identifier, which people's addresses and full names are not.
pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

impl<'j> Deserialize<'j> for Object<'j> {
    fn deserialize<D: Deserializer<'j>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'j> Visitor<'j> for Keys {
            type Value = Object<'j>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'j>>(self, mut map: A) -> Result<Object<'j>, A::Error> {
                let mut found = Vec::new();
                // A key that is no Unicode is none that a rule needs.
                while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                    if let Some(key) = Json(key.get()).string() {
                        found.push((key, Json(value.get())));
                    }
                }
                Ok(Object(found))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

struct Elements<'j>(Vec<Json<'j>>);

impl<'j> Deserialize<'j> for Elements<'j> {
    fn deserialize<D: Deserializer<'j>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;

        impl<'j> Visitor<'j> for All {
            type Value = Elements<'j>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'j>>(self, mut list: A) -> Result<Elements<'j>, A::Error> {
                let mut found = Vec::new();
                while let Some(element) = list.next_element::<&RawValue>()? {
                    found.push(Json(element.get()));
                }
                Ok(Elements(found))
            }
        }
        deserializer.deserialize_seq(All)
    }
}
