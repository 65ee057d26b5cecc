//! Inputs of public bug reports, each with the expected result.

use crate::support::webhook_cases::{Case, check};

/// A subject, its files with their expected outcomes, and its answers afterwards.
type Reported = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [(&'static str, &'static str)],
);

/// All reports about webhooks. The order matters, because slugs of plan ids are stored.
const REPORTED: [Reported; 16] = [
    ("user_field01", &[("01a-upgrade-free-item-negative-end", "applied")], &[("export", "PLAN")]),
    (
        "user_field01",
        &[("01b-ended-negative-end", "applied")],
        &[("export", "ENDED"), ("basic_reports", "DEFAULT_PLAN")],
    ),
    ("user_field02", &[("02-period-start-zero", "applied")], &[("export", "PLAN")]),
    (
        "user_field03",
        &[("03a-active", "applied"), ("03b-canceled-plan-null-same-plan-id", "applied")],
        &[("export", "CANCELED_BUT_PAID")],
    ),
    ("user_field04", &[("04-plan-id-only", "applied")], &[("export", "PLAN")]),
    (
        "user_field05",
        &[("05a-active", "applied"), ("05b-subscription_items-ended", "applied")],
        &[("export", "ENDED")],
    ),
    (
        "user_field06",
        &[("06a-active", "applied"), ("06b-active-with-empty-items", "parked")],
        &[("export", "PLAN")],
    ),
    ("user_field07", &[("07-renamed-plan.webhook", "applied")], &[("export", "UNKNOWN_PLAN")]),
    (
        "user_field17",
        &[("17a-active", "applied"), ("17b-ended-nul-in-name", "applied")],
        &[("export", "ENDED")],
    ),
    ("user_field41", &[("41-parked-about-somebody-new", "applied")], &[("export", "PLAN")]),
    ("org_field42", &[("42a-active", "applied")], &[("sso", "PLAN")]),
    ("org_field44", &[("44a-item", "applied")], &[("sso", "PLAN")]),
    ("user_field44", &[("44b-same-item-other-subject", "applied")], &[("export", "PLAN")]),
    ("org_field44", &[], &[("sso", "PLAN")]),
    ("user_field45", &[("45-lifetime-end-9999", "applied")], &[("export", "PLAN")]),
    ("user_field46", &[("46-number-out-of-range", "applied")], &[("export", "PLAN")]),
];

#[tokio::test]
async fn inputs_of_public_bug_reports_are_parsed_as_intended() {
    let case = |(subject, files, answers): &Reported| {
        let case = Case::files(subject, files);
        answers.iter().fold(case, |case, (feature, reason)| case.then(feature, reason))
    };
    check(&REPORTED.iter().map(case).collect::<Vec<_>>()).await;
}
