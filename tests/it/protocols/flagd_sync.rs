//! flagd's sync: the flag set of one subject, for remote evaluators.

use crate::{
    support::database::Db,
    support::flagd::{CATALOG, replica, with_catalog},
    support::overrides,
    support::service::{ACME, ADA, LINUS, Replica, apply_catalog, payload},
};
use entitlements::api::{
    flagd::pb::{
        sync::{
            FetchAllFlagsRequest, GetMetadataRequest, SyncFlagsRequest, SyncFlagsResponse,
            flag_sync_service_client::FlagSyncServiceClient as Client,
        },
        v2::{ResolveBooleanRequest, service_client::ServiceClient},
    },
    pb::{Override, grant::Number},
};
use insta::assert_snapshot;
use prost_types::{Struct, value::Kind};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming};

fn selecting<T>(selector: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("flagd-selector", selector.parse().unwrap());
    request
}

async fn fetch(replica: &Replica, selector: &str) -> Result<Value, Status> {
    let request = selecting(selector, FetchAllFlagsRequest::default());
    let fetched = Client::new(replica.channel.clone()).fetch_all_flags(request).await?;
    Ok(serde_json::from_str(&fetched.into_inner().flag_configuration).unwrap())
}

async fn sync(replica: &Replica, selector: &str) -> Streaming<SyncFlagsResponse> {
    let request = selecting(selector, SyncFlagsRequest::default());
    Client::new(replica.channel.clone()).sync_flags(request).await.unwrap().into_inner()
}

async fn next(sets: &mut Streaming<SyncFlagsResponse>) -> Value {
    let set = timeout(Duration::from_secs(20), sets.message()).await.expect("a set within 20 s");
    serde_json::from_str(&set.unwrap().unwrap().flag_configuration).unwrap()
}

/// Evaluates the operations of `JsonLogic` that flag sets use, on a context.
fn logic(rule: &Value, context: &Value) -> Value {
    let Some((operation, arguments)) = rule.as_object().and_then(|rule| rule.iter().next()) else {
        return match rule {
            Value::Array(all) => all.iter().map(|one| logic(one, context)).collect(),
            constant => constant.clone(),
        };
    };
    if operation == "var" {
        let path = arguments.as_str().unwrap().split('.');
        return path.fold(context.clone(), |of, name| of[name].clone());
    }
    let arguments = arguments.as_array().unwrap();
    let value = |at: usize| arguments.get(at).map_or(Value::Null, |one| logic(one, context));
    let is_true = |value: &Value| !matches!(value, Value::Null | Value::Bool(false)) && value != "";
    match operation.as_str() {
        "if" => {
            let then = (0..arguments.len() / 2).find(|i| is_true(&value(2 * i)));
            then.map_or_else(|| value(arguments.len() - 1), |i| value(2 * i + 1))
        }
        "and" => (0..arguments.len()).all(|at| is_true(&value(at))).into(),
        "or" => (0..arguments.len()).any(|at| is_true(&value(at))).into(),
        "!" => (!is_true(&value(0))).into(),
        "in" => value(1).as_array().unwrap().contains(&value(0)).into(),
        "<" => (value(0).as_i64().unwrap() < value(1).as_i64().unwrap()).into(),
        other => panic!("{other} is not used"),
    }
}

/// The result of an evaluator for a flag, at the Unix time `now` in seconds.
fn evaluated(set: &Value, flag: &str, context: &[(&str, &str)], now: i64) -> Value {
    let flag = &set["flags"][flag];
    let mut names = json!({ "$flagd": { "timestamp": now } });
    for (name, id) in context {
        names[name] = (*id).into();
    }
    flag["variants"][logic(&flag["targeting"], &names).as_str().unwrap()].clone()
}

