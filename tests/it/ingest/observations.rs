//! The history of a subject: from its observations follows the account that is stored, and every earlier one.

use crate::{
    support::database::Db,
    support::oracle::{Message, State, expected_state},
    support::rng::Rng,
    support::service::{ADA, Replica, config, eventually, payload},
    support::stories::{Story, catalog, kind, send_all},
};
use chrono::{DateTime, Utc};
use entitlements::{
    domain::{Account, Catalog, Observation, Statement, Subject, SubjectHistory, entitlements},
    storage::Store,
};
use futures_util::future::join_all;
use serde_json::Value;
use std::collections::BTreeSet;

async fn history(store: &Store, subject: &Subject) -> SubjectHistory {
    store.records(std::slice::from_ref(subject), &[]).await.unwrap().histories.remove(0)
}

async fn observations(store: &Store, subject: &Subject) -> Vec<Observation> {
    history(store, subject).await.observations
}

fn derive(subject: &Subject, observations: &[Observation]) -> Account {
    Account::derive(subject.clone(), observations).unwrap()
}

/// The state of an account, in the oracle's format.
fn state(account: &Account, catalog: &Catalog, now: DateTime<Utc>) -> State {
    let plans = catalog.plan_set(account.subject.kind());
    let items = account.items.iter().map(|item| {
        let plan = plans.find(item.plan_id, item.plan).map(|(slug, _)| slug.as_str());
        let plan = plan.or(item.plan).unwrap_or_default().to_owned();
        (item.id.to_owned(), (plan, item.status.to_string()))
    });
    let features = entitlements(account, catalog, now).into_iter();
    State {
        deleted: account.deleted_at.is_some(),
        items: items.collect(),
        features: features.map(|found| found.feature.to_string()).collect(),
    }
}

/// Sends all deliveries to three replicas in random order, some of them twice.
async fn send_shuffled(db: &Db, stories: &[Story], rng: &mut Rng) {
    let replicas = join_all((0..3).map(|_| Replica::start(db))).await;
    let mut all: Vec<&Message> = stories.iter().flat_map(|story| &story.messages).collect();
    let repeated: Vec<_> = all.iter().copied().step_by(7).collect();
    all.extend(repeated);
    send_all(&replicas, &rng.shuffled(&all)).await;
}

#[tokio::test]
async fn every_account_that_was_ever_known_follows_from_the_observations() {
    let mut rng = Rng::new();
    let stories: Vec<_> = (0..150).map(|n| Story::new(n, &mut rng)).collect();
    let db = Db::new().await;
    send_shuffled(&db, &stories, &mut rng).await;

    let store = Store::new(db.url.parse().unwrap());
    let now = Utc::now();
    let written: Value = catalog();
    let catalog = store.catalog().await.unwrap().unwrap().catalog;
    for story in &stories {
        let subject: Subject = story.subject.parse().unwrap();
        let observations = observations(&store, &subject).await;
        let stored = store.account(&subject).await.unwrap();
        assert_eq!(derive(&subject, &observations), stored, "{:#?}", story.messages);

        for count in 0..=observations.len() {
            let earlier = &observations[..count];
            // The statements of one delivery become known together.
            if observations
                .get(count)
                .is_some_and(|next| earlier.last().is_some_and(|last| last.message == next.message))
            {
                continue;
            }
            let known: BTreeSet<_> = earlier.iter().map(|found| &*found.message).collect();
            let messages: Vec<_> =
                story.messages.iter().filter(|(id, _)| known.contains(&**id)).cloned().collect();
            let expected =
                expected_state(&messages, &written, kind(&story.subject), now.timestamp_millis());
            let found = state(&derive(&subject, earlier), &catalog, now);
            assert_eq!(found, expected, "{} after {known:?}", story.subject);
        }
    }
}

/// The same deliveries under other ids.
fn renamed(stories: &[Story]) -> Vec<Story> {
    let again = |(id, body): &Message| (format!("{id}_again"), body.clone());
    let story = |story: &Story| Story {
        subject: story.subject.clone(),
        messages: story.messages.iter().map(again).collect(),
    };
    stories.iter().map(story).collect()
}

