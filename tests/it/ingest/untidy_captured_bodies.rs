//! Bodies from third-party tests, notes and mocks, each with the expected result.

use crate::support::webhook_cases::{Case, check};

/// A subject, its files with their expected outcomes, and its answers afterwards.
type Captured = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [(&'static str, &'static str)],
);

/// Bodies of receivers and their tests.
const RECEIVERS: [Captured; 26] = [
    ("user_cap01a", &[("01a-lumina-item", "applied")], &[("export", "PLAN")]),
    ("user_cap01", &[("01b-lumina-item-1", "applied")], &[("export", "PLAN")]),
    ("user_cap01", &[("01b-lumina-item-2", "applied")], &[("export", "PAST_DUE_IN_GRACE")]),
    ("user_cap02", &[("02-lumina-contradiction", "applied")], &[("export", "PAST_DUE_IN_GRACE")]),
    ("user_cap03", &[("03-lumina-51-items", "applied")], &[("export", "PLAN")]),
    ("user_cap04", &[("04-deadrop-created", "applied")], &[("export", "PLAN")]),
    ("user_cap05", &[("05-deadrop-canceled", "applied")], &[("export", "PERIOD_OVER")]),
    ("user_cap06", &[("06-atlaris-payer-id", "parked")], &[("export", "NOT_IN_PLAN")]),
    ("user_cap07", &[("07-atlaris-payment-failed", "ignored")], &[("export", "NOT_IN_PLAN")]),
    ("user_cap08", &[("08-atlaris-no-slug", "applied")], &[("export", "UNKNOWN_PLAN")]),
    ("user_cap09", &[("09-camel-case-item", "parked")], &[("export", "NOT_IN_PLAN")]),
    ("user_cap10", &[("10-wrapped-subscription", "parked")], &[("export", "NOT_IN_PLAN")]),
    ("user_cap11", &[("11-wrapped-item", "parked")], &[("export", "NOT_IN_PLAN")]),
    ("org_cap12", &[("12-item-with-plan-features", "applied")], &[("sso", "ALLOWED")]),
    ("org_cap13", &[("13-item-inherits-status", "parked")], &[("sso", "DENIED")]),
    (
        "org_cap14",
        &[
            ("14-item-canceled-without-plan-1", "applied"),
            ("14-item-canceled-without-plan-2", "applied"),
        ],
        &[("sso", "CANCELED_BUT_PAID")],
    ),
    ("org_cap15", &[("15-top-level-org-id", "parked")], &[("sso", "NOT_IN_PLAN")]),
    ("user_cap16", &[("16-items-without-id", "parked")], &[("export", "NOT_IN_PLAN")]),
    ("user_cap17", &[("17-homestead-annual", "applied")], &[("export", "ALLOWED")]),
    ("user_cap18", &[("18-homestead-swap", "applied")], &[("ai_assistant", "ALLOWED")]),
    ("user_cap19", &[("19-renewal-period-ahead", "applied")], &[("export", "ALLOWED")]),
    ("user_cap20", &[("20-subscription-deleted", "parked")], &[("export", "NOT_IN_PLAN")]),
    ("user_cap21", &[("21-past-due-name-only", "parked")], &[("export", "NOT_IN_PLAN")]),
    ("user_cap22", &[("22-uwu-envelope-orders-1", "applied")], &[("export", "PLAN")]),
    ("user_cap22", &[("22-uwu-envelope-orders-2", "superseded")], &[("export", "PLAN")]),
    (
        "user_cap23",
        &[
            ("23-uwu-two-items-1", "applied"),
            ("23-uwu-two-items-2", "applied"),
            ("23-uwu-two-items-3", "applied"),
        ],
        &[("export", "PLAN")],
    ),
];

