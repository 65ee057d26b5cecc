//! The JSON of a webhook, as far as it matters here. Every key is optional, unknown keys are ignored, and
//! `""`, `null` and an absent key are the same; Clerk's own examples do not follow its schema.

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;
use std::{fmt, marker::PhantomData};

/// The envelope of every event.
#[derive(Deserialize)]
pub(super) struct Event<'b> {
    pub(super) r#type: Option<serde_json::Value>,
    pub(super) timestamp: Option<i64>,
    pub(super) instance_id: Option<serde_json::Value>,
    #[serde(borrow)]
    pub(super) data: Option<&'b RawValue>,
}

/// What `data` may hold: a subscription, one of its items, or the name of something deleted.
#[derive(Deserialize)]
pub(super) struct Data {
    pub(super) object: Option<String>,
    pub(super) id: Option<String>,
    pub(super) deleted: Option<bool>,
    pub(super) status: Option<String>,
    pub(super) items: Option<Vec<Object<Data>>>,
    pub(super) payer: Option<Object<Payer>>,
    pub(super) plan: Option<Object<Plan>>,
    pub(super) plan_id: Option<String>,
    pub(super) is_free_trial: Option<bool>,
    pub(super) period_start: Option<i64>,
    pub(super) period_end: Option<i64>,
    pub(super) canceled_at: Option<i64>,
    pub(super) past_due_at: Option<i64>,
    pub(super) updated_at: Option<i64>,
    pub(super) seats: Option<Object<Seats>>,
}

/// Who pays: the kind is told by which id is filled.
#[derive(Deserialize)]
pub(super) struct Payer {
    pub(super) user_id: Option<String>,
    pub(super) organization_id: Option<String>,
}

/// The plan of an item.
#[derive(Deserialize)]
pub(super) struct Plan {
    pub(super) id: Option<String>,
    pub(super) slug: Option<String>,
}

/// The seats of an organization's plan; no quantity is unlimited.
#[derive(Deserialize)]
pub(super) struct Seats {
    pub(super) quantity: Option<u64>,
}

/// The text of a key; `""` counts as absent.
pub(super) fn filled(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

/// Whether this is an identifier, which people's addresses and full names are not.
pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Why JSON does not fit, without the value that does not: serde would quote it, and it may be a name or an address.
pub(super) fn misfit(error: &serde_json::Error) -> String {
    let told = error.to_string();
    let Some(rest) =
        ["invalid type: ", "invalid value: "].iter().find_map(|p| told.strip_prefix(p))
    else {
        return told; // about the text's form, or about a key of ours
    };
    // What was found begins with one of serde's words for it, and what was expected is ours and comes last.
    let words = ["string", "integer", "floating point", "boolean", "map", "sequence", "null"];
    let found = words.iter().find(|word| rest.starts_with(*word)).unwrap_or(&"a value");
    let expected =
        rest.rsplit_once(", expected ").map_or("something else", |(_, expected)| expected);
    format!("invalid type: {found}, expected {expected}")
}

/// Whether some string in the body holds the one character that Postgres cannot store.
pub(super) fn has_nul(value: &serde_json::Value) -> bool {
    use serde_json::Value;
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(map) => map.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A JSON object, and not an array in the order of the fields, which serde would take as well.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnlyMap<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyMap<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_map(OnlyMap(PhantomData)).map(Self)
    }
}
