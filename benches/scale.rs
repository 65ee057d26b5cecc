//! The cost of ten million subjects: start, checks, deliveries, catching up, pruning, sizes.
//!
//! `SUBJECTS=10000000 cargo bench --bench scale` uses its own Postgres in `target/scale`, which is kept: the next run
//! only adds missing subjects. Each result is printed when it is measured.

use chrono::Utc;
use clap::Parser;
use embedded_postgres::{Binaries, Embedded};
use entitlements::{
    api::pb::{CheckFeatureRequest, entitlements_client::EntitlementsClient},
    app::Service,
    clerk::SigningSecret,
    config::Settings,
    storage::{self, Store},
};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use std::{env, path::PathBuf, time::Instant};
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
/// The number of subjects that one statement inserts.
const BATCH: i64 = 500_000;
/// The number of checks and deliveries that are timed.
const SAMPLE: usize = 3_000;
/// The changes of an hour, at 200 per second.
const AWAY: i64 = 720_000;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let subjects = env::var("SUBJECTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/scale");
    std::fs::create_dir_all(&folder)?;
    let postgres = Embedded::persistent(&folder, &Binaries::from_env()?).await?;
    let url = postgres.url("entitlements");
    storage::migrate(&url.parse()?).await?;
    println!(
        "load average: {}",
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
    let mut db = PgConnection::connect(&url).await?;
    fill(&mut db, subjects).await?;
    sizes(&mut db).await?;
    serve(&url, subjects).await?;
    catch_up(&mut db, &url).await?;
    db.close().await?;
    postgres.stop().await
}

/// Inserts missing subjects with one item each, with the values of Clerk's payloads.
async fn fill(db: &mut PgConnection, subjects: i64) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut there: i64 =
        sqlx::query_scalar("select count(*) from entitlements.subject").fetch_one(&mut *db).await?;
    let found = there;
    sqlx::raw_sql("set synchronous_commit = off").execute(&mut *db).await?;
    while there < subjects {
        let make = "
            with made as (
                insert into entitlements.subject (id, revision)
                select 'user_2' || to_char(n, 'FM00000000000000000000000000'), 1
                from generate_series($1, $2) n on conflict do nothing returning id
            )
            insert into entitlements.item (subject, id, plan, plan_id, status, free_trial, period_start, period_end,
                has_seats, updated_at, sent_at, rank, svix_id)
            select id, 'csub_item_' || substr(id, 7), 'pro', 'cplan_3aTc6pQ8mXeWv1LrNs0YdHf5GkJ', 'active',
                false, now(), now() + interval '30 days', false, now(), now(), 1, 'msg_' || substr(id, 7)
            from made";
        sqlx::query(make)
            .bind(there)
            .bind((there + BATCH).min(subjects) - 1)
            .execute(&mut *db)
            .await?;
        there = (there + BATCH).min(subjects);
    }
    sqlx::raw_sql("set synchronous_commit = on; analyze").execute(&mut *db).await?;
    println!("{there} subjects, {} of them made in {:.1?}", there - found, began.elapsed());
    Ok(())
}

async fn sizes(db: &mut PgConnection) -> anyhow::Result<()> {
    let query = "
        select relname::text, pg_table_size(oid) / 1048576, pg_indexes_size(oid) / 1048576
        from pg_class where relnamespace = 'entitlements'::regnamespace and relkind = 'r' and
            relname in ('subject', 'item', 'delivery', 'change_log') order by 1";
    for (table, data, indexes) in
        sqlx::query_as::<_, (String, i64, i64)>(query).fetch_all(db).await?
    {
        println!("{table}: {data} MiB, indexes {indexes} MiB");
    }
    Ok(())
}

async fn serve(url: &str, subjects: i64) -> anyhow::Result<()> {
    let any = "127.0.0.1:0";
    let arguments = Arguments::parse_from([
        "scale",
        "--database-url",
        url,
        "--clerk-webhook-signing-secret",
        SECRET,
        "--api-listen",
        any,
        "--webhook-listen",
        any,
        "--operator-listen",
        any,
        "--catalog",
        concat!(env!("CARGO_MANIFEST_DIR"), "/catalog.example.toml"),
    ]);
    let began = Instant::now();
    let service = Service::start(arguments.settings.check()?).await?;
    let (bound, ready) = (service.bound(), service.ready());
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(service.run(async { drop(stopped.await) }));
    ready.await;
    println!("from start to fresh: {:.1?}", began.elapsed());
    let channel = Endpoint::from_shared(format!("http://{}", bound.api))?.connect().await?;
    let client = EntitlementsClient::new(channel);
    let users: Vec<String> = (0..SAMPLE).map(|n| nth(n, subjects)).collect();
    check(&client, &users, "cold check").await?;
    check(&client, &users, "warm check").await?;
    deliver(&format!("http://{}/webhooks/clerk", bound.webhook), &users).await?;
    let _ = stop.send(());
    running.await?
}

