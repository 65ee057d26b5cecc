//! Requests for explanations, and records of the past.

use crate::support::{
    database::Db,
    service::{Replica, payload},
};
use chrono::{DateTime, Utc};
use entitlements::api::pb::{
    ExplainRequest, ExplainResponse, explain_request::Target, support_client::SupportClient,
};
use prost_types::Timestamp;
use serde_json::Value;
use tonic::Status;
use tonic_types::StatusExt;

pub fn timestamp(at: DateTime<Utc>) -> Timestamp {
    let nanos = i32::try_from(at.timestamp_subsec_nanos()).unwrap();
    Timestamp { seconds: at.timestamp(), nanos }
}

pub fn feature(user: &str, feature: &str) -> ExplainRequest {
    let target = Some(Target::Feature(feature.into()));
    ExplainRequest { user_id: user.into(), target, ..Default::default() }
}

pub async fn explain(
    replica: &Replica,
    request: ExplainRequest,
) -> Result<ExplainResponse, Status> {
    let mut client = SupportClient::new(replica.channel.clone());
    client.explain(request).await.map(tonic::Response::into_inner)
}

/// One of Clerk's payloads about an item, with other fields.
pub fn changed(name: &str, fields: &Value) -> String {
    let mut event: Value = serde_json::from_str(&payload(name)).unwrap();
    event["data"].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    event.to_string()
}

/// Moves the beginning of the history and all that is recorded to the past.
pub async fn move_back(db: &Db, days: i64) {
    db.run(&format!(
        "update entitlements.history_retention set complete_from = complete_from - interval '{days} days';
         update entitlements.observation set known_at = known_at - interval '{days} days';
         update entitlements.plan_name set known_at = known_at - interval '{days} days';
         update entitlements.catalog_version set applied_at = applied_at - interval '{days} days'"
    ))
    .await;
}

/// The code of a status and its field violations.
pub fn refusal(status: &Status) -> String {
    let details = status.get_details_bad_request();
    let violations = details.iter().flat_map(|details| &details.field_violations);
    let violations: Vec<_> =
        violations.map(|v| format!("{}: {}", v.field, v.description)).collect();
    format!("{:?}: {}", status.code(), violations.join("; "))
}