async fn resolved(replica: &Replica, flag: &str, context: &[(&str, &str)]) -> bool {
    let fields = context.iter().map(|(name, id)| {
        let kind = Some(Kind::StringValue((*id).to_owned()));
        ((*name).to_owned(), prost_types::Value { kind })
    });
    let context = Some(Struct { fields: fields.collect() });
    let request = ResolveBooleanRequest { flag_key: flag.into(), context };
    let answer = ServiceClient::new(replica.channel.clone()).resolve_boolean(request).await;
    answer.unwrap().into_inner().value.unwrap()
}

const NOW: i64 = 1_800_000_000;

#[tokio::test]
async fn a_remote_evaluator_answers_like_the_service() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    replica.send(&payload("subscriptionItem.active")).await;
    replica.send(&payload("subscription.active.org-team")).await;
    let contexts: [&[(&str, &str)]; 5] = [
        &[("targetingKey", ADA)],
        &[("targetingKey", ACME)],
        &[("targetingKey", ADA), ("orgId", ACME)],
        &[("targetingKey", ACME), ("user_id", ADA)],
        &[("targetingKey", LINUS), ("organization_id", ACME)],
    ];
    let both = fetch(&replica, &format!("userId={ADA},orgId={ACME}")).await.unwrap();
    for flag in ["export", "sso", "projects"] {
        for context in contexts {
            let here = resolved(&replica, flag, context).await;
            assert_eq!(evaluated(&both, flag, context, NOW), here, "{flag} for {context:?}");
        }
        let whole = resolved(&replica, flag, contexts[2]).await;
        assert_eq!(evaluated(&both, flag, &[], NOW), whole, "{flag} without targeting key");
        for other in [LINUS, "session-1"] {
            let context = [("targetingKey", other)];
            assert_eq!(evaluated(&both, flag, &context, NOW), false, "{flag} for {other}");
        }
    }
    let org = fetch(&replica, &format!("flagSetId={ACME}")).await.unwrap();
    assert_eq!(evaluated(&org, "sso", &[], NOW), true);
    assert_eq!(evaluated(&org, "sso", &[("targetingKey", ADA), ("orgId", ACME)], NOW), true);
    assert_eq!(evaluated(&org, "sso", &[("targetingKey", ADA)], NOW), false);
    assert_eq!(evaluated(&org, "export", &[], NOW), false);
}

