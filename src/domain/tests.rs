//! Tests of the rules of access, and property tests of the laws that hold for all accounts.

mod history;
mod history_records;
mod laws;
mod many;
mod numbers;
mod overrides;
mod plans;
mod texts;

use super::*;
use chrono::{DateTime, Duration, Utc};
use std::sync::LazyLock;

/// The catalog of these tests.
pub(super) fn catalog() -> &'static Catalog {
    static CATALOG: LazyLock<Catalog> = LazyLock::new(|| Catalog::from_toml(TEXT).unwrap());
    &CATALOG
}

const TEXT: &str = r#"
        [user]
        default_plan = "free"
        [user.plans.free]
        features = ["reports"]
        [user.plans.pro]
        features = ["reports", "export"]
        limits = { projects = 25 }
        [user.plans.max]
        features = ["reports", "export", "assistant"]
        limits = { projects = 100 }
        [organization.plans.team]
        features = ["export", "sso", "projects"]
        "#;

pub(super) fn at(text: &str) -> DateTime<Utc> {
    let full = if text.len() == 10 { format!("{text}T00:00:00Z") } else { format!("{text}:00Z") };
    full.parse().unwrap()
}

/// An item of a plan, active since 2026-01-01 in a period that ends on 2026-02-01.
pub(super) fn item(plan: &str) -> Item {
    Item {
        id: format!("csub_item_{plan}").into(),
        plan: Some(plan.into()),
        status: Status::Active,
        free_trial: false,
        period_start: Some(at("2026-01-01")),
        period_end: Some(at("2026-02-01")),
        canceled_at: None,
        past_due_at: None,
        seats: None,
        plan_id: None,
        was_active: true,
        updated_at: at("2026-01-01"),
    }
}

fn with_status(plan: &str, status: &str) -> Item {
    Item { status: status.into(), ..item(plan) }
}

pub(super) fn user(items: impl IntoIterator<Item = Item>) -> Account {
    account("user_ada", items)
}

pub(super) fn org(items: impl IntoIterator<Item = Item>) -> Account {
    account("org_acme", items)
}

fn account(subject: &str, items: impl IntoIterator<Item = Item>) -> Account {
    let unknown = Account::unknown(subject.parse().unwrap());
    Account { items: PackedItems::pack(items).unwrap(), revision: 1, ..unknown }
}

/// Adds an override that is in force from 2026-01-01.
fn overriding(account: Account, effect: Effect, until: Until) -> Account {
    let set_at = at("2026-01-01");
    let nth = u64::try_from(account.overrides.len()).unwrap();
    let id = OverrideId(uuid::Uuid::from_u64_pair(0, nth));
    let set_at = set_at + Duration::seconds(nth.cast_signed());
    let found = Override { id, effect, from: None, until, set_at };
    let overrides = account.overrides.into_iter().chain([found]).collect();
    Account { overrides, ..account }
}

fn grant(feature: &str, amount: Amount) -> Effect {
    Effect::GrantFeature(feature.parse().unwrap(), amount)
}

/// A decision in one line, in the format of the tests.
fn line_of(decision: &Decision<'_>) -> String {
    let line = match decision.verdict {
        Verdict::Allowed { reason, subject, plan, limit, .. } => {
            let plan = plan.unwrap_or("-");
            let limit = limit.map(|n| format!(" limit {n}")).unwrap_or_default();
            format!("allowed {reason:?} {plan} of {subject}{limit}")
        }
        Verdict::Denied { reason, .. } => format!("denied {reason:?}"),
    };
    match decision.valid_until {
        Some(until) => format!("{line} until {}", until.format("%F")),
        None => line,
    }
}

/// The catalog of the tests, with another grace.
fn with_grace(grace: Grace) -> Catalog {
    let mut catalog = catalog().clone();
    catalog.grace = grace;
    catalog
}

#[track_caller]
fn check_with(grace: Grace, accounts: &[&Account], feature: &str, now: &str, expected: &str) {
    let question = Question::feature(feature).unwrap();
    let catalog = with_grace(grace);
    let decision = decide(accounts, &catalog, &question, at(now));
    assert_eq!(line_of(&decision), expected, "{feature} at {now}");
}

#[track_caller]
fn check(accounts: &[&Account], feature: &str, now: &str, expected: &str) {
    check_with(Grace::default(), accounts, feature, now, expected);
}

