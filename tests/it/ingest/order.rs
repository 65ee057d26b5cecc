//! Deliveries in any order, any number of times, through two replicas at once, produce the same accounts.

use crate::{
    support::database::Db,
    support::rng::Rng,
    support::service::{ACME, ADA, Answer, GRACE, JOAN, LINUS, Replica, payload},
};
use entitlements::api::pb::Account;
use futures_util::future::join_all;

/// All payloads of a story about one subject, in the order of Clerk's clock.
const STORIES: [(&str, &[&str]); 6] = [
    (
        ADA,
        &[
            "subscription.created.free-user",
            "subscriptionItem.created.legacy",
            "subscriptionItem.incomplete",
            "subscriptionItem.ended.free-default",
            "subscriptionItem.active",
            "subscription.updated.upgraded-to-pro",
            "subscription.active.user-pro",
            "subscriptionItem.updated.renewed",
            "subscription.updated.renewed",
            "subscriptionItem.pastDue",
            "subscription.pastDue.user",
            "subscription.active.recovered",
            "subscriptionItem.canceled",
            "subscriptionItem.upcoming.free-default",
            "subscription.updated.item-canceled",
            "subscriptionItem.ended",
            "subscription.updated.back-to-free",
        ],
    ),
    (
        GRACE,
        &[
            "subscriptionItem.active.free-trial",
            "subscriptionItem.freeTrialEnding",
            "subscriptionItem.updated.trial-extended",
            "subscriptionItem.updated.trial-converted",
        ],
    ),
    (
        LINUS,
        &[
            "subscriptionItem.ended.plan-swap",
            "subscriptionItem.active.plan-swap",
            "subscription.updated.plan-swap",
            "subscription.updated.downgrade-scheduled",
            "subscriptionItem.upcoming.downgrade",
            "subscriptionItem.abandoned",
            "subscription.updated.resubscribed",
            "subscriptionItem.updated.annual",
            "subscriptionItem.updated.discount",
        ],
    ),
    (
        ACME,
        &[
            "subscription.created.free-org",
            "subscriptionItem.active.org-seats",
            "subscription.active.org-team",
            "subscription.updated.seats-added",
            "subscriptionItem.updated.seats-unlimited",
            "subscription.pastDue.org",
        ],
    ),
    (JOAN, &["subscription.updated.sdk-shape", "subscriptionItem.active.sdk-shape"]),
    // Deliveries that change no account:
    (
        ADA,
        &[
            "paymentAttempt.created.checkout",
            "paymentAttempt.updated.failed",
            "paymentAttempt.updated.paid",
            "organizationMembership.created",
            "organizationMembership.deleted",
            "organizationMembership.updated",
        ],
    ),
];

const SUBJECTS: [&str; 5] = [ADA, GRACE, LINUS, ACME, JOAN];

async fn accounts(replica: &Replica) -> Vec<Account> {
    join_all(SUBJECTS.map(|subject| replica.account(subject))).await
}

/// Delivers under an id that is derived from the payload, so that repetitions are retries as Svix sends them.
async fn deliver(replica: &Replica, name: &str) -> Answer {
    let id = format!("msg_{}", name.replace('.', "_"));
    let answer = replica.send_until_answered(&id, &payload(name)).await;
    assert_eq!(answer.status, 200, "{name}: {answer:?}");
    answer
}

#[tokio::test]
async fn shuffled_and_repeated_stories_end_in_the_same_accounts() {
    let in_order = {
        let db = Db::new().await;
        let replica = Replica::start(&db).await;
        for name in STORIES.iter().flat_map(|(_, names)| *names) {
            deliver(&replica, name).await;
        }
        accounts(&replica).await
    };
    let names: Vec<_> = STORIES.iter().flat_map(|(_, names)| *names).collect();
    let mut rng = Rng::new();
    for round in 0..12 {
        let db = Db::new().await;
        let (one, other) = tokio::join!(Replica::start(&db), Replica::start(&db));
        let order = rng.shuffled(&names);
        let sent = order.iter().enumerate().map(|(i, name)| {
            let replica = if i % 2 == 0 { &one } else { &other };
            deliver(replica, name)
        });
        if round % 2 == 0 {
            join_all(sent).await;
        } else {
            for delivery in sent {
                delivery.await;
            }
        }
        for replica in [&one, &other] {
            crate::support::service::eventually(
                &format!("the same accounts after {order:?}"),
                async || accounts(replica).await == in_order,
            )
            .await;
        }
    }
}

#[tokio::test]
async fn an_event_after_a_deletion_changes_nothing_in_any_order() {
    let mut rng = Rng::new();
    for (subject, deletion, story) in
        [(ADA, "user.deleted", STORIES[0].1), (ACME, "organization.deleted", STORIES[3].1)]
    {
        let mut names = story.to_vec();
        names.push(deletion);
        for _ in 0..4 {
            let db = Db::new().await;
            let replica = Replica::start(&db).await;
            for name in rng.shuffled(&names) {
                deliver(&replica, name).await;
            }
            let account = replica.account(subject).await;
            assert!(account.deleted_at.is_some(), "{account:?}");
            assert_eq!((account.items.len(), account.entitlements.len()), (0, 0), "{account:?}");
        }
    }
}

#[tokio::test]
async fn a_delivery_sent_many_times_at_once_is_applied_once() {
    let db = Db::new().await;
    let (one, other) = tokio::join!(Replica::start(&db), Replica::start(&db));
    let sent = (0..50).map(|i| {
        let replica = if i % 2 == 0 { &one } else { &other };
        deliver(replica, "subscriptionItem.active")
    });
    let answers = join_all(sent).await;
    let count = |result| answers.iter().filter(|answer| answer.result() == result).count();
    assert_eq!((count("applied"), count("duplicate")), (1, 49));
    assert_eq!(one.account(ADA).await.items.len(), 1);
}
