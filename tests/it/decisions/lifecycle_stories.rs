//! Stories of Clerk's payloads, with the answers after each delivery.

use crate::{
    support::database::Db,
    support::service::{ACME, ADA, GRACE, JOAN, LINUS, Replica, payload},
};
use entitlements::api::pb::{CheckFeatureResponse, Reason};

/// One delivery, its outcome, the answers after it for the features `basic_reports`, `export`, `ai_assistant` and
/// `sso`, and the items held.
struct Step(&'static str, &'static str, [&'static str; 4], &'static str);

/// Delivers a story about one subject, and checks outcome, answers and items after each step.
async fn check_story(subject: &str, story: &[Step]) {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    for Step(name, result, answers, items) in story {
        let answer = replica.send(&payload(name)).await;
        assert_eq!(answer.result(), *result, "{name}: {answer:?}");
        let features = ["basic_reports", "export", "ai_assistant", "sso"];
        for (feature, expected) in features.into_iter().zip(answers) {
            let (user, org) =
                if subject.starts_with("org_") { ("", subject) } else { (subject, "") };
            let found = summary(&replica.check(user, org, feature).await);
            assert_eq!(found, *expected, "{feature} after {name}");
        }
        assert_eq!(held(&replica, subject).await, *items, "after {name}");
    }
    replica.stop().await.unwrap();
}

/// An answer in short: reason, plan, and end.
fn summary(answer: &CheckFeatureResponse) -> String {
    let reason = answer.reason().as_str_name().trim_start_matches("REASON_");
    let plan = Some(answer.plan.as_str()).filter(|plan| !plan.is_empty());
    let until = answer.valid_until.as_ref().map(|until| {
        let until = chrono::DateTime::from_timestamp(until.seconds, 0).unwrap();
        format!("until {}", until.format("%Y-%m"))
    });
    assert_eq!(answer.allowed, is_grant(answer.reason()), "{answer:?}");
    [Some(reason), plan, until.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn is_grant(reason: Reason) -> bool {
    (1..50).contains(&(reason as i32))
}

/// The items held: plan, status, seats.
async fn held(replica: &Replica, subject: &str) -> String {
    let account = replica.account(subject).await;
    let mut items: Vec<_> = account
        .items
        .iter()
        .map(|item| {
            let seats = item.seats.map(|seats| match seats.quantity {
                Some(n) => format!(" {n} seats"),
                None => " unlimited seats".into(),
            });
            let trial = if item.free_trial { " trial" } else { "" };
            format!("{} {}{trial}{}", item.plan, item.status, seats.unwrap_or_default())
        })
        .collect();
    items.sort();
    items.join(", ")
}

const NOTHING: &str = "NOT_IN_PLAN";
const FREE: [&str; 4] = ["PLAN free_user", NOTHING, NOTHING, NOTHING];
const DEFAULT: [&str; 4] = ["DEFAULT_PLAN free_user", NOTHING, NOTHING, NOTHING];
const PRO: [&str; 4] = ["PLAN pro", "PLAN pro", NOTHING, NOTHING];
const DUE: [&str; 4] = ["PAST_DUE_IN_GRACE pro", "PAST_DUE_IN_GRACE pro", NOTHING, NOTHING];
const CANCELED: [&str; 4] = [
    "CANCELED_BUT_PAID pro until 2100-02",
    "CANCELED_BUT_PAID pro until 2100-02",
    NOTHING,
    NOTHING,
];
const DELETED: [&str; 4] = ["SUBJECT_DELETED"; 4];

#[tokio::test]
async fn ada_subscribes_pays_late_cancels_and_leaves() {
    let incomplete = ["PLAN free_user", "CHECKOUT_INCOMPLETE pro", NOTHING, NOTHING];
    let unpaid = ["DEFAULT_PLAN free_user", "CHECKOUT_INCOMPLETE pro", NOTHING, NOTHING];
    let over = ["DEFAULT_PLAN free_user", "ENDED pro", NOTHING, NOTHING];
    let back = ["PLAN free_user", "ENDED pro", NOTHING, NOTHING];
    let story = [
        Step("subscription.created.free-user", "applied", FREE, "free_user active"),
        Step(
            "subscriptionItem.incomplete",
            "applied",
            incomplete,
            "free_user active, pro incomplete",
        ),
        Step(
            "paymentAttempt.created.checkout",
            "ignored",
            incomplete,
            "free_user active, pro incomplete",
        ),
        Step(
            "paymentAttempt.updated.paid",
            "ignored",
            incomplete,
            "free_user active, pro incomplete",
        ),
        Step(
            "subscriptionItem.ended.free-default",
            "applied",
            unpaid,
            "free_user ended, pro incomplete",
        ),
        Step("subscriptionItem.active", "applied", PRO, "free_user ended, pro active"),
        Step("subscription.updated.upgraded-to-pro", "applied", PRO, "free_user ended, pro active"),
        Step("subscription.active.user-pro", "applied", PRO, "free_user withdrawn, pro active"),
        Step("subscriptionItem.updated.renewed", "applied", PRO, "free_user withdrawn, pro active"),
        Step("subscription.updated.renewed", "applied", PRO, "free_user withdrawn, pro active"),
        Step("paymentAttempt.updated.failed", "ignored", PRO, "free_user withdrawn, pro active"),
        Step("subscriptionItem.pastDue", "applied", DUE, "free_user withdrawn, pro past_due"),
        Step("subscription.pastDue.user", "applied", DUE, "free_user withdrawn, pro past_due"),
        Step("subscription.active.recovered", "applied", PRO, "free_user withdrawn, pro active"),
        Step("subscriptionItem.canceled", "applied", CANCELED, "free_user withdrawn, pro canceled"),
        Step(
            "subscriptionItem.upcoming.free-default",
            "applied",
            CANCELED,
            "free_user upcoming, pro canceled",
        ),
        Step(
            "subscription.updated.item-canceled",
            "applied",
            CANCELED,
            "free_user upcoming, pro canceled",
        ),
        Step("subscriptionItem.ended", "applied", over, "free_user upcoming, pro ended"),
        Step("subscription.updated.back-to-free", "applied", back, "free_user active, pro ended"),
        Step("user.deleted", "applied", DELETED, ""),
        Step("subscriptionItem.active", "superseded", DELETED, ""),
    ];
    // The upcoming free item names a feature that the default plan grants already.
    check_story(ADA, &story).await;
}

#[tokio::test]
async fn a_canceled_subscription_grants_to_the_end_of_its_period() {
    let story = [
        Step("subscription.active.recovered", "applied", PRO, "pro active"),
        Step("subscription.updated.canceled", "applied", CANCELED, "pro canceled"),
    ];
    check_story(ADA, &story).await;
}

#[tokio::test]
async fn a_canceled_subscription_whose_period_is_over_grants_nothing() {
    let over = ["DEFAULT_PLAN free_user", "PERIOD_OVER pro", NOTHING, NOTHING];
    let story =
        [Step("subscription.updated.canceled-period-over", "applied", over, "pro canceled")];
    check_story(ADA, &story).await;
}

#[tokio::test]
async fn an_ended_subscription_grants_nothing_whatever_the_end_of_its_period() {
    let over = ["DEFAULT_PLAN free_user", "ENDED pro", NOTHING, NOTHING];
    let story = [
        Step("subscription.active.recovered", "applied", PRO, "pro active"),
        Step("subscriptionItem.ended.with-period-end", "applied", over, "pro ended"),
        Step("subscription.updated.ended", "applied", over, "pro ended"),
        Step("subscription.updated.canceled", "superseded", over, "pro ended"),
    ];
    check_story(ADA, &story).await;
}

#[tokio::test]
async fn grace_tries_extends_and_pays() {
    let trial = ["TRIAL pro until 2100-01", "TRIAL pro until 2100-01", NOTHING, NOTHING];
    let extended = ["TRIAL pro until 2100-02", "TRIAL pro until 2100-02", NOTHING, NOTHING];
    let story = [
        Step("subscriptionItem.active.free-trial", "applied", trial, "pro active trial"),
        Step("subscriptionItem.freeTrialEnding", "applied", trial, "pro active trial"),
        Step("subscriptionItem.updated.trial-extended", "applied", extended, "pro active trial"),
        Step("subscriptionItem.freeTrialEnding", "superseded", extended, "pro active trial"),
        Step("subscriptionItem.updated.trial-converted", "applied", PRO, "pro active"),
    ];
    check_story(GRACE, &story).await;
}

#[tokio::test]
async fn grace_cancels_her_trial_and_keeps_it_to_its_end() {
    let until = "CANCELED_BUT_PAID pro until 2100-01";
    let canceled = [until, until, NOTHING, NOTHING];
    let story = [
        Step(
            "subscriptionItem.active.free-trial",
            "applied",
            ["TRIAL pro until 2100-01", "TRIAL pro until 2100-01", NOTHING, NOTHING],
            "pro active trial",
        ),
        Step("subscriptionItem.canceled.free-trial", "applied", canceled, "pro canceled trial"),
    ];
    check_story(GRACE, &story).await;
}

#[tokio::test]
async fn linus_swaps_plans_and_thinks_again() {
    let max = ["PLAN max", "PLAN max", "PLAN max", NOTHING];
    let until = "CANCELED_BUT_PAID max until 2100-01";
    let leaving = [until, until, until, NOTHING];
    let ended = ["DEFAULT_PLAN free_user", "ENDED pro", NOTHING, NOTHING];
    let story = [
        Step("subscriptionItem.ended.plan-swap", "applied", ended, "pro ended"),
        Step("subscriptionItem.active.plan-swap", "applied", max, "max active, pro ended"),
        Step("subscription.updated.plan-swap", "applied", max, "max active, pro ended"),
        Step(
            "subscription.updated.downgrade-scheduled",
            "applied",
            leaving,
            "max canceled, pro upcoming, pro withdrawn",
        ),
        Step(
            "subscriptionItem.upcoming.downgrade",
            "applied",
            leaving,
            "max canceled, pro upcoming, pro withdrawn",
        ),
        Step(
            "subscriptionItem.abandoned",
            "applied",
            leaving,
            "max canceled, pro abandoned, pro withdrawn",
        ),
        Step(
            "subscription.updated.resubscribed",
            "applied",
            max,
            "max active, pro abandoned, pro withdrawn",
        ),
        Step(
            "subscriptionItem.updated.annual",
            "applied",
            max,
            "max active, pro abandoned, pro withdrawn",
        ),
        Step(
            "subscriptionItem.updated.discount",
            "applied",
            max,
            "max active, pro abandoned, pro withdrawn",
        ),
        Step(
            "subscriptionItem.ended.plan-swap",
            "superseded",
            max,
            "max active, pro abandoned, pro withdrawn",
        ),
    ];
    check_story(LINUS, &story).await;
}

#[tokio::test]
async fn acme_buys_seats_and_is_deleted() {
    let free = ["PLAN free_org", NOTHING, NOTHING, NOTHING];
    let team = ["PLAN team", "PLAN team", NOTHING, "PLAN team"];
    let due = "PAST_DUE_IN_GRACE team";
    // Both items are live until a snapshot withdraws the free one.
    let both = ["PLAN free_org", "PLAN team", NOTHING, "PLAN team"];
    let story = [
        Step("subscription.created.free-org", "applied", free, "free_org active"),
        Step(
            "subscriptionItem.active.org-seats",
            "applied",
            both,
            "free_org active, team active 5 seats",
        ),
        Step(
            "subscription.active.org-team",
            "applied",
            team,
            "free_org withdrawn, team active 5 seats",
        ),
        Step(
            "subscription.updated.seats-added",
            "applied",
            team,
            "free_org withdrawn, team active 12 seats",
        ),
        Step(
            "subscriptionItem.updated.seats-unlimited",
            "applied",
            team,
            "free_org withdrawn, team active unlimited seats",
        ),
        Step(
            "subscription.pastDue.org",
            "applied",
            [due, due, NOTHING, due],
            "free_org withdrawn, team past_due 12 seats",
        ),
        Step("organization.deleted", "applied", DELETED, ""),
        Step("subscription.active.org-team", "superseded", DELETED, ""),
    ];
    check_story(ACME, &story).await;
}

#[tokio::test]
async fn joan_has_a_payload_in_the_shape_of_clerks_sdk() {
    let story = [
        Step("organizationMembership.created", "ignored", DEFAULT, ""),
        Step("organizationMembership.updated", "ignored", DEFAULT, ""),
        Step("subscription.updated.sdk-shape", "applied", PRO, "pro active"),
        Step("subscriptionItem.active.sdk-shape", "applied", PRO, "pro active"),
        Step("organizationMembership.deleted", "ignored", PRO, "pro active"),
    ];
    check_story(JOAN, &story).await;
}

#[tokio::test]
async fn an_event_type_that_clerk_no_longer_sends_is_parsed_by_its_shape() {
    let incomplete = ["DEFAULT_PLAN free_user", "CHECKOUT_INCOMPLETE pro", NOTHING, NOTHING];
    let story = [Step("subscriptionItem.created.legacy", "applied", incomplete, "pro incomplete")];
    check_story(ADA, &story).await;
}
