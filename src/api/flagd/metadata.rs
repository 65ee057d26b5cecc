//! A decision in flagd's words: value, variant, metadata.

use crate::api::pb::{CheckFeatureResponse, Reason};
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::{Map, json};

/// The only reason that is ever given; why something is so stands in the metadata.
pub(super) const MATCH: &str = "TARGETING_MATCH";
/// Allowed.
pub(super) const ON: &str = "on";
/// Denied.
pub(super) const OFF: &str = "off";
/// No limit, as a number: the largest that is exact in every SDK, 2^53 - 1.
pub(super) const UNLIMITED: u64 = (1 << 53) - 1;

/// The number that comes with a feature, if it is allowed.
pub(super) fn number(allowed: bool, limit: Option<u64>) -> u64 {
    if allowed { limit.unwrap_or(UNLIMITED).min(UNLIMITED) } else { 0 }
}

/// What is told beside a value.
pub(super) fn metadata(answer: &CheckFeatureResponse) -> Map<String, serde_json::Value> {
    let mut told = explanation(answer);
    told.insert("revision".into(), json!(answer.revision));
    told.insert("stale".into(), json!(answer.stale_for.is_some()));
    told
}

/// Why it is so, and until when.
pub(super) fn explanation(answer: &CheckFeatureResponse) -> Map<String, serde_json::Value> {
    let mut told = Map::new();
    told.insert("reason".into(), json!(reason(answer)));
    for (name, text) in [("subject", &answer.subject), ("plan", &answer.plan)] {
        if !text.is_empty() {
            told.insert(name.into(), json!(text));
        }
    }
    if let Some(until) = &answer.valid_until {
        told.insert("validUntil".into(), json!(until.to_string()));
    }
    told
}

/// The whole decision, by the names that `CheckFeatureResponse` has in JSON.
pub(super) fn decision(answer: &CheckFeatureResponse) -> Map<String, serde_json::Value> {
    let mut told = metadata(answer);
    told.insert("allowed".into(), json!(answer.allowed));
    if let Some(limit) = answer.limit {
        told.insert("limit".into(), json!(limit));
    }
    if let Some(at) = &answer.checked_at {
        told.insert("checkedAt".into(), json!(at.to_string()));
    }
    if let Some(age) = &answer.stale_for {
        told.insert("staleFor".into(), json!(age.to_string()));
    }
    told
}

fn reason(answer: &CheckFeatureResponse) -> &'static str {
    Reason::try_from(answer.reason).unwrap_or_default().as_str_name()
}

/// JSON as a protobuf struct.
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
