//! A JSON reader that parses one level at a time: only the values that a rule needs are decoded. All others must follow
//! the JSON grammar, and may contain numbers out of range, lone surrogates, U+0000 and any nesting.
//!
//! If a key is repeated, the last value counts, as in `JSON.parse`. `""`, `null` and a missing key are equal, because
//! Clerk's own examples do not follow its schema.

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use std::fmt;

/// Some editors and libraries put this before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The undecoded text of one JSON value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Json<'j>(&'j str);

/// The keys of a JSON object, and their values.
#[derive(Debug, Clone, Default)]
pub(super) struct Object<'j>(Vec<(String, Json<'j>)>);

/// A value of an unexpected form. The error names the key but never the value, which may be personal data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {rule}")]
pub(super) struct Misfit {
    pub(super) key: &'static str,
    pub(super) rule: &'static str,
}

/// The value of a key: `None` if it is missing, an error if it has an unexpected form.
pub(super) type ReadField<T> = Result<Option<T>, Misfit>;

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl<'j> Json<'j> {
    /// Parses one JSON value. The error has the position of the fault and does not quote the text.
    pub(super) fn parse(bytes: &'j [u8]) -> Result<Self, serde_json::Error> {
        let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        serde_json::from_slice(bytes).map(|raw: &RawValue| Self(raw.get()))
    }

    /// The value as an object, if it is one.
    pub(super) fn object(self) -> Option<Object<'j>> {
        let object = self.0.starts_with('{').then(|| serde_json::from_str(self.0).ok());
        object.flatten()
    }

    /// The elements of the value, if it is an array.
    pub(super) fn array(self) -> Option<Vec<Self>> {
        let array = self.0.starts_with('[').then(|| serde_json::from_str(self.0).ok());
        array.flatten().map(|Elements(elements)| elements)
    }

    /// The value as a string, if it is one and is valid Unicode.
    pub(super) fn string(self) -> Option<String> {
        self.0.starts_with('"').then(|| serde_json::from_str(self.0).ok()).flatten()
    }

    /// The value as a whole number, which may also be a string or be written as `5.0`. A number out of range is
    /// clamped.
    fn whole(self) -> Option<i64> {
        let string = self.string();
        let text = string.as_deref().unwrap_or(self.0).trim();
        if let Ok(number) = text.parse() {
            return Some(number);
        }
        if !text.starts_with(|first: char| first.is_ascii_digit() || first == '-') {
            return None; // Rust would parse `inf` and `nan`
        }
        let number = text.parse::<f64>().ok()?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a number out of range is to be clamped"
        )]
        (number.fract() == 0.0 || number.is_infinite()).then_some(number as i64)
    }

    fn is_empty(self) -> bool {
        matches!(self.0, "null" | "\"\"")
    }
}

impl<'j> Object<'j> {
    /// The value of a key, unless it is missing, `null` or `""`.
    pub(super) fn get(&self, key: &str) -> Option<Json<'j>> {
        let value = self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| *value);
        value.filter(|value| !value.is_empty())
    }

    /// All keys with their values, in their order.
    pub(super) fn entries(self) -> Vec<(String, Json<'j>)> {
        self.0
    }

    /// The value of a key as a string.
    pub(super) fn text(&self, key: &'static str) -> ReadField<String> {
        self.read(key, "is not a string", Json::string)
    }

    /// The value of a key as an identifier, which may be stored and logged.
    pub(super) fn identifier(&self, key: &'static str) -> ReadField<String> {
        match self.text(key)? {
            Some(text) if text.len() > MAX_IDENTIFIER_LEN => {
                Err(Misfit { key, rule: "is longer than 128 bytes" })
            }
            Some(text) if !is_identifier(&text) => Err(Misfit {
                key,
                rule: "has characters other than letters, digits, `.`, `_` and `-`",
            }),
            text => Ok(text),
        }
    }

    /// The value of a key as a whole number, which may also be a string or be written as `5.0`.
    pub(super) fn whole(&self, key: &'static str) -> ReadField<i64> {
        self.read(key, "is not a whole number", Json::whole)
    }

    /// The value of a key as a boolean, which may also be a string, or 1 or 0.
    pub(super) fn truth(&self, key: &'static str) -> ReadField<bool> {
        self.read(key, "is neither true nor false", |value| {
            match &*value.0.trim_matches('"').to_ascii_lowercase() {
                "true" | "yes" | "1" | "1.0" => Some(true),
                "false" | "no" | "0" | "0.0" => Some(false),
                _ => None,
            }
        })
    }

    /// The value of a key as an object.
    pub(super) fn object(&self, key: &'static str) -> ReadField<Object<'j>> {
        self.read(key, "is not an object", Json::object)
    }

    /// The value of a key as an array.
    pub(super) fn array(&self, key: &'static str) -> ReadField<Vec<Json<'j>>> {
        self.read(key, "is not a list", Json::array)
    }

    fn read<T>(
        &self,
        key: &'static str,
        rule: &'static str,
        read: impl FnOnce(Json<'j>) -> Option<T>,
    ) -> ReadField<T> {
        self.get(key).map(|value| read(value).ok_or(Misfit { key, rule })).transpose()
    }
}

/// The longest accepted identifier, in bytes: longer than those of Clerk, short enough to store and log.
const MAX_IDENTIFIER_LEN: usize = 128;

/// Whether a text is an identifier. Email addresses and full names are not.
pub(super) fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

impl<'j> Deserialize<'j> for Object<'j> {
    fn deserialize<D: Deserializer<'j>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldNames;

        impl<'j> Visitor<'j> for FieldNames {
            type Value = Object<'j>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'j>>(self, mut map: A) -> Result<Object<'j>, A::Error> {
                let mut found = Vec::new();
                // No rule needs a key that is not valid Unicode.
                while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                    if let Some(key) = Json(key.get()).string() {
                        found.push((key, Json(value.get())));
                    }
                }
                Ok(Object(found))
            }
        }
        deserializer.deserialize_map(FieldNames)
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
