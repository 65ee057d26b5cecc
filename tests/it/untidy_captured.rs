//! Bodies of other people's tests, notes and stand-ins, each with what is right.

use crate::untidy::{Case, check};

/// Of one file, named without its folder.
fn one(subject: &str, name: &str, result: &'static str) -> Case {
    several(subject, &[(name, result)])
}

fn several(subject: &str, files: &[(&str, &'static str)]) -> Case {
    let files: Vec<_> =
        files.iter().map(|(name, result)| (format!("captured/{name}"), *result)).collect();
    let files: Vec<_> = files.iter().map(|(name, result)| (&**name, *result)).collect();
    Case::files(subject, &files)
}

/// Those that are about one delivery or its follower.
fn first_half() -> Vec<Case> {
    vec![
        one("user_cap01a", "01a-lumina-item", "applied").then("export", "PLAN"),
        one("user_cap01", "01b-lumina-item-1", "applied").then("export", "PLAN"),
        one("user_cap01", "01b-lumina-item-2", "applied").then("export", "PAST_DUE_IN_GRACE"),
        one("user_cap02", "02-lumina-contradiction", "applied").then("export", "PAST_DUE_IN_GRACE"),
        one("user_cap03", "03-lumina-51-items", "applied").then("export", "PLAN"),
        one("user_cap04", "04-deadrop-created", "applied").then("export", "PLAN"),
        one("user_cap05", "05-deadrop-canceled", "applied").then("export", "PERIOD_OVER"),
        one("user_cap06", "06-atlaris-payer-id", "parked").then("export", "NOT_IN_PLAN"),
        one("user_cap07", "07-atlaris-payment-failed", "ignored").then("export", "NOT_IN_PLAN"),
        one("user_cap08", "08-atlaris-no-slug", "applied").then("export", "UNKNOWN_PLAN"),
        one("user_cap09", "09-camel-case-item", "parked").then("export", "NOT_IN_PLAN"),
        one("user_cap10", "10-wrapped-subscription", "parked").then("export", "NOT_IN_PLAN"),
        one("user_cap11", "11-wrapped-item", "parked").then("export", "NOT_IN_PLAN"),
        one("org_cap12", "12-item-with-plan-features", "applied").then("sso", "ALLOWED"),
        one("org_cap13", "13-item-inherits-status", "parked").then("sso", "DENIED"),
        several(
            "org_cap14",
            &[
                ("14-item-canceled-without-plan-1", "applied"),
                ("14-item-canceled-without-plan-2", "applied"),
            ],
        )
        .then("sso", "CANCELED_BUT_PAID"),
        one("org_cap15", "15-top-level-org-id", "parked").then("sso", "NOT_IN_PLAN"),
        one("user_cap16", "16-items-without-id", "parked").then("export", "NOT_IN_PLAN"),
        one("user_cap17", "17-homestead-annual", "applied").then("export", "ALLOWED"),
        one("user_cap18", "18-homestead-swap", "applied").then("ai_assistant", "ALLOWED"),
        one("user_cap19", "19-renewal-period-ahead", "applied").then("export", "ALLOWED"),
        one("user_cap20", "20-subscription-deleted", "parked").then("export", "NOT_IN_PLAN"),
        one("user_cap21", "21-past-due-name-only", "parked").then("export", "NOT_IN_PLAN"),
        one("user_cap22", "22-uwu-envelope-orders-1", "applied").then("export", "PLAN"),
        one("user_cap22", "22-uwu-envelope-orders-2", "superseded").then("export", "PLAN"),
        several(
            "user_cap23",
            &[
                ("23-uwu-two-items-1", "applied"),
                ("23-uwu-two-items-2", "applied"),
                ("23-uwu-two-items-3", "applied"),
            ],
        )
        .then("export", "PLAN"),
    ]
}

/// The others; a plan id in them was told with its slug by an earlier one.
fn second_half() -> Vec<Case> {
    vec![
        one("user_cap04", "04-deadrop-created", "applied"),
        one("user_cap24", "24-plan-id-only-snapshot", "applied").then("export", "TRIAL"),
        one("user_cap25", "25-annual-trial", "applied").then("export", "TRIAL"),
        one("user_cap26", "26-ended-without-plan-1", "applied").then("export", "PLAN"),
        one("user_cap26", "26-ended-without-plan-2", "parked").then("export", "PLAN"),
        one("user_cap27", "27-plan-without-slug", "applied").then("export", "UNKNOWN_PLAN"),
        one("user_cap28", "28-dates-in-seconds", "applied").then("export", "ALLOWED"),
        one("org_cap29", "29-both-payer-ids", "applied").then("sso", "PLAN"),
        one("user_cap30", "30-old-past-due-name", "applied").then("export", "PAST_DUE_IN_GRACE"),
        one("user_cap31", "31-credit-pack", "ignored").then("export", "NOT_IN_PLAN"),
        several(
            "org_cap32",
            &[
                ("32-canceled-top-level-only-1", "applied"),
                ("32-canceled-top-level-only-2", "applied|parked"),
            ],
        )
        .then("sso", "ALLOWED"),
        one("org_cap33", "33-plan-name-only", "applied").then("sso", "UNKNOWN_PLAN"),
        one("org_cap34", "34-unknown-org-empty-items", "parked")
            .then("basic_reports", "DEFAULT_PLAN"),
        one("user_cap35", "35-store-managed", "applied").then("export", "PLAN"),
        one("org_cap36", "36-seats-with-tiers", "applied").then("sso", "PLAN"),
        one("user_cap37", "37-canceled-annual-no-end", "applied").then("export", "PERIOD_OVER"),
        one("user_cap38", "38-unknown-enum", "applied").then("export", "UNKNOWN_STATUS"),
        one("user_cap39", "39-trialing-status", "applied").then("export", "UNKNOWN_STATUS"),
        one("user_cap40", "40-user-ids-of-others", "parked").then("export", "NOT_IN_PLAN"),
        one("user_cap41", "41-downgrade-pair", "applied").then("ai_assistant", "CANCELED_BUT_PAID"),
        one("user_cap42", "42-failed-upgrade", "applied")
            .then("ai_assistant", "DENIED")
            .then("export", "PLAN"),
        one("user_cap43", "43-incomplete-checkout", "applied")
            .then("ai_assistant", "CHECKOUT_INCOMPLETE")
            .then("export", "PLAN"),
        several(
            "user_cap44",
            &[
                ("44-snapshot-date-not-moved-1", "applied"),
                ("44-snapshot-date-not-moved-2", "applied"),
            ],
        )
        .then("export", "DENIED")
        .then("basic_reports", "PLAN"),
        one("user_34D368EufHwugfYh4yyGNEheM0S", "45-dashboard-example", "applied"),
        one("user_cap80", "80-spec-2025-09-subscription.created", "parked"),
        one("user_cap81", "81-spec-2025-09-subscriptionItem.active", "parked"),
        one(
            "user_2g7np7Hrk0SN6kj5EDMLDaKNL0S",
            "82-spec-2025-09-subscriptionItem.freeTrialEnding",
            "applied",
        ),
    ]
}

#[tokio::test]
async fn bodies_of_other_peoples_receivers_are_taken_as_they_are_meant() {
    check(&first_half()).await;
}

#[tokio::test]
async fn bodies_of_other_peoples_stand_ins_are_taken_as_they_are_meant() {
    check(&second_half()).await;
}