/// Bodies of mocks and typed examples. Earlier bodies contain the slugs of their plan ids.
const STAND_INS: [Captured; 27] = [
    ("user_cap04", &[("04-deadrop-created", "applied")], &[]),
    ("user_cap24", &[("24-plan-id-only-snapshot", "applied")], &[("export", "TRIAL")]),
    ("user_cap25", &[("25-annual-trial", "applied")], &[("export", "TRIAL")]),
    ("user_cap26", &[("26-ended-without-plan-1", "applied")], &[("export", "PLAN")]),
    ("user_cap26", &[("26-ended-without-plan-2", "parked")], &[("export", "PLAN")]),
    ("user_cap27", &[("27-plan-without-slug", "applied")], &[("export", "UNKNOWN_PLAN")]),
    ("user_cap28", &[("28-dates-in-seconds", "applied")], &[("export", "ALLOWED")]),
    ("org_cap29", &[("29-both-payer-ids", "applied")], &[("sso", "PLAN")]),
    ("user_cap30", &[("30-old-past-due-name", "applied")], &[("export", "PAST_DUE_IN_GRACE")]),
    ("user_cap31", &[("31-credit-pack", "ignored")], &[("export", "NOT_IN_PLAN")]),
    (
        "org_cap32",
        &[
            ("32-canceled-top-level-only-1", "applied"),
            ("32-canceled-top-level-only-2", "applied|parked"),
        ],
        &[("sso", "ALLOWED")],
    ),
    ("org_cap33", &[("33-plan-name-only", "applied")], &[("sso", "UNKNOWN_PLAN")]),
    (
        "org_cap34",
        &[("34-unknown-org-empty-items", "parked")],
        &[("basic_reports", "DEFAULT_PLAN")],
    ),
    ("user_cap35", &[("35-store-managed", "applied")], &[("export", "PLAN")]),
    ("org_cap36", &[("36-seats-with-tiers", "applied")], &[("sso", "PLAN")]),
    ("user_cap37", &[("37-canceled-annual-no-end", "applied")], &[("export", "PERIOD_OVER")]),
    ("user_cap38", &[("38-unknown-enum", "applied")], &[("export", "UNKNOWN_STATUS")]),
    ("user_cap39", &[("39-trialing-status", "applied")], &[("export", "UNKNOWN_STATUS")]),
    ("user_cap40", &[("40-user-ids-of-others", "parked")], &[("export", "NOT_IN_PLAN")]),
    ("user_cap41", &[("41-downgrade-pair", "applied")], &[("ai_assistant", "CANCELED_BUT_PAID")]),
    (
        "user_cap42",
        &[("42-failed-upgrade", "applied")],
        &[("ai_assistant", "DENIED"), ("export", "PLAN")],
    ),
    (
        "user_cap43",
        &[("43-incomplete-checkout", "applied")],
        &[("ai_assistant", "CHECKOUT_INCOMPLETE"), ("export", "PLAN")],
    ),
    (
        "user_cap44",
        &[("44-snapshot-date-not-moved-1", "applied"), ("44-snapshot-date-not-moved-2", "applied")],
        &[("export", "DENIED"), ("basic_reports", "PLAN")],
    ),
    ("user_34D368EufHwugfYh4yyGNEheM0S", &[("45-dashboard-example", "applied")], &[]),
    ("user_cap80", &[("80-spec-2025-09-subscription.created", "parked")], &[]),
    ("user_cap81", &[("81-spec-2025-09-subscriptionItem.active", "parked")], &[]),
    (
        "user_2g7np7Hrk0SN6kj5EDMLDaKNL0S",
        &[("82-spec-2025-09-subscriptionItem.freeTrialEnding", "applied")],
        &[],
    ),
];

fn cases(table: &[Captured]) -> Vec<Case> {
    let case = |(subject, files, answers): &Captured| {
        let names: Vec<_> = files.iter().map(|(name, _)| format!("captured/{name}")).collect();
        let files: Vec<_> =
            names.iter().zip(*files).map(|(name, (_, result))| (&**name, *result)).collect();
        let case = Case::files(subject, &files);
        answers.iter().fold(case, |case, (feature, reason)| case.then(feature, reason))
    };
    table.iter().map(case).collect()
}

#[tokio::test]
async fn bodies_of_third_party_receivers_are_parsed_as_intended() {
    check(&cases(&RECEIVERS)).await;
}

#[tokio::test]
async fn bodies_of_third_party_mocks_are_parsed_as_intended() {
    check(&cases(&STAND_INS)).await;
}
