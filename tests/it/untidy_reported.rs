//! The inputs of public bug reports, each with what is right.

use crate::untidy::{Case, check};

/// Of every report about a webhook; in this order, because plan ids are remembered.
fn reported() -> Vec<Case> {
    vec![
        Case::files("user_field01", &[("01a-upgrade-free-item-negative-end", "applied")])
            .then("export", "PLAN"),
        Case::files("user_field01", &[("01b-ended-negative-end", "applied")])
            .then("export", "ENDED")
            .then("basic_reports", "DEFAULT_PLAN"),
        Case::files("user_field02", &[("02-period-start-zero", "applied")]).then("export", "PLAN"),
        Case::files(
            "user_field03",
            &[("03a-active", "applied"), ("03b-canceled-plan-null-same-plan-id", "applied")],
        )
        .then("export", "CANCELED_BUT_PAID"),
        Case::files("user_field04", &[("04-plan-id-only", "applied")]).then("export", "PLAN"),
        Case::files(
            "user_field05",
            &[("05a-active", "applied"), ("05b-subscription_items-ended", "applied")],
        )
        .then("export", "ENDED"),
        Case::files(
            "user_field06",
            &[("06a-active", "applied"), ("06b-active-with-empty-items", "parked")],
        )
        .then("export", "PLAN"),
        Case::files("user_field07", &[("07-renamed-plan.webhook", "applied")])
            .then("export", "UNKNOWN_PLAN"),
        Case::files(
            "user_field17",
            &[("17a-active", "applied"), ("17b-ended-nul-in-name", "applied")],
        )
        .then("export", "ENDED"),
        Case::files("user_field41", &[("41-parked-about-somebody-new", "applied")])
            .then("export", "PLAN"),
        Case::files("org_field42", &[("42a-active", "applied")]).then("sso", "PLAN"),
        Case::files("org_field44", &[("44a-item", "applied")]).then("sso", "PLAN"),
        Case::files("user_field44", &[("44b-same-item-other-subject", "applied")])
            .then("export", "PLAN"),
        Case::files("org_field44", &[]).then("sso", "PLAN"),
        Case::files("user_field45", &[("45-lifetime-end-9999", "applied")]).then("export", "PLAN"),
        Case::files("user_field46", &[("46-number-out-of-range", "applied")])
            .then("export", "PLAN"),
    ]
}

#[tokio::test]
async fn inputs_of_public_reports_are_taken_as_they_are_meant() {
    check(&reported()).await;
}
