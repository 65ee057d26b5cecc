//! OFREP requests.

use crate::{
    support::http_client::{HttpAnswer, HttpClient},
    support::service::payload,
};
use reqwest::Method;
use serde_json::{Value, json};

pub const FLAGS: &str = "/ofrep/v1/evaluate/flags";

pub fn of(key: &str) -> Value {
    json!({ "context": { "targetingKey": key } })
}

pub async fn flag(client: &HttpClient, key: &str, subject: &str) -> HttpAnswer {
    client.post(&format!("{FLAGS}/{key}"), of(subject)).await
}

/// Requests all flags of a subject, with this tag in `if-none-match`.
pub async fn all(client: &HttpClient, subject: &str, etag: &str) -> HttpAnswer {
    client.ask(Method::POST, FLAGS, &[("if-none-match", etag)], of(subject)).await
}

pub fn value(response: &HttpAnswer, key: &str) -> Value {
    let flags = response.body["flags"].as_array().unwrap();
    flags.iter().find(|flag| flag["key"] == key).unwrap()["value"].clone()
}

/// Clerk's event that Ada has canceled, with this period end.
pub fn canceled(ends_at: i64) -> String {
    payload("subscriptionItem.canceled").replace("4105123200000", &ends_at.to_string())
}