#[tokio::test]
async fn a_set_has_every_flag_but_strict_ones_and_says_why() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    replica.send(&payload("subscriptionItem.canceled")).await;
    let set = fetch(&replica, &format!("userId={ADA}")).await.unwrap();
    let flags: Vec<_> = set["flags"].as_object().unwrap().keys().collect();
    assert_snapshot!(format!("{flags:?}"), @r#"["basic_reports", "export", "projects", "projects.limit", "sso"]"#);
    assert_snapshot!(set["metadata"].to_string(), @r#"{"flagSetId":"user_3jKRaOPcHB95IyjLKz2dmcVGvBR","revision":"1.1_57236434cfa1cdc0.1","stale":false,"version":"1.1_57236434cfa1cdc0.1"}"#);
    assert_snapshot!(set["flags"]["projects.limit"].to_string(), @r#"{"defaultVariant":"off","metadata":{"plan":"pro","reason":"REASON_CANCELED_BUT_PAID","subject":"user_3jKRaOPcHB95IyjLKz2dmcVGvBR","validUntil":"2100-02-01T00:00:00.000Z"},"state":"ENABLED","targeting":{"if":[{"in":["user_3jKRaOPcHB95IyjLKz2dmcVGvBR",[{"var":"targetingKey"},{"var":"userId"},{"var":"user_id"},{"var":"orgId"},{"var":"organization_id"}]]},{"if":[{"<":[{"var":"$flagd.timestamp"},4105123200]},"25","3"]},{"!":[{"or":[{"var":"targetingKey"},{"var":"userId"},{"var":"user_id"},{"var":"orgId"},{"var":"organization_id"}]}]},{"if":[{"<":[{"var":"$flagd.timestamp"},4105123200]},"25","3"]},"off"]},"variants":{"25":25,"3":3,"off":0}}"#);
}

#[tokio::test]
async fn a_canceled_plan_ends_on_time_without_a_push() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    replica.send(&payload("subscriptionItem.canceled")).await;
    let end = 4_105_123_200; // 2100-02-01, the period end in the payload
    let set = fetch(&replica, &format!("flagSetId={ADA}")).await.unwrap();
    for (flag, now, expected) in [
        ("export", NOW, json!(true)),
        ("export", end - 1, json!(true)),
        ("export", end, json!(false)),
        ("projects", end, json!(true)),
        ("projects.limit", end - 1, json!(25)),
        ("projects.limit", end, json!(3)),
    ] {
        assert_eq!(evaluated(&set, flag, &[("targetingKey", ADA)], now), expected, "{flag} {now}");
    }
}

#[tokio::test]
async fn an_override_begins_and_ends_on_time_without_a_push() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    let [from, until] = [4_000_000_000, 4_000_000_500];
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    for found in [
        overrides::limited(ADA, "projects", Number::Exactly(7)),
        overrides::granted(ADA, "export"),
        overrides::denied(ADA, "basic_reports"),
    ] {
        let dated =
            Override { starts_at: at(from), expires_at: at(until), permanent: false, ..found };
        overrides::set(&replica, dated).await;
    }
    let set = fetch(&replica, &format!("flagSetId={ADA}")).await.unwrap();
    for (now, limit, is_in_force) in [
        (NOW, 3, false),
        (from - 1, 3, false),
        (from, 7, true),
        (until - 1, 7, true),
        (until, 3, false),
    ] {
        let value = |flag| evaluated(&set, flag, &[("targetingKey", ADA)], now);
        let values = [value("projects.limit"), value("export"), value("basic_reports")];
        assert_eq!(values, [json!(limit), json!(is_in_force), json!(!is_in_force)], "{now}");
    }
    // Of two subjects, the denial of one counts for both.
    replica.send(&payload("subscription.active.org-team")).await;
    overrides::set(&replica, overrides::denied(ADA, "sso")).await;
    let both = fetch(&replica, &format!("userId={ADA},orgId={ACME}")).await.unwrap();
    let context = [("targetingKey", ADA), ("orgId", ACME)];
    assert_eq!(evaluated(&both, "sso", &context, NOW), false);
    assert!(!resolved(&replica, "sso", &context).await);
    assert_eq!(evaluated(&both, "sso", &[("targetingKey", ACME)], NOW), true);
}

#[tokio::test]
async fn changes_of_the_account_and_the_catalog_are_pushed_and_other_changes_are_not() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    // A new name of a plan may change the flags of every subject: this one is known from now on.
    replica.send(&payload("subscriptionItem.active").replace(ADA, LINUS)).await;
    let mut sets = sync(&replica, &format!("flagSetId={ADA}")).await;
    let mut others = sync(&replica, &format!("flagSetId={ACME}")).await;
    let export = |set: &Value| evaluated(set, "export", &[], NOW);
    assert_eq!(export(&next(&mut sets).await), false);
    assert_eq!(evaluated(&next(&mut others).await, "sso", &[], NOW), false);

    replica.send(&payload("subscriptionItem.active")).await;
    assert_eq!(export(&next(&mut sets).await), true);

    // Another replica receives this delivery.
    let newer = CATALOG.replace("\"sso\", ", "\"sso\", \"scim\", ");
    apply_catalog(&db, &newer).await;
    let newer = Replica::start_with(with_catalog(&newer, &db)).await;
    assert!(next(&mut sets).await["flags"]["scim"].is_object());
    newer.send(&payload("subscriptionItem.ended")).await;
    assert_eq!(export(&next(&mut sets).await), false);

    // No change of Ada was pushed: the next set is that of the new catalog.
    assert!(next(&mut others).await["flags"]["scim"].is_object());
    newer.send(&payload("subscription.active.org-team")).await;
    assert_eq!(evaluated(&next(&mut others).await, "scim", &[], NOW), true);
}

