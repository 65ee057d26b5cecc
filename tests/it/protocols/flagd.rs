//! flagd's evaluation, called as by OpenFeature's providers: every call, every error, and the events.

use crate::{
    support::database::Db,
    support::flagd::{CATALOG, replica},
    support::service::{ACME, ADA, LINUS, Replica, apply_catalog, config, eventually, payload},
};
use entitlements::{
    api::flagd::pb::{
        v1::{self, any_flag::Value as Any, service_client::ServiceClient as V1},
        v2::{self, service_client::ServiceClient as V2},
    },
    config::Config,
};
use insta::assert_snapshot;
use prost_types::{Struct, Value, value::Kind};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

/// An evaluation context with these texts.
fn context(fields: &[(&str, &str)]) -> Struct {
    let fields = fields
        .iter()
        .map(|(name, text)| ((*name).to_owned(), value(Kind::StringValue((*text).to_owned()))));
    Struct { fields: fields.collect() }
}

fn key(id: &str) -> Struct {
    context(&[("targetingKey", id)])
}

/// A struct as JSON, without the parts that differ between runs.
fn json(of: Option<Struct>) -> String {
    fn plain(value: Value) -> serde_json::Value {
        match value.kind.unwrap() {
            Kind::BoolValue(truth) => truth.into(),
            Kind::NumberValue(number) => number.into(),
            Kind::StringValue(text) => text.into(),
            Kind::StructValue(of) => of.fields.into_iter().map(|(k, v)| (k, plain(v))).collect(),
            other => panic!("{other:?}"),
        }
    }
    let mut fields = of.unwrap().fields;
    fields.remove("checkedAt");
    plain(value(Kind::StructValue(Struct { fields }))).to_string()
}

async fn boolean(
    channel: &Channel,
    flag_key: &str,
    context: impl Into<Option<Struct>>,
) -> Result<v2::ResolveBooleanResponse, Status> {
    let context = context.into();
    let request = v2::ResolveBooleanRequest { flag_key: flag_key.into(), context };
    Ok(V2::new(channel.clone()).resolve_boolean(request).await?.into_inner())
}

/// Makes every call of one version for a flag, and returns value and variant, or the code.
macro_rules! all_calls {
    ($version:ident, $client:ident, $replica:expr, $flag:expr, $id:expr) => {{
        let mut client = $client::new($replica.channel.clone());
        let mut lines = Vec::new();
        macro_rules! ask {
            ($call:ident, $request:ident) => {
                let request =
                    $version::$request { flag_key: $flag.into(), context: Some(key($id)) };
                lines.push(match client.$call(request).await.map(tonic::Response::into_inner) {
                    Ok(answer) => {
                        assert_eq!(answer.reason, "TARGETING_MATCH");
                        format!("{:?} {:?}", answer.value, answer.variant)
                    }
                    Err(status) => format!("{:?}", status.code()),
                });
            };
        }
        ask!(resolve_boolean, ResolveBooleanRequest);
        ask!(resolve_int, ResolveIntRequest);
        ask!(resolve_float, ResolveFloatRequest);
        ask!(resolve_string, ResolveStringRequest);
        lines.join(", ")
    }};
}

#[tokio::test]
async fn every_call_answers_in_both_versions_with_a_variant_and_never_static() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    replica.send(&payload("subscription.active.org-team")).await;
    let cases = [
        ("projects", ADA),
        ("projects.limit", ADA),
        ("export", ADA),
        ("sso", ADA),
        ("projects", LINUS),
        ("export", LINUS),
        ("projects", ACME),
        ("org:sso", ACME),
        ("team:sso", ACME),
        ("nothing", ADA),
        ("nothing.limit", ADA),
        ("", ADA),
    ];
    let (mut first, mut second) = (String::new(), String::new());
    for (flag, id) in cases {
        let question = format!("{} {}", if flag.is_empty() { "(empty)" } else { flag }, &id[..4]);
        let lines = all_calls!(v1, V1, replica, flag, id);
        first.extend([&question, ": ", &lines, "\n"]);
        let lines = all_calls!(v2, V2, replica, flag, id);
        second.extend([&question, ": ", &lines, "\n"]);
    }
    assert_snapshot!(first, @r#"
    projects user: true "on", 25 "on", 25.0 "on", "pro" "on"
    projects.limit user: InvalidArgument, 25 "on", 25.0 "on", InvalidArgument
    export user: true "on", InvalidArgument, InvalidArgument, "pro" "on"
    sso user: false "off", InvalidArgument, InvalidArgument, "" "off"
    projects user: true "on", 3 "on", 3.0 "on", "free_user" "on"
    export user: false "off", InvalidArgument, InvalidArgument, "" "off"
    projects org_: true "on", 9007199254740991 "on", 9007199254740991.0 "on", "team" "on"
    org:sso org_: true "on", InvalidArgument, InvalidArgument, "team" "on"
    team:sso org_: NotFound, NotFound, NotFound, NotFound
    nothing user: NotFound, NotFound, NotFound, NotFound
    nothing.limit user: NotFound, NotFound, NotFound, NotFound
    (empty) user: NotFound, NotFound, NotFound, NotFound
    "#);
    assert_eq!(second.replace("Some(", "").replace(')', ""), first.replace(')', ""));
}

