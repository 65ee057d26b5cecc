//! Overrides of an operator take precedence over plans, in the order that the contract states.

use super::{at, check, check_plan, grant, item, org, overriding, user};
use crate::domain::*;

fn slug(text: &str) -> Slug {
    text.parse().unwrap()
}

fn to_february() -> Until {
    Until::Instant(at("2026-02-01"))
}

#[test]
fn a_denying_override_outranks_a_granting_one_and_that_outranks_plans() {
    let granted = |until| overriding(user([]), grant("assistant", Amount::AtLeast(5)), until);
    let forever = granted(Until::Forever);
    check(&[&forever], "assistant", "2026-01-15", "allowed OverrideGrants - of user_ada limit 5");
    let ending = granted(to_february());
    let until = "allowed OverrideGrants - of user_ada limit 5 until 2026-02-01";
    check(&[&ending], "assistant", "2026-01-15", until);
    check(&[&ending], "assistant", "2026-02-01", "denied NotInPlan");

    let denied =
        overriding(user([item("pro")]), Effect::DenyFeature(slug("export")), to_february());
    let acme = org([item("team")]);
    check(&[&denied, &acme], "export", "2026-01-15", "denied OverrideDenies until 2026-02-01");
    check(&[&denied, &acme], "org:export", "2026-01-15", "allowed Plan team of org_acme");
    check(&[&denied], "export", "2026-02-01", "allowed RenewalOverdue pro of user_ada");
}

#[test]
fn an_override_from_now_is_in_force_also_where_the_clock_is_behind() {
    let ada = overriding(user([item("pro")]), Effect::DenyFeature(slug("export")), Until::Forever);
    check(&[&ada], "export", "2025-12-31", "denied OverrideDenies");
}

#[test]
fn an_override_begins_at_its_start_and_the_answer_before_ends_there() {
    let ada = overriding(user([item("pro")]), Effect::DenyFeature(slug("export")), Until::Forever);
    let mut overrides = ada.overrides.clone();
    overrides[0].from = Some(at("2026-01-20"));
    let ada = Account { overrides, ..ada };
    check(&[&ada], "export", "2026-01-15", "allowed Plan pro of user_ada until 2026-01-20");
    check(&[&ada], "export", "2026-01-20", "denied OverrideDenies");
}

#[test]
fn a_larger_limit_of_a_plan_wins_over_at_least_and_not_over_exactly() {
    let at_least = |limit| {
        overriding(user([item("pro")]), grant("projects", Amount::AtLeast(limit)), to_february())
    };
    let more = "allowed OverrideGrants - of user_ada limit 40 until 2026-02-01";
    check(&[&at_least(40)], "projects", "2026-01-15", more);
    let plan = "allowed OverrideGrants - of user_ada limit 25 until 2026-02-01";
    check(&[&at_least(10)], "projects", "2026-01-15", plan);
    let exact = overriding(at_least(40), grant("projects", Amount::Exactly(3)), to_february());
    let fewer = "allowed OverrideGrants - of user_ada limit 3 until 2026-02-01";
    check(&[&exact], "projects", "2026-01-15", fewer);
    let newer = overriding(exact, grant("projects", Amount::Exactly(7)), Until::Forever);
    check(&[&newer], "projects", "2026-01-15", "allowed OverrideGrants - of user_ada limit 7");
    let team = org([item("team")]);
    check(
        &[&newer, &team],
        "projects",
        "2026-01-15",
        "allowed OverrideGrants - of user_ada limit 7",
    );
}

#[test]
fn a_granted_plan_counts_as_a_live_item_and_replaces_the_default_plan() {
    let ada = overriding(user([]), Effect::GrantPlan(slug("max")), to_february());
    let granted = "allowed OverrideGrants max of user_ada limit 100 until 2026-02-01";
    check(&[&ada], "projects", "2026-01-15", granted);
    check_plan(
        &[&ada],
        "max",
        "2026-01-15",
        "allowed OverrideGrants max of user_ada until 2026-02-01",
    );
    check_plan(&[&ada], "free", "2026-01-15", "denied NotInPlan until 2026-02-01");
    check_plan(&[&ada], "free", "2026-02-01", "allowed DefaultPlan free of user_ada");
    assert_eq!(ada.default_plan(super::catalog(), at("2026-01-15")), None);
    assert_eq!(ada.default_plan(super::catalog(), at("2026-02-01")), Some(&slug("free")));
}

#[test]
fn a_denied_plan_denies_each_feature_that_it_has() {
    let ada = overriding(user([item("max")]), Effect::DenyPlan(slug("pro")), to_february());
    check(&[&ada], "export", "2026-01-15", "denied OverrideDenies until 2026-02-01");
    check(&[&ada], "assistant", "2026-01-15", "allowed Plan max of user_ada");
    check_plan(&[&ada], "pro", "2026-01-15", "denied OverrideDenies");
}

#[test]
fn an_override_of_a_plan_that_the_catalog_lost_grants_nothing_and_says_so() {
    let ada = overriding(user([]), Effect::GrantPlan(slug("gold")), Until::Forever);
    check(&[&ada], "export", "2026-01-15", "denied UnknownPlan");
}

#[test]
fn entitlements_are_all_features_that_a_check_would_allow() {
    let ada = overriding(user([item("pro")]), grant("beta", Amount::Plain), Until::Forever);
    let found = entitlements(&ada, super::catalog(), at("2026-01-15"));
    let features: Vec<_> = found.iter().map(|e| e.feature.as_str()).collect();
    assert_eq!(features, ["beta", "export", "projects", "reports"]);
}