#[tokio::test]
async fn old_observations_are_removed_and_every_later_account_still_follows() {
    let mut rng = Rng::new();
    let stories: Vec<_> = (0..60).map(|n| Story::new(n, &mut rng)).collect();
    let db = Db::new().await;
    send_shuffled(&db, &stories, &mut rng).await;
    let store = Store::new(db.url.parse().unwrap());
    let pool = db.pool().await;
    let mut undeleted = 0;
    for story in &stories {
        let subject: Subject = story.subject.parse().unwrap();
        if store.undelete(&subject).await.unwrap() {
            undeleted += 1;
        }
    }
    assert!(undeleted > 0, "no story has a deletion");
    send_shuffled(&db, &renamed(&stories), &mut rng).await;
    // Some of each subject's observations were recorded two days ago, the others now.
    let age = "
        update entitlements.observation set known_at = known_at - interval '2 days'
        where id <= (select pg_catalog.max(id) * 2 / 3 from entitlements.observation);
        update entitlements.subject set oldest_observed_at = oldest_observed_at - interval '2 days';
        update entitlements.history_retention set complete_from = complete_from - interval '2 days'";
    sqlx::raw_sql(age).execute(&pool).await.unwrap();
    let mut before = Vec::new();
    for story in &stories {
        let subject: Subject = story.subject.parse().unwrap();
        let observations = observations(&store, &subject).await;
        before.push((subject, observations));
    }

    let mut config = config(&db);
    config.retention.history = Some(chrono::Duration::days(1));
    config.retention.history_after_deletion = chrono::Duration::days(4_000);
    let _replica = Replica::start_with(config).await;
    let horizon = Utc::now() - chrono::Duration::days(1);
    eventually("old observations are removed", async || {
        let left =
            "select pg_catalog.count(*) from entitlements.subject where oldest_observed_at < $1";
        let left: i64 = sqlx::query_scalar(left).bind(horizon).fetch_one(&pool).await.unwrap();
        left == 0
    })
    .await;
    let complete_from = history(&store, &before[0].0).await.complete_from;
    assert!((complete_from - horizon).abs() < chrono::Duration::minutes(1), "{complete_from}");
    let mut removed = 0;
    for (subject, all) in &before {
        let kept = observations(&store, subject).await;
        removed += all.len() - kept.len();
        assert!(kept.iter().all(|kept| all.contains(kept)), "{subject}");
        let old = all.iter().filter(|old| old.known_at < horizon).count();
        for known in old..=all.len() {
            let later: Vec<_> =
                kept.iter().filter(|kept| all[..known].contains(kept)).cloned().collect();
            assert_eq!(derive(subject, &later), derive(subject, &all[..known]), "{subject}");
        }
    }
    assert!(removed > 50, "only {removed} were removed");
}

#[tokio::test]
async fn a_superseded_delivery_is_observed_once_and_a_replay_only_if_it_changes_something() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let store = Store::new(db.url.parse().unwrap());
    let ada: Subject = ADA.parse().unwrap();
    let messages = async || {
        let observations = observations(&store, &ada).await;
        let of = |found: &Observation| (found.message.to_string(), found.revision);
        observations.iter().map(of).collect::<Vec<_>>()
    };
    replica.send_as("msg_2", &payload("subscriptionItem.active")).await;
    let expected = [("msg_2".to_owned(), 1)];
    assert_eq!(messages().await, expected);
    let answer = replica.send_as("msg_1", &payload("subscriptionItem.active")).await;
    assert_eq!(answer.result(), "superseded");
    let expected = [("msg_2".to_owned(), 1), ("msg_1".to_owned(), 1)];
    assert_eq!(messages().await, expected, "a superseded delivery is observed");
    replica.send_as("msg_1", &payload("subscriptionItem.active")).await;
    replica.replay(entitlements::api::pb::DeliveryFilter::default(), false).await;
    assert_eq!(messages().await, expected, "neither a duplicate nor a replay states something new");
}

#[tokio::test]
async fn a_deletion_and_its_reversal_are_observed_and_old_histories_of_deleted_subjects_are_removed()
 {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let store = Store::new(db.url.parse().unwrap());
    let ada: Subject = ADA.parse().unwrap();
    let kinds = async || {
        let observations = observations(&store, &ada).await;
        let kind = |found: &Observation| match found.statement {
            Statement::Item(_) => "item",
            Statement::Snapshot(_) => "snapshot",
            Statement::Deleted(_) => "deletion",
            Statement::Undeleted => "undeletion",
        };
        observations.iter().map(kind).collect::<Vec<_>>()
    };
    replica.send(&payload("subscriptionItem.active")).await;
    replica.send(&payload("user.deleted")).await;
    replica.send(&payload("subscription.active.user-pro")).await;
    assert_eq!(kinds().await, ["item", "deletion"], "a deleted subject is not observed");
    assert!(store.undelete(&ada).await.unwrap());
    replica.send(&payload("subscriptionItem.active")).await;
    assert_eq!(kinds().await, ["item", "deletion", "undeletion", "item"]);
    let stored = store.account(&ada).await.unwrap();
    assert_eq!(derive(&ada, &observations(&store, &ada).await), stored);

    let mut again: Value = serde_json::from_str(&payload("user.deleted")).unwrap();
    again["timestamp"] = Utc::now().timestamp_millis().into();
    replica.send(&again.to_string()).await;
    assert_eq!(kinds().await.last(), Some(&"deletion"));
    let mut config = config(&db);
    config.retention.history_after_deletion = chrono::Duration::zero();
    let _other = Replica::start_with(config).await;
    eventually("the history is removed", async || {
        kinds().await.iter().all(|kind| *kind == "deletion")
    })
    .await;
    let stored = store.account(&ada).await.unwrap();
    assert!(stored.deleted_at.is_some(), "the deletion stays");
    assert_eq!(derive(&ada, &observations(&store, &ada).await), stored);
}
