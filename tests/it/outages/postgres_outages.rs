//! Outages of Postgres of all kinds, and recovery. Meanwhile cached accounts are answered with their staleness, others
//! fail at once, and nothing needs a restart afterwards.
//!
//! `cargo test --test it outages:: -- --nocapture` prints the duration of each phase.

use crate::{
    support::database::Db,
    support::process::{Postgres, signal},
    support::proxy::{Link, Proxy},
    support::service::{ADA, GRACE, Replica, config, eventually, payload},
};
use entitlements::{
    api::pb::{
        CheckFeatureRequest, CheckFeatureResponse, Freshness, ListEntitlementsRequest, Reason,
    },
    config::Config,
    domain::Catalog,
    storage::{self, Store},
};
use futures_util::future::join_all;
use prost_types::Duration as Span;
use rustix::process::Signal;
use sqlx::{Connection, PgConnection};
use std::time::{Duration, Instant};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// The example catalog, in which one feature is strict.
fn strict_catalog() -> (Catalog, String) {
    let text = include_str!("../../../catalog.example.toml");
    (Catalog::from_toml(&format!("strict = [\"api_access\"]\n{text}")).unwrap(), "strict".into())
}

async fn ask(
    replica: &Replica,
    user: &str,
    feature: &str,
    max_staleness: Option<i64>,
) -> Result<CheckFeatureResponse, Status> {
    let request = CheckFeatureRequest {
        user_id: user.into(),
        feature: feature.into(),
        max_staleness: max_staleness.map(|seconds| Span { seconds, nanos: 0 }),
        ..Default::default()
    };
    replica.client.clone().check_feature(request).await.map(tonic::Response::into_inner)
}

async fn is_serving(replica: &Replica, name: &str) -> bool {
    let mut health = HealthClient::new(replica.channel.clone());
    let request = HealthCheckRequest { service: name.into() };
    health.check(request).await.unwrap().into_inner().status == 1
}

async fn freshness(replica: &Replica) -> Result<Freshness, Status> {
    let request = ListEntitlementsRequest { user_id: ADA.into(), ..Default::default() };
    replica.client.clone().list_entitlements(request).await.map(|r| r.into_inner().freshness())
}

/// A replica behind a link that breaks, and another one that stays connected.
struct Scene {
    cut_off: Replica,
    connected: Option<Replica>,
}

impl Scene {
    async fn new(through: &str, connected: Option<&Db>) -> Self {
        let mut base = config(connected.unwrap_or(&Db::absent()));
        base.database = through.parse().unwrap();
        base.check_timeout = Duration::from_millis(240);
        base.catalog = Some(strict_catalog());
        base.migrate = true;
        let cut_off = Replica::start_with(base).await;
        cut_off.send(&payload("subscriptionItem.active")).await;
        cut_off.caught_up().await;
        assert!(cut_off.check(ADA, "", "export").await.allowed);
        let connected = match connected {
            Some(db) => {
                let config = Config { catalog: Some(strict_catalog()), ..config(db) };
                Some(Replica::launch(config).await)
            }
            None => None,
        };
        Self { cut_off, connected }
    }