#[track_caller]
fn check_plan(accounts: &[&Account], plan: &str, now: &str, expected: &str) {
    let question = Question::plan(plan).unwrap();
    let decision = decide(accounts, catalog(), &question, at(now));
    assert_eq!(line_of(&decision), expected, "{plan} at {now}");
}

#[test]
fn an_active_item_grants_its_plan_and_is_not_cut_at_the_end_of_its_period() {
    let ada = user([item("pro")]);
    check(&[&ada], "export", "2026-01-15", "allowed Plan pro of user_ada");
    check(&[&ada], "export", "2026-02-01", "allowed RenewalOverdue pro of user_ada");
    check(&[&ada], "export", "2030-01-01", "allowed RenewalOverdue pro of user_ada");
    check(&[&ada], "assistant", "2026-01-15", "denied NotInPlan");
}

#[test]
fn a_renewal_grace_ends_an_active_item_that_long_after_its_period() {
    let grace = Grace { renewal: Some(Duration::days(3)), ..Grace::default() };
    let ada = user([item("pro")]);
    check_with(
        grace,
        &[&ada],
        "export",
        "2026-01-15",
        "allowed Plan pro of user_ada until 2026-02-04",
    );
    let overdue = "allowed RenewalOverdue pro of user_ada until 2026-02-04";
    check_with(grace, &[&ada], "export", "2026-02-03T23:59", overdue);
    check_with(grace, &[&ada], "export", "2026-02-04", "denied PeriodOver");
}

#[test]
fn a_canceled_item_grants_to_the_end_of_the_paid_period_and_not_at_it() {
    for canceled in [
        with_status("pro", "canceled"),
        Item { canceled_at: Some(at("2026-01-10")), ..item("pro") },
    ] {
        let ada = user([canceled]);
        let allowed = "allowed CanceledButPaid pro of user_ada until 2026-02-01";
        check(&[&ada], "export", "2026-01-31T23:59", allowed);
        check(&[&ada], "export", "2026-02-01", "denied PeriodOver");
    }
}

#[test]
fn a_canceled_item_without_an_end_grants_nothing() {
    let ada = user([Item { period_end: None, ..with_status("pro", "canceled") }]);
    check(&[&ada], "export", "2026-01-15", "denied PeriodOver");
}

#[test]
fn a_trial_is_not_paid_and_ends_soon_after_its_end_without_an_update() {
    let trial = Item { free_trial: true, ..item("pro") };
    let ada = user([trial.clone()]);
    let running = "allowed Trial pro of user_ada until 2026-02-04";
    check(&[&ada], "export", "2026-01-15", running);
    let overdue = "allowed RenewalOverdue pro of user_ada until 2026-02-04";
    check(&[&ada], "export", "2026-02-01", overdue);
    check(&[&ada], "export", "2026-02-04", "denied TrialOver");
    let canceled = user([Item { status: Status::Canceled, ..trial }]);
    let allowed = "allowed CanceledButPaid pro of user_ada until 2026-02-01";
    check(&[&canceled], "export", "2026-01-15", allowed);
}

#[test]
fn an_active_item_of_a_subscription_that_is_past_due_is_bounded_once_its_period_is_over() {
    let grace = Grace { past_due: Some(Duration::days(3)), ..Grace::default() };
    let due = Item { past_due_at: Some(at("2026-02-01")), ..item("pro") };
    let ada = user([due.clone()]);
    let running = "allowed Plan pro of user_ada until 2026-02-04";
    check_with(grace, &[&ada], "export", "2026-01-15", running);
    let overdue = "allowed PastDueInGrace pro of user_ada until 2026-02-04";
    check_with(grace, &[&ada], "export", "2026-02-01", overdue);
    check_with(grace, &[&ada], "export", "2026-02-04", "denied PastDue");
    let renewed = user([Item { period_end: Some(at("2026-03-01")), ..due }]);
    check_with(
        grace,
        &[&renewed],
        "export",
        "2026-02-20",
        "allowed Plan pro of user_ada until 2026-03-01",
    );
}

#[test]
fn a_failed_payment_for_a_never_active_item_beside_an_active_one_grants_nothing() {
    let upgrade = Item { was_active: false, ..with_status("max", "past_due") };
    let ada = user([item("pro"), upgrade.clone()]);
    check(&[&ada], "assistant", "2026-01-15", "denied PastDue");
    check(&[&ada], "export", "2026-01-15", "allowed Plan pro of user_ada");
    let alone = user([upgrade.clone()]);
    check(&[&alone], "assistant", "2026-01-15", "allowed PastDueInGrace max of user_ada");
    let renewed = user([item("pro"), Item { was_active: true, ..upgrade }]);
    check(&[&renewed], "assistant", "2026-01-15", "allowed PastDueInGrace max of user_ada");
}