#[tokio::test]
async fn an_object_and_the_metadata_are_the_whole_explanation() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    replica.send(&payload("subscriptionItem.canceled")).await;
    let mut client = V2::new(replica.channel.clone());
    let mut object = async |flag: &str| {
        let request = v2::ResolveObjectRequest { flag_key: flag.into(), context: Some(key(ADA)) };
        let answer = client.resolve_object(request).await.unwrap().into_inner();
        format!("{}\n{}", json(answer.value), json(answer.metadata))
    };
    assert_snapshot!(object("projects").await, @r#"
    {"allowed":true,"limit":25.0,"plan":"pro","reason":"REASON_CANCELED_BUT_PAID","revision":"1.1_57236434cfa1cdc0.1","stale":false,"subject":"user_3jKRaOPcHB95IyjLKz2dmcVGvBR","validUntil":"2100-02-01T00:00:00.000Z"}
    {"allowed":true,"limit":25.0,"plan":"pro","reason":"REASON_CANCELED_BUT_PAID","revision":"1.1_57236434cfa1cdc0.1","stale":false,"subject":"user_3jKRaOPcHB95IyjLKz2dmcVGvBR","validUntil":"2100-02-01T00:00:00.000Z"}
    "#);
    assert_snapshot!(object("sso").await, @r#"
    {"allowed":false,"reason":"REASON_NOT_IN_PLAN","revision":"1.1_57236434cfa1cdc0.1","stale":false,"subject":"user_3jKRaOPcHB95IyjLKz2dmcVGvBR"}
    {"allowed":false,"reason":"REASON_NOT_IN_PLAN","revision":"1.1_57236434cfa1cdc0.1","stale":false,"subject":"user_3jKRaOPcHB95IyjLKz2dmcVGvBR"}
    "#);
}

#[tokio::test]
async fn all_flags_are_resolved_at_once_in_v1() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    let request = v1::ResolveAllRequest { context: Some(key(ADA)) };
    let all = V1::new(replica.channel.clone()).resolve_all(request).await.unwrap().into_inner();
    let lines = all.flags.into_iter().collect::<BTreeMap<_, _>>().into_iter().map(|(key, flag)| {
        assert_eq!(flag.reason, "TARGETING_MATCH");
        let value = match flag.value.unwrap() {
            Any::BoolValue(truth) => truth.to_string(),
            Any::DoubleValue(number) => number.to_string(),
            other => panic!("{other:?}"),
        };
        format!("{key}: {value} {}\n", flag.variant)
    });
    assert_snapshot!(lines.collect::<String>(), @r"
    audit: false off
    basic_reports: true on
    export: true on
    projects: true on
    projects.limit: 25 on
    sso: false off
    ");
}

#[tokio::test]
async fn two_alternating_subjects_never_get_each_others_flags() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    for _ in 0..50 {
        for (id, allowed, variant) in [(ADA, true, "on"), (LINUS, false, "off")] {
            let answer = boolean(&replica.channel, "export", key(id)).await.unwrap();
            assert_eq!(answer.value, Some(allowed), "{id}");
            assert_eq!(answer.variant.as_deref(), Some(variant), "{id}");
            assert_eq!(answer.reason, "TARGETING_MATCH", "{id}");
        }
    }
}

#[tokio::test]
async fn user_and_organization_count_together() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    replica.send(&payload("subscription.active.org-team")).await;
    for (fields, export, sso) in [
        (vec![("targetingKey", ADA)], true, false),
        (vec![("targetingKey", ACME)], false, true),
        (vec![("targetingKey", ADA), ("orgId", ACME)], true, true),
        (vec![("targetingKey", ADA), ("organization_id", ACME)], true, true),
        (vec![("targetingKey", ACME), ("userId", ADA)], true, true),
        (vec![("targetingKey", ACME), ("user_id", ADA), ("orgId", ACME)], true, true),
        (vec![("targetingKey", LINUS), ("orgId", ACME), ("plan", "enterprise")], false, true),
        (vec![("targetingKey", ADA), ("orgId", "")], true, false),
    ] {
        for (flag, allowed) in [("export", export), ("sso", sso)] {
            let answer = boolean(&replica.channel, flag, context(&fields)).await.unwrap();
            assert_eq!(answer.value, Some(allowed), "{flag} for {fields:?}");
        }
    }
}