    /// Checks the replica during the outage.
    async fn check_outage(&self, name: &str) {
        let (replica, began, mut slowest) = (&self.cut_off, Instant::now(), Duration::ZERO);
        // An account that is not cached, while the replica may not have noticed the outage.
        let asked_at = Instant::now();
        let unknown = ask(replica, GRACE, "export", None).await.unwrap_err();
        let refused_after = asked_at.elapsed();
        assert_eq!(unknown.code(), Code::Unavailable, "{unknown:?}");
        eventually("the answer says how old it may be", async || {
            let asked_at = Instant::now();
            let answer = ask(replica, ADA, "export", None).await.unwrap();
            slowest = slowest.max(asked_at.elapsed());
            assert!(answer.allowed, "{answer:?}");
            answer.stale_for.is_some()
        })
        .await;
        let noticed = began.elapsed();
        eventually("the state is stale", async || {
            freshness(replica).await.unwrap() == Freshness::Stale
        })
        .await;
        let strict = ask(replica, ADA, "api_access", None).await.unwrap();
        assert_eq!((strict.allowed, strict.reason()), (false, Reason::Stale));
        let unaccepted = ask(replica, ADA, "export", Some(1)).await.unwrap_err();
        assert_eq!(unaccepted.code(), Code::Unavailable);
        let unknown = ask(replica, GRACE, "export", None).await.unwrap_err();
        assert_eq!(unknown.code(), Code::Unavailable);
        let refused = replica.send(&payload("subscriptionItem.canceled")).await;
        assert_eq!(refused.status, 503, "{refused:?}");
        eventually("health reports the state", async || !is_serving(replica, "freshness").await)
            .await;
        assert!(is_serving(replica, "").await);
        assert!(
            replica.get("/metrics").await.1.contains("entitlements_freshness{state=\"stale\"} 1")
        );
        println!(
            "{name}: an unknown subject was refused after {refused_after:?}, a cached one answered within \
             {slowest:?}, the outage noticed after {noticed:?}"
        );
    }

    /// Checks the replica after the repair.
    async fn check_repair(&self, name: &str) {
        let (replica, began) = (&self.cut_off, Instant::now());
        eventually("the replica is fresh again", async || {
            matches!(freshness(replica).await, Ok(Freshness::Fresh))
        })
        .await;
        println!("{name}: fresh again {:?} after the repair", began.elapsed());
        if self.connected.is_some() {
            eventually("missed changes are processed", async || {
                let answer = ask(replica, ADA, "export", None).await;
                answer.is_ok_and(|answer| answer.reason() == Reason::CanceledButPaid)
            })
            .await;
        }
        eventually("health reports the state", async || is_serving(replica, "freshness").await)
            .await;
        // The pools have recovered: run more calls at once than there are connections.
        eventually("many unknown subjects at once are answered", async || {
            let checks = (0..20).map(|n| async move {
                let user = format!("user_{n}");
                ask(replica, &user, "export", None).await
            });
            join_all(checks).await.iter().all(Result::is_ok)
        })
        .await;
        let body = payload("subscriptionItem.active.free-trial");
        let sends = (0..20).map(|n| {
            let body = body.replace(GRACE, &format!("user_{n}"));
            async move { replica.send(&body).await }
        });
        for answer in join_all(sends).await {
            assert_eq!(answer.result(), "applied", "{answer:?}");
        }
    }
}

async fn check(link: Link) {
    let db = Db::new().await;
    let proxy = Proxy::before(&db.url).await;
    let scene = Scene::new(&proxy.url(db.name()), Some(&db)).await;
    proxy.set(link);
    scene.check_outage(&format!("{link:?}")).await;
    // Meanwhile a change arrives at the other replica.
    let connected = scene.connected.as_ref().unwrap();
    assert_eq!(connected.send(&payload("subscriptionItem.canceled")).await.result(), "applied");
    proxy.set(Link::Whole);
    scene.check_repair(&format!("{link:?}")).await;
}

#[tokio::test]
async fn connections_are_cut() {
    check(Link::Cut).await;
}

#[tokio::test]
async fn connections_are_reset() {
    check(Link::Reset).await;
}

#[tokio::test]
async fn connections_are_refused() {
    check(Link::Refused).await;
}

#[tokio::test]
async fn connections_lead_into_a_black_hole() {
    check(Link::BlackHole).await;
}

#[tokio::test]
async fn postgres_hangs() {
    let postgres = Postgres::start().await;
    let scene = Scene::new(&postgres.url(), None).await;
    let processes = postgres.processes().await;
    for pid in &processes {
        signal(*pid, Signal::STOP);
    }
    scene.check_outage("hung").await;
    for pid in &processes {
        signal(*pid, Signal::CONT);
    }
    scene.check_repair("hung").await;
    drop(scene);
    postgres.stop().await;
}