#[tokio::test]
async fn an_invalid_selector_is_rejected_with_the_expected_form() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    let mut lines = String::new();
    let two = format!("userId={ADA},flagSetId={LINUS}");
    for selector in ["", "source=flags.json", "flags.json", "flagSetId=", "orgId=user_1", &two] {
        let status = fetch(&replica, selector).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{selector:?}: {status:?}");
        let sent = if selector.is_empty() { "(none)" } else { selector };
        lines.extend([sent, ": ", status.message(), "\n"]);
        let request = selecting(selector, SyncFlagsRequest::default());
        let streamed = Client::new(replica.channel.clone()).sync_flags(request).await;
        assert_eq!(streamed.unwrap_err().message(), status.message(), "{selector:?}");
    }
    assert_snapshot!(lines, @r"
    (none): flagd-selector: is missing: select a user or organization in the `flagd-selector` header, such as `flagSetId=org_…`, `userId=user_…` or `userId=user_…,orgId=org_…`
    source=flags.json: flagd-selector: `source=flags.json` is not a valid selector: use `flagSetId=org_…` (or `user_…`), `userId=user_…`, `orgId=org_…`, or the last two separated by a comma
    flags.json: flagd-selector: `flags.json` is not a valid selector: use `flagSetId=org_…` (or `user_…`), `userId=user_…`, `orgId=org_…`, or the last two separated by a comma
    flagSetId=: flagd-selector: must be a Clerk id, `user_…` or `org_…`
    orgId=user_1: flagd-selector: must be a Clerk organization id: `org_` and then letters, digits, `_` or `-`, at most 128 bytes
    userId=user_3jKRaOPcHB95IyjLKz2dmcVGvBR,flagSetId=user_3rTjLHkv87ruGNomK3aMXCvp4Qu: flagd-selector: names a second user
    ");
}

#[tokio::test]
async fn older_providers_select_by_a_field_and_ask_for_metadata() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    replica.send(&payload("subscription.active.org-team")).await;
    let mut client = Client::new(replica.channel.clone());
    #[expect(deprecated, reason = "older providers send it")]
    let request = FetchAllFlagsRequest { selector: format!("orgId={ACME}"), ..Default::default() };
    let set = client.fetch_all_flags(request.clone()).await.unwrap().into_inner();
    let set = serde_json::from_str(&set.flag_configuration).unwrap();
    assert_eq!(evaluated(&set, "sso", &[], NOW), true);
    let by_both = selecting(&format!("userId={ADA}"), request);
    let set = client.fetch_all_flags(by_both).await.unwrap().into_inner();
    assert!(set.flag_configuration.contains(&format!("\"flagSetId\":\"{ADA}\"")));

    #[expect(deprecated, reason = "older providers ask for it")]
    let metadata = client.get_metadata(GetMetadataRequest {}).await.unwrap().into_inner().metadata;
    assert_eq!(metadata, Some(Struct::default()));
}

#[tokio::test]
async fn a_stream_survives_an_outage_and_ends_when_the_service_stops() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    let mut sets = sync(&replica, &format!("flagSetId={ADA}")).await;
    assert_eq!(next(&mut sets).await["metadata"]["stale"], false);
    db.drop_by_force().await;
    crate::support::service::eventually("the replica is stale", async || {
        replica.get("/metrics").await.1.contains("entitlements_freshness{state=\"stale\"} 1")
    })
    .await;
    let fetched = fetch(&replica, &format!("flagSetId={ADA}")).await.unwrap();
    assert_eq!(fetched["metadata"]["stale"], true);
    let stranger = fetch(&replica, &format!("flagSetId={LINUS}")).await.unwrap_err();
    assert_eq!(stranger.code(), Code::Unavailable, "{stranger:?}");

    let stopped = tokio::spawn(replica.stop());
    let end = timeout(Duration::from_secs(20), sets.message()).await.unwrap();
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
    timeout(Duration::from_secs(20), stopped).await.unwrap().unwrap().unwrap();
}
