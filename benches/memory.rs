//! The cost of a million subjects for a replica: bytes in the cache, and the time of a start.
//!
//! `cargo bench --bench memory` needs two cores. `SUBJECTS=10000` sets the number of subjects (default a million),
//! `STARTS=9` the number of starts (default 5), `SAMPLE=5000` the number of accounts that are measured alone (default
//! 20,000).

mod support;

use allocation_counter::measure;
use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use entitlements::{
    domain::{Account, Seats, Status, Subject},
    storage::Store,
};
use sqlx::{Connection, PgConnection, Row, postgres::PgRow};
use std::{sync::Arc, thread, time::Instant};
use support::{
    LOAD, SERVER, Server,
    database::{self, Database, HOLDS_ALL, question, user},
    drive::{self, Plan, Subjects, as_f64},
    framed, head, median, number, title,
};
use tokio::runtime::Builder;

fn main() -> anyhow::Result<()> {
    support::run(async || {
        let database = Database::start("bench").await?;
        database.pin(LOAD)?;
        let url = database.url();
        // Only allocations of this thread are counted, so the runtime has no other thread.
        let measured = thread::spawn(move || cache_memory(&url)).join();
        let (ours, plain) = measured.ok().context("measuring failed")??;
        accounts(&database, ours, plain).await?;
        starts(&database).await?;
        database.stop().await
    })
}

/// An account in plain structs with owned strings.
#[expect(dead_code, reason = "only weighed")]
struct Plain {
    subject: String,
    revision: i64,
    deleted_at: Option<DateTime<Utc>>,
    items: Vec<PlainItem>,
    overrides: Vec<PlainOverride>,
}

#[expect(dead_code, reason = "only weighed")]
struct PlainItem {
    id: String,
    plan: Option<String>,
    status: Status,
    free_trial: bool,
    period_start: Option<DateTime<Utc>>,
    period_end: Option<DateTime<Utc>>,
    canceled_at: Option<DateTime<Utc>>,
    past_due_at: Option<DateTime<Utc>>,
    seats: Option<Seats>,
    updated_at: DateTime<Utc>,
}

#[expect(dead_code, reason = "only weighed")]
struct PlainOverride {
    feature: String,
    granted: bool,
    limit: Option<u64>,
    until: Option<DateTime<Utc>>,
}

/// The bytes of a cached account, and of a plain one.
fn cache_memory(url: &str) -> anyhow::Result<(f64, f64)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter(); // pools must be created in a runtime
    let (store, sample) = (Store::new(url.parse()?), number("SAMPLE", 20_000));
    let mut db = runtime.block_on(PgConnection::connect(url))?;
    let mut ours: Vec<Arc<Account>> = Vec::with_capacity(usize::try_from(sample)? + 1);
    let mut plain: Vec<Arc<Plain>> = Vec::with_capacity(usize::try_from(sample)? + 1);
    let mut load = |n| {
        let subject: Subject = user(n).parse().expect("a user's id");
        ours.push(Arc::new(runtime.block_on(store.account(&subject)).expect("an account")));
    };
    load(0); // creates buffers and sessions
    let kept = measure(|| (0..sample).for_each(&mut load)).bytes_current;
    let mut load = |n| plain.push(Arc::new(runtime.block_on(read(&mut db, n)).expect("a row")));
    load(0);
    let plainly = measure(|| (0..sample).for_each(&mut load)).bytes_current;
    ensure!(
        ours.iter().all(|account| account.items.iter().count() == 2),
        "an account has not two items"
    );
    ensure!(plain.iter().all(|account| account.items.len() == 2), "an account has not two items");
    let each = |bytes: i64| as_f64(u64::try_from(bytes).unwrap_or_default()) / as_f64(sample);
    Ok((each(kept), each(plainly)))
}

async fn read(db: &mut PgConnection, n: u64) -> sqlx::Result<Plain> {
    let query = "select s.revision, s.deleted_at, i.* from entitlements.subject s
        join entitlements.item i on i.subject = s.id where s.id = $1";
    let rows = sqlx::query(query).bind(user(n)).fetch_all(db).await?;
    let mut items: Vec<PlainItem> = rows.iter().map(item).collect::<Result<_, _>>()?;
    items.shrink_to_fit();
    Ok(Plain {
        subject: rows[0].try_get("subject")?,
        revision: rows[0].try_get("revision")?,
        deleted_at: rows[0].try_get("deleted_at")?,
        items,
        overrides: Vec::new(),
    })
}

fn item(row: &PgRow) -> sqlx::Result<PlainItem> {
    let seats = row.try_get::<Option<i64>, _>("seats")?.and_then(|n| u64::try_from(n).ok());
    let status: String = row.try_get("status")?;
    Ok(PlainItem {
        id: row.try_get("id")?,
        plan: row.try_get("plan")?,
        status: Status::from(&*status),
        free_trial: row.try_get("free_trial")?,
        period_start: row.try_get("period_start")?,
        period_end: row.try_get("period_end")?,
        canceled_at: row.try_get("canceled_at")?,
        past_due_at: row.try_get("past_due_at")?,
        seats: row.try_get::<bool, _>("has_seats")?.then_some(Seats(seats)),
        updated_at: row.try_get("updated_at")?,
    })
}

/// Fills the cache of a real process, and measures its growth.
async fn accounts(database: &Database, ours: f64, plain: f64) -> anyhow::Result<()> {
    let count = database.subjects;
    title(&format!("{count} cached accounts of two items"));
    let server = Server::ours(SERVER, &database.url(), &HOLDS_ALL).await?;
    server.check(&question(0), "pro").await?;
    let body = framed(&question(0));
    let load = Plan {
        address: server.grpc.clone(),
        key: server.key.clone(),
        path: "/entitlements.v1.Entitlements/CheckFeature".into(),
        connections: 8,
        streams: 4,
        seconds: 3600.0,
        subjects: Subjects { at: database::place(&body)?, count, once: true },
        body,
        right: [0x08, 1].into(), // the response is allowed
        rate: None,
        spins: false,
    };
    let before = server.memory()?;
    let filled = drive::run(&load)?;
    ensure!(filled.answered == count, "{} of {count} could be read", filled.answered);
    let entry = (server.memory()? - before) / as_f64(count);
    head(&["", "bytes each", "ratio"]);
    println!("| the facts in plain structs with owned strings | {plain:.0} | 1.00 |");
    println!("| an account | {ours:.0} | {:.2} |", ours / plain);
    println!("| what the process grows by | {entry:.0} | {:.2} |", entry / plain);
    println!("| of that, not the account itself | {:.0} | |", entry - ours);
    println!("\nFilled in {:.0} s, {:.0} accounts a second.", filled.seconds, filled.rate());
    Ok(())
}

/// The time from the start of the process until it answers and has caught up with all changes.
async fn starts(database: &Database) -> anyhow::Result<()> {
    let mut took = Vec::new();
    title(&format!("The start of `serve` on a database of {} subjects", database.subjects));
    for _ in 0..number("STARTS", 5) {
        let began = Instant::now();
        let server = Server::ours(SERVER, &database.url(), &[]).await?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
        server.check(&question(0), "pro").await?;
    }
    let all: Vec<_> = took.iter().map(|ms| format!("{ms:.0}")).collect();
    head(&["median of the starts", "all"]);
    println!("| {:.0} ms | {} |", median(&took, |ms| *ms).value, all.join(", "));
    Ok(())
}
