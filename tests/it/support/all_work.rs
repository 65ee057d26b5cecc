//! Everything that the service does with its database.

use crate::{
    support::database::Db,
    support::fake_clerk::{Clerk, KEY},
    support::overrides,
    support::service::{ADA, Replica, config, payload},
    support::shell::Shell,
};
use entitlements::{
    api::pb::{self, Override},
    config::Config,
    storage::{Author, Compared, DeliveryFilter, Origin, Store},
};

/// Does all that `serve` and the commands do with a database, except migrating it, as the role in this URL.
pub async fn all_work(db: &Db, url: &str) {
    let database = url.parse().unwrap();
    let replica = Replica::start_with(Config { database, ..config(db) }).await;
    for name in [
        "subscriptionItem.active",
        "subscription.active.user-pro",
        "organizationMembership.created",
    ] {
        let id = format!("msg_{}", name.replace('.', "_"));
        let answer = replica.send_as(&id, &payload(name)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let again = replica.send_as(&id, &payload(name)).await;
        assert_eq!(again.result(), "duplicate", "{again:?}");
    }
    replica.send("not json").await;
    let extra = overrides::set_id(&replica, overrides::granted(ADA, "sso")).await;
    let longer = Override { replaces: extra, ..overrides::granted(ADA, "sso") };
    let extra = overrides::set_id(&replica, longer).await;
    overrides::end(&replica, &extra).await;
    overrides::set(&replica, overrides::granted(ADA, "sso")).await;
    overrides::all(&replica, ADA).await;
    assert!(replica.check(ADA, "", "export").await.allowed);
    replica.account(ADA).await;
    replica.caught_up().await;
    let replayed = replica.replay(pb::DeliveryFilter::default(), false).await;
    assert_eq!(replayed.len(), 4, "{replayed:?}");
    all_of_the_store(url).await;
    let deleted = replica.send(&payload("user.deleted")).await;
    assert_eq!(deleted.result(), "applied", "{deleted:?}");
    assert!(!replica.check(ADA, "", "export").await.allowed);
    replica.stop().await.unwrap();
    commands(url).await;
}

/// Calls the functions that a replica calls only at times.
async fn all_of_the_store(url: &str) {
    let store = Store::new(url.parse().unwrap());
    let (catalog, ada) = (store.catalog().await.unwrap().unwrap().catalog, ADA.parse().unwrap());
    store.request_reconciliation(&ada, "a test").await.unwrap();
    assert!(store.candidates(&catalog, 10).await.unwrap().contains(&ada));
    store.compared(&ada, Compared::Differs).await.unwrap();
    store.unknown_plans(&catalog).await.unwrap();
    store.claim_backfill(true).await.unwrap();
    store.backfilled().await.unwrap();
    store.subjects("", 10).await.unwrap();
    store.count_subjects().await.unwrap();
    store.instances().await.unwrap();
    let deliveries = store.deliveries(&DeliveryFilter::default(), None, 10).await.unwrap();
    assert_eq!(deliveries.len(), 4);
    store.catalog_history(10).await.unwrap();
    store.apply_catalog(Author::Operator(None), &catalog, Origin::service("again")).await.unwrap();
    store.inspect().await.unwrap();
    assert_eq!(store.missing_rights().await.unwrap(), [""; 0]);
    store.other_roles().await.unwrap();
    store.migrated().await.unwrap();
    store.database_stats().await.unwrap();
    store.prune_changes().await.unwrap();
    assert!(store.redact_bodies(chrono::Utc::now()).await.unwrap() > 0);
    store.close().await;
}

/// Runs the commands that write to the database. The fake Clerk still has the subscription of the deleted user.
async fn commands(url: &str) {
    let clerk = Clerk::start().await;
    clerk.has(ADA, &payload("subscription.active.user-pro"));
    let variables =
        [("DATABASE_URL", url), ("CLERK_SECRET_KEY", KEY), ("CLERK_API_URL", &clerk.url)];
    let shell = Shell::new(&variables);
    for command in [
        &["catalog", "pull"][..],
        &["catalog", "history"],
        &["reconcile", ADA, "--undelete"],
        &["reconcile"],
    ] {
        let (code, stdout, stderr) = shell.run(command).await;
        assert_eq!(code, 0, "{command:?}: {stdout}{stderr}");
    }
}