/// The id of the nth sample, spread over the table.
fn nth(n: usize, subjects: i64) -> String {
    let n = i64::try_from(n)
        .unwrap_or_default()
        .wrapping_mul(0x09E3_779B_97F4_A7C1)
        .rem_euclid(subjects);
    format!("user_2{n:026}")
}

async fn check(
    client: &EntitlementsClient<Channel>,
    users: &[String],
    what: &str,
) -> anyhow::Result<()> {
    let mut took = Vec::new();
    for user in users {
        let (user_id, feature) = (user.clone(), "export".to_owned());
        let request = CheckFeatureRequest { user_id, feature, ..Default::default() };
        let began = Instant::now();
        let answer = client.clone().check_feature(request).await?.into_inner();
        took.push(began.elapsed());
        anyhow::ensure!(answer.allowed, "{user}: {answer:?}");
    }
    print(what, took);
    Ok(())
}

async fn deliver(to: &str, users: &[String]) -> anyhow::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "it calls only this bench's own server")]
    let (http, secret) = (reqwest::Client::new(), SigningSecret::parse(&SECRET.to_owned().into())?);
    let mut took = Vec::new();
    for user in users {
        let (id, now) = (format!("msg_{}", uuid::Uuid::now_v7().simple()), Utc::now());
        let data = json!({
            "id": format!("csub_item_{}", &user[6..]), "status": "active", "plan": { "slug": "max" },
            "updated_at": now.timestamp_millis(), "payer": { "user_id": user },
        });
        let body = json!({ "type": "subscriptionItem.updated", "data": data }).to_string();
        let signature = secret.sign(&id, now.timestamp(), &body);
        let headers = [
            ("svix-id", id),
            ("svix-timestamp", now.timestamp().to_string()),
            ("svix-signature", signature),
        ];
        let mut request = http.post(to).body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let began = Instant::now();
        let answer = request.send().await?.error_for_status()?.text().await?;
        took.push(began.elapsed());
        anyhow::ensure!(answer.contains("applied"), "{answer}");
    }
    print("delivery", took);
    Ok(())
}

fn print(what: &str, mut took: Vec<std::time::Duration>) {
    took.sort_unstable();
    let at = |part: usize| took[took.len() * part / 100];
    println!("{what}: p50 {:.2?}, p99 {:.2?} of {}", at(50), at(99), took.len());
}

/// Measures catching up after an hour's absence, and the pruning a day later.
async fn catch_up(db: &mut PgConnection, url: &str) -> anyhow::Result<()> {
    let store = Store::new(url.parse()?);
    let here = store.log_end().await?.horizon;
    let log = format!(
        "do $$ begin for n in 1..{} loop
            insert into entitlements.change_log (subject, revision) select id, 9 from entitlements.subject limit 100; commit;
        end loop; end $$",
        AWAY / 100
    );
    sqlx::raw_sql("set synchronous_commit = off").execute(&mut *db).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(log)).execute(&mut *db).await?;
    let (began, mut after, mut rows) = (Instant::now(), here, 0);
    loop {
        let page = store.changes(after).await?;
        rows += page.rows.len();
        after = page.rows.last().map_or(after, |change: &storage::Change| change.at);
        if !page.more {
            break;
        }
    }
    println!("catching up with {rows} changes: {:.1?}", began.elapsed());
    sqlx::raw_sql("update entitlements.change_log set logged_at = logged_at - interval '2 days'")
        .execute(&mut *db)
        .await?;
    let (began, mut pruned) = (Instant::now(), 0);
    loop {
        match store.prune_changes().await? {
            0 => break,
            some => pruned += some,
        }
    }
    println!("pruning {pruned} changes: {:.1?}", began.elapsed());
    store.close().await;
    Ok(())
}