#[test]
fn a_past_due_item_grants_until_clerk_ends_it_or_the_grace_is_over() {
    let due = Item { past_due_at: Some(at("2026-02-01")), ..with_status("pro", "past_due") };
    let ada = user([due.clone()]);
    check(&[&ada], "export", "2027-01-01", "allowed PastDueInGrace pro of user_ada");

    let grace = Grace { past_due: Some(Duration::days(3)), ..Grace::default() };
    let allowed = "allowed PastDueInGrace pro of user_ada until 2026-02-04";
    check_with(grace, &[&ada], "export", "2026-02-03T23:59", allowed);
    check_with(grace, &[&ada], "export", "2026-02-04", "denied PastDue");

    let undated = user([Item { past_due_at: None, updated_at: at("2026-03-01"), ..due }]);
    let allowed = "allowed PastDueInGrace pro of user_ada until 2026-03-04";
    check_with(grace, &[&undated], "export", "2026-03-01", allowed);
}

#[test]
fn every_other_status_grants_nothing_with_any_dates() {
    for (status, denial) in [
        ("upcoming", "NotStarted"),
        ("incomplete", "CheckoutIncomplete"),
        ("abandoned", "Abandoned"),
        ("ended", "Ended"),
        ("expired", "Ended"),
        ("withdrawn", "UnknownStatus"),
        ("paused", "UnknownStatus"),
        ("", "UnknownStatus"),
    ] {
        let ada = user([with_status("pro", status)]);
        check(&[&ada], "export", "2026-01-15", &format!("denied {denial}"));
    }
    let withdrawn = user([Item { status: Status::Withdrawn, ..item("pro") }]);
    check(&[&withdrawn], "export", "2026-01-15", "denied Ended");
}

#[test]
fn a_subject_without_a_live_item_has_the_default_plan() {
    let empty = user([]);
    check(&[&empty], "reports", "2026-01-15", "allowed DefaultPlan free of user_ada");
    check(&[&empty], "export", "2026-01-15", "denied NotInPlan");
    let ended = user([with_status("pro", "ended")]);
    check(&[&ended], "reports", "2026-01-15", "allowed DefaultPlan free of user_ada");
    check(&[&org([])], "sso", "2026-01-15", "denied NoSubscription");
}

#[test]
fn a_paid_period_that_ends_hands_over_to_the_default_plan() {
    let ada = user([with_status("pro", "canceled")]);
    let paid = "allowed CanceledButPaid pro of user_ada until 2026-02-01";
    check(&[&ada], "reports", "2026-01-15", paid);
    check(&[&ada], "reports", "2026-02-01", "allowed DefaultPlan free of user_ada");
}

#[test]
fn beyond_the_default_plan_an_unknown_plan_grants_nothing() {
    let ada = user([Item { plan: None, ..with_status("pro", "canceled") }]);
    check(&[&ada], "export", "2026-01-15", "denied UnknownPlan");
}

#[test]
fn the_default_plan_stands_in_for_an_unknown_plan() {
    let ada = user([item("gold")]);
    let granted = "allowed DefaultForUnknownPlan free of user_ada";
    check(&[&ada], "reports", "2026-01-15", granted);
    check(&[&ada], "export", "2026-01-15", "denied UnknownPlan");
    check_plan(&[&ada], "free", "2026-01-15", granted);
    assert_eq!(ada.default_plan(catalog(), at("2026-01-15")), Some(&"free".parse().unwrap()));
    let canceled = user([with_status("gold", "canceled")]);
    check(&[&canceled], "reports", "2026-01-15", granted);
    check(&[&canceled], "reports", "2026-02-01", "allowed DefaultPlan free of user_ada");
}

#[test]
fn a_plan_of_the_other_kind_of_subject_is_unknown() {
    check(&[&user([item("team")])], "sso", "2026-01-15", "denied UnknownPlan");
}

#[test]
fn the_item_that_grants_longest_explains_the_decision() {
    let canceled = with_status("max", "canceled");
    let ada = user([canceled.clone(), item("pro")]);
    check(&[&ada], "export", "2026-01-15", "allowed Plan pro of user_ada");
    let until = "allowed CanceledButPaid max of user_ada until 2026-02-01";
    check(&[&ada], "assistant", "2026-01-15", until);
    let later = Item { period_end: Some(at("2026-03-01")), ..with_status("pro", "canceled") };
    let until = "allowed CanceledButPaid pro of user_ada until 2026-03-01";
    check(&[&user([canceled, later])], "export", "2026-01-15", until);
}

