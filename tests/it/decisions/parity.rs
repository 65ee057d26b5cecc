//! Compares the answers with those of Clerk's own `has()`.
//!
//! `tests/parity/generate.mjs` called the `createCheckAuthorization` of npm's `@clerk/shared`, and its output is
//! committed. A difference must be one of those listed in [`Difference`]. SQL must answer as the service does.

use crate::{
    support::database::Db,
    support::service::{Replica, config},
};
use entitlements::{
    api::pb::{CheckFeatureRequest, CheckPlanRequest},
    domain::Catalog,
};
use serde::Deserialize;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use std::{collections::BTreeMap, fmt::Write};
use tonic::Code;

#[derive(Deserialize)]
struct Cases {
    /// Kind of payer, plan, features.
    catalog: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    sessions: Vec<Session>,
}

/// The plans of a user and of the active organization, and Clerk's answers.
#[derive(Deserialize)]
struct Session {
    user: Vec<String>,
    organization: Option<Vec<String>>,
    /// `feature` or `plan`, the slug, and whether it is allowed.
    answers: BTreeMap<String, BTreeMap<String, bool>>,
}

/// A reason why this service's answer differs from Clerk's, and is right.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    /// Clerk drops the text after a second colon and answers for the rest: `org:sso:x` as `org:sso`. A typing error
    /// would be granted. Here the slug is `sso:x`, which no plan has.
    SecondColonIsPartOfTheSlug,
    /// Clerk denies a question without a slug. Here it is an invalid argument, so that the caller's author notices.
    NoSlugIsInvalid,
}

/// The service's answer: allowed or denied; `None`: an invalid argument.
fn difference(text: &str, clerk: bool, ours: Option<bool>) -> Option<Difference> {
    match ours {
        Some(ours) if ours == clerk => None,
        Some(false) if text.matches(':').count() > 1 => {
            Some(Difference::SecondColonIsPartOfTheSlug)
        }
        None if !clerk && text.rsplit(':').next() == Some("") => Some(Difference::NoSlugIsInvalid),
        _ => panic!("`{text}`: Clerk says {clerk}, the service {ours:?}"),
    }
}

async fn ask(replica: &Replica, wanted: &str, text: &str, user: &str, org: &str) -> Option<bool> {
    let (user_id, organization_id) = (user.to_owned(), org.to_owned());
    let mut client = replica.client.clone();
    let answer = if wanted == "plan" {
        let plan = text.to_owned();
        let request = CheckPlanRequest { user_id, organization_id, plan, ..Default::default() };
        client.check_plan(request).await.map(|answer| answer.into_inner().allowed)
    } else {
        let feature = text.to_owned();
        let request =
            CheckFeatureRequest { user_id, organization_id, feature, ..Default::default() };
        client.check_feature(request).await.map(|answer| answer.into_inner().allowed)
    };
    answer.inspect_err(|status| assert_eq!(status.code(), Code::InvalidArgument, "{text}")).ok()
}

/// The answer of SQL about a feature.
async fn ask_sql(db: &mut PgConnection, feature: &str, user: &str, org: &str) -> Option<bool> {
    let query = "select entitlements.has_feature($1, $2, nullif($3, ''))";
    let answer = sqlx::query_scalar(query).bind(feature).bind(user).bind(org).fetch_one(db).await;
    let code =
        |error: sqlx::Error| error.into_database_error().and_then(|e| Some(e.code()?.into_owned()));
    answer.map_err(code).inspect_err(|code| assert_eq!(code.as_deref(), Some("22023"))).ok()
}

async fn hold(replica: &Replica, key: &str, id: &str, plans: &[String]) {
    for plan in plans {
        let data = json!({
            "object": "subscription_item", "id": format!("csub_item_{id}_{plan}"), "status": "active",
            "plan": { "slug": plan }, "updated_at": 1_790_000_000_000_i64, "payer": { key: id },
        });
        let body = json!({ "type": "subscriptionItem.active", "data": data });
        assert_eq!(replica.send(&body.to_string()).await.result(), "applied", "{body}");
    }
}

fn catalog(cases: &Cases) -> Catalog {
    let mut toml = String::new();
    for (kind, plans) in &cases.catalog {
        for (plan, features) in plans {
            writeln!(toml, "[{kind}.plans.{plan}]\nfeatures = {features:?}").unwrap();
        }
    }
    Catalog::from_toml(&toml).unwrap()
}

#[tokio::test]
async fn answers_agree_with_clerks_own_has() {
    let cases: Cases = serde_json::from_str(include_str!("../../parity/cases.json")).unwrap();
    let db = Db::new().await;
    let config = entitlements::config::Config {
        catalog: Some((catalog(&cases), "parity".into())),
        ..config(&db)
    };
    let replica = Replica::start_with(config).await;

    let mut connection = PgConnection::connect(&db.url).await.unwrap();
    let (mut asked, mut asked_sql, mut allowed, mut differences) = (0, 0, 0, BTreeMap::new());
    for (n, session) in cases.sessions.iter().enumerate() {
        let (user, mut org) = (format!("user_{n}"), String::new());
        hold(&replica, "user_id", &user, &session.user).await;
        if let Some(plans) = &session.organization {
            org = format!("org_{n}");
            hold(&replica, "organization_id", &org, plans).await;
        }
        for (wanted, answers) in &session.answers {
            for (text, clerk) in answers {
                let ours = ask(&replica, wanted, text, &user, &org).await;
                if wanted == "feature" {
                    assert_eq!(ask_sql(&mut connection, text, &user, &org).await, ours, "{text}");
                    asked_sql += 1;
                }
                asked += 1;
                allowed += usize::from(*clerk);
                if let Some(difference) = difference(text, *clerk, ours) {
                    *differences.entry(difference).or_insert(0) += 1;
                }
            }
        }
    }
    eprintln!(
        "{asked} questions, {asked_sql} of them also in SQL, {allowed} allowed by Clerk, differences: {differences:?}"
    );
    assert!(asked > 2000 && allowed > 500, "{asked} questions, {allowed} allowed");
}
