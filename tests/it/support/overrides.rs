//! Sets and lists overrides.

use crate::support::{
    explanations::timestamp,
    service::{Replica, config},
};
use chrono::{DateTime, Utc};
use entitlements::{
    api::pb::{
        Deny, EndOverrideRequest, Grant, ListOverridesRequest, Override, SetOverrideRequest,
        SetOverrideResponse,
        grant::Number,
        r#override::{Effect, Target},
        overrides_client::OverridesClient,
    },
    config::Config,
    domain::Catalog,
};
use tonic::{Status, transport::Channel};

use super::database::Db;

/// A catalog with limits.
pub const CATALOG: &str = r#"
    [user]
    default_plan = "free"
    [user.plans.free]
    features = ["reports"]
    [user.plans.pro]
    features = ["reports", "export"]
    limits = { projects = 25 }
    [user.plans.max]
    features = ["reports", "export", "assistant"]
    limits = { projects = 100 }
    [organization.plans.team]
    features = ["export", "sso"]
    limits = { projects = 50 }
    "#;

/// A replica with that catalog.
pub async fn replica(db: &Db) -> Replica {
    let catalog = Catalog::from_toml(CATALOG).unwrap();
    Replica::start_with(Config { catalog: Some((catalog, "limits".into())), ..config(db) }).await
}

pub fn client(replica: &Replica) -> OverridesClient<Channel> {
    OverridesClient::new(replica.channel.clone())
}

/// A permanent grant of a feature without a limit.
pub fn granted(subject: &str, feature: &str) -> Override {
    Override {
        subject: subject.into(),
        target: Some(Target::Feature(feature.into())),
        effect: Some(Effect::Grant(Grant { number: None })),
        permanent: true,
        owner: "ada".into(),
        reason: "a test".into(),
        ..Override::default()
    }
}

pub fn limited(subject: &str, feature: &str, number: Number) -> Override {
    let effect = Some(Effect::Grant(Grant { number: Some(number) }));
    Override { effect, ..granted(subject, feature) }
}

pub fn denied(subject: &str, feature: &str) -> Override {
    Override { effect: Some(Effect::Deny(Deny {})), ..granted(subject, feature) }
}

pub fn plan_granted(subject: &str, plan: &str) -> Override {
    Override { target: Some(Target::Plan(plan.into())), ..granted(subject, "-") }
}

/// The override with an end instead of `permanent`.
pub fn until(found: Override, at: DateTime<Utc>) -> Override {
    Override { permanent: false, expires_at: Some(timestamp(at)), ..found }
}

pub async fn try_set(
    replica: &Replica,
    request: SetOverrideRequest,
) -> Result<SetOverrideResponse, Status> {
    client(replica).set_override(request).await.map(tonic::Response::into_inner)
}

pub async fn set(replica: &Replica, found: Override) -> SetOverrideResponse {
    try_set(replica, SetOverrideRequest { r#override: Some(found), ..Default::default() })
        .await
        .unwrap()
}

/// Sets an override and returns its id.
pub async fn set_id(replica: &Replica, found: Override) -> String {
    set(replica, found).await.r#override.unwrap().id
}

pub async fn end(replica: &Replica, id: &str) {
    let request = EndOverrideRequest { id: id.into(), reason: "over".into(), ..Default::default() };
    client(replica).end_override(request).await.unwrap();
}

/// All overrides of a subject, also those that have ended; the newest first.
pub async fn all(replica: &Replica, subject: &str) -> Vec<Override> {
    let request = ListOverridesRequest {
        subject: subject.into(),
        include_ended: true,
        page_size: 1000,
        ..Default::default()
    };
    client(replica).list_overrides(request).await.unwrap().into_inner().overrides
}
