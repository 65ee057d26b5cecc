//! Renders a decision for flagd: value, variant, metadata.

use crate::api::pb::{CheckFeatureResponse, Reason};
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::{Map, json};

/// The only reason that is sent; the metadata has the reason of the decision.
pub(super) const MATCH: &str = "TARGETING_MATCH";
/// The variant of an allowed feature.
pub(super) const ON: &str = "on";
/// The variant of a denied feature.
pub(super) const OFF: &str = "off";
/// The number that means "no limit": 2^53 - 1, the largest that is exact in every SDK.
pub(super) const UNLIMITED: u64 = (1 << 53) - 1;

/// The limit of a feature as a number: 0 if it is denied.
pub(super) fn number(allowed: bool, limit: Option<u64>) -> u64 {
    if allowed { limit.unwrap_or(UNLIMITED).min(UNLIMITED) } else { 0 }
}

/// The metadata of a flag: the explanation, the revision, and whether the data may be stale.
pub(super) fn metadata(answer: &CheckFeatureResponse) -> Map<String, serde_json::Value> {
    let mut map = explanation(answer);
    map.insert("revision".into(), json!(answer.revision));
    map.insert("stale".into(), json!(answer.stale_for.is_some()));
    map
}

/// The explanation of an answer, and until when it holds.
pub(super) fn explanation(answer: &CheckFeatureResponse) -> Map<String, serde_json::Value> {
    let mut map = Map::new();
    map.insert("reason".into(), json!(reason(answer)));
    for (name, text) in [("subject", &answer.subject), ("plan", &answer.plan)] {
        if !text.is_empty() {
            map.insert(name.into(), json!(text));
        }
    }
    if let Some(until) = &answer.valid_until {
        map.insert("validUntil".into(), json!(until.to_string()));
    }
    map
}

/// The whole decision, with the JSON names of `CheckFeatureResponse`.
pub(super) fn decision(answer: &CheckFeatureResponse) -> Map<String, serde_json::Value> {
    let mut map = metadata(answer);
    map.insert("allowed".into(), json!(answer.allowed));
    if let Some(limit) = answer.limit {
        map.insert("limit".into(), json!(limit));
    }
    if let Some(at) = &answer.checked_at {
        map.insert("checkedAt".into(), json!(at.to_string()));
    }
    if let Some(age) = &answer.stale_for {
        map.insert("staleFor".into(), json!(age.to_string()));
    }
    map
}

fn reason(answer: &CheckFeatureResponse) -> &'static str {
    Reason::try_from(answer.reason).unwrap_or_default().as_str_name()
}

/// Converts JSON to a protobuf struct.
pub(super) fn to_struct(map: Map<String, serde_json::Value>) -> Struct {
    Struct { fields: map.into_iter().map(|(name, value)| (name, to_value(value))).collect() }
}

fn to_value(json: serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(truth) => Kind::BoolValue(truth),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(to_value).collect() })
        }
        serde_json::Value::Object(map) => Kind::StructValue(to_struct(map)),
    };
    Value { kind: Some(kind) }
}
