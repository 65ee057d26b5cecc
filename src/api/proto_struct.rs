//! Converts between JSON and protobuf's `Struct`.

use prost_types::{ListValue, Struct, Value, value::Kind};
use serde::Serialize;
use serde_json::{Map, Value as Json};

/// Converts a protobuf struct to a JSON object.
pub(super) fn to_json(of: &Struct) -> Map<String, Json> {
    of.fields.iter().map(|(name, value)| (name.clone(), value_to_json(value))).collect()
}

fn value_to_json(value: &Value) -> Json {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::NumberValue(number)) => Json::from(*number),
        Some(Kind::StringValue(text)) => Json::from(&**text),
        Some(Kind::BoolValue(value)) => Json::from(*value),
        Some(Kind::StructValue(of)) => Json::Object(to_json(of)),
        Some(Kind::ListValue(list)) => list.values.iter().map(value_to_json).collect(),
    }
}

/// Converts a value that serializes as a JSON object to a protobuf struct.
pub(super) fn of(value: &impl Serialize) -> Struct {
    match serde_json::to_value(value) {
        Ok(Json::Object(map)) => from_json(map),
        Ok(_) | Err(_) => Struct::default(),
    }
}

fn from_json(map: Map<String, Json>) -> Struct {
    Struct { fields: map.into_iter().map(|(name, json)| (name, value_from_json(json))).collect() }
}

fn value_from_json(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(truth) => Kind::BoolValue(truth),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(value_from_json).collect() })
        }
        Json::Object(map) => Kind::StructValue(from_json(map)),
    };
    Value { kind: Some(kind) }
}