#[test]
fn the_largest_limit_counts_and_a_grant_without_a_number_is_not_limited() {
    let ada = user([item("pro"), with_status("max", "canceled")]);
    let both = "allowed Plan pro of user_ada limit 100 until 2026-02-01";
    check(&[&ada], "projects", "2026-01-15", both);
    check(&[&ada], "projects", "2026-02-01", "allowed RenewalOverdue pro of user_ada limit 25");
    let acme = org([with_status("team", "canceled")]);
    let unlimited = "allowed Plan pro of user_ada until 2026-02-01";
    check(&[&user([item("pro")]), &acme], "projects", "2026-01-15", unlimited);
}

#[test]
fn grants_of_the_user_and_of_the_active_organization_both_count() {
    let (ada, acme) = (user([item("pro")]), org([item("team")]));
    let both = [&ada, &acme];
    check(&both, "assistant", "2026-01-15", "denied NotInPlan");
    check(&both, "sso", "2026-01-15", "allowed Plan team of org_acme");
    check(&both, "export", "2026-01-15", "allowed Plan pro of user_ada");
    check(&both, "org:export", "2026-01-15", "allowed Plan team of org_acme");
}

#[test]
fn a_scope_limits_the_question_to_one_subject() {
    let (ada, acme) = (user([item("pro")]), org([item("team")]));
    for scope in ["o", "org", "organization"] {
        let allowed = "allowed Plan team of org_acme";
        check(&[&ada, &acme], &format!("{scope}:sso"), "2026-01-15", allowed);
        check(&[&ada, &acme], &format!("{scope}:reports"), "2026-01-15", "denied NotInPlan");
        check(&[&ada], &format!("{scope}:export"), "2026-01-15", "denied OutOfScope");
    }
    for scope in ["u", "user"] {
        check(&[&ada, &acme], &format!("{scope}:sso"), "2026-01-15", "denied NotInPlan");
        let allowed = "allowed Plan pro of user_ada";
        check(&[&ada, &acme], &format!("{scope}:export"), "2026-01-15", allowed);
        check(&[&acme], &format!("{scope}:export"), "2026-01-15", "denied OutOfScope");
    }
    for scope in ["", "team", "User", "ou"] {
        let feature = format!("{scope}:export");
        check(&[&ada, &acme], &feature, "2026-01-15", "denied UnknownScope");
    }
}

#[test]
fn a_feature_of_no_plan_is_unknown_and_case_and_spaces_count() {
    let ada = user([item("pro")]);
    for feature in ["exports", "Export", " export", "export ", "org:exports"] {
        let denial =
            if feature.contains(':') { "denied OutOfScope" } else { "denied UnknownFeature" };
        check(&[&ada], feature, "2026-01-15", denial);
    }
}

#[test]
fn a_deleted_subject_has_nothing_not_even_the_default_plan() {
    let ada = Account { deleted_at: Some(at("2026-01-10")), ..user([item("pro")]) };
    check(&[&ada], "reports", "2026-01-15", "denied SubjectDeleted");
    let acme = org([item("team")]);
    check(&[&ada, &acme], "sso", "2026-01-15", "allowed Plan team of org_acme");
}

#[test]
fn the_most_specific_of_several_denials_is_given() {
    let ended = with_status("pro", "ended");
    let incomplete = with_status("max", "incomplete");
    check(
        &[&user([ended.clone(), incomplete])],
        "export",
        "2026-01-15",
        "denied CheckoutIncomplete",
    );
    check(&[&user([ended, item("free")])], "export", "2026-01-15", "denied Ended");
}

#[test]
fn a_plan_is_held_like_a_feature() {
    let (ada, acme) = (user([item("pro")]), org([item("team")]));
    check_plan(&[&ada, &acme], "pro", "2026-01-15", "allowed Plan pro of user_ada");
    check_plan(&[&ada, &acme], "org:team", "2026-01-15", "allowed Plan team of org_acme");
    check_plan(&[&ada, &acme], "org:pro", "2026-01-15", "denied NotInPlan");
    check_plan(&[&ada], "free", "2026-01-15", "denied NotInPlan");
    check_plan(&[&user([])], "free", "2026-01-15", "allowed DefaultPlan free of user_ada");
    check_plan(&[&ada], "gold", "2026-01-15", "denied UnknownPlan");
}
