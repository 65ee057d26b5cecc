//! Responses of Clerk's Backend API taken from third-party code, each with the expected result.

use crate::{
    support::database::Db,
    support::fake_clerk::Clerk,
    support::service::{Replica, payload},
    support::shell::Shell,
    support::webhook_cases::{ask, fits, shown},
};

/// A response about a subject: its file, words of the output of `reconcile`, and the feature's answer afterwards.
struct Answer {
    file: &'static str,
    subject: &'static str,
    says: &'static [&'static str],
    feature: &'static str,
    reason: &'static str,
}

const fn answer(
    file: &'static str,
    subject: &'static str,
    says: &'static [&'static str],
    feature: &'static str,
    reason: &'static str,
) -> Answer {
    Answer { file, subject, says, feature, reason }
}

const NOT_UNDERSTOOD: &[&str] = &["1 not understood"];
const HEALED: &[&str] = &["1 healed"];

/// The order matters, because earlier responses contain the slugs of later plan ids.
const ANSWERS: [Answer; 12] = [
    answer("62-ios-subscription", "org_cap62", HEALED, "sso", "PLAN"),
    answer("63-mca-past-due", "org_cap63", HEALED, "sso", "PAST_DUE_IN_GRACE"),
    answer("66-infrasketch-statusless", "user_cap66", NOT_UNDERSTOOD, "export", "NOT_IN_PLAN"),
    answer("67-infrasketch-canceled-grace", "user_cap67", HEALED, "export", "CANCELED_BUT_PAID"),
    answer("68-ideagen-trimmed", "user_cap68", NOT_UNDERSTOOD, "export", "NOT_IN_PLAN"),
    answer("69-lightfast-soft-cancel", "org_cap69", HEALED, "sso", "CANCELED_BUT_PAID"),
    answer("70-lightfast-end-now", "org_cap70", HEALED, "sso", "DENIED"),
    answer("71-end-now-subscription-not-touched", "org_cap71", HEALED, "sso", "DENIED"),
    answer("72-msw-trial", "user_cap72", HEALED, "export", "TRIAL"),
    answer("73-store-managed-plan-null", "user_cap73", HEALED, "export", "PLAN"),
    answer("74-fapi-wrapped", "user_cap74", &["user_cap74"], "export", "NOT_IN_PLAN"),
    answer("77-resource-not-found", "user_cap77", &["1 not at Clerk"], "export", "NOT_IN_PLAN"),
];

/// Deliveries that precede some of the responses.
const BEFORE: [&str; 4] = [
    "65-infrasketch-known-ended-before",
    "69-lightfast-soft-cancel-before",
    "70-lightfast-end-now-before",
    "71-end-now-subscription-not-touched-before",
];

async fn setup() -> (Db, Clerk, Replica, Shell) {
    let (db, clerk) = (Db::new().await, Clerk::start().await);
    let replica = Replica::start(&db).await;
    for name in BEFORE {
        let answer = replica.send(&payload(&format!("field/captured/{name}"))).await;
        assert_eq!(answer.result(), "applied", "{name}: {answer:?}");
    }
    let shell = Shell::with_clerk(&db, &clerk);
    (db, clerk, replica, shell)
}

#[tokio::test]
async fn backend_responses_about_a_subscription_are_parsed_as_intended() {
    let (_db, clerk, replica, shell) = setup().await;
    let mut failed = Vec::new();
    for Answer { file, subject, says, feature, reason } in ANSWERS {
        let status = if file.starts_with("77") { 404 } else { 200 };
        clerk.answers(subject, status, payload(&format!("field/captured/{file}")));
        let (_, stdout, stderr) = shell.run(&["reconcile", subject]).await;
        replica.caught_up().await;
        let found = ask(&replica, subject, feature).await;
        let output = format!("{stdout}{stderr}");
        if !says.iter().all(|words| output.contains(words)) || !fits(&found, reason) {
            failed.push(format!("{file}: {says:?}, {reason}: {}: {output}", shown(&found)));
        }
    }
    assert!(failed.is_empty(), "{} fail:\n{}", failed.len(), failed.join("\n"));
}

#[tokio::test]
async fn a_response_without_a_date_is_imported_whole_or_reported_as_not_parsed() {
    let (_db, clerk, replica, shell) = setup().await;
    let mut failed = Vec::new();
    for (file, subject, agrees, before) in [
        ("60-weldspeak-subscription", "user_cap60", "PLAN", "NOT_IN_PLAN"),
        ("61-python-sdk-fixture", "user_cap61", "ALLOWED", "DENIED"),
        ("64-infrasketch-minimal", "user_cap64", "PLAN", "NOT_IN_PLAN"),
        ("65-infrasketch-known-ended", "user_cap65", "DENIED", "PLAN"),
    ] {
        clerk.answers(subject, 200, payload(&format!("field/captured/{file}")));
        let (_, stdout, stderr) = shell.run(&["reconcile", subject]).await;
        replica.caught_up().await;
        let found = ask(&replica, subject, "export").await;
        let taken = stdout.contains("1 healed") && fits(&found, agrees);
        let refused = stdout.contains("1 not understood") && fits(&found, before);
        if !taken && !refused {
            failed.push(format!("{file}: {}: {stdout}{stderr}", shown(&found)));
        }
    }
    assert!(failed.is_empty(), "{} fail:\n{}", failed.len(), failed.join("\n"));
}

#[tokio::test]
async fn lists_of_plans_are_parsed_as_intended() {
    let (_db, clerk, _replica, shell) = setup().await;
    let in_force = "in force now";
    for (file, code, words) in [
        ("90-android-plan-store-products", 0, in_force),
        ("91-ios-plan-prices", 0, in_force),
        ("92-ios-feature-slug-dashes", 0, in_force),
        ("93-plan-without-features", 0, "without its features"),
        ("94-plan-features-null", 0, "without its features"),
        ("96-older-plan", 0, in_force),
        ("97-same-slug-both-kinds", 0, in_force),
        ("99-feature-slug-digit-first", 0, in_force),
        ("75-billing-not-enabled", 2, "billing_not_enabled"),
        ("76-feature-not-enabled", 2, "feature_not_enabled"),
    ] {
        let status = match &file[..2] {
            "75" => 400,
            "76" => 403,
            _ => 200,
        };
        clerk.answers("plans", status, payload(&format!("field/captured/{file}")));
        let (found, stdout, stderr) = shell.run(&["catalog", "pull"]).await;
        let output = format!("{stdout}{stderr}");
        assert!(found == code && output.contains(words), "{file}: {found}, {output}");
    }
}