#[tokio::test]
async fn an_invalid_context_is_rejected_with_its_field() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    let mut lines = String::new();
    let number = Struct {
        fields: [("targetingKey", Kind::NumberValue(1.0)), ("orgId", Kind::BoolValue(true))]
            .map(|(name, kind)| (name.to_owned(), value(kind)))
            .into(),
    };
    for context in [
        None,
        Some(context(&[])),
        Some(key("")),
        Some(context(&[("userId", ADA)])),
        Some(key("session-1")),
        Some(context(&[("targetingKey", ADA), ("orgId", LINUS)])),
        Some(context(&[("targetingKey", ADA), ("userId", LINUS)])),
        Some(number),
    ] {
        let status = boolean(&replica.channel, "export", context).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        lines.extend([status.message(), "\n"]);
    }
    assert_snapshot!(lines, @r"
    context.targetingKey: is missing: set it to the Clerk id of the user or organization, `user_…` or `org_…`
    context.targetingKey: is missing: set it to the Clerk id of the user or organization, `user_…` or `org_…`
    context.targetingKey: is missing: set it to the Clerk id of the user or organization, `user_…` or `org_…`
    context.targetingKey: is missing: set it to the Clerk id of the user or organization, `user_…` or `org_…`
    context.targetingKey: must be a Clerk id, `user_…` or `org_…`
    context.orgId: must be a Clerk organization id: `org_` and then letters, digits, `_` or `-`, at most 128 bytes
    context.userId: names a second user
    context.targetingKey: must be a string; context.orgId: must be a string
    ");
}

#[tokio::test]
async fn flagd_is_unavailable_while_the_database_is() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    assert!(boolean(&replica.channel, "export", key(ADA)).await.is_ok());
    db.drop_by_force().await;
    let status = boolean(&replica.channel, "export", key(LINUS)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");

    let database = "postgres://nobody@127.0.0.1:1/nothing".parse().unwrap();
    let starting = Replica::launch(Config { database, ..config(&db) }).await;
    let status = boolean(&starting.channel, "export", key(ADA)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let mut client = V2::new(starting.channel.clone());
    let status = client.event_stream(v2::EventStreamRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[tokio::test]
async fn events_announce_the_start_keep_alives_a_new_catalog_and_the_end() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    let mut events = V2::new(replica.channel.clone())
        .event_stream(v2::EventStreamRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut older = V1::new(replica.channel.clone());
    let mut older = older.event_stream(v1::EventStreamRequest {}).await.unwrap().into_inner();
    let mut next = async || {
        let (event, same) = tokio::join!(events.message(), older.message());
        match (event, same) {
            (Ok(event), Ok(same)) => {
                let (event, same) = (event.unwrap(), same.unwrap());
                assert_eq!((&event.r#type, &event.data), (&same.r#type, &same.data));
                let data = event.data.map(|data| json(Some(data))).unwrap_or_default();
                format!("{} {data}", event.r#type)
            }
            (event, _) => format!("{:?}", event.unwrap_err().code()),
        }
    };
    assert_eq!(next().await, "provider_ready ");
    assert_eq!(timeout(Duration::from_mins(1), next()).await.unwrap(), "keep_alive ");

    let newer = CATALOG.replace("\"export\"", "\"charts\"").replace("= 25", "= 50");
    let newer = newer.replace("\"basic_reports\", ", "\"basic_reports\", \"basic_reports2\", ");
    apply_catalog(&db, &newer).await;
    assert_snapshot!(next().await, @r#"configuration_change {"flags":{"basic_reports2":{"type":"create"},"charts":{"type":"create"},"export":{"type":"delete"},"projects":{"type":"update"},"projects.limit":{"type":"update"}}}"#);

    let stopped = tokio::spawn(replica.stop());
    assert_eq!(next().await, "provider_shutdown ");
    assert_eq!(next().await, "Unavailable");
    timeout(Duration::from_secs(20), stopped).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_protocol_that_is_not_enabled_is_not_served() {
    let db = Db::new().await;
    let replica = Replica::start_with(Config { protocols: vec![], ..config(&db) }).await;
    let status = boolean(&replica.channel, "export", key(ADA)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
}

#[tokio::test]
async fn a_stream_is_rejected_by_the_state_of_the_replica() {
    let db = Db::new().await;
    let replica =
        Replica::start_with(Config { max_staleness: Duration::ZERO, ..config(&db) }).await;
    db.drop_by_force().await;
    eventually("the replica is cut off for longer than it may answer", async || {
        replica.get("/readyz").await.0 == 503
    })
    .await;
    let mut client = V1::new(replica.channel.clone());
    let refused = client.event_stream(v1::EventStreamRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("older than accepted"), "{refused:?}");
    let nowhere = "postgres://me@127.0.0.1:1/none".parse().unwrap();
    let starting = Replica::launch(Config { database: nowhere, ..config(&db) }).await;
    let mut client = V1::new(starting.channel.clone());
    let refused = client.event_stream(v1::EventStreamRequest {}).await.unwrap_err();
    assert!(refused.message().contains("is starting"), "{refused:?}");
}