#[tokio::test]
async fn postgres_crashes() {
    let mut postgres = Postgres::start().await;
    let scene = Scene::new(&postgres.url(), None).await;
    postgres.restart(Signal::KILL).await;
    scene.check_repair("crashed").await;
    drop(scene);
    postgres.stop().await;
}

/// A recently used connection is reused without a ping, so it may be dead.
#[tokio::test]
async fn deliveries_survive_the_end_of_all_idle_sessions() {
    let db = Db::new().await;
    let replica = Replica::start(&db).await;
    let mut other = PgConnection::connect(&db.url).await.unwrap();
    let deliver = async |round: usize| {
        let about =
            |n| payload("subscriptionItem.active").replace(ADA, &format!("user_{round}{n}"));
        let bodies: Vec<_> = (0..20).map(about).collect();
        let answers = join_all(bodies.iter().map(|body| replica.send(body))).await;
        assert!(answers.iter().all(|answer| answer.result() == "applied"), "{answers:?}");
    };
    deliver(0).await;
    for round in 1..4 {
        let sessions = "select pid from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid()";
        let ended: Vec<i32> = sqlx::query_scalar(sessions).fetch_all(&mut other).await.unwrap();
        let end = "select pg_terminate_backend(pid) from unnest($1) pid";
        sqlx::query(end).bind(&ended).execute(&mut other).await.unwrap();
        assert!(ended.len() > 1, "the service had {} sessions", ended.len());
        let left = "select count(*) from pg_stat_activity where pid = any ($1)";
        eventually("the sessions are gone", async || {
            sqlx::query_scalar(left)
                .bind(&ended)
                .fetch_one(&mut other)
                .await
                .is_ok_and(|n: i64| n == 0)
        })
        .await;
        deliver(round).await;
    }
    replica.stop().await.unwrap();
}

/// The new primary has lost a cancellation that this replica has read, so the cancellation no longer counts.
#[tokio::test]
async fn after_a_failover_the_state_of_the_new_primary_counts() {
    let mut postgres = Postgres::start().await;
    let proxy = Proxy::before(&postgres.url()).await;
    let database = proxy.url("entitlements").parse().unwrap();
    let replica =
        Replica::start_with(Config { database, migrate: true, ..config(&Db::absent()) }).await;
    replica.send(&payload("subscriptionItem.active")).await;
    postgres.back_up().await;
    let end = async || replica.send(&payload("subscriptionItem.ended")).await.result() == "applied";
    eventually("the end is applied", end).await;
    assert!(!replica.check(ADA, "", "export").await.allowed);
    postgres.fail_over().await;
    eventually("the lost end no longer counts", async || {
        ask(&replica, ADA, "export", None).await.is_ok_and(|answer| answer.allowed)
    })
    .await;
    drop(replica);
    postgres.stop().await;
}

#[tokio::test]
async fn a_standby_is_not_served_from_until_it_is_promoted() {
    let mut postgres = Postgres::start().await;
    let database: sqlx::postgres::PgConnectOptions = postgres.url().parse().unwrap();
    storage::migrate(&database).await.unwrap();
    postgres.stand_by().await;
    let error = Store::new(database.clone()).log_end().await.unwrap_err();
    assert!(format!("{error:?}").contains("DATABASE_URL must lead to the primary"), "{error:?}");
    let catalog = None; // a standby cannot store one
    let replica = Replica::launch(Config { database, catalog, ..config(&Db::absent()) }).await;
    assert_eq!(ask(&replica, ADA, "export", None).await.unwrap_err().code(), Code::Unavailable);
    sqlx::query("select pg_promote()").execute(&mut postgres.db().await).await.unwrap();
    replica.serving().await;
    drop(replica);
    postgres.stop().await;
}
