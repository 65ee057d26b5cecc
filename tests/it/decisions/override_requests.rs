//! Requests to set or end an override: their faults, limits and callers.

use crate::support::{
    callers_file::CallersFile,
    database::Db,
    explanations::{refusal, timestamp},
    overrides::{
        client, end, granted, limited, plan_granted, replica, set, set_id, try_set, until,
    },
    service::{ADA, GRACE, Replica, config, eventually},
};
use chrono::{DateTime, TimeDelta, Utc};
use entitlements::{
    api::pb::{
        EndOverrideRequest, Override, Reason, SetOverrideRequest, grant::Number,
        overrides_client::OverridesClient,
    },
    config::Config,
    server::auth::Scope,
};
use insta::assert_snapshot;
use tonic::{Code, Request, Status};

#[tokio::test]
async fn each_fault_of_a_request_is_named_and_nothing_changes() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    let kept = set_id(&replica, granted(ADA, "export")).await;
    let gone = set_id(&replica, granted(ADA, "reports")).await;
    end(&replica, &gone).await;
    let before = db.fingerprint().await;
    let (day, now) = (TimeDelta::days(1), Utc::now());
    let good = || granted(ADA, "export");
    let starts = |found, at: DateTime<Utc>| Override { starts_at: Some(timestamp(at)), ..found };
    let cases = [
        ("nothing", Override::default()),
        ("no end", Override { permanent: false, ..good() }),
        ("an end and permanent", Override { permanent: true, ..until(good(), now + day) }),
        ("an end in the past", until(good(), now - day)),
        ("an end before the start", starts(until(good(), now + day), now + day + day)),
        ("a start in the past", starts(good(), now - day)),
        ("an unknown feature", granted(ADA, "exprot")),
        ("a scoped feature", granted(ADA, "user:export")),
        ("an unknown plan", plan_granted(ADA, "team")),
        ("a limit of a feature without one", limited(ADA, "export", Number::AtLeast(3))),
        ("no limit of a feature with one", granted(ADA, "projects")),
        ("a huge limit", limited(ADA, "projects", Number::Exactly(u64::MAX))),
        ("not unlimited", limited(ADA, "projects", Number::Unlimited(false))),
        (
            "a limit of a plan",
            Override {
                effect: limited(ADA, "", Number::AtLeast(1)).effect,
                ..plan_granted(ADA, "pro")
            },
        ),
        ("an empty owner", Override { owner: " ".into(), ..good() }),
        ("an empty reason", Override { reason: String::new(), ..good() }),
        ("a long reason", Override { reason: "x".repeat(501), ..good() }),
        ("a replaced id that is none", Override { replaces: "4711".into(), ..good() }),
        (
            "an unknown replaced id",
            Override { replaces: "00000000-0000-0000-0000-000000000000".into(), ..good() },
        ),
        ("another target", Override { replaces: kept.clone(), ..granted(ADA, "reports") }),
        ("another subject", Override { replaces: kept.clone(), ..granted(GRACE, "export") }),
        ("an ended override", Override { replaces: gone.clone(), ..granted(ADA, "reports") }),
    ];
    let mut refusals = Vec::new();
    for (name, found) in cases {
        let request = SetOverrideRequest { r#override: Some(found), ..Default::default() };
        let status = try_set(&replica, request).await.expect_err(name);
        let text = refusal(&status).replace(&kept, "KEPT").replace(&gone, "GONE");
        refusals.push(format!("{name}: {text}"));
    }
    for (name, id, reason) in [
        ("no id", "", "over"),
        ("no reason", &*kept, ""),
        ("no such id", "00000000-0000-0000-0000-000000000000", "over"),
    ] {
        let request =
            EndOverrideRequest { id: id.into(), reason: reason.into(), ..Default::default() };
        let status = client(&replica).end_override(request).await.expect_err(name);
        refusals.push(format!("end, {name}: {}", refusal(&status)));
    }
    let refusals = refusals.join("\n");
    let refusals = without_instants(&refusals);
    assert_snapshot!(refusals, @r"
    nothing: InvalidArgument: override.subject: must be a Clerk user id: `user_` and then letters, digits, `_` or `-`, at most 128 bytes; override.effect: is required: `deny` or `grant`; override.target: is required: `feature` or `plan`; override.expires_at: is required: say when the override ends, or say `permanent`; override.owner: is required; override.reason: is required
    no end: InvalidArgument: override.expires_at: is required: say when the override ends, or say `permanent`
    an end and permanent: InvalidArgument: override.permanent: excludes `expires_at`: leave one of them out
    an end in the past: InvalidArgument: override.expires_at: is in the past
    an end before the start: InvalidArgument: override.expires_at: is not after `starts_at`
    a start in the past: InvalidArgument: override.starts_at: is in the past: leave it out to start now
    an unknown feature: InvalidArgument: override.feature: is not in catalog 1: check the spelling; a name that a later catalog will have needs `allow_unknown` (on the command line: --unknown)
    a scoped feature: InvalidArgument: override.feature: must be without a scope: `subject` says whose feature it is
    an unknown plan: InvalidArgument: override.plan: is not in catalog 1: check the spelling; a name that a later catalog will have needs `allow_unknown` (on the command line: --unknown)
    a limit of a feature without one: InvalidArgument: override.grant: is a limit, and no plan limits the feature: leave it out
    no limit of a feature with one: InvalidArgument: override.grant: is required, because plans limit the feature: `at_least`, `exactly` or `unlimited`
    a huge limit: InvalidArgument: override.grant.exactly: must be at most 9223372036854775807
    not unlimited: InvalidArgument: override.grant.unlimited: must be true if present
    a limit of a plan: InvalidArgument: override.grant: must be without a number: a plan has its own limits
    an empty owner: InvalidArgument: override.owner: is required
    an empty reason: InvalidArgument: override.reason: is required
    a long reason: InvalidArgument: override.reason: must be one line of at most 500 bytes, without control characters
    a replaced id that is none: InvalidArgument: override.replaces: must be the id of an override, a UUID such as 0197f4c1-8f60-7cc3-98c4-dc0c0c07398f
    an unknown replaced id: NotFound: override.replaces: there is no override 00000000-0000-0000-0000-000000000000
    another target: FailedPrecondition: override.replaces: override KEPT is of another subject, feature or plan: end it, and set a new one
    another subject: FailedPrecondition: override.replaces: override KEPT is of another subject, feature or plan: end it, and set a new one
    an ended override: FailedPrecondition: override.replaces: override GONE was ended at INSTANT set a new one
    end, no id: InvalidArgument: id: must be the id of an override, a UUID such as 0197f4c1-8f60-7cc3-98c4-dc0c0c07398f
    end, no reason: InvalidArgument: reason: is required
    end, no such id: NotFound: id: there is no override 00000000-0000-0000-0000-000000000000
    ");
    assert_eq!(db.fingerprint().await, before);
}

/// The text with each instant replaced.
fn without_instants(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let is_instant = word.len() > 19 && word.as_bytes()[4] == b'-' && word.contains('T');
        if is_instant { "INSTANT" } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_retry_is_answered_although_the_request_would_be_refused_by_now() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    let found = until(granted(ADA, "export"), Utc::now() + TimeDelta::milliseconds(400));
    let request = SetOverrideRequest {
        r#override: Some(found),
        idempotency_key: "ticket".into(),
        ..Default::default()
    };
    let set = try_set(&replica, request.clone()).await.unwrap().r#override.unwrap();
    eventually("it has expired", async || !replica.check(ADA, "", "export").await.allowed).await;
    let again = try_set(&replica, request.clone()).await.unwrap();
    assert_eq!(again.r#override.as_ref(), Some(&set));
    let other = SetOverrideRequest { idempotency_key: "another".into(), ..request };
    assert_eq!(try_set(&replica, other).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_replacement_leaves_no_gap_and_none_of_two_at_once_is_lost() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    let old = set_id(&replica, granted(ADA, "export")).await;
    let later = Some(timestamp(Utc::now() + TimeDelta::days(1)));
    let found = Override { replaces: old.clone(), starts_at: later, ..granted(ADA, "export") };
    let request = SetOverrideRequest { r#override: Some(found), ..Default::default() };
    let status = try_set(&replica, request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().contains("would end now"), "{status:?}");
    let found = Override { replaces: old, ..granted(ADA, "export") };
    let request = SetOverrideRequest { r#override: Some(found), ..Default::default() };
    let calls = (0..8).map(|_| try_set(&replica, request.clone()));
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
    assert_eq!(db.count("override").await, 2);
}

#[tokio::test]
async fn a_longer_override_than_the_setting_allows_must_be_permanent() {
    let db = Db::new().await;
    let overrides_longest = Some(TimeDelta::days(90));
    let replica = Replica::start_with(Config { overrides_longest, ..config(&db) }).await;
    let lasting = |days| SetOverrideRequest {
        r#override: Some(until(granted(ADA, "sso"), Utc::now() + TimeDelta::days(days))),
        ..Default::default()
    };
    let status = try_set(&replica, lasting(91)).await.unwrap_err();
    assert_snapshot!(status.message(), @"override.expires_at: is more than 90 days after the start, which ENTITLEMENTS_OVERRIDES_LONGEST forbids: choose an earlier end, or `permanent`");
    try_set(&replica, lasting(89)).await.unwrap();
    set(&replica, granted(ADA, "export")).await;
}

#[tokio::test]
async fn a_name_that_a_later_catalog_will_have_is_accepted_if_the_caller_says_so() {
    let db = Db::new().await;
    let replica = replica(&db).await;
    for found in [granted(ADA, "beta"), plan_granted(ADA, "gold")] {
        let request = SetOverrideRequest { r#override: Some(found), ..Default::default() };
        assert_eq!(
            try_set(&replica, request.clone()).await.unwrap_err().code(),
            Code::InvalidArgument
        );
        try_set(&replica, SetOverrideRequest { allow_unknown: true, ..request }).await.unwrap();
    }
    assert!(replica.check(ADA, "", "beta").await.allowed);
    assert_eq!(replica.check(ADA, "", "export").await.reason(), Reason::UnknownPlan);
}

#[tokio::test]
async fn the_name_of_the_caller_is_recorded_and_a_caller_needs_the_scope() {
    let (db, callers) = (Db::new().await, CallersFile::new());
    let keys = [
        callers.create("bob", &[Scope::Overrides]),
        callers.create("others", &[Scope::Check, Scope::Support, Scope::Admin]),
    ];
    let replica = callers.replica(&db).await;
    let mut client = OverridesClient::new(replica.channel.clone());
    let found = Override { on_behalf_of: "carol".into(), ..granted(ADA, "sso") };
    let mut codes = Vec::new();
    for key in [Some(&keys[0]), Some(&keys[1]), None] {
        let message = SetOverrideRequest { r#override: Some(found.clone()), ..Default::default() };
        let mut request = Request::new(message);
        if let Some(key) = key {
            request.metadata_mut().insert("authorization", key.parse().unwrap());
        }
        let answer = client.set_override(request).await;
        codes.push(answer.as_ref().map_or_else(Status::code, |_| Code::Ok));
        if let Ok(answer) = answer {
            let found = answer.into_inner().r#override.unwrap();
            assert_eq!((&*found.set_by, &*found.on_behalf_of), ("bob", "carol"));
        }
    }
    assert_eq!(codes, [Code::Ok, Code::PermissionDenied, Code::Unauthenticated]);
    assert_eq!(db.count("override").await, 1);
}
